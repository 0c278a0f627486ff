//! Full nodes in a request, which kube-scheduler sends where its configuration says `nodeCacheCapable: false`.
//!
//! The inventory is the one in the given object's annotations. What is booked comes from the ledger where it knows a node of
//! that name: the objects do not tell. Where it does not, the node counts as empty. Objects go back as they came.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::shape::Shape;
use super::situation::{Situation, Weighed};
use crate::gpu::node::Node;
use crate::kube_api::extender::NodeList;
use crate::kube_api::inventory;
use crate::kube_api::names::{CORDON, INVENTORY, MIG_STRATEGY_LABEL};
use crate::kube_api::node::NodeView;
use crate::kube_api::pod::Text;
use crate::ledger::{Ledger, NodeEntry, NodeState};

/// One node of the request.
#[derive(Debug)]
pub(super) struct GivenNode<'a> {
    pub(super) raw: &'a RawValue,
    pub(super) name: Text<'a>,
    state: NodeState,
    repels: bool,
    entry: Option<Arc<NodeEntry>>,
}

impl GivenNode<'_> {
    pub(super) fn weigh(&self, situation: &Situation<'_>, shape: &Shape) -> Weighed {
        situation.weigh_given(shape, &self.state, self.entry.as_deref(), self.repels)
    }
}

/// The nodes of a request, `None` where it has names only.
///
/// # Errors
/// Names the item that is not a Node.
pub(super) fn given_nodes<'a>(
    list: Option<&NodeList<'a>>,
    ledger: &Ledger,
) -> Result<Option<Vec<GivenNode<'a>>>, String> {
    let Some(list) = list else { return Ok(None) };
    let read = |(index, raw): (usize, &&'a RawValue)| {
        let raw: &'a RawValue = raw;
        let view: NodeView<'a> =
            serde_json::from_str(raw.get()).map_err(|e| format!("Nodes.items[{index}] is not a Node: {e}"))?;
        let entry = ledger.node(&view.metadata.name);
        Ok(GivenNode {
            raw,
            state: state(&view, entry.as_deref(), ledger),
            repels: view.prefers_no_schedule(),
            name: view.metadata.name,
            entry,
        })
    };
    list.items.iter().enumerate().map(read).collect::<Result<Vec<_>, String>>().map(Some)
}

fn state(view: &NodeView<'_>, entry: Option<&NodeEntry>, ledger: &Ledger) -> NodeState {
    let annotations = &view.metadata.annotations;
    let Some(text) = annotations.get(INVENTORY) else { return NodeState::NoInventory };
    // Why it is damaged is the ledger's to report, once, when its watch shows the node.
    let Ok(decoded) = inventory::decode(text) else { return NodeState::Damaged };
    let cordoned: Vec<&str> = annotations.get(CORDON).map(|text| inventory::cordon(text).collect()).unwrap_or_default();
    let mig_single = view.metadata.labels.get(MIG_STRATEGY_LABEL).is_some_and(|strategy| &**strategy == "single");
    let mut node = Node::new(&decoded.value, |uuid| cordoned.contains(&uuid), mig_single);
    if let Some(entry) = entry {
        take_usage(&mut node, entry, ledger);
    }
    NodeState::Usable(node)
}

/// What is booked on the devices of `node`, from the ledger.
fn take_usage(node: &mut Node, entry: &NodeEntry, ledger: &Ledger) {
    let snapshot = entry.snapshot();
    let known = match &snapshot.state {
        NodeState::Usable(known) => Some(known),
        NodeState::NoInventory | NodeState::Damaged => None,
    };
    if let Some(known) = known {
        (node.cpu, node.memory) = (known.cpu, known.memory);
        (node.cpu_left, node.memory_left) = (known.cpu_left, known.memory_left);
    }
    let place = |uuid: &str| known.and_then(|known| known.devices.iter().position(|d| *d.uuid == *uuid));
    for (at, device) in node.devices.iter().enumerate() {
        if let (Some(known), Some(position)) = (known, place(&device.uuid)) {
            node.usage[at] = known.usage[position];
        }
    }
    // Devices that the ledger's inventory does not list yet may be held all the same.
    for pod in ledger.pods_on(&entry.name) {
        let unlisted: Vec<_> = pod.holdings.iter().filter(|h| place(&h.device).is_none()).cloned().collect();
        node.book(&unlisted);
    }
}
