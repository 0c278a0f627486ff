//! What is measured of the devices. Series of a device that is not published any more go away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::agent::view::NodeView;
use crate::gpu::device::{Enforcement, Health};

const HEALTH: [(Health, &str); 4] = [
    (Health::Healthy, "healthy"),
    (Health::Suspect, "suspect"),
    (Health::Unhealthy, "unhealthy"),
    (Health::Recovering, "recovering"),
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeviceHealth {
    device: String,
    health: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Xid {
    device: String,
    xid: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Level {
    enforcement: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// The series. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    health: Family<DeviceHealth, Gauge>,
    xids: Family<Xid, Counter>,
    devices: Family<Level, Gauge>,
    failures: Family<Reason, Counter>,
    unreadable: Gauge,
    /// By card.
    last_xids: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            health: Family::default(),
            xids: Family::default(),
            devices: Family::default(),
            failures: Family::default(),
            unreadable: Gauge::default(),
            last_xids: Arc::default(),
        };
        registry.register(
            "packhorse_agent_device_health",
            "1 for the state a device is in, 0 for the others",
            metrics.health.clone(),
        );
        registry.register(
            "packhorse_agent_xid_events",
            "Errors (Xid) by device, also those of programs; no device where the driver named none",
            metrics.xids.clone(),
        );
        registry.register(
            "packhorse_agent_devices",
            "Published devices by how far a memory limit is kept",
            metrics.devices.clone(),
        );
        registry.register(
            "packhorse_agent_backend_failures",
            "Calls to the driver that failed: discovery, event, probe",
            metrics.failures.clone(),
        );
        registry.register(
            "packhorse_agent_unreadable_cards",
            "GPUs that are there and could not be read when last looked for",
            metrics.unreadable.clone(),
        );
        metrics
    }

    /// The last Xid of a card since the agent's start, 0 where there was none.
    pub fn last_xid(&self, card: &str) -> u64 {
        // Every change is one call on the map.
        self.last_xids.lock().unwrap_or_else(PoisonError::into_inner).get(card).copied().unwrap_or(0)
    }

    /// `uuid`: of the card or the MIG instance, empty where the driver named none.
    pub(super) fn xid(&self, uuid: &str, card: &str, xid: u64) {
        self.last_xids.lock().unwrap_or_else(PoisonError::into_inner).insert(card.to_owned(), xid);
        self.xids.get_or_create(&Xid { device: uuid.to_owned(), xid }).inc();
    }

    pub(super) fn failed(&self, reason: &'static str) {
        self.failures.get_or_create(&Reason { reason }).inc();
    }

    pub(super) fn unreadable(&self, cards: usize) {
        self.unreadable.set(i64::try_from(cards).unwrap_or(i64::MAX));
    }

    pub(super) fn publish(&self, before: &NodeView, view: &NodeView) {
        for old in before.devices.iter().filter(|old| view.device(&old.uuid).is_none()) {
            for (_, health) in HEALTH {
                self.health.remove(&DeviceHealth { device: old.uuid.to_string(), health });
            }
        }
        let mut levels: BTreeMap<Enforcement, i64> = BTreeMap::new();
        for device in &view.devices {
            for (state, health) in HEALTH {
                let series = DeviceHealth { device: device.uuid.to_string(), health };
                self.health.get_or_create(&series).set(i64::from(device.health == state));
            }
            *levels.entry(device.enforcement).or_default() += 1;
        }
        for (level, enforcement) in Enforcement::ALL {
            let count = levels.get(&level).copied().unwrap_or(0);
            self.devices.get_or_create(&Level { enforcement }).set(count);
        }
    }
}
