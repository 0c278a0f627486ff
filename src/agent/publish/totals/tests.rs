use std::collections::BTreeMap;

use super::*;
use crate::agent::pods::{NodePod, Origin};
use crate::gpu::device::{Device, Enforcement, Health, MigInstance};
use crate::gpu::request::{MigProfile, PodRequest};

fn card(memory: u32) -> Device {
    Device {
        uuid: format!("GPU-{memory}").into(),
        index: 0,
        model: "NVIDIA A100-SXM4-80GB".into(),
        memory,
        cores: 100,
        slots: 10,
        numa: None,
        pci: "0000:07:00.0".into(),
        health: Health::Healthy,
        enforcement: Enforcement::Advisory,
        links: Vec::new(),
        mig: None,
        parent: None,
        foreign: None,
    }
}

fn instance(memory: u32) -> Device {
    let profile = MigProfile("1g.10gb".into());
    Device { mig: Some(MigInstance { profile, start: 0, size: 1 }), parent: Some("GPU-x".into()), ..card(memory) }
}

fn view(devices: Vec<Device>, mig_strategy: MigStrategy) -> NodeView {
    NodeView { driver: "580.95.05".to_owned(), devices, mig_strategy, ..NodeView::default() }
}

fn pod(uid: &str, totals: (u64, u64), ended: bool) -> NodePod {
    NodePod {
        uid: uid.into(),
        namespace: "ns".into(),
        name: uid.into(),
        node: "n".into(),
        ended,
        deleting: false,
        created: String::new(),
        containers: Vec::new(),
        running: Vec::new(),
        origin: Origin::Packhorse,
        request: Ok(PodRequest::default()),
        allocation: None,
        totals,
        slots: BTreeMap::new(),
    }
}

struct World {
    part: Totals,
    view: watch::Sender<Arc<NodeView>>,
    pods: Arc<Pods>,
    node: OwnNode,
}

impl World {
    fn new(devices: NodeView) -> Self {
        let (view, receiver) = watch::channel(Arc::new(devices));
        let pods = Arc::new(Pods::default());
        let part = Totals::new(receiver, Arc::clone(&pods), watch::Sender::new(false));
        Self { part, view, pods, node: OwnNode::default() }
    }

    /// What the node says after everything due was written: MiB, percent.
    fn settle(&mut self) -> (u64, u64) {
        if let Some(write) = self.part.due(&self.node) {
            assert!(!*self.part.written.borrow(), "not written yet");
            let Write::Status(patch) = write else { panic!("{write:?}") };
            for (list, has) in [("capacity", &mut self.node.capacity), ("allocatable", &mut self.node.allocatable)] {
                let read = |name: &str| patch["status"][list][name].as_str().map(|text| text.parse().unwrap());
                has.memory = read(GPU_MEMORY).or(has.memory);
                has.cores = read(GPU_CORES).or(has.cores);
            }
            assert_eq!(self.part.due(&self.node), None, "one write is enough");
        }
        self.part.settled();
        assert_eq!(self.node.capacity, self.node.allocatable);
        (self.node.capacity.memory.unwrap_or(0), self.node.capacity.cores.unwrap_or(0))
    }

    fn devices(&self, devices: Vec<Device>) {
        self.view.send_replace(Arc::new(view(devices, MigStrategy::None)));
    }

    fn reset_by_kubelet(&mut self) {
        let zero = Amounts { memory: Some(0), cores: Some(0) };
        (self.node.capacity, self.node.allocatable) = (zero, zero);
    }
}

#[test]
fn cards_count_and_instances_only_where_a_gpu_means_an_instance() {
    let mut failed = card(40960);
    failed.health = Health::Unhealthy;
    for (strategy, devices, expected) in [
        (MigStrategy::None, vec![card(81920), failed.clone(), instance(9728)], (122_880, 200)),
        (MigStrategy::Mixed, vec![card(81920), failed, instance(9728)], (122_880, 200)),
        (MigStrategy::Single, vec![instance(9728), instance(19968)], (29_696, 200)),
        (MigStrategy::Single, vec![card(81920)], (81920, 100)),
    ] {
        let mut world = World::new(view(devices, strategy));
        assert_eq!(world.settle(), expected, "{strategy:?}");
        assert!(*world.part.written.borrow());
    }
}

#[test]
fn never_lowered_below_what_bound_pods_request() {
    let mut world = World::new(view(vec![card(40_000), card(40_001)], MigStrategy::None));
    world.pods.replace([pod("a", (60_000, 130), false), pod("b", (10_000, 20), true)]);
    assert_eq!(world.settle(), (80_001, 200));
    world.devices(vec![card(40_000)]);
    assert_eq!(world.settle(), (60_000, 130), "an ended pod does not count");
    world.pods.apply(pod("a", (60_000, 130), true));
    assert_eq!(world.settle(), (40_000, 100));
}

#[test]
fn before_the_first_complete_list_of_pods_nothing_is_lowered() {
    let mut world = World::new(view(vec![card(40_000)], MigStrategy::None));
    let earlier = Amounts { memory: Some(80_001), cores: Some(200) };
    (world.node.capacity, world.node.allocatable) = (earlier, earlier);
    assert_eq!(world.settle(), (80_001, 200));
    world.pods.replace([]);
    assert_eq!(world.settle(), (40_000, 100));
}

#[test]
fn what_a_kubelet_resets_comes_back_also_where_it_is_more_than_the_devices() {
    let mut world = World::new(view(vec![card(40_000), card(40_001)], MigStrategy::None));
    world.pods.replace([pod("a", (60_000, 130), false)]);
    world.settle();
    world.reset_by_kubelet();
    assert_eq!(world.settle(), (80_001, 200));
    world.devices(vec![card(40_000)]);
    world.settle();
    world.reset_by_kubelet();
    assert_eq!(world.settle(), (60_000, 130));
}

#[test]
fn a_pod_cannot_raise_them_by_asking() {
    let mut world = World::new(view(vec![card(40_000)], MigStrategy::None));
    world.pods.replace([pod("forged", (1 << 40, 1 << 40), false)]);
    assert_eq!(world.settle(), (40_000, 100));
}

#[test]
fn a_node_whose_devices_are_unknown_or_none_is_left_alone() {
    let mut world = World::new(NodeView::default());
    world.settle();
    assert!(!*world.part.written.borrow(), "slots wait");
    world.view.send_replace(Arc::new(NodeView { trouble: Some("no driver".to_owned()), ..NodeView::default() }));
    assert_eq!(world.part.due(&world.node), None);
    world.settle();
    assert!(*world.part.written.borrow());
}
