//! Follows every change of the API objects, past all faults: feeds the checker, measures how long pods waited, and tells the news.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::mpsc;

use super::api_server::{Change, ChangeKind};
use super::checker::Checker;
use super::news::{News, Topic};

/// What was seen so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) checker: Checker,
    /// GPU pods that were bound.
    pub(super) placed: usize,
    /// Pods without a GPU that were bound.
    pub(super) placed_plain: usize,
    /// Bound pods that ended well, ended badly, and were deleted while they ran.
    pub(super) ended: [usize; 3],
    /// Pods that their node's kubelet failed.
    pub(super) not_admitted: usize,
    /// Tries to start a container that the agent or the runtime refused.
    pub(super) refused_starts: usize,
    /// From a GPU's failure until the inventory said so.
    pub(super) noticed: Vec<Duration>,
    /// Pods whose users gave up before they were placed.
    pub(super) given_up: usize,
    /// From creation to binding of GPU pods.
    pub(super) waits: Vec<Duration>,
    /// Pods without a node by UID: name, and why.
    pub(super) waiting: BTreeMap<String, (String, String)>,
    created: HashMap<String, Instant>,
    live: HashSet<String>,
}

/// What was seen, shared.
#[derive(Debug, Clone, Default)]
pub(super) struct Observer(Arc<Mutex<Seen>>);

impl Observer {
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        // The checker's own sums are rebuilt per pod; a panic in between would already be a failed demo.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A container runs now, with these devices.
    pub(super) fn container_started(&self, pod: &Value, container: &str, devices: &BTreeSet<String>, news: &News) {
        let mut seen = self.seen();
        let before = seen.checker.violations().len();
        seen.checker.container_started(pod, container, devices);
        seen.tell_violations(before, news);
    }

    /// Runs until the API server is gone.
    pub(super) async fn run(self, mut changes: mpsc::UnboundedReceiver<Change>, news: News) {
        while let Some(change) = changes.recv().await {
            self.seen().apply(&change, &news);
        }
    }
}

/// The reasons in kube-scheduler's message, each with the number of nodes.
fn reasons_with_counts(message: &str) -> &str {
    message.split_once("available: ").map_or(message, |(_, reasons)| reasons).trim_end_matches('.')
}

/// The reasons alone.
pub(super) fn reasons(message: &str) -> impl Iterator<Item = &str> {
    reasons_with_counts(message).split(", ").filter(|reason| !reason.is_empty()).map(|reason| {
        reason.split_once(' ').filter(|(count, _)| count.parse::<usize>().is_ok()).map_or(reason, |(_, reason)| reason)
    })
}

impl Seen {
    fn apply(&mut self, change: &Change, news: &News) {
        let before = self.checker.violations().len();
        self.checker.apply(change);
        self.tell_violations(before, news);
        if change.plural == "pods" {
            self.pod(change, news);
        }
    }

    fn tell_violations(&self, before: usize, news: &News) {
        for violation in &self.checker.violations()[before..] {
            news.tell(Topic::Wrong, violation.clone());
        }
    }

    fn pod(&mut self, change: &Change, news: &News) {
        let pod = &*change.object;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let uid = text(&pod["metadata"]["uid"]);
        let name = format!("{}/{}", text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
        let bound = !text(&pod["spec"]["nodeName"]).is_empty();
        let phase = text(&pod["status"]["phase"]);
        if change.kind == ChangeKind::Deleted {
            self.created.remove(&uid);
            if self.waiting.remove(&uid).is_some() {
                self.given_up += 1;
            } else if self.live.remove(&uid) {
                self.ended[2] += 1;
            }
            return;
        }
        if matches!(phase.as_str(), "Succeeded" | "Failed") {
            if self.live.remove(&uid) {
                self.ended[usize::from(phase == "Failed")] += 1;
            }
            return;
        }
        if !bound {
            self.created.entry(uid.clone()).or_insert_with(Instant::now);
            let reason = pod["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|condition| condition["type"] == "PodScheduled")
                .map(|condition| text(&condition["message"]))
                .unwrap_or_default();
            let known = self.waiting.entry(uid).or_insert_with(|| (name.clone(), String::new()));
            if known.1.is_empty() && !reason.is_empty() {
                news.tell(Topic::Waiting, format!("{name}: {}", reasons_with_counts(&reason)));
            }
            known.1 = reason;
            return;
        }
        if !self.live.insert(uid.clone()) {
            return;
        }
        self.waiting.remove(&uid);
        let waited = self.created.remove(&uid).map(|created| created.elapsed()).unwrap_or_default();
        let node = text(&pod["spec"]["nodeName"]);
        match self.checker.holders.get(&uid) {
            None => {
                self.placed_plain += 1;
                news.tell(Topic::Placed, format!("{name} on {node} (no GPU)"));
            }
            Some(holder) => {
                self.placed += 1;
                self.waits.push(waited);
                news.tell(Topic::Placed, format!("{name} on {node} {}", self.checker.describe(holder)));
            }
        }
    }
}
