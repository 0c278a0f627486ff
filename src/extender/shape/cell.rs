//! One remembered verdict, in 16 bytes: with thousands of nodes and many shapes it is their number that costs memory and time.

use super::Verdict;
use crate::gpu::reason::Reason;

/// What is known of a node for pods of one shape, leaving out what other pods will probably do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::extender) struct Glance {
    pub(in crate::extender) verdict: Verdict,
    /// It carries a `PreferNoSchedule` taint.
    pub(in crate::extender) repels: bool,
    /// Pods are nominated to it.
    pub(in crate::extender) nominated: bool,
}

/// A verdict on one version of a node, or a guess.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell {
    /// The snapshot's version in the lower bits, what else is known of it in the upper eight.
    tag: u64,
    /// The score where it fits.
    score: f64,
}

impl Cell {
    pub(super) const NEVER: Self = Self { tag: u64::MAX, score: 0.0 };
    const VERSION: u64 = (1 << 56) - 1;
    /// 0 where the pod fits, else one more than the reason.
    const REASON: u64 = 0x1f << 56;
    const REPELS: u64 = 1 << 61;
    const NOMINATED: u64 = 1 << 62;
    /// Taken over from another shape, or made for another target.
    const GUESS: u64 = 1 << 63;

    pub(super) fn new(version: u64, Glance { verdict, repels, nominated }: Glance) -> Self {
        let mut tag = version & Self::VERSION;
        if repels {
            tag |= Self::REPELS;
        }
        if nominated {
            tag |= Self::NOMINATED;
        }
        match verdict {
            Ok(score) => Self { tag, score },
            Err(reason) => Self { tag: tag | (reason as u64 + 1) << 56, score: 0.0 },
        }
    }

    /// Whether it tells what is true of this version.
    #[inline]
    pub(super) fn is_of(self, version: u64) -> bool {
        // `NEVER` has all bits set, and no guess is of any version.
        self.tag & (Self::VERSION | Self::GUESS) == version
    }

    /// The score on this version, where the node fits and nothing else is to be told of it.
    #[inline]
    pub(super) fn fits(self, version: u64) -> Option<f64> {
        (self.tag == version).then_some(self.score)
    }

    /// The same as a guess.
    pub(super) fn guessed(self) -> Self {
        Self { tag: self.tag | Self::GUESS, ..self }
    }

    /// How good the node probably is, and whether it repels; `None` where nobody has looked at it.
    pub(super) fn guess(self) -> Option<(f64, bool)> {
        if self.tag == u64::MAX {
            return None;
        }
        let glance = self.read();
        Some((glance.verdict.unwrap_or(f64::NEG_INFINITY), glance.repels))
    }

    #[inline]
    pub(super) fn read(self) -> Glance {
        let verdict = match (self.tag & Self::REASON) >> 56 {
            0 => Ok(self.score),
            code => Err(Reason::ALL[(code as usize - 1).min(Reason::ALL.len() - 1)]),
        };
        Glance { verdict, repels: self.tag & Self::REPELS != 0, nominated: self.tag & Self::NOMINATED != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_tells_what_was_put_in() {
        for (version, repels, nominated) in [(1, false, false), (u64::MAX >> 9, true, true), (7, true, false)] {
            let verdicts = Reason::ALL.into_iter().map(Err).chain([Ok(0.0), Ok(-3.5), Ok(f64::MIN)]);
            for verdict in verdicts {
                let glance = Glance { verdict, repels, nominated };
                let cell = Cell::new(version, glance);
                assert!(cell.is_of(version) && !cell.is_of(version + 1));
                assert_eq!(cell.read(), glance);
                let plain = verdict.ok().filter(|_| !repels && !nominated);
                assert_eq!((cell.fits(version), cell.fits(version + 1)), (plain, None));
                let guess = cell.guessed();
                assert!(!guess.is_of(version));
                assert_eq!(guess.guess(), Some((verdict.unwrap_or(f64::NEG_INFINITY), repels)));
            }
        }
        assert!(!Cell::NEVER.is_of(0) && !Cell::NEVER.is_of(1));
        assert_eq!(Cell::NEVER.guess(), None);
    }
}
