//! What kube-scheduler and the extender make of a pod together, for `--mirror-scheduler`: which nodes kube-scheduler asks about, what the
//! extender answers, what becomes of pods that both leave out.
//!
//! As kube-scheduler 1.36 does by the shipped profile (`schedulePod`, `findNodesThatFitPod`, `NodeResourcesFit`):
//!
//! - It goes round the nodes from where the last search ended until enough were found that have CPU, memory and, for a GPU pod, the
//!   totals `packhorse.dev/gpu-memory` and `packhorse.dev/gpu-cores`. Totals say nothing of single cards, hence many of them do not fit.
//! - A pod without GPUs goes to any of these: the score plugins that would tell them apart are off. (1.36 draws lots only among nodes that
//!   an extender scored, and takes the first it came by; its threads race and the search starts anywhere, so that is any node too.)
//! - For a GPU pod the extender returns the best of them and gives exactly one the highest priority, the first by name among equals.
//! - Where none of them fits, the extender nominates the best node of the whole cluster, and kube-scheduler takes it.
//! - Who gets no node waits and is tried again, the oldest first, when another leaves. kube-scheduler tries also when another is placed:
//!   that room never helps, for by nomination the pod was refused by every node.
//!
//! Beside, the server learns a pod with GPUs when it comes, one without when it is placed.

use std::collections::HashSet;

use super::choose::enough;
use super::decide::{Decide, Late};
use super::policy::{Event, Policy};
use super::scores::{Scores, UNFIT};
use super::trace::Shape;
use super::world::{Host, Placed, World};
use crate::gpu::device::Device;
use crate::gpu::request::{Ask, Memory};
use crate::gpu::workload::Kind;
use crate::random::Random;

/// In percent of a card.
const CORES: u64 = 100;

/// kube-scheduler's percentage of nodes to find where none is configured, for a cluster of so many nodes.
pub fn stock_sample(nodes: usize) -> u8 {
    u8::try_from(50_usize.saturating_sub(nodes / 125).max(5)).unwrap_or(50)
}

/// kube-scheduler and the extender.
pub(crate) struct Mirror<'a> {
    policy: Box<dyn Policy>,
    scores: Scores,
    shapes: &'a [Shape],
    /// How many nodes are enough, in percent of all.
    sample: u8,
    /// Where the next search starts.
    start: usize,
    /// Beside the shapes.
    asked: Vec<Totals>,
    /// What kube-scheduler takes to be left, beside the hosts.
    totals: Vec<Totals>,
    waiting: Vec<Waiting>,
    late: Vec<Late>,
    /// Pods that came.
    came: usize,
    devices: Random,
}

/// Extended resources of a node as kube-scheduler counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Totals {
    /// MiB.
    memory: u64,
    /// Percent of a card.
    cores: u64,
}

/// A pod without a node.
#[derive(Debug)]
struct Waiting {
    arrival: usize,
    shape: usize,
}

impl Totals {
    /// What the agent publishes: MIG instances do not count.
    fn of(host: &Host) -> Self {
        let cards = host.node.devices.iter().filter(|device| device.mig.is_none());
        let sum = |all: Self, card: &Device| Self {
            memory: all.memory + u64::from(card.memory),
            cores: all.cores + u64::from(card.cores),
        };
        cards.fold(Self { memory: 0, cores: 0 }, sum)
    }

    /// What the webhook writes: a whole card, or a percentage of one, has no memory that could be told beforehand.
    fn asked(shape: &Shape) -> Self {
        let mut asked = Self { memory: 0, cores: 0 };
        for part in Kind::of(&shape.request, shape.cpu).parts {
            let (memory, cores) = match part.ask {
                Ask::Exclusive => (0, CORES),
                Ask::Share { memory: Memory::Mib(memory), cores } => (memory.into(), cores.into()),
                Ask::Share { cores, .. } => (0, cores.into()),
                Ask::Mig(_) => (0, 0),
            };
            asked.memory += u64::from(part.count) * memory;
            asked.cores += u64::from(part.count) * cores;
        }
        asked
    }

    fn covers(self, asked: Self) -> bool {
        self.memory >= asked.memory && self.cores >= asked.cores
    }
}

