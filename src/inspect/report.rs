//! What is told of a cluster: plain data, the same for JSON, YAML and tables. Field names are part of the output's contract, `v` 1.

use std::collections::BTreeMap;

use serde::Serialize;

use super::change::{Change, smallest};
use super::cluster::{Cluster, Seen, Site};
use super::why::{answers, before_all, devices};
use crate::gpu::device::{Device, Health};
use crate::gpu::node::{Node, Usage};
use crate::gpu::request::{Ask, ContainerRequest, Memory};

/// Everything that was asked for; what was not is absent.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Report {
    /// Version of this format.
    pub v: u8,
    /// Nodes, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<NodeReport>>,
    /// Devices, by node, in the inventory's order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<DeviceReport>>,
    /// GPU pods, by namespace and name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<Vec<PodReport>>,
    /// What could not be read.
    pub warnings: Vec<String>,
}

/// An amount and how much of it is booked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Booked {
    /// What there is.
    pub total: u64,
    /// What pods hold. May exceed the total where pods were bound around Packhorse.
    pub booked: u64,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// `ready`, `cordoned`, `not-ready` (its kubelet), `agent-not-ready`, `inventory-damaged`, `no-inventory`.
    pub state: &'static str,
    /// The driver's version, empty where unknown.
    pub driver: String,
    /// Devices listed.
    pub devices: usize,
    /// Of these, healthy and not cordoned.
    pub usable: usize,
    /// GPU memory in MiB.
    pub memory: Booked,
    /// GPU cores in percent of a card.
    pub cores: Booked,
    /// CPU in millicores.
    pub cpu: Booked,
    /// Host memory in bytes.
    pub host_memory: Booked,
    /// Pods that hold GPUs.
    pub gpu_pods: usize,
    /// Pods that its agent refuses to start, with its reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedReport>,
}

/// A pod that was bound and cannot start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedReport {
    /// `namespace/name`.
    pub pod: String,
    /// The agent's words.
    pub reason: String,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
    /// MiB.
    pub memory: Booked,
    /// Percent.
    pub cores: Booked,
    /// Containers that may share it.
    pub slots: Booked,
    /// `healthy`, `suspect`, `unhealthy`, `recovering`.
    pub health: &'static str,
    /// Whether an administrator took it out.
    pub cordoned: bool,
    /// How far memory limits are kept.
    pub enforcement: &'static str,
    /// The foreign pod on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign: Option<String>,
    /// Who holds it.
    pub holders: Vec<Holder>,
}

/// A pod's part of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// `namespace/name`.
    pub pod: String,
    /// MiB.
    pub memory: u32,
    /// Percent; 0: no core limit.
    pub cores: u16,
    /// Nobody else on the device.
    pub exclusive: bool,
}

/// One GPU pod.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// `status.phase`.
    pub phase: String,
    /// Where it is bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What each container asks, in words; of waiting pods.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub asks: BTreeMap<String, String>,
    /// What each container has; of bound pods.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub holds: BTreeMap<String, Vec<ShareReport>>,
    /// Anything unusual, with what to do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Why it waits; of waiting pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits: Option<WaitReport>,
}

/// A container's part of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShareReport {
    /// The device's UUID.
    pub device: String,
    /// MiB.
    pub memory: u32,
    /// Percent; 0: no core limit.
    pub cores: u16,
    /// Nobody else beside this container.
    pub exclusive: bool,
    /// The level promised.
    pub enforcement: &'static str,
}

/// Why a pod waits.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitReport {
    /// What kube-scheduler said last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler_says: Option<String>,
    /// Every node, nearest to a fit first.
    pub nodes: Vec<AnswerReport>,
    /// The smallest change of each kind, smallest first.
    pub changes: Vec<ChangeReport>,
}

/// What one node says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AnswerReport {
    /// The node.
    pub node: String,
    /// Whether the pod fits it.
    pub fits: bool,
    /// Why not.
    pub reasons: Vec<String>,
}

