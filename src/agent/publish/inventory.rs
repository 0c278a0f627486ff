//! The annotation `packhorse.dev/inventory`: the devices with their state, whether the agent is ready, whom it refused, who uses a
//! device uninvited. Read by the ledger; written as soon as it differs from what the node has, whoever made it differ.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::watch;

use super::own_node::OwnNode;
use super::write::{Part, Write, next};
use crate::agent::standing::Standing;
use crate::agent::view::{NodeView, ViewReceiver};
use crate::gpu::device::{Inventory as Published, Refused};
use crate::kube_api::inventory::encode;
use crate::kube_api::names::INVENTORY;

/// A node's annotations may have 256 KiB together; more refused pods than this are counted, not listed.
const MOST_REFUSED: usize = 100;
/// Characters of a reason.
const LONGEST_REASON: usize = 400;

/// What the API server is known to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmed {
    /// The annotation.
    pub inventory: Arc<str>,
    /// The standing it tells of.
    pub standing: Standing,
}

#[derive(Debug)]
pub(super) struct Inventory {
    view: ViewReceiver,
    standing: watch::Receiver<Standing>,
    confirmed: watch::Sender<Option<Confirmed>>,
    /// What was last found to be due or in place.
    latest: Option<Confirmed>,
    told_too_many: bool,
}

impl Inventory {
    pub(super) fn new(
        view: ViewReceiver,
        standing: watch::Receiver<Standing>,
        confirmed: watch::Sender<Option<Confirmed>>,
    ) -> Self {
        Self { view, standing, confirmed, latest: None, told_too_many: false }
    }
}

impl Part for Inventory {
    const KIND: &'static str = "inventory";

    async fn changed(&mut self) {
        tokio::select! {
            () = next(&mut self.view) => {}
            () = next(&mut self.standing) => {}
        }
    }

    fn due(&mut self, node: &OwnNode) -> Option<Write> {
        let view = Arc::clone(&self.view.borrow_and_update());
        let standing = self.standing.borrow_and_update().clone();
        if !is_known(&view) {
            self.latest = None;
            return None;
        }
        let too_many = standing.refused.len() > MOST_REFUSED;
        if too_many && !self.told_too_many {
            tracing::warn!(
                pods = standing.refused.len(),
                listed = MOST_REFUSED,
                "more refused pods than the inventory lists"
            );
        }
        self.told_too_many = too_many;
        let text = encode(&inventory(&view, &standing));
        let due = (node.inventory.as_deref() != Some(&*text))
            .then(|| Write::Merge(json!({"metadata": {"annotations": {INVENTORY: text}}})));
        self.latest = Some(Confirmed { inventory: text.into(), standing });
        if due.is_some() {
            // While a write is on its way nobody knows which of the two the node has.
            self.confirmed.send_if_modified(|known| known.take().is_some());
        }
        due
    }

    fn settled(&mut self) {
        if let Some(latest) = &self.latest {
            self.confirmed.send_if_modified(|known| {
                let changed = known.as_ref() != Some(latest);
                if changed {
                    *known = Some(latest.clone());
                }
                changed
            });
        }
    }
}

/// Whether the devices have been looked for at all. Until then what an earlier agent wrote stands.
pub(super) fn is_known(view: &NodeView) -> bool {
    !view.driver.is_empty() || !view.cards.is_empty() || !view.devices.is_empty() || view.trouble.is_some()
}

fn inventory(view: &NodeView, standing: &Standing) -> Published {
    let mut devices = view.devices.clone();
    for device in &mut devices {
        device.foreign = standing.foreign.get(&device.uuid).cloned();
    }
    let refused = standing.refused.values().take(MOST_REFUSED);
    let shortened = |refused: &Refused| {
        let mut reason: String = refused.reason.chars().take(LONGEST_REASON).collect();
        if reason.len() < refused.reason.len() {
            reason.push('…');
        }
        Refused { reason, ..refused.clone() }
    };
    Published { ready: standing.ready, driver: view.driver.clone(), devices, refused: refused.map(shortened).collect() }
}

#[cfg(test)]
#[path = "inventory/tests.rs"]
mod tests;
