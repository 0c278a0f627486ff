//! Kinds of cards: what tells devices apart for packing. Derived from the inventory once, beside the devices; read
//! when a workload is held against a node. Nothing here fails.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::device::Device;
use super::request::MigProfile;

/// Devices alike for all pods that do not name one of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CardKind {
    /// NVML's product name.
    pub model: Arc<str>,
    /// MiB.
    pub memory: u32,
    /// Percent.
    pub cores: u16,
    /// Present on MIG instances only.
    pub profile: Option<MigProfile>,
    /// What it is worth, in thousandths of a card.
    pub worth: u16,
}

/// The kinds of a node's devices.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cards {
    kinds: Box<[CardKind]>,
    of: Box<[u16]>,
    class: u64,
}

/// A whole card, in thousandths.
pub(crate) const WHOLE: u16 = 1000;

/// A card has eight memory slices; a MIG instance is some of them.
const SLICES: u16 = 8;

impl CardKind {
    /// The kind of a device.
    pub fn of(device: &Device) -> Self {
        let worth = device.mig.as_ref().map_or(WHOLE, |mig| u16::from(mig.size).clamp(1, SLICES) * WHOLE / SLICES);
        Self {
            model: Arc::clone(&device.model),
            memory: device.memory,
            cores: device.cores,
            profile: device.mig.as_ref().map(|mig| mig.profile.clone()),
            worth,
        }
    }
}

impl Cards {
    pub(crate) fn of(devices: &[Device]) -> Self {
        let mut kinds: Vec<CardKind> = devices.iter().map(CardKind::of).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let position = |device: &Device| kinds.binary_search(&CardKind::of(device)).unwrap_or(0);
        // Unique: no node has 65,536 devices.
        let of = devices.iter().map(|device| u16::try_from(position(device)).unwrap_or(u16::MAX)).collect();
        let mut hasher = DefaultHasher::new();
        kinds.hash(&mut hasher);
        Self { of, class: hasher.finish(), kinds: kinds.into() }
    }

    /// Sorted, each once.
    pub(crate) fn kinds(&self) -> &[CardKind] {
        &self.kinds
    }

    /// The kind of the device at this position, among [`Cards::kinds`].
    pub(crate) fn kind(&self, at: usize) -> u16 {
        self.of[at]
    }

    /// How many there are of each.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&CardKind, u64)> {
        let count = |at: usize| self.of.iter().filter(|kind| usize::from(**kind) == at).count() as u64;
        self.kinds.iter().enumerate().map(move |(at, kind)| (kind, count(at)))
    }

    /// The same number for nodes with the same kinds.
    pub(crate) fn class(&self) -> u64 {
        self.class
    }
}
