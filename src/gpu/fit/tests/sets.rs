//! Several GPUs of one container: the best connected that there are; one GPU: the worst connected.

use proptest::prelude::*;

use super::build::*;
use crate::gpu::device::{Device, Link, Pcie};
use crate::gpu::node::Node;
use crate::gpu::request::Phase::App;
use crate::gpu::request::{Ask, GpuPolicy, PodRequest};
use crate::gpu::topology::Topology;

/// DGX-1 with V100: two NVLink connections inside {0,3}, {1,2}, {4,7}, {5,6}, one to others of the quad and to the mirror card.
fn dgx1() -> Vec<Device> {
    let mut links = vec![(0, 3, 2), (1, 2, 2), (4, 7, 2), (5, 6, 2)];
    links.extend([(0, 1, 1), (0, 2, 1), (1, 3, 1), (2, 3, 2), (4, 5, 1), (4, 6, 1), (5, 7, 1), (6, 7, 2)]);
    links.extend([(0, 4, 2), (1, 5, 2), (2, 6, 1), (3, 7, 1)]);
    linked(cards(8), &links)
}

fn chosen(node: &Node, count: u32) -> Vec<usize> {
    devices(node, &app(count, Ask::Exclusive)).expect("there are enough").remove(0)
}

fn devices_of(node: &Node, request: &PodRequest) -> Vec<usize> {
    devices(node, request).expect("there is room").remove(0)
}

#[test]
fn pairs_and_quads_are_linked_by_nvlink() {
    let pairs = || linked(cards(4), &[(0, 2, 4), (1, 3, 4)]);
    assert_eq!(chosen(&node(pairs()), 2), [0, 2]);
    assert_eq!(chosen(&taken(node(pairs()), &[2]), 2), [1, 3]);
    assert_eq!(chosen(&taken(node(pairs()), &[0, 3]), 2), [1, 2], "no link left, but room");
    let quads = linked(cards(8), &[(0, 2, 1), (2, 4, 1), (4, 6, 1), (6, 0, 1), (0, 4, 1), (2, 6, 1)]);
    assert_eq!(chosen(&node(quads), 4), [0, 2, 4, 6]);
}

#[test]
fn more_connections_beat_any_pcie_path() {
    let mut devices = linked(cards(3), &[(0, 2, 1)]);
    devices[0].links.push(Link { peer: "GPU-01".into(), nvlink: 0, pcie: Some(Pcie::SameBoard) });
    assert_eq!(chosen(&node(devices), 2), [0, 2]);
}

#[test]
fn pcie_then_numa_decide_where_there_is_no_nvlink() {
    let path = |devices: &mut Vec<Device>, a: usize, b: usize, pcie| {
        let peer = devices[b].uuid.clone();
        devices[a].links.push(Link { peer, nvlink: 0, pcie: Some(pcie) });
    };
    let mut switched = cards(4);
    path(&mut switched, 0, 1, Pcie::CrossCpu);
    path(&mut switched, 0, 2, Pcie::SameCpu);
    path(&mut switched, 0, 3, Pcie::HostBridge);
    path(&mut switched, 1, 2, Pcie::MultiSwitch);
    // Told by one end only.
    path(&mut switched, 3, 1, Pcie::SingleSwitch);
    assert_eq!(chosen(&node(switched), 2), [1, 3]);

    let numas = [0, 1, 0, 1];
    let on_numa: Vec<_> = cards(4).into_iter().zip(numas).map(|(d, numa)| Device { numa: Some(numa), ..d }).collect();
    assert_eq!(chosen(&taken(node(on_numa.clone()), &[0]), 2), [1, 3]);
    assert_eq!(chosen(&node(on_numa), 2), [0, 2]);
}

#[test]
fn one_gpu_leaves_the_connected_ones_to_others() {
    let three_linked = linked(cards(4), &[(0, 1, 2), (1, 2, 2), (0, 2, 2), (2, 3, 1)]);
    assert_eq!(chosen(&node(three_linked), 1), [3]);
    // Two pairs, one of them broken already.
    let pairs = linked(cards(4), &[(0, 1, 2), (2, 3, 2)]);
    assert_eq!(chosen(&taken(node(pairs), &[3]), 1), [2]);
}

#[test]
fn equal_sets_leave_the_best_to_others() {
    // 0-1-2-3 in a chain: taking the middle pair would break both others.
    let chain = linked(cards(4), &[(1, 2, 2), (0, 1, 2), (2, 3, 2)]);
    assert_eq!(chosen(&node(chain), 2), [0, 1]);
    // 4 of a DGX-1 leave a quad as good as can be.
    let quad = chosen(&node(dgx1()), 4);
    let others: Vec<_> = (0..8).filter(|at| !quad.contains(at)).collect();
    let node = node(dgx1());
    let topology = node.devices.topology();
    let best = (0_u32..256).filter(|bits| bits.count_ones() == 4).map(|bits| {
        let set: Vec<_> = (0..8).filter(|at| bits >> at & 1 == 1).collect();
        let rest: Vec<_> = (0..8).filter(|at| bits >> at & 1 == 0).collect();
        (topology.within(&set), topology.within(&rest))
    });
    assert_eq!(Some((topology.within(&quad), topology.within(&others))), best.max());
}

