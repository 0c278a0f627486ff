//! Damage is told once: a log line, a count, and an Event on the object, written by a task at a bounded rate.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;

use super::Ledger;
use crate::kube_api::fields::Damaged;
use crate::kube_api::pod::PodView;

/// Reports waiting to become Events; more at once are only logged and counted.
const WAITING: usize = 256;
/// Reports remembered as told; beyond, the memory starts anew and a report may be told again.
const REMEMBERED: usize = 16_384;

/// The object that a report is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object<'a> {
    pub(super) kind: &'static str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) uid: &'a str,
}

/// One Event to be written.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) kind: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What was told, and what is still to be written.
#[derive(Debug)]
pub(super) struct Reports {
    told: Mutex<HashSet<u64>>,
    hasher: RandomState,
    sender: mpsc::Sender<Report>,
    pub(super) waiting: tokio::sync::Mutex<mpsc::Receiver<Report>>,
}

impl Default for Reports {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self { told: Mutex::default(), hasher: RandomState::new(), sender, waiting: tokio::sync::Mutex::new(receiver) }
    }
}

impl<'a> Object<'a> {
    pub(super) fn node(name: &'a str, uid: Option<&'a str>) -> Self {
        // The kubelet's own Events name a node by its name where the UID is not at hand.
        Self { kind: "Node", namespace: "", name, uid: uid.unwrap_or(name) }
    }

    pub(super) fn pod(pod: &'a PodView<'_>) -> Self {
        Self {
            kind: "Pod",
            namespace: pod.metadata.namespace.as_deref().unwrap_or_default(),
            name: pod.metadata.name.as_deref().unwrap_or_default(),
            uid: pod.metadata.uid.as_deref().unwrap_or_default(),
        }
    }
}

impl Reports {
    /// Whether this is told for the first time.
    fn is_new(&self, object: &Object<'_>, reason: &str, message: &str) -> bool {
        let hash = self.hasher.hash_one((object.kind, object.uid, reason, message));
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= REMEMBERED {
            told.clear();
        }
        told.insert(hash)
    }

    fn tell(&self, object: &Object<'_>, reason: &'static str, message: String) -> bool {
        if !self.is_new(object, reason, &message) {
            return false;
        }
        let Object { kind, namespace, name, uid } = *object;
        tracing::warn!(kind, namespace, name, uid, reason, "{message}");
        let report = Report {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            reason,
            message,
        };
        if self.sender.try_send(report).is_err() {
            tracing::debug!(kind, namespace, name, "too many Events waiting; this one is only logged");
        }
        true
    }
}

impl Ledger {
    /// Something of an object cannot be read.
    pub(super) fn damaged(&self, object: &Object<'_>, reason: &'static str, error: &Damaged) {
        if self.reports.tell(object, reason, error.to_string()) {
            self.metrics.damaged(object.kind, reason);
        }
    }

    /// An object carries fields of a later version; the rest is used.
    pub(super) fn unknown_fields(&self, object: &Object<'_>, key: &str, fields: &[String]) {
        if fields.is_empty() {
            return;
        }
        let message = format!("{key}: unknown fields were skipped: {}", fields.join(", "));
        if self.reports.is_new(object, "UnknownFields", &message) {
            let Object { kind, namespace, name, .. } = object;
            tracing::warn!(kind, namespace, name, "{message}");
            self.metrics.damaged(object.kind, "UnknownFields");
        }
    }

    /// A pod that is to be nominated asks for nothing that can be read.
    pub(super) fn unreadable_request(&self, object: &Object<'_>, problem: String) {
        if self.reports.tell(object, "UnreadableRequest", problem) {
            self.metrics.damaged(object.kind, "UnreadableRequest");
        }
    }

    /// A pod was bound to a GPU node behind our back.
    pub(super) fn foreign(&self, object: &Object<'_>, node: &str) {
        let message = format!(
            "the pod asks for GPUs and was bound to {node} without an allocation; which device it uses is known to the node's \
             agent only. Let the scheduler of Packhorse bind it"
        );
        if self.reports.tell(object, "ForeignPod", message) {
            self.metrics.damaged(object.kind, "ForeignPod");
        }
    }
}
