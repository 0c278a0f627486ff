//! What thousands of pods and devices have in common, each kept once: UUIDs, models, namespaces, node and container names; labels
//! and wirings of nodes.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// The strings in use. Those that nobody holds any more are dropped when the set has doubled.
#[derive(Debug, Default)]
pub(super) struct Interner(Mutex<Strings>);

#[derive(Debug, Default)]
struct Strings {
    known: HashSet<Arc<str>>,
    /// Sweep when this many are known.
    sweep_at: usize,
}

impl Interner {
    pub(super) fn get(&self, text: &str) -> Arc<str> {
        // A panic elsewhere cannot leave the set half changed.
        let mut strings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = strings.known.get(text) {
            return Arc::clone(known);
        }
        if strings.known.len() >= strings.sweep_at {
            strings.known.retain(|text| Arc::strong_count(text) > 1);
            strings.sweep_at = strings.known.len() * 2 + 1024;
        }
        let new: Arc<str> = Arc::from(text);
        strings.known.insert(Arc::clone(&new));
        new
    }
}

/// Equal values of any kind, each kept once.
#[derive(Debug)]
pub(super) struct Shared<T: ?Sized>(Mutex<HashSet<Arc<T>>>);

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: ?Sized + Eq + Hash> Shared<T> {
    /// The value that is kept in place of this one. Those that nobody holds any more are dropped before the set grows.
    pub(super) fn get(&self, value: Arc<T>) -> Arc<T> {
        // A panic elsewhere cannot leave the set half changed.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&value) {
            return Arc::clone(known);
        }
        if known.len() == known.capacity() {
            known.retain(|value| Arc::strong_count(value) > 1);
        }
        known.insert(Arc::clone(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_are_kept_once_and_unused_ones_go() {
        let interner = Interner::default();
        let kept = interner.get("kept");
        assert!(Arc::ptr_eq(&kept, &interner.get("kept")));
        for n in 0..10_000 {
            interner.get(&n.to_string());
        }
        assert!(Arc::ptr_eq(&kept, &interner.get("kept")));
        assert!(interner.0.lock().unwrap().known.len() <= 2048, "unused strings pile up");
    }

    #[test]
    fn equal_values_are_kept_once_and_unused_ones_go() {
        let shared = Shared::<[u32]>::default();
        let kept = shared.get(Arc::from([1, 2]));
        for n in 0..1_000 {
            shared.get(Arc::from([n]));
        }
        assert!(Arc::ptr_eq(&kept, &shared.get(Arc::from([1, 2]))));
        assert!(shared.0.lock().unwrap().len() <= 16, "unused values pile up");
    }
}
