//! From a pod to its request, and the codec of the annotation `packhorse.dev/request`.
//!
//! The webhook writes the annotation at admission; webhook, extender and ledger read pods by [`read_pod`] alone, so that all of
//! them see one request, before mutation and after it. A damaged annotation is a [`Denial`], never a guess.

mod codec;
mod host;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use codec::{DecodeError, decode, encode};
pub use host::{all_requests, host_requests, total_requests};

use super::names;
use super::pod::{ContainerView, PodView, RawQuantity, Text};
use crate::gpu::parse::{self, Denial, Given, Parsed, RawContainer, RawPod, Rules, VisibleDevices};
use crate::gpu::request::Phase;

/// Reads what a pod asks for, by the rules that hold where it lives.
///
/// # Errors
/// All denials found, at least one.
pub fn read_pod(rules: &Rules, pod: &PodView<'_>) -> Result<Parsed, Vec<Denial>> {
    let given = match pod.metadata.annotations.get(names::REQUEST) {
        None => Given::default(),
        Some(text) => decode(text).map_err(|error| {
            let remedy =
                r#"write {"v":1,"containers":{"<container>":{"count":1,"memory":4096}}}, or remove the annotation"#;
            vec![Denial::new(None, names::REQUEST, text.as_ref(), parse::cut(&error.to_string(), 300), remedy)]
        })?,
    };
    parse::parse(rules, &raw_pod(pod, &rules.prefix), &given)
}

/// A pod as the parser reads it. Of resources only those under `prefix` and our own.
pub fn raw_pod<'a>(pod: &'a PodView<'_>, prefix: &str) -> RawPod<'a> {
    let pairs = |map: &'a BTreeMap<Text<'_>, Text<'_>>| map.iter().map(|(k, v)| (k.as_ref(), v.as_ref())).collect();
    RawPod {
        containers: raw_containers(pod, prefix),
        annotations: pairs(&pod.metadata.annotations),
        labels: pairs(&pod.metadata.labels),
    }
}

/// The containers of a pod as the parser reads them, init containers first; ephemeral ones, which cannot have resources, left out.
pub fn raw_containers<'a>(pod: &'a PodView<'_>, prefix: &str) -> Vec<RawContainer<'a>> {
    containers(pod)
        .map(|(container, phase)| {
            let mut visible_devices = VisibleDevices::Absent;
            let mut env = Vec::new();
            for variable in container.env.iter().flatten() {
                let name = variable.name.as_ref();
                if name != names::VISIBLE_DEVICES {
                    env.push((name, variable.value.as_deref().unwrap_or_default()));
                    continue;
                }
                // The last one wins, as the kubelet has it.
                visible_devices = match (&variable.value_from, &variable.value) {
                    (Some(source), _) => match &source.field_ref {
                        Some(field) if is_own_devices(&field.field_path, &container.name) => VisibleDevices::Ours,
                        _ => VisibleDevices::Indirect,
                    },
                    (None, value) => VisibleDevices::Value(value.as_deref().unwrap_or_default()),
                };
            }
            RawContainer {
                name: &container.name,
                phase,
                limits: raw_resources(container.resources.limits.as_ref(), prefix),
                requests: raw_resources(container.resources.requests.as_ref(), prefix),
                visible_devices,
                env,
            }
        })
        .collect()
}

/// The field path by which a container learns its own devices from the pod's annotations.
pub fn devices_field_path(container: &str) -> String {
    format!("metadata.annotations['{}{container}']", names::DEVICES_PREFIX)
}

/// Whether `path` is the [`devices_field_path`] of `container`.
pub fn is_own_devices(path: &str, container: &str) -> bool {
    path.strip_prefix("metadata.annotations['")
        .and_then(|path| path.strip_prefix(names::DEVICES_PREFIX))
        .and_then(|path| path.strip_suffix("']"))
        == Some(container)
}

fn raw_resources<'a>(list: Option<&'a BTreeMap<Text<'_>, RawQuantity<'_>>>, prefix: &str) -> Vec<(&'a str, &'a str)> {
    let ours = |name: &str| {
        name.starts_with(names::PREFIX) || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
    };
    list.into_iter().flatten().map(|(k, v)| (k.as_ref(), v.as_ref())).filter(|(name, _)| ours(name)).collect()
}

fn phase(container: &ContainerView<'_>) -> Phase {
    if container.restart_policy.as_deref() == Some("Always") { Phase::Sidecar } else { Phase::Init }
}

/// Init containers with their phases, then app containers.
fn containers<'a, 'p>(pod: &'a PodView<'p>) -> impl Iterator<Item = (&'a ContainerView<'p>, Phase)> {
    let init = pod.spec.init_containers.iter().map(|container| (container, phase(container)));
    init.chain(pod.spec.containers.iter().map(|container| (container, Phase::App)))
}

/// Every container of a pod with its phase, in the order of the pod: init containers first.
pub fn phases(pod: &PodView<'_>) -> Vec<(Arc<str>, Phase)> {
    containers(pod).map(|(container, phase)| (container.name.as_ref().into(), phase)).collect()
}
