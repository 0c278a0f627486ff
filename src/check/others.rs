//! Other GPU plugins: who else hands out GPUs, and on which nodes. On a node that Packhorse serves two would give out one card twice.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Finding;
use crate::kube_api::names::{CORDON, INVENTORY};

const CHECK: &str = "other GPU plugins";

/// By what a plugin is known: part of an image's name. Of each system the part that talks to the kubelet.
const IMAGES: [(&str, &str); 6] = [
    ("k8s-device-plugin", "NVIDIA's device plugin"),
    ("gcp-compute-persistent-disk-nvidia-gpu-device-plugin", "GKE's device plugin"),
    ("nvidia-gpu-device-plugin", "GKE's device plugin"),
    ("projecthami/hami", "HAMi"),
    ("volcano-vgpu-device-plugin", "Volcano's device plugin"),
    ("gpushare-device-plugin", "gpushare"),
];
/// By names of workloads, where an image comes from a registry with other names.
const NAMES: [(&str, &str); 5] = [
    ("nvidia-device-plugin", "NVIDIA's device plugin"),
    ("hami-device-plugin", "HAMi"),
    ("volcano-device-plugin", "Volcano's device plugin"),
    ("gpushare-device-plugin", "gpushare"),
    ("nvidia-gpu-device-plugin", "GKE's device plugin"),
];
/// Node annotations that another system leaves.
const HAMI_NODE: &str = "hami.io/node-nvidia-register";
const HAMI_CORDON: &str = "hami.io/device-cordon";

/// Which other plugin a pod is.
pub fn plugin(pod: &Value) -> Option<&'static str> {
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let containers = pod["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let known = |table: &'static [(&'static str, &'static str)], text: &str| {
        table.iter().find(|(part, _)| text.contains(part)).map(|(_, name)| *name)
    };
    // HAMi's scheduler and monitor have its image too; only a DaemonSet is on every GPU node.
    let owner = pod["metadata"]["ownerReferences"].as_array().and_then(|owners| owners.first());
    let owner = owner.filter(|owner| owner["kind"] == "DaemonSet")?;
    let image = |container: &Value| known(&IMAGES, container["image"].as_str().unwrap_or_default());
    containers.iter().find_map(image).or_else(|| known(&NAMES, owner["name"].as_str().unwrap_or_default()))
}

