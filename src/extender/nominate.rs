//! Rescue of pods that kube-scheduler's sample missed: on a large cluster it asks about a part of the nodes only, and a pod that fits
//! none of these may fit another. [`Nominator::run`] finds that node in the ledger and writes `status.nominatedNodeName`, on which
//! kube-scheduler tries the pod again at once, and there first.
//!
//! The same rescues a pod whose room freed a moment ago: kube-scheduler may hear of it before our watch does, ask, be refused, and
//! then hear of nothing more.
//!
//! Fed by filter, which only drops a note. Taints, affinities and the like are kube-scheduler's to judge: where it refuses the
//! node after all, its next filter call brings the pod back, and the next-best node is tried after a growing wait. Nothing is
//! kept but memory: after a restart kube-scheduler's own retries bring the notes again. A write that fails costs the pod
//! its turn until then.

mod memory;
mod search;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::{Mutex, mpsc};

use super::records::PodRecord;
use super::{NoteUnfit, Settings as ExtenderSettings, Unfit};
use crate::kube_api::calls::{CallError, Calls};
use crate::ledger::Ledger;
use memory::{Memory, Note};
use search::{Recent, Search};

/// kube-scheduler looks at no less than this many fitting nodes before it stops looking: where it asks about fewer, it has
/// asked about all, and itself refuses the others.
const SMALLEST_SAMPLE: usize = 100;

/// When to look again for a pod that no node had room for. What frees room has kube-scheduler ask again too, but it may hear of it
/// before our watch does, be refused once more, and then hear of nothing for minutes.
const LATER_LOOKS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// Notes waiting to be read; more are dropped, for kube-scheduler will ask about those pods again.
const WAITING: usize = 4_096;

/// What an operator can set about nomination.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Settings {
    /// Whether pods are nominated for nodes outside kube-scheduler's sample.
    pub enabled: bool,
    /// How long to wait after a filter call, in milliseconds, so that kube-scheduler has put the pod aside before it is told to
    /// try again.
    pub settle_millis: u32,
    /// How long a pod that was nominated in vain waits for its next nomination, in seconds; five times as long after each.
    pub first_wait_seconds: u32,
    /// The longest such wait, in seconds.
    pub longest_wait_seconds: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { enabled: true, settle_millis: 150, first_wait_seconds: 2, longest_wait_seconds: 600 }
    }
}

impl Settings {
    /// The wait after so many nominations in vain.
    fn wait(&self, nominations: u32) -> Duration {
        let factor = 5_u32.saturating_pow(nominations.saturating_sub(1));
        let seconds = self.first_wait_seconds.saturating_mul(factor).min(self.longest_wait_seconds);
        Duration::from_secs(seconds.into())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// What nomination counts.
#[derive(Debug, Clone)]
pub struct Metrics {
    results: Family<ResultLabel, Counter>,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let results = Family::default();
        let help = "Pods that fitted no node of kube-scheduler's sample, by what became of their nomination";
        registry.register("packhorse_extender_nominations", help, results.clone());
        Self { results }
    }

    /// How often one result came: `nominated`, `no_node`, `failed`, `dropped`.
    pub fn count(&self, result: &'static str) -> u64 {
        self.results.get_or_create(&ResultLabel { result }).get()
    }

    fn add(&self, result: &'static str) {
        self.results.get_or_create(&ResultLabel { result }).inc();
    }
}

/// Nominates. Shared by `Arc`.
#[derive(Debug)]
pub struct Nominator {
    ledger: Arc<Ledger>,
    calls: Calls,
    settings: Arc<ArcSwap<ExtenderSettings>>,
    metrics: Metrics,
    sender: mpsc::Sender<Note>,
    receiver: Mutex<mpsc::Receiver<Note>>,
}

impl Nominator {
    /// Knows no pod yet. `settings` are the extender's, whose policies rank the nodes here too.
    pub fn new(
        ledger: Arc<Ledger>,
        calls: Calls,
        settings: Arc<ArcSwap<ExtenderSettings>>,
        metrics: Metrics,
    ) -> Arc<Self> {
        let (sender, receiver) = mpsc::channel(WAITING);
        Arc::new(Self { ledger, calls, settings, metrics, sender, receiver: Mutex::new(receiver) })
    }

