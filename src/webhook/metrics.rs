//! What the webhook tells about itself: how long it takes, and how it answers.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Names begin with `packhorse_webhook_`.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Seconds from the body's arrival to the answer.
    pub(super) latency: Histogram,
    reviews: Family<Labels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: OutcomeLabel,
    reason: Reason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the label's value is the variant's name")]
enum OutcomeLabel {
    mutated,
    unchanged,
    denied,
    malformed,
}

/// How a review ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Admitted with a patch.
    Mutated,
    /// Admitted as it was.
    Unchanged,
    /// Refused; by several faults the first counts.
    Denied(Reason),
    /// Not a review that could be answered on its merits.
    Malformed,
}

/// Why a pod was denied, as the label's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the label's value is the variant's name")]
pub(super) enum Reason {
    /// Not denied.
    none,
    /// The request cannot be read or can never run.
    request,
    /// A variable that would change limits.
    limit_variable,
    /// A privileged container beside a GPU.
    privileged,
    /// Another scheduler was named.
    scheduler,
    /// `spec.nodeName` is set.
    node_name,
    /// A node selector that contradicts the configured one.
    node_selector,
    /// GPUs made visible without a request.
    visible_devices,
    /// A CDI annotation that injects GPUs.
    cdi_annotation,
}

impl Metrics {
    /// Registers everything.
    pub fn new(registry: &mut Registry) -> Self {
        // 10 us to 1.3 s.
        let latency = Histogram::new(exponential_buckets(10e-6, 2.0, 18));
        let reviews = Family::<Labels, Counter>::default();
        registry.register(
            "packhorse_webhook_request_seconds",
            "Time from the arrival of an admission review's body to its answer",
            latency.clone(),
        );
        registry.register(
            "packhorse_webhook_reviews",
            "Admission reviews by outcome, and why they were denied",
            reviews.clone(),
        );
        Self { latency, reviews }
    }

    pub(super) fn count(&self, outcome: Outcome) {
        let (outcome, reason) = match outcome {
            Outcome::Mutated => (OutcomeLabel::mutated, Reason::none),
            Outcome::Unchanged => (OutcomeLabel::unchanged, Reason::none),
            Outcome::Denied(reason) => (OutcomeLabel::denied, reason),
            Outcome::Malformed => (OutcomeLabel::malformed, Reason::none),
        };
        self.reviews.get_or_create(&Labels { outcome, reason }).inc();
    }
}
