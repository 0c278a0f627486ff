//! What is measured of the kubelet's calls and of the registrations.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::metrics::latency_buckets;

/// The series of the device plugins.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(super) allocate: Histogram,
    pub(super) preferred: Histogram,
    pub(super) pre_start: Histogram,
    pub(super) refused: Family<Call, Counter>,
    pub(super) registrations: Family<Registration, Counter>,
    pub(super) registered: Family<Resource, Gauge>,
    pub(super) left_behind: Counter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Call {
    pub(super) call: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Registration {
    pub(super) resource: String,
    pub(super) result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Resource {
    pub(super) resource: String,
}

impl Metrics {
    /// Registers the series.
    pub fn new(registry: &mut Registry) -> Self {
        let mut histogram = |name: &str, help: &str, histogram: Histogram| {
            registry.register(name, help, histogram.clone());
            histogram
        };
        let short = || Histogram::new(exponential_buckets(10e-6, 2.0, 18));
        let allocate = histogram("packhorse_agent_allocate_seconds", "Time to answer Allocate", short());
        let preferred =
            histogram("packhorse_agent_preferred_allocation_seconds", "Time to answer GetPreferredAllocation", short());
        let pre_start = histogram(
            "packhorse_agent_pre_start_seconds",
            "Time to answer PreStartContainer",
            Histogram::new(latency_buckets()),
        );
        let refused = Family::default();
        registry.register(
            "packhorse_agent_plugin_refusals",
            "The kubelet's calls answered by an error",
            Family::clone(&refused),
        );
        let registrations = Family::default();
        let help = "Registrations of a resource with the kubelet by result";
        registry.register("packhorse_agent_registrations", help, Family::clone(&registrations));
        let registered = Family::default();
        let help = "1 while the kubelet reads the list of slots of the resource";
        registry.register("packhorse_agent_registered", help, Family::clone(&registered));
        let left_behind = Counter::default();
        let help = "Specifications of reused slots that could not be removed; harmless, for no container names them";
        registry.register("packhorse_agent_specifications_left_behind", help, left_behind.clone());
        Self { allocate, preferred, pre_start, refused, registrations, registered, left_behind }
    }
}