#[test]
fn sharing_containers_with_several_gpus_pack_where_links_are_equal() {
    let node = used(node(cards(4)), &[(0, 0, 0), (1, 10_000, 0), (0, 0, 0), (1, 20_000, 0)]);
    assert_eq!(devices(&node, &app(2, share(1_000, 0))), Ok(vec![vec![1, 3]]));
    let spread = with(app(2, share(1_000, 0)), |c| c.gpu_policy = Some(GpuPolicy::Spread));
    assert_eq!(devices(&node, &spread), Ok(vec![vec![0, 2]]));
}

#[test]
fn sixteen_and_more_gpus_are_chosen_in_bounded_time() {
    let ring = |count: u32| {
        let count = usize::try_from(count).expect("small");
        (0..count).map(|a| (a, (a + 1) % count, 2)).collect::<Vec<_>>()
    };
    let sixteen = node(linked(cards(16), &ring(16)));
    assert_eq!(sixteen.devices.topology().within(&chosen(&sixteen, 8)), 7 * 200);
    let many = node(linked(cards(64), &ring(64)));
    assert_eq!(many.devices.topology().within(&chosen(&many, 8)), 7 * 200, "grown along the ring");
}

/// Cards on these NUMA nodes, each linked to each by the same path.
fn alike(numas: &[u16], pcie: Option<Pcie>) -> Vec<Device> {
    let mut devices = cards(u32::try_from(numas.len()).expect("few"));
    let uuids: Vec<_> = devices.iter().map(|device| device.uuid.clone()).collect();
    for (device, numa) in devices.iter_mut().zip(numas) {
        device.numa = Some(*numa);
        let peers = uuids.iter().filter(|uuid| **uuid != device.uuid);
        device.links = peers.map(|peer| Link { peer: peer.clone(), nvlink: 12, pcie }).collect();
    }
    devices
}

#[test]
fn where_links_are_equal_several_gpus_share_a_numa_node() {
    for pcie in [None, Some(Pcie::SameCpu)] {
        assert_eq!(chosen(&node(alike(&[0, 1, 1, 0], pcie)), 2), [0, 3], "{pcie:?}");
        assert_eq!(chosen(&node(alike(&[0, 1, 1, 0, 1, 0], pcie)), 3), [0, 3, 5], "{pcie:?}");
    }
}

#[test]
fn where_links_are_equal_the_fuller_numa_node_gives_and_the_other_stays_whole() {
    let numas = [0, 0, 0, 0, 1, 1, 1, 1];
    for pcie in [None, Some(Pcie::SameCpu)] {
        let busy = taken(node(alike(&numas, pcie)), &[4]);
        assert_eq!(chosen(&busy, 1), [5], "{pcie:?}");
        let busier = taken(node(alike(&numas, pcie)), &[4, 7]);
        assert_eq!(chosen(&busier, 2), [5, 6], "{pcie:?}");
        let bound = |count| with(app(count, Ask::Exclusive), |c| c.numa_bind = true);
        assert_eq!(devices(&busier, &bound(2)), Ok(vec![vec![5, 6]]), "{pcie:?}");
        assert_eq!(devices(&busy, &bound(4)), Ok(vec![vec![0, 1, 2, 3]]), "{pcie:?}");
        // Containers of one pod are no different.
        let two = pod(vec![container("a", App, 1, Ask::Exclusive), container("b", App, 1, Ask::Exclusive)]);
        assert_eq!(devices(&busier, &two), Ok(vec![vec![5], vec![6]]), "{pcie:?}");
    }
    // Without any link told, and where NUMA nodes are all there is to tell.
    let on_numa = |numas: [u16; 8]| -> Vec<Device> {
        cards(8).into_iter().zip(numas).map(|(device, numa)| Device { numa: Some(numa), ..device }).collect()
    };
    assert_eq!(chosen(&taken(node(on_numa(numas)), &[6]), 1), [4]);
}

#[test]
fn a_bound_container_may_take_a_worse_set_than_an_unbound_one() {
    // The best pair crosses the sockets.
    let mut devices = linked(cards(4), &[(1, 2, 4)]);
    for (device, numa) in devices.iter_mut().zip([0, 0, 1, 1]) {
        device.numa = Some(numa);
    }
    assert_eq!(chosen(&node(devices.clone()), 2), [1, 2]);
    let bound = with(app(2, Ask::Exclusive), |c| c.numa_bind = true);
    assert_eq!(devices_of(&node(devices), &bound), [0, 1]);
}

/// Per instance of 1g.10gb: card and NUMA node.
fn instances(places: &[(u32, u16)]) -> Vec<Device> {
    let instance =
        |(nth, (card, numa)): (u8, &(u32, u16))| Device { numa: Some(*numa), ..instance(*card, nth, "1g.10gb", 9_728) };
    (0_u8..).zip(places).map(instance).collect()
}

