//! Shapes: what pods ask for, and what is already known about nodes for it.
//!
//! Most pods are copies of each other, and from one filter call to the next few nodes change. A shape therefore remembers its
//! verdict on each node together with the version of the node that it was made on; only nodes that changed are judged anew.
//! Written and read by filter and prioritize. Bounded; losing a shape costs one slower call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::gpu::fit::{Policies, rank};
use crate::gpu::node::Node;
use crate::gpu::reason::Reason;
use crate::gpu::request::{GpuPolicy, NodePolicy, PodRequest};
use crate::ledger::{NodeState, Snapshot};

/// How many shapes are remembered. One takes 16 bytes a node.
const MOST: usize = 192;

/// All that a verdict depends on beside the node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    request: Arc<PodRequest>,
    cpu: i64,
    memory: i64,
    policies: (NodePolicy, Option<GpuPolicy>),
}

/// What pods of one kind ask for, and the verdicts on it so far.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) request: Arc<PodRequest>,
    pub(super) cpu: i64,
    pub(super) memory: i64,
    pub(super) policies: Policies,
    verdicts: Mutex<Vec<Cell>>,
}

/// A verdict on one version of a node.
#[derive(Debug, Clone, Copy)]
struct Cell {
    /// The snapshot's version; `NEVER` where there is no verdict yet.
    version: u64,
    verdict: Verdict,
}

const NEVER: u64 = u64::MAX;

/// Whether a node can take a pod, and how good that would be for the cluster.
pub(super) type Verdict = Result<f64, Reason>;

/// The verdicts of one shape, locked for one call.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    pub(super) shape: &'a Shape,
    cells: MutexGuard<'a, Vec<Cell>>,
}

impl Shape {
    /// For one call: concurrent calls about the same shape wait for each other, which kube-scheduler never makes.
    pub(super) fn judge(&self) -> Judge<'_> {
        Judge { shape: self, cells: lock(&self.verdicts) }
    }

    /// Without memory: for nodes as nobody else sees them.
    pub(super) fn rank(&self, node: &Node) -> Verdict {
        rank(node, &self.request, self.cpu, self.memory, self.policies)
    }

    pub(super) fn verdict(&self, state: &NodeState) -> Verdict {
        match state {
            NodeState::Usable(node) => self.rank(node),
            NodeState::NoInventory => Err(Reason::NoInventory),
            NodeState::Damaged => Err(Reason::InventoryDamaged),
        }
    }
}

impl Judge<'_> {
    /// The verdict on the node of this slot as the snapshot shows it.
    pub(super) fn verdict(&mut self, slot: usize, snapshot: &Snapshot) -> Verdict {
        if slot >= self.cells.len() {
            let more = (slot + 1).next_multiple_of(256);
            self.cells.resize(more, Cell { version: NEVER, verdict: Err(Reason::NoInventory) });
        }
        let cell = &mut self.cells[slot];
        if cell.version != snapshot.version {
            *cell = Cell { version: snapshot.version, verdict: self.shape.verdict(&snapshot.state) };
        }
        cell.verdict
    }
}

/// The shapes last asked about.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// With the time of last use, in calls.
    shapes: HashMap<Key, (Arc<Shape>, u64)>,
    calls: u64,
}

impl Shapes {
    /// The shape of these pods, remembered or new.
    pub(super) fn of(&self, request: PodRequest, cpu: i64, memory: i64, policies: Policies) -> Arc<Shape> {
        let key = Key { request: Arc::new(request), cpu, memory, policies: (policies.node, policies.gpu) };
        let mut known = lock(&self.known);
        known.calls += 1;
        let now = known.calls;
        if let Some((shape, used)) = known.shapes.get_mut(&key) {
            *used = now;
            return Arc::clone(shape);
        }
        if known.shapes.len() >= MOST {
            let oldest = known.shapes.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                known.shapes.remove(&oldest);
            }
        }
        let shape =
            Arc::new(Shape { request: Arc::clone(&key.request), cpu, memory, policies, verdicts: Mutex::default() });
        known.shapes.insert(key, (Arc::clone(&shape), now));
        shape
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A cell or an entry is written whole or not at all, so what a panic left behind is still true.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