    /// For [`super::Parts::unfit`].
    pub fn hook(self: &Arc<Self>) -> NoteUnfit {
        let nominator = Arc::clone(self);
        Arc::new(move |unfit| nominator.note_unfit(unfit))
    }

    /// Takes note of a pod that fits none of the nodes kube-scheduler asked about. Never waits.
    pub fn note_unfit(&self, unfit: &Unfit<'_>) {
        if !self.settings.load().nomination.enabled {
            return;
        }
        let text = |text: &str| Arc::<str>::from(text);
        let note = Note {
            record: Arc::clone(unfit.record),
            selector: unfit.pod.spec.node_selector.iter().map(|(key, value)| (text(key), text(value))).collect(),
            nominated: unfit.pod.status.nominated_node_name.as_deref().filter(|name| !name.is_empty()).map(text),
            only: (unfit.asked.len() < SMALLEST_SAMPLE)
                .then(|| unfit.asked.iter().map(|(name, _)| text(name)).collect()),
            looks: 0,
        };
        if self.sender.try_send(note).is_err() {
            self.metrics.add("dropped");
        }
    }

    /// Nominates until the future is dropped.
    pub async fn run(self: Arc<Self>) {
        let mut receiver = self.receiver.lock().await;
        let mut memory = Memory::default();
        let mut recent = Recent::default();
        loop {
            let due = memory.next_due();
            let until = due.unwrap_or_else(Instant::now);
            tokio::select! {
                note = receiver.recv() => {
                    let Some(note) = note else { return };
                    let settle = Duration::from_millis(self.settings.load().nomination.settle_millis.into());
                    memory.put(note, Instant::now(), settle);
                }
                () = tokio::time::sleep_until(until.into()), if due.is_some() => {
                    while let Some(note) = memory.take_due(Instant::now()) {
                        self.rescue(&mut memory, &mut recent, note).await;
                    }
                }
            }
        }
    }

    async fn rescue(&self, memory: &mut Memory, recent: &mut Recent, note: Note) {
        let pod = &note.record;
        let known = self.ledger.pod(&pod.uid);
        if known.as_ref().is_some_and(|known| known.node.is_some()) {
            memory.forget(&pod.uid);
            return;
        }
        let nominated = known.and_then(|known| known.nominated.clone()).or_else(|| note.nominated.clone());
        if nominated.is_some_and(|node| !memory.tried(&pod.uid).contains(&node)) {
            // kube-scheduler itself wants it there, most likely behind victims that are on their way out.
            return;
        }
        let changes = *self.ledger.changes().borrow();
        if memory.is_fruitless(&note, changes) {
            memory.look_again(note, &LATER_LOOKS);
            return;
        }
        let settings = self.settings.load_full();
        let search = Search { ledger: &self.ledger, note: &note, policies: settings.policies() };
        let Some(node) = search.best(memory.tried(&pod.uid), recent).await else {
            self.metrics.add("no_node");
            if memory.tried(&pod.uid).is_empty() {
                // Room that our own nominations take may come back without any change of the ledger.
                if recent.is_empty() {
                    memory.set_fruitless(&note, changes);
                }
                memory.look_again(note, &LATER_LOOKS);
            } else {
                // Every node with room was tried: from the start again, but not soon.
                let rest = Duration::from_secs(settings.nomination.longest_wait_seconds.into());
                memory.start_over(&pod.uid, Instant::now() + rest);
            }
            return;
        };
        match self.calls.nominate(&pod.namespace, &pod.name, &pod.uid, &node).await {
            Ok(()) => {
                tracing::info!(namespace = %pod.namespace, pod = %pod.name, %node, "nominated outside the sample");
                self.metrics.add("nominated");
            }
            Err(CallError::NotFound(_) | CallError::Conflict(_)) => {
                // Gone, or another pod of the same name.
                memory.forget(&pod.uid);
                recent.remove(&pod.uid);
                return;
            }
            Err(error) => {
                tracing::warn!(namespace = %pod.namespace, pod = %pod.name, %node, %error, "a pod could not be nominated");
                self.metrics.add("failed");
                recent.remove(&pod.uid);
            }
        }
        // Where the outcome is unknown the node counts as tried: kube-scheduler has been told, or will ask again.
        let nominations = memory.add_tried(&pod.uid, node);
        memory.rest(&pod.uid, Instant::now() + settings.nomination.wait(nominations));
    }
}

#[cfg(test)]
mod tests;
