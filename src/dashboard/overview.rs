//! What every reader of the page shares: the nodes in order, sums over all of them, and one mark for each.
//!
//! Built where somebody asks and the ledger has changed since, once for all who ask; else the last one is given again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::gpu::device::Health;
use crate::gpu::node::Node;
use crate::ledger::{Ledger, NodeEntry, NodeState};

/// Sums over all nodes with an inventory. Memory in MiB, cores in percent of one device; MIG instances, whose compute units no request
/// names, do not count in the cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Totals {
    pub(super) nodes: usize,
    /// Their agent is starting or stopping, or their inventory cannot be read.
    not_ready: usize,
    devices: usize,
    /// Not healthy.
    unhealthy: usize,
    cordoned: usize,
    memory: u64,
    memory_used: u64,
    cores: u64,
    cores_used: u64,
    slots: u64,
    slots_used: u64,
}

/// A node in its place.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) entry: Arc<NodeEntry>,
    /// Of its snapshot when this was built.
    pub(super) version: u64,
    /// How full it is, as one character: see [`mark`].
    pub(super) mark: char,
}

/// All nodes that have an inventory, readable or not, in natural order of their names.
#[derive(Debug, Default)]
pub(super) struct Overview {
    pub(super) rows: Vec<Row>,
    pub(super) totals: Totals,
}

/// An overview of an unchanged ledger is built anew after this: a node takes its version an instant before others can see it, so one
/// built in that instant lacks it.
const OLDEST: Duration = Duration::from_secs(2);

/// The last overview.
#[derive(Debug, Default)]
pub(super) struct Overviews(Mutex<Option<Built>>);

#[derive(Debug)]
struct Built {
    /// Of the ledger.
    version: u64,
    at: Instant,
    overview: Arc<Overview>,
}

impl Overviews {
    /// The overview of the ledger as it is now.
    pub(super) fn get(&self, ledger: &Ledger) -> Arc<Overview> {
        // Held while it is built: whoever asks meanwhile wants the same.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let version = ledger.version();
        if let Some(built) = last.as_ref().filter(|built| built.version == version && built.at.elapsed() < OLDEST) {
            return Arc::clone(&built.overview);
        }
        let at = Instant::now();
        let overview = Arc::new(Overview::build(ledger));
        *last = Some(Built { version, at, overview: Arc::clone(&overview) });
        overview
    }
}

impl Overview {
    fn build(ledger: &Ledger) -> Self {
        let mut totals = Totals::default();
        let mut rows = Vec::new();
        for entry in ledger.nodes() {
            let snapshot = entry.snapshot();
            let node = match &snapshot.state {
                NodeState::NoInventory => continue,
                NodeState::Damaged => None,
                NodeState::Usable(node) => Some(node),
            };
            totals.add(node);
            rows.push(Row { version: snapshot.version, mark: mark(node), entry });
        }
        rows.sort_by_cached_key(|row| natural(&row.entry.name));
        Self { rows, totals }
    }
}

impl Totals {
    fn add(&mut self, node: Option<&Node>) {
        self.nodes += 1;
        let Some(node) = node else {
            self.not_ready += 1;
            return;
        };
        self.not_ready += usize::from(!node.ready);
        self.devices += node.devices.len();
        self.cordoned += node.cordoned.iter().filter(|cordoned| **cordoned).count();
        for (device, usage) in node.devices.iter().zip(&node.usage) {
            self.unhealthy += usize::from(device.health != Health::Healthy);
            self.memory += u64::from(device.memory);
            self.memory_used += u64::from(usage.memory);
            self.slots += u64::from(device.slots);
            self.slots_used += u64::from(usage.slots);
            if device.mig.is_none() {
                self.cores += u64::from(device.cores);
                self.cores_used += u64::from(usage.cores);
            }
        }
    }
}

/// `0` to `9`: tenths of its memory that are booked; `!`: its agent is not ready, its inventory cannot be read, or a device is not healthy;
/// `-`: no devices.
fn mark(node: Option<&Node>) -> char {
    let Some(node) = node.filter(|node| node.ready) else { return '!' };
    if node.devices.iter().any(|device| device.health != Health::Healthy) {
        return '!';
    }
    let memory: u64 = node.devices.iter().map(|device| u64::from(device.memory)).sum();
    let used: u64 = node.usage.iter().map(|usage| u64::from(usage.memory)).sum();
    let Some(tenths) = (used * 10).checked_div(memory) else { return '-' };
    u32::try_from(tenths.min(9)).ok().and_then(|tenths| char::from_digit(tenths, 10)).unwrap_or('9')
}

/// Sorts as people count: `node-2` before `node-10`. Each number is led by how many digits it has.
fn natural(name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 4);
    let mut rest = name.as_bytes();
    while let Some(first) = rest.first() {
        if !first.is_ascii_digit() {
            key.push(*first);
            rest = &rest[1..];
            continue;
        }
        let end = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let zeros = number.iter().take_while(|digit| **digit == b'0').count().min(number.len() - 1);
        let digits = &number[zeros..];
        // Digits sort before letters, as they did; no name of a node is longer than 253 bytes.
        key.push(b'0');
        key.push(u8::try_from(digits.len()).unwrap_or(u8::MAX));
        key.extend_from_slice(digits);
        rest = after;
    }
    // Names that differ in leading zeros only keep an order.
    key.push(0);
    key.extend_from_slice(name.as_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_people_count() {
        let mut names = ["node-10", "node-2", "gpu-a-1", "node-2b", "node-02", "node", "gpu-a-11", "gpu-a-2", "7"];
        names.sort_by_cached_key(|name| natural(name));
        assert_eq!(names, ["7", "gpu-a-1", "gpu-a-2", "gpu-a-11", "node", "node-02", "node-2", "node-2b", "node-10"]);
    }

    #[test]
    fn an_unchanged_ledger_is_looked_at_once() {
        let (ledger, overviews) = (Ledger::default(), Overviews::default());
        assert!(Arc::ptr_eq(&overviews.get(&ledger), &overviews.get(&ledger)));
    }
}
