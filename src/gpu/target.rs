//! What the cluster should keep room for: the learned workload, ready to be held against nodes.
//!
//! Built from a [`Workload`] and the cards of the cluster, then immutable but for its memory of what was computed
//! before; a newer target replaces it whole. Read by [`super::score`] for each node that a ranking looks at. Nothing
//! here fails, and nothing decides whether a pod fits: a bad target packs worse.
//!
//! A node's *potential* is how much GPU the expected pods could still use of it, in thousandths of a card:
//!
//! - *fill*: the node is filled, in 24 simulated runs, with pods drawn from the workload, until nothing more fits; the
//!   mean of what they got. It sees what one pod at a time does not: that CPU runs out before GPUs do, that holes add up.
//! - *several*: of the kinds that want several cards, those that fit now, weighted by their share and size.
//! - *stranded* (subtracted): the free GPU that a pod of the workload, drawn at random, could not use of the node (F of
//!   FGD, USENIX ATC'23).
//!
//! While a cluster fills up, the first two tell best what will go to waste at the end. Where as many pods leave as
//! come, a node is never filled up from here on but changes piece by piece, and the third is the better guide. So the
//! weights go with the [turnover](Workload::turnover).

mod class;
mod fill;
mod profile;
mod stranded;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use dashmap::DashMap;

use super::card::CardKind;
use super::node::Node;
use super::workload::{Kind, Workload};
use crate::random::Random;
use class::Class;
pub(crate) use profile::Change;
use profile::Profile;

/// How many runs fill a node.
const LISTS: usize = 24;

/// How many pods come in a run.
const LENGTH: usize = 64;

/// What was computed before is forgotten beyond this many node states.
const MOST_STATES: usize = 1 << 18;

/// A class takes about 100 kB; full Node objects in a call may make up any number of them.
const MOST_CLASSES: usize = 256;

/// How much each part of the value of a placement counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    /// Of fill.
    pub fill: f64,
    /// Of several.
    pub several: f64,
    /// Of stranded.
    pub stranded: f64,
    /// For using cards that the workload is short of.
    pub scarcity: f64,
    /// For what is left of the node's devices, for each 8 cards.
    pub devices_left: f64,
    /// For what is left of its CPU, for each 128 cores.
    pub cpu_left: f64,
}

impl Weights {
    /// While a cluster fills up.
    pub const FILLING: Self =
        Self { fill: 1.0, several: 2.0, stranded: 0.0, scarcity: 0.7, devices_left: 10.0, cpu_left: 10.0 };

    /// Where as many pods leave as come.
    ///
    /// CPU that is left counts for nothing: where the next pod that leaves decides what can come, nodes need not be
    /// filled evenly, and counting it closed nodes to the pods that want many cards.
    pub const STEADY: Self =
        Self { fill: 0.0, several: 0.0, stranded: 1.0, scarcity: 0.8, devices_left: 30.0, cpu_left: 0.0 };

    /// In between; `turnover` 0..=1.
    pub fn at(turnover: f64) -> Self {
        let mix = |filling: f64, steady: f64| filling + turnover * (steady - filling);
        let (a, b) = (Self::FILLING, Self::STEADY);
        Self {
            fill: mix(a.fill, b.fill),
            several: mix(a.several, b.several),
            stranded: mix(a.stranded, b.stranded),
            scarcity: mix(a.scarcity, b.scarcity),
            devices_left: mix(a.devices_left, b.devices_left),
            cpu_left: mix(a.cpu_left, b.cpu_left),
        }
    }
}

/// A kind of the workload.
#[derive(Debug, Clone)]
struct Learned {
    kind: Kind,
    /// Of all arrivals, 0..=1.
    share: f64,
    /// Mean host memory, MiB.
    memory: i64,
}

/// The learned workload, ready to be held against nodes.
#[derive(Debug)]
pub struct Target {
    /// The commonest first.
    learned: Vec<Learned>,
    /// Which kind comes when, by position in `learned`.
    lists: Vec<Vec<u16>>,
    /// How many the cluster has of each kind of card.
    cards: Vec<(CardKind, f64)>,
    weights: Weights,
    classes: DashMap<(u64, bool), Arc<Class>, BuildHasherDefault<Mixed>>,
    potentials: DashMap<u128, f64, BuildHasherDefault<Mixed>>,
}

/// A target, and what is known already of the node that is ranked for it.
#[derive(Debug, Clone, Copy)]
pub struct Aim<'a> {
    pub(super) target: &'a Target,
    /// The potential of the node as it is.
    before: Option<f64>,
}

impl<'a> From<&'a Target> for Aim<'a> {
    fn from(target: &'a Target) -> Self {
        Self { target, before: None }
    }
}

impl<'a> From<&'a Arc<Target>> for Aim<'a> {
    fn from(target: &'a Arc<Target>) -> Self {
        Self { target, before: None }
    }
}

/// The potential of a node that does not change, remembered for the target it was last ranked for: it is the same for pods of all
/// kinds.
#[derive(Debug, Default)]
pub struct Worth(Mutex<Option<(Weak<Target>, f64)>>);

