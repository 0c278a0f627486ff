//! Holds: where ranked pods will probably go.
//!
//! kube-scheduler may filter the next pod before our bind of the last one arrived. Ranking then counts the last one where it was
//! ranked best; verdicts never do. Written by filter, cleared by bind and by the ledger's news of a pod's end, read by filter and
//! prioritize. A hold is advice: losing all of them costs a few conflicts at bind, nothing else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::gpu::allocation::Holding;
use crate::ledger::NodeEntry;

/// More are not worth their time in every ranking: so many pods are hardly ever between filter and bind. The oldest goes first.
const MOST: usize = 128;

/// A pod that somebody else bound is noticed when its hold is this old; our own bind clears it at once.
const DOUBTFUL: Duration = Duration::from_secs(1);

/// Where one ranked pod will probably go.
#[derive(Debug, Clone)]
struct Hold {
    node: Arc<NodeEntry>,
    holdings: Arc<[Holding]>,
    since: Instant,
    until: Instant,
}

/// One node that others will probably go to.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) uid: Arc<str>,
    pub(super) node: Arc<NodeEntry>,
    pub(super) holdings: Arc<[Holding]>,
}

/// All holds, by pod UID.
#[derive(Debug, Default)]
pub(super) struct Holds {
    by_uid: Mutex<HashMap<Arc<str>, Hold>>,
}

impl Holds {
    /// Puts a hold in the place of the pod's former one.
    pub(super) fn put(
        &self,
        uid: &Arc<str>,
        node: Arc<NodeEntry>,
        holdings: Arc<[Holding]>,
        now: Instant,
        lasts: Duration,
    ) {
        let mut holds = self.lock();
        if holds.len() >= MOST && !holds.contains_key(uid) {
            holds.retain(|_, hold| hold.until > now);
            if holds.len() >= MOST
                && let Some(oldest) = holds.iter().min_by_key(|(_, hold)| hold.since).map(|(uid, _)| Arc::clone(uid))
            {
                holds.remove(&oldest);
            }
        }
        holds.insert(Arc::clone(uid), Hold { node, holdings, since: now, until: now + lasts });
    }

    /// Takes a pod's hold away.
    pub(super) fn remove(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// The holds of all pods but `uid`; drops those that are over: expired, on a node that is gone, or of a pod that is `placed`,
    /// so that the ledger counts it now.
    pub(super) fn others(&self, uid: &str, now: Instant, placed: impl Fn(&str) -> bool) -> Vec<Held> {
        let mut holds = self.lock();
        if holds.is_empty() {
            return Vec::new();
        }
        holds.retain(|holder, hold| {
            hold.until > now
                && hold.node.version() != NodeEntry::UNKNOWN
                && !(hold.since + DOUBTFUL <= now && placed(holder))
        });
        let others = holds.iter().filter(|(holder, _)| ***holder != *uid).map(|(holder, hold)| Held {
            uid: Arc::clone(holder),
            node: Arc::clone(&hold.node),
            holdings: Arc::clone(&hold.holdings),
        });
        others.collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Hold>> {
        // The map is whole after any panic: each change is one call.
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube_api::node::NodeView;
    use crate::ledger::Ledger;

    const SECONDS: Duration = Duration::from_secs(5);

    fn ledger() -> Ledger {
        let ledger = Ledger::default();
        for name in ["n1", "n2", "n3"] {
            let node = format!(r#"{{"metadata":{{"name":"{name}"}}}}"#);
            ledger.apply_node(&serde_json::from_str::<NodeView<'_>>(&node).unwrap());
        }
        ledger
    }

    fn nodes(holds: &Holds, uid: &str, now: Instant, placed: &[&str]) -> Vec<String> {
        let others = holds.others(uid, now, |uid| placed.contains(&uid));
        let mut nodes: Vec<String> = others.iter().map(|held| held.node.name.to_string()).collect();
        nodes.sort();
        nodes
    }

    fn put(holds: &Holds, ledger: &Ledger, uid: &str, node: &str, now: Instant) {
        holds.put(&Arc::from(uid), ledger.node(node).unwrap(), Arc::from([]), now, SECONDS);
    }

    #[test]
    fn a_hold_is_unseen_by_its_own_pod_and_replaced_by_the_next() {
        let (holds, ledger, now) = (Holds::default(), ledger(), Instant::now());
        put(&holds, &ledger, "a", "n1", now);
        put(&holds, &ledger, "b", "n2", now);
        assert_eq!(nodes(&holds, "a", now, &[]), ["n2"]);
        put(&holds, &ledger, "b", "n3", now);
        assert_eq!(nodes(&holds, "c", now, &[]), ["n1", "n3"]);
        holds.remove("a");
        assert_eq!(nodes(&holds, "c", now, &[]), ["n3"]);
    }

    #[test]
    fn a_hold_ends_with_time_placement_or_its_node() {
        let (holds, ledger, now) = (Holds::default(), ledger(), Instant::now());
        put(&holds, &ledger, "a", "n1", now);
        assert_eq!(nodes(&holds, "x", now + SECONDS - Duration::from_millis(1), &[]), ["n1"]);
        assert!(nodes(&holds, "x", now + SECONDS, &[]).is_empty());

        put(&holds, &ledger, "a", "n1", now);
        assert!(nodes(&holds, "x", now + DOUBTFUL, &["a"]).is_empty());
        assert!(nodes(&holds, "x", now, &[]).is_empty(), "placed pods do not come back");
        assert_eq!(holds.len(), 0);

        put(&holds, &ledger, "a", "n1", now);
        ledger.remove_node("n1");
        assert!(nodes(&holds, "x", now, &[]).is_empty());
    }

    #[test]
    fn the_oldest_makes_room() {
        let (holds, ledger, now) = (Holds::default(), ledger(), Instant::now());
        put(&holds, &ledger, "first", "n1", now);
        for i in 0..MOST + 10 {
            put(&holds, &ledger, &i.to_string(), "n2", now + Duration::from_millis(1));
        }
        assert_eq!(holds.len(), MOST);
        assert!(!nodes(&holds, "x", now, &[]).contains(&"n1".to_owned()));
        put(&holds, &ledger, "later", "n3", now + 2 * SECONDS);
        assert_eq!(holds.len(), 1);
    }
}
