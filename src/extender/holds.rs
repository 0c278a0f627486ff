//! Holds: where ranked pods will probably go.
//!
//! kube-scheduler may filter the next pod before our bind of the last one arrived. Ranking then counts the last one where it was
//! ranked best; verdicts never do. Written by filter, cleared by bind, read by filter and prioritize. A hold is advice: losing all of
//! them costs a few conflicts at bind, nothing else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::gpu::allocation::Holding;

/// More are never needed: so many pods are never between filter and bind.
const MOST: usize = 4096;

/// Where one ranked pod will probably go.
#[derive(Debug, Clone)]
struct Hold {
    node: Arc<str>,
    slot: usize,
    holdings: Arc<[Holding]>,
    until: Instant,
}

/// One node that others will probably go to.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) node: Arc<str>,
    pub(super) slot: usize,
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
        node: Arc<str>,
        slot: usize,
        holdings: Arc<[Holding]>,
        now: Instant,
        lasts: Duration,
    ) {
        let mut holds = self.lock();
        if holds.len() >= MOST && !holds.contains_key(uid) {
            holds.retain(|_, hold| hold.until > now);
            if holds.len() >= MOST {
                return;
            }
        }
        holds.insert(Arc::clone(uid), Hold { node, slot, holdings, until: now + lasts });
    }

    /// Takes a pod's hold away.
    pub(super) fn remove(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// The holds of all pods but `uid`; drops those that are over: expired, or of a pod that is `placed`, so that the ledger
    /// counts it now.
    pub(super) fn others(&self, uid: &str, now: Instant, placed: impl Fn(&str) -> bool) -> Vec<Held> {
        let mut holds = self.lock();
        if holds.is_empty() {
            return Vec::new();
        }
        holds.retain(|holder, hold| hold.until > now && !placed(holder));
        let others = holds.iter().filter(|(holder, _)| ***holder != *uid).map(|(_, hold)| Held {
            node: Arc::clone(&hold.node),
            slot: hold.slot,
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

    const SECONDS: Duration = Duration::from_secs(5);

    fn nodes(holds: &Holds, uid: &str, now: Instant, placed: &[&str]) -> Vec<String> {
        let others = holds.others(uid, now, |uid| placed.contains(&uid));
        let mut nodes: Vec<String> = others.iter().map(|held| held.node.to_string()).collect();
        nodes.sort();
        nodes
    }

    fn put(holds: &Holds, uid: &str, node: &str, now: Instant) {
        holds.put(&Arc::from(uid), Arc::from(node), 0, Arc::from([]), now, SECONDS);
    }

    #[test]
    fn a_hold_is_unseen_by_its_own_pod_and_replaced_by_the_next() {
        let (holds, now) = (Holds::default(), Instant::now());
        put(&holds, "a", "n1", now);
        put(&holds, "b", "n2", now);
        assert_eq!(nodes(&holds, "a", now, &[]), ["n2"]);
        put(&holds, "b", "n3", now);
        assert_eq!(nodes(&holds, "c", now, &[]), ["n1", "n3"]);
        holds.remove("a");
        assert_eq!(nodes(&holds, "c", now, &[]), ["n3"]);
    }

    #[test]
    fn a_hold_ends_with_time_or_placement() {
        let (holds, now) = (Holds::default(), Instant::now());
        put(&holds, "a", "n1", now);
        assert_eq!(nodes(&holds, "x", now + SECONDS - Duration::from_millis(1), &[]), ["n1"]);
        assert!(nodes(&holds, "x", now + SECONDS, &[]).is_empty());

        put(&holds, "a", "n1", now);
        assert!(nodes(&holds, "x", now, &["a"]).is_empty());
        assert!(nodes(&holds, "x", now, &[]).is_empty(), "placed pods do not come back");
        assert_eq!(holds.len(), 0);
    }

    #[test]
    fn never_grows_without_bound() {
        let (holds, now) = (Holds::default(), Instant::now());
        for i in 0..MOST + 10 {
            put(&holds, &i.to_string(), "n", now);
        }
        assert_eq!(holds.len(), MOST);
        put(&holds, "later", "n", now + SECONDS);
        assert_eq!(holds.len(), 1);
    }
}
