//! The choice between nodes: what `rank` prefers.

use super::build::*;
use crate::gpu::device::Device;
use crate::gpu::fit::{Policies, place, rank};
use crate::gpu::node::Node;
use crate::gpu::request::Phase::{App, Init};
use crate::gpu::request::{Ask, NodePolicy, PodRequest};
use crate::gpu::target::Target;

const SPREAD: Policies = Policies { node: NodePolicy::Spread, gpu: None };

fn best(nodes: &[Node], request: &PodRequest, policies: Policies) -> Option<usize> {
    let ranked = nodes.iter().enumerate().filter_map(|(at, node)| {
        rank(node, request, 1_000, 1 << 30, policies, &Target::default()).ok().map(|score| (at, score))
    });
    // The first of equals, as the extender takes the first name.
    ranked.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(at, _)| at)
}

/// Puts pods on the best node one by one; gives how many each node got.
fn fill(nodes: &mut [Node], request: &PodRequest, pods: usize, policies: Policies) -> Vec<usize> {
    let mut got = vec![0; nodes.len()];
    for _ in 0..pods {
        let at = best(nodes, request, policies).expect("room");
        let placement = place(&nodes[at], request, policies).expect("ranked, hence fits");
        nodes[at].book(&placement.holdings);
        nodes[at].cpu_left = nodes[at].cpu_left.map(|left| left - 1_000);
        got[at] += 1;
    }
    got
}

#[test]
fn twenty_small_pods_end_on_the_fewest_nodes() {
    let host = |mut node: Node| {
        (node.cpu, node.cpu_left, node.memory, node.memory_left) = (64_000, Some(60_000), 1 << 40, Some(1 << 40));
        node
    };
    for gpus in [1, 2, 4, 8] {
        let mut nodes: Vec<_> = (0..6).map(|_| host(node(cards(gpus)))).collect();
        // Four to a card.
        let got = fill(&mut nodes, &app(1, share(20_000, 25)), 20, Policies::default());
        let needed = 20_usize.div_ceil(4 * usize::try_from(gpus).expect("small"));
        assert_eq!(got.iter().filter(|pods| **pods > 0).count(), needed, "{gpus} GPUs a node: {got:?}");
    }
}

#[test]
fn spread_uses_every_node() {
    let mut nodes: Vec<_> = (0..6).map(|_| node(cards(2))).collect();
    assert_eq!(fill(&mut nodes, &app(1, share(20_000, 25)), 12, SPREAD), [2; 6]);
}

#[test]
fn the_known_filter_cases_hold() {
    // Two nodes of two cards of 8,000 MiB; the first card holds 2,000/25, the last one 6,000/75.
    let eight = || (0..2).map(|index| Device { memory: 8_000, ..card(index) }).collect::<Vec<_>>();
    let nodes = [used(node(eight()), &[(1, 2_000, 25)]), used(node(eight()), &[(0, 0, 0), (1, 6_000, 75)])];
    let request = app(1, share(1_000, 20));
    use crate::gpu::request::GpuPolicy::{Binpack, Spread};
    for (case, node, gpu, expected) in [
        ("F1", NodePolicy::Binpack, Binpack, (1, "GPU-01")),
        ("F3", NodePolicy::Spread, Binpack, (0, "GPU-00")),
        ("F4", NodePolicy::Spread, Spread, (0, "GPU-01")),
    ] {
        let policies = Policies { node, gpu: Some(gpu) };
        let at = best(&nodes, &request, policies).expect("room");
        let placement = place(&nodes[at], &request, policies).expect("room");
        assert_eq!((at, &*placement.allocation.containers[0].shares[0].device), expected, "{case}");
    }
}

#[test]
fn a_share_opens_a_fresh_card_last_and_a_fresh_node_after_that() {
    let request = app(1, share(10_000, 10));
    let partly = || used(node(cards(8)), &[(1, 10_000, 10)]);
    let fuller = || used(node(cards(8)), &[(2, 50_000, 50)]);
    let whole_cards_only = || taken(node(cards(8)), &[0]);
    let fresh = || node(cards(8));
    let small_fresh = || node(cards(2));
    let linked_fresh = || node(linked(cards(2), &[(0, 1, 12)]));
    for (case, nodes, expected) in [
        ("a card in use", vec![fresh(), whole_cards_only(), partly()], 2),
        ("the fuller card", vec![partly(), fuller()], 1),
        ("a node in use", vec![fresh(), whole_cards_only()], 1),
        ("the node with fewer free cards", vec![fresh(), small_fresh()], 1),
        ("cards that are not linked", vec![linked_fresh(), small_fresh()], 1),
    ] {
        assert_eq!(best(&nodes, &request, Policies::default()), Some(expected), "{case}");
        let spread = best(&nodes, &request, SPREAD);
        // Nobody wants linked cards broken up.
        assert_eq!(spread == Some(expected), case == "cards that are not linked", "{case}, reversed");
    }
}

#[test]
fn several_gpus_prefer_a_linked_set_to_a_node_in_use() {
    let pair = || linked(cards(4), &[(0, 1, 4), (2, 3, 4)]);
    let broken = taken(node(pair()), &[0, 2]);
    let half = taken(node(pair()), &[0, 1]);
    let request = app(2, Ask::Exclusive);
    assert_eq!(best(&[broken.clone(), node(pair())], &request, Policies::default()), Some(1));
    assert_eq!(best(&[broken, node(pair()), half], &request, Policies::default()), Some(2));
}

#[test]
fn host_resources_decide_between_nodes_alike_in_gpus() {
    let with_cpu = |left| {
        let mut node = used(node(cards(2)), &[(1, 10_000, 10)]);
        (node.cpu, node.cpu_left) = (64_000, Some(left));
        node
    };
    assert_eq!(best(&[with_cpu(60_000), with_cpu(8_000)], &app(1, share(1_000, 0)), Policies::default()), Some(1));
}

#[test]
fn the_quick_way_and_the_long_way_rank_alike() {
    // An init container that asks no more than the app container changes nothing but the way the score is computed.
    let one = app(1, share(1_000, 10));
    let two = pod(vec![container("init", Init, 1, share(1_000, 10)), container("main", App, 1, share(1_000, 10))]);
    for node in [node(cards(4)), used(node(cards(4)), &[(1, 500, 0), (2, 70_000, 80)]), taken(node(cards(4)), &[0, 3])]
    {
        let target = Target::default();
        for policies in [Policies::default(), SPREAD] {
            assert_eq!(rank(&node, &one, 5, 5, policies, &target), rank(&node, &two, 5, 5, policies, &target));
        }
    }
}

#[test]
fn a_pod_says_its_own_node_policy() {
    let nodes = [node(cards(1)), used(node(cards(1)), &[(1, 100, 0)])];
    let request = with(app(1, share(1, 0)), |c| c.node_policy = Some(NodePolicy::Spread));
    assert_eq!(best(&nodes, &request, Policies::default()), Some(0));
}
