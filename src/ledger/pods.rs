//! Feeding the ledger with Pod objects, and what it keeps of each.
//!
//! A pod is its UID: a recreated pod of the same name is another one. A bound pod counts until it has ended or is gone,
//! terminating or not. A pod without a node never takes a booking away: the watch may lag behind the bind.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Ledger;
use super::doubt::Doubt;
use super::node::{HostRequest, Nominated, PodKey};
use super::reading::{Given, asked, concerns_gpus, has_ended, node_of, text_of};
use super::report::Object;
use crate::gpu::allocation::{Allocation, Holding};
use crate::gpu::parse::Rules;
use crate::gpu::request::PodRequest;
use crate::kube_api::pod::PodView;
use crate::kube_api::request::{host_requests, read_pod};

/// How much is known of the devices behind a damaged allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Every device can be read; each is held as a whole.
    Readable,
    /// It may be using any device of its node: all are held.
    Partly,
}

/// What the ledger knows of one live pod. Never changed in place.
#[derive(Debug, Clone, PartialEq)]
pub struct PodEntry {
    /// The pod's UID.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Where it is bound, or booked; `None` for a pending pod that is known only for its nomination.
    pub node: Option<Arc<str>>,
    /// Where a pending pod is to go.
    pub nominated: Option<Arc<str>>,
    /// `spec.priority`, 0 where absent, and while only our bind knows the pod.
    pub priority: i32,
    /// Per device.
    pub holdings: Arc<[Holding]>,
    /// Per container; `None` where it was bound without one, or it cannot be read.
    pub allocation: Option<Arc<Allocation>>,
    /// CPU it requests, millicores.
    pub cpu: i64,
    /// Host memory it requests, bytes.
    pub memory: i64,
    /// Whether the watch has shown it bound; false while only our bind says so.
    pub confirmed: bool,
    /// Whether its bind may or may not have happened.
    pub unknown: bool,
    /// Whether a controller would recreate it.
    pub owned: bool,
    /// Whether its deletion has begun.
    pub terminating: bool,
    /// Whether at least one of its containers has started (phase `Running`).
    pub running: bool,
    /// When it was bound, in seconds since 1970, as the API server says; else when this process first saw it bound; 0 before.
    pub bound_at: u64,
    /// Its allocation cannot be read, or contradicts itself.
    pub damaged: Option<Damage>,
    /// It asks for GPUs and was bound without an allocation: what it uses is known from the inventory only.
    pub foreign: bool,
    /// Of the annotations: unchanged text is not read again.
    pub(super) text: u64,
}

/// A list of all pods on its way into the ledger, page by page. At [`PodRelist::finish`] the pods that it did not name are in
/// doubt: each is confirmed by a GET before its devices are freed.
#[derive(Debug)]
pub struct PodRelist<'a> {
    ledger: &'a Ledger,
    seen: HashSet<PodKey>,
}

impl PodRelist<'_> {
    /// One pod of the list.
    pub fn apply(&mut self, pod: &PodView<'_>) {
        if let Some(uid) = &pod.metadata.uid {
            self.seen.insert(PodKey::new(uid));
        }
        self.ledger.apply_pod(pod);
    }

    /// The list is complete.
    pub fn finish(self) {
        let ledger = self.ledger;
        for pod in ledger.pods() {
            if !self.seen.contains(&PodKey::new(&pod.uid)) {
                let _turn = ledger.turn(&pod.uid);
                if pod.node.is_some() {
                    ledger.doubts.raise(&pod, Doubt::Vanished);
                } else {
                    ledger.drop_pod(&pod.uid, None);
                }
            }
        }
        let entries: Vec<_> = ledger.nodes.iter().map(|entry| Arc::clone(entry.value())).collect();
        for entry in entries {
            let gone = ledger.on_node(&entry.name, |entry, truth| {
                let gone = truth.retain_host(|key| self.seen.contains(key));
                if gone.is_empty() || !truth.has_devices() {
                    return false;
                }
                entry.publish(truth, &ledger.versions);
                for host in gone {
                    ledger.learning.depart_without(host);
                }
                true
            });
            if gone {
                ledger.room_may_be_free();
            }
        }
        ledger.learning.retain(|key| self.seen.contains(key));
        ledger.listeners.relisted(&|uid: &str| self.seen.contains(&PodKey::new(uid)));
        ledger.pods_listed.store(true, Ordering::Release);
        ledger.begin_learning();
    }
}

