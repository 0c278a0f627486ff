//! Firm room: what a pod with `status.nominatedNodeName` needs on its node is refused to lower priorities.
//!
//! Read from the ledger by filter, prioritize, bind and preempt. A nominated pod whose request cannot be read holds nothing.

use std::sync::Arc;

use super::records::PodRecord;
use crate::gpu::fit::{Policies, place};
use crate::gpu::node::Node;
use crate::ledger::{Ledger, NodeEntry, Nominated, PodEntry};

/// The nominated pods of one node, and who is leaving it.
#[derive(Debug)]
pub(super) struct Promises {
    nominated: Arc<[Nominated]>,
    leaving: Vec<Arc<PodEntry>>,
}

impl Promises {
    /// What is promised on a node; `None` where nothing is. Takes the node's lock for a moment, so never call it under that.
    pub(super) fn on(ledger: &Ledger, entry: &NodeEntry) -> Option<Self> {
        let nominated = Arc::clone(&entry.snapshot().nominated);
        if nominated.is_empty() {
            return None;
        }
        let leaving = ledger.pods_on(&entry.name).into_iter().filter(|pod| pod.terminating).collect();
        Some(Self { nominated, leaving })
    }

    /// The node as `pod` may use it: with the devices of nominated pods of higher priority booked. `None` where nobody's room is
    /// in its way.
    ///
    /// A preemptor's victims may still be there: it is then placed as if those that are on their way out were gone, and both
    /// count, so that nobody slips into what it waits for.
    pub(super) fn applied(&self, node: &Node, pod: &PodRecord, policies: Policies) -> Option<Node> {
        let mut promised: Option<Node> = None;
        for other in self.nominated.iter().filter(|n| n.priority > pod.priority && n.uid != pod.uid) {
            let Some(request) = &other.request else { continue };
            let current = promised.as_ref().unwrap_or(node);
            let placement = place(current, request, policies).or_else(|_| {
                let mut cleared = current.clone();
                for leaving in self.leaving.iter().filter(|leaving| leaving.priority < other.priority) {
                    cleared.release(&leaving.holdings);
                }
                place(&cleared, request, policies)
            });
            if let Ok(placement) = placement {
                promised.get_or_insert_with(|| node.clone()).book(&placement.holdings);
            }
        }
        promised
    }
}
