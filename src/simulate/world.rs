//! The cluster while a trace is replayed: real [`Node`]s, booked and released by the code that the ledger uses. The only writer is
//! the replay; policies read. Every change is logged, so that cached scores know what they missed.

use std::collections::HashMap;
use std::sync::Arc;

use super::trace::{Cluster, Machine, Shape, Trace, WHOLE, worth};
use crate::gpu::allocation::Holding;
use crate::gpu::device::{Device, Enforcement, Health, Inventory};
use crate::gpu::fit::{Policies, on_device, place};
use crate::gpu::matching::matches_any;
use crate::gpu::node::{Node, Usage};
use crate::random::Random;

/// More containers than a card of 1000 milli can hold.
const SLOTS: u16 = 1000;

/// All nodes and what is booked on them.
#[derive(Debug, Clone)]
pub(crate) struct World {
    /// Ordered by name: names are a permutation drawn for the run.
    pub(crate) hosts: Vec<Host>,
    /// GPU of all of them, in milli.
    pub(crate) capacity: u64,
    /// GPU booked, in milli.
    pub(crate) used: u64,
    /// Pods that were placed: those without GPUs, those with.
    pub(crate) placed: [u64; 2],
    /// Positions of hosts in the order they changed.
    changed: Vec<usize>,
    /// Beside the hosts: the last entry of `changed` that is theirs.
    latest: Vec<usize>,
}

/// One node, with what the published policies read of it.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// Its position in [`World::hosts`].
    pub(crate) id: usize,
    /// As placement sees it. CPU and memory are always known.
    pub(crate) node: Node,
    /// What is left of each device, in milli; nothing of a MIG instance, which is no card.
    pub(crate) free: Vec<u32>,
    /// Milli of its cards.
    pub(crate) gpu: u32,
    /// GPU booked, MIG instances included, in milli.
    taken: u64,
    /// Only of a node of a live cluster.
    real: Option<Real>,
    /// CPU left, in millicores.
    pub(crate) cpu_left: i64,
    /// Memory left, in bytes.
    pub(crate) memory_left: i64,
    /// Which shapes take cards of its model, by their position.
    pub(crate) accepted: Arc<[bool]>,
    /// How many pods of each kind it hosts: 0 for parts of a card, else the number of cards.
    pub(crate) tags: Vec<(u32, u32)>,
    /// Changes with every booking and release.
    pub(crate) version: u64,
}

/// What the published policies read of real devices.
#[derive(Debug, Clone)]
struct Real {
    /// What each shape takes of a card here, in milli.
    milli: Arc<[u32]>,
    /// What each device counts, in milli.
    worth: Arc<[u32]>,
}

/// A pod on its node.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) host: usize,
    pub(crate) shape: usize,
    holdings: Vec<Holding>,
}

impl World {
    /// The empty cluster.
    pub(crate) fn new(cluster: &Cluster, trace: &Trace) -> Self {
        let mut models: Vec<(&str, Arc<[bool]>)> = Vec::new();
        // What shapes take of a card, by its MiB.
        let mut amounts: HashMap<u32, Arc<[u32]>> = HashMap::new();
        let mut hosts = Vec::with_capacity(cluster.machines.len());
        for machine in &cluster.machines {
            if let Some(node) = &machine.node {
                let mut amounts = |card| {
                    let of = || trace.shapes.iter().map(|shape| shape.milli_of(card)).collect();
                    Arc::clone(amounts.entry(card).or_insert_with(of))
                };
                hosts.push(Host::real(hosts.len(), machine, node, &trace.shapes, &mut amounts));
                continue;
            }
            let known =
                models.iter().find(|(model, _)| *model == &*machine.model).map(|(_, shapes)| Arc::clone(shapes));
            let accepted = known.unwrap_or_else(|| {
                let takes = |shape: &Shape| shape.models.is_empty() || matches_any(&shape.models, &machine.model);
                let accepted: Arc<[bool]> = trace.shapes.iter().map(takes).collect();
                models.push((&machine.model, Arc::clone(&accepted)));
                accepted
            });
            hosts.push(Host::new(hosts.len(), machine, accepted));
        }
        let latest = vec![0; hosts.len()];
        Self { hosts, capacity: cluster.capacity(), used: 0, placed: [0; 2], changed: Vec::new(), latest }
    }

