//! Pods of several containers.

use super::build::*;
use crate::gpu::device::Device;
use crate::gpu::reason::Reason::{self, *};
use crate::gpu::request::Phase::{App, Init, Sidecar};
use crate::gpu::request::{Ask, ContainerRequest, GpuPolicy, Phase, PodRequest};

fn of(containers: &[(Phase, u32, Ask)]) -> PodRequest {
    let named = |(at, (phase, count, ask)): (usize, &(Phase, u32, Ask))| {
        container(&format!("c{at}"), *phase, *count, ask.clone())
    };
    pod(containers.iter().enumerate().map(named).collect())
}

fn small(count: u32, memory: u32) -> Vec<Device> {
    (0..count).map(|index| Device { memory, ..card(index) }).collect()
}

#[test]
fn several_containers_on_one_node() {
    type Expected = Result<Vec<Vec<usize>>, Reason>;
    let whole = || Ask::Exclusive;
    let table: Vec<(&str, _, PodRequest, Expected)> = vec![
        (
            "two shares of one card",
            node(cards(2)),
            of(&[(App, 1, share(100, 10)), (App, 1, share(100, 10))]),
            Ok(vec![vec![0], vec![0]]),
        ),
        ("two whole cards", node(cards(2)), of(&[(App, 1, whole()), (App, 1, whole())]), Ok(vec![vec![0], vec![1]])),
        (
            "a share is never beside a whole card",
            node(cards(1)),
            of(&[(App, 1, whole()), (App, 1, share(1, 0))]),
            Err(TooFewDevices),
        ),
        (
            "nor beside a sidecar's",
            node(cards(1)),
            of(&[(Sidecar, 1, whole()), (App, 1, share(1, 0))]),
            Err(TooFewDevices),
        ),
        (
            "nor an init container beside a sidecar's",
            node(cards(1)),
            of(&[(Sidecar, 1, whole()), (Init, 1, share(1, 0))]),
            Err(TooFewDevices),
        ),
        (
            "an init container before the sidecar may",
            node(cards(1)),
            of(&[(Init, 1, share(1, 0)), (Sidecar, 1, whole())]),
            Ok(vec![vec![0], vec![0]]),
        ),
        (
            "init, then app, on one whole card",
            node(cards(2)),
            of(&[(Init, 1, whole()), (App, 1, whole())]),
            Ok(vec![vec![0], vec![0]]),
        ),
        (
            "a whole card for init, a share for app",
            node(cards(2)),
            of(&[(Init, 1, whole()), (App, 1, share(5, 5))]),
            Ok(vec![vec![0], vec![0]]),
        ),
        (
            "init containers one after the other",
            node(cards(2)),
            of(&[(Init, 1, whole()), (Init, 1, share(60_000, 99)), (App, 1, share(60_000, 99))]),
            Ok(vec![vec![0], vec![0], vec![0]]),
        ),
        (
            "a whole card for init makes the pod's share wait for a free card",
            used(node(cards(1)), &[(1, 1, 1)]),
            of(&[(Init, 1, whole()), (App, 1, share(5, 5))]),
            Err(DeviceExclusive),
        ),
        (
            "init may need more than app",
            node(cards(3)),
            of(&[(Init, 3, share(10, 0)), (App, 1, share(10, 0))]),
            Ok(vec![vec![0, 1, 2], vec![0]]),
        ),
        (
            "app is moved so that init can join it",
            used(node(cards(2)), &[(1, 70_000, 0)]),
            of(&[(Init, 1, share(60_000, 0)), (App, 1, share(1_000, 0))]),
            Ok(vec![vec![1], vec![1]]),
        ),
        (
            "sums beyond a card go to two",
            node(cards(2)),
            of(&[(App, 1, share(50_000, 0)), (App, 1, share(50_000, 0))]),
            Ok(vec![vec![0], vec![1]]),
        ),
        (
            "cores count together",
            node(cards(1)),
            of(&[(App, 1, share(1, 60)), (App, 1, share(1, 60))]),
            Err(TooFewDevices),
        ),
        (
            "a sidecar counts beside init",
            node(cards(1)),
            of(&[(Sidecar, 1, share(50_000, 0)), (Init, 1, share(50_000, 0)), (App, 1, share(1, 0))]),
            Err(TooFewDevices),
        ),
        (
            "a later sidecar does not",
            node(cards(1)),
            of(&[(Init, 1, share(50_000, 0)), (Sidecar, 1, share(50_000, 0)), (App, 1, share(1, 0))]),
            Ok(vec![vec![0], vec![0], vec![0]]),
        ),
        (
            "each alone, not together, until somebody goes",
            used(node(cards(1)), &[(1, 40_000, 0)]),
            of(&[(App, 1, share(30_000, 0)), (App, 1, share(30_000, 0))]),
            Err(PodTogether),
        ),
        (
            "not together even on an empty node",
            node(cards(1)),
            of(&[(App, 1, share(50_000, 0)), (App, 1, share(50_000, 0))]),
            Err(TooFewDevices),
        ),
        (
            "the container that lacks most tells why",
            used(node(cards(1)), &[(1, 80_000, 0)]),
            of(&[(App, 1, share(9_000, 0)), (App, 1, share(90_000, 0))]),
            Err(DeviceTooSmall),
        ),
        (
            "full now, and without room for both even when empty",
            used(node(vec![Device { slots: 1, ..card(0) }]), &[(1, 81_920, 0)]),
            of(&[(Sidecar, 1, share(1, 0)), (Init, 1, share(1, 0))]),
            Err(TooFewDevices),
        ),
        (
            "the small one yields the tight hole to the large one",
            used(node(small(2, 100)), &[(1, 50, 0), (1, 60, 0)]),
            of(&[(App, 1, share(40, 0)), (App, 1, share(50, 0))]),
            Ok(vec![vec![1], vec![0]]),
        ),
        (
            "four pieces into two cards",
            node(small(2, 100)),
            of(&[(App, 1, share(40, 0)), (App, 1, share(60, 0)), (App, 1, share(50, 0)), (App, 1, share(50, 0))]),
            Ok(vec![vec![0], vec![0], vec![1], vec![1]]),
        ),
    ];
    for (case, node, request, expected) in table {
        assert_eq!(devices(&node, &request), expected, "{case}");
    }
}

