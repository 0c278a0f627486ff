//! Which pods cannot start here, for the inventory: the server evicts them where that helps. Written by the check at container start;
//! a pod leaves the list when every refused container of it has started after all, or when it is gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::agent::standing::StandingSender;
use crate::gpu::device::Refused;
use crate::gpu::parse::cut;

/// Bytes of a message that go into the inventory, which has to hold many.
const LONGEST: usize = 300;

/// By pod UID and container.
type Messages = BTreeMap<Arc<str>, BTreeMap<Arc<str>, String>>;

/// The refusals that last.
#[derive(Debug)]
pub(super) struct Refusals {
    standing: Arc<StandingSender>,
    messages: Mutex<Messages>,
}

impl Refusals {
    pub(super) fn new(standing: Arc<StandingSender>) -> Self {
        Self { standing, messages: Mutex::default() }
    }

    /// These containers of a pod cannot start.
    pub(super) fn add(&self, uid: &Arc<str>, pod: &str, containers: impl Iterator<Item = Arc<str>>, message: &str) {
        self.change(uid, pod, |messages| {
            for container in containers {
                messages.insert(container, cut(message, LONGEST));
            }
        });
    }

    /// These containers of a pod have started, or are refused for something that does not last.
    pub(super) fn clear(&self, uid: &Arc<str>, pod: &str, containers: impl Iterator<Item = Arc<str>>) {
        self.change(uid, pod, |messages| {
            for container in containers {
                messages.remove(&container);
            }
        });
    }

    /// Keeps only the pods that `live` knows.
    pub(super) fn retain(&self, live: impl Fn(&str) -> bool) {
        let gone: Vec<_> = self.lock().keys().filter(|uid| !live(uid)).cloned().collect();
        for uid in gone {
            self.change(&uid, "", BTreeMap::clear);
        }
    }

    /// Their UIDs, and `namespace/name`.
    pub(super) fn list(&self) -> BTreeMap<Arc<str>, String> {
        let standing = self.standing.borrow();
        standing.refused.iter().map(|(uid, refused)| (Arc::clone(uid), refused.pod.clone())).collect()
    }

    fn change(&self, uid: &Arc<str>, pod: &str, change: impl FnOnce(&mut BTreeMap<Arc<str>, String>)) {
        let mut all = self.lock();
        let messages = all.entry(Arc::clone(uid)).or_default();
        change(messages);
        let first = messages.values().next().cloned();
        if first.is_none() {
            all.remove(uid);
        }
        let refused = first.map(|reason| Refused { pod: pod.to_owned(), uid: uid.to_string(), reason });
        // Under the lock, so that what is published is what was noted last.
        self.standing.send_if_modified(|standing| {
            let before = standing.refused.get(uid);
            if before == refused.as_ref() {
                return false;
            }
            match refused {
                Some(refused) => standing.refused.insert(Arc::clone(uid), refused),
                None => standing.refused.remove(uid),
            };
            true
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Messages> {
        // Every change is one call on the map: it is whole even if its caller panicked.
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::standing::Standing;

    #[test]
    fn a_pod_is_listed_until_every_refused_container_has_started() {
        let standing = Arc::new(StandingSender::new(Standing::default()));
        let mut seen = standing.subscribe();
        let refusals = Refusals::new(Arc::clone(&standing));
        let (uid, containers) = (Arc::from("u1"), ["a", "b"].map(Arc::<str>::from));
        let reason =
            || standing.borrow().refused.get("u1").map(|refused| (refused.pod.clone(), refused.reason.clone()));
        refusals.add(&uid, "ns/p", containers.clone().into_iter(), "no");
        assert_eq!(reason(), Some(("ns/p".to_owned(), "no".to_owned())));
        seen.mark_unchanged();
        refusals.add(&uid, "ns/p", containers.clone().into_iter(), "no");
        assert!(!seen.has_changed().unwrap(), "the same again is no news");
        refusals.clear(&uid, "ns/p", containers.iter().take(1).cloned());
        assert!(reason().is_some());
        refusals.clear(&uid, "ns/p", containers.iter().skip(1).cloned());
        assert_eq!(reason(), None);
        refusals.add(&uid, "ns/p", containers.into_iter(), "no");
        refusals.retain(|uid| uid != "u1");
        assert_eq!(reason(), None);
    }
}
