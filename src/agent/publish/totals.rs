//! The node's totals: extended resources `packhorse.dev/gpu-memory` and `packhorse.dev/gpu-cores` in `status.capacity` and
//! `status.allocatable`, by which Kubernetes' own arithmetic sees GPU sharing.
//!
//! Never lowered below what the pods bound to the node request: a kubelet that restarts ends the pods that no longer fit. Never
//! raised beyond the devices by what pods merely ask for: only a value that the node has, or had from us, is kept up for them.
//! Written anew when a kubelet resets them (kubelet: `reconcileExtendedResource`).

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::inventory::is_known;
use super::own_node::{OwnNode, Totals as Amounts};
use super::write::{Part, Write, next};
use crate::agent::pods::Pods;
use crate::agent::view::{MigStrategy, NodeView, ViewReceiver};
use crate::kube_api::names::{GPU_CORES, GPU_MEMORY};

#[derive(Debug)]
pub(super) struct Totals {
    view: ViewReceiver,
    pods: Arc<Pods>,
    pod_changes: watch::Receiver<u64>,
    written: watch::Sender<bool>,
    memory: Total,
    cores: Total,
    known: bool,
}

/// One of the two.
#[derive(Debug, Default)]
struct Total {
    /// What we last found right, 0 before.
    last: u64,
}

impl Totals {
    pub(super) fn new(view: ViewReceiver, pods: Arc<Pods>, written: watch::Sender<bool>) -> Self {
        let pod_changes = pods.changes();
        Self { view, pods, pod_changes, written, memory: Total::default(), cores: Total::default(), known: false }
    }
}

impl Total {
    /// What the node should say. `there`: what it says; `bound`: what its pods request, `None` while that is not known.
    fn wanted(&mut self, devices: u64, there: Amounts, of: impl Fn(Amounts) -> Option<u64>, bound: Option<u64>) -> u64 {
        let held = self.last.max(of(there).unwrap_or(0));
        self.last = devices.max(bound.map_or(held, |bound| bound.min(held)));
        self.last
    }
}

impl Part for Totals {
    const KIND: &'static str = "totals";

    async fn changed(&mut self) {
        tokio::select! {
            () = next(&mut self.view) => {}
            () = next(&mut self.pod_changes) => {}
        }
    }

    fn due(&mut self, node: &OwnNode) -> Option<Write> {
        let view = Arc::clone(&self.view.borrow_and_update());
        self.pod_changes.mark_unchanged();
        self.known = is_known(&view);
        if !self.known {
            return None;
        }
        let (memory, cores) = of_devices(&view);
        let bound = self.pods.is_complete().then(|| of_pods(&self.pods));
        let there = Amounts {
            memory: node.capacity.memory.max(node.allocatable.memory),
            cores: node.capacity.cores.max(node.allocatable.cores),
        };
        let memory = self.memory.wanted(memory, there, |amounts| amounts.memory, bound.map(|(memory, _)| memory));
        let cores = self.cores.wanted(cores, there, |amounts| amounts.cores, bound.map(|(_, cores)| cores));
        let mut patch = Map::new();
        for (list, has) in [("capacity", node.capacity), ("allocatable", node.allocatable)] {
            let mut amounts = Map::new();
            for (name, has, wanted) in [(GPU_MEMORY, has.memory, memory), (GPU_CORES, has.cores, cores)] {
                // A node without GPUs needs no zero.
                if has != Some(wanted) && (has.is_some() || wanted > 0) {
                    amounts.insert(name.to_owned(), json!(wanted.to_string()));
                }
            }
            if !amounts.is_empty() {
                patch.insert(list.to_owned(), Value::Object(amounts));
            }
        }
        if patch.is_empty() {
            return None;
        }
        self.written.send_if_modified(|written| std::mem::replace(written, false));
        Some(Write::Status(json!({ "status": patch })))
    }

    fn settled(&mut self) {
        if self.known {
            self.written.send_if_modified(|written| !std::mem::replace(written, true));
        }
    }
}

/// MiB and percent over all devices that a count of GPUs means here, failed ones too: cards; under MIG strategy `single` instances,
/// once there are any (as placement counts them).
fn of_devices(view: &NodeView) -> (u64, u64) {
    let single = view.mig_strategy == MigStrategy::Single && view.devices.iter().any(|device| device.mig.is_some());
    let counted = view.devices.iter().filter(|device| device.mig.is_some() == single);
    counted.fold((0, 0), |(memory, cores), device| (memory + u64::from(device.memory), cores + u64::from(device.cores)))
}

fn of_pods(pods: &Pods) -> (u64, u64) {
    let live = pods.list().into_iter().filter(|pod| !pod.ended);
    live.fold((0, 0), |(memory, cores), pod| (pod.totals.0.saturating_add(memory), pod.totals.1.saturating_add(cores)))
}

#[cfg(test)]
#[path = "totals/tests.rs"]
mod tests;
