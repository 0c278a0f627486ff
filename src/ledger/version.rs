//! Numbers that the whole ledger shares: versions of snapshots, and dense slots of nodes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Hands out versions, each once.
#[derive(Debug, Default)]
pub(super) struct Versions(AtomicU64);

impl Versions {
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The last one.
    pub(super) fn last(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Hands out the lowest free slot, so that caches indexed by it stay small.
#[derive(Debug, Default)]
pub(super) struct Slots(Mutex<Free>);

#[derive(Debug, Default)]
struct Free {
    below: BTreeSet<usize>,
    next: usize,
}

impl Slots {
    pub(super) fn take(&self) -> usize {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = free.below.pop_first() {
            return slot;
        }
        free.next += 1;
        free.next - 1
    }

    pub(super) fn give_back(&self, slot: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).below.insert(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_dense() {
        let slots = Slots::default();
        assert_eq!([slots.take(), slots.take(), slots.take()], [0, 1, 2]);
        slots.give_back(1);
        assert_eq!([slots.take(), slots.take()], [1, 3]);
    }
}
