//! The time between `Allocate` and `PreStartContainer`: which pods the kubelet has written into its checkpoint and not yet started.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

use super::super::node::Node;

/// The part of the kubelet's checkpoint that is looked at.
#[derive(Deserialize)]
struct File {
    #[serde(rename = "Data")]
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "PodDeviceEntries")]
    entries: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "PodUID")]
    uid: String,
    #[serde(rename = "DeviceIDs")]
    slots: BTreeMap<String, Vec<String>>,
}

/// All slots of each pod, by UID; nothing where the kubelet has not written yet.
pub(super) fn allocated(node: &Node) -> BTreeMap<String, BTreeSet<String>> {
    let path = node.kubelet_dir.join("device-plugins/kubelet_internal_checkpoint");
    let Ok(text) = std::fs::read(path) else { return BTreeMap::new() };
    let file: File = serde_json::from_slice(&text).expect("the kubelet's checkpoint is as we know it");
    let mut pods: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in file.data.entries.unwrap_or_default() {
        pods.entry(entry.uid).or_default().extend(entry.slots.into_values().flatten());
    }
    pods
}

/// Waits for slots of pods that had none, so many; their UIDs. Looks every millisecond: a sandbox takes a hundred.
pub(super) async fn newly_allocated(node: &Node, before: &BTreeSet<String>, count: usize) -> BTreeSet<String> {
    let look = async {
        loop {
            let new: BTreeSet<String> = allocated(node).into_keys().filter(|uid| !before.contains(uid)).collect();
            if new.len() >= count {
                break new;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), look).await.expect("the kubelet allocates within 60 s")
}

/// Whether the kubelet has tried to create a container of the pod and could not.
pub(super) fn waits(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let statuses = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let reasons = statuses.filter_map(|status| status.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
    reasons.into_iter().any(|reason| matches!(reason, "CreateContainerError" | "CreateContainerConfigError"))
}
