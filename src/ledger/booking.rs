//! Bookings: what bind has chosen and the watch has not shown yet.
//!
//! A booking stands until the watch or a GET shows the pod bound (confirmed, or counted where it really is), ended or gone, or
//! the bind has certainly failed. It is never dropped for silence.

use std::sync::Arc;

use super::Ledger;
use super::doubt::Doubt;
use super::node::{NodeState, PodKey};
use super::pods::PodEntry;
use crate::gpu::allocation::{Allocation, Holding};
use crate::gpu::node::Node;
use crate::gpu::reason::Reason;

/// A pod about to be bound.
#[derive(Debug, Clone)]
pub struct BookingPod {
    /// The pod's UID.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// CPU it requests, millicores.
    pub cpu: i64,
    /// Host memory it requests, bytes.
    pub memory: i64,
}

/// Why a booking was not made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BookError {
    /// The ledger does not know the node.
    #[error("node {0} is not known")]
    UnknownNode(String),
    /// The pod does not fit any more.
    #[error("{}", .0.as_str())]
    NoFit(Reason),
    /// The pod holds devices of another node already.
    #[error("pod is already booked on node {0}")]
    BookedElsewhere(String),
}

impl Ledger {
    /// Chooses and books under the node's lock: `choose` sees the node as it is this instant. Idempotent per UID: a pod already
    /// booked or bound on this node gets the allocation it has. The booking stands until the watch shows the pod bound there, or
    /// [`Ledger::unbook`].
    ///
    /// # Errors
    /// See [`BookError`]; nothing is booked then.
    pub fn book(
        &self,
        node: &str,
        pod: &BookingPod,
        choose: impl FnOnce(&Node) -> Result<(Allocation, Vec<Holding>), Reason>,
    ) -> Result<Allocation, BookError> {
        let _turn = self.turn(&pod.uid);
        let known = self.pod(&pod.uid);
        if let Some(known) = &known {
            match &known.node {
                Some(at) if **at == *node => {
                    return Ok(known.allocation.as_deref().cloned().unwrap_or_default());
                }
                Some(at) => return Err(BookError::BookedElsewhere(at.as_ref().to_owned())),
                None => {}
            }
        }
        if self.node(node).is_none() {
            return Err(BookError::UnknownNode(node.to_owned()));
        }
        let entry = self.on_node(node, |shard, truth| {
            if truth.info.is_none() {
                return Err(BookError::UnknownNode(node.to_owned()));
            }
            let snapshot = shard.snapshot();
            let (allocation, holdings) = match &snapshot.state {
                NodeState::Usable(node) => choose(node).map_err(BookError::NoFit)?,
                NodeState::NoInventory => return Err(BookError::NoFit(Reason::NoInventory)),
                NodeState::Damaged => return Err(BookError::NoFit(Reason::InventoryDamaged)),
            };
            let counted = self.settings().host_requests;
            let entry = Arc::new(PodEntry {
                uid: Arc::clone(&pod.uid),
                namespace: self.strings.get(&pod.namespace),
                name: Arc::clone(&pod.name),
                node: Some(Arc::clone(&shard.name)),
                nominated: None,
                priority: known.as_ref().map_or(0, |known| known.priority),
                holdings: holdings.into(),
                allocation: Some(Arc::new(allocation)),
                cpu: if counted { pod.cpu } else { 0 },
                memory: if counted { pod.memory } else { 0 },
                confirmed: false,
                unknown: false,
                owned: known.as_ref().is_some_and(|known| known.owned),
                terminating: false,
                running: false,
                bound_at: 0,
                damaged: None,
                foreign: false,
                text: 0,
            });
            truth.set_host(PodKey::new(&entry.uid), None);
            truth.pods.insert(Arc::clone(&entry.uid), Arc::clone(&entry));
            shard.publish(truth, &self.versions);
            Ok(entry)
        })?;
        if let Some(nominated) = known.as_ref().and_then(|known| known.nominated.as_deref()) {
            self.set_nominated(nominated, &pod.uid, None);
        }
        self.doubts.raise(&entry, Doubt::Booked);
        self.pods.insert(Arc::clone(&entry.uid), Arc::clone(&entry));
        Ok(entry.allocation.as_deref().cloned().unwrap_or_default())
    }

    /// Takes a booking back after a bind that certainly failed. Does nothing where the watch has confirmed the pod meanwhile.
    pub fn unbook(&self, uid: &str) {
        let _turn = self.turn(uid);
        if self.pod(uid).is_some_and(|known| known.node.is_some() && !known.confirmed) {
            self.drop_pod(uid, None);
        }
    }

    /// A bind whose outcome is unknown (a timeout, a lost connection): the booking stays until the watch or a GET tells. The GETs
    /// begin at once; a pod that they show unbound keeps its booking for as long as the bind may still arrive.
    pub fn mark_unknown(&self, uid: &str) {
        let _turn = self.turn(uid);
        if let Some(known) = self.pod(uid).filter(|known| known.node.is_some() && !known.confirmed) {
            let entry = PodEntry { unknown: true, ..(*known).clone() };
            self.settle(Some(&known), entry);
            self.doubts.raise(&known, Doubt::Unknown);
        }
    }

    /// Bookings that the watch has not confirmed yet.
    pub fn unconfirmed(&self) -> usize {
        self.doubts.booked()
    }
}
