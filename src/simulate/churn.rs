//! Pods that come and go: Poisson arrivals of pods drawn from the trace. What becomes of who gets no node when it comes is the decider's
//! to say: gone, or waiting until it gets one.
//! Shares are averaged over time after a warm-up of the first half of the arrivals.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::arrivals::STEP;
use super::curve::Curve;
use super::decide::{Decide, Late};
use super::trace::{Pod, Shape, Trace};
use super::world::{Placed, World};
use crate::random::Random;

/// A pod of so many GPUs needs a whole node of the usual kind; counted apart.
const LARGE: u32 = 8;

/// How long pods stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Lifetimes {
    /// Each as long as it did in the trace.
    Trace,
    /// Exponentially distributed, independent of the pod.
    Exponential,
}

impl Lifetimes {
    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Exponential => "exponential",
        }
    }
}

/// A churn run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Churn {
    /// GPU asked for, on the mean over time, as a part of all.
    pub(super) load: f64,
    /// How many pods come.
    pub(super) arrivals: usize,
    pub(super) lifetimes: Lifetimes,
}

/// What became of it, all after the warm-up.
#[derive(Debug)]
pub(super) struct Churned {
    pub(super) curve: Curve,
    /// GPU that nobody had, in percent of all, averaged over time.
    pub(super) unallocated: f64,
    /// Pods that got no node, not even later.
    pub(super) rejected: u64,
    /// Of these, pods that asked for 8 GPUs or more.
    pub(super) rejected_large: u64,
}

/// A pod that will end.
#[derive(Debug)]
struct Running {
    end: f64,
    placed: Placed,
}

/// A pod that may still get a node.
#[derive(Debug)]
struct Hoping {
    lifetime: f64,
    large: bool,
    /// It came after the warm-up.
    warm: bool,
}

/// One run in progress. Times in seconds with lifetimes of the trace, else in mean lifetimes.
struct Run<'a> {
    world: &'a mut World,
    trace: &'a Trace,
    decide: &'a mut dyn Decide,
    running: BinaryHeap<Running>,
    /// By the order of arrival.
    hoping: HashMap<usize, Hoping>,
    came: usize,
    now: f64,
    /// Milli x time that was used, and time, since the warm-up.
    used: f64,
    time: f64,
    warm: bool,
}

impl Churn {
    /// How long this pod stays.
    fn lifetime(&self, pod: &Pod, random: &mut Random) -> f64 {
        match self.lifetimes {
            Lifetimes::Trace => pod.lifetime.unwrap_or(1.0),
            Lifetimes::Exponential => exponential(random),
        }
    }

    /// Arrivals per time at this load. `None` where nothing is ever asked for.
    fn rate(&self, trace: &Trace, capacity: u64) -> Option<f64> {
        let mean = |pod: &Pod| match self.lifetimes {
            Lifetimes::Trace => pod.lifetime.unwrap_or(1.0),
            Lifetimes::Exponential => 1.0,
        };
        let work: f64 = trace.pods.iter().map(|pod| trace.shapes[pod.shape].demand() as f64 * mean(pod)).sum();
        (work > 0.0).then(|| self.load * capacity as f64 * trace.pods.len() as f64 / work)
    }
}

/// Lets pods come and go. At least one pod of the trace must ask for a GPU. Tells `progress` how many came.
pub(super) fn replay(
    churn: &Churn,
    world: &mut World,
    trace: &Trace,
    decide: &mut dyn Decide,
    random: &mut Random,
    progress: &mut dyn FnMut(usize),
) -> Churned {
    let rate = churn.rate(trace, world.capacity).unwrap_or(1.0);
    let mut run = Run {
        world,
        trace,
        decide,
        running: BinaryHeap::new(),
        hoping: HashMap::new(),
        came: 0,
        now: 0.0,
        used: 0.0,
        time: 0.0,
        warm: false,
    };
    if churn.lifetimes == Lifetimes::Trace {
        run.settle(rate, random);
    }
    let mut churned = Churned { curve: Curve::default(), unallocated: 0.0, rejected: 0, rejected_large: 0 };
    let mut arrived = 0;
    for count in 0..churn.arrivals {
        if count % STEP == 0 {
            progress(count);
        }
        run.warm |= count * 2 >= churn.arrivals;
        run.pass(exponential(random) / rate);
        let pod = random.pick(&trace.pods);
        let shape = &trace.shapes[pod.shape];
        arrived += shape.demand();
        run.arrive(shape, churn.lifetime(pod, random));
        churned.curve.add(arrived, run.world);
    }
    for pod in run.hoping.values().filter(|pod| pod.warm) {
        churned.rejected += 1;
        churned.rejected_large += u64::from(pod.large);
    }
    churned.unallocated = 100.0 - 100.0 * run.used / (run.time * run.world.capacity as f64);
    churned
}

