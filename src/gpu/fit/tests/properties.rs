//! What must hold for all nodes, pods and histories. The oracle below knows the rules of sharing in its own way and shares no code
//! with placement; it tries every way there is.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::build::*;
use crate::gpu::allocation::{Allocation, Holding};
use crate::gpu::device::{Device, Health};
use crate::gpu::fit::{Placement, Policies, place, rank};
use crate::gpu::node::{Node, Usage};
use crate::gpu::reason::Reason;
use crate::gpu::request::{Ask, GpuPolicy, Memory, NodePolicy, Phase, PodRequest};
use crate::gpu::target::Target;

fn any_device(index: u32) -> impl Strategy<Value = Vec<Device>> {
    let health = prop_oneof![9 => Just(Health::Healthy), 1 => Just(Health::Suspect)];
    let card =
        (prop_oneof![Just(100_u32), Just(80), Just(40)], 1_u16..=4, proptest::option::of(0_u16..2), health, 0..10_u8)
            .prop_map(move |(memory, slots, numa, health, odd)| {
                let device = Device { memory, slots, numa, health, ..card(index) };
                vec![if odd == 0 { foreign(device) } else { device }]
            });
    let instances = (1_u8..=3).prop_map(move |count| (0..count).map(|nth| instance(index, nth, "1g", 10)).collect());
    prop_oneof![5 => card, 1 => instances]
}

fn any_node(most: u32) -> impl Strategy<Value = Node> {
    let devices = (1..=most).prop_flat_map(|count| (0..count).map(any_device).collect::<Vec<_>>());
    let links = proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1_u8..4), 0..6);
    (devices, links, any::<u8>(), 0..8_u8).prop_map(|(devices, links, cordoned, single)| {
        let devices = devices.concat();
        let links: Vec<_> = links
            .iter()
            .map(|(a, b, n)| (a.index(devices.len()), b.index(devices.len()), *n))
            .filter(|(a, b, _)| a != b)
            .collect();
        let mut node = node(linked(devices, &links));
        // Few cordons.
        for (at, flag) in node.cordoned.iter_mut().enumerate() {
            *flag = cordoned & 0b11 == 0b11 && (cordoned >> 2) as usize % 8 == at;
        }
        node.mig_single = single == 0;
        node
    })
}

fn any_ask() -> impl Strategy<Value = Ask> {
    let memory = prop_oneof![
        6 => (1_u32..=60).prop_map(Memory::Mib),
        3 => prop::sample::select(vec![10_u8, 25, 33, 50, 100]).prop_map(Memory::Percent),
        1 => Just(Memory::All),
    ];
    let share = (memory, prop_oneof![2 => Just(0_u8), 3 => 1_u8..=99]);
    prop_oneof![
        6 => share.prop_map(|(memory, cores)| Ask::Share { memory, cores }),
        2 => Just(Ask::Exclusive),
        1 => Just(mig("1g")),
    ]
}

fn any_pod(most: usize) -> impl Strategy<Value = PodRequest> {
    let phase = prop_oneof![1 => Just(Phase::Init), 1 => Just(Phase::Sidecar), 3 => Just(Phase::App)];
    let one = (phase, prop_oneof![4 => Just(1_u32), 2 => Just(2), 1 => Just(3)], any_ask());
    let containers = proptest::collection::vec(one, 1..=most);
    (containers, proptest::bool::weighted(0.15), 0..4_u8).prop_map(|(mut containers, numa_bind, policy)| {
        // Apps come last in every pod.
        containers.sort_by_key(|(phase, ..)| *phase == Phase::App);
        let named =
            |(at, (phase, count, ask)): (usize, (Phase, u32, Ask))| container(&format!("c{at}"), phase, count, ask);
        let policy =
            [None, Some(GpuPolicy::Binpack), Some(GpuPolicy::Spread), Some(GpuPolicy::Topology)][usize::from(policy)];
        with(pod(containers.into_iter().enumerate().map(named).collect()), |c| {
            c.numa_bind = numa_bind;
            c.gpu_policy = policy;
        })
    })
}

