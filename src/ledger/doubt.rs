//! Pods of which the ledger is not sure: bookings not yet confirmed, binds of unknown outcome, pods that vanished.
//!
//! The watch settles most doubts by itself; the rest are settled by a GET each, repeated at growing intervals until the API
//! server has answered. Until then the pod holds what it holds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Ledger;
use super::pods::PodEntry;
use crate::kube_api::pod::PodView;

/// A bind that says nothing for so long is treated like one of unknown outcome: whoever made the booking is gone.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Between the first two GETs of one pod.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Between any two: the number of tries has no bound, because what is held must not stay held for a cluster's life, but the rate has.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why a pod is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Booked; the bind is on its way.
    Booked,
    /// Its bind may or may not have happened.
    Unknown,
    /// It is missing from a complete list, and no end was seen.
    Vanished,
}

#[derive(Debug)]
struct Open {
    doubt: Doubt,
    /// Whether our booking is all that is known of it.
    booking: bool,
    namespace: Arc<str>,
    name: Arc<str>,
    since: Instant,
    next: Instant,
    pause: Duration,
}

/// All open doubts by UID.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    open: Mutex<HashMap<Arc<str>, Open>>,
    /// Wakes the task that asks.
    pub(super) raised: tokio::sync::Notify,
}

/// A question to the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The pod's UID.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Doubts {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn raise(&self, pod: &PodEntry, doubt: Doubt) {
        let now = Instant::now();
        let mut open = self.lock();
        if open.get(&pod.uid).is_some_and(|known| known.doubt == doubt) {
            return;
        }
        let wait = if doubt == Doubt::Booked { FORGOTTEN } else { Duration::ZERO };
        let new = Open {
            doubt,
            booking: !pod.confirmed,
            namespace: Arc::clone(&pod.namespace),
            name: Arc::clone(&pod.name),
            since: now,
            next: now + wait,
            pause: FIRST_PAUSE,
        };
        open.insert(Arc::clone(&pod.uid), new);
        drop(open);
        if wait.is_zero() {
            self.raised.notify_one();
        }
    }

    pub(super) fn settle(&self, uid: &str) {
        self.lock().remove(uid);
    }

    pub(super) fn booked(&self) -> usize {
        self.lock().values().filter(|open| open.booking).count()
    }

    pub(super) fn vanished(&self) -> usize {
        self.lock().values().filter(|open| open.doubt == Doubt::Vanished).count()
    }

    /// Up to `limit` questions that are due, each put off until its next try; and when the next one is due.
    pub(super) fn due(&self, now: Instant, limit: usize) -> (Vec<Question>, Option<Instant>) {
        let mut questions = Vec::new();
        let mut next: Option<Instant> = None;
        for (uid, open) in self.lock().iter_mut() {
            if open.next <= now && questions.len() < limit {
                open.next = now + open.pause;
                open.pause = (open.pause * 2).min(LONGEST_PAUSE);
                if open.doubt == Doubt::Booked {
                    open.doubt = Doubt::Unknown;
                }
                questions.push(Question {
                    uid: Arc::clone(uid),
                    namespace: Arc::clone(&open.namespace),
                    name: Arc::clone(&open.name),
                });
            }
            next = Some(next.map_or(open.next, |next| next.min(open.next)));
        }
        (questions, next)
    }

    /// The reason of the doubt, and for how long it has been open.
    fn get(&self, uid: &str) -> Option<(Doubt, Duration)> {
        self.lock().get(uid).map(|open| (open.doubt, open.since.elapsed()))
    }
}

impl Ledger {
    /// The pods that a GET should tell about now. Each is asked for again later, unless the answer settles it.
    pub fn questions(&self) -> Vec<Question> {
        self.doubts.due(Instant::now(), usize::MAX).0
    }

    /// What a GET told about a pod in doubt: the object of that name, or that there is none. An answer about a pod that is no
    /// longer in doubt changes nothing: the watch has told more since, perhaps that the pod is gone, and nothing would ever tell
    /// that again.
    pub fn answer(&self, question: &Question, found: Option<&PodView<'_>>) {
        let same = found.filter(|pod| pod.metadata.uid.as_deref() == Some(&*question.uid));
        let turn = self.turn(&question.uid);
        if self.doubts.get(&question.uid).is_none() {
            return;
        }
        let Some(pod) = same else {
            // No pod of that name, or another one: ours is gone.
            tracing::info!(
                namespace = %question.namespace, name = %question.name, uid = %question.uid,
                "a pod in doubt is gone; its devices are free"
            );
            self.drop_pod(&question.uid, None);
            return;
        };
        self.apply_in_turn(&question.uid, pod);
        drop(turn);
        if pod.spec.node_name.is_some() {
            return;
        }
        match self.doubts.get(&question.uid) {
            Some((Doubt::Unknown, since)) if since >= self.settings().unknown_bind() => {
                tracing::info!(
                    namespace = %question.namespace, name = %question.name, uid = %question.uid,
                    "a bind of unknown outcome did not happen; its booking is taken back"
                );
                self.unbook(&question.uid);
            }
            // It exists, and the bind is its booker's affair.
            Some((Doubt::Vanished, _)) => {
                if let Some(known) = self.pod(&question.uid).filter(|known| !known.confirmed) {
                    self.doubts.raise(&known, if known.unknown { Doubt::Unknown } else { Doubt::Booked });
                }
            }
            _ => {}
        }
    }
}
