//! What is replayed: the nodes of a cluster and the pods that come to it. Written by whoever reads them ([`super::openb`] from
//! files, [`super::from_cluster`] from a live cluster), read by everything else here; values are valid by construction.
//!
//! GPU is counted in thousandths of a card (milli). One milli is one MiB of a device that has 1000 of them, so that the placement
//! code of the server does with a trace what it does with a cluster. Nodes of a live cluster keep their real devices; the published
//! policies, which know only milli, see a share as so many milli of the card at hand.

use std::collections::HashMap;
use std::sync::Arc;

use crate::gpu::card::CardKind;
use crate::gpu::device::Health;
use crate::gpu::node::Node;
use crate::gpu::request::{Ask, Constraints, ContainerRequest, Memory, Phase, PodRequest};
use crate::gpu::workload::{Kind, Part};

/// A whole card.
pub const WHOLE: u32 = 1000;
const MIB: i64 = 1 << 20;

/// The nodes of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cluster {
    /// In the order they were read; a replay shuffles them.
    pub machines: Vec<Machine>,
}

/// One node as a trace describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Unique in the cluster.
    pub name: Arc<str>,
    /// CPU for pods, in millicores.
    pub cpu: i64,
    /// Host memory for pods, in MiB.
    pub memory: i64,
    /// Number of cards.
    pub gpus: u32,
    /// Model of all its cards; not used where `node` is given.
    pub model: Arc<str>,
    /// Its real devices with nothing booked, where it is a node of a live cluster.
    pub node: Option<Node>,
}

/// Pods in the order of the trace.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Trace {
    /// Everything that placement can tell apart; pods name them by position.
    pub shapes: Vec<Shape>,
    /// In the order they were read.
    pub pods: Vec<Pod>,
    /// These very pods came in this order: none is made up or left out, and only later runs shuffle them.
    pub recorded: bool,
}

/// What a pod asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Its position in [`Trace::shapes`].
    pub id: usize,
    /// Millicores.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Number of cards, 0 for a pod that needs none.
    pub gpus: u32,
    /// Of each card, 1..=1000; 0 where `gpus` is 0.
    pub milli: u32,
    /// Accepted models, any where empty.
    pub models: Vec<String>,
    /// The same as the server would read it from the pod.
    pub request: PodRequest,
    /// See [`Shape::demand`].
    demand: u64,
    /// The published policies know no such pods (MIG instances, several containers with GPUs, one NUMA node for all): they choose the
    /// node, and the server's code the devices.
    pub served: bool,
}

/// One pod of a trace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pod {
    /// Position of its shape.
    pub shape: usize,
    /// How long it ran, in seconds, where the trace tells.
    pub lifetime: Option<f64>,
}

/// A shape as a trace writes it, before it has a place among the others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Millicores.
    pub cpu: i64,
    /// MiB.
    pub memory: i64,
    /// Number of cards.
    pub gpus: u32,
    /// Of each card.
    pub milli: u32,
    /// Accepted models, any where empty.
    pub models: Vec<String>,
}

/// Collects pods and gives equal ones the same shape.
#[derive(Debug, Default)]
pub struct Builder {
    trace: Trace,
    known: HashMap<Wanted, usize>,
}

impl Cluster {
    /// All cards, in milli.
    pub fn capacity(&self) -> u64 {
        self.machines.iter().map(Machine::capacity).sum()
    }
}

impl Shape {
    fn new(id: usize, wanted: Wanted) -> Self {
        let Wanted { cpu, memory, gpus, milli, models } = wanted;
        let ask = if milli < WHOLE { Ask::Share { memory: Memory::Mib(milli), cores: 0 } } else { Ask::Exclusive };
        let container = ContainerRequest {
            name: "main".into(),
            phase: Phase::App,
            count: gpus,
            ask,
            index: Vec::new(),
            uuid: Vec::new(),
        };
        let containers = if gpus == 0 { Vec::new() } else { vec![container] };
        let constraints = Constraints { model: models.clone(), ..Constraints::default() };
        let request = PodRequest { containers, constraints };
        let demand = u64::from(gpus) * u64::from(milli);
        Self { id, cpu, memory: memory * MIB, gpus, milli, models, request, demand, served: false }
    }

