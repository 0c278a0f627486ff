//! Who is told what the watch shows of pods without a node, of which the ledger itself keeps next to nothing.
//!
//! Listeners are called within the watch's task: they must be quick and not change the ledger.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use super::Ledger;
use crate::kube_api::pod::PodView;

type OnEnd = Box<dyn Fn(&str) + Send + Sync>;
type OnPending = Box<dyn Fn(&PodView<'_>) + Send + Sync>;

/// The listeners.
#[derive(Default)]
pub(super) struct Listeners {
    end: RwLock<Vec<OnEnd>>,
    pending: RwLock<Vec<OnPending>>,
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

    pub(super) fn pending(&self, pod: &PodView<'_>) {
        for listener in self.pending.read().unwrap_or_else(PoisonError::into_inner).iter() {
            listener(pod);
        }
    }
}

impl Ledger {
    /// Calls `listener` with the UID of every pod whose end the watch shows, whether or not it had a node. A deletion that happened
    /// while no watch was open is not told.
    pub fn on_end(&self, listener: impl Fn(&str) + Send + Sync + 'static) {
        self.listeners.end.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(listener));
    }

    /// Calls `listener` with every pod that the watch shows without a node, from the first complete list on.
    pub fn on_pending(&self, listener: impl Fn(&PodView<'_>) + Send + Sync + 'static) {
        self.listeners.pending.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(listener));
    }
}
