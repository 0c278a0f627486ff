//! Shapes: what pods ask for, and what is already known about nodes for it.
//!
//! Most pods are copies of each other, and from one filter call to the next few nodes change. A shape therefore
//! remembers its verdict on each node together with the version of the node that it was made on; only nodes that
//! changed are judged anew. Written and read by filter and prioritize, and by a task beside them that looks at what
//! changed before they ask. Bounded; losing a shape costs one slower call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use crate::gpu::fit::{Policies, rank};
use crate::gpu::node::Node;
use crate::gpu::reason::Reason;
use crate::gpu::request::{GpuPolicy, NodePolicy, PodRequest};
use crate::gpu::target::Target;
use crate::ledger::{NodeEntry, NodeState, Snapshot};

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
    /// What all its scores were made for. Changes only while `verdicts` is locked, together with all of them.
    target: ArcSwap<Target>,
    verdicts: Mutex<Vec<Cell>>,
}

/// A verdict on one version of a node, in 16 bytes: with thousands of nodes and many shapes it is their number that
/// costs memory and time.
#[derive(Debug, Clone, Copy)]
struct Cell {
    /// The snapshot's version in the lower bits, what else is known of it in the upper eight.
    tag: u64,
    /// The score where it fits.
    score: f64,
}

impl Cell {
    const NEVER: Self = Self { tag: u64::MAX, score: 0.0 };
    const VERSION: u64 = (1 << 56) - 1;
    /// 0 where the pod fits, else one more than the reason.
    const REASON: u64 = 0x1f << 56;
    const REPELS: u64 = 1 << 61;
    const NOMINATED: u64 = 1 << 62;

    fn new(version: u64, Glance { verdict, repels, nominated }: Glance) -> Self {
        let mut tag = version & Self::VERSION;
        if repels {
            tag |= Self::REPELS;
        }
        if nominated {
            tag |= Self::NOMINATED;
        }
        match verdict {
            Ok(score) => Self { tag, score },
            Err(reason) => Self { tag: tag | (reason as u64 + 1) << 56, score: 0.0 },
        }
    }

    fn is_of(self, version: u64) -> bool {
        // `NEVER` has all bits set: no version that large is ever reached.
        self.tag & Self::VERSION == version
    }

    fn read(self) -> Glance {
        let verdict = match (self.tag & Self::REASON) >> 56 {
            0 => Ok(self.score),
            code => Err(Reason::ALL[(code as usize - 1).min(Reason::ALL.len() - 1)]),
        };
        Glance { verdict, repels: self.tag & Self::REPELS != 0, nominated: self.tag & Self::NOMINATED != 0 }
    }
}

/// What is known of a node for pods of one shape, leaving out what other pods will probably do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Glance {
    pub(super) verdict: Verdict,
    /// It carries a `PreferNoSchedule` taint.
    pub(super) repels: bool,
    /// Pods are nominated to it.
    pub(super) nominated: bool,
}

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
        self.rank_for(node, &self.target.load())
    }

    fn rank_for(&self, node: &Node, target: &Target) -> Verdict {
        rank(node, &self.request, self.cpu, self.memory, self.policies, target)
    }

    pub(super) fn verdict(&self, state: &NodeState) -> Verdict {
        self.verdict_for(state, &self.target.load())
    }

    fn verdict_for(&self, state: &NodeState, target: &Target) -> Verdict {
        match state {
            NodeState::Usable(node) => self.rank_for(node, target),
            NodeState::NoInventory => Err(Reason::NoInventory),
            NodeState::Damaged => Err(Reason::InventoryDamaged),
        }
    }
}

impl Judge<'_> {
    /// A look at one of the ledger's nodes as it is now.
    pub(super) fn glance(&mut self, entry: &NodeEntry) -> Glance {
        make_room(&mut self.cells, entry.slot);
        let cell = &mut self.cells[entry.slot];
        if !cell.is_of(entry.version()) {
            let snapshot = entry.current.load();
            // Only rarely is the target not the same as a moment ago, hence it is not kept at hand.
            *cell = Cell::new(snapshot.version, self.shape.look(&snapshot, &self.shape.target.load()));
        }
        cell.read()
    }
}

/// The shapes last asked about.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    known: Mutex<Known>,
    /// For shapes not met before.
    target: ArcSwap<Target>,
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
        let shape = Arc::new(Shape {
            request: Arc::clone(&key.request),
            cpu,
            memory,
            policies,
            target: ArcSwap::new(self.target.load_full()),
            verdicts: Mutex::default(),
        });
        known.shapes.insert(key, (Arc::clone(&shape), now));
        shape
    }
}

