//! Shapes: what pods ask for, and what is already known about nodes for it.
//!
//! Most pods are copies of each other, and from one filter call to the next few nodes change. A shape therefore
//! remembers its verdict on each node together with the version of the node that it was made on; only nodes that
//! changed are judged anew. Written and read by filter and prioritize, and by a task beside them that looks at what
//! changed before they ask. Bounded; losing a shape costs one slower call.
//!
//! What is out of date is still a guess: a call that finds more of it than it has time for looks at the most promising
//! nodes and leaves the rest to the task. A new shape begins with the guesses of the most similar one.

mod cell;
mod likeness;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

pub(super) use cell::Glance;

use super::situation::Weighed;
use crate::gpu::fit::{Policies, rank};
use crate::gpu::node::Node;
use crate::gpu::reason::Reason;
use crate::gpu::request::{GpuPolicy, NodePolicy, PodRequest};
use crate::gpu::target::{Aim, Target};
use crate::ledger::{NodeEntry, NodeState, Snapshot};
use cell::Cell;

/// How many shapes are remembered. One takes 16 bytes a node.
const MOST: usize = 192;

/// A shape that was not asked about for so many calls is not kept up to date.
const RECENT: u64 = 2_048;
/// The same where each state of a node costs tens of microseconds: most of that would be for nothing.
const DEAR_RECENT: u64 = 32;

/// How many nodes held by other pods are remembered beside the verdicts.
const MOST_BESIDE: usize = 512;

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
    /// The containers' names are their positions: pods that differ in no more have one shape.
    pub(super) request: Arc<PodRequest>,
    pub(super) cpu: i64,
    pub(super) memory: i64,
    pub(super) policies: Policies,
    /// What all its scores were made for. Changes only while `remembered` is locked, together with all of them.
    target: ArcSwap<Target>,
    remembered: Mutex<Remembered>,
    /// A call found more out of date than it looked at.
    behind: AtomicBool,
}

#[derive(Debug, Default)]
struct Remembered {
    /// By the nodes' slots.
    cells: Vec<Cell>,
    /// Nodes that others will probably go to, by slot.
    beside: HashMap<usize, Beside>,
    /// The greatest of the last rises, fading with each look.
    rise: f64,
}

/// A node as it would be once those who will probably go there have come.
#[derive(Debug, Clone, Copy)]
struct Beside {
    version: u64,
    stamp: u64,
    weighed: Weighed,
}

/// Whether a node can take a pod, and how good that would be for the cluster.
pub(super) type Verdict = Result<f64, Reason>;

/// The verdicts of one shape, locked for one call.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    pub(super) shape: &'a Shape,
    remembered: MutexGuard<'a, Remembered>,
}

impl Shape {
    /// For one call: concurrent calls about the same shape wait for each other, which kube-scheduler never makes.
    pub(super) fn judge(&self) -> Judge<'_> {
        Judge { shape: self, remembered: lock(&self.remembered) }
    }

    /// Much of it is out of date.
    pub(super) fn fell_behind(&self) {
        self.behind.store(true, Ordering::Relaxed);
    }

    /// Without memory: for nodes as nobody else sees them.
    pub(super) fn rank(&self, node: &Node) -> Verdict {
        self.rank_for(node, Aim::from(&*self.target.load()))
    }

    fn rank_for(&self, node: &Node, aim: Aim<'_>) -> Verdict {
        rank(node, &self.request, self.cpu, self.memory, self.policies, aim)
    }

    pub(super) fn verdict(&self, state: &NodeState) -> Verdict {
        verdict_with(state, |node| self.rank(node))
    }
}

