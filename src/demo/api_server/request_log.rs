//! Who asked what, so that tests and the demo can count API calls.

use std::collections::VecDeque;
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

/// More requests than this are not kept: a demo may run for days.
const KEPT: usize = 200_000;

/// The last requests.
#[derive(Debug, Default)]
pub(super) struct RequestLog {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: VecDeque<Entry>,
    /// How many came before the first that is kept.
    dropped: usize,
}

impl RequestLog {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, entry: Entry) -> usize {
        let mut kept = self.kept();
        kept.entries.push_back(entry);
        if kept.entries.len() > KEPT {
            kept.entries.pop_front();
            kept.dropped += 1;
        }
        kept.dropped + kept.entries.len() - 1
    }

    pub(super) fn end(&self, number: usize, code: u16) {
        let mut kept = self.kept();
        // One that is not kept any more has no place for its answer.
        let position = number.checked_sub(kept.dropped);
        if let Some(entry) = position.and_then(|position| kept.entries.get_mut(position)) {
            entry.code = code;
        }
    }

    pub(super) fn all(&self) -> Vec<Entry> {
        self.kept().entries.iter().cloned().collect()
    }
}
