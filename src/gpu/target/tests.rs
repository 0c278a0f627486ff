//! What must hold of every workload and every node.

use std::collections::HashMap;

use proptest::prelude::*;

use super::class::Class;
use super::profile::Profile;
use super::{Target, Weights, fill, stranded};
use crate::gpu::allocation::Holding;
use crate::gpu::device::{Device, Enforcement, Health, Inventory};
use crate::gpu::node::Node;
use crate::gpu::request::{Ask, Constraints, ContainerRequest, Memory, Phase, PodRequest};
use crate::gpu::workload::{Kind, Workload};

fn card(index: u32) -> Device {
    Device {
        uuid: format!("GPU-{index}").into(),
        index,
        model: "NVIDIA A100-SXM4-80GB".into(),
        memory: 1000,
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

fn node(cards: u32, cpu: i64, used: &[(u32, u16)]) -> Node {
    node_of((0..cards).map(card).collect(), cpu, used)
}

/// Every second card is a smaller one.
fn node_of_two_kinds(cards: u32, cpu: i64, used: &[(u32, u16)]) -> Node {
    let smaller = |index| Device { model: "NVIDIA L4".into(), memory: 300, ..card(index) };
    let devices = (0..cards).map(|index| if index % 2 == 0 { card(index) } else { smaller(index) });
    node_of(devices.collect(), cpu, used)
}

fn node_of(devices: Vec<Device>, cpu: i64, used: &[(u32, u16)]) -> Node {
    let cards = devices.len();
    let mut node = Node::new(&Inventory { ready: true, devices, ..Inventory::default() }, |_| false, false);
    (node.cpu, node.cpu_left) = (cpu, Some(cpu));
    for (index, (memory, cores)) in used.iter().take(cards).enumerate() {
        if *memory > 0 {
            let device = format!("GPU-{index}").into();
            node.book(&[Holding { device, memory: *memory, cores: *cores, slots: 1, exclusive: false }]);
        }
    }
    node
}

fn request(count: u32, ask: Ask) -> PodRequest {
    let container =
        ContainerRequest { name: "main".into(), phase: Phase::App, count, ask, index: Vec::new(), uuid: Vec::new() };
    PodRequest { containers: vec![container], constraints: Constraints::default() }
}

fn share(memory: u32, cores: u8) -> Ask {
    Ask::Share { memory: Memory::Mib(memory), cores }
}

fn workload(pods: &[(i64, u32, u32, u8)]) -> Workload {
    let mut workload = Workload::default();
    for (cpu, count, memory, cores) in pods {
        let request = match (*count, *memory) {
            (0, _) => PodRequest::default(),
            (count, 1000..) => request(count, Ask::Exclusive),
            (_, memory) => request(1, share(memory, *cores)),
        };
        workload.arrive(&Kind::of(&request, *cpu), 1 << 30);
    }
    workload
}

fn pods() -> impl Strategy<Value = Vec<(i64, u32, u32, u8)>> {
    let memory = prop_oneof![1..1000_u32, Just(1000)];
    proptest::collection::vec((0..32_000_i64, 0..5_u32, memory, 0..99_u8), 1..20)
}

fn nodes() -> impl Strategy<Value = Node> {
    let used = proptest::collection::vec((0..=1000_u32, 0..=100_u16), 8);
    (1..=8_u32, 0..128_000_i64, used).prop_map(|(cards, cpu, used)| node(cards, cpu, &used))
}

fn nodes_of_two_kinds() -> impl Strategy<Value = Node> {
    let used = proptest::collection::vec((0..=1000_u32, 0..=100_u16), 8);
    (1..=8_u32, 0..128_000_i64, used).prop_map(|(cards, cpu, used)| node_of_two_kinds(cards, cpu, &used))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The short way to fill a node is the long way.
    #[test]
    fn both_ways_to_fill_a_node_are_one(pods in pods(), node in nodes()) {
        let target = Target::new(&workload(&pods), &HashMap::new());
        let mut class = Class::new(&node, &target.learned, &target.lists, &target.cards);
        let profile = Profile::of(&node, &class, &[], 0, 0);
        prop_assert!(class.plain.is_some());
        let short = fill::fill(&class, &profile);
        class.plain = None;
        prop_assert_eq!(short, fill::fill(&class, &profile));
        // A share counts as the larger of its memory and its cores, and may leave the other to somebody else.
        prop_assert!(short <= 2000.0 * node.devices.len() as f64);
    }

    /// The groups looked at together are the groups looked at one by one, to the last bit.
    #[test]
    fn both_ways_to_see_what_is_stranded_are_one(
        pods in proptest::collection::vec((0..32_000_i64, 0..5_u32, prop_oneof![1..1000_u32, Just(1000)], 0..99_u8), 1..80),
        nodes in (nodes(), nodes_of_two_kinds()),
    ) {
        let target = Target::new(&workload(&pods), &HashMap::new());
        for node in [nodes.0, nodes.1] {
            let mut class = Class::new(&node, &target.learned, &target.lists, &target.cards);
            let profile = Profile::of(&node, &class, &[], 0, 0);
            prop_assert!(class.columns.is_some());
            let together = stranded::stranded(&class, &profile);
            class.columns = None;
            prop_assert_eq!(together.to_bits(), stranded::stranded(&class, &profile).to_bits());
        }
    }

    /// Pods never get more than there is, nor waste more than there is.
    #[test]
    fn what_is_stranded_is_a_part_of_what_is_free(pods in pods(), node in nodes()) {
        let target = Target::with(&workload(&pods), &HashMap::new(), Weights::STEADY);
        let class = Class::new(&node, &target.learned, &target.lists, &target.cards);
        let profile = Profile::of(&node, &class, &[], 0, 0);
        let stranded = super::stranded::stranded(&class, &profile);
        prop_assert!((-1e-6..=f64::from(profile.free) + 1e-6).contains(&stranded), "{stranded} of {}", profile.free);
    }

    /// A ranking is a number, and the same each time.
    #[test]
    fn values_are_finite_and_repeat(pods in pods(), node in nodes(), memory in 1..1000_u32) {
        use crate::gpu::fit::{Policies, rank};
        let workload = workload(&pods);
        for weights in [Weights::FILLING, Weights::at(0.5), Weights::STEADY] {
            let value = || {
                let target = Target::with(&workload, &HashMap::new(), weights);
                let request = request(1, share(memory, 0));
                [(); 2].map(|()| rank(&node, &request, 1000, 1 << 30, Policies::default(), &target))
            };
            let (first, again) = (value(), value());
            prop_assert_eq!(first, again);
            prop_assert_eq!(first[0], first[1]);
            prop_assert!(first[0].is_err() || first[0].is_ok_and(f64::is_finite));
        }
    }
}

#[test]
fn room_for_those_who_come_is_kept() {
    use crate::gpu::fit::{Policies, rank};
    // Half the pods want a whole card and half a card, and 30 cores; half want one core and half a card.
    let workload = workload(&[(30_000, 1, 1000, 0), (1000, 1, 500, 0), (30_000, 1, 1000, 0), (1000, 1, 500, 0)]);
    let target = Target::new(&workload, &HashMap::new());
    // One node with a free card and CPU for a whole-card pod, one with a free card and no CPU for it.
    let (rich, poor) = (node(1, 32_000, &[]), node(1, 4000, &[]));
    let of = |node: &Node| rank(node, &request(1, share(500, 0)), 1000, 0, Policies::default(), &target).expect("room");
    assert!(of(&poor) > of(&rich), "a small pod goes where no large one could");
}

#[test]
fn cards_that_some_pods_must_have_are_spared() {
    use crate::gpu::card::CardKind;
    use crate::gpu::fit::{Policies, rank};
    let model = |name: &str| Device { model: name.into(), ..card(0) };
    let on = |device: Device| {
        Node::new(&Inventory { ready: true, devices: vec![device], ..Inventory::default() }, |_| false, false)
    };
    let choosy = PodRequest {
        constraints: Constraints { model: vec!["T4".into()], ..Constraints::default() },
        ..request(1, Ask::Exclusive)
    };
    let mut workload = Workload::default();
    for _ in 0..10 {
        workload.arrive(&Kind::of(&choosy, 1000), 0);
        workload.arrive(&Kind::of(&request(1, Ask::Exclusive), 1000), 0);
    }
    let cards = HashMap::from([(CardKind::of(&model("T4")), 10), (CardKind::of(&model("A10")), 10)]);
    for weights in [Weights::FILLING, Weights::STEADY] {
        let target = Target::with(&workload, &cards, weights);
        let of = |name: &str| {
            rank(&on(model(name)), &request(1, Ask::Exclusive), 1000, 0, Policies::default(), &target).expect("room")
        };
        assert!(of("A10") > of("T4"), "{weights:?}");
    }
}
