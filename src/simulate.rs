//! What a placement policy leaves unallocated when the pods of a trace come to a cluster: `packhorse simulate`.
//!
//! Replays run through the very placement code that the server runs, beside re-implementations of the published policies, by the
//! published protocol; `docs/simulate.md` states both. Everything here follows from the trace, the options and the seed, except the
//! seconds. It uses `gpu` only, and `kube_api` to read a live cluster; called by `cli`.
//!
//! | module | owns |
//! |---|---|
//! | [`trace`], [`openb`], [`from_cluster`] | nodes and pods, and reading them |
//! | `world` | the nodes during a replay |
//! | [`policy`], `scores`, [`choose`] | how good a node is, and which one is taken |
//! | `decide` | what happens when a pod comes: the step that can be replaced |
//! | [`mirror`] | that step as kube-scheduler and the extender take it |
//! | `arrivals`, [`churn`] | which pods come when, and whether they go |
//! | `curve`, [`mod@report`], [`picture`] | what is told about it |

mod arrivals;
pub mod choose;
pub mod churn;
mod curve;
mod decide;
pub mod from_cluster;
pub mod mirror;
pub mod openb;
pub mod picture;
pub mod policy;
pub mod report;
mod scores;
pub mod trace;
mod world;

use std::time::Instant;

use choose::{Chooser, Ties};
use churn::{Churn, Lifetimes};
use decide::{Decide, Direct};
use mirror::Mirror;
use policy::PolicyName;
use report::{Departures, Mean, MeanWithoutNode, Report, Run, RunDepartures, Spread, WithoutNode};
use trace::{Cluster, Machine, Trace};
use world::World;

use crate::random::Random;

/// Where a policy has its target workload from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Workload {
    /// From the pods that came so far.
    Learned,
    /// From the whole trace, beforehand.
    Oracle,
}

/// How to replay.
#[derive(Debug, Clone)]
pub struct Options {
    /// Compared with each other, each by the same pods in the same order.
    pub policies: Vec<PolicyName>,
    /// Who breaks ties.
    pub ties: Ties,
    /// Where target workloads come from.
    pub workload: Workload,
    /// Fitting nodes that are enough to decide, 1..=100 percent of all nodes.
    pub sample: u8,
    /// One run each.
    pub seeds: Vec<u64>,
    /// Pods come and go, not only come.
    pub departures: Option<Churning>,
    /// Decide as kube-scheduler and the extender do together; see [`mirror`]. Ties are then theirs too.
    pub mirror_scheduler: bool,
}

/// How pods come and go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Churning {
    /// GPU asked for on the mean over time, as a part of all; above 0.
    pub load: f64,
    /// How many pods come; the first half is warm-up.
    pub arrivals: usize,
    /// `None`: from the trace where it has them for every pod, else exponential.
    pub lifetimes: Option<Lifetimes>,
}

/// How far a comparison is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// The policy that runs.
    pub policy: PolicyName,
    /// The seed it runs by.
    pub seed: u64,
    /// Pods that came in this run.
    pub done: usize,
    /// Of so many.
    pub of: usize,
}

/// Why there is nothing to compare.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NothingToDo {
    /// The cluster has no GPU.
    #[error("no node has a GPU; give nodes that have some")]
    NoGpus,
    /// The trace asks for no GPU.
    #[error("no pod asks for a GPU; give pods that do")]
    NoGpuPods,
    /// Lifetimes were asked for that are not there.
    #[error("{missing} of {pods} pods have no lifetime; use --lifetimes exponential")]
    NoLifetimes {
        /// Pods without.
        missing: usize,
        /// All pods.
        pods: usize,
    },
}

impl Workload {
    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Learned => "learned",
            Self::Oracle => "oracle",
        }
    }
}

/// Draws of one run that must not depend on each other.
#[derive(Debug, Clone, Copy)]
enum Draw {
    Pods,
    Names,
    Ties,
    Devices,
}

impl Draw {
    fn of(self, seed: u64) -> Random {
        Random::new(seed.wrapping_add((self as u64) << 40))
    }
}

