//! What is replayed: the nodes of a cluster and the pods that come to it. Written by whoever reads them ([`super::openb`] from
//! files), read by everything else here; values are valid by construction.
//!
//! GPU is counted in thousandths of a card (milli). One milli is one MiB of a device that has 1000 of them, so that the placement
//! code of the server does with a trace what it does with a cluster.

use std::collections::HashMap;
use std::sync::Arc;

use crate::gpu::request::{Ask, Constraints, ContainerRequest, Memory, Phase, PodRequest};

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
    /// Model of all its cards.
    pub model: Arc<str>,
}

/// Pods in the order of the trace.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Trace {
    /// Everything that placement can tell apart; pods name them by position.
    pub shapes: Vec<Shape>,
    /// In the order they were read.
    pub pods: Vec<Pod>,
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
        self.machines.iter().map(|machine| u64::from(machine.gpus) * u64::from(WHOLE)).sum()
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
        Self { id, cpu, memory: memory * MIB, gpus, milli, models, request }
    }

    /// GPU that it takes, in milli.
    pub fn demand(&self) -> u64 {
        u64::from(self.gpus) * u64::from(self.milli)
    }

    /// Whether it takes whole cards.
    pub fn is_whole(&self) -> bool {
        self.gpus > 0 && self.milli == WHOLE
    }
}

impl Machine {
    /// Host memory for pods, in bytes.
    pub fn bytes(&self) -> i64 {
        self.memory * MIB
    }
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
