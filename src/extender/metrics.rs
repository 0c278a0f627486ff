//! What the extender counts. Written by its calls, read by whoever scrapes.

use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::gpu::reason::Reason;
use crate::kube_api::calls::CallMetrics;

/// The node is not in the ledger: told to kube-scheduler like a [`Reason`].
pub(super) const UNKNOWN_NODE: &str = "node not known to Packhorse";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabel {
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// The extender's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(super) filter: Histogram,
    pub(super) prioritize: Histogram,
    pub(super) bind: Histogram,
    pub(super) bind_own: Histogram,
    pub(super) preempt: Histogram,
    verdicts: Family<VerdictLabel, Counter>,
    binds: Family<ResultLabel, Counter>,
    pub(super) holds: Gauge,
    pub(super) best: Histogram,
    pub(super) conflicts: Counter,
    pub(super) lookups: Counter,
    /// Of the calls to the API server.
    pub calls: CallMetrics,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let mut seconds = |name: &str, help: &str| {
            let histogram = Histogram::new(exponential_buckets(0.000_01, 2.0, 18));
            registry.register(name, help, histogram.clone());
            histogram
        };
        let filter = seconds("packhorse_extender_filter_seconds", "Duration of /filter, without reading the request");
        let prioritize = seconds("packhorse_extender_prioritize_seconds", "Duration of /prioritize");
        let bind = seconds("packhorse_extender_bind_seconds", "Duration of /bind with its calls to the API server");
        let bind_own = seconds("packhorse_extender_bind_own_seconds", "Duration of /bind without its API calls");
        let preempt = seconds("packhorse_extender_preempt_seconds", "Duration of /preempt");
        let verdicts = Family::default();
        registry.register("packhorse_extender_verdicts", "Verdicts on nodes by /filter", verdicts.clone());
        let binds = Family::default();
        registry.register("packhorse_extender_binds", "Binds by result", binds.clone());
        let holds = Gauge::default();
        registry.register("packhorse_extender_holds", "Ranked pods that are not bound yet", holds.clone());
        let best = Histogram::new(exponential_buckets(1.0, 2.0, 14));
        registry.register("packhorse_extender_returned_nodes", "Nodes returned by one /filter", best.clone());
        let conflicts = Counter::default();
        let help = "Binds to a node where the pod no longer fitted";
        registry.register("packhorse_extender_bind_conflicts", help, conflicts.clone());
        let lookups = Counter::default();
        let help = "Binds of pods that no filter call had shown, so that one GET was needed";
        registry.register("packhorse_extender_bind_lookups", help, lookups.clone());
        let calls = CallMetrics::new(registry);
        Self { filter, prioritize, bind, bind_own, preempt, verdicts, binds, holds, best, conflicts, lookups, calls }
    }

    /// How often a bind found that the chosen node no longer had room.
    pub fn conflicts(&self) -> u64 {
        self.conflicts.get()
    }

    /// How many binds needed a GET because no filter call had shown their pod.
    pub fn lookups(&self) -> u64 {
        self.lookups.get()
    }

    pub(super) fn bound(&self, result: &'static str) {
        self.binds.get_or_create(&ResultLabel { result }).inc();
    }
}

/// Observes the time since `start`.
pub(super) fn observe(histogram: &Histogram, start: Instant) {
    histogram.observe(start.elapsed().as_secs_f64());
}

/// Verdicts of one filter call, added up before they are published: one counter access per kind, not per node.
#[derive(Debug, Default)]
pub(super) struct Tally {
    fits: u64,
    unknown: u64,
    reasons: [u64; Reason::ALL.len()],
}

impl Tally {
    pub(super) fn fit(&mut self) {
        self.fits += 1;
    }

    pub(super) fn unknown(&mut self) {
        self.unknown += 1;
    }

    pub(super) fn reason(&mut self, reason: Reason) {
        self.reasons[reason as usize] += 1;
    }

    pub(super) fn publish(&self, metrics: &Metrics) {
        let add = |verdict: &'static str, n: u64| {
            if n > 0 {
                metrics.verdicts.get_or_create(&VerdictLabel { verdict }).inc_by(n);
            }
        };
        add("fits", self.fits);
        add(UNKNOWN_NODE, self.unknown);
        for reason in Reason::ALL {
            add(reason.as_str(), self.reasons[reason as usize]);
        }
    }
}
