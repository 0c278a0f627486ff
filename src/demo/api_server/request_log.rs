//! Who asked what, so that tests and the demo can count API calls.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One request for an object or a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'static str,
    /// `pods`, `pods/binding`, …
    pub resource: String,
    /// Empty for cluster-scoped kinds and for collections of all namespaces.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// The path as asked, without the query.
    pub path: String,
    /// The client's `User-Agent`.
    pub user_agent: String,
    /// Whether it was only a trial.
    pub dry_run: bool,
    /// The status of the answer; 0 while there is none.
    pub code: u16,
}

impl Entry {
    /// Whether it changes anything when it succeeds.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb, "get" | "list" | "watch") && !self.dry_run
    }
}

/// All requests since the start.
#[derive(Debug, Default)]
pub(super) struct RequestLog {
    entries: Mutex<Vec<Entry>>,
}

impl RequestLog {
    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, entry: Entry) -> usize {
        let mut entries = self.entries();
        entries.push(entry);
        entries.len() - 1
    }

    pub(super) fn end(&self, number: usize, code: u16) {
        if let Some(entry) = self.entries().get_mut(number) {
            entry.code = code;
        }
    }

    pub(super) fn all(&self) -> Vec<Entry> {
        self.entries().clone()
    }
}
