//! What a ranking sees beside the ledger: where other pods will probably go, whose room is promised, and whether the pod itself
//! is already on its way somewhere.

use std::sync::Arc;

use super::holds::HeldNodes;
use super::promise::Promises;
use super::records::PodRecord;
use super::shape::{Glance, Judge, Shape, Verdict};
use crate::gpu::allocation::Holding;
use crate::gpu::fit::place;
use crate::gpu::node::Node;
use crate::gpu::reason::Reason;
use crate::ledger::{Ledger, NodeEntry, NodeState};

/// A node weighed for one pod.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Weighed {
    pub(super) verdict: Verdict,
    /// Fits, but not beside the pods that will probably go there before.
    pub(super) crowded: bool,
    /// The node would rather not be chosen, which kube-scheduler has to weigh.
    pub(super) repels: bool,
}

/// The surroundings of one call.
#[derive(Debug)]
pub(super) struct Situation<'a> {
    ledger: &'a Ledger,
    pod: &'a PodRecord,
    /// Where others will probably go, and the pod itself.
    held: Arc<HeldNodes>,
    /// Where this pod is booked already, by a bind whose outcome kube-scheduler did not learn.
    pub(super) booked: Option<Arc<str>>,
}

impl<'a> Situation<'a> {
    pub(super) fn new(ledger: &'a Ledger, pod: &'a PodRecord, held: Arc<HeldNodes>) -> Self {
        let booked = ledger.pod(&pod.uid).and_then(|entry| entry.node.clone());
        Self { ledger, pod, held, booked }
    }

    /// Whether a verdict on the node in this slot depends on more than the node.
    #[inline]
    pub(super) fn is_plain(&self, slot: usize, glance: Glance) -> bool {
        glance.verdict.is_err() || !(glance.nominated || self.is_held(slot))
    }

    /// Whether anybody holds the node in this slot.
    #[inline]
    pub(super) fn is_held(&self, slot: usize) -> bool {
        self.held.is_held(slot)
    }

    /// Weighs one of the ledger's nodes.
    pub(super) fn weigh(&self, judge: &mut Judge<'_>, entry: &NodeEntry) -> Weighed {
        let glance = judge.glance(entry);
        let Glance { verdict, repels, nominated } = glance;
        if self.is_plain(entry.slot, glance) {
            return Weighed { verdict, crowded: false, repels };
        }
        let (shape, snapshot) = (judge.shape, entry.snapshot());
        let adjust = || self.adjust(shape, entry, &snapshot.state, verdict, repels);
        match self.held.on(entry.slot) {
            // What depends on this pod alone is not remembered for all of its shape.
            Some(held) if !nominated && held.pods.iter().all(|held| *held.uid != *self.pod.uid) => {
                judge.beside(entry.slot, snapshot.version, held.stamp, adjust)
            }
            _ => adjust(),
        }
    }

    /// Weighs a node that kube-scheduler sent, `entry` being what the ledger knows of the same name.
    pub(super) fn weigh_given(
        &self,
        shape: &Shape,
        state: &NodeState,
        entry: Option<&NodeEntry>,
        repels: bool,
    ) -> Weighed {
        let verdict = shape.verdict(state);
        let Some(entry) = entry else { return Weighed { verdict, crowded: false, repels } };
        self.adjust(shape, entry, state, verdict, repels)
    }

    /// What the pod would hold if it went to this node after those who will probably go there before it.
    pub(super) fn expect(&self, shape: &Shape, entry: &NodeEntry) -> Option<Arc<[Holding]>> {
        let snapshot = entry.snapshot();
        let NodeState::Usable(node) = &snapshot.state else { return None };
        let mut after = self.promised(shape, entry, node).unwrap_or_else(|| node.clone());
        self.book_held(&mut after, entry.slot);
        let placement =
            place(&after, &shape.request, shape.policies).or_else(|_| place(node, &shape.request, shape.policies));
        placement.ok().map(|placement| placement.holdings.into())
    }

    fn adjust(&self, shape: &Shape, entry: &NodeEntry, state: &NodeState, verdict: Verdict, repels: bool) -> Weighed {
        let (Ok(score), NodeState::Usable(node)) = (verdict, state) else {
            return Weighed { verdict, crowded: false, repels };
        };
        let mut score = score;
        let mut after = self.promised(shape, entry, node);
        if let Some(after) = &after {
            match shape.rank(after) {
                Ok(beside) => score = beside,
                Err(_) => return Weighed { verdict: Err(Reason::RoomPromised), crowded: false, repels },
            }
        }
        if !self.is_held_by_others(entry.slot) {
            return Weighed { verdict: Ok(score), crowded: false, repels };
        }
        let after = after.get_or_insert_with(|| node.clone());
        self.book_held(after, entry.slot);
        match shape.rank(after) {
            Ok(beside) => Weighed { verdict: Ok(beside), crowded: false, repels },
            Err(_) => Weighed { verdict: Ok(score), crowded: true, repels },
        }
    }

