//! From names to the ledger's nodes, quickly.
//!
//! kube-scheduler sends thousands of names in every call, nearly always in the order of the call before. The roster remembers the
//! nodes in that order: where the next name is one of those expected, comparing it costs a few nanoseconds; where it is not, a
//! hash table finds it. Several are expected at a time, because kube-scheduler's workers each go through a stretch of the nodes and
//! their finds come interleaved. Written and read by filter. It is only a memory: a node that the ledger has dropped or that the roster
//! does not know yet is looked up in the ledger.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;

use crate::ledger::{Block, Ledger, NodeEntry};

/// Nodes in the order in which kube-scheduler names them.
#[derive(Debug, Default)]
struct Order {
    entries: Vec<Arc<NodeEntry>>,
    /// Beside the entries.
    slots: Vec<u32>,
    /// Where the versions of these slots are, by their block.
    blocks: Vec<Option<Arc<Block>>>,
    /// All names as a request has them, each up to the quote after it and then `,"`: whole stretches are compared at once.
    text: Vec<u8>,
    /// Where each name begins in it, and where the text ends.
    starts: Vec<u32>,
    positions: HashMap<Arc<str>, usize, BuildHasherDefault<NameHasher>>,
}

impl Order {
    fn of(entries: Vec<Arc<NodeEntry>>) -> Self {
        let mut order = Self { starts: vec![0], ..Self::default() };
        for entry in entries {
            let end = order.text.len() + entry.name.len() + BETWEEN.len();
            // More than the API server could list; such nodes are looked up in the ledger.
            let (Ok(slot), Ok(end)) = (u32::try_from(entry.slot), u32::try_from(end)) else { continue };
            let Entry::Vacant(vacant) = order.positions.entry(Arc::clone(&entry.name)) else { continue };
            vacant.insert(order.entries.len());
            order.text.extend_from_slice(entry.name.as_bytes());
            order.text.extend_from_slice(BETWEEN);
            order.starts.push(end);
            order.slots.push(slot);
            let block = entry.slot / Block::SLOTS;
            if order.blocks.len() <= block {
                order.blocks.resize(block + 1, None);
            }
            order.blocks[block].get_or_insert_with(|| Arc::clone(entry.block()));
            order.entries.push(entry);
        }
        order
    }

    fn start(&self, position: usize) -> Option<usize> {
        self.starts.get(position).map(|start| *start as usize)
    }

    fn name(&self, position: usize) -> Option<&[u8]> {
        let end = self.start(position.checked_add(1)?)?;
        self.text.get(self.start(position)?..end - BETWEEN.len())
    }

