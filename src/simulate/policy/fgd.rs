//! Fragmentation gradient descent: a node's fragmentation is the GPU that a pod of the target workload could not use, on the
//! mean; the pod goes where it grows least. The target are the commonest pods of the whole trace.

use std::collections::HashMap;

use super::super::trace::{Shape, Trace};
use super::super::world::{Host, World};
use super::bestfit::leftover;
use super::{Policy, devices};
use crate::gpu::allocation::Holding;
use crate::random::Random;

/// Which part of the pods the target covers at least.
const COVERED: f64 = 0.95;
/// What the continuous form counts best fit for.
const BESTFIT: f64 = 40.0;

/// What becomes of a change of fragmentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// Whole numbers 0..=100, as published.
    Integer,
    /// As it is, less 40 x best-fit.
    LessBestfit,
}

/// One pod of the target workload.
#[derive(Debug, Clone, Copy)]
struct Typical {
    /// A shape that accepts the same models.
    shape: usize,
    cpu: i64,
    gpus: u32,
    milli: u32,
    weight: f64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Fgd {
    target: Vec<Typical>,
    scale: Scale,
    /// Beside the hosts: version, and the fragmentation it had then.
    before: Vec<(u64, f64)>,
}

impl Fgd {
    pub(super) fn new(world: &World, trace: &Trace, scale: Scale) -> Self {
        Self { target: typical(trace), scale, before: vec![(0, 0.0); world.hosts.len()] }
    }

    /// Milli of GPU that a pod of the target cannot use there, on the mean.
    fn fragmentation(&self, host: &Host, cpu_left: i64, free: &[u32]) -> f64 {
        let all: u32 = free.iter().sum();
        let lost = |pod: &Typical| {
            if pod.gpus == 0 || cpu_left < pod.cpu || !host.accepted[pod.shape] {
                return all;
            }
            let (mut fitting, mut below) = (0, 0);
            let needed = host.milli_of(pod.shape, pod.milli);
            for milli in free {
                if *milli >= needed {
                    fitting += 1;
                } else {
                    below += milli;
                }
            }
            if fitting < pod.gpus { all } else { below }
        };
        self.target.iter().map(|pod| pod.weight * f64::from(lost(pod))).sum()
    }

    fn fragmentation_before(&mut self, host: &Host) -> f64 {
        let (version, known) = self.before[host.id];
        if version == host.version {
            return known;
        }
        let fragmentation = self.fragmentation(host, host.cpu_left, &host.free);
        self.before[host.id] = (host.version, fragmentation);
        fragmentation
    }

    /// How good it is to take these amounts, and the device where that is a part of one.
    fn best(&mut self, host: &Host, shape: &Shape) -> (f64, Option<usize>) {
        let before = self.fragmentation_before(host);
        let cpu_left = host.cpu_left - shape.cpu;
        let bestfit = leftover(cpu_left, u64::from(host.left()).saturating_sub(host.demand(shape)));
        let mut free = host.free.clone();
        let value = |free: &[u32]| {
            let less = before - self.fragmentation(host, cpu_left, free);
            match self.scale {
                Scale::Integer => (100.0 / (1.0 + (-less / 1000.0).exp())).trunc(),
                Scale::LessBestfit => less - BESTFIT * bestfit,
            }
        };
        let milli = host.milli(shape);
        if shape.gpus != 1 || shape.is_whole() || shape.served {
            for at in devices::tightest_first(host, shape).into_iter().take(shape.gpus as usize) {
                free[at] = free[at].saturating_sub(milli);
            }
            return (value(&free), None);
        }
        let mut best = (f64::NEG_INFINITY, None);
        for at in 0..free.len() {
            let hole = free[at];
            // Of equal devices the first.
            let met = |before: usize| host.free[before] == hole && host.takes(before, shape);
            if !host.takes(at, shape) || (0..at).any(met) {
                continue;
            }
            free[at] = hole.saturating_sub(milli);
            let value = value(&free);
            free[at] = hole;
            if value > best.0 {
                best = (value, Some(at));
            }
        }
        best
    }
}

impl Policy for Fgd {
    fn score(&mut self, host: &Host, shape: &Shape) -> Option<f64> {
        host.fits(shape).then(|| self.best(host, shape).0)
    }

    fn devices(&mut self, host: &Host, shape: &Shape, _random: &mut Random) -> Option<Vec<Holding>> {
        Some(match self.best(host, shape).1 {
            Some(at) => host.holdings(shape, [at]),
            None => devices::tightest(host, shape),
        })
    }
}

/// The commonest pods, memory left aside: the fewest that make up 95 % of the trace.
fn typical(trace: &Trace) -> Vec<Typical> {
    let mut groups: HashMap<_, (usize, usize)> = HashMap::new();
    for pod in &trace.pods {
        let shape = &trace.shapes[pod.shape];
        groups.entry((shape.cpu, shape.milli, shape.gpus, shape.models.as_slice())).or_insert((0, pod.shape)).0 += 1;
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by(|(a, (more, _)), (b, (less, _))| less.cmp(more).then_with(|| a.cmp(b)));
    let most = COVERED * trace.pods.len() as f64;
    let mut covered = 0;
    let mut target = Vec::new();
    for ((cpu, milli, gpus, _), (count, shape)) in groups {
        target.push(Typical { shape, cpu, gpus, milli, weight: count as f64 });
        covered += count;
        if covered as f64 >= most {
            break;
        }
    }
    for pod in &mut target {
        pod.weight /= covered as f64;
    }
    target
}
