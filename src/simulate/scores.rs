//! What every host is worth to every shape of pod, kept until the host changes or the policy's epoch does. So a decision looks at
//! a row of numbers, and only what changed is scored again.

use super::policy::Policy;
use super::trace::Shape;
use super::world::World;

/// Stands for a host where the pod does not fit: less than any score.
pub(crate) const UNFIT: f64 = f64::NEG_INFINITY;

/// One row per shape.
#[derive(Debug, Default)]
pub(crate) struct Scores {
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Default)]
struct Row {
    /// The policy's epoch these scores belong to.
    epoch: u64,
    /// How many changes of the world they take into account.
    seen: usize,
    /// Beside the hosts; empty where never asked for.
    scores: Vec<f64>,
}

impl Scores {
    /// The scores of all hosts for this shape, [`UNFIT`] where it does not fit.
    pub(crate) fn of(&mut self, world: &World, policy: &mut dyn Policy, shape: &Shape) -> &[f64] {
        if self.rows.len() <= shape.id {
            self.rows.resize_with(shape.id + 1, Row::default);
        }
        let row = &mut self.rows[shape.id];
        let epoch = policy.epoch();
        let mut score = |at: usize| policy.score(&world.hosts[at], shape).unwrap_or(UNFIT);
        if row.scores.is_empty() || row.epoch != epoch {
            row.scores = (0..world.hosts.len()).map(score).collect();
        } else {
            for at in world.changed_since(row.seen) {
                row.scores[at] = score(at);
            }
        }
        (row.epoch, row.seen) = (epoch, world.now());
        &row.scores
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::simulate::Workload;
    use crate::simulate::policy::PolicyName;
    use crate::simulate::trace::{Builder, Cluster, Machine, Wanted};

    #[test]
    fn kept_scores_are_what_a_fresh_look_gives() {
        let mut trace = Builder::default();
        for (cpu, gpus, milli) in [(500, 1, 200), (1_000, 1, 500), (2_000, 1, 1000), (4_000, 2, 1000), (1_000, 0, 0)] {
            trace.add(Wanted { cpu, memory: 512, gpus, milli, models: Vec::new() }, None);
        }
        let trace = trace.finish();
        let machine = |at: u32| Machine {
            name: format!("n{at}").into(),
            cpu: 16_000,
            memory: 65_536,
            gpus: 1 + at % 4,
            model: "T4".into(),
            node: None,
        };
        let cluster = Cluster { machines: (0..12).map(machine).collect() };
        for name in [PolicyName::Fgd, PolicyName::GpuClustering, PolicyName::Spread] {
            let mut world = World::new(&cluster, &trace);
            let mut policy = name.build(&world, &trace, Workload::Oracle);
            let (mut kept, mut random, mut placed) = (Scores::default(), Random::new(5), Vec::new());
            for step in 0..400 {
                let shape = random.pick(&trace.shapes);
                let scores = kept.of(&world, &mut *policy, shape).to_vec();
                let mut fresh = name.build(&world, &trace, Workload::Oracle);
                assert_eq!(scores, Scores::default().of(&world, &mut *fresh, shape), "{name}, step {step}");
                let fitting: Vec<_> = (0..scores.len()).filter(|at| scores[*at] != UNFIT).collect();
                if fitting.is_empty() || placed.len() > 20 {
                    let (shape, gone) = placed.swap_remove(random.below(placed.len()));
                    world.release(shape, &gone);
                } else {
                    let host = *random.pick(&fitting);
                    let holdings = policy.devices(&world.hosts[host], shape, &mut random).unwrap();
                    placed.push((shape, world.place(host, shape, holdings)));
                }
            }
        }
    }
}