/// The state of one device after everything that runs at one instant, over all pods.
fn beyond(device: &Device, all: &[Holding]) -> Option<String> {
    let memory: u32 = all.iter().map(|h| h.memory).sum();
    let cores: u32 = all.iter().map(|h| u32::from(h.cores)).sum();
    let slots: u32 = all.iter().map(|h| u32::from(h.slots)).sum();
    let crowded = all.len() > 1 && all.iter().any(|h| h.exclusive);
    (memory > device.memory || cores > 100 || slots > u32::from(device.slots) || crowded)
        .then(|| format!("{}: {memory} MiB, {cores} %, {slots} slots, crowded {crowded}", device.uuid))
}

/// Whether a choice of devices (per container) obeys every rule on this node.
fn is_lawful(node: &Node, request: &PodRequest, chosen: &[Vec<usize>]) -> bool {
    let instances_here = node.mig_single && node.devices.iter().any(|d| d.mig.is_some());
    let mut booked = Vec::new();
    for (container, devices) in request.containers.iter().zip(chosen) {
        let mut numas: Vec<_> = devices.iter().map(|at| node.devices[*at].numa).collect();
        numas.dedup();
        let known = node.devices.iter().any(|d| d.numa.is_some());
        if request.constraints.numa_bind && devices.len() > 1 && (numas.len() > 1 || (numas[0].is_none() && known)) {
            return false;
        }
        for at in devices {
            let device = &node.devices[*at];
            let (kind, memory, cores, exclusive) = match &container.ask {
                Ask::Mig(profile) => {
                    (device.mig.as_ref().is_some_and(|m| m.profile == *profile), device.memory, 100, true)
                }
                Ask::Exclusive => (device.mig.is_some() == instances_here, device.memory, 100, true),
                Ask::Share { memory, cores } => {
                    let mib = match memory {
                        Memory::Mib(mib) => *mib,
                        Memory::Percent(percent) => (device.memory * u32::from(*percent) / 100).max(1),
                        Memory::All => device.memory,
                    };
                    (device.mig.is_some() == instances_here, mib, u32::from(*cores), false)
                }
            };
            if !kind || device.foreign.is_some() || device.health != Health::Healthy || node.cordoned[*at] {
                return false;
            }
            booked.push((container.name.clone(), *at, memory, cores, exclusive));
        }
    }
    // Every instant: each ordinary init container with the sidecars before it; all sidecars with the apps.
    let mut instants: Vec<Vec<&str>> = Vec::new();
    let mut sidecars: Vec<&str> = Vec::new();
    for container in &request.containers {
        match container.phase {
            Phase::Init => instants.push(sidecars.iter().copied().chain([&*container.name]).collect()),
            Phase::Sidecar => sidecars.push(&container.name),
            Phase::App => {}
        }
    }
    sidecars.extend(request.containers.iter().filter(|c| c.phase == Phase::App).map(|c| &*c.name));
    instants.push(sidecars);
    (0..node.devices.len()).all(|at| {
        let (device, usage) = (&node.devices[at], node.usage[at]);
        let anybody = usage != Usage::default();
        let whole = booked.iter().any(|b| b.1 == at && b.4);
        let any = booked.iter().any(|b| b.1 == at);
        if any && (usage.exclusive > 0 || (whole && anybody)) {
            return false;
        }
        instants.iter().all(|running| {
            let here: Vec<_> = booked.iter().filter(|b| b.1 == at && running.contains(&&*b.0)).collect();
            let cores = usage.cores + here.iter().map(|b| b.3).sum::<u32>();
            here.is_empty()
                || usage.memory + here.iter().map(|b| b.2).sum::<u32>() <= device.memory
                    && cores <= 100
                    && (cores < 100 || here.iter().all(|b| b.3 > 0))
                    && usage.slots + u32::try_from(here.len()).expect("few") <= u32::from(device.slots)
                    && (here.len() == 1 || here.iter().all(|b| !b.4))
        })
    })
}

