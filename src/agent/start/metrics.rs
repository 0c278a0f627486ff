//! What is counted of container starts.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::fault::Reason;
use crate::metrics::latency_buckets;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MatchLabel {
    matching: &'static str,
}

/// Counts and durations of the checks at container start.
#[derive(Debug, Clone)]
pub struct Metrics {
    started: Counter,
    refused: Family<ReasonLabel, Counter>,
    seconds: Histogram,
    slots: Family<MatchLabel, Counter>,
    damaged: Counter,
    collected: Counter,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            started: Counter::default(),
            refused: Family::default(),
            seconds: Histogram::new(latency_buckets()),
            slots: Family::default(),
            damaged: Counter::default(),
            collected: Counter::default(),
        };
        registry.register("packhorse_agent_starts", "Container starts that were let through", metrics.started.clone());
        let help = "Container starts that were refused, by reason; the kubelet tries again";
        registry.register("packhorse_agent_start_refusals", help, metrics.refused.clone());
        let help = "How long the check at container start took";
        registry.register("packhorse_agent_start_seconds", help, metrics.seconds.clone());
        let help = "Starting containers by whether the slots that the kubelet chose are slots of the devices they were given: \
                    other exporters name a container's GPU by its slots";
        registry.register("packhorse_agent_started_slots", help, metrics.slots.clone());
        let help = "Damaged pins that were removed; each such pod was verified anew";
        registry.register("packhorse_agent_damaged_pins", help, metrics.damaged.clone());
        let help = "Pods that were gone and whose pins and specifications were removed";
        registry.register("packhorse_agent_collected_pods", help, metrics.collected.clone());
        metrics
    }

    /// How many starts were let through.
    pub fn started(&self) -> u64 {
        self.started.get()
    }

    /// How many starts were refused for one reason.
    pub fn refused(&self, reason: Reason) -> u64 {
        self.refused.get_or_create(&ReasonLabel { reason: reason.as_str() }).get()
    }

    pub(super) fn start(&self, took: Duration) {
        self.started.inc();
        self.seconds.observe(took.as_secs_f64());
    }

    pub(super) fn refuse(&self, reason: Reason, took: Duration) {
        self.refused.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    pub(super) fn slots(&self, matching: bool) {
        self.slots.get_or_create(&MatchLabel { matching: if matching { "yes" } else { "no" } }).inc();
    }

    pub(super) fn damaged(&self, files: usize) {
        self.damaged.inc_by(files as u64);
    }

    pub(super) fn collect(&self) {
        self.collected.inc();
    }
}
