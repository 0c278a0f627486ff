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

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, device: &str, memory: u32, cores: u16, exclusive: bool) -> ContainerAllocation {
        let share = Share { device: device.into(), memory, cores, exclusive, enforcement: Enforcement::Advisory };
        ContainerAllocation { name: name.into(), shares: vec![share] }
    }

    /// Memory, cores, slots, exclusive on `GPU-1`.
    fn held(containers: &[ContainerAllocation], phases: &[(&str, Phase)]) -> (u32, u16, u16, bool) {
        let phases: Vec<_> = phases.iter().map(|(name, phase)| (Arc::from(*name), *phase)).collect();
        let holdings = Allocation { containers: containers.to_vec() }.holdings(&phases);
        let holding = holdings.iter().find(|holding| *holding.device == *"GPU-1").expect("a holding");
        (holding.memory, holding.cores, holding.slots, holding.exclusive)
    }

    #[test]
    fn a_pod_holds_the_most_that_ever_runs_together() {
        let on = |name: &str, memory, cores| container(name, "GPU-1", memory, cores, false);
        let (init, sidecar, app) = (Phase::Init, Phase::Sidecar, Phase::App);
        for (case, containers, phases, expected) in [
            ("apps add up", vec![on("a", 10, 5), on("b", 20, 7)], vec![("a", app), ("b", app)], (30, 12, 2, false)),
            (
                "init and app do not",
                vec![on("a", 10, 5), on("b", 20, 3)],
                vec![("a", init), ("b", app)],
                (20, 5, 1, false),
            ),
            ("inits do not", vec![on("a", 10, 5), on("b", 20, 3)], vec![("a", init), ("b", init)], (20, 5, 1, false)),
            (
                "a sidecar adds to later inits",
                vec![on("a", 10, 5), on("b", 20, 3)],
                vec![("a", sidecar), ("b", init)],
                (30, 8, 2, false),
            ),
            (
                "not to earlier ones",
                vec![on("a", 10, 5), on("b", 20, 3)],
                vec![("a", init), ("b", sidecar)],
                (20, 5, 1, false),
            ),
            (
                "who is not named counts as app",
                vec![on("a", 10, 5), on("b", 20, 3)],
                vec![("a", app)],
                (30, 8, 2, false),
            ),
        ] {
            assert_eq!(held(&containers, &phases), expected, "{case}");
        }
    }

    #[test]
    fn a_whole_card_for_any_container_is_held_whole_by_the_pod() {
        let containers = [container("a", "GPU-1", 100, 100, true), container("b", "GPU-1", 10, 5, false)];
        assert_eq!(held(&containers, &[("a", Phase::Init), ("b", Phase::App)]), (100, 100, 1, true));
    }

    #[test]
    fn holdings_are_sorted_by_device() {
        let containers = [container("a", "GPU-2", 1, 0, false), container("b", "GPU-1", 1, 0, false)];
        let holdings = Allocation { containers: containers.to_vec() }.holdings(&[]);
        assert_eq!(holdings.iter().map(|h| &*h.device).collect::<Vec<_>>(), ["GPU-1", "GPU-2"]);
    }
}
