//! Who is told what lists and the watch show of pods; of those without a node the ledger itself keeps next to nothing.
//!
//! Listeners are called within the watch's task: they must be quick and not change the ledger.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use super::Ledger;
use crate::kube_api::pod::PodView;

type OnUid = Box<dyn Fn(&str) + Send + Sync>;
type OnPending = Box<dyn Fn(&PodView<'_>) + Send + Sync>;
type OnRelist = Box<dyn Fn(&dyn Fn(&str) -> bool) + Send + Sync>;

/// The listeners.
#[derive(Default)]
pub(super) struct Listeners {
    end: RwLock<Vec<OnUid>>,
    bound: RwLock<Vec<OnUid>>,
    pending: RwLock<Vec<OnPending>>,
    relist: RwLock<Vec<OnRelist>>,
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listeners")
    }
}

impl Listeners {
    pub(super) fn ended(&self, uid: &str) {
        for listener in self.end.read().unwrap_or_else(PoisonError::into_inner).iter() {
            listener(uid);
        }
    }

    pub(super) fn bound(&self, uid: &str) {
        for listener in self.bound.read().unwrap_or_else(PoisonError::into_inner).iter() {
            listener(uid);
        }
    }

    pub(super) fn relisted(&self, is_there: &dyn Fn(&str) -> bool) {
        for listener in self.relist.read().unwrap_or_else(PoisonError::into_inner).iter() {
            listener(is_there);
        }
    }

    pub(super) fn pending(&self, pod: &PodView<'_>) {
        for listener in self.pending.read().unwrap_or_else(PoisonError::into_inner).iter() {
            listener(pod);
        }
    }
}

impl Ledger {
    /// Calls `listener` with the UID of every pod whose end the watch shows, whether or not it had a node. A deletion that happened
    /// while no watch was open is not told; see [`Ledger::on_relist`].
    pub fn on_end(&self, listener: impl Fn(&str) + Send + Sync + 'static) {
        self.listeners.end.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(listener));
    }

    /// Calls `listener` with the UID of every pod that a list or the watch shows on a node, again with each change of the pod.
    pub fn on_bound(&self, listener: impl Fn(&str) + Send + Sync + 'static) {
        self.listeners.bound.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(listener));
    }

    /// Calls `listener` after each complete list of the pods, with what tells whether it named the pod of a UID.
    pub fn on_relist(&self, listener: impl Fn(&dyn Fn(&str) -> bool) + Send + Sync + 'static) {
        self.listeners.relist.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(listener));
    }

    /// Calls `listener` with every pod that a list or the watch shows without a node.
    pub fn on_pending(&self, listener: impl Fn(&PodView<'_>) + Send + Sync + 'static) {
        self.listeners.pending.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(listener));
    }
}