impl Judge<'_> {
    /// How well it fits at this version, where that is known and nothing else is worth telling.
    #[inline]
    pub(super) fn fits(&self, slot: usize, version: u64) -> Option<f64> {
        self.remembered.cells.get(slot).and_then(|cell| cell.fits(version))
    }

    /// What is known of a slot's node at this version.
    #[inline]
    pub(super) fn known(&self, slot: usize, version: u64) -> Option<Glance> {
        self.remembered.cells.get(slot).filter(|cell| cell.is_of(version)).map(|cell| cell.read())
    }

    /// How good that node probably is, and whether it repels; `None` where nobody has looked at it.
    pub(super) fn guess(&self, slot: usize) -> Option<(f64, bool)> {
        self.remembered.cells.get(slot).and_then(|cell| cell.guess())
    }

    /// A look at one of the ledger's nodes as it is now.
    pub(super) fn glance(&mut self, entry: &NodeEntry) -> Glance {
        if let Some(glance) = self.known(entry.slot, entry.version()) {
            return glance;
        }
        let cells = &mut self.remembered.cells;
        make_room(cells, entry.slot);
        let snapshot = entry.current.load();
        // Only rarely is the target not the same as a moment ago, hence it is not kept at hand.
        let glance = self.shape.look(&snapshot, &self.shape.target.load());
        cells[entry.slot] = Cell::new(snapshot.version, glance);
        glance
    }

    /// By how much scores have lately been better than guessed, at most.
    pub(super) fn rise(&self) -> f64 {
        self.remembered.rise
    }

    /// A score was better than guessed by so much, or worse.
    pub(super) fn rose(&mut self, by: f64) {
        self.remembered.rise = (self.remembered.rise * FADES).max(by);
    }

    /// How many nodes that are out of date a call may look at.
    pub(super) fn looks(&self) -> usize {
        if self.shape.target.load().is_dear() { DEAR_LOOKS } else { LOOKS }
    }

    /// This version of a slot's node beside the holds of this stamp: as it was found before, or as `weigh` finds it.
    pub(super) fn beside(&mut self, slot: usize, version: u64, stamp: u64, weigh: impl FnOnce() -> Weighed) -> Weighed {
        let beside = &mut self.remembered.beside;
        if let Some(known) = beside.get(&slot).filter(|known| known.version == version && known.stamp == stamp) {
            return known.weighed;
        }
        if beside.len() >= MOST_BESIDE {
            beside.clear();
        }
        let weighed = weigh();
        beside.insert(slot, Beside { version, stamp, weighed });
        weighed
    }
}

/// About as much time as reading 5,000 names takes.
const LOOKS: usize = 48;
/// What is left of a rise at the next look: it counts for a few dozens of them. Three in five looks were spared by it, and the best
/// node was missed no more often.
const FADES: f64 = 0.9;
/// Where each state of a node costs tens of microseconds.
const DEAR_LOOKS: usize = 16;

/// The shapes last asked about.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    known: Mutex<Known>,
    /// For shapes not met before.
    target: ArcSwap<Target>,
    /// A shape was not met before, which the task beside the calls has not been told yet.
    met_new: AtomicBool,
    /// Tells it.
    pub(super) new: Notify,
}

#[derive(Debug, Default)]
struct Known {
    /// With the time of last use, in calls.
    shapes: HashMap<Key, (Arc<Shape>, u64)>,
    calls: u64,
}

impl Shapes {
    /// No shape yet; the first ones are ranked for this target.
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self { target: ArcSwap::new(target), ..Self::default() }
    }

    /// The shape of these pods, remembered or new.
    pub(super) fn of(&self, request: &PodRequest, cpu: i64, memory: i64, policies: Policies) -> Arc<Shape> {
        let request = Arc::new(likeness::unnamed(request));
        let key = Key { request, cpu, memory, policies: (policies.node, policies.gpu) };
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
        let target = self.target.load_full();
        let guesses = known.guesses(&key, &target);
        let shape = Arc::new(Shape {
            request: Arc::clone(&key.request),
            cpu,
            memory,
            policies,
            target: ArcSwap::new(target),
            remembered: Mutex::new(Remembered { cells: guesses, ..Remembered::default() }),
            behind: AtomicBool::default(),
        });
        known.shapes.insert(key, (Arc::clone(&shape), now));
        drop(known);
        shape.fell_behind();
        self.met_new.store(true, Ordering::Relaxed);
        shape
    }
}

impl Shapes {
    /// Tells of new shapes, once a call is answered: to look at all nodes for them beside the call would slow it down.
    pub(super) fn tell_new(&self) {
        if self.met_new.swap(false, Ordering::Relaxed) {
            self.new.notify_one();
        }
    }
}

impl Known {
    /// What the shape most like this one knows.
    fn guesses(&self, key: &Key, target: &Arc<Target>) -> Vec<Cell> {
        let similar = self.shapes.iter().filter_map(|(other, (shape, _))| {
            let same = other.policies == key.policies && Arc::ptr_eq(&shape.target.load(), target);
            let distance = same.then(|| likeness::distance(key, other)).flatten()?;
            Some((distance, shape))
        });
        let nearest = similar.min_by(|a, b| a.0.total_cmp(&b.0));
        // A call that holds this lock has never waited for the list of shapes.
        nearest.map_or_else(Vec::new, |(_, shape)| lock(&shape.remembered).cells.iter().map(|c| c.guessed()).collect())
    }
}

