//! The scheduler extender: which nodes can take a GPU pod, which are best, and which devices it gets.
//!
//! Called by kube-scheduler over HTTP ([`router()`]); answers from the [`Ledger`]'s memory. Only bind calls the API server, once.
//! It owns nothing that would be missed: holds, records and shapes are advice and memory, lost without harm at a restart. Where
//! the ledger is not complete it refuses to answer, because a half-known cluster would be overbooked.

mod bind;
mod filter;
mod holds;
mod learn;
mod metrics;
mod names;
mod nodes;
pub mod nominate;
mod preempt;
mod prioritize;
mod promise;
mod query;
mod records;
pub mod resolve;
mod roster;
mod router;
mod settings;
mod shape;
mod situation;
mod verdict;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

pub use bind::BindError;
pub use metrics::Metrics;
pub use records::PodRecord;
pub use router::router;
pub use settings::{DeviceOrder, NodeOrder, Settings, Version, VersionError};
pub use verdict::verdict;

use crate::gpu::parse::Rules;
use crate::gpu::reason::Reason;
use crate::kube_api::calls::Calls;
use crate::kube_api::pod::PodView;
use crate::ledger::Ledger;
use bind::InFlight;
use holds::{HeldNodes, Holds};
use query::Query;
use records::Records;
use roster::Roster;
use shape::Shapes;

/// A pod that fits none of the nodes kube-scheduler asked about, which are a sample of the cluster.
#[derive(Debug)]
pub struct Unfit<'a> {
    /// Who it is and what it asks for.
    pub record: &'a Arc<PodRecord>,
    /// The pod as kube-scheduler sent it.
    pub pod: &'a PodView<'a>,
    /// The nodes that kube-scheduler asked about, and why each refuses; the reason is absent where the ledger does not know it.
    pub asked: &'a [(&'a str, Option<Reason>)],
}

/// Told of each [`Unfit`] pod, within the filter call: it may take note, and must not wait.
pub type NoteUnfit = Arc<dyn Fn(&Unfit<'_>) + Send + Sync>;

/// Tells the time, which tests set.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// What an [`Extender`] is made of.
pub struct Parts {
    /// The cluster.
    pub ledger: Arc<Ledger>,
    /// For bind; its timeout is [`Settings::call_timeout`], its metrics those in `metrics`.
    pub client: kube::Client,
    /// Read anew by every call.
    pub settings: Arc<ArcSwap<Settings>>,
    /// How requests are read; the same as the webhook's.
    pub rules: Arc<ArcSwap<Rules>>,
    /// Where to count.
    pub metrics: Metrics,
    /// The API server's version, for `schedulerVersion`.
    pub api_version: Option<Version>,
    /// Who looks for a node outside kube-scheduler's sample.
    pub unfit: Option<NoteUnfit>,
    /// [`Instant::now`] outside tests.
    pub clock: Clock,
}

impl Parts {
    /// The usual parts around a ledger and a client.
    pub fn new(ledger: Arc<Ledger>, client: kube::Client, metrics: Metrics) -> Self {
        Self {
            ledger,
            client,
            settings: Arc::default(),
            rules: Arc::default(),
            metrics,
            api_version: None,
            unfit: None,
            clock: Arc::new(Instant::now),
        }
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("api_version", &self.api_version).finish_non_exhaustive()
    }
}

/// The extender. Shared by `Arc`.
pub struct Extender {
    ledger: Arc<Ledger>,
    calls: Calls,
    settings: Arc<ArcSwap<Settings>>,
    rules: Arc<ArcSwap<Rules>>,
    metrics: Metrics,
    api_version: Option<Version>,
    unfit: Option<NoteUnfit>,
    clock: Clock,
    holds: Holds,
    records: Records,
    roster: Roster,
    shapes: Shapes,
    in_flight: InFlight,
}

impl fmt::Debug for Extender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extender").field("holds", &self.holds.len()).finish_non_exhaustive()
    }
}

/// What is not answered with status 200.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// The request has no body.
    #[error("the request has no body")]
    Empty,
    /// The request cannot be understood, and the answer's form has no place for an error text.
    #[error("{0}")]
    Malformed(String),
    /// The body is over the limit, here in MiB.
    #[error("the request's body is larger than {0} MiB; maxBodyMib allows more")]
    TooLarge(u32),
    /// The ledger does not know the whole cluster yet.
    #[error("not ready: the first lists of nodes and pods have not been applied yet")]
    NotReady,
}

impl Extender {
    /// An extender that remembers nothing yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        let timeout = parts.settings.load().call_timeout();
        let shapes = Shapes::new(parts.ledger.target());
        let extender = Arc::new(Self {
            calls: Calls::new(parts.client, timeout, parts.metrics.calls.clone()),
            ledger: parts.ledger,
            settings: parts.settings,
            rules: parts.rules,
            metrics: parts.metrics,
            api_version: parts.api_version,
            unfit: parts.unfit,
            clock: parts.clock,
            holds: Holds::default(),
            records: Records::default(),
            roster: Roster::default(),
            shapes,
            in_flight: InFlight::default(),
        });
        let weak = Arc::downgrade(&extender);
        extender.ledger.on_end(move |uid| {
            if let Some(extender) = weak.upgrade() {
                extender.holds.remove(uid);
            }
        });
        let weak = Arc::downgrade(&extender);
        extender.ledger.on_pending(move |pod| {
            // Before the lists are complete, nothing can be found out.
            if let Some(extender) = weak.upgrade().filter(|extender| extender.ledger.is_ready()) {
                extender.expect(pod);
            }
        });
        extender
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How many ranked pods are not bound yet.
    pub fn holds(&self) -> usize {
        self.holds.len()
    }

    fn ready_for(&self, body: &[u8]) -> Result<(), Refusal> {
        if body.is_empty() {
            return Err(Refusal::Empty);
        }
        if self.ledger.is_ready() { Ok(()) } else { Err(Refusal::NotReady) }
    }

    fn held_nodes(&self, settings: &Settings, now: Instant) -> Arc<HeldNodes> {
        if !settings.holds {
            return Arc::default();
        }
        let placed = |uid: &str| self.ledger.pod(uid).is_some_and(|pod| pod.node.is_some());
        self.holds.current(now, placed)
    }

    /// A pod of ours is waiting to be scheduled: what its shape needs to know of the nodes is found out before kube-scheduler asks.
    fn expect(&self, pod: &PodView<'_>) {
        // One that cannot be read is refused, with the reason, when it is filtered.
        let _ = Query::read(pod, &self.rules.load(), self.settings.load().policies(), &self.shapes);
        self.shapes.tell_new();
    }
}

/// JSON of what always has one.
fn json(value: &impl serde::Serialize) -> Vec<u8> {
    // Maps with string keys, lists and numbers: nothing that serde_json could refuse.
    serde_json::to_vec(value).unwrap_or_else(|e| {
        tracing::error!(error = %e, "an answer cannot be written");
        Vec::new()
    })
}
