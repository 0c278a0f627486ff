//! The server's view of the cluster: every node's inventory and every live allocation on it.
//!
//! Fed by watches (`watch`), read by the extender through snapshots, sharded by node: a node's truth is behind its own lock,
//! and each change publishes a new immutable [`Snapshot`], so that a filter never waits for a bind or for a watch event.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use dashmap::DashMap;

use crate::gpu::allocation::{Allocation, Holding};
use crate::gpu::node::Node;
use crate::gpu::reason::Reason;

/// What placement can know of a node.
#[derive(Debug, Clone)]
pub enum NodeState {
    /// Its inventory is readable.
    Usable(Node),
    /// No inventory was published.
    NoInventory,
    /// The inventory cannot be read.
    Damaged,
}

/// One immutable version of a node.
#[derive(Debug)]
pub struct Snapshot {
    /// Grows with every change of this node; never repeats within a process.
    pub version: u64,
    /// The node.
    pub state: NodeState,
    /// Whether the node carries a `PreferNoSchedule` taint: a preference that our opinion must not drown.
    pub prefer_no_schedule: bool,
}

/// One node of the ledger.
#[derive(Debug)]
pub struct NodeEntry {
    /// The node's name.
    pub name: Arc<str>,
    /// Dense and stable while the node lives: an index into caches.
    pub slot: usize,
    pub(crate) current: ArcSwap<Snapshot>,
}

impl NodeEntry {
    /// The newest version.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }
}

/// A pod about to be bound.
#[derive(Debug, Clone)]
pub struct BookingPod {
    /// The pod's UID.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// CPU it requests, millicores.
    pub cpu: i64,
    /// Host memory it requests, bytes.
    pub memory: i64,
}

/// Why a booking was not made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BookError {
    /// The ledger does not know the node.
    #[error("node {0} is not known")]
    UnknownNode(String),
    /// The pod does not fit any more.
    #[error("{}", .0.as_str())]
    NoFit(Reason),
    /// The pod holds devices of another node already.
    #[error("pod is already booked on node {0}")]
    BookedElsewhere(String),
}

/// What the ledger knows of one live pod.
#[derive(Debug, Clone)]
pub struct PodEntry {
    /// The pod's UID.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Where it is bound, or booked.
    pub node: Option<Arc<str>>,
    /// `spec.priority`, 0 where absent.
    pub priority: i32,
    /// Per device.
    pub holdings: Arc<[Holding]>,
    /// Whether the watch has shown it bound; false while only our bind says so.
    pub confirmed: bool,
}

/// The cluster in memory. Shared by `Arc`.
#[derive(Debug, Default)]
pub struct Ledger {
    nodes: DashMap<Arc<str>, Arc<NodeEntry>>,
    pods: DashMap<Arc<str>, Arc<PodEntry>>,
    ready: AtomicBool,
}

impl Ledger {
    /// Whether the first lists of nodes and pods have been applied.
    pub fn is_ready(&self) -> bool {
        self.ready.load(std::sync::atomic::Ordering::Acquire)
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<Arc<NodeEntry>> {
        self.nodes.get(name).map(|entry| Arc::clone(&entry))
    }

    /// All nodes, in no order.
    pub fn nodes(&self) -> Vec<Arc<NodeEntry>> {
        self.nodes.iter().map(|entry| Arc::clone(entry.value())).collect()
    }

    /// One live pod by UID.
    pub fn pod(&self, uid: &str) -> Option<Arc<PodEntry>> {
        self.pods.get(uid).map(|entry| Arc::clone(&entry))
    }

    /// All pods on a node, bound or booked.
    pub fn pods_on(&self, node: &str) -> Vec<Arc<PodEntry>> {
        let _ = node;
        unimplemented!("skeleton")
    }

    /// Chooses and books under the node's lock: `choose` sees the node as it is this instant. Idempotent per UID: a pod already
    /// booked or bound on this node gets the allocation it has. The booking stands until the watch shows the pod bound there, or
    /// [`Ledger::unbook`].
    ///
    /// # Errors
    /// See [`BookError`]; nothing is booked then.
    pub fn book(
        &self,
        node: &str,
        pod: &BookingPod,
        choose: impl FnOnce(&Node) -> Result<(Allocation, Vec<Holding>), Reason>,
    ) -> Result<Allocation, BookError> {
        let _ = (node, pod, choose);
        unimplemented!("skeleton")
    }

    /// Takes a booking back after a bind that certainly failed. Does nothing where the watch has confirmed the pod meanwhile.
    pub fn unbook(&self, uid: &str) {
        let _ = uid;
        unimplemented!("skeleton")
    }

    /// A counter that grows whenever room may have become available; for tasks that wait for it.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        unimplemented!("skeleton")
    }
}
