//! Which bound pods can never start, as the ledger sees it now.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::gpu::allocation::Holding;
use crate::gpu::node::{Node, Usage};
use crate::ledger::{Ledger, NodeEntry, NodeState, PodEntry};

/// Why a pod can never start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Its node's agent says so.
    Refused {
        /// The node.
        node: Arc<str>,
        /// The agent's words.
        reason: String,
    },
    /// Pods bound before it leave no room for it on a device.
    Overlap {
        /// The node.
        node: Arc<str>,
        /// The device's UUID.
        device: Arc<str>,
    },
}

impl Trouble {
    /// For metrics.
    pub(super) fn cause(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::Overlap { .. } => "overlap",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { node, reason } => {
                write!(f, "bound to node {node}, whose GPU agent refuses to start it: {reason}")
            }
            Self::Overlap { node, device } => {
                write!(f, "bound to node {node}, whose GPU {device} has no room for it beside pods bound before it")
            }
        }
    }
}

/// All pods in trouble, by node and UID.
pub(super) fn find(ledger: &Ledger) -> Vec<(Arc<PodEntry>, Trouble)> {
    let mut nodes = ledger.nodes();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes.iter().flat_map(|entry| on_node(ledger, entry)).collect()
}

fn on_node(ledger: &Ledger, entry: &NodeEntry) -> Vec<(Arc<PodEntry>, Trouble)> {
    let snapshot = entry.snapshot();
    let NodeState::Usable(node) = &snapshot.state else { return Vec::new() };
    if snapshot.refused.is_empty() && !is_crowded(node) {
        return Vec::new();
    }
    let mut pods = ledger.pods_on(&entry.name);
    pods.retain(|pod| pod.confirmed && !pod.terminating);
    let mut troubles = Vec::new();
    pods.retain(|pod| {
        let refused = snapshot.refused.iter().find(|refused| *refused.uid == *pod.uid);
        if let Some(refused) = refused {
            let trouble = Trouble::Refused { node: Arc::clone(&entry.name), reason: refused.reason.clone() };
            troubles.push((Arc::clone(pod), trouble));
        }
        refused.is_none()
    });
    // What cannot be read may be anything: the agent will say.
    pods.retain(|pod| pod.damaged.is_none() && !pod.foreign);
    pods.sort_by(|a, b| a.bound_at.cmp(&b.bound_at).then_with(|| a.uid.cmp(&b.uid)));
    let mut booked: HashMap<Arc<str>, Usage> = HashMap::new();
    for pod in pods {
        let full = pod.holdings.iter().find(|holding| {
            let before = booked.get(&holding.device).copied().unwrap_or_default();
            before.is_taken() && is_beyond(node, &before, holding)
        });
        if let Some(holding) = full {
            let trouble = Trouble::Overlap { node: Arc::clone(&entry.name), device: Arc::clone(&holding.device) };
            troubles.push((pod, trouble));
            continue;
        }
        for holding in pod.holdings.iter() {
            add(booked.entry(Arc::clone(&holding.device)).or_default(), holding);
        }
    }
    troubles.sort_by(|a, b| a.0.uid.cmp(&b.0.uid));
    troubles
}

/// Whether any device of the node may hold more than it has. Cheap: nearly all nodes end here.
fn is_crowded(node: &Node) -> bool {
    node.devices.iter().zip(&node.usage).any(|(device, usage)| {
        usage.memory > device.memory
            || usage.cores > device.cores.into()
            || usage.slots > device.slots.into()
            || (usage.exclusive > 0 && usage.slots > 1)
    })
}

/// Whether a device that holds `before` has no room for `holding`. A device that is not there is the agent's to judge.
fn is_beyond(node: &Node, before: &Usage, holding: &Holding) -> bool {
    let Some(device) = node.devices.iter().find(|device| device.uuid == holding.device) else { return false };
    let mut after = *before;
    add(&mut after, holding);
    after.memory > device.memory
        || after.cores > device.cores.into()
        || after.slots > device.slots.into()
        || before.exclusive > 0
        || holding.exclusive
}

fn add(usage: &mut Usage, holding: &Holding) {
    usage.memory = usage.memory.saturating_add(holding.memory);
    usage.cores = usage.cores.saturating_add(holding.cores.into());
    usage.slots = usage.slots.saturating_add(holding.slots.into());
    usage.exclusive = usage.exclusive.saturating_add(holding.exclusive.into());
}
