//! What is measured of the writes to the Node object.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    kind: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    writes: Family<Write, Counter>,
    last: Family<Kind, Gauge<f64, AtomicU64>>,
    interruptions: Counter,
    contested: Gauge,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "packhorse_agent_node_writes",
            "Writes to the node's own Node object by kind (inventory, totals, labels, operator, taint) and result (ok, conflict, refused, \
             unknown)",
            metrics.writes.clone(),
        );
        registry.register(
            "packhorse_agent_node_last_write_timestamp_seconds",
            "When a write of each kind last succeeded",
            metrics.last.clone(),
        );
        registry.register(
            "packhorse_agent_node_watch_interruptions",
            "Errors of the watch of the node's own Node object",
            metrics.interruptions.clone(),
        );
        registry.register(
            "packhorse_agent_labels_contested",
            "Labels of this node that are left alone because another field manager owns them with another value",
            metrics.contested.clone(),
        );
        metrics
    }

    /// How many writes of one kind ended with one result.
    pub fn writes(&self, kind: &'static str, result: &'static str) -> u64 {
        self.writes.get_or_create(&Write { kind, result }).get()
    }

    /// How many labels are left to other owners now.
    pub fn contested(&self) -> i64 {
        self.contested.get()
    }

    pub(super) fn wrote(&self, kind: &'static str, result: &'static str) {
        self.writes.get_or_create(&Write { kind, result }).inc();
        if result == "ok" {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            self.last.get_or_create(&Kind { kind }).set(now.as_secs_f64());
        }
    }

    pub(super) fn interrupted(&self) {
        self.interruptions.inc();
    }

    pub(super) fn set_contested(&self, labels: usize) {
        self.contested.set(i64::try_from(labels).unwrap_or(i64::MAX));
    }
}
