//! Ephemeral containers added to a pod that exists. They cannot ask for resources, so none of them ever gets a GPU; the rest of
//! the pod is not ours to change any more.

use std::collections::BTreeSet;

use crate::gpu::parse::Rules;
use crate::kube_api::names;
use crate::kube_api::pod::PodView;

use super::decision::Decision;
use super::settings::Settings;
use super::subject::{self, Visible};
use super::{deny, environment, outsider};

/// Decides about the ephemeral containers that `pod` has and `old` had not; those that were there cannot change.
pub(super) fn decide(
    settings: &Settings,
    rules: &Rules,
    namespace: &str,
    pod: &PodView<'_>,
    old: Option<&PodView<'_>>,
) -> Decision {
    let mut decision = Decision::default();
    let ours = subject::names_gpu(rules, pod);
    if !ours && outsider::is_exempt(settings, namespace, pod) {
        return decision;
    }
    let old: BTreeSet<&str> =
        old.iter().flat_map(|old| subject::ephemeral(old)).map(|container| container.name()).collect();
    for container in subject::ephemeral(pod).filter(|container| !old.contains(container.name())) {
        if !ours {
            outsider::container(settings, pod, &container, &mut decision);
            continue;
        }
        deny::container(settings, &container, &mut decision);
        if !matches!(subject::visible(&container), Visible::Absent | Visible::Nothing) {
            let name = names::VISIBLE_DEVICES;
            decision.warn(
                Some(container.name()),
                format_args!("env {name} replaced by \"void\": an ephemeral container cannot be given a GPU"),
            );
        }
        environment::void(&container, &mut decision.patch);
    }
    decision
}
