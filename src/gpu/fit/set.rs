//! Several devices for one container: all sets of the candidates where there are few enough, grown ones first where there are not.

use std::cmp::Ordering;

use super::super::node::Node;
use super::super::request::GpuPolicy;
use super::one::{Candidate, compare, loss};
use super::outlook::{Outlook, Outlooks};

/// Sets looked at for one container. All sets of 8 out of 16 devices are fewer; beyond that a set is grown from each device, and
/// the search goes on through the first so many sets in order: a fit is never missed (any set of candidates will do for a
/// pod of one container), only the best connected one may be.
const MOST_SETS: usize = 13_000;

/// Sets that are compared by what they leave to others, once everything before that is equal.
const MOST_TIES: usize = 512;

/// Candidates among which sets are sought, the best ones by policy where a node has more. Sixteen cards of seven MIG instances are
/// fewer; a container that asks for more devices than this fits nowhere.
pub(super) const MOST_CANDIDATES: usize = 128;

/// A set of candidates, with what decides between sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Set {
    /// Bit n: the n-th candidate.
    pub(super) members: u128,
    pub(super) covered: u32,
    fresh: u32,
    /// In parts of 65,536, so that sums do not depend on their order.
    left: u32,
    /// The sizes of MIG instances, MiB.
    whole: u64,
    /// Over all pairs.
    pub(super) near: u32,
    /// What the set leaves to others; nothing until it is needed.
    outlook: Outlook,
}

/// All there is to know for choosing sets of one size.
#[derive(Debug)]
pub(super) struct Sets<'a> {
    node: &'a Node,
    candidates: &'a [Candidate],
    size: usize,
    policy: GpuPolicy,
}

impl<'a> Sets<'a> {
    /// `candidates` in the order of the inventory, at most [`MOST_CANDIDATES`].
    pub(super) fn new(node: &'a Node, candidates: &'a [Candidate], size: usize, policy: GpuPolicy) -> Self {
        debug_assert!(candidates.len() <= MOST_CANDIDATES, "the mask has no room for more");
        Self { node, candidates, size, policy }
    }

    /// The best set. Without `outlooks`, what is left to others does not count.
    pub(super) fn best(&self, outlooks: Option<&Outlooks<'_>>) -> Option<Set> {
        let mut best: Option<Set> = None;
        let mut ties = Vec::new();
        self.visit(MOST_SETS, &mut |set| {
            let order = best.map_or(Ordering::Less, |best| self.first(&set, &best));
            if order.is_lt() {
                ties.clear();
            }
            if outlooks.is_some() && order.is_le() && ties.len() < MOST_TIES {
                ties.push(set);
            }
            if best.is_none_or(|best| order.then_with(|| self.last(&set, &best)).is_lt()) {
                best = Some(set);
            }
        });
        if let Some(outlooks) = outlooks {
            // A single one too: its outlook counts against the sets of another NUMA node.
            self.look_ahead(&mut ties, outlooks);
            ties.sort_by(|a, b| self.order(a, b));
            return ties.first().copied();
        }
        best
    }

    /// About `most` sets, best first. Without `outlooks`, what is left to others does not count.
    pub(super) fn sorted(&self, most: usize, outlooks: Option<&Outlooks<'_>>) -> Vec<Set> {
        let mut sets = Vec::new();
        self.visit(most, &mut |set| sets.push(set));
        sets.sort_by(|a, b| self.order(a, b));
        self.decide(&mut sets, outlooks, |first, set| self.first(first, set).is_eq());
        sets
    }

    /// Each candidate by itself, best first. Without `outlooks`, what is left to others does not count.
    pub(super) fn singles(&self, outlooks: Option<&Outlooks<'_>>) -> Vec<Set> {
        let candidate = |set: &Set| &self.candidates[set.members.trailing_zeros() as usize];
        let mut sets: Vec<Set> = (0..self.candidates.len()).map(|at| self.with(EMPTY, at)).collect();
        sets.sort_by(|a, b| compare(self.policy, candidate(a), candidate(b)));
        self.decide(&mut sets, outlooks, |first, set| compare(self.policy, candidate(first), candidate(set)).is_eq());
        sets
    }

    /// Puts those of the first ones first that leave the best to others.
    fn decide(&self, sets: &mut [Set], outlooks: Option<&Outlooks<'_>>, is_equal: impl Fn(&Set, &Set) -> bool) {
        if let Some(outlooks) = outlooks
            && let Some(first) = sets.first().copied()
        {
            let ties = sets.iter().take_while(|set| is_equal(&first, set)).count().min(MOST_TIES);
            if ties > 1 {
                self.look_ahead(&mut sets[..ties], outlooks);
                sets[..ties].sort_by(|a, b| self.order(a, b));
            }
        }
    }

    /// The best set of MIG instances, which are near to nothing: the best one by one. With `is_free`, which tells the devices nobody
    /// holds, of equal ones those that others lose least by.
    pub(super) fn one_by_one(&self, is_free: Option<&dyn Fn(usize) -> bool>) -> Option<Set> {
        let mut set = EMPTY;
        for _ in 0..self.size {
            let is_left = |bit: &usize| set.members >> bit & 1 == 0;
            let candidate = |bit: usize| {
                let candidate = self.candidates[bit];
                let loss = is_free.map_or(candidate.loss, |is_free| {
                    loss(self.node, candidate.at, |at| is_free(at) && !self.devices(&set).any(|taken| taken == at))
                });
                (bit, Candidate { loss, ..candidate })
            };
            let rest = (0..self.candidates.len()).filter(is_left).map(candidate);
            let (best, _) = rest.min_by(|a, b| compare(self.policy, &a.1, &b.1))?;
            set = self.with(set, best);
        }
        Some(set)
    }

