//! A pod as it is created: whether it is ours, what is wrong with it, and what it becomes.

use std::collections::BTreeMap;

use crate::gpu::parse::{Parsed, Rules, hami, shown};
use crate::kube_api::names;
use crate::kube_api::pod::{PodView, TolerationView};
use crate::kube_api::request;

use super::decision::Decision;
use super::metrics::Reason;
use super::patch::member;
use super::settings::{ForeignScheduler, Settings, Toleration};
use super::subject::{self, Shape};
use super::{deny, environment, outsider, resources};

/// Decides about the pod that `review` carries, of which `pod` is the view.
///
/// # Errors
/// Where the object's shape cannot be read again; none is known.
pub(super) fn decide(
    settings: &Settings,
    rules: &Rules,
    namespace: &str,
    review: &[u8],
    pod: &PodView<'_>,
) -> Result<Decision, serde_json::Error> {
    let mut decision = Decision::default();
    strip_reserved(pod, &mut decision);
    let ours = subject::names_gpu(rules, pod);
    if !ours && outsider::is_exempt(settings, namespace, pod) {
        return Ok(decision);
    }
    let ignored =
        deny::foreign_scheduler(settings, pod).filter(|_| settings.foreign_scheduler == ForeignScheduler::Ignore);
    if let Some(name) = ignored.filter(|_| ours) {
        decision.warn(
            None,
            format_args!(
                "spec.schedulerName: {:?}: Packhorse leaves this pod alone, and no node of Packhorse's will start it",
                shown(name)
            ),
        );
        if !outsider::is_exempt(settings, namespace, pod) {
            outsider::pod(settings, pod, &mut decision);
        }
        return Ok(decision);
    }
    match request::read_pod(rules, pod) {
        Ok(parsed) if parsed.request.is_empty() => {
            parsed.warnings.into_iter().for_each(|warning| decision.tell(warning));
            outsider::pod(settings, pod, &mut decision);
        }
        Ok(mut parsed) => {
            std::mem::take(&mut parsed.warnings).into_iter().for_each(|warning| decision.tell(warning));
            gpu_pod_faults(settings, pod, &mut decision);
            other_vendors(pod, &mut decision);
            if !decision.is_denied() {
                mutate(settings, rules, review, pod, &parsed, &mut decision)?;
            }
        }
        Err(denials) => {
            denials.into_iter().for_each(|denial| decision.deny(Reason::request, denial));
            if ours {
                gpu_pod_faults(settings, pod, &mut decision);
            }
        }
    }
    Ok(decision)
}

/// Whoever creates a pod cannot have been given devices yet.
fn strip_reserved(pod: &PodView<'_>, decision: &mut Decision) {
    let reserved = |key: &str| key == names::ALLOCATION || key.starts_with(names::DEVICES_PREFIX);
    for key in pod.metadata.annotations.keys().filter(|key| reserved(key)) {
        decision.patch.remove(member("/metadata/annotations", key));
        decision.warn(
            None,
            format_args!("annotation {} removed: only Packhorse's server writes it, when it binds the pod", shown(key)),
        );
    }
}

/// Tells of devices of other vendors: HAMi shares them, Packhorse does not.
fn other_vendors(pod: &PodView<'_>, decision: &mut Decision) {
    for container in subject::all(pod) {
        let resources = &container.view.resources;
        let limits = resources.limits.iter().flatten();
        // Most are in both.
        let asked = limits.chain(
            resources
                .requests
                .iter()
                .flatten()
                .filter(|(name, _)| !resources.limits.as_ref().is_some_and(|limits| limits.contains_key(*name))),
        );
        for (name, _) in asked.filter(|(name, _)| name.contains('/')) {
            if let Some(row) = hami::find(hami::Place::Vendor, name) {
                decision.warn(Some(container.name()), format_args!("{}: {}", shown(name), row.note));
            }
        }
    }
}

fn gpu_pod_faults(settings: &Settings, pod: &PodView<'_>, decision: &mut Decision) {
    deny::placement(settings, pod, decision);
    for container in subject::all(pod) {
        deny::container(settings, &container, decision);
    }
    for (key, device) in deny::cdi_annotations(settings, pod) {
        deny::cdi(key, device, decision);
    }
}

