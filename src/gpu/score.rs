//! How good it is for the cluster as a whole that a pod goes to a node. Everything that ranks nodes against each other is in
//! `value`; how it is weighed may change without anybody noticing but the packing.
//!
//! Continuous, so that no plateau of equal nodes is left to chance: pack onto cards in use, then onto nodes in use, each tightest
//! first; open neither a fresh card nor a fresh node where room is left elsewhere, and last of all the cards that several-GPU
//! pods could use best.

use super::node::Node;
use super::request::NodePolicy;

/// What a placement does to a node.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Effect {
    /// Devices the pod gets.
    pub(crate) devices: u32,
    /// Of these, devices that nobody was on.
    pub(crate) fresh: u32,
    /// What remains of these devices, 0..=1 each, summed.
    pub(crate) left: f32,
    /// MiB it adds to the node.
    pub(crate) memory: u64,
    /// Percent it adds to the node.
    pub(crate) cores: u64,
    /// How near the devices of a container are to each other, summed over pairs.
    pub(crate) near: u32,
    /// How many pairs that sums.
    pub(crate) pairs: u32,
    /// A fresh device goes to a container that wants only one.
    pub(crate) breaks_up: bool,
}

/// What it costs to put a pod on a node nobody uses.
const FRESH_NODE: f64 = 200.0;
/// What it costs to open a card, as a part of the cards the pod gets.
const FRESH_CARD: f64 = 120.0;
/// The hole left on the devices, as a part of them.
const HOLE: f64 = 60.0;
/// What is left of all devices of the node.
const NODE_LEFT: f64 = 30.0;
/// What is left of the node's CPU and memory.
const HOST_LEFT: f64 = 10.0;
/// Breaking up a node of well-connected cards for a container that wants one.
const BREAK_UP: f64 = 8.0;
/// Devices of one container that reach each other fast: dearer than a fresh node, since the job is slowed down all its life.
const NEAR: f64 = 400.0;

/// How good `effect` is on `node`: finite, greater is better, comparable between nodes. `cpu` in millicores and `memory` in bytes
/// are the pod's host requests.
#[inline]
pub(crate) fn value(node: &Node, effect: &Effect, cpu: i64, memory: i64, policy: NodePolicy) -> f64 {
    let devices = f64::from(effect.devices.max(1));
    let (mut used, mut taken_memory, mut taken_cores) = (false, effect.memory, effect.cores);
    for usage in &node.usage {
        used |= usage.is_taken();
        taken_memory += u64::from(usage.memory);
        taken_cores += u64::from(usage.cores);
    }
    let mut cost = 0.0;
    if !used {
        cost += FRESH_NODE;
    }
    cost += FRESH_CARD * f64::from(effect.fresh) / devices;
    cost += HOLE * f64::from(effect.left) / devices;
    cost += NODE_LEFT * node.devices.part_left(taken_memory, taken_cores);
    cost +=
        HOST_LEFT * 0.5 * (host_left(node.cpu_left, cpu, node.cpu) + host_left(node.memory_left, memory, node.memory));
    if effect.breaks_up {
        cost += BREAK_UP * nearness(node.devices.topology().mean());
    }
    let near = effect.near.checked_div(effect.pairs).map_or(0.0, |near| NEAR * nearness(near));
    match policy {
        NodePolicy::Binpack => near - cost,
        NodePolicy::Spread => near + cost,
    }
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
