//! The GPU pods that wait for a node, and why: what kube-scheduler wrote into the pod's status, and what the last filter call on this
//! server found of each node.
//!
//! Written by the ledger's watch and by filter calls, read by looks. The words of kube-scheduler are the same on every replica; what a filter
//! call found is known only where kube-scheduler called, and until the next restart.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use serde::Serialize;

use crate::gpu::parse::Rules;
use crate::gpu::reason::Reason;
use crate::gpu::request::{Ask, ContainerRequest, Memory};
use crate::kube_api::pod::PodView;
use crate::kube_api::request::read_pod;
use crate::ledger::Ledger;

/// Pods kept with all that is shown of them; beyond, they are only counted.
const MOST: usize = 2_000;
/// Pods in one look, those that have waited longest.
const SHOWN: usize = 50;
/// Pods whose refusals are remembered; beyond, all are forgotten, and come back with the next filter call.
const REFUSALS: usize = 4_096;
/// Characters kept of a message.
const LONGEST: usize = 1_000;
/// What is told of a node that the ledger does not know.
const UNKNOWN_NODE: &str = "node not known to Packhorse";

/// The pods that wait.
#[derive(Debug)]
pub(super) struct Pending {
    rules: Arc<ArcSwap<Rules>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By UID.
    shown: HashMap<Arc<str>, Arc<Waiting>>,
    beyond: HashSet<Arc<str>>,
    refusals: HashMap<Arc<str>, Arc<[Refusal]>>,
}

/// One pod.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Waiting {
    uid: Arc<str>,
    namespace: Arc<str>,
    name: Arc<str>,
    /// When the pod was made, as the API server writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<Arc<str>>,
    /// What its containers ask for.
    asks: Vec<AskLook>,
    /// Where it is to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    nominated: Option<Arc<str>>,
    /// The reason of the condition `PodScheduled`, such as `Unschedulable` or `SchedulingGated`.
    #[serde(skip_serializing_if = "Option::is_none")]
    condition: Option<Arc<str>>,
    /// The words of that condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Arc<str>>,
    /// What the last filter call found, most frequent first.
    reasons: Arc<[Refusal]>,
}

/// What one container asks for, per GPU: MiB, or percent of a device.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct AskLook {
    container: Arc<str>,
    count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_percent: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cores: Option<u8>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    exclusive: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    mig: Option<Arc<str>>,
}

/// Why so many nodes refuse a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Refusal {
    reason: &'static str,
    nodes: u32,
}

/// What a look shows of them.
#[derive(Debug, Serialize)]
pub(super) struct PendingLook {
    /// All of them.
    count: usize,
    /// How many the search finds among those that are kept.
    matching: usize,
    pods: Vec<Waiting>,
}

