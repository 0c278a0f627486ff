//! Devices as a node's agent publishes them. Written by the inventory codec, read by fit and scoring; a value here is never
//! changed in place: a new inventory replaces the old one whole.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use super::card::Cards;
use super::request::MigProfile;
use super::topology::Topology;

/// How far a memory limit is really kept, weakest first: `Ord` is the order of strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Enforcement {
    /// Counted by Packhorse, kept by nobody.
    Advisory,
    /// The agent watches usage and acts on an overrun.
    Watched,
    /// The MPS server refuses allocations beyond the limit.
    Mps,
    /// The driver refuses them, by cgroup.
    Cgroup,
    /// The hardware is partitioned.
    Mig,
}

impl Enforcement {
    /// Every level with the name it has on the wire, weakest first.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Advisory, "advisory"),
        (Self::Watched, "watched"),
        (Self::Mps, "mps"),
        (Self::Cgroup, "cgroup"),
        (Self::Mig, "mig"),
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Advisory => "advisory",
            Self::Watched => "watched",
            Self::Mps => "mps",
            Self::Cgroup => "cgroup",
            Self::Mig => "mig",
        }
    }
}

impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Enforcement {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        Self::ALL.iter().find(|(_, name)| *name == s).map(|(level, _)| *level).ok_or(())
    }
}

/// Only `Healthy` takes new pods; a device that fails stays listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// In order.
    Healthy,
    /// A probe failed; not yet given up.
    Suspect,
    /// Given up until it recovers.
    Unhealthy,
    /// In order again, under observation.
    Recovering,
}

impl Health {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Unhealthy => "unhealthy",
            Self::Recovering => "recovering",
        }
    }
}

/// How two devices of one node reach each other, best last: `Ord` is the order of nearness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pcie {
    /// Different CPU sockets.
    CrossCpu,
    /// The same socket, different host bridges.
    SameCpu,
    /// The same host bridge.
    HostBridge,
    /// Several PCIe switches between them.
    MultiSwitch,
    /// One PCIe switch between them.
    SingleSwitch,
    /// Two chips of one board.
    SameBoard,
}

/// A link from one device to another of the same node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The other device's UUID.
    pub peer: Arc<str>,
    /// Number of NVLink connections, 0 for none.
    pub nvlink: u8,
    /// The path over PCIe, `None` where unknown.
    pub pcie: Option<Pcie>,
}

/// What makes a device a MIG instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigInstance {
    /// For example `1g.10gb`.
    pub profile: MigProfile,
    /// First memory slice.
    pub start: u8,
    /// Number of memory slices.
    pub size: u8,
}

/// A pod that uses a device without an allocation of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignPod {
    /// `namespace/name`.
    pub pod: String,
    /// The pod's UID.
    pub uid: String,
}

/// One schedulable GPU, or one MIG instance of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// `GPU-…` or `MIG-…`; unique in the cluster.
    pub uuid: Arc<str>,
    /// The card's NVML index; MIG instances carry their card's.
    pub index: u32,
    /// NVML's product name, for example `NVIDIA A100-SXM4-80GB`.
    pub model: Arc<str>,
    /// MiB, NVML's total rounded down.
    pub memory: u32,
    /// Percent, 100 for a card.
    pub cores: u16,
    /// How many containers may share it.
    pub slots: u16,
    /// NUMA node, `None` where unknown (-1 on the wire).
    pub numa: Option<u16>,
    /// Lower case `dddd:bb:dd.f`.
    pub pci: Arc<str>,
    /// Only `Healthy` takes new pods.
    pub health: Health,
    /// The level a memory limit on this device is kept at.
    pub enforcement: Enforcement,
    /// Links to other devices of the node; absent peers are unknown. Empty in [`Devices`], whose [`Topology`] says all of it.
    pub links: Vec<Link>,
    /// Present on MIG instances only.
    pub mig: Option<MigInstance>,
    /// The card of a MIG instance.
    pub parent: Option<Arc<str>>,
    /// A foreign pod on the device: nothing else is placed there.
    pub foreign: Option<ForeignPod>,
}

/// The devices of one node with what fit derives from them, shared between all versions of the node. Reads as a slice.
#[derive(Clone, Default)]
pub struct Devices(Arc<DeviceSet>);

#[derive(Default)]
struct DeviceSet {
    devices: Box<[Device]>,
    facts: Box<[Facts]>,
    topology: Arc<Topology>,
    cards: Cards,
    instances: bool,
    memory: Whole,
    cores: Whole,
}

/// A sum, ready to be divided by.
#[derive(Default)]
struct Whole {
    amount: u64,
    /// One unit as a part of it, 0 for nothing.
    per_unit: f64,
}

