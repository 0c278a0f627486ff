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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::agent::view::MigStrategy;
    use crate::gpu::allocation::ContainerAllocation;
    use crate::gpu::device::{Enforcement, MigInstance};
    use crate::gpu::request::{Memory, MigProfile, Phase, PodRequest};

    fn device(uuid: &str, profile: Option<&str>) -> Device {
        Device {
            uuid: uuid.into(),
            index: 0,
            model: "NVIDIA A100".into(),
            memory: if profile.is_some() { 9728 } else { 81_920 },
            cores: 100,
            slots: 10,
            numa: None,
            pci: "0000:07:00.0".into(),
            health: Health::Healthy,
            enforcement: if profile.is_some() { Enforcement::Mig } else { Enforcement::Advisory },
            links: Vec::new(),
            mig: profile.map(|profile| MigInstance { profile: MigProfile(profile.into()), start: 0, size: 1 }),
            parent: profile.map(|_| Arc::from("GPU-2")),
            foreign: None,
        }
    }

    fn view(mig_strategy: MigStrategy) -> NodeView {
        NodeView {
            devices: vec![device("GPU-1", None), device("MIG-1", Some("1g.10gb")), device("MIG-2", Some("1g.10gb+me"))],
            mig_strategy,
            ..NodeView::default()
        }
    }

    fn pod(ask: Ask, device: &str, (memory, cores, exclusive): (u32, u16, bool)) -> NodePod {
        let asked = ContainerRequest {
            name: "c".into(),
            phase: Phase::App,
            count: 1,
            ask,
            index: Vec::new(),
            uuid: Vec::new(),
        };
        let share = Share { device: device.into(), memory, cores, exclusive, enforcement: Enforcement::Advisory };
        let containers = vec![ContainerAllocation { name: "c".into(), shares: vec![share] }];
        NodePod {
            uid: "u".into(),
            namespace: "ns".into(),
            name: "p".into(),
            node: "n".into(),
            ended: false,
            deleting: false,
            created: String::new(),
            containers: vec![("c".into(), Phase::App)],
            running: Vec::new(),
            origin: Origin::Packhorse,
            request: Ok(PodRequest { containers: vec![asked], constraints: Constraints::default() }),
            allocation: Some(Ok(Allocation { containers })),
            totals: (0, 0),
            slots: BTreeMap::new(),
        }
    }

    #[test]
    fn a_request_is_held_against_the_kind_of_device_that_it_means() {
        let mig = |profile: &str| Ask::Mig(MigProfile(profile.into()));
        let half = Ask::Share { memory: Memory::Percent(50), cores: 0 };
        let (card, instance) = ((81_920, 100, true), (9728, 100, true));
        for (ask, device, given, strategy, resource, fits) in [
            (Ask::Exclusive, "GPU-1", card, MigStrategy::None, "nvidia.com/gpu", true),
            (Ask::Exclusive, "GPU-1", instance, MigStrategy::None, "nvidia.com/gpu", false),
            (Ask::Exclusive, "MIG-1", instance, MigStrategy::Single, "nvidia.com/gpu", true),
            (Ask::Exclusive, "MIG-1", instance, MigStrategy::Mixed, "nvidia.com/gpu", false),
            (mig("1g.10gb"), "MIG-1", instance, MigStrategy::Mixed, "nvidia.com/mig-1g.10gb", true),
            (mig("1g.10gb"), "MIG-1", instance, MigStrategy::None, "nvidia.com/mig-1g.10gb", false),
            (mig("1g.10gb"), "MIG-2", instance, MigStrategy::Mixed, "nvidia.com/mig-1g.10gb", false),
            (mig("1g.10gb+me"), "MIG-2", instance, MigStrategy::Mixed, "nvidia.com/mig-1g.10gb.me", true),
            (mig("1g.10gb"), "GPU-1", card, MigStrategy::Mixed, "nvidia.com/gpu", false),
            (half.clone(), "GPU-1", (40_960, 0, false), MigStrategy::None, "nvidia.com/gpu", true),
            (half, "MIG-1", (4864, 0, false), MigStrategy::Single, "nvidia.com/gpu", true),
        ] {
            let case = format!("{ask:?} on {device} under {strategy:?}");
            let view = view(strategy);
            let verdict = allocation(&pod(ask, device, given), "n", &view).and_then(|allocation| {
                claim("container c", Some(&allocation.containers[0].shares), (resource, 1), &view, true)
            });
            assert_eq!(verdict.is_ok(), fits, "{case}: {verdict:?}");
        }
    }
}
