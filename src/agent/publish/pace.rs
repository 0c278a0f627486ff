//! How long to wait between two writes: long enough that a burst of changes is one write, short enough that a failed device is out of
//! the ledger within two seconds.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

/// From the first change of a burst to its write.
pub(super) const COALESCE: Duration = Duration::from_millis(50);
/// Between writes that go on and on: a device that flaps, or somebody who undoes what we write.
const LONGEST_GAP: Duration = Duration::from_secs(1);
/// A pause after which a burst counts as over.
const QUIET: Duration = Duration::from_secs(5);
/// Between tries that fail.
const TRIES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The pace of one kind of write.
#[derive(Debug)]
pub(super) struct Pace {
    last: Option<Instant>,
    gap: Duration,
    pause: Duration,
    random: RandomState,
}

impl Default for Pace {
    fn default() -> Self {
        Self { last: None, gap: COALESCE, pause: TRIES.0, random: RandomState::new() }
    }
}

impl Pace {
    /// When the next write may go out; `None`: there was none yet.
    pub(super) fn earliest(&self) -> Option<Instant> {
        self.last.map(|last| last + self.gap)
    }

    /// A write has succeeded.
    pub(super) fn wrote(&mut self, now: Instant) {
        let burst = self.last.is_some_and(|last| now - last < QUIET);
        self.gap = if burst { (self.gap * 2).min(LONGEST_GAP) } else { COALESCE };
        self.last = Some(now);
        self.pause = TRIES.0;
    }

    /// A write has failed: how long to wait, with jitter, lest all nodes come back in step.
    pub(super) fn failed(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(TRIES.1);
        let random = u32::try_from(self.random.hash_one(Instant::now()) % 1000).unwrap_or(0);
        pause / 2 + pause * random / 1000
    }

    /// What is newer than the failed write need not wait longer than this.
    pub(super) fn news(&self) -> Duration {
        self.pause.min(LONGEST_GAP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_changes_is_written_once_a_second_and_a_single_one_at_once() {
        let mut pace = Pace::default();
        let start = Instant::now();
        let mut now = start;
        assert_eq!(pace.earliest(), None);
        for _ in 0..20 {
            pace.wrote(now);
            let next = pace.earliest().unwrap();
            assert!(next - now <= LONGEST_GAP, "even then a failed device is told within a second");
            now = next;
        }
        assert!(now - start > 14 * LONGEST_GAP, "{:?}", now - start);
        now += QUIET;
        pace.wrote(now);
        assert_eq!(pace.earliest(), Some(now + COALESCE), "calm again");
    }

    #[test]
    fn tries_grow_rare_but_never_end() {
        let mut pace = Pace::default();
        let waits: Vec<Duration> = (0..50).map(|_| pace.failed()).collect();
        assert!(waits[0] <= TRIES.0 * 3 / 2);
        assert!(waits[49] >= TRIES.1 / 2 && waits[49] <= TRIES.1 * 3 / 2, "{:?}", waits[49]);
        assert!(pace.news() <= LONGEST_GAP);
        pace.wrote(Instant::now());
        assert!(pace.failed() <= TRIES.0 * 3 / 2, "begins anew after a success");
    }
}
