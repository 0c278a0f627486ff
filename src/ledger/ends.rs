//! Who is told that a pod has ended or was deleted, whether or not it had a node: the ledger itself keeps nothing of a pending pod
//! without a nomination, others may. A deletion that happened while no watch was open is not told.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use super::Ledger;

type Listener = Box<dyn Fn(&str) + Send + Sync>;

/// The listeners.
#[derive(Default)]
pub(super) struct Ends(RwLock<Vec<Listener>>);

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ends")
    }
}

impl Ends {
    pub(super) fn tell(&self, uid: &str) {
        for listener in self.0.read().unwrap_or_else(PoisonError::into_inner).iter() {
            listener(uid);
        }
    }
}

impl Ledger {
    /// Calls `listener` with the UID of every pod whose end the watch shows. It must be quick and not change the ledger.
    pub fn on_end(&self, listener: impl Fn(&str) + Send + Sync + 'static) {
        self.ends.0.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(listener));
    }
}
