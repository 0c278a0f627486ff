//! `ResourceQuota`s on names that pods no longer carry after admission: they limit nobody.

use serde_json::Value;

use super::Finding;
use crate::kube_api::names::{GPU_CORES, GPU_MEMORY};

const CHECK: &str = "quotas";

/// What counts instead of a name that the webhook takes away, or that only another system knows. `prefix`: of the GPU resources.
fn instead(name: &str, prefix: &str) -> Option<&'static str> {
    let (group, rest) = name.split_once('/')?;
    match (group, rest) {
        (group, "gpumem" | "gpumem-percentage") if group == prefix => Some(GPU_MEMORY),
        (group, "gpucores") if group == prefix => Some(GPU_CORES),
        ("aliyun.com", "gpu-mem") | ("volcano.sh", "vgpu-memory" | "gpu-memory") => Some(GPU_MEMORY),
        ("volcano.sh", "vgpu-cores") => Some(GPU_CORES),
        _ => None,
    }
}

/// Judges all quotas of the cluster.
pub fn judge(quotas: &[Value], prefix: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for quota in quotas {
        let meta = &quota["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let whose = format!("ResourceQuota {}/{}", text(&meta["namespace"]), text(&meta["name"]));
        for (key, amount) in quota["spec"]["hard"].as_object().into_iter().flatten() {
            let name = key.strip_prefix("requests.").or_else(|| key.strip_prefix("limits.")).unwrap_or(key);
            let Some(instead) = instead(name, prefix) else { continue };
            findings.push(Finding::wrong(
                CHECK,
                format!("{whose} limits {key} to {}, which no pod carries after admission", text(amount)),
                format!("limit requests.{instead} instead: {}", unit(instead)),
            ));
        }
    }
    if findings.is_empty() {
        let found = match quotas.len() {
            0 => "there are none".to_owned(),
            many => format!("{many}, none of them on a name that is not counted"),
        };
        findings.push(Finding::ok(CHECK, found));
    }
    findings
}

fn unit(name: &str) -> &'static str {
    if name == GPU_MEMORY { "MiB, GPUs times memory each" } else { "percent, GPUs times cores each" }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Level;
    use super::*;

    #[test]
    fn a_quota_that_limits_nobody_is_named_with_the_one_that_would() {
        for (name, instead) in [
            ("requests.nvidia.com/gpumem", Some("requests.packhorse.dev/gpu-memory")),
            ("limits.nvidia.com/gpumem-percentage", Some("requests.packhorse.dev/gpu-memory")),
            ("limits.nvidia.com/gpucores", Some("requests.packhorse.dev/gpu-cores")),
            ("requests.aliyun.com/gpu-mem", Some("requests.packhorse.dev/gpu-memory")),
            ("requests.nvidia.com/gpu", None),
            ("requests.nvidia.com/mig-1g.10gb", None),
            ("requests.packhorse.dev/gpu-memory", None),
            ("requests.memory", None),
        ] {
            let quota = json!({"metadata": {"namespace": "ml", "name": "q"}, "spec": {"hard": {name: "4k"}}});
            let found = &judge(&[quota], "nvidia.com")[0];
            match instead {
                Some(instead) => {
                    assert_eq!(found.level, Level::Wrong, "{name}");
                    assert!(found.found.contains(name) && found.found.contains("ml/q"), "{found:?}");
                    assert!(found.remedy.as_ref().is_some_and(|remedy| remedy.contains(instead)), "{found:?}");
                }
                None => assert_eq!(found.level, Level::Ok, "{name}"),
            }
        }
    }

    #[test]
    fn another_prefix_has_other_names() {
        let quota = json!({"spec": {"hard": {"requests.nvidia.com/gpumem": "1", "requests.example.com/gpumem": "1"}}});
        let found = judge(&[quota], "example.com");
        assert_eq!(found.len(), 1);
        assert!(found[0].found.contains("example.com/gpumem"), "{found:?}");
    }
}