impl Ledger {
    /// A pod as it is now: new or changed.
    pub fn apply_pod(&self, pod: &PodView<'_>) {
        let Some(uid) = pod.metadata.uid.as_deref().filter(|uid| !uid.is_empty()) else {
            tracing::warn!(name = pod.metadata.name.as_deref(), "a pod without a UID was skipped");
            return;
        };
        let _turn = self.turn(uid);
        self.apply_in_turn(uid, pod);
    }

    /// [`Ledger::apply_pod`] for a caller who has the pod's turn.
    pub(super) fn apply_in_turn(&self, uid: &str, pod: &PodView<'_>) {
        if has_ended(pod) {
            self.drop_pod(uid, node_of(pod));
            self.learning.forget(uid);
            self.listeners.ended(uid);
            return;
        }
        match node_of(pod) {
            Some(node) => {
                self.apply_bound(uid, node, pod);
                self.listeners.bound(uid);
            }
            None => {
                self.apply_pending(uid, pod);
                self.listeners.pending(pod);
            }
        }
    }

    /// A pod that is gone.
    pub fn remove_pod(&self, pod: &PodView<'_>) {
        if let Some(uid) = pod.metadata.uid.as_deref() {
            let _turn = self.turn(uid);
            self.drop_pod(uid, node_of(pod));
            self.learning.forget(uid);
            self.listeners.ended(uid);
        }
    }