    /// The positions on the node of a set's devices.
    pub(super) fn devices(&self, set: &Set) -> impl Iterator<Item = usize> {
        let mut members = set.members;
        std::iter::from_fn(move || {
            let bit = members.trailing_zeros() as usize;
            members &= members.wrapping_sub(1);
            self.candidates.get(bit).map(|candidate| candidate.at)
        })
    }

    /// What decides first.
    fn first(&self, a: &Set, b: &Set) -> Ordering {
        let covered = b.covered.cmp(&a.covered);
        let packed = || a.fresh.cmp(&b.fresh).then(a.left.cmp(&b.left));
        let small = || a.whole.cmp(&b.whole);
        let near = || b.near.cmp(&a.near);
        match self.policy {
            GpuPolicy::Topology => covered.then_with(near),
            GpuPolicy::Binpack => covered.then_with(packed).then_with(small).then_with(near),
            GpuPolicy::Spread => covered.then_with(|| packed().reverse()).then_with(small).then_with(near),
        }
    }

    /// What decides after what is left to others.
    fn packed(&self, a: &Set, b: &Set) -> Ordering {
        match self.policy {
            GpuPolicy::Topology => a.fresh.cmp(&b.fresh).then(a.left.cmp(&b.left)).then(a.whole.cmp(&b.whole)),
            GpuPolicy::Binpack | GpuPolicy::Spread => Ordering::Equal,
        }
    }

    /// What decides in the end: the set of the earlier devices.
    fn last(&self, a: &Set, b: &Set) -> Ordering {
        self.packed(a, b).then_with(|| b.members.reverse_bits().cmp(&a.members.reverse_bits()))
    }

    /// What decides between sets of different candidates.
    pub(super) fn prefer(&self, a: &Set, b: &Set) -> Ordering {
        self.first(a, b).then(b.outlook.cmp(&a.outlook)).then_with(|| self.packed(a, b))
    }

    fn order(&self, a: &Set, b: &Set) -> Ordering {
        self.prefer(a, b).then_with(|| self.last(a, b))
    }

    fn look_ahead(&self, sets: &mut [Set], outlooks: &Outlooks<'_>) {
        for set in sets {
            let chosen: Vec<usize> = self.devices(set).collect();
            set.outlook = outlooks.of(&chosen);
        }
    }

    /// Shows every set, or a good choice of `most` where there are more.
    fn visit(&self, most: usize, see: &mut impl FnMut(Set)) {
        if self.size == 0 || self.size > self.candidates.len() {
            return;
        }
        let mut budget = most;
        if choose(self.candidates.len(), self.size) > most {
            for seed in 0..self.candidates.len() {
                see(self.grow(seed));
                budget = budget.saturating_sub(1);
            }
        }
        self.extend(0, self.size, EMPTY, &mut budget, see);
    }

    /// Sets made of `set` and `missing` more candidates from `from` on.
    fn extend(&self, from: usize, missing: usize, set: Set, budget: &mut usize, see: &mut impl FnMut(Set)) {
        if missing == 0 {
            *budget -= 1;
            see(set);
            return;
        }
        for next in from..=self.candidates.len() - missing {
            if *budget == 0 {
                return;
            }
            self.extend(next + 1, missing - 1, self.with(set, next), budget, see);
        }
    }

    /// A set grown around one candidate, each time by the one that the policy likes best beside those already in it.
    fn grow(&self, seed: usize) -> Set {
        let mut set = self.with(EMPTY, seed);
        for _ in 1..self.size {
            let mut best: Option<(usize, Set)> = None;
            for next in (0..self.candidates.len()).filter(|next| set.members >> next & 1 == 0) {
                let grown = self.with(set, next);
                let better = best.is_none_or(|(at, best)| {
                    let links = match self.policy {
                        GpuPolicy::Topology => self.first(&grown, &best),
                        GpuPolicy::Binpack | GpuPolicy::Spread => Ordering::Equal,
                    };
                    links.then_with(|| compare(self.policy, &self.candidates[next], &self.candidates[at])).is_lt()
                });
                if better {
                    best = Some((next, grown));
                }
            }
            if let Some((_, grown)) = best {
                set = grown;
            }
        }
        set
    }

    fn with(&self, mut set: Set, next: usize) -> Set {
        let candidate = &self.candidates[next];
        set.near += self.devices(&set).map(|at| self.node.devices.topology().near(at, candidate.at)).sum::<u32>();
        set.members |= 1 << next;
        set.covered += u32::from(candidate.covered);
        set.fresh += u32::from(candidate.fresh);
        set.left += parts(candidate.left);
        set.whole += u64::from(candidate.whole);
        set
    }
}

const EMPTY: Set = Set { members: 0, covered: 0, fresh: 0, left: 0, whole: 0, near: 0, outlook: Outlook::NONE };

/// 0..=1 in parts of 65,536.
fn parts(left: f32) -> u32 {
    (left.clamp(0.0, 1.0) * 65_536.0) as u32
}

/// How many sets of `size` out of `all`, up to the limit that matters.
fn choose(all: usize, size: usize) -> usize {
    let size = size.min(all - size);
    (0..size).fold(1, |sets: usize, at| sets.saturating_mul(all - at) / (at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_sets() {
        for (all, size, expected) in [(8, 2, 28), (8, 4, 70), (16, 8, 12_870), (16, 4, 1_820), (5, 5, 1), (3, 1, 3)] {
            assert_eq!(choose(all, size), expected, "{size} of {all}");
        }
        assert!(choose(128, 64) > MOST_SETS);
    }
}
