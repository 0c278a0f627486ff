//! A node's state as packing sees it: what is left of CPU and memory, and the hole on each device. Made for one
//! question and thrown away; what does not matter to packing (which device it is, who is on it) is gone.

use super::super::card::WHOLE;
use super::super::device::Facts;
use super::super::node::{Node, Usage};
use super::class::Class;

/// Devices looked at; a node with more is judged by the first ones.
pub(super) const MOST: usize = 64;

/// What stands for CPU or memory that nobody keeps account of.
const PLENTY: i64 = i64::MAX / 4;

/// What a placement takes of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    /// The device's position on the node.
    pub(crate) at: usize,
    /// MiB.
    pub(crate) memory: u32,
    /// Percent.
    pub(crate) cores: u16,
    pub(crate) exclusive: bool,
}

/// What is free of a device, in thousandths of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Hole {
    /// Among the class's kinds of cards.
    pub(super) kind: u16,
    pub(super) memory: u16,
    pub(super) cores: u16,
}

/// A node's state.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    /// Millicores.
    pub(super) cpu: i64,
    /// MiB.
    pub(super) memory: i64,
    tracked: bool,
    holes: [Hole; MOST],
    len: usize,
    /// What all holes are worth, in thousandths of a card.
    pub(super) free: u32,
}

impl Hole {
    /// Nobody is on the device.
    pub(super) fn is_whole(self) -> bool {
        self.memory == WHOLE && self.cores == WHOLE
    }

    /// What of it can be used at most, in thousandths of the device.
    pub(super) fn size(self) -> u16 {
        self.memory.min(self.cores)
    }

    /// What remains once a pod took so much of each.
    pub(super) fn minus(self, memory: u16, cores: u16) -> Self {
        Self { memory: self.memory - memory, cores: self.cores - cores, ..self }
    }
}

impl Profile {
    /// Of `node` after `changes`, and after `cpu` millicores and `memory` bytes were taken.
    pub(super) fn of(node: &Node, class: &Class, changes: &[Change], cpu: i64, memory: i64) -> Self {
        let left = |left: Option<i64>, taken: i64| left.map_or(PLENTY, |left| left.saturating_sub(taken).max(0));
        let mut profile = Self {
            cpu: left(node.cpu_left, cpu),
            memory: left(node.memory_left, memory) >> 20,
            tracked: node.cpu_left.is_some(),
            holes: [Hole::default(); MOST],
            len: 0,
            free: 0,
        };
        let cards = node.devices.cards();
        for (at, (facts, usage)) in node.devices.facts().iter().zip(&node.usage).enumerate() {
            if !facts.healthy || facts.foreign || node.cordoned[at] || profile.len == MOST {
                continue;
            }
            let mut usage = *usage;
            for change in changes.iter().filter(|change| change.at == at) {
                usage.memory = usage.memory.saturating_add(change.memory);
                usage.cores = usage.cores.saturating_add(change.cores.into());
                usage.slots = usage.slots.saturating_add(1);
                usage.exclusive = usage.exclusive.saturating_add(change.exclusive.into());
            }
            let hole = hole(cards.kind(at), facts, &usage);
            if hole.size() > 0 {
                profile.holes[profile.len] = hole;
                profile.len += 1;
                profile.free += class.worth(hole);
            }
        }
        // Which device is which does not matter.
        profile.holes[..profile.len].sort_unstable();
        profile
    }

    pub(super) fn holes(&self) -> &[Hole] {
        &self.holes[..self.len]
    }

    /// A copy of the holes to work on.
    pub(super) fn scratch(&self) -> ([Hole; MOST], usize) {
        (self.holes, self.len)
    }

    /// What is left of the node's CPU, for each 128 cores; 0 where nobody keeps account of it.
    pub(super) fn cpu_left(&self) -> f64 {
        if self.tracked { self.cpu as f64 / 128_000.0 } else { 0.0 }
    }

    /// Names the state among all of a class: 128 well-mixed bits, so that no two states ever meet.
    pub(super) fn key(&self, class: &Class) -> u128 {
        let mut low = class.id;
        let mut high = class.id.rotate_left(32);
        let mut mix = |n: u64| {
            low = (low.rotate_left(23) ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            low ^= low >> 32;
            high = (high.rotate_left(29) ^ n).wrapping_mul(0xd6e8_feb8_6659_fd93);
            high ^= high >> 32;
        };
        mix(self.cpu.cast_unsigned());
        mix(self.memory.cast_unsigned());
        for hole in self.holes() {
            mix(u64::from(hole.kind) << 32 | u64::from(hole.memory) << 16 | u64::from(hole.cores));
        }
        u128::from(high) << 64 | u128::from(low)
    }
}

/// What is free of a device that is used so.
fn hole(kind: u16, facts: &Facts, usage: &Usage) -> Hole {
    if !usage.is_taken() {
        return Hole { kind, memory: WHOLE, cores: WHOLE };
    }
    if usage.exclusive > 0 || usage.slots >= u32::from(facts.slots) {
        return Hole { kind, memory: 0, cores: 0 };
    }
    let part = |left: u64, whole: u64| {
        // A device that somebody is on is never whole again.
        let part = (left * u64::from(WHOLE)).checked_div(whole).unwrap_or(0).min(u64::from(WHOLE) - 1);
        part as u16
    };
    let memory = part(facts.memory.saturating_sub(usage.memory).into(), facts.memory.into());
    let cores = u32::from(facts.cores).saturating_sub(usage.cores);
    // Nobody limits cores here as long as nobody has taken any.
    let cores = if usage.cores == 0 { WHOLE } else { part(cores.into(), facts.cores.into()) };
    Hole { kind, memory, cores }
}
