//! Which devices each container of a pod got, and what the pod thereby holds. Decided once, at bind; written into the Binding;
//! read back by the ledger and the agent.

use std::sync::Arc;

use super::device::Enforcement;
use super::request::Phase;

/// One container's part of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The device's UUID.
    pub device: Arc<str>,
    /// MiB booked; the whole device's where exclusive.
    pub memory: u32,
    /// Percent; 0 = no core limit.
    pub cores: u16,
    /// Nobody else beside this container.
    pub exclusive: bool,
    /// The level promised at bind.
    pub enforcement: Enforcement,
}

/// One container's devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerAllocation {
    /// The container's name.
    pub name: Arc<str>,
    /// One entry per device, all different.
    pub shares: Vec<Share>,
}

/// Which devices each container of a pod got.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allocation {
    /// In the order of the request, init containers first.
    pub containers: Vec<ContainerAllocation>,
}

/// What one pod holds on one device: the maximum over its init phase and its running phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The device's UUID.
    pub device: Arc<str>,
    /// MiB.
    pub memory: u32,
    /// Percent.
    pub cores: u16,
    /// One slot per container and device.
    pub slots: u16,
    /// Nobody else on the device.
    pub exclusive: bool,
}

impl Allocation {
    /// What the pod holds on each device, sorted by UUID.
    ///
    /// Kubernetes counts a pod as the maximum of (a) its app containers plus native sidecars and (b) each ordinary init container
    /// plus the sidecars before it. `phases` names every container of the pod in its order (init containers first); a container
    /// of the allocation that it does not name counts as an app container, which never counts too little.
    pub fn holdings(&self, phases: &[(Arc<str>, Phase)]) -> Vec<Holding> {
        use std::collections::BTreeMap;

        #[derive(Default, Clone, Copy)]
        struct Sum {
            memory: u32,
            cores: u16,
            slots: u16,
            exclusive: bool,
        }
        impl Sum {
            fn plus(self, share: &Share) -> Self {
                Self {
                    memory: self.memory.saturating_add(share.memory),
                    cores: self.cores.saturating_add(share.cores),
                    slots: self.slots.saturating_add(1),
                    exclusive: self.exclusive || share.exclusive,
                }
            }
            fn max(self, other: Self) -> Self {
                Self {
                    memory: self.memory.max(other.memory),
                    cores: self.cores.max(other.cores),
                    slots: self.slots.max(other.slots),
                    exclusive: self.exclusive || other.exclusive,
                }
            }
        }

        // Per device: what runs now (sidecars, later apps too), and the peak so far.
        let mut running: BTreeMap<&Arc<str>, Sum> = BTreeMap::new();
        let mut peak: BTreeMap<&Arc<str>, Sum> = BTreeMap::new();
        for (name, phase) in phases {
            for share in self.containers.iter().filter(|c| c.name == *name).flat_map(|c| &c.shares) {
                let now = running.get(&share.device).copied().unwrap_or_default().plus(share);
                if *phase != Phase::Init {
                    running.insert(&share.device, now);
                }
                let entry = peak.entry(&share.device).or_default();
                *entry = entry.max(now);
            }
        }
        for container in self.containers.iter().filter(|c| !phases.iter().any(|(name, _)| *name == c.name)) {
            for share in &container.shares {
                let now = running.get(&share.device).copied().unwrap_or_default().plus(share);
                running.insert(&share.device, now);
                let entry = peak.entry(&share.device).or_default();
                *entry = entry.max(now);
            }
        }
        peak.into_iter()
            .map(|(device, sum)| Holding {
                device: Arc::clone(device),
                memory: sum.memory,
                cores: sum.cores,
                slots: sum.slots,
                exclusive: sum.exclusive,
            })
            .collect()
    }
}
