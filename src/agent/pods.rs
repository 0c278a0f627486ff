//! The pods bound to this node, as the API server last told. Written by one watch; read by the check at container start, the
//! publisher (totals) and the preference of slots. A lagging or broken watch leaves the last good state; who needs certainty
//! about one pod asks for it by a GET.

mod convert;
mod source;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::gpu::allocation::Allocation;
use crate::gpu::request::{Phase, PodRequest};

pub use source::Source;

/// By which way a pod came to its node, as its own object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It carries our whole mark (wire-format.md), or asks for no device.
    Packhorse,
    /// It carries a part of our mark; says which part is missing.
    Incomplete(String),
    /// Nothing on it is ours: it never met the webhook and names another scheduler.
    Foreign,
}

/// What the agent keeps of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePod {
    /// The pod's UID: its identity, here and on disk.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The node it is bound to, empty where to none.
    pub node: Arc<str>,
    /// It has ended: phase `Succeeded` or `Failed`.
    pub ended: bool,
    /// Somebody asked for its deletion.
    pub deleting: bool,
    /// Creation, RFC 3339, for the order of age.
    pub created: String,
    /// Every container but ephemeral ones with its phase, init containers first.
    pub containers: Vec<(Arc<str>, Phase)>,
    /// Containers that run, by the kubelet's last word.
    pub running: Vec<RunningContainer>,
    /// By which way it came.
    pub origin: Origin,
    /// What it asks for; an error is the webhook's denial in words.
    pub request: Result<PodRequest, String>,
    /// What it was given at bind; `None`: no such annotation; an error names what cannot be read.
    pub allocation: Option<Result<Allocation, String>>,
    /// What it requests of the node's totals by Kubernetes' arithmetic: MiB, percent.
    pub totals: (u64, u64),
    /// Slots it asks the kubelet for, by container and resource (`nvidia.com/gpu`, `nvidia.com/mig-*`).
    pub slots: BTreeMap<Arc<str>, BTreeMap<String, u32>>,
}

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningContainer {
    /// Its name in the pod.
    pub name: Arc<str>,
    /// The container runtime's, without `containerd://` and the like.
    pub id: Arc<str>,
}

impl NodePod {
    /// `namespace/name`, for people.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Pods by UID, each with its place in the order of arrival.
#[derive(Debug, Default)]
struct Known {
    by_uid: HashMap<Arc<str>, (u64, Arc<NodePod>)>,
    next: u64,
}

impl Known {
    fn insert(&mut self, pod: NodePod) {
        let arrival = self.by_uid.get(&pod.uid).map_or(self.next, |(arrival, _)| *arrival);
        self.next += 1;
        self.by_uid.insert(Arc::clone(&pod.uid), (arrival, Arc::new(pod)));
    }
}

/// All pods of this node, by UID.
#[derive(Debug)]
pub struct Pods {
    pods: Mutex<Known>,
    /// Counts changes; 0 until the first list is complete.
    version: watch::Sender<u64>,
}

impl Default for Pods {
    fn default() -> Self {
        Self { pods: Mutex::default(), version: watch::Sender::new(0) }
    }
}

impl Pods {
    /// The pod of that UID, if the watch has told of it.
    pub fn get(&self, uid: &str) -> Option<Arc<NodePod>> {
        self.lock().by_uid.get(uid).map(|(_, pod)| Arc::clone(pod))
    }

    /// All of them, in the order in which they were first told of: that in which the kubelet is told of them too. Those that came
    /// with one list are in order of age.
    pub fn list(&self) -> Vec<Arc<NodePod>> {
        let mut pods: Vec<_> = self.lock().by_uid.values().cloned().collect();
        pods.sort_unstable_by_key(|(arrival, _)| *arrival);
        pods.into_iter().map(|(_, pod)| pod).collect()
    }

    /// Whether the first list is complete.
    pub fn is_complete(&self) -> bool {
        *self.version.borrow() > 0
    }

    /// Wakes whoever follows the pods; the value means nothing but that it changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// A new or changed pod.
    pub fn apply(&self, pod: NodePod) {
        self.lock().insert(pod);
        self.changed();
    }

    /// A pod that is gone from the API server.
    pub fn remove(&self, uid: &str) {
        if self.lock().by_uid.remove(uid).is_some() {
            self.changed();
        }
    }

    /// All pods there are: a complete list.
    pub fn replace(&self, pods: impl IntoIterator<Item = NodePod>) {
        let mut pods: Vec<NodePod> = pods.into_iter().collect();
        pods.sort_by(|a, b| (&a.created, &a.uid).cmp(&(&b.created, &b.uid)));
        let mut known = self.lock();
        known.by_uid.retain(|uid, _| pods.iter().any(|pod| pod.uid == *uid));
        pods.into_iter().for_each(|pod| known.insert(pod));
        drop(known);
        self.version.send_modify(|version| *version += 1);
    }

    /// Before the first complete list nothing counts as a change.
    fn changed(&self) {
        self.version.send_if_modified(|version| {
            let complete = *version > 0;
            *version += u64::from(complete);
            complete
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        // Every change is one call on the map: it is whole even if its caller panicked.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
