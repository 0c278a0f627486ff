//! Kubernetes Events that the agent writes: about its node, and about pods on a device that failed. For people; nothing reads
//! them back.
//!
//! Whoever has something to tell hands it over and goes on; one task writes. The same sentence about the same object is written
//! once in ten minutes. While the API server does not answer, some sentences wait and the rest are dropped and counted: the
//! inventory, not an Event, is what the cluster acts on.

mod failures;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::pods::NodePod;
use crate::kube_api::calls::{CallError, Calls, NodeEvent, PodEvent};

pub use failures::report_failures;

/// Sentences that wait for the API server.
const WAITING: usize = 128;

/// How long the same sentence is not repeated.
const SILENCE: Duration = Duration::from_secs(600);

/// Tries of one sentence, with twice the pause after each.
const TRIES: u32 = 5;

/// The longest note the API server takes, bytes.
const LONGEST: usize = 1024;

/// How an Event is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// For information.
    Normal,
    /// Something is wrong.
    Warning,
}

impl EventKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Where sentences are handed over. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events {
    sentences: mpsc::Sender<Sentence>,
    dropped: Counter,
}

/// Writes them.
#[derive(Debug)]
pub struct Writer {
    sentences: mpsc::Receiver<Sentence>,
    calls: Calls,
    node: Arc<str>,
    /// When each was written last, by its hash.
    written: HashMap<u64, Instant>,
    dropped: Counter,
    /// The pause after a first try that failed.
    pause: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sentence {
    /// `None`: the node itself.
    pod: Option<Pod>,
    kind: &'static str,
    reason: &'static str,
    note: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Pod {
    namespace: Arc<str>,
    name: Arc<str>,
    uid: Arc<str>,
}

impl Events {
    /// The two ends; Events name `node` as their author.
    pub fn new(calls: &Calls, node: Arc<str>, registry: &mut Registry) -> (Self, Writer) {
        let dropped = Counter::default();
        registry.register(
            "packhorse_agent_events_dropped",
            "Events that were not written: the API server did not answer, or refused them",
            dropped.clone(),
        );
        let (sender, sentences) = mpsc::channel(WAITING);
        let writer = Writer {
            sentences,
            calls: calls.of_agent(&node),
            node,
            written: HashMap::new(),
            dropped: dropped.clone(),
            pause: Duration::from_secs(1),
        };
        (Self { sentences: sender, dropped }, writer)
    }

    /// About this node. `reason`: one CamelCase word.
    pub fn node(&self, kind: EventKind, reason: &'static str, note: &str) {
        self.tell(None, kind, reason, note);
    }

    /// About a pod. `reason`: one CamelCase word.
    pub fn pod(&self, pod: &NodePod, kind: EventKind, reason: &'static str, note: &str) {
        let pod = Pod { namespace: Arc::clone(&pod.namespace), name: Arc::clone(&pod.name), uid: Arc::clone(&pod.uid) };
        self.tell(Some(pod), kind, reason, note);
    }

    fn tell(&self, pod: Option<Pod>, kind: EventKind, reason: &'static str, note: &str) {
        let note = shortened(note).to_owned();
        if self.sentences.try_send(Sentence { pod, kind: kind.as_str(), reason, note }).is_err() {
            self.dropped.inc();
        }
    }
}

impl Writer {
    /// Writes what is handed over, until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            while let Some(sentence) = self.sentences.recv().await {
                self.write(&sentence).await;
            }
        })
        .await;
    }

    async fn write(&mut self, sentence: &Sentence) {
        let mut hasher = DefaultHasher::new();
        sentence.hash(&mut hasher);
        let hash = hasher.finish();
        self.written.retain(|_, written| written.elapsed() < SILENCE);
        if self.written.contains_key(&hash) {
            return;
        }
        let mut pause = self.pause;
        for attempt in 1..=TRIES {
            match self.send(sentence).await {
                Ok(()) => {
                    self.written.insert(hash, Instant::now());
                    return;
                }
                // The pod is gone, or may not be written about: no other try will do better.
                Err(CallError::NotFound(_) | CallError::Conflict(_)) => break,
                Err(error) if attempt == TRIES => {
                    warn!(reason = sentence.reason, note = sentence.note, "an Event was not written: {error}");
                }
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2);
                }
            }
        }
        self.dropped.inc();
    }

    async fn send(&self, sentence: &Sentence) -> Result<(), CallError> {
        let Sentence { pod, kind, reason, note } = sentence;
        const ACTION: &str = "ServeNode";
        match pod {
            None => {
                let event = NodeEvent { node: &self.node, kind, reason, action: ACTION, note };
                self.calls.node_event(&event).await
            }
            Some(Pod { namespace, name, uid }) => {
                self.calls.event(&PodEvent { namespace, name, uid, kind, reason, action: ACTION, note }).await
            }
        }
    }
}

fn shortened(note: &str) -> &str {
    &note[..note.floor_char_boundary(LONGEST)]
}
