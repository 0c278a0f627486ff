//! The published protocol: pods in random order, more or fewer of them until they ask for 130 % of all GPUs, each decided on once
//! when it comes, none leaves.

use super::curve::Curve;
use super::decide::Decide;
use super::trace::Trace;
use super::world::World;
use crate::random::Random;

/// How much the pods ask for together, in percent of all GPUs.
const TUNED: u64 = 130;
/// How many pods come between two reports of progress.
pub(super) const STEP: usize = 500;

/// Shapes of pods in the order they come: the trace shuffled, then pods drawn from it added until the next would exceed 130 % of
/// `capacity` (milli), or pods taken out at random until no more than that is left. At least one pod of the trace must ask
/// for a GPU.
pub(super) fn stream(trace: &Trace, capacity: u64, random: &mut Random) -> Vec<usize> {
    let mut stream: Vec<usize> = trace.pods.iter().map(|pod| pod.shape).collect();
    random.shuffle(&mut stream);
    let demand = |shape: usize| trace.shapes[shape].demand();
    let limit = capacity * TUNED / 100;
    let mut total: u64 = stream.iter().map(|shape| demand(*shape)).sum();
    while total > limit {
        total -= demand(stream.remove(random.below(stream.len())));
    }
    if stream.len() < trace.pods.len() {
        return stream;
    }
    loop {
        let shape = random.pick(&trace.pods).shape;
        // The published test counts a pod of several GPUs as one.
        if total + u64::from(trace.shapes[shape].milli) > limit {
            return stream;
        }
        total += demand(shape);
        stream.push(shape);
    }
}

/// The pods of a trace that were recorded: in their order, or shuffled.
pub(super) fn recorded(trace: &Trace, random: Option<&mut Random>) -> Vec<usize> {
    let mut stream: Vec<usize> = trace.pods.iter().map(|pod| pod.shape).collect();
    if let Some(random) = random {
        random.shuffle(&mut stream);
    }
    stream
}

/// Lets the pods come. Tells `progress` how many came.
pub(super) fn replay(
    world: &mut World,
    trace: &Trace,
    stream: &[usize],
    decide: &mut dyn Decide,
    progress: &mut dyn FnMut(usize),
) -> Curve {
    let mut curve = Curve::default();
    let mut arrived = 0;
    for (count, shape) in stream.iter().enumerate() {
        if count % STEP == 0 {
            progress(count);
        }
        let shape = &trace.shapes[*shape];
        arrived += shape.demand();
        decide.arrive(world, shape);
        curve.add(arrived, world);
    }
    curve
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::trace::{Builder, Wanted};

    fn trace(pods: &[(u32, u32)]) -> Trace {
        let mut trace = Builder::default();
        for (cpu, (gpus, milli)) in (0..).zip(pods) {
            trace.add(Wanted { cpu, memory: 0, gpus: *gpus, milli: *milli, models: Vec::new() }, None);
        }
        trace.finish()
    }

    fn demand(trace: &Trace, stream: &[usize]) -> u64 {
        stream.iter().map(|shape| trace.shapes[*shape].demand()).sum()
    }

    #[test]
    fn pods_are_added_or_taken_out_until_they_ask_for_130_percent() {
        let pods: Vec<_> = (0..10).map(|_| (1, 500)).collect();
        let trace = trace(&pods);
        for (capacity, expected) in [(10_000, 13_000), (4_000, 5_000), (3_000, 3_500), (5_000, 6_500)] {
            for seed in 0..5 {
                let stream = stream(&trace, capacity, &mut Random::new(seed));
                assert_eq!(demand(&trace, &stream), expected, "{capacity}");
            }
        }
    }

    #[test]
    fn every_pod_comes_once_before_any_comes_again() {
        let trace = trace(&[(1, 500), (1, 300), (0, 0), (2, 1000)]);
        let orders: Vec<_> = (0..20).map(|seed| stream(&trace, 100_000, &mut Random::new(seed))).collect();
        for stream in &orders {
            let mut first = stream[..4].to_vec();
            first.sort_unstable();
            assert_eq!(first, [0, 1, 2, 3]);
        }
        assert!(orders.iter().any(|stream| stream[..4] != orders[0][..4]));
    }

    #[test]
    fn the_last_pod_of_several_cards_may_go_beyond() {
        // Counted as one card where it is decided whether it may still come.
        let trace = trace(&[(4, 1000)]);
        let stream = stream(&trace, 10_000, &mut Random::new(1));
        assert_eq!(demand(&trace, &stream), 16_000);
    }
}
