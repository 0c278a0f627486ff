//! Rules that refuse a pod, beyond what the parser of requests refuses: what would make a GPU pod unbookable, or let a container
//! see or take more than it was given.

use crate::gpu::parse::{Denial, shown};
use crate::kube_api::names;
use crate::kube_api::pod::PodView;

use super::decision::Decision;
use super::metrics::Reason;
use super::settings::{ForeignScheduler, NodeName, Privileged, Settings};
use super::subject::Subject;

/// The name that the API server fills in.
const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// The scheduler a pod names against ours, `None` where it left the choice open.
pub(super) fn foreign_scheduler<'p>(settings: &Settings, pod: &'p PodView<'_>) -> Option<&'p str> {
    let name = pod.spec.scheduler_name.as_deref().unwrap_or_default();
    (!name.is_empty() && name != DEFAULT_SCHEDULER && name != settings.scheduler_name).then_some(name)
}

/// What no GPU pod may say about where it runs.
pub(super) fn placement(settings: &Settings, pod: &PodView<'_>, decision: &mut Decision) {
    if let Some(name) = foreign_scheduler(settings, pod) {
        let ours = &settings.scheduler_name;
        match settings.foreign_scheduler {
            ForeignScheduler::Deny | ForeignScheduler::Ignore => decision.deny(
                Reason::scheduler,
                Denial::new(
                    None,
                    "spec.schedulerName",
                    name,
                    "this scheduler books no GPUs",
                    format!("remove it, or write {ours}"),
                ),
            ),
            ForeignScheduler::Override => {
                decision.warn(
                    None,
                    format_args!(
                        "spec.schedulerName: {:?} replaced by {ours:?}, which books the pod's GPUs",
                        shown(name)
                    ),
                );
            }
        }
    }
    if let Some(node) = pod.spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        match settings.node_name {
            NodeName::Deny => decision.deny(
                Reason::node_name,
                Denial::new(
                    None,
                    "spec.nodeName",
                    node,
                    "a pod with GPUs must be placed by the scheduler, which books its devices",
                    format!("remove it and write nodeSelector {{\"kubernetes.io/hostname\": {:?}}}", shown(node)),
                ),
            ),
            NodeName::Warn => decision.warn(
                None,
                format_args!(
                    "spec.nodeName: {:?}: no scheduler books GPUs for this pod, so its node will refuse to start it",
                    shown(node)
                ),
            ),
        }
    }
    for (key, wanted) in &settings.node_selector {
        let Some(value) = pod.spec.node_selector.get(key.as_str()).filter(|value| value.as_ref() != wanted) else {
            continue;
        };
        decision.deny(
            Reason::node_selector,
            Denial::new(
                None,
                format!("spec.nodeSelector[{key:?}]"),
                value,
                format!("GPU pods of this cluster run where it is {wanted:?}"),
                "remove it, or write that value",
            ),
        );
    }
}

/// What no container of a GPU pod may bring along.
pub(super) fn container(settings: &Settings, container: &Subject<'_, '_>, decision: &mut Decision) {
    if container.privileged() {
        let problem = "a privileged container sees every GPU of its node, given to the pod or not";
        match settings.privileged {
            Privileged::Deny => decision.deny(
                Reason::privileged,
                Denial::new(
                    Some(container.name()),
                    "securityContext.privileged",
                    "true",
                    problem,
                    "remove it, or move the container to a pod without GPUs",
                ),
            ),
            Privileged::Warn => decision.warn(Some(container.name()), problem),
            Privileged::Allow => {}
        }
    }
    for variable in container.view.env.as_deref().unwrap_or_default().iter().filter(|env| limits(&env.name)) {
        decision.deny(
            Reason::limit_variable,
            Denial::new(
                Some(container.name()),
                format!("env {}", variable.name),
                variable.value.as_deref().unwrap_or_default(),
                "limits of GPU memory and compute come from the request alone",
                "remove it and ask with gpumem and gpucores",
            ),
        );
    }
}

/// Whether a variable would change what a container may take of a GPU.
pub(super) fn limits(variable: &str) -> bool {
    variable.starts_with("NVIDIA_GPU_MEMORY_") || variable.starts_with("CUDA_MPS_")
}

/// The first CDI device of an annotation that would give a GPU: `vendor/class=name`, comma-separated.
fn gpu_device<'v>(settings: &Settings, value: &'v str) -> Option<&'v str> {
    value.split(',').map(str::trim).find(|device| {
        let vendor = device.split(['/', '=']).next().unwrap_or_default();
        ["nvidia.com", settings.resource_prefix.as_str(), names::PREFIX.trim_end_matches('/')]
            .iter()
            .any(|ours| vendor.strip_suffix(ours).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
    })
}

/// The pod's CDI annotations that would give it GPUs: key and offending device.
pub(super) fn cdi_annotations<'p>(
    settings: &'p Settings,
    pod: &'p PodView<'_>,
) -> impl Iterator<Item = (&'p str, &'p str)> {
    let annotations = pod.metadata.annotations.iter().filter(|(key, _)| key.starts_with("cdi.k8s.io/"));
    annotations.filter_map(|(key, value)| Some((key.as_ref(), gpu_device(settings, value)?)))
}

/// Denies a CDI annotation.
pub(super) fn cdi(key: &str, device: &str, decision: &mut Decision) {
    decision.deny(
        Reason::cdi_annotation,
        Denial::new(
            None,
            format!("annotation {key}"),
            device,
            "gives the pod a GPU that nothing booked",
            "remove it and ask for GPUs in the containers' resources",
        ),
    );
}