impl Shapes {
    /// From now on everything is ranked for this target: new shapes at once, known ones once all their scores are
    /// there, the last used first, so that no call waits for them.
    pub(super) fn aim(&self, target: &Arc<Target>, nodes: &[Arc<NodeEntry>]) {
        self.target.store(Arc::clone(target));
        for shape in self.by_use() {
            let cells = shape.cells(nodes, target);
            let mut verdicts = lock(&shape.verdicts);
            shape.target.store(Arc::clone(target));
            let before = std::mem::replace(&mut *verdicts, cells);
            drop(verdicts);
            // Megabytes, given back after the lock.
            drop(before);
        }
    }

    /// Looks at nodes that changed, so that the next call need not.
    pub(super) fn refresh(&self, changed: &[Arc<NodeEntry>]) {
        for shape in self.by_use() {
            shape.refresh(changed);
        }
    }

    /// The last used first.
    fn by_use(&self) -> Vec<Arc<Shape>> {
        let known = lock(&self.known);
        let mut shapes: Vec<_> = known.shapes.values().map(|(shape, used)| (*used, Arc::clone(shape))).collect();
        drop(known);
        shapes.sort_unstable_by_key(|(used, _)| std::cmp::Reverse(*used));
        shapes.into_iter().map(|(_, shape)| shape).collect()
    }
}

impl Shape {
    /// The verdicts on all nodes for a target that is not in use yet.
    fn cells(&self, nodes: &[Arc<NodeEntry>], target: &Target) -> Vec<Cell> {
        let most = nodes.iter().map(|entry| entry.slot + 1).max().unwrap_or(0);
        let mut cells = vec![Cell::NEVER; most.next_multiple_of(256)];
        for entry in nodes {
            let snapshot = entry.current.load();
            cells[entry.slot] = Cell::new(snapshot.version, self.look(&snapshot, target));
        }
        cells
    }

    fn refresh(&self, changed: &[Arc<NodeEntry>]) {
        let (stale, target) = {
            let verdicts = lock(&self.verdicts);
            let is_stale =
                |entry: &&Arc<NodeEntry>| verdicts.get(entry.slot).is_none_or(|cell| !cell.is_of(entry.version()));
            (changed.iter().filter(is_stale).collect::<Vec<_>>(), self.target.load_full())
        };
        for some in stale.chunks(AT_ONCE) {
            let fresh: Vec<(usize, Cell)> = some
                .iter()
                .map(|entry| {
                    let snapshot = entry.current.load();
                    (entry.slot, Cell::new(snapshot.version, self.look(&snapshot, &target)))
                })
                .collect();
            let mut verdicts = lock(&self.verdicts);
            if !Arc::ptr_eq(&target, &self.target.load()) {
                return;
            }
            for (slot, cell) in fresh {
                make_room(&mut verdicts, slot);
                verdicts[slot] = cell;
            }
        }
    }

    fn look(&self, snapshot: &Snapshot, target: &Target) -> Glance {
        Glance {
            verdict: self.verdict_for(&snapshot.state, target),
            repels: snapshot.prefer_no_schedule,
            nominated: !snapshot.nominated.is_empty(),
        }
    }
}

/// Nodes looked at between two looks at the lock.
const AT_ONCE: usize = 256;

fn make_room(cells: &mut Vec<Cell>, slot: usize) {
    if slot >= cells.len() {
        cells.resize((slot + 1).next_multiple_of(256), Cell::NEVER);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A cell or an entry is written whole or not at all, so what a panic left behind is still true.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_cell_tells_what_was_put_in() {
        for (version, repels, nominated) in [(1, false, false), (u64::MAX >> 9, true, true), (7, true, false)] {
            let verdicts = Reason::ALL.into_iter().map(Err).chain([Ok(0.0), Ok(-3.5), Ok(f64::MIN)]);
            for verdict in verdicts {
                let glance = Glance { verdict, repels, nominated };
                let cell = Cell::new(version, glance);
                assert!(cell.is_of(version) && !cell.is_of(version + 1));
                assert_eq!(cell.read(), glance);
            }
        }
        assert!(!Cell::NEVER.is_of(0) && !Cell::NEVER.is_of(1));
    }

    #[test]
    fn remembers_the_shapes_last_used() {
        let shapes = Shapes::default();
        let shape = |cpu: i64| shapes.of(PodRequest::default(), cpu, 0, Policies::default());
        let first = shape(0);
        for cpu in 1..MOST as i64 {
            shape(cpu);
        }
        assert!(Arc::ptr_eq(&first, &shape(0)), "still there, and used");
        let second = shape(1);
        shape(MOST as i64);
        shape(MOST as i64 + 1);
        assert!(Arc::ptr_eq(&first, &shape(0)));
        assert!(Arc::ptr_eq(&second, &shape(1)));
        assert_eq!(lock(&shapes.known).shapes.len(), MOST);
    }
}