    /// The same with new names for the hosts.
    pub(crate) fn renamed(&self, random: &mut Random) -> Self {
        let mut world = self.clone();
        random.shuffle(&mut world.hosts);
        for (id, host) in world.hosts.iter_mut().enumerate() {
            host.id = id;
        }
        world
    }

    /// GPU that nobody has, in percent of all.
    pub(crate) fn unallocated(&self) -> f64 {
        100.0 - 100.0 * self.used as f64 / self.capacity as f64
    }

    /// Books a pod.
    pub(crate) fn place(&mut self, host: usize, shape: &Shape, holdings: Vec<Holding>) -> Placed {
        self.placed[usize::from(shape.demand() > 0)] += 1;
        self.change(host, shape, |node| node.book(&holdings), 1);
        Placed { host, shape: shape.id, holdings }
    }

    /// Takes it away again.
    pub(crate) fn release(&mut self, shape: &Shape, placed: &Placed) {
        self.change(placed.host, shape, |node| node.release(&placed.holdings), -1);
    }

    /// How many changes there were.
    pub(crate) fn now(&self) -> usize {
        self.changed.len()
    }

    /// The hosts that changed since there were `then` changes, each once.
    pub(crate) fn changed_since(&self, then: usize) -> impl Iterator<Item = usize> {
        let recent = self.changed.get(then..).unwrap_or_default();
        recent.iter().enumerate().filter(move |(at, host)| self.latest[**host] == then + at).map(|(_, host)| *host)
    }

    fn change(&mut self, host: usize, shape: &Shape, book: impl FnOnce(&mut Node), sign: i64) {
        let changed = &mut self.hosts[host];
        let before = changed.taken;
        book(&mut changed.node);
        changed.cpu_left -= sign * shape.cpu;
        changed.memory_left -= sign * shape.memory;
        changed.count(shape, sign > 0);
        changed.refresh();
        self.used = self.used + changed.taken - before;
        self.latest[host] = self.changed.len();
        self.changed.push(host);
    }
}

impl Host {
    fn new(id: usize, machine: &Machine, accepted: Arc<[bool]>) -> Self {
        let device = |index: u32| Device {
            uuid: format!("GPU-{}-{index}", machine.name).into(),
            index,
            model: Arc::clone(&machine.model),
            memory: WHOLE,
            cores: 100,
            slots: SLOTS,
            numa: None,
            pci: format!("0000:{index:02x}:00.0").into(),
            health: Health::Healthy,
            enforcement: Enforcement::Advisory,
            links: Vec::new(),
            mig: None,
            parent: None,
            foreign: None,
        };
        let devices = (0..machine.gpus).map(device).collect();
        let mut node = Node::new(&Inventory { ready: true, devices, ..Inventory::default() }, |_| false, false);
        (node.cpu, node.memory) = (machine.cpu, machine.bytes());
        let mut host = Self {
            id,
            node,
            free: vec![WHOLE; machine.gpus as usize],
            gpu: machine.gpus * WHOLE,
            taken: 0,
            real: None,
            cpu_left: machine.cpu,
            memory_left: machine.bytes(),
            accepted,
            tags: Vec::new(),
            version: 0,
        };
        host.refresh();
        host
    }

    /// The empty host of a live cluster.
    fn real(
        id: usize,
        machine: &Machine,
        node: &Node,
        shapes: &[Shape],
        amounts: &mut dyn FnMut(u32) -> Arc<[u32]>,
    ) -> Self {
        let mut node = node.clone();
        (node.cpu, node.memory) = (machine.cpu, machine.bytes());
        let worth: Arc<[u32]> = (0..node.devices.len()).map(|at| worth(&node, at)).collect();
        let is_card = |at: &usize| node.devices[*at].mig.is_none();
        let card = (0..node.devices.len()).filter(is_card).map(|at| node.devices[at].memory).max().unwrap_or(0);
        let gpu = (0..node.devices.len()).filter(is_card).map(|at| worth[at]).sum();
        let mut host = Self {
            id,
            free: vec![0; node.devices.len()],
            gpu,
            taken: 0,
            real: Some(Real { milli: amounts(card), worth }),
            node,
            cpu_left: machine.cpu,
            memory_left: machine.bytes(),
            accepted: Arc::default(),
            tags: Vec::new(),
            version: 0,
        };
        host.refresh();
        host.accepted = shapes.iter().map(|shape| host.has_devices(shape)).collect();
        host
    }

