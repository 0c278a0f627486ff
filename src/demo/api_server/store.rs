//! The objects, their versions and the log of changes behind watches. One lock over everything: what the original does in etcd
//! transactions happens here one after the other, so a read-check-write can never interleave with another.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::resource::Resource;

/// Namespace (empty for cluster-scoped kinds) and name.
pub(super) type Key = (String, String);

/// How an object changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It did not exist before.
    Added,
    /// It has a new version.
    Modified,
    /// It is gone; the object is its last version.
    Deleted,
}

/// One committed change.
#[derive(Debug, Clone)]
pub struct Change {
    /// The version this change made.
    pub version: u64,
    /// `pods`, `nodes`, …
    pub plural: &'static str,
    /// How it changed.
    pub kind: ChangeKind,
    /// The object after it, or its last state with the version of its deletion.
    pub object: Arc<Value>,
    /// The object before it.
    pub previous: Option<Arc<Value>>,
}

/// Objects by kind, and the log.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) version: u64,
    objects: BTreeMap<&'static str, BTreeMap<Key, Arc<Value>>>,
    log: VecDeque<Change>,
    /// Changes up to and with this version are no longer in the log.
    pub(super) compacted: u64,
    /// What is left of lists that were answered in part, by the token handed out; consistent with the version they began at.
    pages: VecDeque<(String, Page)>,
    pages_made: u64,
    observers: Vec<mpsc::UnboundedSender<Change>>,
}

/// The rest of a list.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) version: u64,
    pub(super) rest: Vec<Arc<Value>>,
}

/// Beyond this many half-read lists the oldest expire, as they do in the original after a compaction.
const PAGES: usize = 64;

impl State {
    pub(super) fn get(&self, resource: &Resource, key: &Key) -> Option<Arc<Value>> {
        self.objects.get(resource.plural)?.get(key).cloned()
    }

    /// All objects of a kind in order of namespace and name; of one namespace where it is not empty.
    pub(super) fn list(&self, resource: &Resource, namespace: &str) -> Vec<Arc<Value>> {
        let Some(objects) = self.objects.get(resource.plural) else { return Vec::new() };
        objects
            .iter()
            .filter(|((of, _), _)| namespace.is_empty() || of == namespace)
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// Stores a new version and stamps it. `object` replaces what the key holds.
    pub(super) fn put(&mut self, resource: &'static Resource, key: Key, mut object: Value) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = Value::String(self.version.to_string());
        let object = Arc::new(object);
        let previous = self.objects.entry(resource.plural).or_default().insert(key, Arc::clone(&object));
        let kind = if previous.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        self.append(Change {
            version: self.version,
            plural: resource.plural,
            kind,
            object: Arc::clone(&object),
            previous,
        });
        object
    }

    pub(super) fn remove(&mut self, resource: &'static Resource, key: &Key) -> Option<Arc<Value>> {
        let previous = self.objects.get_mut(resource.plural)?.remove(key)?;
        self.version += 1;
        let mut last = (*previous).clone();
        last["metadata"]["resourceVersion"] = Value::String(self.version.to_string());
        let object = Arc::new(last);
        self.append(Change {
            version: self.version,
            plural: resource.plural,
            kind: ChangeKind::Deleted,
            object: Arc::clone(&object),
            previous: Some(previous),
        });
        Some(object)
    }

    fn append(&mut self, change: Change) {
        self.observers.retain(|observer| observer.send(change.clone()).is_ok());
        self.log.push_back(change);
    }

    /// Changes of one kind after `version`; `None` where the log does not reach back so far.
    pub(super) fn since(&self, plural: &str, version: u64) -> Option<Vec<Change>> {
        if version < self.compacted {
            return None;
        }
        let start = self.log.partition_point(|change| change.version <= version);
        Some(self.log.range(start..).filter(|change| change.plural == plural).cloned().collect())
    }

    /// Forgets the log up to and with `version`, and half-read lists older than it.
    pub(super) fn compact(&mut self, version: u64) {
        self.compacted = self.compacted.max(version.min(self.version));
        while self.log.front().is_some_and(|change| change.version <= self.compacted) {
            self.log.pop_front();
        }
        let compacted = self.compacted;
        self.pages.retain(|(_, page)| page.version >= compacted);
    }

    fn bound(&mut self, history: usize) {
        if self.log.len() > history
            && let Some(change) = self.log.get(self.log.len() - history)
        {
            let version = change.version - 1;
            self.compact(version);
        }
    }

    pub(super) fn keep_page(&mut self, page: Page) -> String {
        self.pages_made += 1;
        let token = format!("{}-{}", page.version, self.pages_made);
        self.pages.push_back((token.clone(), page));
        if self.pages.len() > PAGES {
            self.pages.pop_front();
        }
        token
    }

    /// The page stays until it expires: a client whose answer was lost may ask again.
    pub(super) fn page(&self, token: &str) -> Option<Page> {
        self.pages.iter().find(|(of, _)| of == token).map(|(_, page)| page.clone())
    }

    pub(super) fn observe(&mut self) -> mpsc::UnboundedReceiver<Change> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.observers.push(sender);
        receiver
    }
}

/// The state behind its lock, and the signal that wakes watches.
#[derive(Debug)]
pub(super) struct Store {
    state: Mutex<State>,
    history: usize,
    version: watch::Sender<u64>,
}

impl Store {
    /// `history`: how many changes the log keeps for watches that resume.
    pub(super) fn new(history: usize) -> Self {
        Self { state: Mutex::default(), history, version: watch::Sender::new(0) }
    }

    pub(super) fn read(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held can leave no half-made change: every change is one insertion and one append.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a transaction: what `change` does to the state is seen by all others at once.
    pub(super) fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (result, version) = {
            let mut state = self.read();
            let result = change(&mut state);
            state.bound(self.history);
            (result, state.version)
        };
        self.version.send_if_modified(|seen| {
            let newer = version > *seen;
            *seen = version.max(*seen);
            newer
        });
        result
    }

    /// Changes whenever the store does.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}