fn mutate(
    settings: &Settings,
    rules: &Rules,
    review: &[u8],
    pod: &PodView<'_>,
    parsed: &Parsed,
    decision: &mut Decision,
) -> Result<(), serde_json::Error> {
    // Only a bare object makes it necessary to look twice: the API server always sends metadata and resources.
    let meta = &pod.metadata;
    let bare = meta.name.is_none() && meta.generate_name.is_none() && meta.namespace.is_none();
    let nothing =
        |c: &crate::kube_api::pod::ContainerView<'_>| c.resources.limits.is_none() && c.resources.requests.is_none();
    let unsure = bare || pod.spec.init_containers.iter().chain(&pod.spec.containers).any(nothing);
    let shape = unsure.then(|| Shape::read(review)).transpose()?;

    let normalised = request::encode(&parsed.request);
    if meta.annotations.is_empty() {
        let annotations = BTreeMap::from([(names::REQUEST, &normalised)]);
        if shape.as_ref().is_some_and(|shape| !shape.has_metadata()) {
            decision.patch.add("/metadata", &BTreeMap::from([("annotations", annotations)]));
        } else {
            decision.patch.add("/metadata/annotations", &annotations);
        }
    } else if meta.annotations.get(names::REQUEST).map(AsRef::as_ref) != Some(normalised.as_str()) {
        decision.patch.add(member("/metadata/annotations", names::REQUEST), &normalised);
    }

    // Both are in the order of the pod, so one pass suffices however many containers there are.
    let mut requests = parsed.request.containers.iter().peekable();
    for container in subject::all(pod) {
        match requests.next_if(|request| &*request.name == container.name()) {
            Some(request) => {
                resources::normalise(rules, shape.as_ref(), &container, request, decision);
                told_own(&container, decision);
                environment::own_devices(&container, &mut decision.patch);
            }
            None => {
                told_void(&container, decision);
                environment::void(&container, &mut decision.patch);
                resources::strip(rules, &container, &mut decision.patch);
            }
        }
    }
    place(settings, pod, decision);
    Ok(())
}

/// Tells the user of a GPU container that it will not see more than it was given. Devices that are named by index or UUID became
/// part of the request, and of the rest the parser tells.
fn told_own(container: &subject::Subject<'_, '_>, decision: &mut Decision) {
    if subject::visible(container) == subject::Visible::Value("all") {
        let name = names::VISIBLE_DEVICES;
        decision
            .warn(Some(container.name()), format_args!("env {name}: \"all\" replaced: it sees the GPUs it is given"));
    }
}

/// Tells the user of a container without a GPU that it will not see what it names.
fn told_void(container: &subject::Subject<'_, '_>, decision: &mut Decision) {
    let value = match subject::visible(container) {
        subject::Visible::Value(value) => value,
        subject::Visible::Indirect => "(from elsewhere)",
        subject::Visible::Absent | subject::Visible::Nothing | subject::Visible::Ours => return,
    };
    let name = names::VISIBLE_DEVICES;
    decision.warn(
        Some(container.name()),
        format_args!("env {name}: {:?} replaced by \"void\": it asks for no GPU", shown(value)),
    );
}

/// Where the pod runs and who places it.
fn place(settings: &Settings, pod: &PodView<'_>, decision: &mut Decision) {
    if pod.spec.scheduler_name.as_deref() != Some(settings.scheduler_name.as_str()) {
        decision.patch.add("/spec/schedulerName", settings.scheduler_name.as_str());
    }
    let missing: Vec<&Toleration> = settings
        .tolerations
        .iter()
        .filter(|wanted| !pod.spec.tolerations.iter().any(|has| covers(has, wanted)))
        .collect();
    if pod.spec.tolerations.is_empty() {
        if !missing.is_empty() {
            decision.patch.add("/spec/tolerations", &missing);
        }
    } else {
        for toleration in missing {
            decision.patch.add("/spec/tolerations/-", toleration);
        }
    }
    // Values that differ were denied before.
    let absent = settings.node_selector.iter().filter(|(key, _)| !pod.spec.node_selector.contains_key(key.as_str()));
    if pod.spec.node_selector.is_empty() {
        if !settings.node_selector.is_empty() {
            decision.patch.add("/spec/nodeSelector", &settings.node_selector);
        }
    } else {
        for (key, value) in absent {
            decision.patch.add(member("/spec/nodeSelector", key), value.as_str());
        }
    }
    if let (Some(class), None) = (&settings.runtime_class_name, &pod.spec.runtime_class_name) {
        decision.patch.add("/spec/runtimeClassName", class.as_str());
    }
}

/// Whether `has` is `wanted`, or tolerates every taint for ever.
fn covers(has: &TolerationView<'_>, wanted: &Toleration) -> bool {
    fn operator(text: Option<&str>) -> &str {
        text.filter(|text| !text.is_empty()).unwrap_or("Equal")
    }
    let text = Option::unwrap_or_default;
    let everything = has.key.as_deref().unwrap_or_default().is_empty()
        && operator(has.operator.as_deref()) == "Exists"
        && has.effect.as_deref().unwrap_or_default().is_empty();
    (everything && wanted.effect.as_deref() != Some("NoExecute"))
        || (text(has.key.as_deref()) == text(wanted.key.as_deref())
            && operator(has.operator.as_deref()) == operator(wanted.operator.as_deref())
            && text(has.value.as_deref()) == text(wanted.value.as_deref())
            && text(has.effect.as_deref()) == text(wanted.effect.as_deref()))
}
