//! This node's own Node object as far as the agent cares: what it has to compare with what it should have. Written by the watch and
//! by the answers to our own patches, whichever is newer; read by every part that writes.
//!
//! Before the first list nothing is known and nothing is written. A watch that breaks leaves the last good state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use tokio::sync::watch;

use super::deploy::Deploy;
use super::{LABELS_MANAGER, OPERATOR_MANAGER};
use crate::gpu::quantity::Quantity;
use crate::kube_api::names::{CORDON, GPU_CORES, GPU_MEMORY, INVENTORY};

/// What is kept of the node.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OwnNode {
    /// Its UID: a node that was deleted and registered again is another.
    pub uid: String,
    /// The annotation `packhorse.dev/inventory`.
    pub inventory: Option<String>,
    /// The annotation `packhorse.dev/cordon`.
    pub cordon: Option<String>,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// The labels that server-side apply counts as ours.
    pub own_labels: BTreeSet<String>,
    /// The same of the labels for the GPU operator.
    pub own_operator_labels: BTreeSet<String>,
    /// What keeps pods away.
    pub taints: Vec<Taint>,
    /// Of `status.capacity`.
    pub capacity: Totals,
    /// Of `status.allocatable`.
    pub allocatable: Totals,
    /// `status.nodeInfo.containerRuntimeVersion`, for example `containerd://2.2.1`; empty where the kubelet has not told.
    pub container_runtime: String,
}

/// The two extended resources; `None` where the node does not list one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// MiB.
    pub memory: Option<u64>,
    /// Percent.
    pub cores: Option<u64>,
}

/// Where a version of the node came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A complete list: the truth, even where its version is lower (a restored etcd counts anew).
    List,
    /// An event of the watch, or the answer to a patch: of two the newer one counts.
    Change,
}

/// The newest state of the node and what derives from it.
#[derive(Debug)]
pub(super) struct State {
    node: watch::Sender<Option<Arc<OwnNode>>>,
    deploy: watch::Sender<Deploy>,
    version: std::sync::Mutex<u64>,
}

impl OwnNode {
    fn read(node: Node) -> Self {
        let Node { metadata, spec, status } = node;
        let ObjectMeta { uid, labels, annotations, managed_fields, .. } = metadata;
        let status = status.unwrap_or_default();
        let mut annotations = annotations.unwrap_or_default();
        Self {
            uid: uid.unwrap_or_default(),
            inventory: annotations.remove(INVENTORY),
            cordon: annotations.remove(CORDON),
            labels: labels.unwrap_or_default(),
            own_labels: owned_by(LABELS_MANAGER, managed_fields.as_deref()),
            own_operator_labels: owned_by(OPERATOR_MANAGER, managed_fields.as_deref()),
            taints: spec.and_then(|spec| spec.taints).unwrap_or_default(),
            capacity: Totals::read(&status, |status| status.capacity.as_ref()),
            allocatable: Totals::read(&status, |status| status.allocatable.as_ref()),
            container_runtime: status.node_info.map(|info| info.container_runtime_version).unwrap_or_default(),
        }
    }
}

impl Totals {
    fn read(
        status: &NodeStatus,
        of: impl Fn(&NodeStatus) -> Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
    ) -> Self {
        // An API server accepts no unreadable quantity; should one come nevertheless, it is as good as none and written anew.
        let amount = |name: &str| Quantity::parse(&of(status)?.get(name)?.0).and_then(Quantity::integer).ok();
        Self { memory: amount(GPU_MEMORY), cores: amount(GPU_CORES) }
    }
}

impl Default for State {
    fn default() -> Self {
        Self { node: watch::Sender::new(None), deploy: watch::Sender::new(Deploy::Unknown), version: 0.into() }
    }
}

impl State {
    /// A version of the node. Wakes nobody where nothing we care about has changed (a heartbeat).
    pub(super) fn accept(&self, node: Node, source: Source) {
        // Comparable by contract since Kubernetes 1.35, and with etcd behind it always were.
        let version: Option<u64> = node.metadata.resource_version.as_deref().and_then(|version| version.parse().ok());
        let node = OwnNode::read(node);
        let mut known = self.version.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if source == Source::Change && version.is_some_and(|version| version < *known) {
            return;
        }
        *known = version.unwrap_or(0);
        let deploy = Deploy::of(&node.labels);
        self.set(Some(node));
        self.set_deploy(deploy);
    }

