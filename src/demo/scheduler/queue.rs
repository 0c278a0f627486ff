//! Pods that wait: to be tried next, for their back-off, or for something to change.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Between attempts, doubling; kube-scheduler waits 1 s and 10 s, this loop is as short-lived as its pods.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// A pod without a node.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) pod: Value,
    pub(super) attempts: u32,
    /// What was written into its status the last time.
    pub(super) told: String,
    not_before: Instant,
    waits: bool,
}

/// The queue, by UID.
#[derive(Debug, Default)]
pub(super) struct Queue {
    active: VecDeque<String>,
    pods: BTreeMap<String, Pending>,
    /// Grows with every change: whoever tries a pod meanwhile sees that it did.
    moves: u64,
}

impl Queue {
    /// A new pod, or a new version of one that waits. Only a change of what is asked makes it worth a new attempt.
    pub(super) fn put(&mut self, uid: &str, pod: Value) {
        if let Some(known) = self.pods.get_mut(uid) {
            let changed = known.pod["spec"] != pod["spec"]
                || known.pod["metadata"]["annotations"] != pod["metadata"]["annotations"]
                || known.pod["status"]["nominatedNodeName"] != pod["status"]["nominatedNodeName"];
            known.pod = pod;
            if changed {
                self.moves += 1;
                if std::mem::take(&mut known.waits) {
                    self.active.push_back(uid.to_owned());
                }
            }
            return;
        }
        let pending = Pending { pod, attempts: 0, told: String::new(), not_before: Instant::now(), waits: false };
        self.pods.insert(uid.to_owned(), pending);
        self.active.push_back(uid.to_owned());
    }

    pub(super) fn remove(&mut self, uid: &str) {
        self.pods.remove(uid);
    }

    /// The next pod whose turn it is; it stays known while it is tried.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(String, Pending)> {
        for _ in 0..self.active.len() {
            let uid = self.active.pop_front()?;
            match self.pods.get(&uid) {
                None => {}
                Some(pending) if pending.not_before > now => self.active.push_back(uid),
                Some(pending) => return Some((uid, pending.clone())),
            }
        }
        None
    }

    /// A counter that grows when something may have become possible.
    pub(super) fn moves(&self) -> u64 {
        self.moves
    }

    /// Puts a pod back after an attempt that failed. Where nothing changed since `moves` it waits for a change; an error is
    /// repeated after the back-off in any case.
    pub(super) fn back(&mut self, uid: &str, told: String, moves: u64, is_error: bool) {
        let changed = self.moves != moves;
        let Some(pending) = self.pods.get_mut(uid) else { return };
        pending.attempts += 1;
        pending.told = told;
        pending.not_before = Instant::now() + (BACKOFF.0 * 2_u32.pow(pending.attempts.min(6) - 1)).min(BACKOFF.1);
        pending.waits = !is_error && !changed;
        if !pending.waits {
            self.active.push_back(uid.to_owned());
        }
    }

    /// Something changed that may help any pod: all that wait are tried again, after their back-off.
    pub(super) fn wake(&mut self) {
        self.moves += 1;
        for (uid, pending) in &mut self.pods {
            if pending.waits {
                pending.waits = false;
                self.active.push_back(uid.clone());
            }
        }
    }

    /// Drops pods that a new list does not show.
    pub(super) fn keep(&mut self, listed: &std::collections::BTreeSet<String>) {
        self.pods.retain(|uid, _| listed.contains(uid));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.active.is_empty()
    }
}
