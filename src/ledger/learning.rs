//! Learning what kinds of pods the cluster gets, and the target that rankings aim at.
//!
//! Written by pods that come and go, on GPU nodes or asking for GPUs; pods elsewhere, and those of `DaemonSet`s, are
//! left out. Read by rankings as an immutable [`Target`], which [`Ledger::aim`] builds anew in steps, off the request
//! path. Nothing of it is stored: after a restart the live pods are the workload, and as many are taken to leave as
//! come. A kind that cannot be read is not learned; filter and webhook tell its owner why.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use dashmap::DashSet;
use tokio::sync::watch;

use super::Ledger;
use super::node::{HostRequest, NodeState, PodKey};
use crate::gpu::card::CardKind;
use crate::gpu::parse::Rules;
use crate::gpu::request::PodRequest;
use crate::gpu::target::Target;
use crate::gpu::workload::{Kind, Workload};
use crate::kube_api::pod::PodView;
use crate::kube_api::request::{host_requests, read_pod};

/// What was learned so far.
#[derive(Debug, Default)]
pub(super) struct Learning {
    learned: Mutex<Learned>,
    /// Pending pods that were counted when they came.
    waiting: DashSet<PodKey>,
    target: ArcSwap<Target>,
    due: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Learned {
    workload: Workload,
    /// Whether the pods that were there at the start have been counted.
    begun: bool,
}

impl Learning {
    fn lock(&self) -> MutexGuard<'_, Learned> {
        // Numbers that only move rankings: whatever a panic left behind will do.
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrive(&self, kind: &Kind, memory: i64, accepted: bool) {
        let mut learned = self.lock();
        if !learned.begun {
            learned.workload.find(kind, memory, accepted);
            return;
        }
        let due = learned.workload.arrive(kind, memory);
        if accepted {
            learned.workload.accept();
        }
        drop(learned);
        if due {
            self.want_target();
        }
    }

    fn want_target(&self) {
        self.due.send_modify(|count| *count += 1);
    }

    /// The cards of the cluster are others than before.
    pub(super) fn on_other_cards(&self) {
        if self.lock().begun {
            self.want_target();
        }
    }

    /// A pod left its node.
    pub(super) fn depart(&self) {
        self.lock().workload.depart();
    }

    /// A pod without GPUs came to a GPU node. One that is there for the node's sake competes with nobody.
    pub(super) fn arrive_without(&self, host: HostRequest) {
        if !host.of_node && self.lock().begun {
            self.arrive(&Kind::of(&PodRequest::default(), host.cpu), host.memory, true);
        }
    }

    /// It left.
    pub(super) fn depart_without(&self, host: HostRequest) {
        if !host.of_node {
            self.depart();
        }
    }

    /// A pod is gone that never got a node.
    pub(super) fn forget(&self, uid: &str) {
        self.waiting.remove(&PodKey::new(uid));
    }

    /// Only these pods are still there.
    pub(super) fn retain(&self, keep: impl Fn(&PodKey) -> bool) {
        self.waiting.retain(|key| keep(key));
    }
}

impl Ledger {
    /// What rankings aim at.
    pub fn target(&self) -> Arc<Target> {
        self.learning.target.load_full()
    }

    /// What was learned so far.
    pub fn workload(&self) -> Workload {
        self.learning.lock().workload.clone()
    }

    /// Grows whenever [`Ledger::aim`] should be called.
    pub fn learned(&self) -> watch::Receiver<u64> {
        self.learning.due.subscribe()
    }

    /// Builds the target from what was learned since. Takes milliseconds.
    pub fn aim(&self) -> Arc<Target> {
        let mut cards: HashMap<CardKind, u64> = HashMap::new();
        for entry in self.nodes() {
            if let NodeState::Usable(node) = &entry.snapshot().state {
                for (kind, count) in node.devices.cards().counts() {
                    *cards.entry(kind.clone()).or_default() += count;
                }
            }
        }
        let target = Arc::new(Target::new(&self.workload(), &cards));
        self.learning.target.store(Arc::clone(&target));
        target
    }

    /// A pod that asks for GPUs was seen without a node.
    pub(super) fn learn_pending(&self, uid: &str, pod: &PodView<'_>) {
        if self.learning.waiting.insert(PodKey::new(uid)) {
            self.learn(pod, false);
        }
    }

    /// A pod with GPUs was seen on its node for the first time.
    pub(super) fn learn_bound(&self, uid: &str, pod: &PodView<'_>) {
        if self.learning.waiting.remove(&PodKey::new(uid)).is_some() {
            self.learning.lock().workload.accept();
        } else {
            self.learn(pod, true);
        }
    }

    /// Counts the pods without GPUs on GPU nodes, once both lists are complete.
    pub(super) fn begin_learning(&self) {
        if !self.is_ready() || self.learning.lock().begun {
            return;
        }
        let mut hosts: Vec<HostRequest> = Vec::new();
        for entry in self.nodes() {
            let truth = entry.lock();
            if truth.has_devices() {
                hosts.extend(truth.host.values().filter(|host| !host.of_node));
            }
        }
        let mut learned = self.learning.lock();
        if std::mem::replace(&mut learned.begun, true) {
            return;
        }
        for host in hosts {
            learned.workload.find(&Kind::of(&PodRequest::default(), host.cpu), host.memory, true);
        }
        learned.workload.settle();
        let any = learned.workload.arrivals() > 0;
        drop(learned);
        if any {
            self.learning.want_target();
        }
    }

    fn learn(&self, pod: &PodView<'_>, accepted: bool) {
        let rules = Rules { prefix: self.settings().resource_prefix.clone(), ..Rules::default() };
        if let Ok(parsed) = read_pod(&rules, pod) {
            let (cpu, memory) = host_requests(pod);
            self.learning.arrive(&Kind::of(&parsed.request, cpu), memory, accepted);
        } else if accepted {
            // It will be seen to leave.
            self.learning.lock().workload.accept();
        }
    }
}
