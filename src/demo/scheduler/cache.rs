//! What the scheduling loop knows: nodes, and which pods sit or are about to sit on them. Filled by watches; a pod that was sent to
//! a node counts there before the watch shows it ("assumed").

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use crate::demo::api_server::quantity::Quantity;

/// Amounts by resource name; CPU in millicores, the rest in units.
pub(super) type Amounts = BTreeMap<String, i64>;

#[derive(Debug, Default)]
struct NodeInfo {
    allocatable: Amounts,
    labels: BTreeMap<String, String>,
    taints: Vec<(String, String)>,
    unschedulable: bool,
    pods: BTreeSet<String>,
}

#[derive(Debug)]
struct PodInfo {
    node: String,
    requests: Amounts,
    assumed: bool,
}

/// Nodes and the pods on them.
#[derive(Debug, Default)]
pub(super) struct Cache {
    nodes: BTreeMap<String, NodeInfo>,
    /// By UID.
    pods: HashMap<String, PodInfo>,
}

fn amount(name: &str, value: &Value) -> i64 {
    let quantity = value.as_str().and_then(Quantity::parse);
    quantity.map_or(0, |quantity| if name == "cpu" { quantity.milli() } else { quantity.value() })
}

fn amounts(values: &Value) -> Amounts {
    values.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), amount(name, value))).collect()
}

/// What a pod requests of its node: the most of its init phase and its running phase.
pub(super) fn requests(pod: &Value) -> Amounts {
    let add = |to: &mut Amounts, more: &Amounts| {
        for (name, value) in more {
            *to.entry(name.clone()).or_default() += value;
        }
    };
    let raise = |most: &mut Amounts, now: &Amounts| {
        for (name, value) in now {
            let peak = most.entry(name.clone()).or_default();
            *peak = (*peak).max(*value);
        }
    };
    let (mut running, mut most) = (Amounts::new(), Amounts::new());
    for container in pod["spec"]["initContainers"].as_array().into_iter().flatten() {
        let own = amounts(&container["resources"]["requests"]);
        if container["restartPolicy"] == "Always" {
            add(&mut running, &own);
            raise(&mut most, &running);
        } else {
            let mut now = running.clone();
            add(&mut now, &own);
            raise(&mut most, &now);
        }
    }
    for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
        add(&mut running, &amounts(&container["resources"]["requests"]));
    }
    raise(&mut most, &running);
    add(&mut most, &amounts(&pod["spec"]["overhead"]));
    most.insert("pods".to_owned(), 1);
    most
}

impl Cache {
    pub(super) fn set_node(&mut self, node: &Value) {
        let Some(name) = node["metadata"]["name"].as_str() else { return };
        let info = self.nodes.entry(name.to_owned()).or_default();
        info.allocatable = amounts(&node["status"]["allocatable"]);
        info.labels = node["metadata"]["labels"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect();
        info.taints = node["spec"]["taints"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|taint| taint["effect"] != "PreferNoSchedule")
            .filter_map(|taint| {
                Some((taint["key"].as_str()?.to_owned(), taint["value"].as_str().unwrap_or_default().to_owned()))
            })
            .collect();
        info.unschedulable = node["spec"]["unschedulable"] == true;
    }

    pub(super) fn remove_node(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    /// Counts a pod on its node; `assumed` where no watch has shown it there yet.
    pub(super) fn place(&mut self, uid: &str, node: &str, pod: &Value, assumed: bool) {
        if self.pods.get(uid).is_some_and(|known| known.node == node) {
            if let Some(known) = self.pods.get_mut(uid) {
                known.assumed &= assumed;
            }
            return;
        }
        self.forget(uid);
        self.pods.insert(uid.to_owned(), PodInfo { node: node.to_owned(), requests: requests(pod), assumed });
        self.nodes.entry(node.to_owned()).or_default().pods.insert(uid.to_owned());
    }

    /// Takes a pod away: it ended, or it was only assumed and the bind failed.
    pub(super) fn forget(&mut self, uid: &str) -> bool {
        let Some(known) = self.pods.remove(uid) else { return false };
        if let Some(node) = self.nodes.get_mut(&known.node) {
            node.pods.remove(uid);
        }
        true
    }

    /// Whether a watch has shown the pod on a node.
    pub(super) fn is_bound(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|pod| !pod.assumed)
    }

    /// Whether the pod was sent to a node and no watch has shown it there.
    pub(super) fn is_assumed(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|pod| pod.assumed)
    }

    /// Drops pods that a new list does not show; what was only assumed stays.
    pub(super) fn keep(&mut self, listed: &BTreeSet<String>) {
        let gone: Vec<String> = self
            .pods
            .iter()
            .filter(|(uid, pod)| !pod.assumed && !listed.contains(*uid))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in gone {
            self.forget(&uid);
        }
    }

    /// The nodes that pass kube-scheduler's own filters, and why the others do not, by reason.
    pub(super) fn feasible(&self, pod: &Value) -> (Vec<String>, BTreeMap<String, usize>) {
        let wanted = requests(pod);
        let mut refused: BTreeMap<String, usize> = BTreeMap::new();
        let mut names = Vec::new();
        for (name, node) in &self.nodes {
            match self.refusal(node, pod, &wanted) {
                None => names.push(name.clone()),
                Some(reason) => *refused.entry(reason).or_default() += 1,
            }
        }
        (names, refused)
    }

    pub(super) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    fn refusal(&self, node: &NodeInfo, pod: &Value, wanted: &Amounts) -> Option<String> {
        let tolerates = |key: &str, value: &str| {
            pod["spec"]["tolerations"].as_array().into_iter().flatten().any(|toleration| {
                let any_key = toleration["key"].as_str().unwrap_or_default().is_empty();
                let key_matches = any_key || toleration["key"] == key;
                key_matches && (toleration["operator"] == "Exists" || toleration["value"] == value)
            })
        };
        if node.unschedulable && !tolerates("node.kubernetes.io/unschedulable", "") {
            return Some("node(s) were unschedulable".to_owned());
        }
        if let Some((key, _)) = node.taints.iter().find(|(key, value)| !tolerates(key, value)) {
            return Some(format!("node(s) had untolerated taint {{{key}}}"));
        }
        let selects = pod["spec"]["nodeSelector"]
            .as_object()
            .into_iter()
            .flatten()
            .all(|(key, value)| node.labels.get(key).is_some_and(|label| value == label.as_str()));
        if !selects {
            return Some("node(s) didn't match Pod's node affinity/selector".to_owned());
        }
        for (name, value) in wanted.iter().filter(|(_, value)| **value > 0) {
            let used: i64 =
                node.pods.iter().filter_map(|uid| self.pods.get(uid)).filter_map(|pod| pod.requests.get(name)).sum();
            if used + value > node.allocatable.get(name).copied().unwrap_or(0) {
                return Some(format!("Insufficient {name}"));
            }
        }
        None
    }
}
