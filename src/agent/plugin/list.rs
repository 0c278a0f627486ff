//! The list of slots that the kubelet is shown for one resource.
//!
//! A device that disappears is shown unhealthy for a while before its slots are withdrawn: a kubelet that hands out a slot in the
//! instant in which it leaves the list does not survive it (the device manager reads the topology of a device that it no longer
//! knows, pkg/kubelet/cm/devicemanager/manager.go `allocateContainerResources`).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::slots;
use crate::gpu::device::{Device, Health};
use crate::kubelet_api::device_plugin as api;

/// How long a device that is gone stays in the list, unhealthy.
const LEAVE: Duration = Duration::from_secs(60);

/// What the kubelet was shown last.
#[derive(Debug, Default)]
pub(super) struct Listing {
    shown: BTreeMap<Arc<str>, Shown>,
}

#[derive(Debug, Clone, Copy)]
struct Shown {
    slots: u16,
    numa: Option<u16>,
    /// Set for a device that is gone.
    until: Option<Instant>,
}

impl Listing {
    /// The list for `devices`, in their order, those that are leaving last. With `numa` every slot names its NUMA node.
    pub(super) fn update(&mut self, devices: &[&Device], numa: bool, now: Instant) -> Vec<api::Device> {
        let present: HashSet<&str> = devices.iter().map(|device| &*device.uuid).collect();
        for (uuid, shown) in &mut self.shown {
            if !present.contains(&**uuid) {
                shown.until.get_or_insert(now + LEAVE);
            }
        }
        self.shown.retain(|_, shown| shown.until.is_none_or(|until| until > now));

        let mut list = Vec::new();
        for device in devices {
            let shown = Shown { slots: device.slots, numa: device.numa.filter(|_| numa), until: None };
            self.shown.insert(Arc::clone(&device.uuid), shown);
            push(&mut list, &device.uuid, shown, device.health == Health::Healthy);
        }
        for (uuid, shown) in self.shown.iter().filter(|(_, shown)| shown.until.is_some()) {
            push(&mut list, uuid, *shown, false);
        }
        list
    }

    /// When the list changes by itself.
    pub(super) fn next_change(&self) -> Option<Instant> {
        self.shown.values().filter_map(|shown| shown.until).min()
    }

    /// Whether there is nothing to show any more.
    pub(super) fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }
}

fn push(list: &mut Vec<api::Device>, uuid: &str, shown: Shown, healthy: bool) {
    // "Healthy" and "Unhealthy": staging/src/k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1/constants.go
    let health = if healthy { "Healthy" } else { "Unhealthy" };
    let topology = shown.numa.map(|id| api::TopologyInfo { nodes: vec![api::NumaNode { id: i64::from(id) }] });
    list.extend((0..shown.slots).map(|number| api::Device {
        id: slots::id(uuid, number),
        health: health.to_owned(),
        topology: topology.clone(),
    }));
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::gpu::device::Enforcement;

    pub(in crate::agent::plugin) fn device(uuid: &str, slots: u16, health: Health) -> Device {
        Device {
            uuid: uuid.into(),
            index: 0,
            model: "NVIDIA A100-SXM4-80GB".into(),
            memory: 81920,
            cores: 100,
            slots,
            numa: Some(1),
            pci: "0000:07:00.0".into(),
            health,
            enforcement: Enforcement::Advisory,
            parent: None,
            mig: None,
            links: Vec::new(),
            foreign: None,
        }
    }

    fn shown(list: &[api::Device]) -> Vec<(&str, bool)> {
        list.iter().map(|device| (&*device.id, device.health == "Healthy")).collect()
    }

    #[test]
    fn every_slot_of_a_device_has_its_health() {
        for (health, healthy) in
            [(Health::Healthy, true), (Health::Suspect, false), (Health::Unhealthy, false), (Health::Recovering, false)]
        {
            let (one, two) = (device("GPU-1", 2, health), device("GPU-2", 1, Health::Healthy));
            let list = Listing::default().update(&[&one, &two], false, Instant::now());
            assert_eq!(shown(&list), [("GPU-1::0", healthy), ("GPU-1::1", healthy), ("GPU-2::0", true)], "{health:?}");
            assert!(list.iter().all(|device| device.topology.is_none()));
        }
    }

    #[test]
    fn a_numa_node_is_named_only_on_demand() {
        let device = device("GPU-1", 1, Health::Healthy);
        let list = Listing::default().update(&[&device], true, Instant::now());
        assert_eq!(list[0].topology, Some(api::TopologyInfo { nodes: vec![api::NumaNode { id: 1 }] }));
    }

    #[test]
    fn a_device_that_is_gone_is_unhealthy_first_and_withdrawn_later() {
        let now = Instant::now();
        let (one, two) = (device("GPU-1", 1, Health::Healthy), device("GPU-2", 1, Health::Healthy));
        let mut listing = Listing::default();
        listing.update(&[&one, &two], false, now);
        assert_eq!(listing.next_change(), None);

        let list = listing.update(&[&two], false, now);
        assert_eq!(shown(&list), [("GPU-2::0", true), ("GPU-1::0", false)]);
        let until = listing.next_change().expect("a time");
        let list = listing.update(&[&two], false, until - Duration::from_millis(1));
        assert_eq!(shown(&list), [("GPU-2::0", true), ("GPU-1::0", false)]);
        assert_eq!(listing.next_change(), Some(until), "asking again does not prolong it");
        let list = listing.update(&[&two], false, until);
        assert_eq!(shown(&list), [("GPU-2::0", true)]);

        listing.update(&[], false, until);
        let list = listing.update(&[&two], false, until);
        assert_eq!(shown(&list), [("GPU-2::0", true)], "what comes back is back");
        assert_eq!(listing.next_change(), None);
    }
}