    /// The slot there, and the version of its node.
    #[inline]
    fn at(&self, position: usize) -> Option<(usize, u64)> {
        let slot = *self.slots.get(position)? as usize;
        let block = self.blocks.get(slot / Block::SLOTS)?.as_ref()?;
        Some((slot, block.version(slot)))
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

/// What stands between two names.
const BETWEEN: &[u8] = b"\",\"";

/// How many names are expected at a time: one for each of kube-scheduler's workers that run at once, more or less.
const EXPECTED: usize = 4;

/// The names of one call, one after the other.
#[derive(Debug)]
pub(super) struct Reading<'r> {
    roster: &'r Roster,
    ledger: &'r Ledger,
    order: arc_swap::Guard<Arc<Order>>,
    /// Positions of which one probably comes next.
    expected: [usize; EXPECTED],
    /// Which of them gives way to the next surprise.
    oldest: usize,
    found: usize,
    surprises: usize,
    /// Nodes that the roster did not know, or knew in a former life.
    fresh: Vec<Arc<NodeEntry>>,
}

/// Is told of each name with its node.
pub(super) trait Visit<'a> {
    /// A node of the roster, in this slot and at this newest version. Thousands of times a call: nothing but numbers is passed.
    fn known(&mut self, name: &'a [u8], position: usize, slot: usize, version: u64);

    /// Any other, or none.
    fn other(&mut self, name: &'a [u8], found: Found);

    /// Either.
    fn found(&mut self, name: &'a [u8], found: Found) {
        match found {
            Found::Known { position, slot, version } => self.known(name, position, slot, version),
            found => self.other(name, found),
        }
    }
}

/// What the name stands for.
#[derive(Debug)]
pub(super) enum Found {
    /// A node of the roster, at its newest version.
    Known { position: usize, slot: usize, version: u64 },
    /// One that was just looked up.
    Fresh(Arc<NodeEntry>),
    /// None of the ledger's nodes.
    Unknown,
}

impl Roster {
    pub(super) fn read<'r>(&'r self, ledger: &'r Ledger) -> Reading<'r> {
        Reading {
            roster: self,
            ledger,
            order: self.order.load(),
            expected: std::array::from_fn(|at| if at == 0 { 0 } else { usize::MAX }),
            oldest: 1,
            found: 0,
            surprises: 0,
            fresh: Vec::new(),
        }
    }
}

impl Reading<'_> {
    /// Where `rest` begins with expected names: visits as many of them as there are, each with its quote, and gives what they take
    /// of `rest`, up to the quote of the last one. 0 where another name comes.
    #[inline]
    pub(super) fn take_expected<'a>(&mut self, rest: &'a [u8], visit: &mut impl Visit<'a>) -> usize {
        for at in 0..EXPECTED {
            let first = self.expected[at];
            let (Some(name), Some(start)) = (self.order.name(first), self.order.start(first)) else { continue };
            // Names that come one after the other differ at their ends.
            let ending = &name[name.len().saturating_sub(8)..];
            let is_next = rest.get(name.len()) == Some(&b'"') && rest[..name.len()].ends_with(ending);
            if !is_next || !rest.starts_with(name) {
                continue;
            }
            let common = common(rest, &self.order.text[start..]);
            let (mut position, mut taken, mut from) = (first, 0, 0);
            while let Some(next) = self.order.start(position + 1) {
                let until = next - start - BETWEEN.len();
                // The quote after it belongs to the name.
                if until >= common {
                    break;
                }
                match self.order.at(position) {
                    Some((slot, version)) if version != NodeEntry::UNKNOWN => {
                        self.found += 1;
                        visit.known(&rest[from..until], position, slot, version);
                    }
                    _ => visit.found(&rest[from..until], self.take(position)),
                }
                (position, taken, from) = (position + 1, until + 1, next - start);
            }
            self.expected[at] = position;
            return taken;
        }
        0
    }

    /// The node of any other name.
    pub(super) fn find(&mut self, name: &str) -> Found {
        self.surprises += 1;
        match self.order.positions.get(name) {
            Some(position) => {
                let position = *position;
                self.expected[self.oldest] = position + 1;
                self.oldest = (self.oldest + 1) % EXPECTED;
                self.take(position)
            }
            None => self.look_up(name),
        }
    }

    /// The node there: one that was [`Found::Known`] in this reading.
    pub(super) fn entry(&self, position: usize) -> &NodeEntry {
        &self.order.entries[position]
    }

    #[inline(always)]
    fn take(&mut self, position: usize) -> Found {
        if let Some((slot, version)) = self.order.at(position)
            && version != NodeEntry::UNKNOWN
        {
            self.found += 1;
            return Found::Known { position, slot, version };
        }
        let name = self.order.entries.get(position).map(|entry| Arc::clone(&entry.name)).unwrap_or_default();
        self.look_up(&name)
    }

