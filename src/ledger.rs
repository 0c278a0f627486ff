//! The server's view of the cluster: every node's inventory and every live allocation on it.
//!
//! Fed by watches ([`watch`](Ledger::watch)) or, in tests and the demo, by `apply_*` and `remove_*`; read by the extender through
//! snapshots; sharded by node: a node's truth is behind its own lock, and each change publishes a new immutable [`Snapshot`], so
//! that a filter never waits for a bind or for a watch event.
//!
//! What is uncertain is held, never free: a booking until the watch or a GET has told its end, a pod that vanished until a GET
//! has confirmed it, every device that a damaged allocation can be read to name.

mod booking;
mod doubt;
mod events;
mod intern;
mod labels;
mod learning;
mod listeners;
mod metrics;
mod node;
mod nodes;
mod pods;
mod reading;
mod report;
mod settings;
mod version;
mod watch;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use dashmap::DashMap;

pub use booking::{BookError, BookingPod};
pub use doubt::Question;
pub use labels::Labels;
pub use metrics::Metrics;
pub use node::{NodeEntry, NodeState, Nominated, Snapshot};
pub use nodes::NodeRelist;
pub use pods::{Damage, PodEntry, PodRelist};
pub use settings::Settings;

use intern::{Interner, Shared};
use node::Truth;
pub use version::Block;
use version::{Slots, Versions};

use crate::gpu::topology::Topology;

/// How many pods can change at once without waiting for each other.
const STRIPES: usize = 256;

/// The cluster in memory. Shared by `Arc`.
///
/// Lock order: a pod's turn, then one node's truth; never two nodes at once. No guard of a map is held while a lock is taken.
#[derive(Debug)]
pub struct Ledger {
    settings: Arc<ArcSwap<Settings>>,
    metrics: Metrics,
    nodes: DashMap<Arc<str>, Arc<NodeEntry>>,
    /// Bound, booked, and nominated pods by UID.
    pods: DashMap<Arc<str>, Arc<PodEntry>>,
    /// Whoever changes a pod takes its turn, so that a bind and a watch event of the same pod never interleave.
    turns: Box<[Mutex<()>]>,
    hasher: RandomState,
    doubts: doubt::Doubts,
    listeners: listeners::Listeners,
    reports: report::Reports,
    strings: Interner,
    labels: labels::Common,
    topologies: Shared<Topology>,
    versions: Versions,
    slots: Slots,
    changes: tokio::sync::watch::Sender<u64>,
    learning: learning::Learning,
    nodes_listed: AtomicBool,
    pods_listed: AtomicBool,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new(Arc::default(), Metrics::default())
    }
}

impl Ledger {
    /// An empty ledger, not ready.
    pub fn new(settings: Arc<ArcSwap<Settings>>, metrics: Metrics) -> Self {
        Self {
            settings,
            metrics,
            nodes: DashMap::new(),
            pods: DashMap::new(),
            turns: (0..STRIPES).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            doubts: doubt::Doubts::default(),
            listeners: listeners::Listeners::default(),
            reports: report::Reports::default(),
            strings: Interner::default(),
            labels: labels::Common::default(),
            topologies: Shared::default(),
            versions: Versions::default(),
            slots: Slots::default(),
            changes: tokio::sync::watch::Sender::new(0),
            learning: learning::Learning::default(),
            nodes_listed: AtomicBool::new(false),
            pods_listed: AtomicBool::new(false),
        }
    }

    /// Whether the first lists of nodes and pods have been applied.
    pub fn is_ready(&self) -> bool {
        self.nodes_listed.load(Ordering::Acquire) && self.pods_listed.load(Ordering::Acquire)
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<Arc<NodeEntry>> {
        self.nodes.get(name).map(|entry| Arc::clone(&entry)).filter(|entry| entry.is_known())
    }

    /// Grows with every change of any node.
    pub fn version(&self) -> u64 {
        self.versions.last()
    }

    /// All nodes, in no order.
    pub fn nodes(&self) -> Vec<Arc<NodeEntry>> {
        self.nodes.iter().filter(|entry| entry.is_known()).map(|entry| Arc::clone(entry.value())).collect()
    }

    /// One live pod by UID: bound, booked, or pending with a nominated node.
    pub fn pod(&self, uid: &str) -> Option<Arc<PodEntry>> {
        self.pods.get(uid).map(|entry| Arc::clone(&entry))
    }

    /// All pods of [`Ledger::pod`], in no order.
    pub fn pods(&self) -> Vec<Arc<PodEntry>> {
        self.pods.iter().map(|entry| Arc::clone(entry.value())).collect()
    }

    /// All GPU pods on a node, bound or booked, sorted by UID.
    pub fn pods_on(&self, node: &str) -> Vec<Arc<PodEntry>> {
        let Some(entry) = self.nodes.get(node).map(|entry| Arc::clone(&entry)) else { return Vec::new() };
        let mut pods: Vec<Arc<PodEntry>> = entry.lock().pods.values().cloned().collect();
        pods.sort_by(|a, b| a.uid.cmp(&b.uid));
        pods
    }

    /// A counter that grows whenever room may have become available; for tasks that wait for it.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn settings(&self) -> arc_swap::Guard<Arc<Settings>> {
        self.settings.load()
    }

    fn room_may_be_free(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// The turn of one pod.
    fn turn(&self, uid: &str) -> MutexGuard<'_, ()> {
        // The modulo keeps it in range; a turn guards no data of its own that a panic could spoil.
        let stripe = usize::try_from(self.hasher.hash_one(uid) % STRIPES as u64).unwrap_or(0);
        self.turns[stripe].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `change` under the lock of the node, which is made where it does not exist, and removed where nothing is left of it.
    fn on_node<R>(&self, name: &str, change: impl FnOnce(&NodeEntry, &mut Truth) -> R) -> R {
        loop {
            let known = self.nodes.get(name).map(|entry| Arc::clone(&entry));
            let entry = known.unwrap_or_else(|| {
                let name = self.strings.get(name);
                let entry = self
                    .nodes
                    .entry(Arc::clone(&name))
                    .or_insert_with(|| Arc::new(NodeEntry::new(name, self.slots.take(), &self.versions)));
                Arc::clone(&entry)
            });
            let mut truth = entry.lock();
            if truth.removed {
                continue;
            }
            let result = change(&entry, &mut truth);
            if truth.is_empty() {
                truth.removed = true;
                self.nodes.remove(&entry.name);
            }
            return result;
        }
    }
}
