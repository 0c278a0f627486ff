//! Usage beside allocations: plain data, the same for JSON, YAML and tables. Field names are part of the output's contract, `v` 1. A
//! row for every container's part of a device, whether an agent told of it or not.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::usage::{ContainerUsage, NodeUsage, Part};
use crate::inspect::{Cluster, Seen};
use crate::ledger::PodEntry;

/// Everything that was asked for; what was not is absent.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Report {
    /// Version of this format.
    pub v: u8,
    /// Parts of devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<Vec<PartReport>>,
    /// Nodes with devices, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<NodeReport>>,
    /// Devices, by node, in the inventory's order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<DeviceReport>>,
    /// Nodes of which nothing is known, with why and what to do.
    pub silent: Vec<Silent>,
    /// What could not be read.
    pub warnings: Vec<String>,
}

/// A node whose agent told nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Silent {
    /// The node.
    pub node: String,
    /// Why, and the remedy.
    pub why: String,
}

/// Whether numbers are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The agent told.
    Reported,
    /// The agent told of others and not of this: it has not started, or its processes could not be looked at.
    Unreported,
    /// The agent did not answer.
    Unknown,
    /// The agent told of it, and no allocation gives it that device: it uses what it was not given, or has just come or gone.
    Unbooked,
}

/// What one container uses of one device.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartReport {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name, empty where that is not known.
    pub container: String,
    /// The node.
    pub node: String,
    /// The device's UUID, empty where that is not known.
    pub device: String,
    /// The card's NVML index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// NVML's product name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Of a MIG instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Whether the numbers below are known.
    pub state: State,
    /// MiB in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_used: Option<u64>,
    /// MiB it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<u64>,
    /// Percent of the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_percent: Option<f64>,
    /// How far the limit is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<String>,
    /// Percent of the device's multiprocessors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub utilization: Option<f64>,
    /// Percent it may use; absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores_limit: Option<u16>,
    /// Its processes on the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceReport {
    /// Its node.
    pub node: String,
    /// Its UUID.
    pub uuid: String,
    /// The card's NVML index.
    pub index: u32,
    /// NVML's product name.
    pub model: String,
    /// Of a MIG instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Whether its agent answered.
    pub state: State,
    /// MiB there are.
    pub memory: u64,
    /// MiB in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_used: Option<u64>,
    /// MiB booked.
    pub memory_booked: u64,
    /// Percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub utilization: Option<f64>,
    /// Percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_utilization: Option<f64>,
    /// Degrees Celsius; of a MIG instance its card's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Watts; of a MIG instance its card's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<f64>,
    /// Watts it may draw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_limit: Option<f64>,
    /// MHz.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sm_clock: Option<f64>,
    /// `healthy`, `suspect`, `unhealthy`, `recovering`, as published.
    pub health: &'static str,
    /// Whether an administrator took it out.
    pub cordoned: bool,
    /// Pods that hold it.
    pub pods: usize,
    /// MiB of processes outside our containers, by kind: `host`, `pod`, `unknown`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unattributed: BTreeMap<String, u64>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// Whether its agent answered.
    pub state: State,
    /// Devices listed.
    pub devices: usize,
    /// MiB there are.
    pub memory: u64,
    /// MiB in use, where every device tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_used: Option<u64>,
    /// MiB booked.
    pub memory_booked: u64,
    /// Percent, the mean of the cards that tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub utilization: Option<f64>,
    /// Degrees Celsius of the hottest card.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Watts of all cards that tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<f64>,
    /// Pods that hold GPUs.
    pub pods: usize,
}

/// What the agents of the nodes said, by node.
pub type Answers = BTreeMap<String, NodeUsage>;

/// Every part of a device on a node: of its bound pods by what they hold, and whatever else its agent tells of.
pub fn parts(cluster: &Cluster, node: &str, answer: Option<&NodeUsage>) -> Vec<PartReport> {
    let mut rows = Vec::new();
    let mut told = BTreeSet::new();
    let devices = crate::inspect::report::devices_of(cluster, node);
    for entry in cluster.ledger.pods_on(node) {
        let key = (std::sync::Arc::clone(&entry.namespace), std::sync::Arc::clone(&entry.name));
        for held in held(&entry, cluster.pods.get(&key), answer) {
            let used = answer.and_then(|answer| answer.containers.get(&held.part));
            told.insert(held.part.clone());
            // A limit alone says nothing of use: nobody could look at its processes.
            let tells = used.is_some_and(|used| used.memory_used.is_some() || used.processes.is_some());
            let state = match answer {
                None => State::Unknown,
                Some(_) if tells => State::Reported,
                Some(_) => State::Unreported,
            };
            rows.push(PartReport { state, ..row(node, held, used) });
        }
    }
    for (part, used) in answer.iter().flat_map(|answer| &answer.containers) {
        if !told.contains(part) {
            let held = Held { part: part.clone(), memory: None, cores: None, enforcement: None };
            rows.push(PartReport { state: State::Unbooked, ..row(node, held, Some(used)) });
        }
    }
    for row in &mut rows {
        if let Some(device) = devices.iter().find(|device| device.uuid == row.device) {
            row.index = Some(device.index);
            row.model = Some(device.model.clone());
            row.profile.clone_from(&device.profile);
        }
    }
    rows
}

/// What a pod was given.
struct Held {
    part: Part,
    memory: Option<u64>,
    cores: Option<u16>,
    enforcement: Option<String>,
}

