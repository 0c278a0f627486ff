//! The best node of the whole ledger for one pod, among those that kube-scheduler will probably not refuse.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::memory::Note;
use crate::gpu::allocation::Holding;
use crate::gpu::fit::{Policies, place, rank};
use crate::gpu::node::Node;
use crate::ledger::{Ledger, NodeEntry, NodeState, Snapshot};

/// Nodes looked at before other tasks get their turn.
const AT_ONCE: usize = 16;
/// Of the nodes with room, how many are looked at more closely.
const MOST_CLOSELY: usize = 64;
/// How long our own nominations count where the watch has not shown them. No longer than a watch lags: a pod that was bound and
/// is gone again looks just like one that the watch has not shown yet.
const SEEN_WITHIN: Duration = Duration::from_secs(2);

/// Where pods were nominated a moment ago: two must not be sent to one place.
#[derive(Debug, Default)]
pub(super) struct Recent {
    all: Vec<Sent>,
}

#[derive(Debug)]
struct Sent {
    at: Instant,
    uid: Arc<str>,
    node: Arc<str>,
    holdings: Vec<Holding>,
}

impl Recent {
    pub(super) fn remove(&mut self, uid: &str) {
        self.all.retain(|sent| *sent.uid != *uid);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    fn prune(&mut self, now: Instant) {
        self.all.retain(|sent| now.duration_since(sent.at) < SEEN_WITHIN);
    }
}

pub(super) struct Search<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) note: &'a Note,
    pub(super) policies: Policies,
}

impl Search<'_> {
    /// The best node with room beside those nominated to it, and not among `tried`. What the pod will hold there counts for later
    /// searches.
    pub(super) async fn best(&self, tried: &[Arc<str>], recent: &mut Recent) -> Option<Arc<str>> {
        let pod = &self.note.record;
        let target = self.ledger.target();
        let mut fitting: Vec<(f64, Arc<NodeEntry>)> = Vec::new();
        let nodes = match &self.note.only {
            Some(names) => names.iter().filter_map(|name| self.ledger.node(name)).collect(),
            None => self.ledger.nodes(),
        };
        for (at, entry) in nodes.into_iter().enumerate() {
            if at % AT_ONCE == AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            if tried.contains(&entry.name) {
                continue;
            }
            let snapshot = entry.snapshot();
            let NodeState::Usable(node) = &snapshot.state else { continue };
            if self.is_hopeless(&snapshot, node) {
                continue;
            }
            if let Ok(score) = rank(node, &pod.request, pod.cpu, pod.memory, self.policies, &target) {
                fitting.push((score, entry));
            }
        }
        fitting.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.name.cmp(&b.1.name)));
        let now = Instant::now();
        recent.prune(now);
        for (_, entry) in fitting.into_iter().take(MOST_CLOSELY) {
            if let Some(holdings) = self.room_beside_others(&entry, recent) {
                recent.remove(&pod.uid);
                let (uid, node) = (Arc::clone(&pod.uid), Arc::clone(&entry.name));
                recent.all.push(Sent { at: now, uid, node, holdings });
                return Some(Arc::clone(&entry.name));
            }
        }
        None
    }

    /// Whether kube-scheduler is known to refuse the node.
    fn is_hopeless(&self, snapshot: &Snapshot, node: &Node) -> bool {
        let pod = &self.note.record;
        let short = |left: Option<i64>, asked: i64| asked > 0 && left.is_some_and(|left| left < asked);
        let selected = snapshot.labels.as_ref().is_none_or(|labels| {
            self.note.selector.iter().all(|(key, value)| labels.get(key).is_some_and(|label| label == value))
        });
        !snapshot.schedulable || !selected || short(node.cpu_left, pod.cpu) || short(node.memory_left, pod.memory)
    }

    /// What the pod would hold beside those nominated to the node that it does not outrank.
    fn room_beside_others(&self, entry: &NodeEntry, recent: &Recent) -> Option<Vec<Holding>> {
        let pod = &self.note.record;
        let snapshot = entry.snapshot();
        let NodeState::Usable(node) = &snapshot.state else { return None };
        let mut node = node.clone();
        for other in snapshot.nominated.iter().filter(|other| other.uid != pod.uid && other.priority >= pod.priority) {
            let placement = other.request.as_ref().map(|request| place(&node, request, self.policies));
            if let Some(Ok(placement)) = placement {
                node.book(&placement.holdings);
            }
        }
        let seen = |uid: &Arc<str>| {
            snapshot.nominated.iter().any(|other| other.uid == *uid)
                || self.ledger.pod(uid).is_some_and(|pod| pod.node.is_some())
        };
        for sent in recent.all.iter().filter(|sent| sent.node == entry.name && sent.uid != pod.uid) {
            if !seen(&sent.uid) {
                node.book(&sent.holdings);
            }
        }
        place(&node, &pod.request, self.policies).ok().map(|placement| placement.holdings)
    }
}
