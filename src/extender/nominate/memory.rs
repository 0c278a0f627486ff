//! What the nominator remembers of pods: when each may be nominated next, and which nodes it was nominated for. Bounded; what is
//! forgotten costs a nomination more or less, nothing else.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::PodRecord;
use crate::gpu::request::PodRequest;

/// Pods remembered; beyond, those that wait for nothing are forgotten.
const MOST_PODS: usize = 20_000;
/// Shapes remembered for which no node has room.
const MOST_SHAPES: usize = 1_000;

/// A pod that fitted no node of a sample.
#[derive(Debug, Clone)]
pub(super) struct Note {
    pub(super) record: Arc<PodRecord>,
    /// `spec.nodeSelector`.
    pub(super) selector: Vec<(Arc<str>, Arc<str>)>,
    /// `status.nominatedNodeName` as kube-scheduler saw it.
    pub(super) nominated: Option<Arc<str>>,
    /// The nodes in question, where kube-scheduler has refused all others itself.
    pub(super) only: Option<Arc<[Arc<str>]>>,
    /// How often it was looked at again.
    pub(super) looks: usize,
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    pods: HashMap<Arc<str>, Pod>,
    /// By the time at which they are due.
    waiting: BTreeMap<(Instant, u64), Note>,
    notes: u64,
    /// Shapes that no node had room for, with the count of the ledger's changes at that time.
    fruitless: HashMap<Shape, u64>,
}

#[derive(Debug)]
struct Pod {
    tried: Vec<Arc<str>>,
    nominations: u32,
    not_before: Instant,
    waiting: Option<(Instant, u64)>,
}

/// All that decides where a pod fits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Shape {
    request: Arc<PodRequest>,
    cpu: i64,
    memory: i64,
    priority: i32,
    selector: Vec<(Arc<str>, Arc<str>)>,
    only: Option<Arc<[Arc<str>]>>,
}

impl Memory {
    /// Has a pod wait for `settle`, or longer where it was nominated not long ago. A newer note replaces an older one.
    pub(super) fn put(&mut self, note: Note, now: Instant, settle: Duration) {
        if self.pods.len() >= MOST_PODS {
            self.pods.retain(|_, pod| pod.waiting.is_some() || pod.not_before > now);
        }
        let pod = self.pods.entry(Arc::clone(&note.record.uid)).or_insert_with(|| Pod {
            tried: Vec::new(),
            nominations: 0,
            not_before: now,
            waiting: None,
        });
        let key = *pod.waiting.get_or_insert_with(|| {
            self.notes += 1;
            (pod.not_before.max(now + settle), self.notes)
        });
        self.waiting.insert(key, note);
    }

    /// Has a pod wait for its next look, where it has one left. A newer note is looked at instead.
    pub(super) fn look_again(&mut self, mut note: Note, later: &[Duration]) {
        let Some(pause) = later.get(note.looks) else { return };
        note.looks += 1;
        if self.pods.get(&note.record.uid).is_some_and(|pod| pod.waiting.is_none()) {
            self.put(note, Instant::now(), *pause);
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    pub(super) fn take_due(&mut self, now: Instant) -> Option<Note> {
        let entry = self.waiting.first_entry().filter(|entry| entry.key().0 <= now)?;
        let note = entry.remove();
        if let Some(pod) = self.pods.get_mut(&note.record.uid) {
            pod.waiting = None;
        }
        Some(note)
    }

    /// The nodes that a pod was nominated for.
    pub(super) fn tried(&self, uid: &str) -> &[Arc<str>] {
        self.pods.get(uid).map_or(&[], |pod| &pod.tried)
    }

    /// Counts one more nomination; gives how many there were.
    pub(super) fn add_tried(&mut self, uid: &str, node: Arc<str>) -> u32 {
        self.pods.get_mut(uid).map_or(1, |pod| {
            pod.tried.push(node);
            pod.nominations = pod.nominations.saturating_add(1);
            pod.nominations
        })
    }

    /// Lets a pod rest until then.
    pub(super) fn rest(&mut self, uid: &str, until: Instant) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.not_before = until;
        }
    }

    /// The same, and no node counts as tried any more.
    pub(super) fn start_over(&mut self, uid: &str, at: Instant) {
        self.rest(uid, at);
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.tried.clear();
        }
    }

    pub(super) fn forget(&mut self, uid: &str) {
        if let Some(pod) = self.pods.remove(uid)
            && let Some(key) = pod.waiting
        {
            self.waiting.remove(&key);
        }
    }

    /// Whether no node had room for such a pod, and nothing has changed since.
    pub(super) fn is_fruitless(&self, note: &Note, changes: u64) -> bool {
        self.fruitless.get(&Shape::of(note)) == Some(&changes)
    }

    pub(super) fn set_fruitless(&mut self, note: &Note, changes: u64) {
        if self.fruitless.len() >= MOST_SHAPES {
            self.fruitless.clear();
        }
        self.fruitless.insert(Shape::of(note), changes);
    }
}

impl Shape {
    fn of(note: &Note) -> Self {
        let PodRecord { request, cpu, memory, priority, .. } = &*note.record;
        Self {
            request: Arc::clone(request),
            cpu: *cpu,
            memory: *memory,
            priority: *priority,
            selector: note.selector.clone(),
            only: note.only.clone(),
        }
    }
}