/// Judges nodes and pods.
pub fn judge(nodes: &[Value], pods: &[Value]) -> Vec<Finding> {
    let mut on: BTreeMap<&str, BTreeMap<&'static str, String>> = BTreeMap::new();
    for pod in pods {
        if let (Some(plugin), Some(node)) = (plugin(pod), pod["spec"]["nodeName"].as_str()) {
            let meta = &pod["metadata"];
            let name = format!(
                "{}/{}",
                meta["namespace"].as_str().unwrap_or_default(),
                meta["name"].as_str().unwrap_or_default()
            );
            on.entry(node).or_default().insert(plugin, name);
        }
    }
    let mut findings = Vec::new();
    let mut elsewhere: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for node in nodes {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let annotation = |key: &str| node["metadata"]["annotations"].get(key).is_some();
        let ours = annotation(INVENTORY);
        for (plugin, pod) in on.get(name).into_iter().flatten() {
            if ours {
                findings.push(Finding::wrong(
                    CHECK,
                    format!("node {name} also runs {plugin} ({pod}): both hand out its GPUs"),
                    "keep the other away by the label nvidia.com/gpu.deploy.device-plugin=false (NVIDIA's GPU operator) or its \
                     DaemonSet's nodeSelector; or keep Packhorse's agent away by agent.nodeSelector, then packhorse cleanup --node",
                ));
            } else {
                elsewhere.entry(*plugin).or_default().insert(name);
            }
        }
        if let Some(cordoned) = node["metadata"]["annotations"][HAMI_CORDON].as_str().filter(|_| ours) {
            findings.push(Finding::wrong(
                CHECK,
                format!(
                    "node {name} has {HAMI_CORDON}: {cordoned}, which Packhorse does not read: these GPUs are given out"
                ),
                format!("kubectl annotate node {name} {CORDON}={cordoned} {HAMI_CORDON}-"),
            ));
        }
        if ours && annotation(HAMI_NODE) && !on.get(name).is_some_and(|plugins| plugins.contains_key("HAMi")) {
            findings.push(Finding::note(
                CHECK,
                format!("node {name} still has HAMi's annotation {HAMI_NODE}"),
                "HAMi's scheduler would still place pods there: remove it with hami.io/node-handshake once HAMi is gone",
            ));
        }
    }
    for (plugin, nodes) in elsewhere {
        let list: Vec<&str> = nodes.iter().copied().collect();
        findings.push(Finding::note(
            CHECK,
            format!("{plugin} serves {}", list.join(", ")),
            "pods for these nodes must not pass Packhorse: install it with webhook.optIn, or move the nodes over",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "none"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Level;
    use super::*;

    fn daemon(image: &str, owner: &str, node: &str) -> Value {
        json!({
            "metadata": {"namespace": "kube-system", "name": "p", "ownerReferences": [{"kind": "DaemonSet", "name": owner}]},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": image}]},
        })
    }

    fn node(name: &str, annotations: &Value) -> Value {
        json!({"metadata": {"name": name, "annotations": annotations}})
    }

    #[test]
    fn plugins_are_known_by_image_or_name_as_daemon_sets_only() {
        for (image, owner, expected) in [
            ("nvcr.io/nvidia/k8s-device-plugin:v0.20.0", "x", Some("NVIDIA's device plugin")),
            ("mirror.example/gpu/plugin:1", "nvidia-device-plugin-daemonset", Some("NVIDIA's device plugin")),
            ("docker.io/projecthami/hami:v2.10.0", "hami-device-plugin", Some("HAMi")),
            ("volcanosh/volcano-vgpu-device-plugin:v1.10.0", "x", Some("Volcano's device plugin")),
            ("registry.example/app:1", "fluentd", None),
        ] {
            assert_eq!(plugin(&daemon(image, owner, "n")), expected, "{image} {owner}");
        }
        let mut scheduler = daemon("docker.io/projecthami/hami:v2.10.0", "hami-scheduler", "n");
        scheduler["metadata"]["ownerReferences"][0]["kind"] = json!("ReplicaSet");
        assert_eq!(plugin(&scheduler), None);
    }

    #[test]
    fn two_plugins_on_one_node_are_wrong_and_one_elsewhere_is_worth_a_note() {
        let nodes = [node("ours", &json!({"packhorse.dev/inventory": "{}"})), node("theirs", &json!({}))];
        let both =
            [daemon("nvidia/k8s-device-plugin:1", "x", "ours"), daemon("nvidia/k8s-device-plugin:1", "x", "theirs")];
        let found = judge(&nodes, &both);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].level == Level::Wrong && found[0].found.contains("node ours"), "{found:?}");
        assert!(found[1].level == Level::Note && found[1].found.ends_with("serves theirs"), "{found:?}");
        assert_eq!(judge(&nodes, &[]), [Finding::ok(CHECK, "none")]);
        let left = [node("ours", &json!({"packhorse.dev/inventory": "{}", "hami.io/node-nvidia-register": "[]"}))];
        assert_eq!(judge(&left, &[])[0].level, Level::Note);
        // GPUs that somebody took out of use are in use again: that has to be said.
        let cordon = json!({"packhorse.dev/inventory": "{}", "hami.io/device-cordon": "GPU-a,GPU-b"});
        let found = &judge(&[node("ours", &cordon)], &[])[0];
        let remedy = "kubectl annotate node ours packhorse.dev/cordon=GPU-a,GPU-b hami.io/device-cordon-";
        assert_eq!((found.level, found.remedy.as_deref()), (Level::Wrong, Some(remedy)), "{found:?}");
        let theirs = json!({"hami.io/device-cordon": "GPU-a"});
        assert_eq!(judge(&[node("theirs", &theirs)], &[]), [Finding::ok(CHECK, "none")]);
    }
}