#[test]
fn pieces_that_greed_would_misplace_fit() {
    // 6+2+2 and 5+5 of 10 each: largest first into the tightest hole ends with 6+2+2, 5+5; 6+4 would not.
    let pieces = |sizes: &[u32]| of(&sizes.iter().map(|mib| (App, 1, share(*mib, 0))).collect::<Vec<_>>());
    for sizes in [&[6, 5, 5, 2, 2][..], &[4, 4, 4, 4, 2, 2], &[7, 3, 6, 4, 5, 5], &[3, 3, 4, 3, 3, 4]] {
        let total: u32 = sizes.iter().sum();
        assert!(try_place(&node(small(total.div_ceil(10), 10)), &pieces(sizes)).is_ok(), "{sizes:?}");
    }
}

#[test]
fn a_pinned_container_gets_its_device_first() {
    let mut request = of(&[(App, 1, Ask::Exclusive), (App, 1, Ask::Exclusive)]);
    request.containers[1] = ContainerRequest { index: vec![0], ..request.containers[1].clone() };
    assert_eq!(devices(&node(cards(2)), &request), Ok(vec![vec![1], vec![0]]));
}

#[test]
fn devices_of_another_numa_node_are_another_try() {
    // Whole cards go first, to the first NUMA node; only the second leaves room for the shares.
    let on = |(device, (memory, numa)): (Device, (u32, u16))| Device { memory, numa: Some(numa), ..device };
    let kinds = [(81_920, 0), (81_920, 0), (40_960, 1), (40_960, 1), (81_920, 2), (81_920, 3)];
    let node = node(cards(6).into_iter().zip(kinds).map(on).collect());
    let node = used(node, &[(0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0), (1, 1_000, 0), (1, 1_000, 0)]);
    let request = with(of(&[(App, 2, Ask::Exclusive), (App, 2, share(60_000, 0))]), |c| c.numa_bind = true);
    assert_eq!(devices(&node, &request), Ok(vec![vec![2, 3], vec![0, 1]]));
}

#[test]
fn numa_bind_holds_for_each_container_by_itself() {
    let on = |numas: [u16; 4]| {
        node(cards(4).into_iter().zip(numas).map(|(d, numa)| Device { numa: Some(numa), ..d }).collect())
    };
    let request = with(of(&[(App, 2, Ask::Exclusive), (App, 2, Ask::Exclusive)]), |c| c.numa_bind = true);
    assert_eq!(devices(&on([0, 1, 0, 1]), &request), Ok(vec![vec![0, 2], vec![1, 3]]));
    assert_eq!(devices(&on([0, 1, 1, 1]), &request), Err(TooFewDevices));
}

#[test]
fn init_containers_join_the_others_under_every_policy() {
    for policy in [None, Some(GpuPolicy::Binpack), Some(GpuPolicy::Spread), Some(GpuPolicy::Topology)] {
        let request = of(&[
            (Init, 1, share(900, 0)),
            (Init, 2, share(500, 0)),
            (Sidecar, 1, share(10, 0)),
            (App, 2, share(100, 10)),
        ]);
        let request = with(request, |c| c.gpu_policy = policy);
        let node = used(node(cards(4)), &[(1, 100, 0), (0, 0, 0), (2, 70_000, 50)]);
        let chosen = devices(&node, &request).expect("it fits");
        let later: Vec<_> = chosen[2..].concat();
        assert!(chosen[..2].concat().iter().all(|at| later.contains(at)), "{policy:?}: {chosen:?}");
    }
}

#[test]
fn a_search_without_end_is_cut_short_as_a_shortage() {
    // Two units short of room for pieces that all differ: no symmetry helps.
    let sizes: Vec<_> = (0..14).map(|at| (App, 1, share(1_001 + at * 37, 0))).collect();
    let total: u32 = (0..14).map(|at| 1_001 + at * 37).sum();
    let node = node((0..7).map(|index| Device { memory: total / 7 + index, slots: 20, ..card(index) }).collect());
    let started = std::time::Instant::now();
    if let Err(reason) = try_place(&node, &of(&sizes)) {
        assert_eq!(reason, PodTogether);
    }
    assert!(started.elapsed().as_secs() < 5, "the bound holds");
}

#[test]
fn holdings_count_the_pod_as_kubernetes_does() {
    let request = of(&[
        (Init, 1, share(900, 50)),
        (Sidecar, 1, share(10, 5)),
        (Init, 1, share(20, 70)),
        (App, 1, share(100, 10)),
    ]);
    let placement = try_place(&node(cards(1)), &request).expect("it fits");
    let holding = &placement.holdings[0];
    assert_eq!(placement.holdings.len(), 1);
    // First init 900/50; then sidecar and init 30/75; then sidecar and app 110/15. Two run together at most.
    assert_eq!((holding.memory, holding.cores, holding.slots, holding.exclusive), (900, 75, 2, false));
}