    fn promised(&self, shape: &Shape, entry: &NodeEntry, node: &Node) -> Option<Node> {
        Promises::on(self.ledger, entry)?.applied(node, self.pod, shape.policies)
    }

    /// Whether others than this pod hold the node.
    fn is_held_by_others(&self, slot: usize) -> bool {
        self.held.on(slot).is_some_and(|held| held.pods.iter().any(|held| *held.uid != *self.pod.uid))
    }

    /// Adds to a node just read what others hold there. A pod whose bind has come since its hold was read is in the node
    /// already: counted twice, it would drive this pod away from room that is there.
    fn book_held(&self, node: &mut Node, slot: usize) {
        let others = self.held.on(slot).map_or(&[][..], |held| held.pods.as_slice()).iter();
        for hold in others.filter(|held| *held.uid != *self.pod.uid) {
            if self.ledger.pod(&hold.uid).is_none_or(|pod| pod.node.is_none()) {
                node.book(&hold.holdings);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extender::holds::Holds;
    use crate::extender::query::Query;
    use crate::extender::shape::Shapes;
    use crate::gpu::fit::Policies;
    use crate::gpu::parse::Rules;
    use crate::kube_api::node::NodeView;
    use crate::kube_api::pod::PodView;
    use crate::ledger::BookingPod;

    /// Three such pods do not fit on the card, two do.
    fn third_of_a_card(uid: &str, shapes: &Shapes) -> Query {
        let pod = format!(
            r#"{{"metadata":{{"uid":"{uid}"}},"spec":{{"containers":[{{"name":"main",
            "resources":{{"limits":{{"nvidia.com/gpumem":"30Gi"}}}}}}]}}}}"#
        );
        let pod: PodView<'_> = serde_json::from_str(&pod).unwrap();
        Query::read(&pod, &Rules::default(), Policies::default(), shapes).unwrap().unwrap()
    }

    #[test]
    fn a_pod_booked_since_its_hold_was_read_is_counted_once() {
        let inventory =
            r#"{\"v\":1,\"ready\":true,\"driver\":\"580\",\"devices\":[{\"uuid\":\"GPU-1\",\"index\":0,\"model\":\"A\",
            \"memory\":81920,\"cores\":100,\"slots\":10,\"numa\":0,\"pci\":\"0000:07:00.0\",\"health\":\"healthy\",
            \"enforcement\":\"advisory\"}]}"#
                .replace('\n', " ");
        let node =
            format!(r#"{{"metadata":{{"name":"n1","annotations":{{"packhorse.dev/inventory":"{inventory}"}}}}}}"#);
        let ledger = Ledger::default();
        ledger.apply_node(&serde_json::from_str::<NodeView<'_>>(&node).unwrap());
        let entry = ledger.node("n1").unwrap();
        let shapes = Shapes::default();
        let (first, second) = (third_of_a_card("a", &shapes), third_of_a_card("b", &shapes));
        let weigh = |held: &Arc<HeldNodes>| {
            let situation = Situation::new(&ledger, &second.record, Arc::clone(held));
            situation.weigh_given(&second.shape, &entry.snapshot().state, Some(&entry), false)
        };

        let holdings = Situation::new(&ledger, &first.record, Arc::default()).expect(&first.shape, &entry).unwrap();
        let holds = Holds::default();
        let now = std::time::Instant::now();
        holds.put(&Arc::from("a"), Arc::clone(&entry), holdings, now, std::time::Duration::from_secs(5));
        let held = holds.current(now, |_| false);
        let beside_the_hold = weigh(&held);
        assert_ne!(beside_the_hold, weigh(&Arc::default()), "a hold moves the ranking");

        let pod = BookingPod { uid: "a".into(), namespace: "d".into(), name: "a".into(), cpu: 0, memory: 0 };
        let choose =
            |node: &Node| place(node, &first.shape.request, Policies::default()).map(|p| (p.allocation, p.holdings));
        ledger.book("n1", &pod, choose).unwrap();
        assert_eq!(weigh(&held), beside_the_hold, "now the booking says the same, and nothing says it twice");
    }
}
