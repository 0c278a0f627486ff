//! One node: its truth behind a lock, and the immutable versions that readers see.
//!
//! Written by the watch (`apply_node`), by pods that come and go, and by bookings; every change publishes a new [`Snapshot`].
//! What pods hold is kept whether or not the node's inventory lists the device, and counted again whenever it does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::labels::Labels;
use super::pods::{Damage, PodEntry};
use super::version::{Block, Slot, Versions};
use crate::gpu::allocation::Holding;
use crate::gpu::device::Refused;
use crate::gpu::node::Node;
use crate::gpu::request::PodRequest;
use crate::gpu::target::Worth;

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

/// A pending pod that kube-scheduler, or our own nomination, wants on this node: its room is firm against lower priorities.
#[derive(Debug, Clone, PartialEq)]
pub struct Nominated {
    /// The pod's UID.
    pub uid: Arc<str>,
    /// `spec.priority`, 0 where absent.
    pub priority: i32,
    /// What it asks; `None` where it cannot be read, which holds no room.
    pub request: Option<Arc<PodRequest>>,
    /// Millicores.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
}

/// One immutable version of a node.
#[derive(Debug)]
pub struct Snapshot {
    /// Grows with every change of this node; never repeats within a process, not even on another node.
    pub version: u64,
    /// The node.
    pub state: NodeState,
    /// Whether the node carries a `PreferNoSchedule` taint: a preference that our opinion must not drown.
    pub prefer_no_schedule: bool,
    /// Whether kube-scheduler would put an ordinary pod here: the node is Ready and not cordoned as a whole. Only a hint for
    /// nomination; verdicts leave it to kube-scheduler.
    pub schedulable: bool,
    /// The node's labels, where the settings keep them.
    pub labels: Option<Labels>,
    /// Pods bound here that the node's agent refuses to start. Mostly empty.
    pub refused: Arc<[Refused]>,
    /// Pending pods nominated to this node, highest priority first, then by UID. Mostly empty.
    pub nominated: Arc<[Nominated]>,
    /// Of a usable node.
    pub worth: Worth,
}

/// One node of the ledger.
#[derive(Debug)]
pub struct NodeEntry {
    /// The node's name.
    pub name: Arc<str>,
    /// Dense, and of no other node as long as anybody knows this entry: an index into caches.
    pub slot: usize,
    pub(crate) current: ArcSwap<Snapshot>,
    /// Where the version of the newest snapshot is.
    place: Slot,
    truth: Mutex<Truth>,
}

/// What the lock guards.
#[derive(Debug, Default)]
pub(super) struct Truth {
    pub(super) info: Option<NodeInfo>,
    /// GPU pods bound or booked here.
    pub(super) pods: HashMap<Arc<str>, Arc<PodEntry>>,
    /// Host requests of the other pods here.
    pub(super) host: HashMap<PodKey, HostRequest>,
    host_sum: HostRequest,
    nominated: Arc<[Nominated]>,
    /// Taken out of the ledger's map; whoever still holds the entry must look it up again.
    pub(super) removed: bool,
}

/// What the Node object says.
#[derive(Debug, Clone)]
pub(super) struct NodeInfo {
    pub(super) devices: Devices,
    pub(super) refused: Arc<[Refused]>,
    pub(super) prefer_no_schedule: bool,
    pub(super) schedulable: bool,
    pub(super) labels: Option<Labels>,
    pub(super) host: HostRequest,
    /// Of the annotations and labels that `devices` was read from: unchanged text is not read again.
    pub(super) text: u64,
}

/// The inventory with nothing booked.
#[derive(Debug, Clone)]
pub(super) enum Devices {
    Listed(Node),
    None,
    Damaged,
}

/// CPU and memory of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct HostRequest {
    /// Millicores.
    pub(super) cpu: i64,
    /// Bytes.
    pub(super) memory: i64,
    /// Of a pod that is there for the node's sake (`DaemonSet`, static): nothing is learned from it.
    pub(super) of_node: bool,
}

