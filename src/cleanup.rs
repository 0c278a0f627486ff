//! What Packhorse has left on a node, and the writes that take it away: annotations, totals, labels, start-up taint; on the node itself
//! CDI specifications, sockets and the agent's state ([`files`]). Pure but for [`files`]; `cli::cleanup` makes the writes. Nothing of
//! another's is touched: labels go by server-side apply as the agent's own manager, which gives up what it alone owns.

pub mod files;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::agent::publish::{LABELS_MANAGER, MANAGER, OPERATOR_MANAGER};
use crate::kube_api::names::{ALLOCATION, GPU_CORES, GPU_MEMORY, NOT_READY_TAINT, PREFIX};

/// One write to a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What goes, in words.
    pub what: String,
    /// How.
    pub write: Write,
}

/// How a node is written.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// A merge patch of the node.
    Merge(Value),
    /// A merge patch of its status.
    Status(Value),
    /// Server-side apply as this manager of labels.
    Apply(&'static str, Value),
    /// A JSON patch of the node.
    Json(Value),
}

impl Write {
    /// The field manager that gives up what goes; `None`: nobody in particular. The list of taints is one field, whose next owner is
    /// whoever changes it: Packhorse must not be.
    pub fn manager(&self) -> Option<&'static str> {
        match self {
            Self::Apply(manager, _) => Some(manager),
            Self::Merge(_) | Self::Status(_) => Some(MANAGER),
            Self::Json(_) => None,
        }
    }
}

/// What takes every trace off a node, in an order that takes no new pod in between: the inventory goes first.
pub fn steps(node: &Value) -> Vec<Step> {
    let mut steps = Vec::new();
    let ours = |object: &Value| -> Vec<String> {
        let keys = object.as_object().into_iter().flatten().map(|(key, _)| key);
        keys.filter(|key| key.starts_with(PREFIX)).cloned().collect()
    };
    let mut annotations = ours(&node["metadata"]["annotations"]);
    annotations.sort();
    if !annotations.is_empty() {
        let gone: Map<String, Value> = annotations.iter().map(|key| (key.clone(), Value::Null)).collect();
        let write = Write::Merge(json!({"metadata": {"annotations": gone}}));
        steps.push(Step { what: format!("annotations {}", annotations.join(", ")), write });
    }
    let mut status = Map::new();
    for list in ["allocatable", "capacity"] {
        let there = [GPU_MEMORY, GPU_CORES].into_iter().filter(|name| !node["status"][list][*name].is_null());
        let gone: Map<String, Value> = there.map(|name| (name.to_owned(), Value::Null)).collect();
        if !gone.is_empty() {
            status.insert(list.to_owned(), Value::Object(gone));
        }
    }
    if !status.is_empty() {
        let what =
            format!("{GPU_MEMORY} and {GPU_CORES} in {}", status.keys().cloned().collect::<Vec<_>>().join(" and "));
        steps.push(Step { what, write: Write::Status(json!({"status": status})) });
    }
    // The operator's last: with the label gone it may start its own plugin, when nothing of ours is on the node any more.
    for manager in [LABELS_MANAGER, OPERATOR_MANAGER] {
        let labels = own_labels(node, manager);
        if labels.is_empty() {
            continue;
        }
        let name = &node["metadata"]["name"];
        let write = Write::Apply(manager, json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}));
        let what = format!("labels {}", labels.iter().map(String::as_str).collect::<Vec<_>>().join(", "));
        steps.push(Step { what, write });
    }
    let taints = node["spec"]["taints"].as_array().map(Vec::as_slice).unwrap_or_default();
    // From the end: an earlier removal must not move a later one.
    for (at, taint) in taints.iter().enumerate().rev().filter(|(_, taint)| taint["key"] == NOT_READY_TAINT) {
        let path = format!("/spec/taints/{at}");
        // Between reading and writing somebody may have changed the list: then nothing is removed.
        let write = Write::Json(json!([
            {"op": "test", "path": format!("{path}/key"), "value": NOT_READY_TAINT},
            {"op": "remove", "path": path},
        ]));
        let effect = taint["effect"].as_str().unwrap_or_default();
        steps.push(Step { what: format!("taint {NOT_READY_TAINT}:{effect}"), write });
    }
    steps
}

