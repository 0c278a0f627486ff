//! What the containers of one pod ask for, after normalisation. Built from resources and annotations by the one parser that
//! webhook and extender share; read by fit and scoring. Values here are valid by construction.

use std::fmt;
use std::sync::Arc;

use super::device::Enforcement;

/// When a container runs, which decides what it can share a device with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// An ordinary init container: runs alone, beside the sidecars before it.
    Init,
    /// A native sidecar (init container with `restartPolicy: Always`): runs from its start on.
    Sidecar,
    /// An app container.
    App,
}

/// A MIG profile name without the `mig-` prefix, for example `1g.10gb` or `1g.10gb.me`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MigProfile(pub Arc<str>);

impl fmt::Display for MigProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Memory asked for per GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Memory {
    /// MiB, at least 1.
    Mib(u32),
    /// 1..=100 percent of the card, rounded down to MiB at placement.
    Percent(u8),
    /// Not asked: all of the card.
    All,
}

impl Memory {
    /// MiB booked on a card of `whole` MiB.
    pub fn of(self, whole: u32) -> u32 {
        match self {
            Self::Mib(mib) => mib,
            // At least 1, lest a share on a tiny card be no share. The quotient is at most `whole` for a valid percentage; a larger
            // one must not wrap to something that fits.
            Self::Percent(percent) => {
                u32::try_from(u64::from(whole) * u64::from(percent) / 100).unwrap_or(u32::MAX).max(1)
            }
            Self::All => whole,
        }
    }
}

/// What a container wants of each of its devices.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ask {
    /// A whole card for this container alone (or, under MIG strategy `single`, a whole instance).
    Exclusive,
    /// A part of a card. `cores` in percent, 0 = no core limit; never 100 (that is `Exclusive`).
    Share {
        /// Per GPU.
        memory: Memory,
        /// Percent per GPU, 0..=99.
        cores: u8,
    },
    /// An existing MIG instance of this profile.
    Mig(MigProfile),
}

/// One container's request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContainerRequest {
    /// The container's name.
    pub name: Arc<str>,
    /// When it runs.
    pub phase: Phase,
    /// How many different devices, at least 1.
    pub count: u32,
    /// What it wants of each.
    pub ask: Ask,
    /// Device indices it is pinned to; empty = any. Each of the `count` devices must have one of them.
    pub index: Vec<u32>,
    /// GPU or MIG UUIDs it is pinned to; empty = any.
    pub uuid: Vec<Arc<str>>,
}

/// Which node, or which device, first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NodePolicy {
    /// Fill what is already in use.
    #[default]
    Binpack,
    /// The emptiest first.
    Spread,
}

/// Which device of a node first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GpuPolicy {
    /// Fill what is already in use.
    Binpack,
    /// The emptiest first.
    Spread,
    /// The best connected set; for one GPU the worst connected.
    Topology,
}

/// What a pod demands of the devices of all its containers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Constraints {
    /// Accepted models, any where empty; compared without case, on word boundaries.
    pub model: Vec<String>,
    /// Refused models.
    pub model_exclude: Vec<String>,
    /// Accepted UUIDs, any where empty.
    pub uuid: Vec<String>,
    /// Refused UUIDs.
    pub uuid_exclude: Vec<String>,
    /// `None`: the cluster's default.
    pub node_policy: Option<NodePolicy>,
    /// `None`: the cluster's default, else binpack for one GPU and topology for more.
    pub gpu_policy: Option<GpuPolicy>,
    /// All devices of a container on one NUMA node.
    pub numa_bind: bool,
    /// The weakest level accepted. An exclusive device satisfies every level.
    pub require_enforcement: Option<Enforcement>,
}

/// What one pod asks for. Empty `containers`: not a GPU pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PodRequest {
    /// Only the containers that ask for devices, in the order of the pod: init containers (sidecars among them), then app containers.
    pub containers: Vec<ContainerRequest>,
    /// For all of them.
    pub constraints: Constraints,
}

impl PodRequest {
    /// Whether the pod asks for no device at all.
    pub fn is_empty(&self) -> bool {
        self.containers.is_empty()
    }
}

/// What the containers of a pod add up to for Kubernetes' own arithmetic: MiB of memory where it is known before placement
/// (count x memory), and percent of cores (count x cores; a whole GPU is 100).
///
/// The memory of whole cards, of a share of a card and of MIG instances depends on the device, hence `None`. MIG instances are not
/// part of a node's totals, hence no cores either.
pub fn totals(request: &ContainerRequest) -> (Option<u64>, u64) {
    let count = u64::from(request.count);
    match &request.ask {
        Ask::Exclusive => (None, count * 100),
        Ask::Share { memory: Memory::Mib(mib), cores } => (Some(count * u64::from(*mib)), count * u64::from(*cores)),
        Ask::Share { memory: Memory::Percent(_) | Memory::All, cores } => (None, count * u64::from(*cores)),
        Ask::Mig(_) => (None, 0),
    }
}