    /// There is no such node. It may come again.
    pub(super) fn gone(&self) {
        let mut known = self.version.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *known = 0;
        self.set(None);
    }

    /// The newest state, and word of every change.
    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Arc<OwnNode>>> {
        self.node.subscribe()
    }

    /// Whether the operator's labels want us here.
    pub(super) fn deploy(&self) -> watch::Receiver<Deploy> {
        self.deploy.subscribe()
    }

    fn set(&self, node: Option<OwnNode>) {
        self.node.send_if_modified(|known| {
            let changed = known.as_deref() != node.as_ref();
            if changed {
                *known = node.map(Arc::new);
            }
            changed
        });
    }

    fn set_deploy(&self, deploy: Deploy) {
        self.deploy.send_if_modified(|known| {
            let changed = *known != deploy;
            if changed {
                deploy.log(*known);
                *known = deploy;
            }
            changed
        });
    }
}

/// The labels that server-side apply counts as a manager's.
fn owned_by(manager: &str, entries: Option<&[ManagedFieldsEntry]>) -> BTreeSet<String> {
    let is_its = |entry: &&ManagedFieldsEntry| {
        entry.manager.as_deref() == Some(manager) && entry.operation.as_deref() == Some("Apply")
    };
    entries.unwrap_or_default().iter().filter(is_its).flat_map(labels_of).collect()
}

/// The labels of a field set: `{"f:metadata":{"f:labels":{"f:KEY":{}}}}`.
fn labels_of(entry: &ManagedFieldsEntry) -> impl Iterator<Item = String> {
    let labels = entry.fields_v1.as_ref().and_then(|fields| fields.0.get("f:metadata")?.get("f:labels")?.as_object());
    labels.into_iter().flatten().filter_map(|(key, _)| key.strip_prefix("f:").map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(version: &str, inventory: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {
                "name": "n", "uid": "u", "resourceVersion": version, "annotations": {INVENTORY: inventory},
                "managedFields": [
                    {"manager": LABELS_MANAGER, "operation": "Apply",
                     "fieldsV1": {"f:metadata": {"f:labels": {"f:nvidia.com/gpu.count": {}}}}},
                    {"manager": "kubelet", "operation": "Update",
                     "fieldsV1": {"f:metadata": {"f:labels": {"f:kubernetes.io/os": {}}}}},
                ],
            },
            "status": {"capacity": {GPU_MEMORY: "80k", GPU_CORES: "100"}},
        }))
        .unwrap()
    }

    #[test]
    fn reads_what_the_parts_compare() {
        let read = OwnNode::read(node("1", "x"));
        assert_eq!(read.inventory.as_deref(), Some("x"));
        // Kubernetes itself writes 80000 as 80k.
        assert_eq!(read.capacity, Totals { memory: Some(80_000), cores: Some(100) });
        assert_eq!(read.allocatable, Totals::default());
        assert_eq!(read.own_labels, ["nvidia.com/gpu.count".to_owned()].into());
    }

    #[test]
    fn a_lagging_watch_does_not_undo_the_answer_to_a_patch() {
        let state = State::default();
        let mut seen = state.subscribe();
        let inventory = || state.subscribe().borrow().as_ref().and_then(|node| node.inventory.clone());
        state.accept(node("9", "old"), Source::List);
        state.accept(node("12", "new"), Source::Change);
        state.accept(node("10", "old"), Source::Change);
        assert_eq!(inventory().as_deref(), Some("new"));
        seen.mark_unchanged();
        state.accept(node("13", "new"), Source::Change);
        assert!(!seen.has_changed().unwrap(), "a heartbeat wakes nobody");
        state.accept(node("5", "restored"), Source::List);
        assert_eq!(inventory().as_deref(), Some("restored"));
        state.gone();
        assert_eq!(inventory(), None);
    }
}
