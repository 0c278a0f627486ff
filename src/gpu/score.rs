//! How good it is for the cluster as a whole that a pod goes to a node. Everything that ranks nodes against each
//! other is in `value`; how it is weighed may change without anybody noticing but the packing.
//!
//! Continuous, so that no plateau of equal nodes is left to chance. Where the workload is known, what counts is how
//! much GPU the expected pods could still use ([`super::target`]). Before the first pod has come: pack onto cards in
//! use, then onto nodes in use, each tightest first.

use super::node::Node;
use super::request::NodePolicy;
use super::target::{Aim, Change};

/// What a placement does to a node.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Effect<'a> {
    /// What it takes of which device, one entry each.
    pub(crate) changes: &'a [Change],
    /// How near the devices of a container are to each other, summed over pairs.
    pub(crate) near: u32,
    /// How many pairs that sums.
    pub(crate) pairs: u32,
    /// A fresh device goes to a container that wants only one.
    pub(crate) breaks_up: bool,
}

/// Devices of one container that reach each other fast, in thousandths of a card: dearer than what a good fit could
/// save, since the job is slowed down all its life.
const NEAR: f64 = 2000.0;
/// Breaking up a node of well-connected cards for a container that wants one.
const BREAK_UP: f64 = 20.0;

/// Until the workload is known. What it costs to put a pod on a node nobody uses.
const FRESH_NODE: f64 = 1000.0;
/// What it costs to open a card, as a part of the cards the pod gets.
const FRESH_CARD: f64 = 600.0;
/// The hole left on the devices, as a part of them.
const HOLE: f64 = 300.0;
/// What is left of all devices of the node.
const NODE_LEFT: f64 = 150.0;
/// What is left of the node's CPU and memory.
const HOST_LEFT: f64 = 50.0;

/// How good `effect` is on `node`: finite, greater is better, comparable between nodes. `host` is what the pod asks
/// of the node itself: CPU in millicores, memory in bytes.
#[inline]
pub(crate) fn value(node: &Node, effect: &Effect<'_>, host: (i64, i64), policy: NodePolicy, aim: Aim<'_>) -> f64 {
    let near = effect.near.checked_div(effect.pairs).map_or(0.0, |near| NEAR * nearness(near));
    let breaks_up = if effect.breaks_up { BREAK_UP * nearness(node.devices.topology().mean()) } else { 0.0 };
    match policy {
        NodePolicy::Spread => near + emptiness(node, effect, host) - breaks_up,
        NodePolicy::Binpack if aim.target.is_empty() => near - emptiness(node, effect, host) - breaks_up,
        NodePolicy::Binpack => near + aim.value(node, effect.changes, host.0, host.1) - breaks_up,
    }
}

/// How empty the node and the pod's devices would be afterwards, the fresh ones above all.
fn emptiness(node: &Node, effect: &Effect<'_>, (cpu, memory): (i64, i64)) -> f64 {
    let devices = effect.changes.len().max(1) as f64;
    let (mut used, mut taken_memory, mut taken_cores) = (false, 0, 0);
    for usage in &node.usage {
        used |= usage.is_taken();
        taken_memory += u64::from(usage.memory);
        taken_cores += u64::from(usage.cores);
    }
    let (mut fresh, mut holes) = (0.0, 0.0);
    for change in effect.changes {
        let (facts, usage) = (&node.devices.facts()[change.at], &node.usage[change.at]);
        taken_memory += u64::from(change.memory);
        taken_cores += u64::from(change.cores);
        fresh += f64::from(u8::from(!usage.is_taken()));
        let memory = facts.memory.saturating_sub(usage.memory.saturating_add(change.memory));
        let cores = u32::from(facts.cores).saturating_sub(usage.cores.saturating_add(change.cores.into()));
        holes += f64::from(0.5 * (memory as f32 * facts.per_mib + cores as f32 * facts.per_core));
    }
    let fresh_node = if used { 0.0 } else { FRESH_NODE };
    let host = host_left(node.cpu_left, cpu, node.cpu) + host_left(node.memory_left, memory, node.memory);
    fresh_node
        + (FRESH_CARD * fresh + HOLE * holes) / devices
        + NODE_LEFT * node.devices.part_left(taken_memory, taken_cores)
        + HOST_LEFT * 0.5 * host
}

/// From the nearness of devices to 0..1: 0.1 across sockets, 0.5 for one NVLink connection, 0.92 for twelve.
fn nearness(near: u32) -> f64 {
    let near = f64::from(near);
    near / (near + 100.0)
}

/// What part of the node's CPU or memory is left once the pod is there, 0..=1; 0 where not tracked.
fn host_left(left: Option<i64>, asked: i64, whole: i64) -> f64 {
    match left {
        Some(left) if whole > 0 => (left.saturating_sub(asked) as f64 / whole as f64).clamp(0.0, 1.0),
        _ => 0.0,
    }
}