/// A change that would help.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangeReport {
    /// `cordon`, `limit`, `pod`.
    pub kind: &'static str,
    /// The node that the pod then fits.
    pub node: String,
    /// What somebody loses by it, in thousandths of a card.
    pub cost: u64,
    /// In words.
    pub change: String,
}

/// One node.
pub fn node(cluster: &Cluster, name: &str, site: &Site) -> NodeReport {
    let found = devices(cluster, name);
    let inventory = site.inventory.as_ref().and_then(|read| read.as_ref().ok());
    let has = |name: &str| u64::try_from(site.allocatable.get(name).copied().unwrap_or(0)).unwrap_or(0);
    let asked = |name: &str| u64::try_from(site.requested.get(name).copied().unwrap_or(0)).unwrap_or(0);
    let booked = |name: &str| Booked { total: has(name), booked: asked(name) };
    let sum = |total: fn(&Device) -> u64, held: fn(&Usage) -> u32| {
        found.as_ref().map_or_else(Booked::default, |node| Booked {
            total: node.devices.iter().map(total).sum(),
            booked: node.usage.iter().map(|usage| u64::from(held(usage))).sum(),
        })
    };
    let refused = inventory.iter().flat_map(|inventory| &inventory.refused);
    NodeReport {
        name: name.to_owned(),
        state: state(site),
        driver: inventory.map(|inventory| inventory.driver.clone()).unwrap_or_default(),
        devices: found.as_ref().map_or(0, |node| node.devices.len()),
        usable: found.as_ref().map_or(0, usable),
        memory: sum(|device| device.memory.into(), |usage| usage.memory),
        cores: sum(|device| device.cores.into(), |usage| usage.cores),
        cpu: booked("cpu"),
        host_memory: booked("memory"),
        gpu_pods: cluster.ledger.pods_on(name).len(),
        refused: refused.map(|one| RefusedReport { pod: one.pod.clone(), reason: one.reason.clone() }).collect(),
    }
}

fn usable(node: &Node) -> usize {
    let each = node.devices.iter().zip(&node.cordoned);
    each.filter(|(device, cordoned)| device.health == Health::Healthy && !**cordoned).count()
}

fn state(site: &Site) -> &'static str {
    match &site.inventory {
        None => "no-inventory",
        Some(Err(_)) => "inventory-damaged",
        Some(Ok(_)) if !site.alive => "not-ready",
        Some(Ok(_)) if site.unschedulable => "cordoned",
        Some(Ok(inventory)) if !inventory.ready => "agent-not-ready",
        Some(Ok(_)) => "ready",
    }
}

/// The devices of one node.
pub fn devices_of(cluster: &Cluster, name: &str) -> Vec<DeviceReport> {
    let Some(node) = devices(cluster, name) else { return Vec::new() };
    let pods = cluster.ledger.pods_on(name);
    let each = node.devices.iter().zip(&node.usage).zip(&node.cordoned);
    each.map(|((device, usage), cordoned)| {
        let holders = pods.iter().flat_map(|pod| {
            let held = pod.holdings.iter().filter(move |holding| holding.device == device.uuid);
            held.map(move |holding| Holder {
                pod: format!("{}/{}", pod.namespace, pod.name),
                memory: holding.memory,
                cores: holding.cores,
                exclusive: holding.exclusive,
            })
        });
        let booked = |total: u64, booked: u32| Booked { total, booked: booked.into() };
        DeviceReport {
            node: name.to_owned(),
            uuid: device.uuid.to_string(),
            index: device.index,
            model: device.model.to_string(),
            profile: device.mig.as_ref().map(|mig| mig.profile.to_string()),
            memory: booked(device.memory.into(), usage.memory),
            cores: booked(device.cores.into(), usage.cores),
            slots: booked(device.slots.into(), usage.slots),
            health: device.health.as_str(),
            cordoned: *cordoned,
            enforcement: device.enforcement.as_str(),
            foreign: device.foreign.as_ref().map(|foreign| foreign.pod.clone()),
            holders: holders.collect(),
        }
    })
    .collect()
}