    /// What a pod of this shape takes of a card here, in milli.
    pub(crate) fn milli(&self, shape: &Shape) -> u32 {
        self.milli_of(shape.id, shape.milli)
    }

    /// The same by the shape's position, where `milli` is what it takes of a card of a trace.
    pub(crate) fn milli_of(&self, shape: usize, milli: u32) -> u32 {
        self.real.as_ref().map_or(milli, |real| real.milli[shape])
    }

    /// What it takes of the cards here, in milli.
    pub(crate) fn demand(&self, shape: &Shape) -> u64 {
        u64::from(shape.gpus) * u64::from(self.milli(shape))
    }

    /// Whether the device at this position would do for a pod of this shape now.
    pub(crate) fn takes(&self, at: usize, shape: &Shape) -> bool {
        if self.real.is_none() {
            return self.free[at] >= shape.milli;
        }
        match shape.request.containers.as_slice() {
            [container] => on_device(&self.node, &shape.request, container, at).is_some(),
            _ => false,
        }
    }

    /// The devices that the server's code gives a pod, whatever the policy.
    pub(crate) fn served(&self, shape: &Shape) -> Option<Vec<Holding>> {
        place(&self.node, &shape.request, Policies::default()).ok().map(|placement| placement.holdings)
    }

    /// Whether a node of a live cluster has devices for it now.
    fn has_devices(&self, shape: &Shape) -> bool {
        if shape.request.is_empty() {
            return true;
        }
        if shape.served {
            return self.served(shape).is_some();
        }
        (0..self.free.len()).filter(|at| self.takes(*at, shape)).count() >= shape.gpus as usize
    }

    /// Whether a pod of this shape fits.
    pub(crate) fn fits(&self, shape: &Shape) -> bool {
        if self.real.is_some() {
            return self.has_host_room(shape) && self.accepted[shape.id] && self.has_devices(shape);
        }
        self.has_host_room(shape)
            && (shape.gpus == 0
                || self.accepted[shape.id]
                    && self.free.iter().filter(|free| **free >= shape.milli).count() >= shape.gpus as usize)
    }

    /// Whether CPU and memory are left for it.
    pub(crate) fn has_host_room(&self, shape: &Shape) -> bool {
        self.cpu_left >= shape.cpu && self.memory_left >= shape.memory
    }

    /// What is left of all devices, in milli.
    pub(crate) fn left(&self) -> u32 {
        self.free.iter().sum()
    }

    /// What a pod of this shape holds on these devices.
    pub(crate) fn holdings(&self, shape: &Shape, devices: impl IntoIterator<Item = usize>) -> Vec<Holding> {
        if self.real.is_some() {
            let container = shape.request.containers.first();
            let holding = |at| on_device(&self.node, &shape.request, container?, at);
            return devices.into_iter().filter_map(holding).collect();
        }
        let whole = shape.is_whole();
        let holding = |at: usize| Holding {
            device: Arc::clone(&self.node.devices[at].uuid),
            memory: shape.milli,
            cores: if whole { 100 } else { 0 },
            slots: 1,
            exclusive: whole,
        };
        devices.into_iter().map(holding).collect()
    }

    fn count(&mut self, shape: &Shape, more: bool) {
        if shape.gpus == 0 {
            return;
        }
        let tag = tag(shape);
        match self.tags.iter_mut().find(|(known, _)| *known == tag) {
            Some((_, pods)) if more => *pods += 1,
            Some((_, pods)) => *pods -= 1,
            None => self.tags.push((tag, 1)),
        }
        self.tags.retain(|(_, pods)| *pods > 0);
    }

