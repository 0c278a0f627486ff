//! What a ranking sees beside the ledger: where other pods will probably go, whose room is promised, and whether the pod itself
//! is already on its way somewhere.

use std::collections::HashMap;
use std::sync::Arc;

use super::holds::Held;
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
    /// Holds of others, by slot of the ledger's nodes.
    held: HashMap<usize, Vec<Held>>,
    /// One bit a slot: most nodes are held by nobody, and 5,000 of them must be told apart quickly.
    marks: Vec<u64>,
    /// Where this pod is booked already, by a bind whose outcome kube-scheduler did not learn.
    pub(super) booked: Option<Arc<str>>,
}

impl<'a> Situation<'a> {
    pub(super) fn new(ledger: &'a Ledger, pod: &'a PodRecord, holds: Vec<Held>) -> Self {
        let mut held: HashMap<usize, Vec<Held>> = HashMap::new();
        let mut marks = Vec::new();
        for hold in holds {
            let slot = hold.node.slot;
            if marks.len() <= slot / 64 {
                marks.resize(slot / 64 + 1, 0);
            }
            marks[slot / 64] |= 1 << (slot % 64);
            held.entry(slot).or_default().push(hold);
        }
        let booked = ledger.pod(&pod.uid).and_then(|entry| entry.node.clone());
        Self { ledger, pod, held, marks, booked }
    }

    /// Weighs one of the ledger's nodes.
    pub(super) fn weigh(&self, judge: &mut Judge<'_>, entry: &NodeEntry) -> Weighed {
        let Glance { verdict, repels, nominated } = judge.glance(entry);
        if verdict.is_err() || !(nominated || self.is_held(entry.slot)) {
            return Weighed { verdict, crowded: false, repels };
        }
        self.adjust(judge.shape, entry, &entry.snapshot().state, verdict, repels)
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
        if !self.is_held(entry.slot) {
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

    fn is_held(&self, slot: usize) -> bool {
        self.marks.get(slot / 64).is_some_and(|bits| bits >> (slot % 64) & 1 == 1)
    }

    /// Adds to a node just read what others hold there. A pod whose bind has come since its hold was read is in the node
    /// already: counted twice, it would drive this pod away from room that is there.
    fn book_held(&self, node: &mut Node, slot: usize) {
        for hold in self.held.get(&slot).map_or(&[][..], Vec::as_slice) {
            if self.ledger.pod(&hold.uid).is_none_or(|pod| pod.node.is_none()) {
                node.book(&hold.holdings);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let weigh = |holds: Vec<Held>| {
            let situation = Situation::new(&ledger, &second.record, holds);
            situation.weigh_given(&second.shape, &entry.snapshot().state, Some(&entry), false)
        };

        let holdings = Situation::new(&ledger, &first.record, Vec::new()).expect(&first.shape, &entry).unwrap();
        let held = Held { uid: "a".into(), node: Arc::clone(&entry), holdings };
        let beside_the_hold = weigh(vec![held.clone()]);
        assert_ne!(beside_the_hold, weigh(Vec::new()), "a hold moves the ranking");

        let pod = BookingPod { uid: "a".into(), namespace: "d".into(), name: "a".into(), cpu: 0, memory: 0 };
        let choose =
            |node: &Node| place(node, &first.shape.request, Policies::default()).map(|p| (p.allocation, p.holdings));
        ledger.book("n1", &pod, choose).unwrap();
        assert_eq!(weigh(vec![held]), beside_the_hold, "now the booking says the same, and nothing says it twice");
    }
}