#[test]
fn instances_come_from_the_fuller_numa_node_and_its_emptier_card() {
    let all = instances(&[(0, 0), (0, 0), (1, 0), (1, 0), (2, 1), (2, 1), (3, 1), (3, 1)]);
    let ask = |count| app(count, mig("1g.10gb"));
    let busy = taken(node(all.clone()), &[4]);
    assert_eq!(devices_of(&busy, &ask(1)), [6], "one is left for those who name the other card");
    assert_eq!(devices_of(&busy, &ask(2)), [5, 6]);
    let bound = |count| with(ask(count), |c| c.numa_bind = true);
    assert_eq!(devices_of(&busy, &bound(2)), [5, 6]);
    assert_eq!(devices_of(&busy, &bound(4)), [0, 1, 2, 3]);
    // Instances of another profile serve nobody who asks for this one.
    let mut others = all.split_at(6).0.to_vec();
    others.extend((6..9).map(|nth| Device { numa: Some(1), ..instance(2, nth, "2g.20gb", 19_968) }));
    assert_eq!(devices_of(&node(others), &ask(1)), [4]);
}

#[test]
fn under_strategy_single_a_container_gets_no_larger_instance_than_it_needs() {
    let mut node = node(vec![
        instance(0, 0, "3g.40gb", 40_192),
        instance(0, 1, "1g.10gb", 9_728),
        instance(1, 0, "2g.20gb", 19_968),
        instance(1, 1, "1g.10gb", 9_728),
    ]);
    node.mig_single = true;
    assert_eq!(devices_of(&node, &app(1, Ask::Exclusive)), [1]);
    assert_eq!(devices_of(&node, &app(2, Ask::Exclusive)), [1, 3]);
    assert_eq!(devices_of(&node, &app(1, share(12_000, 0))), [2]);
    for policy in [GpuPolicy::Binpack, GpuPolicy::Spread, GpuPolicy::Topology] {
        let request = with(app(1, Ask::Exclusive), |c| c.gpu_policy = Some(policy));
        assert_eq!(devices_of(&node, &request), [1], "{policy:?}");
    }
}

/// Any links between eight cards, some of which are taken.
fn any_links() -> impl Strategy<Value = (Node, Vec<usize>)> {
    let links = proptest::collection::vec((0_usize..8, 0_usize..8, 1_u8..5), 0..20);
    (links, proptest::collection::vec(0_usize..8, 0..4), proptest::collection::vec(proptest::option::of(0_u16..2), 8))
        .prop_map(|(links, busy, numas)| {
            let links: Vec<_> = links.into_iter().filter(|(a, b, _)| a != b).collect();
            let devices =
                linked(cards(8), &links).into_iter().zip(numas).map(|(d, numa)| Device { numa, ..d }).collect();
            let mut busy = busy;
            busy.sort_unstable();
            busy.dedup();
            (taken(node(devices), &busy), busy)
        })
}

/// The best sum over all ways to make sets of `size`, each tried.
fn partition(topology: &Topology, left: &[usize], size: usize) -> u32 {
    let Some((first, others)) = left.split_first() else { return 0 };
    let sets = (0_u32..1 << others.len()).filter(|bits| bits.count_ones() as usize == size - 1);
    let with = sets.map(|bits| {
        let is_in = |at: usize| bits >> at & 1 == 1;
        let part = |inside| (0..others.len()).filter(move |at| is_in(*at) == inside).map(|at| others[at]);
        let set: Vec<_> = std::iter::once(*first).chain(part(true)).collect();
        topology.within(&set) + partition(topology, &part(false).collect::<Vec<_>>(), size)
    });
    with.max().unwrap_or(0).max(partition(topology, others, size))
}

proptest! {
    #[test]
    fn sets_are_the_best_connected_possible((node, busy) in any_links(), count in 2_u32..=4) {
        let set = chosen(&node, count);
        let topology = node.devices.topology();
        let free: Vec<_> = (0..8).filter(|at| !busy.contains(at)).collect();
        let worth = |set: &[usize]| {
            let rest: Vec<_> = free.iter().copied().filter(|at| !set.contains(at)).collect();
            (topology.within(set), partition(topology, &rest, set.len()))
        };
        let best = (0_u32..256)
            .filter(|bits| bits.count_ones() == count)
            .map(|bits| (0..8).filter(|at| bits >> at & 1 == 1).collect::<Vec<usize>>())
            .filter(|set| set.iter().all(|at| free.contains(at)))
            .map(|set| worth(&set))
            .max();
        prop_assert_eq!(Some(worth(&set)), best);
    }

    #[test]
    fn one_gpu_is_the_worst_connected((node, busy) in any_links()) {
        let one = chosen(&node, 1)[0];
        let free: Vec<_> = (0..8).filter(|at| !busy.contains(at)).collect();
        let near = |at: usize| free.iter().filter(|other| **other != at).map(|other| node.devices.topology().near(at, *other)).sum::<u32>();
        prop_assert_eq!(Some(near(one)), free.iter().map(|at| near(*at)).min());
    }
}
