//! Numbers that the whole ledger shares: versions of snapshots, and dense slots of nodes.
//!
//! Which version of a node is the newest is kept by slot, close together: a filter asks it of thousands of nodes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// The newest versions of the nodes in [`Block::SLOTS`] slots.
pub struct Block([AtomicU64; Self::SLOTS]);

impl Block {
    /// How many slots have their versions in one block.
    pub const SLOTS: usize = 1024;

    /// The version in one of its slots; see [`super::NodeEntry::version`].
    #[inline]
    pub fn version(&self, slot: usize) -> u64 {
        self.0[slot % Self::SLOTS].load(Ordering::Acquire)
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Block")
    }
}

/// Hands out the lowest free slot, so that caches indexed by it stay small.
#[derive(Debug, Default)]
pub(super) struct Slots(Arc<Mutex<Free>>);

#[derive(Debug, Default)]
struct Free {
    below: BTreeSet<usize>,
    next: usize,
    blocks: Vec<Arc<Block>>,
}

/// A slot in use. It is free again when this is dropped: whoever still knows a node that is gone never meets another in its place.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) index: usize,
    pub(super) block: Arc<Block>,
    slots: Arc<Mutex<Free>>,
}

impl Slots {
    pub(super) fn take(&self) -> Slot {
        let mut free = lock(&self.0);
        let index = free.below.pop_first().unwrap_or(free.next);
        free.next = free.next.max(index + 1);
        while free.blocks.len() <= index / Block::SLOTS {
            free.blocks.push(Arc::new(Block([const { AtomicU64::new(0) }; Block::SLOTS])));
        }
        let block = Arc::clone(&free.blocks[index / Block::SLOTS]);
        drop(free);
        Slot { index, block, slots: Arc::clone(&self.0) }
    }
}

impl Slot {
    pub(super) fn version(&self) -> u64 {
        self.block.version(self.index)
    }

    pub(super) fn publish(&self, version: u64) {
        self.block.0[self.index % Block::SLOTS].store(version, Ordering::Release);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.publish(0);
        lock(&self.slots).below.insert(self.index);
    }
}

fn lock(free: &Mutex<Free>) -> MutexGuard<'_, Free> {
    // Each change is one call; a panic between two costs a slot at most.
    free.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_dense_and_nobody_inherits_a_version() {
        let slots = Slots::default();
        let (first, second, third) = (slots.take(), slots.take(), slots.take());
        assert_eq!([first.index, second.index, third.index], [0, 1, 2]);
        second.publish(7);
        assert_eq!((first.version(), second.version()), (0, 7));
        drop(second);
        let (again, fourth) = (slots.take(), slots.take());
        assert_eq!([again.index, fourth.index], [1, 3]);
        assert_eq!(again.version(), 0);
        let taken: Vec<Slot> = (0..Block::SLOTS).map(|_| slots.take()).collect();
        let far = taken.last().unwrap();
        far.publish(9);
        assert_eq!((far.version(), first.version()), (9, 0));
    }
}
