//! Random pods over random devices, slots chosen by nobody in particular, agents that come and go: a container never gets a device that
//! its allocation does not name, no device is ever promised beyond what it has, and pins replay to the same sums.

use std::collections::{BTreeMap, BTreeSet};

use packhorse::agent::pins::{Pin, Pins};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::bench::*;

const CARDS: usize = 3;
const KINDS: [&str; 4] = ["app", "app", "sidecar", "init"];
const NAMES: [&str; 3] = ["one", "two", "three"];

#[derive(Debug, Clone)]
struct Wish {
    kind: usize,
    devices: BTreeSet<usize>,
    share: Option<(u32, u16)>,
    /// An ordinary init container's slots go to the next container as far as they last.
    reversed: bool,
}

#[derive(Debug, Clone)]
enum Step {
    /// A pod is bound, rightly or not, and every container of it starts.
    Bind(Vec<Wish>),
    /// All containers of a bound pod start again.
    Restart(usize),
    Delete(usize),
    /// The agent is killed and started.
    Reboot,
}

fn wish() -> impl Strategy<Value = Wish> {
    let share = prop_oneof![3 => (1..=6000_u32, 0..=60_u16).prop_map(Some), 1 => Just(None)];
    let devices = proptest::collection::btree_set(1..=CARDS, 1..=2);
    (0..KINDS.len(), devices, share, any::<bool>()).prop_map(|(kind, devices, share, reversed)| Wish {
        kind,
        devices,
        share,
        reversed,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => proptest::collection::vec(wish(), 1..=3).prop_map(Step::Bind),
        2 => any::<usize>().prop_map(Step::Restart),
        2 => any::<usize>().prop_map(Step::Delete),
        1 => Just(Step::Reboot),
    ]
}

/// A pod as the test knows it.
#[derive(Debug)]
struct Bound {
    name: String,
    uid: String,
    containers: Vec<Spec>,
    named: Vec<String>,
}

/// The kubelet's free slots; any will do.
#[derive(Debug)]
struct Free(Vec<&'static str>);

impl Free {
    fn new() -> Self {
        let ids = (1..=CARDS).flat_map(|card| (0..10).map(move |n| format!("{}::{n}", uuid(card))));
        // The test lives as long as the process.
        Self(ids.map(|id| &*Box::leak(id.into_boxed_str())).collect())
    }

    fn give(&mut self, wishes: &[Wish]) -> Option<Vec<Spec>> {
        let mut reusable: Vec<&'static str> = Vec::new();
        let mut specs = Vec::new();
        // Kubernetes has init containers first.
        let mut order: Vec<&Wish> = wishes.iter().collect();
        order.sort_by_key(|wish| KINDS[wish.kind] == "app");
        let last = order.len() - 1;
        for ((at, wish), name) in order.into_iter().enumerate().zip(NAMES) {
            // Nor is there a pod without an app container.
            let kind = if at == last { "app" } else { KINDS[wish.kind] };
            let mut slots = Vec::new();
            for _ in &wish.devices {
                slots.push(reusable.pop().or_else(|| self.0.pop())?);
            }
            if kind == "init" {
                reusable.extend(&slots);
            }
            let mut devices: Vec<usize> = wish.devices.iter().copied().collect();
            if wish.reversed {
                devices.reverse();
            }
            specs.push(Spec { name, kind, slots, devices, share: wish.share });
        }
        Some(specs)
    }

    fn take_back(&mut self, containers: &[Spec]) {
        let slots: BTreeSet<&'static str> = containers.iter().flat_map(|spec| spec.slots.iter().copied()).collect();
        // To the front: the last ones given back come up again last, in another order each time.
        self.0.splice(0..0, slots);
    }
}

fn sums(pins: &[std::sync::Arc<Pin>]) -> BTreeMap<String, (u32, u32, u32, u32)> {
    let mut sums: BTreeMap<String, (u32, u32, u32, u32)> = BTreeMap::new();
    for holding in pins.iter().flat_map(|pin| pin.holdings()) {
        let sum = sums.entry(holding.device.to_string()).or_default();
        sum.0 += holding.memory;
        sum.1 += u32::from(holding.cores);
        sum.2 += u32::from(holding.slots);
        sum.3 += u32::from(holding.exclusive);
    }
    sums
}

fn judge(node: &Node, bound: &[Bound]) {
    for pod in bound {
        for (spec, cdi) in pod.containers.iter().zip(&pod.named) {
            let promised = spec.devices.iter().map(|device| uuid(*device)).collect::<Vec<_>>().join(",");
            let got = node.gets(cdi);
            assert!(
                got.is_none() || got == Some(promised.clone()),
                "{} {}: {got:?}, not {promised}",
                pod.name,
                spec.name
            );
        }
    }
    let pins = node.agent().pins.list();
    for (device, (memory, cores, slots, exclusive)) in sums(&pins) {
        assert!(memory <= MEMORY && cores <= 100 && slots <= 10, "{device}: {memory} MiB, {cores} %, {slots} slots");
        let holders = pins.iter().filter(|pin| pin.holdings().iter().any(|holding| *holding.device == *device)).count();
        assert!(exclusive == 0 || holders == 1, "{device} is exclusive and has {holders} holders");
    }
    let replayed = Pins::open(&node.directory.path().join("state")).unwrap();
    assert_eq!(sums(&replayed.list()), sums(&pins), "on disk as in memory");
}

/// How many containers were let through.
async fn run(steps: Vec<Step>) -> usize {
    let mut node = Node::new(CARDS).await;
    node.boot().await;
    let (mut free, mut bound, mut started) = (Free::new(), Vec::<Bound>::new(), 0);
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Bind(wishes) => {
                let name = format!("p{number}");
                let Some(containers) = free.give(&wishes) else { continue };
                let (uid, named) = node.bind(&name, &containers).await;
                for spec in &containers {
                    started += usize::from(node.prepare(&spec.slots).await.is_ok());
                }
                bound.push(Bound { name, uid, containers, named });
            }
            Step::Restart(which) if !bound.is_empty() => {
                for spec in &bound[which % bound.len()].containers {
                    started += usize::from(node.prepare(&spec.slots).await.is_ok());
                }
            }
            Step::Delete(which) if !bound.is_empty() => {
                let pod = bound.swap_remove(which % bound.len());
                node.delete(&pod.name, &pod.uid);
                free.take_back(&pod.containers);
            }
            Step::Reboot => node.boot().await,
            Step::Restart(_) | Step::Delete(_) => {}
        }
        judge(&node, &bound);
    }
    started
}

#[test]
fn a_container_never_gets_what_its_allocation_does_not_name() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut runner = TestRunner::new(Config { cases: 24, ..Config::default() });
    let started = std::cell::Cell::new(0);
    let result = runner.run(&proptest::collection::vec(step(), 1..25), |steps| {
        started.set(started.get() + runtime.block_on(run(steps)));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(started.get() > 50, "only {} containers started: the test shows nothing", started.get());
}
