//! Feeding the ledger with Node objects.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Ledger;
use super::node::{Devices, HostRequest, NodeInfo, NodeState, Truth, may_have_room};
use super::report::Object;
use crate::gpu::device::{Device, Refused};
use crate::gpu::node::Node;
use crate::gpu::quantity::{QuantityError, bytes, millicores};
use crate::kube_api::names::{CORDON, INVENTORY, MIG_STRATEGY_LABEL};
use crate::kube_api::node::NodeView;
use crate::kube_api::{fields, inventory};

/// A list of all nodes on its way into the ledger, page by page. Nodes that it did not name are removed at [`NodeRelist::finish`].
#[derive(Debug)]
pub struct NodeRelist<'a> {
    ledger: &'a Ledger,
    seen: HashSet<Arc<str>>,
}

impl NodeRelist<'_> {
    /// One node of the list.
    pub fn apply(&mut self, node: &NodeView<'_>) {
        self.seen.insert(self.ledger.strings.get(&node.metadata.name));
        self.ledger.apply_node(node);
    }

    /// The list is complete.
    pub fn finish(self) {
        for entry in self.ledger.nodes() {
            if !self.seen.contains(&entry.name) {
                self.ledger.remove_node(&entry.name);
            }
        }
        self.ledger.nodes_listed.store(true, Ordering::Release);
        self.ledger.begin_learning();
    }
}

impl Ledger {
    /// A node as it is now: new or changed.
    pub fn apply_node(&self, node: &NodeView<'_>) {
        let name: &str = &node.metadata.name;
        if name.is_empty() {
            tracing::warn!("a node without a name was skipped");
            return;
        }
        let text = text_of(node);
        let read_before = self.nodes.get(name).map(|entry| Arc::clone(&entry)).and_then(|entry| {
            let truth = entry.lock();
            truth
                .info
                .as_ref()
                .filter(|info| info.text == text)
                .map(|info| (info.devices.clone(), Arc::clone(&info.refused)))
        });
        let (devices, refused) = read_before.unwrap_or_else(|| self.read_devices(node));
        let info = NodeInfo {
            devices,
            refused,
            prefer_no_schedule: node.prefers_no_schedule(),
            schedulable: node.is_schedulable(),
            labels: self.settings().node_labels.then(|| self.labels.read(name, &node.metadata.labels, &self.strings)),
            host: self.allocatable(node),
            text,
        };
        self.on_node(name, |entry, truth: &mut Truth| {
            if truth.info.as_ref().is_some_and(|known| unchanged(known, &info)) {
                return;
            }
            let before = entry.snapshot();
            truth.info = Some(info);
            entry.publish(truth, &self.versions);
            let after = entry.snapshot();
            self.learn_cards(&before.state, &after.state, truth);
            if may_have_room(&before.state, &after.state)
                || (after.schedulable && !before.schedulable)
                || (before.prefer_no_schedule && !after.prefer_no_schedule)
            {
                self.room_may_be_free();
            }
        });
    }

    /// A node that is gone. What its pods hold stays known until they go, in case the node comes back.
    pub fn remove_node(&self, name: &str) {
        if self.node(name).is_none() {
            return;
        }
        self.on_node(name, |entry, truth| {
            let before = entry.snapshot();
            truth.info = None;
            entry.publish(truth, &self.versions);
            self.learn_cards(&before.state, &NodeState::NoInventory, truth);
        });
    }

    /// What a changed inventory means for rankings: other cards to be short of, and pods that were not on a GPU node before.
    fn learn_cards(&self, before: &NodeState, after: &NodeState, truth: &Truth) {
        let cards = |state: &NodeState| match state {
            NodeState::Usable(node) => Some((node.devices.cards().class(), node.devices.len())),
            NodeState::NoInventory | NodeState::Damaged => None,
        };
        let (before, after) = (cards(before), cards(after));
        if before.is_none() && after.is_some() {
            for host in truth.host.values() {
                self.learning.arrive_without(*host);
            }
        }
        if before != after {
            self.learning.on_other_cards();
        }
    }

    /// Begins a complete list of the nodes.
    pub fn relist_nodes(&self) -> NodeRelist<'_> {
        NodeRelist { ledger: self, seen: HashSet::new() }
    }

    /// A complete list of the nodes at once.
    pub fn replace_nodes<'a>(&self, nodes: impl IntoIterator<Item = &'a NodeView<'a>>) {
        let mut relist = self.relist_nodes();
        for node in nodes {
            relist.apply(node);
        }
        relist.finish();
    }

    fn read_devices(&self, node: &NodeView<'_>) -> (Devices, Arc<[Refused]>) {
        let name: &str = &node.metadata.name;
        let object = || Object::node(name, node.metadata.uid.as_deref());
        let Some(text) = node.metadata.annotations.get(INVENTORY) else {
            return (Devices::None, Arc::default());
        };
        let decoded = match inventory::decode_with(text, &|text| self.strings.get(text)) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.damaged(&object(), "UnreadableInventory", &error);
                return (Devices::Damaged, Arc::default());
            }
        };
        self.unknown_fields(&object(), INVENTORY, &decoded.unknown);
        let cordon = node.metadata.annotations.get(CORDON).map_or("", |text| text);
        for uuid in inventory::cordon(cordon) {
            let named = |device: &Device| *device.uuid == *uuid || device.parent.as_deref() == Some(uuid);
            if !decoded.value.devices.iter().any(named) {
                let error = fields::Damaged {
                    key: CORDON,
                    field: "UUID".to_owned(),
                    value: uuid.to_owned(),
                    problem: "is no device of this node; the rest is used".to_owned(),
                };
                self.damaged(&object(), "UnknownCordon", &error);
            }
        }
        let mig_single = node.metadata.labels.get(MIG_STRATEGY_LABEL).is_some_and(|strategy| &**strategy == "single");
        let cordoned = |uuid: &str| inventory::cordon(cordon).any(|other| other == uuid);
        let mut empty = Node::new(&decoded.value, cordoned, mig_single);
        empty.devices.share_topology(|topology| self.topologies.get(topology));
        (Devices::Listed(empty), decoded.value.refused.into())
    }

    fn allocatable(&self, node: &NodeView<'_>) -> HostRequest {
        if !self.settings().host_requests {
            return HostRequest::default();
        }
        // An API server accepts no unreadable quantity; should one come nevertheless, nothing is known of it.
        let read = |name: &str, read: fn(&str) -> Result<u64, QuantityError>| {
            let quantity = node.status.allocatable.get(name).and_then(|quantity| read(&quantity.0).ok());
            quantity.and_then(|quantity| i64::try_from(quantity).ok()).unwrap_or(0)
        };
        HostRequest { cpu: read("cpu", millicores), memory: read("memory", bytes), of_node: false }
    }
}

fn unchanged(known: &NodeInfo, info: &NodeInfo) -> bool {
    known.text == info.text
        && known.prefer_no_schedule == info.prefer_no_schedule
        && known.schedulable == info.schedulable
        && known.labels == info.labels
        && known.host == info.host
}

/// A fingerprint of what the devices are read from; a heartbeat leaves it as it is.
fn text_of(node: &NodeView<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    node.metadata.annotations.get(INVENTORY).hash(&mut hasher);
    node.metadata.annotations.get(CORDON).hash(&mut hasher);
    node.metadata.labels.get(MIG_STRATEGY_LABEL).hash(&mut hasher);
    hasher.finish()
}
