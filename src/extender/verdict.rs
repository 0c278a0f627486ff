//! Whether one node can take one pod, by what answers `/filter`: for those who explain, and who ask what a change would help. Pure but
//! for a look at the ledger; leaves no hold and no memory behind.

use super::promise::Promises;
use super::records::PodRecord;
use crate::gpu::fit::{Policies, place};
use crate::gpu::node::Node;
use crate::gpu::reason::Reason;
use crate::ledger::{Ledger, NodeEntry};

/// Whether `pod` fits `node`, which is `entry`'s node as it is or as it would be, beside those whose room there is promised. A filter
/// call without holds says the same of the node as it is.
///
/// # Errors
/// What the filter answers.
pub fn verdict(ledger: &Ledger, entry: &NodeEntry, node: &Node, pod: &PodRecord) -> Result<(), Reason> {
    // Policies choose among what fits.
    let policies = Policies::default();
    place(node, &pod.request, policies)?;
    let promised = Promises::on(ledger, entry).and_then(|promises| promises.applied(node, pod, policies));
    match promised {
        Some(promised) => place(&promised, &pod.request, policies).map(drop).map_err(|_| Reason::RoomPromised),
        None => Ok(()),
    }
}
