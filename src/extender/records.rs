//! What filter learned of a pod, kept for its bind: a bind call names the pod but does not show it.
//!
//! Written by filter, read by bind and by preempt. Bounded: where a record was dropped, bind makes one GET instead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::gpu::request::PodRequest;

/// How many records each of the two generations may have.
const GENERATION: usize = 4_096;

/// What a bind needs to know of its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRecord {
    /// The pod's UID.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// `spec.priority`, 0 where absent.
    pub priority: i32,
    /// What its containers ask for.
    pub request: Arc<PodRequest>,
    /// CPU it requests, millicores.
    pub cpu: i64,
    /// Host memory it requests, bytes.
    pub memory: i64,
}

/// Records by UID, in two generations: when the younger is full it becomes the older, and the older is forgotten. A record that
/// is renewed is young again.
#[derive(Debug, Default)]
pub(super) struct Records {
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Arc<str>, Arc<PodRecord>>,
    old: HashMap<Arc<str>, Arc<PodRecord>>,
}

impl Records {
    pub(super) fn put(&self, record: Arc<PodRecord>) {
        let mut generations = self.lock();
        generations.old.remove(&record.uid);
        if generations.young.len() >= GENERATION {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(Arc::clone(&record.uid), record);
    }

    pub(super) fn get(&self, uid: &str) -> Option<Arc<PodRecord>> {
        let generations = self.lock();
        generations.young.get(uid).or_else(|| generations.old.get(uid)).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        // Both maps are whole after any panic: each change is one call.
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(uid: &str) -> Arc<PodRecord> {
        Arc::new(PodRecord {
            uid: uid.into(),
            namespace: "ns".into(),
            name: "p".into(),
            priority: 0,
            request: Arc::default(),
            cpu: 0,
            memory: 0,
        })
    }

    #[test]
    fn keeps_the_youngest_and_forgets_the_oldest() {
        let records = Records::default();
        for i in 0..3 * GENERATION {
            records.put(record(&i.to_string()));
        }
        assert!(records.get("0").is_none());
        assert!(records.get(&(3 * GENERATION - 1).to_string()).is_some());
        assert!(records.get(&(2 * GENERATION).to_string()).is_some());
    }
}
