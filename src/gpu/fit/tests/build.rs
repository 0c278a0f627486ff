//! Nodes and requests for tests, short enough to read as tables.

use std::sync::Arc;

use crate::gpu::allocation::Holding;
use crate::gpu::device::{Device, Enforcement, ForeignPod, Health, Inventory, Link, MigInstance};
use crate::gpu::fit::{Placement, Policies, place, rank};
use crate::gpu::node::Node;
use crate::gpu::reason::Reason;
use crate::gpu::request::{Ask, Constraints, ContainerRequest, Memory, MigProfile, Phase, PodRequest};
use crate::gpu::target::Target;

/// An A100 with 80 GiB, 10 slots, no link known.
pub(super) fn card(index: u32) -> Device {
    Device {
        uuid: format!("GPU-{index:02}").into(),
        index,
        model: "NVIDIA A100-SXM4-80GB".into(),
        memory: 81_920,
        cores: 100,
        slots: 10,
        numa: None,
        pci: format!("0000:{index:02x}:00.0").into(),
        health: Health::Healthy,
        enforcement: Enforcement::Advisory,
        links: Vec::new(),
        mig: None,
        parent: None,
        foreign: None,
    }
}

pub(super) fn cards(count: u32) -> Vec<Device> {
    (0..count).map(card).collect()
}

pub(super) fn instance(card: u32, nth: u8, profile: &str, memory: u32) -> Device {
    Device {
        uuid: format!("MIG-{card:02}-{nth}").into(),
        memory,
        slots: 1,
        enforcement: Enforcement::Mig,
        mig: Some(MigInstance { profile: MigProfile(profile.into()), start: nth, size: 1 }),
        parent: Some(format!("GPU-{card:02}").into()),
        ..self::card(card)
    }
}

pub(super) fn foreign(mut device: Device) -> Device {
    device.foreign = Some(ForeignPod { pod: "other/pod".into(), uid: "u".into() });
    device
}

/// Links both ways: `(a, b, nvlink)`.
pub(super) fn linked(mut devices: Vec<Device>, links: &[(usize, usize, u8)]) -> Vec<Device> {
    for (a, b, nvlink) in links {
        for (from, to) in [(*a, *b), (*b, *a)] {
            let peer = Arc::clone(&devices[to].uuid);
            devices[from].links.push(Link { peer, nvlink: *nvlink, pcie: None });
        }
    }
    devices
}

pub(super) fn node(devices: Vec<Device>) -> Node {
    Node::new(&Inventory { ready: true, devices, ..Inventory::default() }, |_| false, false)
}

/// `(slots, memory, cores)` booked on each of the first devices.
pub(super) fn used(mut node: Node, usage: &[(u16, u32, u16)]) -> Node {
    for (at, (slots, memory, cores)) in usage.iter().enumerate() {
        let device = Arc::clone(&node.devices[at].uuid);
        node.book(&[Holding { device, memory: *memory, cores: *cores, slots: *slots, exclusive: false }]);
    }
    node
}

/// Books a device whole.
pub(super) fn taken(mut node: Node, devices: &[usize]) -> Node {
    for at in devices {
        let (device, memory) = (Arc::clone(&node.devices[*at].uuid), node.devices[*at].memory);
        node.book(&[Holding { device, memory, cores: 100, slots: 1, exclusive: true }]);
    }
    node
}

pub(super) fn share(memory: u32, cores: u8) -> Ask {
    Ask::Share { memory: Memory::Mib(memory), cores }
}

pub(super) fn percent(percent: u8) -> Ask {
    Ask::Share { memory: Memory::Percent(percent), cores: 0 }
}

pub(super) fn all_memory(cores: u8) -> Ask {
    Ask::Share { memory: Memory::All, cores }
}

pub(super) fn mig(profile: &str) -> Ask {
    Ask::Mig(MigProfile(profile.into()))
}

pub(super) fn container(name: &str, phase: Phase, count: u32, ask: Ask) -> ContainerRequest {
    ContainerRequest { name: name.into(), phase, count, ask, index: Vec::new(), uuid: Vec::new() }
}

pub(super) fn app(count: u32, ask: Ask) -> PodRequest {
    pod(vec![container("main", Phase::App, count, ask)])
}

pub(super) fn pod(containers: Vec<ContainerRequest>) -> PodRequest {
    PodRequest { containers, constraints: Constraints::default() }
}

pub(super) fn with(mut request: PodRequest, change: impl FnOnce(&mut Constraints)) -> PodRequest {
    change(&mut request.constraints);
    request
}

/// Places; the verdict of the ranking must agree.
pub(super) fn try_place(node: &Node, request: &PodRequest) -> Result<Placement, Reason> {
    let placed = place(node, request, Policies::default());
    let ranked = rank(node, request, 0, 0, Policies::default(), &Target::default());
    assert_eq!(placed.as_ref().err(), ranked.as_ref().err(), "filter and bind disagree");
    assert!(ranked.is_err() || ranked.is_ok_and(f64::is_finite));
    placed
}

/// The indices of the devices of each container.
pub(super) fn devices(node: &Node, request: &PodRequest) -> Result<Vec<Vec<usize>>, Reason> {
    let position =
        |uuid: &str| node.devices.iter().position(|device| *device.uuid == *uuid).expect("a device of the node");
    try_place(node, request).map(|placement| {
        let of =
            |c: &crate::gpu::allocation::ContainerAllocation| c.shares.iter().map(|s| position(&s.device)).collect();
        placement.allocation.containers.iter().map(of).collect()
    })
}
