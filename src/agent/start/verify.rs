//! Whether what a pod was given is what it asked for, on this node. Pure: a pod, a snapshot of the devices, and a verdict.

use crate::agent::pods::{NodePod, Origin};
use crate::agent::view::NodeView;
use crate::gpu::allocation::{Allocation, Share};
use crate::gpu::device::{Device, Health};
use crate::gpu::request::{Ask, Constraints, ContainerRequest};
use crate::kube_api::names::ALLOCATION;

use super::fault::{Fault, Reason};

/// What to do about a pod that was given the wrong thing.
const RECREATE: &str = "delete the pod, so that it is created and scheduled again";

/// Whether the pod may start here at all, and with which allocation.
pub(super) fn allocation(pod: &NodePod, node: &str, view: &NodeView) -> Result<Allocation, Fault> {
    let name = pod.full_name();
    if *pod.node != *node {
        let of = if pod.node.is_empty() { "no node".to_owned() } else { format!("node {}", pod.node) };
        return Err(Fault::new(Reason::OtherNode, format!("pod {name} is bound to {of}, not to {node}")));
    }
    if pod.ended {
        return Err(Fault::new(Reason::Ended, format!("pod {name} has ended")));
    }
    let Some(given) = &pod.allocation else {
        return Err(Fault::new(
            Reason::NoAllocation,
            format!(
                "pod {name} has no annotation {ALLOCATION}: it was bound around Packhorse, or the annotation was removed; {RECREATE} \
                 by Packhorse (no spec.nodeName)"
            ),
        ));
    };
    if let Origin::Incomplete(missing) = &pod.origin {
        return Err(Fault::new(
            Reason::Forged,
            format!(
                "pod {name} has an annotation {ALLOCATION} but no {missing}: only the scheduler gives devices away; create the pod \
                 without annotations of packhorse.dev and without spec.nodeName"
            ),
        ));
    }
    let given = given.as_ref().map_err(|damaged| {
        Fault::new(
            Reason::DamagedAllocation,
            format!("the allocation of pod {name} cannot be read: {damaged}; {RECREATE}"),
        )
    })?;
    let request = pod.request.as_ref().map_err(|denial| {
        Fault::new(Reason::DamagedRequest, format!("what pod {name} asks for cannot be read: {denial}; {RECREATE}"))
    })?;
    for container in given.containers.iter().filter(|container| !container.shares.is_empty()) {
        let name_of = format!("container {} of pod {name}", container.name);
        let Some(asked) = request.containers.iter().find(|asked| asked.name == container.name) else {
            return Err(Fault::new(
                Reason::DamagedAllocation,
                format!("{name_of} was given {} device(s) and asks for none; {RECREATE}", container.shares.len()),
            ));
        };
        if container.shares.len() != asked.count as usize {
            return Err(count(&name_of, container.shares.len(), asked.count as usize));
        }
        for share in &container.shares {
            let device = device_of(view, &share.device, &name_of)?;
            amounts(&name_of, asked, &request.constraints, share, device)?;
        }
    }
    Ok(given.clone())
}

/// Whether a container may start now on what was verified for it. `first`: none of its pod's containers has started yet.
pub(super) fn claim(
    name_of: &str,
    shares: Option<&[Share]>,
    (resource, slots): (&str, usize),
    view: &NodeView,
    first: bool,
) -> Result<(), Fault> {
    let shares = shares.unwrap_or_default();
    if shares.len() != slots {
        return Err(count(name_of, shares.len(), slots));
    }
    for share in shares {
        let device = device_of(view, &share.device, name_of)?;
        let uuid = &device.uuid;
        if view.resource_of(device).as_deref() != Some(resource) {
            let of = view.resource_of(device).map_or_else(|| "no resource".to_owned(), |of| format!("resource {of}"));
            return Err(Fault::new(
                Reason::Resource,
                format!(
                    "{name_of} asks for {resource}, and its device {uuid} belongs to {of} on this node; {RECREATE}"
                ),
            ));
        }
        let fit = match device.health {
            Health::Healthy => true,
            // A pod that has begun here stays as long as its device may come back.
            Health::Suspect | Health::Recovering => !first,
            Health::Unhealthy => false,
        };
        if !fit {
            return Err(Fault::new(
                Reason::Health,
                format!("device {uuid} of {name_of} is not healthy; wait until it recovers, or {RECREATE} elsewhere"),
            ));
        }
    }
    Ok(())
}

fn count(name_of: &str, given: usize, asked: usize) -> Fault {
    Fault::new(
        Reason::Count,
        format!("{name_of} asks for {asked} device(s), and its allocation names {given}; {RECREATE}"),
    )
}

fn device_of<'v>(view: &'v NodeView, uuid: &str, name_of: &str) -> Result<&'v Device, Fault> {
    if view.devices.is_empty() {
        let trouble = view.trouble.as_deref().unwrap_or("they have not been discovered yet");
        return Err(Fault::new(Reason::NoDevices, format!("the devices of this node are not known: {trouble}")));
    }
    view.device(uuid).ok_or_else(|| {
        Fault::new(
            Reason::UnknownDevice,
            format!("device {uuid}, which {name_of} was given, is not on this node; {RECREATE}"),
        )
    })
}

/// Equal to what was asked, of this very device.
fn amounts(
    name_of: &str,
    asked: &ContainerRequest,
    constraints: &Constraints,
    share: &Share,
    device: &Device,
) -> Result<(), Fault> {
    let uuid = &device.uuid;
    let whole = (device.memory, device.cores, true);
    let (memory, cores, exclusive) = match &asked.ask {
        Ask::Exclusive => whole,
        Ask::Share { memory, cores } => (memory.of(device.memory), u16::from(*cores), false),
        Ask::Mig(profile) => match &device.mig {
            Some(mig) if mig.profile == *profile => whole,
            _ => {
                return Err(Fault::new(
                    Reason::Resource,
                    format!("{name_of} asks for a MIG instance {profile}, which device {uuid} is not; {RECREATE}"),
                ));
            }
        },
    };
    let wrong = |field: &str, given: String, expected: String| {
        let message = format!(
            "{name_of}, device {uuid}: {field} {given} is allocated where {expected} was asked for; {RECREATE}"
        );
        Err(Fault::new(Reason::Amount, message))
    };
    if share.memory != memory || memory > device.memory {
        return wrong("memory", format!("{} MiB", share.memory), format!("{memory} of {} MiB", device.memory));
    }
    if share.cores != cores || cores > device.cores {
        return wrong("cores", format!("{} %", share.cores), format!("{cores} %"));
    }
    if share.exclusive != exclusive {
        return wrong("exclusive", share.exclusive.to_string(), exclusive.to_string());
    }
    match constraints.require_enforcement {
        Some(level) if !exclusive && device.enforcement < level => Err(Fault::new(
            Reason::Enforcement,
            format!(
                "{name_of} requires enforcement {level}, and device {uuid} gives {} now; {RECREATE} elsewhere",
                device.enforcement
            ),
        )),
        _ => Ok(()),
    }
}
