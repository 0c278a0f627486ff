//! What the ledger tells Prometheus: counters as things happen, totals read from the ledger at each scrape.
//!
//! Three series a device (`packhorse_ledger_device_*`): 5,000 nodes with 8 GPUs make 120,000; the setting `deviceMetrics` leaves
//! them out. Everything else is a handful of series.

use std::collections::HashSet;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::Ledger;
use super::node::NodeState;
use crate::gpu::node::Usage;
use crate::metrics::exposition::{self, Bulk, label};

/// Reads one figure of a device.
type Value = fn(&Usage) -> u32;
type Labels = [(&'static str, &'static str); 1];

/// Counters of the ledger. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    damaged: Family<[(&'static str, &'static str); 2], Counter>,
    restarts: Family<Labels, Counter>,
}

impl Metrics {
    /// Registers the counters.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "packhorse_ledger_damaged_objects",
            "Nodes and pods of which something could not be read, by kind and reason, each told once",
            metrics.damaged.clone(),
        );
        registry.register(
            "packhorse_ledger_watch_restarts",
            "Lists and watches that were interrupted, by kind",
            metrics.restarts.clone(),
        );
        metrics
    }

    pub(super) fn damaged(&self, kind: &'static str, reason: &'static str) {
        self.damaged.get_or_create(&[("kind", kind), ("reason", reason)]).inc();
    }

    pub(super) fn watch_restarted(&self, kind: &'static str) {
        self.restarts.get_or_create(&[("kind", kind)]).inc();
    }
}

/// Reads the totals at each scrape.
#[derive(Debug)]
struct Totals(Arc<Ledger>);

/// What is booked per device, read at each scrape.
#[derive(Debug)]
struct DeviceSeries(Arc<Ledger>);

impl Ledger {
    /// Three series a device, where the settings want them.
    pub fn device_series(self: &Arc<Self>) -> Arc<dyn Bulk> {
        Arc::new(DeviceSeries(Arc::clone(self)))
    }

    /// Registers the totals, which are read at each scrape.
    pub fn register_totals(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_collector(Box::new(Totals(Arc::clone(self))));
    }
}

impl Collector for Totals {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let nodes: Vec<_> =
            self.0.nodes().into_iter().map(|entry| (Arc::clone(&entry.name), entry.snapshot())).collect();
        let mut states = [("usable", 0_i64), ("not_ready", 0), ("no_inventory", 0), ("damaged", 0)];
        for (_, snapshot) in &nodes {
            let state = match &snapshot.state {
                NodeState::Usable(node) if node.ready => 0,
                NodeState::Usable(_) => 1,
                NodeState::NoInventory => 2,
                NodeState::Damaged => 3,
            };
            states[state].1 += 1;
        }
        gauges(&mut encoder, "packhorse_ledger_nodes", "Nodes by state", "state", &states)?;

        let mut pods = [("bound", 0_i64), ("booked", 0), ("nominated", 0), ("foreign", 0), ("damaged", 0)];
        let listing: HashSet<&str> = nodes
            .iter()
            .filter(|(_, snapshot)| matches!(snapshot.state, NodeState::Usable(_)))
            .map(|(name, _)| &**name)
            .collect();
        for pod in self.0.pods.iter() {
            // Where we serve no devices, a pod that asks for GPUs is somebody else's affair.
            if pod.foreign && !pod.node.as_ref().is_some_and(|node| listing.contains(&**node)) {
                continue;
            }
            let state = match (&pod.node, pod.confirmed) {
                (None, _) => 2,
                (Some(_), false) => 1,
                (Some(_), true) if pod.foreign => 3,
                (Some(_), true) if pod.damaged.is_some() => 4,
                (Some(_), true) => 0,
            };
            pods[state].1 += 1;
        }
        gauges(&mut encoder, "packhorse_ledger_pods", "GPU pods by what is known of them", "state", &pods)?;

        let doubts = &self.0.doubts;
        let open = [
            ("booked", i64::try_from(doubts.booked()).unwrap_or(i64::MAX)),
            ("vanished", i64::try_from(doubts.vanished()).unwrap_or(i64::MAX)),
        ];
        let help = "Pods that the watch has not confirmed: bookings, and pods missing from a list";
        gauges(&mut encoder, "packhorse_ledger_unconfirmed", help, "kind", &open)?;
        Ok(())
    }
}

impl Bulk for DeviceSeries {
    fn pieces(&self) -> Box<dyn Iterator<Item = String> + Send> {
        const FAMILIES: [(&str, &str, Value); 3] = [
            ("packhorse_ledger_device_memory_mebibytes", "MiB booked on a device", |usage| usage.memory),
            ("packhorse_ledger_device_cores_percent", "Percent of cores booked on a device", |usage| usage.cores),
            ("packhorse_ledger_device_slots", "Slots booked on a device", |usage| usage.slots),
        ];
        if !self.0.settings().device_metrics {
            return Box::new(std::iter::empty());
        }
        // All three families tell of the same moment.
        let nodes: Arc<[_]> =
            self.0.nodes().into_iter().map(|entry| (Arc::clone(&entry.name), entry.snapshot())).collect();
        Box::new(FAMILIES.into_iter().flat_map(move |(name, help, value)| {
            let nodes = Arc::clone(&nodes);
            let devices = (0..nodes.len()).flat_map({
                let nodes = Arc::clone(&nodes);
                move |at| {
                    let devices = match &nodes[at].1.state {
                        NodeState::Usable(node) => node.devices.len(),
                        NodeState::NoInventory | NodeState::Damaged => 0,
                    };
                    (0..devices).map(move |device| (at, device))
                }
            });
            exposition::gauges(name, help, devices, move |(at, device), out| {
                let (node_name, snapshot) = &nodes[*at];
                let NodeState::Usable(node) = &snapshot.state else { return 0 };
                label(out, "node", node_name);
                out.push(',');
                label(out, "device", &node.devices[*device].uuid);
                value(&node.usage[*device]).into()
            })
        }))
    }
}

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    values: &[(&str, i64)],
) -> Result<(), std::fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (state, value) in values {
        ConstGauge::new(*value).encode(family.encode_family(&[(label, *state)])?)?;
    }
    Ok(())
}
