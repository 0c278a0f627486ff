//! One node as placement sees it: its devices, who may use them, and what is booked. The ledger owns the live copy and
//! publishes snapshots; placement only reads. Booking is plain addition, so the order of pods does not matter and
//! releasing is its exact inverse.

use super::allocation::Holding;
use super::device::{Devices, Inventory};

/// More than any card has (MiB); a holding that claims more is counted as this much, on booking and on release alike, so that even
/// thousands of absurd claims on one device cannot overflow its sum and releasing stays exact.
const MOST_MEMORY: u32 = 1_000_000;

/// What is booked on one device, summed over pods. May exceed the device where pods were bound behind our back: fit then
/// simply finds no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Usage {
    /// MiB.
    pub memory: u32,
    /// Percent.
    pub cores: u32,
    /// Slots.
    pub slots: u32,
    /// How many pods hold it exclusively: 0 or 1, unless two were bound behind our back.
    pub exclusive: u32,
}

impl Usage {
    /// Whether anybody is on the device.
    #[inline]
    pub fn is_taken(&self) -> bool {
        (self.memory | self.cores | self.slots | self.exclusive) != 0
    }
}

/// One node as placement sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Sorted by pci, then uuid, as in the inventory.
    pub devices: Devices,
    /// Beside `devices`.
    pub usage: Vec<Usage>,
    /// Beside `devices`: taken out by an administrator.
    pub cordoned: Vec<bool>,
    /// Whether the agent takes new pods.
    pub ready: bool,
    /// MIG strategy `single`: `nvidia.com/gpu` means MIG instances here.
    pub mig_single: bool,
    /// CPU not yet requested by any pod, in millicores; `None` where not tracked.
    pub cpu_left: Option<i64>,
    /// Host memory not yet requested by any pod, in bytes; `None` where not tracked.
    pub memory_left: Option<i64>,
    /// CPU the node has for pods, in millicores; 0 where not tracked.
    pub cpu: i64,
    /// Host memory the node has for pods, in bytes; 0 where not tracked.
    pub memory: i64,
}

impl Node {
    /// A node with nothing booked. A cordoned card takes its MIG instances along.
    pub fn new(inventory: &Inventory, cordoned: impl Fn(&str) -> bool, mig_single: bool) -> Self {
        Self {
            devices: inventory.devices.clone().into(),
            usage: vec![Usage::default(); inventory.devices.len()],
            cordoned: inventory
                .devices
                .iter()
                .map(|d| cordoned(&d.uuid) || d.parent.as_deref().is_some_and(&cordoned))
                .collect(),
            ready: inventory.ready,
            mig_single,
            ..Self::default()
        }
    }

    /// Adds what a pod holds. A holding on a device that is not here is left out; the ledger applies it when the device is back.
    pub fn book(&mut self, holdings: &[Holding]) {
        self.change(holdings, |usage, holding| {
            usage.memory = usage.memory.saturating_add(holding.memory.min(MOST_MEMORY));
            usage.cores = usage.cores.saturating_add(holding.cores.into());
            usage.slots = usage.slots.saturating_add(holding.slots.into());
            usage.exclusive = usage.exclusive.saturating_add(holding.exclusive.into());
        });
    }

    /// Takes it away again.
    pub fn release(&mut self, holdings: &[Holding]) {
        self.change(holdings, |usage, holding| {
            usage.memory = usage.memory.saturating_sub(holding.memory.min(MOST_MEMORY));
            usage.cores = usage.cores.saturating_sub(holding.cores.into());
            usage.slots = usage.slots.saturating_sub(holding.slots.into());
            usage.exclusive = usage.exclusive.saturating_sub(holding.exclusive.into());
        });
    }

    fn change(&mut self, holdings: &[Holding], apply: impl Fn(&mut Usage, &Holding)) {
        for holding in holdings {
            if let Some(position) = self.devices.iter().position(|d| d.uuid == holding.device) {
                apply(&mut self.usage[position], holding);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::gpu::device::{Device, Enforcement, Health};

    fn node() -> Node {
        let device = Device {
            uuid: "GPU-1".into(),
            index: 0,
            model: "NVIDIA T4".into(),
            memory: 16_384,
            cores: 100,
            slots: 10,
            numa: None,
            pci: "0000:01:00.0".into(),
            health: Health::Healthy,
            enforcement: Enforcement::Advisory,
            links: Vec::new(),
            mig: None,
            parent: None,
            foreign: None,
        };
        Node::new(&Inventory { ready: true, devices: vec![device], ..Inventory::default() }, |_| false, false)
    }

    fn holding(device: &str, memory: u32, cores: u16, slots: u16) -> Holding {
        Holding { device: Arc::from(device), memory, cores, slots, exclusive: true }
    }

    #[test]
    fn absurd_holdings_are_released_exactly() {
        let mut node = node();
        let (ordinary, absurd) = ([holding("GPU-1", 4_096, 30, 1)], [holding("GPU-1", u32::MAX, u16::MAX, u16::MAX)]);
        node.book(&ordinary);
        let before = node.clone();
        for _ in 0..1_000 {
            node.book(&absurd);
        }
        assert!(node.usage[0].memory > node.devices[0].memory);
        for _ in 0..1_000 {
            node.release(&absurd);
        }
        assert_eq!(node, before);
    }

    #[test]
    fn a_device_that_is_not_here_is_left_out() {
        let mut node = node();
        node.book(&[holding("GPU-2", 1, 1, 1)]);
        assert_eq!(node, self::node());
    }
}
