//! Learning what kinds of pods the cluster gets, and the target that rankings aim at.
//!
//! Written by pods that come and go, on GPU nodes or asking for GPUs; pods elsewhere are nobody's business. Read by rankings as an immutable
//! [`Target`], which [`Ledger::aim`] builds anew in steps, off the request path. Nothing of it is stored: after a restart the live
//! pods are the workload, and as many are taken to leave as come. A kind that cannot be read is not learned; filter and
//! webhook tell its owner why.

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
        let due = learned.workload.arrive(kind, memory);
        if accepted {
            learned.workload.accept();
        }
        if due && learned.begun {
            drop(learned);
            self.due.send_modify(|count| *count += 1);
        }
    }

    /// A pod left its node.
    pub(super) fn depart(&self) {
        self.lock().workload.depart();
    }

    /// A pod without GPUs came to a GPU node.
    pub(super) fn arrive_without(&self, host: HostRequest) {
        if self.lock().begun {
            self.arrive(&Kind::of(&PodRequest::default(), host.cpu), host.memory, true);
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
        if !self.is_ready() || std::mem::replace(&mut self.learning.lock().begun, true) {
            return;
        }
        for entry in self.nodes() {
            let hosts: Vec<HostRequest> = {
                let truth = entry.lock();
                if truth.has_devices() { truth.host.values().copied().collect() } else { Vec::new() }
            };
            for host in hosts {
                self.learning.arrive_without(host);
            }
        }
        let mut learned = self.learning.lock();
        learned.workload.settle();
        if learned.workload.arrivals() > 0 {
            drop(learned);
            self.learning.due.send_modify(|count| *count += 1);
        }
    }

    fn learn(&self, pod: &PodView<'_>, accepted: bool) {
        let rules = Rules { prefix: self.settings().resource_prefix.clone(), ..Rules::default() };
        if let Ok(parsed) = read_pod(&rules, pod) {
            let (cpu, memory) = host_requests(pod);
            self.learning.arrive(&Kind::of(&parsed.request, cpu), memory, accepted);
        }
    }
}