/// One GPU pod. `explained`: a waiting one is held against every node.
pub fn pod(cluster: &Cluster, seen: &Seen, explained: bool) -> PodReport {
    let entry = cluster.ledger.pod(&seen.uid);
    let mut notes = Vec::new();
    let mut holds = BTreeMap::new();
    if let Some(entry) = entry.as_ref().filter(|entry| entry.node.is_some()) {
        for container in entry.allocation.iter().flat_map(|allocation| &allocation.containers) {
            let shares = container.shares.iter().map(|share| ShareReport {
                device: share.device.to_string(),
                memory: share.memory,
                cores: share.cores,
                exclusive: share.exclusive,
                enforcement: share.enforcement.as_str(),
            });
            holds.insert(container.name.to_string(), shares.collect());
        }
        if entry.foreign {
            notes.push(
                "bound without an allocation of Packhorse; the node's agent decides whether it starts".to_owned(),
            );
        }
        if entry.damaged.is_some() {
            notes.push("its allocation cannot be read; it counts as holding all that it may hold".to_owned());
        }
    }
    if seen.terminating {
        notes.push("being deleted".to_owned());
    }
    let site = seen.node.as_ref().and_then(|node| cluster.nodes.get(node));
    let refused = site.iter().filter_map(|site| site.inventory.as_ref()?.as_ref().ok()).flat_map(|it| &it.refused);
    for refused in refused.filter(|refused| *refused.uid == *seen.uid) {
        notes.push(format!("the node's agent refuses it: {}", refused.reason));
    }
    let mut asks = BTreeMap::new();
    let mut waits = None;
    if let Some(waiting) = seen.waiting.as_deref() {
        notes.extend(before_all(waiting));
        if let Some(node) = &waiting.nominated {
            notes.push(format!("nominated to node {node}; kube-scheduler tries it there first"));
        }
        if !waiting.unjudged.is_empty() {
            notes.push(format!("not judged here: {}; kube-scheduler does", waiting.unjudged.join(", ")));
        }
        if let Ok(record) = &waiting.record {
            asks = record.request.containers.iter().map(|it| (it.name.to_string(), words(it))).collect();
        }
        if explained {
            let answers = if waiting.record.is_ok() { answers(cluster, seen, waiting) } else { Vec::new() };
            if let Some(fit) = answers.first().filter(|answer| answer.whys.is_empty())
                && notes.is_empty()
            {
                notes.push(format!(
                    "it fits node {}: kube-scheduler has not tried it since, or does not run (packhorse check)",
                    fit.node
                ));
            }
            waits = Some(WaitReport {
                scheduler_says: waiting.message.clone(),
                nodes: answers
                    .iter()
                    .map(|answer| AnswerReport {
                        node: answer.node.to_owned(),
                        fits: answer.whys.is_empty(),
                        reasons: answer.whys.iter().map(ToString::to_string).collect(),
                    })
                    .collect(),
                changes: smallest(cluster, seen, waiting).iter().map(change).collect(),
            });
        }
    }
    PodReport {
        namespace: seen.namespace.to_string(),
        name: seen.name.to_string(),
        uid: seen.uid.to_string(),
        phase: seen.phase.clone(),
        node: seen.node.as_ref().map(ToString::to_string),
        asks,
        holds,
        notes,
        waits,
    }
}

fn change(change: &Change) -> ChangeReport {
    let Change { node, what, cost } = change;
    ChangeReport { kind: what.kind(), node: node.to_string(), cost: *cost, change: change.to_string() }
}

/// `2 x 4096 MiB, 30 % cores`.
fn words(container: &ContainerRequest) -> String {
    let times = if container.count == 1 { String::new() } else { format!("{} x ", container.count) };
    match &container.ask {
        Ask::Exclusive => format!("{times}a whole GPU"),
        Ask::Mig(profile) => format!("{times}MIG {profile}"),
        Ask::Share { memory, cores } => {
            let memory = match memory {
                Memory::Mib(mib) => format!("{mib} MiB"),
                Memory::Percent(percent) => format!("{percent} % of the memory"),
                Memory::All => "all memory".to_owned(),
            };
            let cores = if *cores == 0 { String::new() } else { format!(", {cores} % cores") };
            format!("{times}{memory}{cores}")
        }
    }
}