fn held(entry: &PodEntry, seen: Option<&Seen>, answer: Option<&NodeUsage>) -> Vec<Held> {
    let part = |container: &str, device: &str| Part {
        namespace: entry.namespace.to_string(),
        pod: entry.name.to_string(),
        container: container.to_owned(),
        device: device.to_owned(),
    };
    let Some(allocation) = &entry.allocation else {
        // What it holds is known by device at most.
        let mut all: Vec<Held> = entry
            .holdings
            .iter()
            .map(|holding| Held {
                part: part("", &holding.device),
                memory: Some(holding.memory.into()),
                cores: Some(holding.cores),
                enforcement: None,
            })
            .collect();
        if all.is_empty() {
            all.push(Held { part: part("", ""), memory: None, cores: None, enforcement: None });
        }
        return all;
    };
    let mut all = Vec::new();
    for container in &allocation.containers {
        let ends = seen.is_some_and(|seen| seen.initial.contains(&*container.name));
        for share in &container.shares {
            let part = part(&container.name, &share.device);
            // An init container that its agent does not tell of has ended, or its turn has not come.
            if ends && answer.is_some_and(|answer| !answer.containers.contains_key(&part)) {
                continue;
            }
            let enforcement = Some(share.enforcement.as_str().to_owned());
            all.push(Held { part, memory: Some(share.memory.into()), cores: Some(share.cores), enforcement });
        }
    }
    all
}

fn row(node: &str, held: Held, used: Option<&ContainerUsage>) -> PartReport {
    let Held { part, memory, cores, enforcement } = held;
    let memory_used = used.and_then(|used| used.memory_used);
    let memory_limit = memory.or_else(|| used.and_then(|used| used.memory_limit));
    let told = used.and_then(|used| used.cores_limit);
    PartReport {
        namespace: part.namespace,
        pod: part.pod,
        container: part.container,
        node: node.to_owned(),
        device: part.device,
        index: None,
        model: None,
        profile: None,
        state: State::Unknown,
        memory_used,
        memory_limit,
        memory_percent: memory_used.zip(memory_limit).and_then(|(used, limit)| share(used, limit)),
        enforcement: enforcement.or_else(|| used.and_then(|used| used.enforcement.clone())),
        utilization: used.and_then(|used| used.utilization),
        cores_limit: cores.or(told).filter(|cores| *cores > 0),
        processes: used.and_then(|used| used.processes),
    }
}

/// Percent, to a tenth.
fn share(used: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| (used as f64 * 1000.0 / of as f64).round() / 10.0)
}

/// The devices of one node.
pub fn devices(cluster: &Cluster, node: &str, answer: Option<&NodeUsage>) -> Vec<DeviceReport> {
    let published = crate::inspect::report::devices_of(cluster, node);
    let site = cluster.nodes.get(node).and_then(|site| site.inventory.as_ref()?.as_ref().ok());
    let of_card = |uuid: &str| {
        let listed = site.into_iter().flat_map(|inventory| inventory.devices.iter());
        let card = listed.filter(|device| &*device.uuid == uuid).find_map(|device| device.parent.as_deref());
        answer.and_then(|answer| answer.devices.get(card.unwrap_or(uuid)))
    };
    published
        .into_iter()
        .map(|device| {
            let own = answer.and_then(|answer| answer.devices.get(&device.uuid));
            let card = of_card(&device.uuid);
            let state = match (answer, own) {
                (None, _) => State::Unknown,
                (Some(_), None) => State::Unreported,
                (Some(_), Some(_)) => State::Reported,
            };
            DeviceReport {
                node: node.to_owned(),
                index: device.index,
                model: device.model,
                profile: device.profile,
                state,
                memory: device.memory.total,
                memory_used: own.and_then(|own| own.memory_used),
                memory_booked: device.memory.booked,
                utilization: own.and_then(|own| own.utilization),
                memory_utilization: own.and_then(|own| own.memory_utilization),
                temperature: card.and_then(|card| card.temperature),
                power: card.and_then(|card| card.power),
                power_limit: card.and_then(|card| card.power_limit),
                sm_clock: card.and_then(|card| card.sm_clock),
                health: device.health,
                cordoned: device.cordoned,
                pods: device.holders.len() + usize::from(device.foreign.is_some()),
                unattributed: own.map(|own| own.unattributed.clone()).unwrap_or_default(),
                uuid: device.uuid,
            }
        })
        .collect()
}

/// One node.
pub fn node(cluster: &Cluster, name: &str, answer: Option<&NodeUsage>) -> NodeReport {
    let devices = devices(cluster, name, answer);
    // Cards, MIG instances left out: what a card draws is told once.
    let told = || answer.into_iter().flat_map(|answer| answer.devices.values());
    let each: Vec<f64> = told().filter_map(|device| device.utilization).collect();
    let power: Vec<f64> = told().filter_map(|device| device.power).collect();
    let used: Option<Vec<u64>> = devices.iter().map(|device| device.memory_used).collect();
    NodeReport {
        name: name.to_owned(),
        state: if answer.is_some() { State::Reported } else { State::Unknown },
        devices: devices.len(),
        memory: devices.iter().map(|device| device.memory).sum(),
        memory_used: used.filter(|used| !used.is_empty()).map(|used| used.iter().sum()),
        memory_booked: devices.iter().map(|device| device.memory_booked).sum(),
        utilization: (!each.is_empty()).then(|| each.iter().sum::<f64>() / each.len() as f64),
        temperature: told().filter_map(|device| device.temperature).max_by(f64::total_cmp),
        power: (!power.is_empty()).then(|| power.iter().sum()),
        pods: cluster.ledger.pods_on(name).len(),
    }
}