impl Shapes {
    /// From now on everything is ranked for this target: new shapes at once, known ones once all their scores are
    /// there, the last used first, so that no call waits for them. Of shapes that nobody asked about for long only guesses are
    /// kept.
    pub(super) fn aim(&self, target: &Arc<Target>, nodes: &[Arc<NodeEntry>]) {
        self.target.store(Arc::clone(target));
        for (shape, age) in self.by_use() {
            let cells = (age < RECENT).then(|| shape.cells(nodes, target));
            let mut remembered = lock(&shape.remembered);
            let cells = cells.unwrap_or_else(|| remembered.cells.iter().map(|cell| cell.guessed()).collect());
            shape.target.store(Arc::clone(target));
            let before = std::mem::replace(&mut *remembered, Remembered { cells, ..Remembered::default() });
            drop(remembered);
            // Megabytes, given back after the lock.
            drop(before);
        }
    }

    /// Looks at nodes that changed, so that the next call need not; for shapes that fell behind, at all that are out of date.
    pub(super) fn refresh(&self, all: &[Arc<NodeEntry>], since: u64) {
        let changed: Vec<_> = all.iter().filter(|entry| entry.version() > since).cloned().collect();
        let recent = if self.target.load().is_dear() { DEAR_RECENT } else { RECENT };
        for (shape, age) in self.by_use() {
            if shape.behind.swap(false, Ordering::Relaxed) && age < RECENT {
                shape.refresh(all);
            } else if age < recent {
                shape.refresh(&changed);
            }
        }
    }

    /// The last used first, and how many calls ago that was.
    fn by_use(&self) -> Vec<(Arc<Shape>, u64)> {
        let known = lock(&self.known);
        let now = known.calls;
        let mut shapes: Vec<_> = known.shapes.values().map(|(shape, used)| (*used, Arc::clone(shape))).collect();
        drop(known);
        shapes.sort_unstable_by_key(|(used, _)| std::cmp::Reverse(*used));
        shapes.into_iter().map(|(used, shape)| (shape, now - used)).collect()
    }
}

impl Shape {
    /// The verdicts on all nodes for a target that is not in use yet.
    fn cells(&self, nodes: &[Arc<NodeEntry>], target: &Arc<Target>) -> Vec<Cell> {
        let most = nodes.iter().map(|entry| entry.slot + 1).max().unwrap_or(0);
        let mut cells = vec![Cell::NEVER; most.next_multiple_of(256)];
        for some in nodes.chunks(AT_ONCE) {
            for entry in some {
                let snapshot = entry.current.load();
                cells[entry.slot] = Cell::new(snapshot.version, self.look(&snapshot, target));
            }
            give_way();
        }
        cells
    }

    fn refresh(&self, changed: &[Arc<NodeEntry>]) {
        let (stale, target) = {
            let remembered = lock(&self.remembered);
            let is_stale = |entry: &&Arc<NodeEntry>| {
                remembered.cells.get(entry.slot).is_none_or(|cell| !cell.is_of(entry.version()))
            };
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
            let mut remembered = lock(&self.remembered);
            if !Arc::ptr_eq(&target, &self.target.load()) {
                return;
            }
            for (slot, cell) in fresh {
                make_room(&mut remembered.cells, slot);
                remembered.cells[slot] = cell;
            }
            drop(remembered);
            give_way();
        }
    }

    fn look(&self, snapshot: &Snapshot, target: &Arc<Target>) -> Glance {
        Glance {
            verdict: verdict_with(&snapshot.state, |node| self.rank_for(node, snapshot.worth.aim(node, target))),
            repels: snapshot.prefer_no_schedule,
            nominated: !snapshot.nominated.is_empty(),
        }
    }
}

/// The verdict on a node in this state, ranked where it is usable.
fn verdict_with(state: &NodeState, rank: impl FnOnce(&Node) -> Verdict) -> Verdict {
    match state {
        NodeState::Usable(node) => rank(node),
        NodeState::NoInventory => Err(Reason::NoInventory),
        NodeState::Damaged => Err(Reason::InventoryDamaged),
    }
}

/// Nodes looked at between two looks at the lock.
const AT_ONCE: usize = 64;

/// A call may wait for this very core: on a small machine it would otherwise have to wait for milliseconds, until the kernel takes
/// the core away from the task beside the calls.
fn give_way() {
    std::thread::yield_now();
}

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
mod tests;

#[cfg(test)]
mod bounds {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn remembers_the_shapes_last_used() {
        let shapes = Shapes::default();
        let shape = |cpu: i64| shapes.of(&PodRequest::default(), cpu, 0, Policies::default());
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