/// Tries every way.
fn fits_somehow(node: &Node, request: &PodRequest) -> bool {
    fn extend(node: &Node, request: &PodRequest, chosen: &mut Vec<Vec<usize>>) -> bool {
        let Some(container) = request.containers.get(chosen.len()) else { return is_lawful(node, request, chosen) };
        (0_u32..1 << node.devices.len()).filter(|bits| bits.count_ones() == container.count).any(|bits| {
            chosen.push((0..node.devices.len()).filter(|at| bits >> at & 1 == 1).collect());
            let found = extend(node, request, chosen);
            chosen.pop();
            found
        })
    }
    extend(node, request, &mut Vec::new())
}

fn positions(node: &Node, allocation: &Allocation) -> Vec<Vec<usize>> {
    let position = |uuid: &Arc<str>| node.devices.iter().position(|d| d.uuid == *uuid).expect("a device of the node");
    allocation.containers.iter().map(|c| c.shares.iter().map(|s| position(&s.device)).collect()).collect()
}

/// Pods come and go; gives the node and who is on it.
fn live(mut node: Node, pods: &[(PodRequest, bool)]) -> (Node, Vec<Placement>) {
    let mut on: Vec<Placement> = Vec::new();
    for (request, one_leaves) in pods {
        if *one_leaves && !on.is_empty() {
            let gone = on.remove(on.len() / 2);
            node.release(&gone.holdings);
        }
        if let Ok(placement) = place(&node, request, Policies::default()) {
            node.book(&placement.holdings);
            on.push(placement);
        }
    }
    (node, on)
}

fn history(most: usize) -> impl Strategy<Value = Vec<(PodRequest, bool)>> {
    proptest::collection::vec((any_pod(4), proptest::bool::weighted(0.3)), 0..most)
}