impl Pending {
    /// Knows none yet.
    pub(super) fn new(rules: Arc<ArcSwap<Rules>>) -> Self {
        Self { rules, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one call of a map.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod without a node, new or changed. One that asks for no GPU is passed over.
    pub(super) fn put(&self, pod: &PodView<'_>) {
        let Some(uid) = pod.metadata.uid.as_deref() else { return };
        let Some(waiting) = Waiting::read(uid, pod, &self.rules.load()) else { return };
        let mut state = self.lock();
        let uid = Arc::clone(&waiting.uid);
        if state.shown.len() < MOST || state.shown.contains_key(&uid) {
            state.beyond.remove(&uid);
            state.shown.insert(uid, Arc::new(waiting));
        } else {
            state.beyond.insert(uid);
        }
    }

    /// A pod that waits no more.
    pub(super) fn remove(&self, uid: &str) {
        let mut state = self.lock();
        state.shown.remove(uid);
        state.beyond.remove(uid);
        state.refusals.remove(uid);
    }

    /// Only these pods are still there.
    pub(super) fn retain(&self, is_there: &dyn Fn(&str) -> bool) {
        let mut state = self.lock();
        state.shown.retain(|uid, _| is_there(uid));
        state.beyond.retain(|uid| is_there(uid));
        state.refusals.retain(|uid, _| is_there(uid));
    }

    /// What a filter call found: one reason for each node.
    pub(super) fn note_refusal(&self, uid: &str, reasons: impl Iterator<Item = Option<Reason>>) {
        // By the reason's position; the last is for unknown nodes.
        let mut counts = [0_u32; Reason::ALL.len() + 1];
        for reason in reasons {
            counts[reason.map_or(Reason::ALL.len(), |reason| reason as usize)] += 1;
        }
        let text = |at: usize| Reason::ALL.get(at).map_or(UNKNOWN_NODE, |reason| reason.as_str());
        let found = counts.into_iter().enumerate().filter(|(_, nodes)| *nodes > 0);
        let mut refusals: Vec<Refusal> = found.map(|(at, nodes)| Refusal { reason: text(at), nodes }).collect();
        refusals.sort_by_key(|refusal| Reverse(refusal.nodes));
        let mut state = self.lock();
        if state.refusals.len() >= REFUSALS {
            state.refusals.clear();
        }
        state.refusals.insert(Arc::from(uid), refusals.into());
    }

    /// The pods that match, by `namespace/name`, longest waiting first.
    pub(super) fn look(&self, ledger: &Ledger, words: &[String]) -> PendingLook {
        let (pods, beyond) = {
            let state = self.lock();
            let pods: Vec<_> =
                state.shown.values().map(|pod| (Arc::clone(pod), state.refusals.get(&pod.uid).cloned())).collect();
            (pods, state.beyond.len())
        };
        // A bind is known here before the watch shows it.
        let is_waiting = |uid: &str| ledger.pod(uid).is_none_or(|pod| pod.node.is_none());
        let mut pods: Vec<_> = pods.into_iter().filter(|(pod, _)| is_waiting(&pod.uid)).collect();
        let count = pods.len() + beyond;
        if !words.is_empty() {
            pods.retain(|(pod, _)| {
                let name = format!("{}/{}", pod.namespace, pod.name).to_lowercase();
                words.iter().all(|word| name.contains(word.as_str()))
            });
        }
        let matching = pods.len();
        pods.sort_by(|(a, _), (b, _)| (&a.created, &a.namespace, &a.name).cmp(&(&b.created, &b.namespace, &b.name)));
        pods.truncate(SHOWN);
        let whole = |(pod, refusals): (Arc<Waiting>, Option<Arc<[Refusal]>>)| Waiting {
            reasons: refusals.unwrap_or_default(),
            ..Waiting::clone(&pod)
        };
        PendingLook { count, matching, pods: pods.into_iter().map(whole).collect() }
    }
}

impl Waiting {
    /// What is shown of a pod; `None` where it asks for no GPU.
    fn read(uid: &str, pod: &PodView<'_>, rules: &Rules) -> Option<Self> {
        let (asks, unreadable): (Vec<AskLook>, Option<String>) = match read_pod(rules, pod) {
            Ok(parsed) if parsed.request.is_empty() => return None,
            Ok(parsed) => (parsed.request.containers.iter().map(AskLook::new).collect(), None),
            // Not the value: it may come from the pod's environment.
            Err(denials) => (
                Vec::new(),
                denials.first().map(|denial| format!("{} cannot be understood; {}", denial.field, denial.remedy)),
            ),
        };
        let shared = |text: &str| Arc::<str>::from(text);
        let cut = |text: &str| shared(&text.chars().take(LONGEST).collect::<String>());
        let condition = pod
            .status
            .conditions
            .iter()
            .find(|condition| &*condition.kind == "PodScheduled" && &*condition.status == "False");
        let told = condition.and_then(|condition| condition.message.as_deref()).filter(|text| !text.is_empty());
        let nominated = pod.status.nominated_node_name.as_deref().filter(|name| !name.is_empty());
        Some(Self {
            uid: shared(uid),
            namespace: shared(pod.metadata.namespace.as_deref().unwrap_or_default()),
            name: shared(pod.metadata.name.as_deref().unwrap_or_default()),
            created: pod.metadata.creation_timestamp.as_deref().map(shared),
            asks,
            nominated: nominated.map(shared),
            condition: condition.and_then(|condition| condition.reason.as_deref()).map(shared),
            message: told.map(cut).or_else(|| unreadable.as_deref().map(cut)),
            reasons: Arc::default(),
        })
    }
}

impl AskLook {
    fn new(request: &ContainerRequest) -> Self {
        let (mut memory, mut memory_percent, mut cores, mut exclusive, mut mig) = (None, None, None, false, None);
        match &request.ask {
            Ask::Exclusive => exclusive = true,
            Ask::Share { memory: asked, cores: share } => {
                match asked {
                    Memory::Mib(mib) => memory = Some(*mib),
                    Memory::Percent(percent) => memory_percent = Some(*percent),
                    Memory::All => memory_percent = Some(100),
                }
                cores = Some(*share).filter(|cores| *cores > 0);
            }
            Ask::Mig(profile) => mig = Some(Arc::clone(&profile.0)),
        }
        let container = Arc::clone(&request.name);
        Self { container, count: request.count, memory, memory_percent, cores, exclusive, mig }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn put(pending: &Pending, uid: &str) {
        let limits = json!({"nvidia.com/gpu": "1", "nvidia.com/gpumem": "4096"});
        let pod = json!({"metadata": {"uid": uid, "namespace": "ns", "name": uid, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "main", "resources": {"limits": limits}}]}});
        pending.put(&serde_json::from_str(&pod.to_string()).unwrap());
    }

    #[test]
    fn more_than_can_be_kept_are_counted_and_forgotten_like_the_others() {
        let (pending, ledger) = (Pending::new(Arc::default()), Ledger::default());
        for number in 0..MOST + 10 {
            put(&pending, &number.to_string());
        }
        let look = pending.look(&ledger, &[]);
        assert_eq!((look.count, look.matching, look.pods.len()), (MOST + 10, MOST, SHOWN));
        pending.retain(&|uid: &str| uid == "5" || uid == &*(MOST + 5).to_string());
        assert_eq!(pending.look(&ledger, &[]).count, 2);
        pending.remove(&(MOST + 5).to_string());
        assert_eq!(pending.look(&ledger, &[]).count, 1);
    }

    #[test]
    fn refusals_are_counted_by_reason_the_most_frequent_first() {
        let (pending, ledger) = (Pending::new(Arc::default()), Ledger::default());
        put(&pending, "a");
        let reasons =
            [Some(Reason::DeviceUnhealthy), None, Some(Reason::MemoryExhausted), Some(Reason::MemoryExhausted)];
        pending.note_refusal("a", reasons.into_iter());
        let look = pending.look(&ledger, &[]);
        let told: Vec<(&str, u32)> =
            look.pods[0].reasons.iter().map(|refusal| (refusal.reason, refusal.nodes)).collect();
        assert_eq!(told, [("GPU memory exhausted", 2), ("GPU unhealthy", 1), (UNKNOWN_NODE, 1)]);
    }

    #[test]
    fn refusals_of_pods_that_nobody_told_of_do_not_pile_up() {
        let pending = Pending::new(Arc::default());
        for number in 0..3 * REFUSALS {
            pending.note_refusal(&number.to_string(), std::iter::once(None));
        }
        assert!(pending.lock().refusals.len() <= REFUSALS);
    }
}
