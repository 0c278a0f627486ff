//! From names to the ledger's nodes, quickly.
//!
//! kube-scheduler sends thousands of names in every call, nearly always in the order of the call before. The roster remembers the
//! nodes in that order: where the next name is the one expected, comparing it costs a few nanoseconds; where it is not, a
//! hash table finds it. Written and read by filter. It is only a memory: a node that the ledger has dropped or that the roster
//! does not know yet is looked up in the ledger.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;

use crate::ledger::{Ledger, NodeEntry};

/// Nodes in the order in which kube-scheduler names them.
#[derive(Debug, Default)]
struct Order {
    entries: Vec<Arc<NodeEntry>>,
    /// All names one after the other: read in sequence, not by pointer.
    names: String,
    /// Where each name ends.
    ends: Vec<usize>,
    positions: HashMap<Arc<str>, usize, BuildHasherDefault<NameHasher>>,
}

impl Order {
    fn of(entries: Vec<Arc<NodeEntry>>) -> Self {
        let mut order = Self::default();
        for entry in entries {
            let Entry::Vacant(vacant) = order.positions.entry(Arc::clone(&entry.name)) else { continue };
            vacant.insert(order.entries.len());
            order.names.push_str(&entry.name);
            order.ends.push(order.names.len());
            order.entries.push(entry);
        }
        order
    }

    fn name(&self, position: usize) -> Option<&str> {
        let start = if position == 0 { 0 } else { *self.ends.get(position - 1)? };
        self.names.get(start..*self.ends.get(position)?)
    }
}

/// The nodes that kube-scheduler has named so far.
#[derive(Debug, Default)]
pub(super) struct Roster {
    order: ArcSwap<Order>,
    /// Calls since the order was last learned.
    calls: AtomicU32,
}

/// How many calls pass before the order is learned anew because it no longer helps.
const PATIENCE: u32 = 64;

/// The names of one call, one after the other.
#[derive(Debug)]
pub(super) struct Reading<'r> {
    roster: &'r Roster,
    ledger: &'r Ledger,
    order: arc_swap::Guard<Arc<Order>>,
    expected: usize,
    found: usize,
    surprises: usize,
    /// Nodes that the roster did not know, or knew in a former life.
    fresh: Vec<Arc<NodeEntry>>,
}

/// A node of the roster, or one just looked up.
#[derive(Debug)]
pub(super) enum Found<'r> {
    Known(&'r Arc<NodeEntry>),
    Fresh(Arc<NodeEntry>),
    Unknown,
}

impl Found<'_> {
    pub(super) fn entry(&self) -> Option<&Arc<NodeEntry>> {
        match self {
            Self::Known(entry) => Some(entry),
            Self::Fresh(entry) => Some(entry),
            Self::Unknown => None,
        }
    }
}

impl Roster {
    pub(super) fn read<'r>(&'r self, ledger: &'r Ledger) -> Reading<'r> {
        Reading {
            roster: self,
            ledger,
            order: self.order.load(),
            expected: 0,
            found: 0,
            surprises: 0,
            fresh: Vec::new(),
        }
    }
}

impl Reading<'_> {
    /// The name that probably comes next.
    pub(super) fn expected(&self) -> &str {
        self.order.name(self.expected).unwrap_or_default()
    }

    /// The node of the name that [`Reading::expected`] told; `None` where there is none in the ledger any more.
    pub(super) fn take_expected(&mut self) -> Found<'_> {
        self.take(self.expected)
    }

    /// The node of any other name.
    pub(super) fn find(&mut self, name: &str) -> Found<'_> {
        self.surprises += 1;
        match self.order.positions.get(name) {
            Some(position) => self.take(*position),
            None => self.look_up(name),
        }
    }

    fn take(&mut self, position: usize) -> Found<'_> {
        self.expected = position + 1;
        if self.order.entries.get(position).is_some_and(|entry| entry.version() != NodeEntry::UNKNOWN) {
            self.found += 1;
            return Found::Known(&self.order.entries[position]);
        }
        let name = self.order.name(position).unwrap_or_default().to_owned();
        self.look_up(&name)
    }

    fn look_up(&mut self, name: &str) -> Found<'_> {
        match self.ledger.node(name) {
            Some(entry) => {
                self.fresh.push(Arc::clone(&entry));
                Found::Fresh(entry)
            }
            None => Found::Unknown,
        }
    }

    /// The call is over: learns what was new. `names` tells the call's names again, where the order is to be learned from them.
    pub(super) fn finish<'a, I: IntoIterator<Item = &'a str>>(self, names: impl FnOnce() -> I) {
        let calls = self.roster.calls.fetch_add(1, Ordering::Relaxed);
        let entries = &self.order.entries;
        if self.surprises > self.found / 2 && self.surprises > 16 && calls >= PATIENCE {
            let named = names().into_iter().filter_map(|name| self.ledger.node(name));
            let known = entries.iter().filter(|entry| entry.version() != NodeEntry::UNKNOWN).cloned();
            self.roster.learn(named.chain(known).collect());
        } else if !self.fresh.is_empty() {
            let known = entries.iter().filter(|entry| entry.version() != NodeEntry::UNKNOWN).cloned();
            self.roster.learn(known.chain(self.fresh.iter().cloned()).collect());
        }
    }
}

impl Roster {
    fn learn(&self, entries: Vec<Arc<NodeEntry>>) {
        self.calls.store(0, Ordering::Relaxed);
        self.order.store(Arc::new(Order::of(entries)));
    }
}

/// A quick hash of node names. They come from the API server, not from an adversary, and a slow table costs time only.
#[derive(Debug, Default, Clone, Copy)]
struct NameHasher(u64);

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(FACTOR);
        }
        let mut word = [0; 8];
        let rest = chunks.remainder();
        word[..rest.len()].copy_from_slice(rest);
        self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(FACTOR);
    }

    fn finish(&self) -> u64 {
        // The table takes its buckets from the low bits and its tags from the high ones.
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube_api::node::NodeView;

    #[test]
    fn learns_an_order_in_which_nodes_are_named_twice() {
        let ledger = Ledger::default();
        for name in ["a", "b", "c"] {
            let node = format!(r#"{{"metadata":{{"name":"{name}"}}}}"#);
            ledger.apply_node(&serde_json::from_str::<NodeView<'_>>(&node).unwrap());
        }
        let roster = Roster::default();
        roster.learn(["c", "a", "c", "b", "a"].iter().filter_map(|name| ledger.node(name)).collect());
        let mut reading = roster.read(&ledger);
        for name in ["b", "a", "c"] {
            assert_eq!(&*reading.find(name).entry().unwrap().name, name);
        }
        assert!(reading.find("d").entry().is_none());
        let mut reading = roster.read(&ledger);
        for name in ["c", "a", "b"] {
            assert_eq!(reading.expected(), name);
            assert_eq!(&*reading.take_expected().entry().unwrap().name, name);
        }
        assert_eq!(reading.expected(), "");
        assert_eq!(reading.surprises, 0);
    }
}