/// A pod's UID in 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PodKey(u128);

impl PodKey {
    pub(super) fn new(uid: &str) -> Self {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        let digits: String = uid.chars().filter(|c| *c != '-').collect();
        if uid.len() == 36
            && digits.len() == 32
            && let Ok(number) = u128::from_str_radix(&digits, 16)
        {
            return Self(number);
        }
        // Kubernetes makes UUIDs; anything else is folded into as many bits.
        let hash = BuildHasherDefault::<DefaultHasher>::default();
        let (high, low) = (hash.hash_one((1, uid)), hash.hash_one((2, uid)));
        Self(u128::from(high) << 64 | u128::from(low))
    }
}

impl NodeEntry {
    pub(super) fn new(name: Arc<str>, place: Slot, versions: &Versions) -> Self {
        let nothing = Snapshot {
            version: versions.next(),
            state: NodeState::NoInventory,
            prefer_no_schedule: false,
            schedulable: false,
            labels: None,
            refused: Arc::default(),
            nominated: Arc::default(),
            worth: Worth::default(),
        };
        Self { name, slot: place.index, current: ArcSwap::from_pointee(nothing), place, truth: Mutex::default() }
    }

    /// What [`NodeEntry::version`] says where there is no such Node object.
    pub const UNKNOWN: u64 = 0;

    /// The version of the newest snapshot, cheaper than the snapshot itself; [`NodeEntry::UNKNOWN`] where the Node object does not
    /// exist: pods alone also make an entry, because they may be seen first, and a reader may keep one that the ledger dropped.
    pub fn version(&self) -> u64 {
        self.place.version()
    }

    /// Where its version is, and those of its neighbours: to read many at once.
    pub fn block(&self) -> &Arc<Block> {
        &self.place.block
    }

    /// The newest version.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    pub(super) fn is_known(&self) -> bool {
        self.version() != Self::UNKNOWN
    }

    /// The truth. Never held across an await or while another node's is taken.
    pub(super) fn lock(&self) -> MutexGuard<'_, Truth> {
        // A panic of the chooser happens before anything is changed.
        self.truth.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes what `truth` says now.
    pub(super) fn publish(&self, truth: &Truth, versions: &Versions) {
        let snapshot = truth.snapshot(versions);
        let version = if truth.info.is_some() { snapshot.version } else { Self::UNKNOWN };
        self.current.store(Arc::new(snapshot));
        self.place.publish(version);
    }
}

impl Truth {
    /// Whether changes of pods show in a snapshot at all.
    pub(super) fn has_devices(&self) -> bool {
        self.info.as_ref().is_some_and(|info| matches!(info.devices, Devices::Listed(_)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.info.is_none() && self.pods.is_empty() && self.host.is_empty() && self.nominated.is_empty()
    }

    /// Sets or removes another pod's host request; true where something changed.
    pub(super) fn set_host(&mut self, key: PodKey, request: Option<HostRequest>) -> bool {
        let before = match request {
            Some(request) => self.host.insert(key, request),
            None => self.host.remove(&key),
        };
        if before == request {
            return false;
        }
        let (before, now) = (before.unwrap_or_default(), request.unwrap_or_default());
        self.host_sum.cpu = self.host_sum.cpu.saturating_sub(before.cpu).saturating_add(now.cpu);
        self.host_sum.memory = self.host_sum.memory.saturating_sub(before.memory).saturating_add(now.memory);
        true
    }

    /// Forgets the host requests of pods that `keep` does not name, and gives them.
    pub(super) fn retain_host(&mut self, keep: impl Fn(&PodKey) -> bool) -> Vec<HostRequest> {
        let gone: Vec<_> = self.host.iter().filter(|(key, _)| !keep(key)).map(|(key, host)| (*key, *host)).collect();
        for (key, _) in &gone {
            self.set_host(*key, None);
        }
        gone.into_iter().map(|(_, host)| host).collect()
    }

    /// Sets or removes one nomination; true where something changed.
    pub(super) fn set_nominated(&mut self, uid: &str, nominated: Option<Nominated>) -> bool {
        let known = self.nominated.iter().find(|n| *n.uid == *uid);
        if known == nominated.as_ref() {
            return false;
        }
        let mut all: Vec<Nominated> = self.nominated.iter().filter(|n| *n.uid != *uid).cloned().collect();
        all.extend(nominated);
        all.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.uid.cmp(&b.uid)));
        self.nominated = all.into();
        true
    }

