//! Pods and containers that ask for no GPU and might see some all the same: because their environment, an annotation, or their
//! image under NVIDIA's runtime says so.

use crate::gpu::parse::{Denial, shown};
use crate::kube_api::names;
use crate::kube_api::pod::PodView;

use super::decision::Decision;
use super::deny;
use super::environment;
use super::metrics::Reason;
use super::patch::member;
use super::settings::{Settings, VisibleAction};
use super::subject::{self, Subject, Visible};

/// Whether pods of this namespace and service account may see GPUs without asking: monitoring and operators.
pub(super) fn is_exempt(settings: &Settings, namespace: &str, pod: &PodView<'_>) -> bool {
    let exempt = &settings.visible_devices_all;
    let account = pod.spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    exempt.exempt_namespaces.iter().any(|name| name == namespace)
        || exempt
            .exempt_service_accounts
            .iter()
            .filter_map(|full| full.split_once('/'))
            .any(|(space, name)| space == namespace && name == account)
}

/// A pod without a GPU request, as it is created.
pub(super) fn pod(settings: &Settings, pod: &PodView<'_>, decision: &mut Decision) {
    let action = settings.visible_devices_all.action;
    for (key, device) in deny::cdi_annotations(settings, pod) {
        match action {
            VisibleAction::Deny => deny::cdi(key, device, decision),
            VisibleAction::Void => {
                decision.patch.remove(member("/metadata/annotations", key));
                decision.warn(
                    None,
                    format_args!("annotation {}: {:?} removed: the pod asks for no GPU", shown(key), shown(device)),
                );
            }
            VisibleAction::Warn => {
                decision.warn(
                    None,
                    format_args!(
                        "annotation {}: {:?} gives the pod a GPU that nothing booked",
                        shown(key),
                        shown(device)
                    ),
                );
            }
        }
    }
    for subject in subject::all(pod) {
        container(settings, pod, &subject, decision);
    }
}

/// One container of a pod without a GPU request.
pub(super) fn container(settings: &Settings, pod: &PodView<'_>, subject: &Subject<'_, '_>, decision: &mut Decision) {
    for variable in subject.view.env.as_deref().unwrap_or_default().iter().filter(|env| deny::limits(&env.name)) {
        let name = shown(&variable.name);
        decision.warn(Some(subject.name()), format_args!("env {name} has no effect: the pod asks for no GPU"));
    }
    let value = match subject::visible(subject) {
        Visible::Nothing | Visible::Ours => return,
        Visible::Absent => {
            runtime_class(settings, pod, subject, decision);
            return;
        }
        Visible::Value(value) => value,
        Visible::Indirect => "(from elsewhere)",
    };
    let field = format!("env {}", names::VISIBLE_DEVICES);
    match settings.visible_devices_all.action {
        VisibleAction::Deny => decision.deny(
            Reason::visible_devices,
            Denial::new(
                Some(subject.name()),
                field,
                value,
                "would show the container GPUs that it did not ask for",
                format!(
                    "ask for them with {}/gpu, or write void; monitoring can be exempted in Packhorse's configuration",
                    settings.resource_prefix
                ),
            ),
        ),
        VisibleAction::Void => {
            environment::void(subject, &mut decision.patch);
            decision.warn(
                Some(subject.name()),
                format_args!("{field}: {:?} replaced by \"void\": it asks for no GPU", shown(value)),
            );
        }
        VisibleAction::Warn => {
            decision.warn(
                Some(subject.name()),
                format_args!("{field}: {:?} shows it GPUs that nothing booked", shown(value)),
            );
        }
    }
}

/// Under NVIDIA's runtime an image that says `all` gets all; most CUDA images do.
fn runtime_class(settings: &Settings, pod: &PodView<'_>, subject: &Subject<'_, '_>, decision: &mut Decision) {
    let Some(class) = pod.spec.runtime_class_name.as_deref() else { return };
    if !settings.nvidia_runtime_classes.iter().any(|name| name == class) {
        return;
    }
    if settings.visible_devices_all.action == VisibleAction::Warn {
        decision.warn(
            Some(subject.name()),
            format_args!("runtime class {class} shows it every GPU if its image says so, and nothing booked them"),
        );
        return;
    }
    environment::void(subject, &mut decision.patch);
    decision.warn(
        Some(subject.name()),
        format_args!(
            "it sees no GPU under runtime class {class}: it asks for none; ask with {}/gpu",
            settings.resource_prefix
        ),
    );
}
