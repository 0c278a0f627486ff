//! Pods that use a device without an allocation: they came around Packhorse. By policy they are refused, or get whole devices that
//! nobody holds. The choice is pinned like any other; before such a container starts, the world must know, lest the extender gives the
//! same device to a pod of its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::pods::NodePod;
use super::view::NodeView;
use crate::gpu::allocation::{Allocation, ContainerAllocation, Share};
use crate::gpu::device::{Device, Health};
use crate::gpu::request::Phase;

/// What becomes of foreign pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Policy {
    /// Their containers do not start.
    #[default]
    Refuse,
    /// They get whole free devices.
    Serve,
}

/// Whoever writes this node's Node object, as the check at container start needs it.
#[tonic::async_trait]
pub trait Publication: Send + Sync + std::fmt::Debug {
    /// Devices that an administrator has taken out (node annotation `packhorse.dev/cordon`), by UUID, as last seen.
    fn cordoned(&self) -> BTreeSet<Arc<str>>;

    /// Returns once the API server has accepted an inventory that tells of everything that `Standing` holds at the time of the
    /// call.
    ///
    /// # Errors
    /// It was not accepted in a time well below the kubelet's 30 s, in words.
    async fn published(&self) -> Result<(), String>;
}

/// Chooses devices for all containers of a pod, each of a container's own. An ordinary init container has finished before the app
/// containers start, so it takes theirs first. `free`: whether nobody holds the device.
///
/// # Errors
/// Which container cannot be served.
pub fn choose(pod: &NodePod, view: &NodeView, free: impl Fn(&Device) -> bool) -> Result<Allocation, String> {
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    let mut of_apps: Vec<&Device> = Vec::new();
    let mut containers = Vec::new();
    let running = pod.containers.iter().filter(|(_, phase)| *phase != Phase::Init);
    let inits = pod.containers.iter().filter(|(_, phase)| *phase == Phase::Init);
    for (name, phase) in running.chain(inits) {
        let mut shares = Vec::new();
        for (resource, count) in pod.slots.get(name).into_iter().flatten() {
            let apps = of_apps.iter().copied().filter(|_| *phase == Phase::Init);
            let others = view
                .devices
                .iter()
                .filter(|device| !taken.contains(&*device.uuid) && device.health == Health::Healthy && free(device));
            let candidates = apps.chain(others).filter(|device| view.resource_of(device).as_ref() == Some(resource));
            let chosen: Vec<&Device> = candidates.take(*count as usize).collect();
            if chosen.len() < *count as usize {
                return Err(format!("container {name} asks for {count} of {resource}"));
            }
            shares.extend(chosen.iter().map(|device| whole(device)));
            taken.extend(chosen.iter().map(|device| &*device.uuid));
            if *phase == Phase::App {
                of_apps.extend(chosen);
            }
        }
        if !shares.is_empty() {
            containers.push(ContainerAllocation { name: Arc::clone(name), shares });
        }
    }
    // In the order of the pod.
    containers.sort_by_key(|container| pod.containers.iter().position(|(name, _)| *name == container.name));
    Ok(Allocation { containers })
}

fn whole(device: &Device) -> Share {
    Share {
        device: Arc::clone(&device.uuid),
        memory: device.memory,
        cores: device.cores,
        exclusive: true,
        enforcement: device.enforcement,
    }
}
