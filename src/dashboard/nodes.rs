//! One node as the page shows it: its devices, and on each the pods that hold a part of it.
//!
//! Names, amounts and states only: nothing of a pod's specification but what it asked of GPUs.

use std::sync::Arc;

use serde::Serialize;

use crate::gpu::allocation::Share;
use crate::gpu::device::{Device, Refused};
use crate::gpu::node::Node;
use crate::ledger::{Damage, Ledger, NodeEntry, NodeState, PodEntry, Snapshot};

/// One node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeLook {
    name: Arc<str>,
    /// `ready`, `notReady` (its agent starts or stops) or `damaged` (its inventory cannot be read).
    state: &'static str,
    /// Whether kube-scheduler puts ordinary pods there.
    schedulable: bool,
    devices: Vec<DeviceLook>,
    /// Pods bound here that the agent refuses to start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused: Vec<RefusedLook>,
    /// Pods bound here without an allocation; the inventory names the device where it is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    foreign: Vec<String>,
}

#[derive(Debug, Serialize)]
struct RefusedLook {
    pod: String,
    reason: String,
}

/// One device. Memory in MiB, cores in percent of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DeviceLook {
    uuid: Arc<str>,
    index: u32,
    model: Arc<str>,
    memory: u32,
    memory_used: u32,
    cores: u16,
    cores_used: u32,
    slots: u16,
    slots_used: u32,
    health: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cordoned: bool,
    enforcement: &'static str,
    pci: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    numa: Option<u16>,
    /// The MIG profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    mig: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Arc<str>>,
    /// `namespace/name` of a foreign pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    foreign: Option<String>,
    pods: Vec<PodLook>,
}

/// What one pod holds of one device.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PodLook {
    uid: Arc<str>,
    namespace: Arc<str>,
    name: Arc<str>,
    memory: u32,
    cores: u16,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    exclusive: bool,
    /// `booked` (its bind is on its way), `starting`, `running` or `terminating`.
    state: &'static str,
    /// Its allocation cannot be read, or contradicts itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    damaged: bool,
    /// Its containers on this device.
    containers: Vec<ContainerLook>,
}

#[derive(Debug, Serialize)]
struct ContainerLook {
    name: Arc<str>,
    memory: u32,
    cores: u16,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    exclusive: bool,
}

impl NodeLook {
    pub(super) fn new(ledger: &Ledger, entry: &NodeEntry) -> Self {
        let snapshot = entry.snapshot();
        let pods = ledger.pods_on(&entry.name);
        let (state, devices) = match &snapshot.state {
            NodeState::Usable(node) => (if node.ready { "ready" } else { "notReady" }, devices(node, &pods)),
            NodeState::Damaged => ("damaged", Vec::new()),
            NodeState::NoInventory => ("notReady", Vec::new()),
        };
        Self {
            name: Arc::clone(&entry.name),
            state,
            schedulable: snapshot.schedulable,
            devices,
            refused: refused(&snapshot),
            foreign: pods.iter().filter(|pod| pod.foreign).map(|pod| full_name(pod)).collect(),
        }
    }
}

fn refused(snapshot: &Snapshot) -> Vec<RefusedLook> {
    let look = |refused: &Refused| RefusedLook {
        pod: refused.pod.clone(),
        reason: refused.reason.chars().take(300).collect(),
    };
    snapshot.refused.iter().map(look).collect()
}

fn full_name(pod: &PodEntry) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

fn devices(node: &Node, pods: &[Arc<PodEntry>]) -> Vec<DeviceLook> {
    let look = |(at, device): (usize, &Device)| DeviceLook {
        uuid: Arc::clone(&device.uuid),
        index: device.index,
        model: Arc::clone(&device.model),
        memory: device.memory,
        memory_used: node.usage[at].memory,
        cores: device.cores,
        cores_used: node.usage[at].cores,
        slots: device.slots,
        slots_used: node.usage[at].slots,
        health: device.health.as_str(),
        cordoned: node.cordoned[at],
        enforcement: device.enforcement.as_str(),
        pci: Arc::clone(&device.pci),
        numa: device.numa,
        mig: device.mig.as_ref().map(|mig| Arc::clone(&mig.profile.0)),
        parent: device.parent.clone(),
        foreign: device.foreign.as_ref().map(|foreign| foreign.pod.clone()),
        pods: pods.iter().filter_map(|pod| on_device(pod, device)).collect(),
    };
    node.devices.iter().enumerate().map(look).collect()
}

/// What a pod holds of a device, if anything.
fn on_device(pod: &PodEntry, device: &Device) -> Option<PodLook> {
    let (memory, cores, exclusive) = if pod.damaged == Some(Damage::Partly) {
        // Which devices it has cannot be read, so it counts on all of them.
        (device.memory, device.cores, true)
    } else {
        let holding = pod.holdings.iter().find(|holding| holding.device == device.uuid)?;
        (holding.memory, holding.cores, holding.exclusive)
    };
    let containers = pod.allocation.iter().flat_map(|allocation| &allocation.containers).flat_map(|container| {
        let here = container.shares.iter().filter(move |share| share.device == device.uuid);
        here.map(move |Share { memory, cores, exclusive, .. }| ContainerLook {
            name: Arc::clone(&container.name),
            memory: *memory,
            cores: *cores,
            exclusive: *exclusive,
        })
    });
    Some(PodLook {
        uid: Arc::clone(&pod.uid),
        namespace: Arc::clone(&pod.namespace),
        name: Arc::clone(&pod.name),
        memory,
        cores,
        exclusive,
        state: state(pod),
        damaged: pod.damaged.is_some(),
        containers: containers.collect(),
    })
}

fn state(pod: &PodEntry) -> &'static str {
    match pod {
        PodEntry { terminating: true, .. } => "terminating",
        PodEntry { confirmed: false, .. } => "booked",
        PodEntry { running: true, .. } => "running",
        _ => "starting",
    }
}

/// Whether every word is somewhere in the node's name, its state, or the model, UUID, health or pods of its devices. `words` are in lower
/// case.
pub(super) fn matches(ledger: &Ledger, entry: &NodeEntry, words: &[String]) -> bool {
    let snapshot = entry.snapshot();
    let mut text = entry.name.to_lowercase();
    let mut add = |word: &str| {
        text.push('\n');
        text.push_str(&word.to_lowercase());
    };
    match &snapshot.state {
        NodeState::Usable(node) => {
            add(if node.ready { "ready" } else { "not ready" });
            for (device, cordoned) in node.devices.iter().zip(&node.cordoned) {
                add(&device.model);
                add(&device.uuid);
                add(device.health.as_str());
                if *cordoned {
                    add("cordoned");
                }
                if let Some(foreign) = &device.foreign {
                    add("foreign");
                    add(&foreign.pod);
                }
                if let Some(mig) = &device.mig {
                    add("mig");
                    add(&mig.profile.0);
                }
            }
        }
        NodeState::Damaged => add("damaged"),
        NodeState::NoInventory => {}
    }
    for pod in ledger.pods_on(&entry.name) {
        add(&full_name(&pod));
    }
    words.iter().all(|word| text.contains(word.as_str()))
}