/// Replays the trace by every policy and seed.
///
/// # Errors
/// Where cluster or trace have nothing to replay.
pub fn run(
    cluster: &Cluster,
    trace: &Trace,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Report>, NothingToDo> {
    if cluster.capacity() == 0 {
        return Err(NothingToDo::NoGpus);
    }
    if trace.pods.iter().all(|pod| trace.shapes[pod.shape].demand() == 0) {
        return Err(NothingToDo::NoGpuPods);
    }
    let churn = options.departures.map(|churning| churning.resolve(trace)).transpose()?;
    let world = World::new(cluster, trace);
    let each = |policy: &PolicyName| {
        let runs =
            options.seeds.iter().map(|seed| one(&world, trace, options, churn.as_ref(), *policy, *seed, progress));
        report(options, churn.as_ref(), *policy, runs.collect())
    };
    Ok(options.policies.iter().map(each).collect())
}

/// What a run by this seed replays: the nodes in the order of their names, and the shapes of pods in the order in which they come.
/// `cluster` has a GPU, and a pod of the trace asks for one.
pub fn script(cluster: &Cluster, trace: &Trace, seed: u64) -> (Vec<Machine>, Vec<usize>) {
    let mut machines = cluster.machines.clone();
    Draw::Names.of(seed).shuffle(&mut machines);
    (machines, arrivals::stream(trace, cluster.capacity(), &mut Draw::Pods.of(seed)))
}

/// What a mirrored run of this seed leaves unallocated at the end, in percent, if `chance` says where kube-scheduler's search begins:
/// how much that moves the result. With the seed itself it is the run of that seed. `cluster` and `trace` as in [`script`].
pub fn mirrored(cluster: &Cluster, trace: &Trace, seed: u64, chance: u64) -> f64 {
    let mut world = World::new(cluster, trace).renamed(&mut Draw::Names.of(seed));
    let stream = arrivals::stream(trace, world.capacity, &mut Draw::Pods.of(seed));
    let policy = PolicyName::Packhorse.build(&world, trace, Workload::Learned);
    let (start, devices) = (Draw::Ties.of(chance).below(world.hosts.len()), Draw::Devices.of(chance));
    let sample = mirror::stock_sample(world.hosts.len());
    let mut decide = Mirror::new(policy, &world, &trace.shapes, sample, start, devices);
    arrivals::replay(&mut world, trace, &stream, &mut decide, &mut |_| ()).last()
}

fn one(
    world: &World,
    trace: &Trace,
    options: &Options,
    churn: Option<&Churn>,
    name: PolicyName,
    seed: u64,
    progress: &mut dyn FnMut(Progress),
) -> Run {
    // A recorded cluster keeps the order of its names.
    let mut world = if trace.recorded { world.clone() } else { world.renamed(&mut Draw::Names.of(seed)) };
    let mut pods = Draw::Pods.of(seed);
    let stream = if churn.is_some() {
        Vec::new()
    } else if trace.recorded {
        let first = options.seeds.first() == Some(&seed);
        arrivals::recorded(trace, (!first).then_some(&mut pods))
    } else {
        arrivals::stream(trace, world.capacity, &mut pods)
    };
    let of = churn.map_or(stream.len(), |churn| churn.arrivals);
    let mut progress = |done| progress(Progress { policy: name, seed, done, of });
    let start = Instant::now();
    let policy = name.build(&world, trace, name.workload(options.workload));
    let (mut ties, devices) = (Draw::Ties.of(seed), Draw::Devices.of(seed));
    let mut decide: Box<dyn Decide + '_> = if options.mirror_scheduler {
        let start = ties.below(world.hosts.len());
        Box::new(Mirror::new(policy, &world, &trace.shapes, options.sample, start, devices))
    } else {
        let chooser = Chooser::new(policy.ties(options.ties), options.sample, ties);
        Box::new(Direct::new(policy, chooser, devices))
    };
    let (curve, departures) = if let Some(churn) = churn {
        let churned = churn::replay(churn, &mut world, trace, &mut *decide, &mut pods, &mut progress);
        let departures = RunDepartures {
            unallocated_time_average: churned.unallocated,
            rejected: churned.rejected,
            rejected_8_gpu: churned.rejected_large,
        };
        (churned.curve, Some(departures))
    } else {
        (arrivals::replay(&mut world, trace, &stream, &mut *decide, &mut progress), None)
    };
    Run {
        seed,
        unallocated_at_100: curve.at(100),
        unallocated_at_end: curve.last(),
        without_node: trace.recorded.then(|| without_node(&world, trace)),
        departures,
        seconds: start.elapsed().as_secs_f64(),
        curve,
    }
}

/// Of the pods of a recorded trace, each of which came once.
fn without_node(world: &World, trace: &Trace) -> WithoutNode {
    let gpu = trace.pods.iter().filter(|pod| trace.shapes[pod.shape].demand() > 0).count() as u64;
    let pods = trace.pods.len() as u64 - world.placed.iter().sum::<u64>();
    WithoutNode { pods_without_node: pods, gpu_pods_without_node: gpu - world.placed[1] }
}

fn report(options: &Options, churn: Option<&Churn>, policy: PolicyName, runs: Vec<Run>) -> Report {
    let over = |value: fn(&Run) -> f64| Spread::of(runs.iter().map(value));
    let departed =
        |value: fn(&RunDepartures) -> f64| Spread::of(runs.iter().filter_map(|run| run.departures.as_ref()).map(value));
    let without = |value: fn(&WithoutNode) -> u64| {
        Spread::of(runs.iter().filter_map(|run| run.without_node.as_ref()).map(|run| value(run) as f64))
    };
    Report {
        v: 1,
        policy: policy.as_str(),
        ties: options.ties.as_str(),
        workload: policy.workload(options.workload).as_str(),
        sample: options.sample,
        seeds: options.seeds.clone(),
        unallocated_at_100: over(|run| run.unallocated_at_100),
        unallocated_at_end: over(|run| run.unallocated_at_end),
        departures: churn.map(|churn| Departures {
            load: churn.load,
            arrivals: churn.arrivals,
            lifetimes: churn.lifetimes.as_str(),
            unallocated_time_average: departed(|run| run.unallocated_time_average),
            rejected: departed(|run| run.rejected as f64),
            rejected_8_gpu: departed(|run| run.rejected_8_gpu as f64),
        }),
        without_node: runs.iter().all(|run| run.without_node.is_some()).then(|| MeanWithoutNode {
            pods_without_node: without(|run| run.pods_without_node),
            gpu_pods_without_node: without(|run| run.gpu_pods_without_node),
        }),
        cluster: None,
        seconds: Mean { mean: over(|run| run.seconds).mean },
        runs,
    }
}

impl Churning {
    fn resolve(self, trace: &Trace) -> Result<Churn, NothingToDo> {
        let missing = trace.pods.iter().filter(|pod| pod.lifetime.is_none()).count();
        let lifetimes = match self.lifetimes {
            Some(Lifetimes::Trace) if missing > 0 => {
                return Err(NothingToDo::NoLifetimes { missing, pods: trace.pods.len() });
            }
            Some(lifetimes) => lifetimes,
            None if missing > 0 => Lifetimes::Exponential,
            None => Lifetimes::Trace,
        };
        Ok(Churn { load: self.load, arrivals: self.arrivals, lifetimes })
    }
}
