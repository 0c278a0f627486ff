//! What a backend reads of devices in use. `None` is what the hardware, the driver or the file does not tell; it is never 0.

use std::sync::Arc;

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Usage {
    /// Cards that could be asked at all, in no order.
    pub cards: Vec<CardUsage>,
    /// Calls that failed for another reason than that there is no such thing.
    pub unread: Vec<Unread>,
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The library's function.
    pub call: &'static str,
    /// Of which device, and the library's words.
    pub reason: String,
}

/// One card.
#[derive(Debug, Clone, PartialEq)]
pub struct CardUsage {
    /// `GPU-…`.
    pub uuid: Arc<str>,
    /// Of the card as a whole.
    pub reading: Reading,
    /// Of its MIG instances.
    pub instances: Vec<InstanceUsage>,
    /// All that use it; `None` where they cannot be listed. A process on several MIG instances is there once for each.
    pub processes: Option<Vec<Process>>,
    /// Whether the card tells how busy each process keeps it; cards in MIG mode do not.
    pub tells_by_process: bool,
}

/// What sensors and counters say.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Reading {
    /// What is in use of its memory.
    pub memory: Option<Memory>,
    /// Percent of the time in which a kernel ran.
    pub utilization: Option<u32>,
    /// Percent of the time in which memory was read or written.
    pub memory_utilization: Option<u32>,
    /// Degrees Celsius.
    pub temperature: Option<u32>,
    /// Milliwatts drawn.
    pub power: Option<u32>,
    /// Milliwatts that it may draw.
    pub power_limit: Option<u32>,
    /// MHz of the multiprocessors.
    pub sm_clock: Option<u32>,
    /// MHz of the memory.
    pub memory_clock: Option<u32>,
    /// Millijoules since the driver was loaded.
    pub energy: Option<u64>,
}

/// MiB, rounded down. What the driver keeps for itself is neither used nor free where the driver tells it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// In use.
    pub used: u64,
    /// To be had.
    pub free: u64,
}

/// One MIG instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceUsage {
    /// `MIG-…`.
    pub uuid: Arc<str>,
    /// NVML's number of the GPU instance; absent from a topology file.
    pub gpu_instance: Option<u32>,
    /// What is in use of its memory.
    pub memory: Option<Memory>,
}

/// One process on one card or MIG instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// As the backend's own `/proc` numbers it.
    pub pid: u32,
    /// The MIG instance it runs on; `None`: the card itself, or an instance that cannot be told.
    pub instance: Option<Arc<str>>,
    /// MiB, rounded down.
    pub memory: Option<u64>,
    /// Percent of the card's time.
    pub utilization: Option<u32>,
}
