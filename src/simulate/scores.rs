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