    /// Begins a complete list of the pods.
    pub fn relist_pods(&self) -> PodRelist<'_> {
        PodRelist { ledger: self, seen: HashSet::new() }
    }

    /// A complete list of the pods at once.
    pub fn replace_pods<'a>(&self, pods: impl IntoIterator<Item = &'a PodView<'a>>) {
        let mut relist = self.relist_pods();
        for pod in pods {
            relist.apply(pod);
        }
        relist.finish();
    }

    fn apply_bound(&self, uid: &str, node: &str, pod: &PodView<'_>) {
        // Whatever was in doubt, the API server has answered.
        self.doubts.settle(uid);
        let known = self.pod(uid);
        let settings = self.settings();
        let asked = asked(pod, &settings.resource_prefix);
        let host = if settings.host_requests { host_of(pod) } else { HostRequest::default() };
        if !concerns_gpus(pod, &asked) {
            if known.is_some() {
                self.drop_pod(uid, None);
            }
            self.set_host(uid, node, settings.host_requests.then_some(host));
            return;
        }
        if known.as_ref().is_none_or(|known| !known.confirmed) {
            self.learn_bound(uid, pod);
        }
        let text = text_of(pod);
        let read_before = known.as_ref().filter(|known| known.confirmed && known.text == text);
        let given = read_before.map_or_else(
            || self.given(pod, &Object::pod(pod), &asked),
            |known| Given {
                allocation: known.allocation.clone(),
                holdings: Arc::clone(&known.holdings),
                damaged: known.damaged,
                foreign: known.foreign,
            },
        );
        if given.foreign && read_before.is_none() && self.lists_devices(node) {
            self.foreign(&Object::pod(pod), node);
        }
        let entry = PodEntry {
            node: Some(self.strings.get(node)),
            nominated: None,
            holdings: given.holdings,
            allocation: given.allocation,
            cpu: host.cpu,
            memory: host.memory,
            confirmed: true,
            bound_at: known.as_ref().map(|known| known.bound_at).filter(|at| *at > 0).unwrap_or_else(|| bound_at(pod)),
            damaged: given.damaged,
            foreign: given.foreign,
            text,
            ..self.entry_of(uid, pod)
        };
        self.settle(known.as_deref(), entry);
    }

    fn apply_pending(&self, uid: &str, pod: &PodView<'_>) {
        let known = self.pod(uid);
        if let Some(known) = &known
            && known.node.is_some()
        {
            // Booked or bound: this version is older than the bind. What it says of the pod itself holds all the same.
            if !known.confirmed {
                let seen = self.entry_of(uid, pod);
                let entry = PodEntry {
                    priority: seen.priority,
                    owned: seen.owned,
                    terminating: seen.terminating,
                    ..(**known).clone()
                };
                self.settle(Some(known), entry);
            }
            return;
        }
        let asked = asked(pod, &self.settings().resource_prefix);
        if !asked.is_empty() {
            self.learn_pending(uid, pod);
        }
        let wanted = pod.status.nominated_node_name.as_deref().filter(|name| !name.is_empty() && !asked.is_empty());
        let Some(node) = wanted else {
            if known.is_some() {
                self.drop_pod(uid, None);
            }
            return;
        };
        let host = host_of(pod);
        let entry = PodEntry {
            nominated: Some(self.strings.get(node)),
            cpu: host.cpu,
            memory: host.memory,
            ..self.entry_of(uid, pod)
        };
        if let Some(before) =
            known.as_ref().and_then(|known| known.nominated.as_deref()).filter(|before| *before != node)
        {
            self.set_nominated(before, uid, None);
        }
        let nominated = Nominated {
            uid: Arc::clone(&entry.uid),
            priority: entry.priority,
            request: self.request_of(pod),
            cpu: entry.cpu,
            memory: entry.memory,
        };
        self.set_nominated(node, uid, Some(nominated));
        self.pods.insert(Arc::clone(&entry.uid), Arc::new(entry));
    }

    /// What every kind of entry takes from the object.
    fn entry_of(&self, uid: &str, pod: &PodView<'_>) -> PodEntry {
        let known = self.pod(uid);
        PodEntry {
            uid: known.as_ref().map_or_else(|| Arc::from(uid), |known| Arc::clone(&known.uid)),
            namespace: self.strings.get(pod.metadata.namespace.as_deref().unwrap_or_default()),
            name: known.map_or_else(
                || Arc::from(pod.metadata.name.as_deref().unwrap_or_default()),
                |known| Arc::clone(&known.name),
            ),
            node: None,
            nominated: None,
            priority: pod.spec.priority.unwrap_or(0),
            holdings: Arc::from([]),
            allocation: None,
            cpu: 0,
            memory: 0,
            confirmed: false,
            unknown: false,
            owned: pod.metadata.owner_references.iter().any(|owner| owner.controller == Some(true)),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            running: pod.status.phase.as_deref() == Some("Running"),
            bound_at: 0,
            damaged: None,
            foreign: false,
            text: 0,
        }
    }

    /// Puts a bound or booked pod where it is, and takes it from where it was. The caller has its turn.
    pub(super) fn settle(&self, known: Option<&PodEntry>, entry: PodEntry) {
        if known == Some(&entry) {
            return;
        }
        let Some(node) = entry.node.clone() else { return };
        if let Some(known) = known {
            if let Some(before) = known.node.as_deref().filter(|before| **before != *node) {
                self.take_from(before, &known.uid);
            }
            if let Some(nominated) = &known.nominated {
                self.set_nominated(nominated, &known.uid, None);
            }
        }
        let entry = Arc::new(entry);
        let freed = self.on_node(&node, |shard, truth| {
            let before = truth.pods.insert(Arc::clone(&entry.uid), Arc::clone(&entry));
            // A pod that was first seen without GPUs cannot come to ask for some, but an edited annotation may say so.
            truth.set_host(PodKey::new(&entry.uid), None);
            let same = before.as_ref().is_some_and(|before| holds_the_same(before, &entry));
            if !same && truth.has_devices() {
                shard.publish(truth, &self.versions);
            }
            before.is_some() && !same
        });
        self.pods.insert(Arc::clone(&entry.uid), entry);
        if freed {
            self.room_may_be_free();
        }
    }

    /// Forgets a pod and frees what it held. `node` is where its object says it was, if anywhere. The caller has its turn.
    pub(super) fn drop_pod(&self, uid: &str, node: Option<&str>) {
        self.doubts.settle(uid);
        let known = self.pods.remove(uid).map(|(_, known)| known);
        if let Some(known) = &known {
            if let Some(node) = &known.node {
                self.take_from(node, uid);
                if known.confirmed {
                    self.learning.depart();
                }
            }
            if let Some(node) = &known.nominated {
                self.set_nominated(node, uid, None);
            }
        } else if let Some(node) = node {
            self.set_host(uid, node, None);
        }
    }

    /// Takes a GPU pod off a node.
    pub(super) fn take_from(&self, node: &str, uid: &str) {
        let freed = self.on_node(node, |shard, truth| {
            let freed = truth.pods.remove(uid).is_some() && truth.has_devices();
            if freed {
                shard.publish(truth, &self.versions);
            }
            freed
        });
        if freed {
            self.room_may_be_free();
        }
    }

    fn set_host(&self, uid: &str, node: &str, request: Option<HostRequest>) {
        if request.is_none() && !self.nodes.contains_key(node) {
            return;
        }
        let freed = self.on_node(node, |shard, truth| {
            let key = PodKey::new(uid);
            let known = truth.host.get(&key).copied();
            let changed = truth.set_host(key, request) && truth.has_devices();
            if changed {
                shard.publish(truth, &self.versions);
                match (known, request) {
                    (None, Some(host)) => self.learning.arrive_without(host),
                    (Some(host), None) => self.learning.depart_without(host),
                    _ => {}
                }
            }
            changed && request.is_none()
        });
        if freed {
            self.room_may_be_free();
        }
    }

    pub(super) fn set_nominated(&self, node: &str, uid: &str, nominated: Option<Nominated>) {
        let withdrawn = nominated.is_none();
        let changed = self.on_node(node, |shard, truth| {
            let changed = truth.set_nominated(uid, nominated);
            if changed {
                shard.publish(truth, &self.versions);
            }
            changed
        });
        if changed && withdrawn {
            self.room_may_be_free();
        }
    }

    fn lists_devices(&self, node: &str) -> bool {
        let entry = self.nodes.get(node).map(|entry| Arc::clone(&entry));
        entry.is_some_and(|entry| entry.lock().has_devices())
    }

    /// What a pending pod asks. After admission its annotation says so, whatever a count alone means in its namespace.
    fn request_of(&self, pod: &PodView<'_>) -> Option<Arc<PodRequest>> {
        let rules = Rules { prefix: self.settings().resource_prefix.clone(), ..Rules::default() };
        match read_pod(&rules, pod) {
            Ok(parsed) => Some(Arc::new(parsed.request)),
            Err(denials) => {
                let problem = denials.first().map(ToString::to_string).unwrap_or_default();
                self.unreadable_request(&Object::pod(pod), problem);
                None
            }
        }
    }
}

fn holds_the_same(before: &PodEntry, after: &PodEntry) -> bool {
    before.holdings == after.holdings
        && before.damaged == after.damaged
        && before.cpu == after.cpu
        && before.memory == after.memory
}

fn host_of(pod: &PodView<'_>) -> HostRequest {
    let (cpu, memory) = host_requests(pod);
    let owner = pod.metadata.owner_references.iter().find(|owner| owner.controller == Some(true));
    let of_node =
        owner.and_then(|owner| owner.kind.as_deref()).is_some_and(|kind| matches!(kind, "DaemonSet" | "Node"));
    HostRequest { cpu, memory, of_node }
}

/// The Binding itself sets the condition `PodScheduled`.
fn bound_at(pod: &PodView<'_>) -> u64 {
    let scheduled = pod.status.conditions.iter().find(|c| &*c.kind == "PodScheduled" && &*c.status == "True");
    let told = scheduled.and_then(|condition| condition.last_transition_time.as_deref());
    let told = told.and_then(|time| time.parse::<jiff::Timestamp>().ok());
    told.and_then(|time| u64::try_from(time.as_second()).ok()).unwrap_or_else(now)
}

fn now() -> u64 {
    // A clock before 1970 gives 0: not seen.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