impl Run<'_> {
    /// The pods that would be there if the cluster had always run at this rate. Lifetimes of real pods go from seconds to months:
    /// starting empty, no run would be long enough to see it full.
    fn settle(&mut self, rate: f64, random: &mut Random) {
        let mut sum = 0.0;
        let lifetimes = self.trace.pods.iter().map(|pod| pod.lifetime.unwrap_or(1.0));
        let until: Vec<f64> = lifetimes
            .map(|lifetime| {
                sum += lifetime;
                sum
            })
            .collect();
        // Their number is a Poisson variable: arrivals at rate 1 in a time as long as their mean.
        let mean = rate * sum / until.len() as f64;
        let mut passed = exponential(random);
        while passed < mean {
            // A pod is met the likelier the longer it stays, at any point of its life.
            let drawn = random.unit() * sum;
            let pod = self.trace.pods[until.partition_point(|until| *until <= drawn).min(until.len() - 1)];
            self.arrive(&self.trace.shapes[pod.shape], random.unit() * pod.lifetime.unwrap_or(1.0));
            passed += exponential(random);
        }
    }

    /// Lets time pass; pods that end are gone.
    fn pass(&mut self, time: f64) {
        let then = self.now + time;
        while self.running.peek().is_some_and(|next| next.end <= then)
            && let Some(ended) = self.running.pop()
        {
            self.wait_until(ended.end);
            self.decide.depart(self.world, &self.trace.shapes[ended.placed.shape], &ended.placed);
            self.admit_late();
        }
        self.wait_until(then);
    }

    fn wait_until(&mut self, then: f64) {
        if self.warm {
            self.used += self.world.used as f64 * (then - self.now);
            self.time += then - self.now;
        }
        self.now = then;
    }

    fn arrive(&mut self, shape: &Shape, lifetime: f64) {
        match self.decide.arrive(self.world, shape) {
            Some(placed) => self.running.push(Running { end: self.now + lifetime, placed }),
            None => {
                let hoping = Hoping { lifetime, large: shape.gpus >= LARGE, warm: self.warm };
                self.hoping.insert(self.came, hoping);
            }
        }
        self.came += 1;
        self.admit_late();
    }

    /// Pods that waited stay as long as they would have.
    fn admit_late(&mut self) {
        for Late { arrival, placed } in self.decide.late() {
            if let Some(pod) = self.hoping.remove(&arrival) {
                self.running.push(Running { end: self.now + pod.lifetime, placed });
            }
        }
    }
}

/// Exponentially distributed with mean 1.
fn exponential(random: &mut Random) -> f64 {
    -(1.0 - random.unit()).ln()
}

/// The first to end is the greatest.
impl Ord for Running {
    fn cmp(&self, other: &Self) -> Ordering {
        other.end.total_cmp(&self.end)
    }
}

impl PartialOrd for Running {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Running {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Running {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::Workload;
    use crate::simulate::choose::{Chooser, Ties};
    use crate::simulate::decide::Direct;
    use crate::simulate::policy::PolicyName;
    use crate::simulate::trace::{Builder, Cluster, Machine, Wanted};

    /// 50 nodes of 8 cards, pods of half a card.
    fn churn(load: f64, lifetimes: Lifetimes, stays: &[f64]) -> Churned {
        let mut trace = Builder::default();
        for stays in stays {
            trace.add(Wanted { cpu: 0, memory: 0, gpus: 1, milli: 500, models: Vec::new() }, Some(*stays));
        }
        let trace = trace.finish();
        let machine =
            |at| Machine { name: format!("n{at}").into(), cpu: 0, memory: 0, gpus: 8, model: "T4".into(), node: None };
        let mut world = World::new(&Cluster { machines: (0..50).map(machine).collect() }, &trace);
        let policy = PolicyName::Bestfit.build(&world, &trace, Workload::Oracle);
        let chooser = Chooser::new(Ties::Name, 100, Random::new(1));
        let mut decide = Direct::new(policy, chooser, Random::new(2));
        let churn = Churn { load, arrivals: 8_000, lifetimes };
        replay(&churn, &mut world, &trace, &mut decide, &mut Random::new(3), &mut |_| ())
    }

    #[test]
    fn the_share_in_use_is_the_load_as_long_as_all_find_room() {
        // One in a hundred stays, and that six times as long as the run.
        let mut uneven = [1.0; 100];
        uneven[0] = 10_000.0;
        for (lifetimes, stays) in
            [(Lifetimes::Exponential, &[1.0][..]), (Lifetimes::Trace, &[10.0, 30.0]), (Lifetimes::Trace, &uneven)]
        {
            let churned = churn(0.6, lifetimes, stays);
            assert!((churned.unallocated - 40.0).abs() < 4.0, "{lifetimes:?} {}: {}", stays.len(), churned.unallocated);
            assert_eq!(churned.rejected, 0);
        }
    }

    #[test]
    fn more_than_there_is_finds_no_room() {
        let churned = churn(2.0, Lifetimes::Exponential, &[1.0]);
        assert!(churned.unallocated < 1.0, "{}", churned.unallocated);
        // Half of the 4,000 that came after the warm-up.
        assert!((1_700..2_300).contains(&churned.rejected), "{}", churned.rejected);
        assert_eq!(churned.rejected_large, 0);
    }
}
