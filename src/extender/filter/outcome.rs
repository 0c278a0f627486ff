//! What becomes of the nodes of one filter call: the best of those that fit, or why none does.
//!
//! Written node by node while a call is answered, and gone with it. Where only the best few are wanted, no more than twice as many
//! are ever kept.

use std::cmp::Ordering;

use crate::extender::metrics::Tally;
use crate::extender::situation::Weighed;
use crate::gpu::reason::Reason;

/// A node that fits.
#[derive(Debug, Clone, Copy)]
pub(in crate::extender) struct Candidate<'a> {
    pub(in crate::extender) name: &'a [u8],
    /// Fits, but not beside the pods that will probably go there before.
    pub(in crate::extender) crowded: bool,
    pub(in crate::extender) score: f64,
    /// Among the nodes asked about.
    pub(in crate::extender) index: usize,
}

/// A node that does not fit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure<'a> {
    pub(super) name: &'a [u8],
    /// Among the nodes asked about.
    pub(super) index: usize,
    /// Absent where the ledger does not know the node.
    pub(super) reason: Option<Reason>,
}

/// What became of the nodes of one call.
#[derive(Debug)]
pub(super) struct Outcome<'a> {
    /// All that fit; or, where only the best are wanted, no worse ones than the `most` best, plus some.
    pub(super) fits: Vec<Candidate<'a>>,
    /// `None`: all of them.
    pub(super) most: Option<usize>,
    /// The worst that may still be among the best.
    limit: Option<Candidate<'a>>,
    /// Its score, unless only a crowded node has it.
    least: f64,
    /// Nodes that do not fit, as long as none did.
    pub(super) failures: Vec<Failure<'a>>,
    /// Whether a fitting node would rather not be chosen.
    pub(super) repels: bool,
    pub(super) count: usize,
    pub(super) tally: Tally,
}

impl<'a> Outcome<'a> {
    pub(super) fn new(most: Option<usize>) -> Self {
        Self {
            fits: Vec::with_capacity(2 * most.unwrap_or(64)),
            most,
            limit: None,
            least: f64::NEG_INFINITY,
            failures: Vec::new(),
            repels: false,
            count: 0,
            tally: Tally::default(),
        }
    }

    /// The place of the next node among those asked about.
    #[inline(always)]
    pub(super) fn next(&mut self) -> usize {
        self.count += 1;
        self.count - 1
    }

    pub(super) fn add(&mut self, name: &'a [u8], weighed: Option<Weighed>) {
        let index = self.next();
        self.put(name, index, weighed);
    }

    #[inline(always)]
    pub(super) fn put(&mut self, name: &'a [u8], index: usize, weighed: Option<Weighed>) {
        match weighed {
            Some(Weighed { verdict: Ok(score), crowded, repels }) => {
                self.tally.fit();
                self.repels |= repels;
                self.fit(Candidate { name, crowded, score, index });
            }
            Some(Weighed { verdict: Err(reason), .. }) => {
                self.tally.reason(reason);
                self.fail(Failure { name, index, reason: Some(reason) });
            }
            None => {
                self.tally.unknown();
                self.fail(Failure { name, index, reason: None });
            }
        }
    }

    /// Whether this score alone tells that a node is not among the best.
    #[inline]
    pub(super) fn is_worse(&self, score: f64) -> bool {
        score < self.least
    }

    pub(super) fn fit(&mut self, candidate: Candidate<'a>) {
        if self.limit.is_some_and(|limit| better(&candidate, &limit).is_gt()) {
            return;
        }
        self.fits.push(candidate);
        if let Some(most) = self.most
            && self.fits.len() >= 2 * most
        {
            self.cut(most);
            self.limit = self.fits.get(most - 1).copied();
            self.least = self.limit.filter(|limit| !limit.crowded).map_or(f64::NEG_INFINITY, |limit| limit.score);
        }
    }

    /// Keeps the best `most`, the last of them last.
    fn cut(&mut self, most: usize) {
        if self.fits.len() > most {
            self.fits.select_nth_unstable_by(most - 1, better);
            self.fits.truncate(most);
        }
    }

    fn fail(&mut self, failure: Failure<'a>) {
        if self.fits.is_empty() {
            self.failures.push(failure);
        }
    }

    /// As if all had been known: in the order in which they were asked about.
    pub(super) fn order(&mut self) {
        if self.most.is_none() {
            self.fits.sort_unstable_by_key(|candidate| candidate.index);
        }
        self.failures.sort_unstable_by_key(|failure| failure.index);
    }

    /// The best node, and those to return: the best few in order, or all as they came.
    pub(super) fn choose(mut self) -> (Option<Candidate<'a>>, Vec<Candidate<'a>>) {
        match self.most {
            Some(most) => {
                self.cut(most);
                self.fits.sort_unstable_by(better);
                (self.fits.first().copied(), self.fits)
            }
            None => (self.fits.iter().min_by(|a, b| better(a, b)).copied(), self.fits),
        }
    }
}

/// Better first; equal nodes by name, so that the same call always gets the same answer and equal nodes fill in one order.
pub(in crate::extender) fn better(a: &Candidate<'_>, b: &Candidate<'_>) -> Ordering {
    a.crowded.cmp(&b.crowded).then_with(|| b.score.total_cmp(&a.score)).then_with(|| a.name.cmp(b.name))
}
