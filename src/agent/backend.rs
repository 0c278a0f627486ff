//! Where devices come from: the narrow seam between the agent and hardware. NVML stands behind it, or a topology file for
//! machines without GPUs; everything above is the same code.
//!
//! All calls block; the caller runs them off the async threads. A failed call is an error that names it, never a panic: the
//! caller keeps the last good state.

pub mod fake;
pub mod nvml;
mod usage;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use crate::gpu::device::Pcie;
use crate::gpu::request::MigProfile;

pub use usage::{CardUsage, InstanceUsage, Memory, Process, Reading, Unread, Usage};

/// A source of devices.
pub trait Backend: Send + Sync + Debug {
    /// Everything there is now.
    ///
    /// # Errors
    /// [`BackendError::Absent`] where there is no driver or no library; [`BackendError::Failed`] where a call failed.
    fn discover(&self) -> Result<Discovery, BackendError>;

    /// The next event, `None` after `timeout` without one. Only one thread waits at a time.
    ///
    /// # Errors
    /// [`BackendError::Failed`]; the caller waits a moment and asks again.
    fn next_event(&self, timeout: Duration) -> Result<Option<Event>, BackendError>;

    /// Whether a card still answers, for what sends no event (fallen off the bus, row remapping pending).
    fn probe(&self, card: &str) -> Probe;

    /// How busy and full everything is now, and which processes use it. What cannot be read of one card leaves the others whole.
    ///
    /// # Errors
    /// As [`Backend::discover`], where nothing at all can be read.
    fn usage(&self) -> Result<Usage, BackendError>;
}

/// Why there is nothing to be had from the hardware.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum BackendError {
    /// No driver, no library, no GPU: a state, which may change while the agent runs.
    #[error("no usable GPU on this node: {reason}; {remedy}")]
    Absent {
        /// What is missing.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
    /// One call failed.
    #[error("{call}{}: {reason}", device.as_deref().map(|device| format!(" of {device}")).unwrap_or_default())]
    Failed {
        /// The NVML function, or the place in the topology file.
        call: String,
        /// The card's UUID or index, where it is about one.
        device: Option<String>,
        /// The library's words.
        reason: String,
    },
}

/// What a node has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Discovery {
    /// The driver's version, for example `580.95.05`.
    pub driver: String,
    /// Whose it is; `None` where that cannot be told.
    pub place: Option<DriverPlace>,
    /// The newest CUDA the driver supports, major and minor.
    pub cuda: Option<(u32, u32)>,
    /// Sorted by pci, then uuid.
    pub cards: Vec<Card>,
    /// Cards that are there but could not be read, each with the reason; they are reported and not published.
    pub unreadable: Vec<String>,
}

/// Who installed the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverPlace {
    /// The host itself has it: NVIDIA's GPU operator calls that pre-installed.
    Host,
    /// A driver container, whose root is seen at `/run/nvidia/driver` of the host.
    Container,
}

impl DriverPlace {
    /// As the label `packhorse.dev/driver` tells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Container => "container",
        }
    }
}

/// One physical GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// `GPU-…`.
    pub uuid: Arc<str>,
    /// NVML's index.
    pub index: u32,
    /// NVML's product name.
    pub model: Arc<str>,
    /// MiB, rounded down.
    pub memory: u32,
    /// Lower case `dddd:bb:dd.f`.
    pub pci: Arc<str>,
    /// `None` where unknown.
    pub numa: Option<u16>,
    /// n of `/dev/nvidia<n>`.
    pub minor: u32,
    /// Compute capability, major and minor.
    pub compute: (u32, u32),
    /// Whether the card can be cut into MIG instances at all.
    pub mig_capable: bool,
    /// In MIG mode: published by its instances only, even where it has none.
    pub mig_mode: bool,
    /// Empty unless in MIG mode. Sorted by uuid.
    pub instances: Vec<Instance>,
    /// To other cards of the node.
    pub links: Vec<CardLink>,
    /// The fabric the card belongs to: `<cluster uuid>.<clique id>`.
    pub clique: Option<String>,
}

/// One MIG instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// `MIG-…`.
    pub uuid: Arc<str>,
    /// For example `1g.10gb`.
    pub profile: MigProfile,
    /// MiB, rounded down.
    pub memory: u32,
    /// First memory slice.
    pub start: u8,
    /// Number of memory slices.
    pub size: u8,
    /// NVML's GPU instance and compute instance, by which events and `/dev/nvidia-caps` name it.
    pub ids: Option<(u32, u32)>,
    /// What labels tell of it; absent from a topology file.
    pub attributes: Option<InstanceAttributes>,
}

/// NVML's attributes of a MIG instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names of NVML's nvmlDeviceAttributes_t")]
pub struct InstanceAttributes {
    pub multiprocessors: u32,
    pub gpu_slices: u32,
    pub compute_slices: u32,
    pub copy_engines: u32,
    pub decoders: u32,
    pub encoders: u32,
    pub jpegs: u32,
    pub ofas: u32,
}

/// A way from one card to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardLink {
    /// The other card's UUID.
    pub peer: Arc<str>,
    /// Number of NVLink connections, 0 for none.
    pub nvlink: u8,
    /// The path over PCIe.
    pub pcie: Option<Pcie>,
}

/// Something happened to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it happened to.
    pub subject: Subject,
    /// What happened.
    pub kind: EventKind,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The event names no card, or one that cannot be told.
    Node,
    /// A card with everything on it, by UUID.
    Card(Arc<str>),
    /// One MIG instance, by UUID.
    Instance(Arc<str>),
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// NVIDIA's error code: <https://docs.nvidia.com/deploy/xid-errors/>.
    Xid(u64),
    /// An uncorrectable memory error.
    DoubleBitEcc,
    /// The card has gone.
    Lost,
    /// The card is in order again.
    Recovered,
    /// There may be other devices than before: discover again.
    Changed,
}

/// What a card answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// It answers.
    Well,
    /// It answers, and is not fit for work: the reason.
    Ill(String),
    /// It does not answer: the reason.
    Lost(String),
}