impl<'a> Mirror<'a> {
    /// `shapes` are those of the trace; `sample` is kube-scheduler's `percentageOfNodesToScore`; `start` is where the search for a pod
    /// before all of these ended.
    pub(crate) fn new(
        policy: Box<dyn Policy>,
        world: &World,
        shapes: &'a [Shape],
        sample: u8,
        start: usize,
        devices: Random,
    ) -> Self {
        Self {
            policy,
            scores: Scores::default(),
            shapes,
            sample,
            start,
            asked: shapes.iter().map(Totals::asked).collect(),
            totals: world.hosts.iter().map(Totals::of).collect(),
            waiting: Vec::new(),
            late: Vec::new(),
            came: 0,
            devices,
        }
    }

    /// The nodes that kube-scheduler would ask the extender about, as it comes by them.
    fn sampled(&mut self, world: &World, shape: &Shape) -> Vec<usize> {
        let all = world.hosts.len();
        let enough = enough(all, self.sample);
        let asked = self.asked[shape.id];
        let (mut found, mut looked) = (Vec::with_capacity(enough), 0);
        while looked < all && found.len() < enough {
            let at = (self.start + looked) % all;
            if world.hosts[at].has_host_room(shape) && self.totals[at].covers(asked) {
                found.push(at);
            }
            looked += 1;
        }
        self.start = (self.start + looked) % all;
        found
    }

    /// Where kube-scheduler and the extender would send it.
    fn host(&mut self, world: &World, shape: &Shape) -> Option<usize> {
        let sampled = self.sampled(world, shape);
        if shape.request.is_empty() {
            return sampled.first().copied();
        }
        let scores = self.scores.of(world, &mut *self.policy, shape);
        // Positions are in the order of names. With one best among the returned it matters not how many are returned beside it.
        let better = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then_with(|| a.cmp(b));
        let fits = |at: &usize| scores[*at] != UNFIT;
        let nominated = || (0..scores.len()).filter(fits).min_by(better);
        sampled.into_iter().filter(fits).min_by(better).or_else(nominated)
    }

    fn attempt(&mut self, world: &mut World, shape: &Shape) -> Option<Placed> {
        let host = self.host(world, shape)?;
        let holdings = self.policy.devices(&world.hosts[host], shape, &mut self.devices)?;
        let asked = self.asked[shape.id];
        let totals = &mut self.totals[host];
        totals.memory = totals.memory.saturating_sub(asked.memory);
        totals.cores = totals.cores.saturating_sub(asked.cores);
        if shape.request.is_empty() {
            self.policy.observe(Event::Arrives(shape));
        }
        self.policy.observe(Event::Placed);
        Some(world.place(host, shape, holdings))
    }

    fn retry(&mut self, world: &mut World) {
        let shapes = self.shapes;
        // In one round nobody leaves: what was refused once is refused again.
        let mut refused = HashSet::new();
        for pod in std::mem::take(&mut self.waiting) {
            let placed = if refused.contains(&pod.shape) { None } else { self.attempt(world, &shapes[pod.shape]) };
            match placed {
                Some(placed) => self.late.push(Late { arrival: pod.arrival, placed }),
                None => {
                    refused.insert(pod.shape);
                    self.waiting.push(pod);
                }
            }
        }
    }
}

impl Decide for Mirror<'_> {
    fn arrive(&mut self, world: &mut World, shape: &Shape) -> Option<Placed> {
        let arrival = self.came;
        self.came += 1;
        if !shape.request.is_empty() {
            self.policy.observe(Event::Arrives(shape));
        }
        let placed = self.attempt(world, shape);
        if placed.is_none() {
            self.waiting.push(Waiting { arrival, shape: shape.id });
        }
        placed
    }

    fn depart(&mut self, world: &mut World, shape: &Shape, placed: &Placed) {
        world.release(shape, placed);
        let asked = self.asked[shape.id];
        let totals = &mut self.totals[placed.host];
        totals.memory += asked.memory;
        totals.cores += asked.cores;
        self.policy.observe(Event::Departs);
        self.retry(world);
    }

    fn late(&mut self) -> Vec<Late> {
        std::mem::take(&mut self.late)
    }
}

#[cfg(test)]
mod tests;