/// What fit reads of a device on its way through thousands of nodes, kept close together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// MiB.
    pub(crate) memory: u32,
    /// One MiB as a part of all memory, 0 for a device without.
    pub(crate) per_mib: f32,
    /// One percent as a part of all cores, 0 for a device without.
    pub(crate) per_core: f32,
    pub(crate) cores: u16,
    pub(crate) slots: u16,
    pub(crate) enforcement: Enforcement,
    pub(crate) foreign: bool,
    pub(crate) healthy: bool,
    /// A MIG instance.
    pub(crate) instance: bool,
    /// The position of the first device of the same model, so that a model is compared once a node. Unique: no node has 65,536
    /// devices.
    pub(crate) model: u16,
}

/// A pod that the node's agent refused to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// `namespace/name`.
    pub pod: String,
    /// The pod's UID.
    pub uid: String,
    /// The agent's words.
    pub reason: String,
}

/// The devices of one node, as its agent publishes them: sorted by pci, then uuid.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// False while the agent starts or stops: no new pods.
    pub ready: bool,
    /// The NVIDIA driver's version, empty where unknown.
    pub driver: String,
    /// Sorted by pci, then uuid.
    pub devices: Vec<Device>,
    /// Pods bound here that can never start.
    pub refused: Vec<Refused>,
}

impl Devices {
    /// How near they are to each other.
    pub fn topology(&self) -> &Topology {
        &self.0.topology
    }

    /// Lets `share` replace their topology by an equal one: nodes of one make have the same, and what is worked out for it once is
    /// 2 KB. Without effect once the devices have been cloned.
    pub(crate) fn share_topology(&mut self, share: impl FnOnce(Arc<Topology>) -> Arc<Topology>) {
        if let Some(set) = Arc::get_mut(&mut self.0) {
            set.topology = share(Arc::clone(&set.topology));
        }
    }

    /// Of which kinds they are.
    pub(crate) fn cards(&self) -> &Cards {
        &self.0.cards
    }

    /// Whether there are MIG instances among them.
    pub fn has_instances(&self) -> bool {
        self.0.instances
    }

    /// What part of all devices is left where `memory` (MiB) and `cores` (percent) are taken, 0..=1: mean of the two.
    pub(crate) fn part_left(&self, memory: u64, cores: u64) -> f64 {
        0.5 * (self.0.memory.left(memory) + self.0.cores.left(cores))
    }

    /// Beside the devices.
    pub(crate) fn facts(&self) -> &[Facts] {
        &self.0.facts
    }
}

impl Whole {
    fn of(amount: u64) -> Self {
        Self { amount, per_unit: if amount > 0 { 1.0 / amount as f64 } else { 0.0 } }
    }

    fn left(&self, taken: u64) -> f64 {
        self.amount.saturating_sub(taken) as f64 * self.per_unit
    }
}

impl From<Vec<Device>> for Devices {
    fn from(mut devices: Vec<Device>) -> Self {
        let model = |at: usize| devices[..at].iter().position(|other| other.model == devices[at].model).unwrap_or(at);
        let facts = (0..devices.len()).map(|at| Facts::of(&devices[at], model(at))).collect();
        let memory = Whole::of(devices.iter().map(|device| u64::from(device.memory)).sum());
        let cores = Whole::of(devices.iter().map(|device| u64::from(device.cores)).sum());
        let topology = Arc::new(Topology::of(&devices));
        let cards = Cards::of(&devices);
        let instances = devices.iter().any(|device| device.mig.is_some());
        // They are most of what a device has, and thousands of nodes are kept.
        devices.iter_mut().for_each(|device| device.links = Vec::new());
        Self(Arc::new(DeviceSet { devices: devices.into(), facts, topology, cards, instances, memory, cores }))
    }
}

impl Deref for Devices {
    type Target = [Device];

    fn deref(&self) -> &[Device] {
        &self.0.devices
    }
}

impl PartialEq for Devices {
    fn eq(&self, other: &Self) -> bool {
        // The rest derives from the devices and their links.
        Arc::ptr_eq(&self.0, &other.0) || (self.0.devices == other.0.devices && self.0.topology == other.0.topology)
    }
}

impl Eq for Devices {}

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Facts {
    fn of(device: &Device, model: usize) -> Self {
        let part = |whole: f32| if whole > 0.0 { 1.0 / whole } else { 0.0 };
        Self {
            memory: device.memory,
            per_mib: part(device.memory as f32),
            per_core: part(f32::from(device.cores)),
            cores: device.cores,
            slots: device.slots,
            enforcement: device.enforcement,
            foreign: device.foreign.is_some(),
            healthy: device.health == Health::Healthy,
            instance: device.mig.is_some(),
            model: u16::try_from(model).unwrap_or(u16::MAX),
        }
    }
}
