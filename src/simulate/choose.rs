//! From scores to a node, the way kube-scheduler does it: look at a window of the nodes, take the best, break ties.

use super::scores::UNFIT;
use crate::random::Random;

/// kube-scheduler looks for at least so many fitting nodes (`minFeasibleNodesToFind`).
const LEAST_FOUND: usize = 100;

/// Which of equally good nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Ties {
    /// Any, as kube-scheduler does.
    Random,
    /// The first by name, as the scheduler of the published experiments does.
    Name,
}

/// Chooses nodes for one run.
#[derive(Debug)]
pub(crate) struct Chooser {
    ties: Ties,
    /// How many fitting nodes are enough, in percent of all.
    sample: u8,
    /// Where the next search starts.
    start: usize,
    random: Random,
}

/// Scores of neighbours, with the position of the first.
type Piece<'a> = (usize, &'a [f64]);

impl Ties {
    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Name => "name",
        }
    }
}

impl Chooser {
    pub(crate) fn new(ties: Ties, sample: u8, random: Random) -> Self {
        Self { ties, sample, start: 0, random }
    }

    /// The best host, by its position; `None` where the pod fits nowhere. `scores` are beside the hosts, which are in the order of
    /// their names.
    pub(crate) fn choose(&mut self, scores: &[f64]) -> Option<usize> {
        let parts = self.window(scores);
        let best = parts.iter().flat_map(|(_, scores)| *scores).copied().fold(UNFIT, f64::max);
        if best == UNFIT {
            return None;
        }
        let mut equal =
            parts.iter().flat_map(|(first, scores)| (*first..).zip(*scores)).filter(|(_, score)| **score == best);
        let which = match self.ties {
            Ties::Name => 0,
            Ties::Random => self.random.below(equal.clone().count()),
        };
        equal.nth(which).map(|(at, _)| at)
    }

    /// The hosts to look at in the order of their names: two pieces, each with the position of its first. As kube-scheduler's
    /// `findNodesThatPassFilters` on one thread: from where the last search ended until enough nodes fit.
    fn window<'a>(&mut self, scores: &'a [f64]) -> [Piece<'a>; 2] {
        let all = scores.len();
        let enough = enough(all, self.sample);
        if enough >= all {
            return [(0, scores), (all, &[])];
        }
        let (mut looked, mut found) = (0, 0);
        while looked < all && found < enough {
            found += usize::from(scores[(self.start + looked) % all] != UNFIT);
            looked += 1;
        }
        let (first, end) = (self.start, self.start + looked);
        self.start = end % all;
        if end <= all {
            [(first, &scores[first..end]), (all, &[])]
        } else {
            [(0, &scores[..end - all]), (first, &scores[first..])]
        }
    }
}

/// How many fitting nodes of `all` are enough: kube-scheduler's `numFeasibleNodesToFind` for a given percentage.
pub(super) fn enough(all: usize, percent: u8) -> usize {
    if all < LEAST_FOUND { all } else { (all * usize::from(percent) / 100).max(LEAST_FOUND) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chooser(ties: Ties, sample: u8) -> Chooser {
        Chooser::new(ties, sample, Random::new(7))
    }

    #[test]
    fn the_best_is_taken_and_nothing_where_none_fits() {
        for ties in [Ties::Name, Ties::Random] {
            assert_eq!(chooser(ties, 100).choose(&[1.0, UNFIT, 3.0, 2.0]), Some(2));
            assert_eq!(chooser(ties, 100).choose(&[UNFIT; 3]), None);
            assert_eq!(chooser(ties, 10).choose(&[UNFIT; 300]), None);
        }
    }

    #[test]
    fn a_tie_goes_to_the_first_name_or_to_anyone() {
        let scores = [1.0, 3.0, UNFIT, 3.0, 3.0];
        let (mut name, mut random) = (chooser(Ties::Name, 100), chooser(Ties::Random, 100));
        let mut met = [0; 5];
        for _ in 0..3_000 {
            assert_eq!(name.choose(&scores), Some(1));
            met[random.choose(&scores).unwrap()] += 1;
        }
        assert!([1, 3, 4].iter().all(|at| (850..1_150).contains(&met[*at])), "{met:?}");
    }

    #[test]
    fn a_window_moves_on_by_what_was_looked_at_until_enough_fit() {
        // 400 of 2,000 are enough. Scores grow with the position, hence the last one looked at wins.
        let mut chooser = chooser(Ties::Name, 20);
        let mut scores: Vec<f64> = (0..2_000).map(f64::from).collect();
        let found = [0; 6].map(|_| chooser.choose(&scores));
        assert_eq!(found, [399, 799, 1_199, 1_599, 1_999, 399].map(Some));
        // Only every other fits: 800 are looked at.
        scores.iter_mut().step_by(2).for_each(|score| *score = UNFIT);
        assert_eq!([0; 2].map(|_| chooser.choose(&scores)), [1_199, 1_999].map(Some));
        // From 0 up to 799, from 800 to 1,599, then over the end: the best lies before it.
        assert_eq!([0; 3].map(|_| chooser.choose(&scores)), [799, 1_599, 1_999].map(Some));
        assert_eq!(chooser.choose(&scores), Some(1_199));
    }

    #[test]
    fn at_least_100_nodes_are_looked_for() {
        let scores: Vec<f64> = (0..150).map(f64::from).collect();
        let mut chooser = chooser(Ties::Name, 1);
        assert_eq!(chooser.choose(&scores), Some(99));
        assert_eq!(chooser.choose(&scores[..99]), Some(98));
    }
}