/// The labels that server-side apply counts as a manager's.
fn own_labels(node: &Value, manager: &str) -> BTreeSet<String> {
    let entries = node["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ours = entries.iter().filter(|entry| entry["manager"] == manager && entry["operation"] == "Apply");
    let fields = ours.filter_map(|entry| entry["fieldsV1"]["f:metadata"]["f:labels"].as_object()).flatten();
    fields.filter_map(|(key, _)| key.strip_prefix("f:").map(str::to_owned)).collect()
}

/// Why a node should be left alone: pods that hold GPUs of ours there, and an agent that would write everything anew.
pub fn obstacles(node: &str, pods: &[Value], system_namespace: &str) -> Vec<String> {
    let here = pods.iter().filter(|pod| {
        pod["spec"]["nodeName"] == node && !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
    });
    let mut found = Vec::new();
    for pod in here {
        let meta = &pod["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = format!("{}/{}", text(&meta["namespace"]), text(&meta["name"]));
        if !meta["annotations"][ALLOCATION].is_null() || asks(pod) {
            found.push(format!("pod {name} uses GPUs of Packhorse"));
        } else if meta["namespace"] == system_namespace && meta["labels"]["app.kubernetes.io/component"] == "agent" {
            found.push(format!("agent {name} runs and would write everything anew"));
        }
    }
    found
}

/// Whether it asks for the totals, which only the webhook sets.
fn asks(pod: &Value) -> bool {
    let containers = ["initContainers", "containers"].into_iter();
    let mut containers = containers.flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    containers.any(|container| {
        ["limits", "requests"].into_iter().any(|list| !container["resources"][list][GPU_CORES].is_null())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served() -> Value {
        json!({
            "metadata": {
                "name": "n",
                "labels": {"nvidia.com/gpu.present": "true", "nvidia.com/gpu.deploy.device-plugin": "false", "mine": "1"},
                "annotations": {"packhorse.dev/inventory": "{}", "packhorse.dev/cordon": "GPU-1", "other": "1"},
                "managedFields": [
                    {"manager": LABELS_MANAGER, "operation": "Apply",
                     "fieldsV1": {"f:metadata": {"f:labels": {"f:nvidia.com/gpu.present": {}}}}},
                    {"manager": OPERATOR_MANAGER, "operation": "Apply",
                     "fieldsV1": {"f:metadata": {"f:labels": {"f:nvidia.com/gpu.deploy.device-plugin": {}}}}},
                    {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:metadata": {"f:labels": {"f:mine": {}}}}},
                ],
            },
            "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": NOT_READY_TAINT, "effect": "NoSchedule"}]},
            "status": {
                "capacity": {"cpu": "1", GPU_MEMORY: "1", GPU_CORES: "1"}, "allocatable": {"cpu": "1", GPU_CORES: "1"},
            },
        })
    }

    #[test]
    fn every_trace_goes_and_nothing_else() {
        let node = served();
        let steps = steps(&node);
        let whats: Vec<&str> = steps.iter().map(|step| step.what.as_str()).collect();
        assert_eq!(
            whats,
            [
                "annotations packhorse.dev/cordon, packhorse.dev/inventory",
                "packhorse.dev/gpu-memory and packhorse.dev/gpu-cores in allocatable and capacity",
                "labels nvidia.com/gpu.present",
                "labels nvidia.com/gpu.deploy.device-plugin",
                "taint packhorse.dev/not-ready:NoSchedule",
            ]
        );
        let mut after = node;
        for step in &steps {
            match &step.write {
                Write::Merge(patch) | Write::Status(patch) => json_patch::merge(&mut after, patch),
                Write::Json(patch) => {
                    let patch: json_patch::Patch = serde_json::from_value(patch.clone()).unwrap();
                    json_patch::patch(&mut after, &patch).unwrap();
                }
                // What the API server does with an empty apply of the only owner.
                Write::Apply(manager, apply) => {
                    assert_eq!((&apply["metadata"], step.write.manager()), (&json!({"name": "n"}), Some(*manager)));
                    for label in own_labels(&after, manager) {
                        after["metadata"]["labels"].as_object_mut().unwrap().remove(&label);
                    }
                    let entries = after["metadata"]["managedFields"].as_array_mut().unwrap();
                    entries.retain(|entry| entry["manager"] != *manager);
                }
            }
        }
        assert_eq!(after["metadata"]["labels"], json!({"mine": "1"}));
        assert_eq!(after["metadata"]["annotations"], json!({"other": "1"}));
        assert_eq!(after["spec"]["taints"], json!([{"key": "a", "effect": "NoSchedule"}]));
        assert_eq!(after["status"], json!({"capacity": {"cpu": "1"}, "allocatable": {"cpu": "1"}}));
        assert!(super::steps(&after).is_empty());
    }

    #[test]
    fn pods_with_gpus_and_the_agent_stand_in_the_way() {
        let pod = |name: &str, node: &str, more: Value| {
            let mut pod = json!({"metadata": {"namespace": "ml", "name": name}, "spec": {"nodeName": node}});
            json_patch::merge(&mut pod, &more);
            pod
        };
        let asks = json!({"spec": {"containers": [{"resources": {"limits": {GPU_CORES: "0"}}}]}});
        let agent =
            json!({"metadata": {"namespace": "packhorse-system", "labels": {"app.kubernetes.io/component": "agent"}}});
        let pods = [
            pod("holds", "n", json!({"metadata": {"annotations": {ALLOCATION: "{}"}}})),
            pod("asks", "n", asks.clone()),
            pod("elsewhere", "m", asks),
            pod("plain", "n", json!({})),
            pod("agent", "n", agent),
            pod(
                "ended",
                "n",
                json!({"metadata": {"annotations": {ALLOCATION: "{}"}}, "status": {"phase": "Succeeded"}}),
            ),
        ];
        let found = obstacles("n", &pods, "packhorse-system");
        assert_eq!(found.len(), 3, "{found:?}");
        for (found, named) in found.iter().zip(["pod ml/holds", "pod ml/asks", "agent packhorse-system/agent"]) {
            assert!(found.starts_with(named), "{found}");
        }
    }
}