    /// A pod of a live cluster: millicores and bytes. Amounts in milli are those on a card of `card` MiB, at most `most`, all there is;
    /// `instance` tells what an instance of a MIG profile is worth.
    pub(super) fn live(
        id: usize,
        request: PodRequest,
        (cpu, memory): (i64, i64),
        (card, most): (u32, u64),
        instance: impl Fn(&str) -> u32,
    ) -> Self {
        let parts = Kind::of(&request, cpu).parts;
        let worth = |part: &Part| match &part.ask {
            Ask::Mig(profile) => instance(&profile.0),
            ask => milli(ask, card),
        };
        let demand = parts.iter().map(|part| u64::from(part.count) * u64::from(worth(part)));
        let demand = demand.fold(0, u64::saturating_add).min(most);
        let (gpus, milli) = cards(&parts, card);
        let one = matches!(request.containers.as_slice(), [one] if !matches!(one.ask, Ask::Mig(_)));
        let served = !request.is_empty() && (!one || request.constraints.numa_bind);
        let models = request.constraints.model.clone();
        Self { id, cpu, memory, gpus, milli, models, request, demand, served }
    }

    /// What it takes of each card where a card has `card` MiB, in milli.
    pub(super) fn milli_of(&self, card: u32) -> u32 {
        cards(&Kind::of(&self.request, self.cpu).parts, card).1
    }

    /// GPU that it takes, in milli. Of a live cluster: on its commonest card.
    pub fn demand(&self) -> u64 {
        self.demand
    }

    /// Whether it takes whole cards.
    pub fn is_whole(&self) -> bool {
        self.gpus > 0 && self.milli == WHOLE
    }
}

impl Machine {
    /// Its GPU that pods can get, in milli.
    pub fn capacity(&self) -> u64 {
        let real = |node: &Node| (0..node.devices.len()).map(|at| u64::from(worth(node, at))).sum();
        self.node.as_ref().map_or_else(|| u64::from(self.gpus) * u64::from(WHOLE), real)
    }

    /// Host memory for pods, in bytes.
    pub fn bytes(&self) -> i64 {
        self.memory * MIB
    }
}

/// What a device counts, in milli: a card 1000, a MIG instance its memory slices. 0 for one that takes no new pods.
pub(super) fn worth(node: &Node, at: usize) -> u32 {
    let device = &node.devices[at];
    let out = !node.ready || node.cordoned[at] || device.health != Health::Healthy || device.foreign.is_some();
    if out { 0 } else { CardKind::of(device).worth.into() }
}

/// What an ask takes of a card of `card` MiB, in milli: the larger of memory and cores. Nothing for a MIG instance.
fn milli(ask: &Ask, card: u32) -> u32 {
    match ask {
        Ask::Exclusive => WHOLE,
        Ask::Mig(_) => 0,
        Ask::Share { memory, cores } => {
            let memory = u64::from(memory.of(card)) * u64::from(WHOLE) / u64::from(card.max(1));
            let memory = u32::try_from(memory).unwrap_or(WHOLE).min(WHOLE);
            memory.max(u32::from(*cores) * 10).max(1)
        }
    }
}

/// How many cards a pod takes, and how much of each at most.
fn cards(parts: &[Part], card: u32) -> (u32, u32) {
    let whole = parts.iter().filter(|part| !matches!(part.ask, Ask::Mig(_)));
    (
        whole.clone().fold(0, |sum, part| sum.saturating_add(part.count)),
        whole.map(|part| milli(&part.ask, card)).max().unwrap_or(0),
    )
}

impl Builder {
    /// Adds a pod. `lifetime` in seconds.
    pub fn add(&mut self, wanted: Wanted, lifetime: Option<f64>) {
        let shapes = &mut self.trace.shapes;
        let shape = *self.known.entry(wanted.clone()).or_insert_with(|| {
            shapes.push(Shape::new(shapes.len(), wanted));
            shapes.len() - 1
        });
        self.trace.pods.push(Pod { shape, lifetime });
    }

    /// All that were added.
    pub fn finish(self) -> Trace {
        self.trace
    }
}