    /// Everything the pods here hold, from the start: the same whatever the order in which they came.
    fn snapshot(&self, versions: &Versions) -> Snapshot {
        let Some(info) = &self.info else {
            return Snapshot {
                version: versions.next(),
                state: NodeState::NoInventory,
                prefer_no_schedule: false,
                schedulable: false,
                labels: None,
                refused: Arc::default(),
                nominated: Arc::clone(&self.nominated),
                worth: Worth::default(),
            };
        };
        let state = match &info.devices {
            Devices::None => NodeState::NoInventory,
            Devices::Damaged => NodeState::Damaged,
            Devices::Listed(empty) => {
                let mut node = empty.clone();
                for pod in self.pods.values() {
                    book(&mut node, pod);
                }
                if info.host != HostRequest::default() {
                    node.cpu = info.host.cpu;
                    node.memory = info.host.memory;
                    let cpu = self.pods.values().fold(self.host_sum.cpu, |sum, pod| sum.saturating_add(pod.cpu));
                    let memory =
                        self.pods.values().fold(self.host_sum.memory, |sum, pod| sum.saturating_add(pod.memory));
                    node.cpu_left = Some(info.host.cpu.saturating_sub(cpu));
                    node.memory_left = Some(info.host.memory.saturating_sub(memory));
                }
                NodeState::Usable(node)
            }
        };
        Snapshot {
            version: versions.next(),
            state,
            prefer_no_schedule: info.prefer_no_schedule,
            schedulable: info.schedulable,
            labels: info.labels.clone(),
            refused: Arc::clone(&info.refused),
            nominated: Arc::clone(&self.nominated),
            worth: Worth::default(),
        }
    }
}

/// Books what one pod holds. One whose devices cannot all be read may be on any device of the node: it holds them all.
fn book(node: &mut Node, pod: &PodEntry) {
    if pod.damaged == Some(Damage::Partly) {
        let all: Vec<Holding> = node.devices.iter().map(|d| whole(&d.uuid, d.memory, d.cores)).collect();
        node.book(&all);
    } else {
        node.book(&pod.holdings);
    }
}

/// A device held as a whole by a pod of which no more is known.
pub(super) fn whole(device: &Arc<str>, memory: u32, cores: u16) -> Holding {
    Holding { device: Arc::clone(device), memory, cores, slots: 1, exclusive: true }
}

/// Whether `after` may have room that `before` had not: any device added, given back, or back in order.
pub(super) fn may_have_room(before: &NodeState, after: &NodeState) -> bool {
    let NodeState::Usable(after) = after else { return false };
    let NodeState::Usable(before) = before else { return true };
    // Pods come and go through their own events; here only what the Node object says is compared.
    (after.ready && !before.ready)
        || after.mig_single != before.mig_single
        || after.cpu > before.cpu
        || after.memory > before.memory
        || (after.devices.len() == before.devices.len() && after.devices.topology() != before.devices.topology())
        || after.devices.iter().zip(&after.cordoned).any(|(device, cordoned)| {
            let position = before.devices.iter().position(|d| d.uuid == device.uuid);
            position.is_none_or(|at| before.devices[at] != *device || (before.cordoned[at] && !cordoned))
        })
}