    fn refresh(&mut self) {
        self.version += 1;
        (self.node.cpu_left, self.node.memory_left) = (Some(self.cpu_left), Some(self.memory_left));
        if let Some(real) = &self.real {
            self.taken = taken(&self.node, &real.worth);
            for (at, free) in self.free.iter_mut().enumerate() {
                let is_card = self.node.devices[at].mig.is_none() && real.worth[at] > 0;
                *free = if is_card { WHOLE - part(&self.node.devices[at], &self.node.usage[at]) } else { 0 };
            }
            return;
        }
        self.taken = 0;
        for (free, (device, usage)) in self.free.iter_mut().zip(self.node.devices.iter().zip(&self.node.usage)) {
            *free = if usage.exclusive > 0 { 0 } else { device.memory.saturating_sub(usage.memory) };
            self.taken += u64::from(WHOLE - *free);
        }
    }
}

/// GPU booked on a node of a live cluster, in milli; `worth` beside the devices.
pub(super) fn taken(node: &Node, worth: &[u32]) -> u64 {
    let of = |at: usize| u64::from(worth[at] * part(&node.devices[at], &node.usage[at]) / WHOLE);
    (0..node.devices.len()).map(of).sum()
}

/// What part of a device is booked, in thousandths: the larger of memory and cores, all of an exclusive one.
fn part(device: &Device, usage: &Usage) -> u32 {
    if usage.exclusive > 0 {
        return WHOLE;
    }
    let of = |taken: u32, whole: u32| (u64::from(taken) * u64::from(WHOLE)).div_ceil(u64::from(whole.max(1)));
    let part = of(usage.memory, device.memory).max(of(usage.cores, device.cores.into()));
    u32::try_from(part).unwrap_or(WHOLE).min(WHOLE)
}

/// Of what kind a pod is to those who keep kinds apart: 0 for a part of a card, else the number of cards.
pub(crate) fn tag(shape: &Shape) -> u32 {
    if shape.is_whole() { shape.gpus } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::trace::{Builder, Wanted};

    #[test]
    fn who_leaves_leaves_nothing_behind() {
        let mut trace = Builder::default();
        for (gpus, milli) in [(1, 400), (2, 1000), (0, 0), (1, 600)] {
            trace.add(Wanted { cpu: 1_000, memory: 512, gpus, milli, models: Vec::new() }, None);
        }
        let trace = trace.finish();
        let machine = |at| Machine {
            name: format!("n{at}").into(),
            cpu: 4_000,
            memory: 2_048,
            gpus: 4,
            model: "T4".into(),
            node: None,
        };
        let mut world = World::new(&Cluster { machines: vec![machine(0), machine(1)] }, &trace);
        let empty = world.hosts.clone();
        let mut placed = Vec::new();
        for (shape, devices) in [(0, 0..1), (3, 0..1), (1, 2..4), (2, 0..0)] {
            let shape = &trace.shapes[shape];
            let holdings = world.hosts[0].holdings(shape, devices);
            placed.push(world.place(0, shape, holdings));
        }
        let host = &world.hosts[0];
        assert_eq!((&host.free[..], host.cpu_left, host.memory_left), (&[0, 1000, 0, 0][..], 0, 0));
        assert_eq!(host.node.cpu_left, Some(0));
        assert_eq!(host.tags, [(0, 2), (2, 1)]);
        assert!((world.unallocated() - 62.5).abs() < 1e-9);
        assert_eq!(world.changed_since(0).collect::<Vec<_>>(), [0]);
        placed.drain(..).for_each(|placed| world.release(&trace.shapes[placed.shape], &placed));
        for (now, then) in world.hosts.iter().zip(&empty) {
            assert_eq!((&now.node, &now.free, &now.tags), (&then.node, &then.free, &then.tags));
        }
        assert_eq!(world.used, 0);
    }

    #[test]
    fn only_names_are_drawn_anew() {
        let machine = |at: u32| Machine {
            name: format!("n{at}").into(),
            cpu: i64::from(at),
            memory: 0,
            gpus: 1,
            model: "T4".into(),
            node: None,
        };
        let world = World::new(&Cluster { machines: (0..50).map(machine).collect() }, &Trace::default());
        let renamed = world.renamed(&mut Random::new(1));
        let sizes = |world: &World| world.hosts.iter().map(|host| host.node.cpu).collect::<Vec<_>>();
        let (before, mut after) = (sizes(&world), sizes(&renamed));
        assert_ne!(before, after);
        after.sort_unstable();
        assert_eq!(before, after);
        assert!(renamed.hosts.iter().enumerate().all(|(at, host)| host.id == at));
    }
}