    fn look_up(&mut self, name: &str) -> Found {
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

/// How long `a` and `b` are the same.
#[inline]
fn common(a: &[u8], b: &[u8]) -> usize {
    let (blocks, _) = a.as_chunks::<32>();
    let (others, _) = b.as_chunks::<32>();
    let same = blocks.iter().zip(others).take_while(|(a, b)| a == b).count() * 32;
    same + a[same..].iter().zip(&b[same..]).take_while(|(a, b)| a == b).count()
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

    /// Names with positions and slots.
    #[derive(Default)]
    struct Seen(Vec<(String, usize, usize)>);

    impl<'a> Visit<'a> for Seen {
        fn known(&mut self, name: &'a [u8], position: usize, slot: usize, _: u64) {
            self.0.push((String::from_utf8(name.to_vec()).unwrap(), position, slot));
        }

        fn other(&mut self, _: &'a [u8], found: Found) {
            panic!("{found:?}");
        }
    }

    #[test]
    fn learns_an_order_in_which_nodes_are_named_twice() {
        let ledger = Ledger::default();
        for name in ["a", "b", "c"] {
            let node = format!(r#"{{"metadata":{{"name":"{name}"}}}}"#);
            ledger.apply_node(&serde_json::from_str::<NodeView<'_>>(&node).unwrap());
        }
        let roster = Roster::default();
        roster.learn(["c", "a", "c", "b", "a"].iter().filter_map(|name| ledger.node(name)).collect());
        let slot = |found: Found| match found {
            Found::Known { slot, .. } => Some(slot),
            Found::Fresh(entry) => Some(entry.slot),
            Found::Unknown => None,
        };
        let slots: Vec<_> = ["a", "b", "c"].iter().map(|name| ledger.node(name).map(|entry| entry.slot)).collect();
        let mut reading = roster.read(&ledger);
        for (name, at) in [("b", 1), ("a", 0), ("c", 2)] {
            assert_eq!(slot(reading.find(name)), slots[at]);
        }
        assert!(matches!(reading.find("d"), Found::Unknown));
        let mut reading = roster.read(&ledger);
        let mut read = |rest: &str| {
            let mut seen = Seen::default();
            let taken = reading.take_expected(rest.as_bytes(), &mut seen);
            (taken, seen.0.into_iter().map(|(name, _, slot)| (name, Some(slot))).collect::<Vec<_>>())
        };
        let at = |name: &str, at: usize| (name.to_owned(), slots[at]);
        assert_eq!(read("c\",\"a\",\"d\"]"), (6, vec![at("c", 2), at("a", 0)]));
        assert_eq!(read("a\",\"b\"]"), (0, vec![]), "had already");
        assert_eq!(read("b\"]}"), (2, vec![at("b", 1)]));
        assert_eq!(read("b\"]}"), (0, vec![]), "nothing is left");
        assert_eq!(reading.surprises, 0);
    }

    #[test]
    fn tells_how_long_two_texts_are_the_same() {
        for (same, rest) in [(0, 0), (1, 3), (63, 1), (64, 0), (64, 7), (200, 100)] {
            let a = [vec![b'x'; same], vec![b'a'; rest]].concat();
            let b = [vec![b'x'; same], vec![b'b'; 2 * rest]].concat();
            assert_eq!(common(&a, &b), same);
        }
    }

    #[test]
    fn follows_several_stretches_at_a_time() {
        let ledger = Ledger::default();
        let names: Vec<String> = (0..400).map(|i| format!("node-{i:03}")).collect();
        for name in &names {
            let node = format!(r#"{{"metadata":{{"name":"{name}"}}}}"#);
            ledger.apply_node(&serde_json::from_str::<NodeView<'_>>(&node).unwrap());
        }
        let roster = Roster::default();
        roster.learn(names.iter().filter_map(|name| ledger.node(name)).collect());
        let mut reading = roster.read(&ledger);
        for i in 0..100 {
            for stretch in 0..4 {
                let name = &names[stretch * 100 + i];
                let rest = format!("{name}\",\"elsewhere\"");
                let mut seen = Seen::default();
                if reading.take_expected(rest.as_bytes(), &mut seen) == 0 {
                    reading.find(name);
                } else {
                    let positions: Vec<_> = seen.0.iter().map(|(_, position, _)| *position).collect();
                    assert_eq!(positions, [stretch * 100 + i]);
                }
            }
        }
        assert!(reading.surprises <= 4, "{}", reading.surprises);
    }
}
