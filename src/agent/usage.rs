//! What devices and containers use, for `/metrics`: measured when somebody asks, at most once a second, on a thread for blocking work.
//!
//! | module | owns |
//! |---|---|
//! | `measure` | one measurement: the backend's readings with devices, pods and what containers were given |
//! | `owner`, [`cgroup`] | whose process it is |
//! | `families`, `dcgm` | the text of it, under our names and under dcgm-exporter's |
//!
//! Reads the backend, the view, the watch of pods and the pins; writes nothing and nobody waits for it but who asks. A driver that does
//! not answer delays the answer once, by [`LIMIT`] at most: then what was measured last is dropped, series that need the driver are
//! absent, `packhorse_agent_usage_failures_total` counts, and nobody waits or asks again until the call has ended.

pub mod cgroup;
mod dcgm;
mod families;
mod measure;
mod owner;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::backend::{Backend, BackendError};
use super::devices::metrics::Metrics as DeviceMetrics;
use super::pins::Pins;
use super::pods::Pods;
use super::view::ViewReceiver;
use crate::metrics::exposition::Bulk;
use families::Families;
use measure::{Failure, Measured};
use owner::Owners;

/// How long the driver may take; Prometheus waits 10 s by default.
pub const LIMIT: Duration = Duration::from_secs(4);

/// A measurement this old is as good as a new one.
const FRESH: Duration = Duration::from_secs(1);

/// Where everything is read.
#[derive(Debug)]
pub struct Parts {
    /// Where devices come from.
    pub backend: Arc<dyn Backend>,
    /// The devices of this node.
    pub view: ViewReceiver,
    /// The pods of this node.
    pub pods: Arc<Pods>,
    /// What their containers were given.
    pub pins: Arc<Pins>,
    /// The last Xid of a card.
    pub devices: DeviceMetrics,
    /// Usually `/proc`, of the host's processes.
    pub proc: PathBuf,
    /// Whether dcgm-exporter's names are there too.
    pub dcgm: bool,
}

/// Measures when it is asked.
#[derive(Debug)]
pub struct Exporter {
    node: Arc<str>,
    /// Set once the agent runs.
    parts: OnceLock<Parts>,
    state: Mutex<State>,
    /// Changes when a measurement has ended.
    ended: watch::Sender<u64>,
    failures: Family<CallLabel, Counter>,
    limit: Duration,
}

#[derive(Debug, Default)]
struct State {
    newest: Arc<Measured>,
    /// When the newest was begun; `None` where there is none with the driver's word.
    taken: Option<Instant>,
    /// Since when one is under way.
    under_way: Option<Instant>,
    /// Told already, lest every scrape log the same.
    told: BTreeSet<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabel {
    call: &'static str,
}

impl Exporter {
    /// Nothing is measured before [`Exporter::begin`].
    pub fn new(node: Arc<str>, registry: &mut Registry) -> Self {
        let failures = Family::default();
        registry.register(
            "packhorse_agent_usage_failures",
            "Calls that failed while usage was measured: a function of the driver's library, cgroup, processes, usage (all of it), timeout",
            Family::clone(&failures),
        );
        Self {
            node,
            parts: OnceLock::new(),
            state: Mutex::default(),
            ended: watch::Sender::new(0),
            failures,
            limit: LIMIT,
        }
    }

    /// The same with another limit than [`LIMIT`].
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// From now on there is something to measure. Only the first call counts.
    pub fn begin(&self, parts: Parts) {
        if self.parts.set(parts).is_err() {
            tracing::warn!("the exporter of usage was begun twice");
        }
    }

    /// Sees to it that [`Bulk::pieces`] tells what is true now.
    pub async fn measure(self: Arc<Self>) {
        let Some(parts) = self.parts.get() else { return };
        let (mut ended, since) = {
            let mut state = self.lock();
            let since = match state.under_way {
                Some(since) => since,
                None if state.taken.is_some_and(|taken| taken.elapsed() < FRESH) => return,
                None => {
                    let now = Instant::now();
                    state.under_way = Some(now);
                    let this = Arc::clone(&self);
                    tokio::task::spawn_blocking(move || this.take(now));
                    now
                }
            };
            // Before the lock is free, so that its end is not missed.
            (self.ended.subscribe(), since)
        };
        let left = self.limit.saturating_sub(since.elapsed());
        if tokio::time::timeout(left, ended.changed()).await.is_ok() {
            return;
        }
        let reason = format!("the driver does not answer within {:?}", self.limit);
        self.failed(&[Failure { call: "timeout", reason }]);
        let without = Measured::without_usage(&parts.view.borrow().clone(), &parts.owners());
        let mut state = self.lock();
        (state.newest, state.taken) = (Arc::new(without), None);
    }

    /// Measures. Blocks.
    fn take(&self, begun: Instant) {
        let Some(parts) = self.parts.get() else { return };
        // Whatever happens, the next one must not wait for this one.
        let measured = catch_unwind(AssertUnwindSafe(|| parts.measure())).unwrap_or_else(|_| {
            let failure = Failure { call: "usage", reason: "measuring panicked".to_owned() };
            (Measured::without_usage(&parts.view.borrow().clone(), &parts.owners()), vec![failure])
        });
        let (measured, failures) = measured;
        self.failed(&failures);
        let mut state = self.lock();
        state.newest = Arc::new(measured);
        state.taken = Some(begun);
        state.under_way = None;
        drop(state);
        self.ended.send_modify(|count| *count += 1);
    }

    /// Counts, and logs what is new since the last measurement.
    fn failed(&self, failures: &[Failure]) {
        for failure in failures {
            self.failures.get_or_create(&CallLabel { call: failure.call }).inc();
        }
        let calls: BTreeSet<&'static str> = failures.iter().map(|failure| failure.call).collect();
        let told = std::mem::replace(&mut self.lock().told, calls);
        for failure in failures.iter().filter(|failure| !told.contains(failure.call)) {
            tracing::warn!(call = failure.call, reason = failure.reason, "usage cannot be read as a whole");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each field is whole by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parts {
    fn measure(&self) -> (Measured, Vec<Failure>) {
        let (view, owners) = (self.view.borrow().clone(), self.owners());
        match self.backend.usage() {
            Ok(usage) => Measured::new(&view, &owners, &usage),
            // A node without a driver is a state, which other series tell.
            Err(BackendError::Absent { .. }) => (Measured::without_usage(&view, &owners), Vec::new()),
            Err(error) => {
                let failure = Failure { call: "usage", reason: error.to_string() };
                (Measured::without_usage(&view, &owners), vec![failure])
            }
        }
    }

    fn owners(&self) -> Owners {
        Owners::new(self.proc.clone(), Arc::clone(&self.pods), Arc::clone(&self.pins))
    }
}

impl Bulk for Exporter {
    fn pieces(&self) -> Box<dyn Iterator<Item = String> + Send> {
        let measured = Arc::clone(&self.lock().newest);
        let mut families = Families::default();
        families::write(&measured, &self.node, &mut families);
        if let Some(parts) = self.parts.get().filter(|parts| parts.dcgm) {
            dcgm::write(&measured, &self.node, |card| parts.devices.last_xid(card), &mut families);
        }
        Box::new(std::iter::once(families.into_text()))
    }

    fn refresh(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(self.measure())
    }
}