proptest! {
    #[test]
    fn no_device_is_ever_beyond_what_it_has(node in any_node(5), pods in history(20)) {
        let (node, on) = live(node, &pods);
        let mut held: BTreeMap<&str, Vec<Holding>> = BTreeMap::new();
        for holding in on.iter().flat_map(|placement| &placement.holdings) {
            held.entry(&holding.device).or_default().push(holding.clone());
        }
        for device in node.devices.iter() {
            let all = held.get(&*device.uuid).map_or(&[][..], Vec::as_slice);
            prop_assert_eq!(beyond(device, all), None);
        }
    }

    #[test]
    fn a_placement_obeys_every_rule(node in any_node(5), before in history(6), request in any_pod(4)) {
        let (node, _) = live(node, &before);
        if let Ok(placement) = try_place(&node, &request) {
            prop_assert!(is_lawful(&node, &request, &positions(&node, &placement.allocation)));
            let asked: Vec<_> = request.containers.iter().map(|c| c.count as usize).collect();
            for (shares, count) in positions(&node, &placement.allocation).iter().zip(asked) {
                let mut different = shares.clone();
                different.sort_unstable();
                different.dedup();
                prop_assert_eq!(different.len(), count);
            }
        }
    }

    #[test]
    fn a_way_is_found_wherever_there_is_one(node in any_node(4), before in history(5), request in any_pod(2)) {
        let (node, _) = live(node, &before);
        let placed = try_place(&node, &request);
        prop_assert_eq!(placed.is_ok(), fits_somehow(&node, &request), "{:?}", placed);
    }

    #[test]
    fn a_way_for_three_containers_is_found_too(node in any_node(3), before in history(3), request in any_pod(3)) {
        let (node, _) = live(node, &before);
        let placed = try_place(&node, &request);
        prop_assert_eq!(placed.is_ok(), fits_somehow(&node, &request), "{:?}", placed);
    }

    #[test]
    fn a_shortage_is_told_exactly_where_an_empty_node_would_do(node in any_node(4), before in history(6), request in any_pod(2)) {
        let (busy, _) = live(node.clone(), &before);
        if let Err(reason) = try_place(&busy, &request) {
            let would_do = fits_somehow(&node, &request);
            prop_assert_eq!(reason.is_shortage(), would_do, "{:?}", reason);
        }
    }

    #[test]
    fn releasing_restores_exactly(node in any_node(5), before in history(8), request in any_pod(4)) {
        let (mut node, _) = live(node, &before);
        let was = node.clone();
        if let Ok(placement) = place(&node, &request, Policies::default()) {
            node.book(&placement.holdings);
            prop_assert_ne!(&node, &was);
            node.release(&placement.holdings);
        }
        prop_assert_eq!(node, was);
    }

    #[test]
    fn the_order_of_replayed_pods_does_not_matter(node in any_node(5), pods in history(10), seed in any::<prop::sample::Index>()) {
        let (live, on) = live(node.clone(), &pods);
        let mut replayed = node;
        let mut on: Vec<_> = on;
        if !on.is_empty() {
            let turn = seed.index(on.len());
            on.rotate_left(turn);
            on[..turn].reverse();
        }
        for placement in &on {
            replayed.book(&placement.holdings);
        }
        prop_assert_eq!(live, replayed);
    }

    #[test]
    fn the_same_question_gets_the_same_answer(node in any_node(5), before in history(6), request in any_pod(4)) {
        let (node, _) = live(node, &before);
        for policies in [Policies::default(), Policies { node: NodePolicy::Spread, gpu: Some(GpuPolicy::Spread) }] {
            prop_assert_eq!(place(&node, &request, policies), place(&node.clone(), &request.clone(), policies));
            prop_assert_eq!(rank(&node, &request, 1, 1, policies, &Target::default()), rank(&node.clone(), &request.clone(), 1, 1, policies, &Target::default()));
        }
    }

    #[test]
    fn the_quick_choice_is_the_thorough_one(node in any_node(6), before in history(8), ask in any_ask(), policy in 0..4_usize) {
        let (node, _) = live(node, &before);
        let gpu = [None, Some(GpuPolicy::Binpack), Some(GpuPolicy::Spread), Some(GpuPolicy::Topology)][policy];
        let request = with(app(1, ask), |c| c.gpu_policy = gpu);
        // The same container twice, one after the other, goes through the search and holds no more than once.
        let mut twice = request.clone();
        twice.containers.insert(0, container("before", Phase::Init, 1, request.containers[0].ask.clone()));
        let ranked = rank(&node, &request, 0, 0, Policies::default(), &Target::default());
        prop_assert_eq!(ranked, rank(&node, &twice, 0, 0, Policies::default(), &Target::default()));
    }

    #[test]
    fn an_init_container_takes_devices_of_the_others_wherever_it_can(
        node in any_node(4), before in history(5), init in any_pod(1), app in any_pod(1),
    ) {
        let mut request = app;
        request.containers.splice(0..0, init.containers);
        request.containers[0].phase = Phase::Init;
        request.containers[1].phase = Phase::App;
        request.containers[1].name = "main".into();
        let (node, _) = live(node, &before);
        let shared = |chosen: &[Vec<usize>]| chosen[0].iter().filter(|at| chosen[1].contains(at)).count();
        let all = |count: u32| {
            let sets = (0_u32..1 << node.devices.len()).filter(move |bits| bits.count_ones() == count);
            sets.map(|bits| (0..node.devices.len()).filter(|at| bits >> at & 1 == 1).collect::<Vec<_>>()).collect::<Vec<_>>()
        };
        let ways = all(request.containers[0].count).into_iter().flat_map(|init| {
            all(request.containers[1].count).into_iter().map(move |app| vec![init.clone(), app])
        });
        let most = ways.filter(|way| is_lawful(&node, &request, way)).map(|way| shared(&way)).max();
        let got = place(&node, &request, Policies::default()).ok().map(|placement| shared(&positions(&node, &placement.allocation)));
        prop_assert_eq!(got, most);
    }

    #[test]
    fn booked_behind_our_back_is_no_room(node in any_node(3), memory in any::<u32>(), cores in any::<u16>(), slots in any::<u16>(), request in any_pod(2)) {
        let mut node = node;
        let all: Vec<_> = node.devices.iter().map(|d| Arc::clone(&d.uuid)).collect();
        for device in all {
            node.book(&[Holding { device, memory: memory.max(200), cores: cores.max(100), slots, exclusive: false }]);
        }
        prop_assert!(try_place(&node, &request).is_err_and(|reason| reason < Reason::PodTogether));
    }
}
