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

/// One pod that will probably go to a node.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) uid: Arc<str>,
    pub(super) holdings: Arc<[Holding]>,
}

/// One node that pods will probably go to.
#[derive(Debug, Clone)]
pub(super) struct HeldNode {
    /// Another one after each change.
    pub(super) stamp: u64,
    pub(super) pods: Vec<Held>,
}

/// All of these nodes, as they are at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct HeldNodes {
    /// By slot of the ledger's nodes.
    nodes: HashMap<usize, HeldNode>,
    /// One bit a slot: most nodes are held by nobody, and 5,000 of them must be told apart quickly.
    marks: Vec<u64>,
}

/// All holds, by pod UID.
#[derive(Debug, Default)]
pub(super) struct Holds {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_uid: HashMap<Arc<str>, Hold>,
    /// The same by node.
    nodes: Arc<HeldNodes>,
    stamps: u64,
}

impl HeldNodes {
    /// Whether anybody holds the node in this slot.
    #[inline]
    pub(super) fn is_held(&self, slot: usize) -> bool {
        self.marks.get(slot / 64).is_some_and(|bits| bits >> (slot % 64) & 1 == 1)
    }

    /// Who does.
    pub(super) fn on(&self, slot: usize) -> Option<&HeldNode> {
        self.nodes.get(&slot)
    }

    fn change(&mut self, slot: usize, stamp: u64, change: impl FnOnce(&mut Vec<Held>)) {
        let node = self.nodes.entry(slot).or_insert_with(|| HeldNode { stamp, pods: Vec::new() });
        node.stamp = stamp;
        change(&mut node.pods);
        let is_held = !node.pods.is_empty();
        if !is_held {
            self.nodes.remove(&slot);
        }
        if self.marks.len() <= slot / 64 {
            self.marks.resize(slot / 64 + 1, 0);
        }
        let bit = 1 << (slot % 64);
        if is_held {
            self.marks[slot / 64] |= bit;
        } else {
            self.marks[slot / 64] &= !bit;
        }
    }
}

impl Known {
    fn add(&mut self, uid: &Arc<str>, hold: Hold) {
        self.remove(uid);
        self.stamps += 1;
        let held = Held { uid: Arc::clone(uid), holdings: Arc::clone(&hold.holdings) };
        // Copied only where a call still reads it.
        Arc::make_mut(&mut self.nodes).change(hold.node.slot, self.stamps, |pods| pods.push(held));
        self.by_uid.insert(Arc::clone(uid), hold);
    }

    fn remove(&mut self, uid: &str) {
        let Some(hold) = self.by_uid.remove(uid) else { return };
        self.stamps += 1;
        Arc::make_mut(&mut self.nodes)
            .change(hold.node.slot, self.stamps, |pods| pods.retain(|held| *held.uid != *uid));
    }

    fn remove_where(&mut self, is_over: impl Fn(&str, &Hold) -> bool) {
        let over: Vec<_> =
            self.by_uid.iter().filter(|(uid, hold)| is_over(uid, hold)).map(|(uid, _)| Arc::clone(uid)).collect();
        for uid in over {
            self.remove(&uid);
        }
    }
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
        let mut known = self.lock();
        if known.by_uid.len() >= MOST && !known.by_uid.contains_key(uid) {
            known.remove_where(|_, hold| hold.until <= now);
            let oldest = known.by_uid.iter().min_by_key(|(_, hold)| hold.since).map(|(uid, _)| Arc::clone(uid));
            if let Some(oldest) = oldest.filter(|_| known.by_uid.len() >= MOST) {
                known.remove(&oldest);
            }
        }
        known.add(uid, Hold { node, holdings, since: now, until: now + lasts });
    }

    /// Takes a pod's hold away.
    pub(super) fn remove(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// All holds; drops those that are over first: expired, on a node that is gone, or of a pod that is `placed`, so that the ledger
    /// counts it now.
    pub(super) fn current(&self, now: Instant, placed: impl Fn(&str) -> bool) -> Arc<HeldNodes> {
        let mut known = self.lock();
        known.remove_where(|holder, hold| {
            hold.until <= now
                || hold.node.version() == NodeEntry::UNKNOWN
                || (hold.since + DOUBTFUL <= now && placed(holder))
        });
        Arc::clone(&known.nodes)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lock().by_uid.len()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // What a panic between two changes leaves behind is a hold too many or too few: advice.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// The nodes that others than `uid` hold.
    fn nodes(holds: &Holds, uid: &str, now: Instant, placed: &[&str]) -> Vec<&'static str> {
        let current = holds.current(now, |uid| placed.contains(&uid));
        let by_others = |slot: usize| {
            let held = current.on(slot).is_some_and(|node| node.pods.iter().any(|held| *held.uid != *uid));
            assert!(!held || current.is_held(slot));
            assert_eq!(current.is_held(slot), current.on(slot).is_some());
            held
        };
        // In the order in which the ledger met them.
        ["n1", "n2", "n3"].into_iter().enumerate().filter(|(slot, _)| by_others(*slot)).map(|(_, name)| name).collect()
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
    fn each_change_of_a_node_shows_in_its_stamp() {
        let (holds, ledger, now) = (Holds::default(), ledger(), Instant::now());
        let stamp = |slot: usize| holds.current(now, |_| false).on(slot).map(|node| node.stamp);
        put(&holds, &ledger, "a", "n1", now);
        put(&holds, &ledger, "b", "n2", now);
        let (first, second) = (stamp(0), stamp(1));
        put(&holds, &ledger, "c", "n1", now);
        assert_ne!(stamp(0), first);
        assert_eq!(stamp(1), second);
        holds.remove("c");
        assert!(stamp(0).is_some() && stamp(0) != first, "the same holds, and still another stamp");
    }

    #[test]
    fn the_oldest_makes_room() {
        let (holds, ledger, now) = (Holds::default(), ledger(), Instant::now());
        put(&holds, &ledger, "first", "n1", now);
        for i in 0..MOST + 10 {
            put(&holds, &ledger, &i.to_string(), "n2", now + Duration::from_millis(1));
        }
        assert_eq!(holds.len(), MOST);
        assert!(!nodes(&holds, "x", now, &[]).contains(&"n1"));
        put(&holds, &ledger, "later", "n3", now + 2 * SECONDS);
        assert_eq!(holds.len(), 1);
    }
}