impl Worth {
    /// What to rank this node with; always the same `node`.
    pub fn aim<'a>(&self, node: &Node, target: &'a Arc<Target>) -> Aim<'a> {
        if target.is_empty() {
            return target.into();
        }
        // Whole after any panic: it is written by one call.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &*known {
            Some((of, before)) if std::ptr::eq(of.as_ptr(), Arc::as_ptr(target)) => *before,
            _ => {
                let before = target.worth(node);
                *known = Some((Arc::downgrade(target), before));
                before
            }
        };
        Aim { target, before: Some(before) }
    }
}

impl Aim<'_> {
    /// What it is worth to put a pod on a node, where it takes `changes` of the devices, `cpu` millicores and
    /// `memory` bytes: greater is better, comparable between nodes, in thousandths of a card.
    pub(crate) fn value(&self, node: &Node, changes: &[Change], cpu: i64, memory: i64) -> f64 {
        let target = self.target;
        let class = target.class(node);
        let after = Profile::of(node, &class, changes, cpu, memory);
        let before = self.before.unwrap_or_else(|| target.potential(&class, &Profile::of(node, &class, &[], 0, 0)));
        let weights = &target.weights;
        let scarcity: f64 = changes.iter().map(|change| class.scarcity(node, change)).sum();
        target.potential(&class, &after)
            - before
            - weights.scarcity * scarcity
            - weights.devices_left * f64::from(after.free) / 8_000.0
            - weights.cpu_left * after.cpu_left()
    }
}

impl Default for Target {
    fn default() -> Self {
        Self::new(&Workload::default(), &HashMap::new())
    }
}

impl Target {
    /// From what came, and how many cards of each kind there are. Takes milliseconds.
    pub fn new(workload: &Workload, cards: &HashMap<CardKind, u64>) -> Self {
        Self::with(workload, cards, Weights::at(workload.turnover()))
    }

    /// The same, with other weights.
    pub fn with(workload: &Workload, cards: &HashMap<CardKind, u64>, weights: Weights) -> Self {
        let learned: Vec<Learned> = workload
            .shares()
            .into_iter()
            .map(|(kind, share, memory)| Learned { kind: kind.clone(), share, memory: memory.ceil() as i64 })
            .collect();
        let mut cards: Vec<_> = cards.iter().map(|(kind, count)| (kind.clone(), *count as f64)).collect();
        cards.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Self {
            lists: lists(&learned),
            learned,
            cards,
            weights,
            classes: DashMap::default(),
            potentials: DashMap::default(),
        }
    }

    /// Whether nothing has been learned yet.
    pub fn is_empty(&self) -> bool {
        self.learned.is_empty()
    }

    /// Whether a state of a node that was not met before costs tens of microseconds, not one.
    pub(crate) fn is_dear(&self) -> bool {
        !self.is_empty() && (self.weights.fill > 0.0 || self.weights.several > 0.0)
    }

    /// The potential of a node as it is.
    fn worth(&self, node: &Node) -> f64 {
        let class = self.class(node);
        self.potential(&class, &Profile::of(node, &class, &[], 0, 0))
    }

    fn potential(&self, class: &Class, profile: &Profile) -> f64 {
        let weights = &self.weights;
        let mut potential = 0.0;
        if weights.stranded > 0.0 {
            potential -= weights.stranded * stranded::stranded(class, profile);
        }
        if weights.fill > 0.0 || weights.several > 0.0 {
            potential += self.filling(class, profile);
        }
        potential
    }

    /// The dear part, computed once for each state.
    fn filling(&self, class: &Class, profile: &Profile) -> f64 {
        let key = profile.key(class);
        if let Some(known) = self.potentials.get(&key) {
            return *known;
        }
        let weights = &self.weights;
        let potential = weights.fill * fill::fill(class, profile) + weights.several * fill::several(class, profile);
        if self.potentials.len() >= MOST_STATES {
            self.potentials.clear();
        }
        self.potentials.insert(key, potential);
        potential
    }

    fn class(&self, node: &Node) -> Arc<Class> {
        let key = (node.devices.cards().class(), node.mig_single);
        if let Some(class) = self.classes.get(&key) {
            return Arc::clone(&class);
        }
        let class = Arc::new(Class::new(node, &self.learned, &self.lists, &self.cards));
        if self.classes.len() >= MOST_CLASSES {
            self.classes.clear();
        }
        self.classes.insert(key, Arc::clone(&class));
        class
    }
}

/// Draws the runs: each kind as often as its share says, in an order that is the same in every process.
fn lists(learned: &[Learned]) -> Vec<Vec<u16>> {
    let all = (LISTS * LENGTH) as f64;
    let mut tokens = Vec::with_capacity(LISTS * LENGTH);
    let mut sum = 0.0_f64;
    for (at, kind) in learned.iter().enumerate() {
        let from = (sum * all).round() as usize;
        sum += kind.share;
        // Never met: a workload has fewer kinds.
        let at = u16::try_from(at).unwrap_or(u16::MAX);
        tokens.extend((from..(sum * all).round() as usize).map(|_| at));
    }
    Random::new(12_345).shuffle(&mut tokens);
    tokens.chunks(LENGTH).map(<[u16]>::to_vec).collect()
}

/// For keys that are numbers mixed well already.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Mixed(u64);

impl Hasher for Mixed {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_u128(&mut self, n: u128) {
        self.0 ^= n as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
