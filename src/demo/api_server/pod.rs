//! What the API server does to pods alone: defaults, validation, what may change later, binding and graceful deletion.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::object::{meta, now};
use super::quantity::Quantity;
use super::refusal::{Cause, Refusal};
use super::resource::Resource;

const CONTAINER_FIELDS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Fills in what the client left out and rewrites quantities, as decoding does in the original; runs before and after admission.
pub(super) fn default(pod: &mut Value) -> Result<(), Refusal> {
    if !pod["spec"].is_object() {
        return Err(Refusal::bad_request("spec is not an object"));
    }
    let defaults = [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("schedulerName", json!("default-scheduler")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("securityContext", json!({})),
        ("serviceAccountName", json!("default")),
        ("enableServiceLinks", json!(true)),
    ];
    for (field, value) in defaults {
        let current = &mut pod["spec"][field];
        if current.is_null() || current == "" {
            *current = value;
        }
    }
    for field in CONTAINER_FIELDS {
        if pod["spec"].get(field).is_some_and(Value::is_null)
            && let Some(spec) = pod["spec"].as_object_mut()
        {
            spec.remove(field);
        }
        let Some(containers) = pod["spec"].get_mut(field).and_then(Value::as_array_mut) else { continue };
        for (index, container) in containers.iter_mut().enumerate() {
            if !container.is_object() {
                return Err(Refusal::bad_request(format!("spec.{field}[{index}] is not an object")));
            }
            if container["resources"].is_null() {
                container["resources"] = json!({});
            }
            if container["imagePullPolicy"].is_null() {
                container["imagePullPolicy"] = json!("IfNotPresent");
            }
            for list in ["limits", "requests"] {
                canonical_resources(&mut container["resources"], list)?;
            }
            let limits = container["resources"]["limits"].as_object().cloned().unwrap_or_default();
            if !limits.is_empty() {
                let requests = container["resources"]
                    .as_object_mut()
                    .map(|resources| resources.entry("requests").or_insert_with(|| json!({})));
                if let Some(requests) = requests.and_then(Value::as_object_mut) {
                    for (name, value) in limits {
                        requests.entry(name).or_insert(value);
                    }
                }
            } else if let Some(resources) = container["resources"].as_object_mut() {
                resources.retain(|_, value| !value.is_null());
            }
        }
    }
    Ok(())
}

fn canonical_resources(resources: &mut Value, list: &str) -> Result<(), Refusal> {
    let Some(fields) = resources.as_object_mut() else {
        return Err(Refusal::bad_request("resources is not an object"));
    };
    match fields.get_mut(list) {
        None => Ok(()),
        Some(Value::Null) => {
            fields.remove(list);
            Ok(())
        }
        Some(Value::Object(values)) => canonical_quantities(values),
        Some(_) => Err(Refusal::bad_request(format!("resources.{list} is not an object"))),
    }
}

/// Rewrites a map of quantities in place.
pub(super) fn canonical_quantities(values: &mut Map<String, Value>) -> Result<(), Refusal> {
    for (name, value) in values {
        let text = match &*value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            other => other.to_string(),
        };
        let quantity = Quantity::parse(&text).ok_or_else(|| {
            Refusal::bad_request(format!(
                "unable to parse quantity's suffix or value: {name}: {text:?}: quantities must match the regular expression \
                 '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            ))
        })?;
        *value = Value::String(quantity.canonical());
    }
    Ok(())
}

/// What the server says about a pod that was just created, whatever the client wrote.
pub(super) fn reset_status(pod: &mut Value) {
    let gated = pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty());
    let qos = qos_class(pod);
    pod["status"] = json!({"phase": "Pending", "qosClass": qos});
    if gated {
        pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates", "lastProbeTime": null,
            "lastTransitionTime": now()}]);
    }
}

fn qos_class(pod: &Value) -> &'static str {
    let (mut any, mut all) = (false, true);
    for container in
        ["initContainers", "containers"].iter().flat_map(|f| pod["spec"][*f].as_array().into_iter().flatten())
    {
        for resource in ["cpu", "memory"] {
            let request = &container["resources"]["requests"][resource];
            any |= !request.is_null();
            all &= !request.is_null() && *request == container["resources"]["limits"][resource];
        }
    }
    if any && all {
        "Guaranteed"
    } else if any {
        "Burstable"
    } else {
        "BestEffort"
    }
}

/// The priority of a pod is the server's to set, from its class.
pub(super) fn set_priority(pod: &mut Value, classes: &BTreeMap<String, i32>) -> Result<(), Refusal> {
    let class = pod["spec"]["priorityClassName"].as_str().unwrap_or_default();
    let priority = match class {
        "" => 0,
        "system-cluster-critical" => 2_000_000_000,
        "system-node-critical" => 2_000_001_000,
        class => *classes.get(class).ok_or_else(|| {
            Refusal::new(
                403,
                "Forbidden",
                format!("pods {:?} is forbidden: no PriorityClass with name {class} was found", meta(pod, "name")),
            )
        })?,
    };
    match pod["spec"]["priority"].as_i64() {
        Some(given) if given != i64::from(priority) => Err(Refusal::new(
            403,
            "Forbidden",
            format!(
                "pods {:?} is forbidden: the integer value of priority ({given}) must not be provided in pod spec; priority \
                 admission controller computed {priority} from the given PriorityClass name",
                meta(pod, "name")
            ),
        )),
        _ => {
            pod["spec"]["priority"] = json!(priority);
            Ok(())
        }
    }
}

/// What is wrong with a pod's specification.
pub(super) fn causes(pod: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if pod["spec"]["containers"].as_array().is_none_or(Vec::is_empty) {
        causes.push(Cause::new("spec.containers", "Required value"));
    }
    let mut names = BTreeSet::new();
    for field in CONTAINER_FIELDS {
        for (index, container) in pod["spec"][field].as_array().into_iter().flatten().enumerate() {
            let path = format!("spec.{field}[{index}]");
            match container["name"].as_str().unwrap_or_default() {
                "" => causes.push(Cause::new(format!("{path}.name"), "Required value")),
                name if !names.insert(name) => {
                    causes.push(Cause::new(format!("{path}.name"), format!("Duplicate value: {name:?}")));
                }
                _ => {}
            }
            if container["image"].as_str().unwrap_or_default().is_empty() {
                causes.push(Cause::new(format!("{path}.image"), "Required value"));
            }
            resource_causes(&container["resources"], &format!("{path}.resources"), &mut causes);
        }
    }
    causes
}

fn resource_causes(resources: &Value, path: &str, causes: &mut Vec<Cause>) {
    let quantity = |list: &str, name: &str| resources[list][name].as_str().and_then(Quantity::parse);
    for list in ["limits", "requests"] {
        for (name, value) in resources[list].as_object().into_iter().flatten() {
            let field = format!("{path}.{list}[{name}]");
            let extended = name.contains('/');
            if !extended
                && !matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
                && !name.starts_with("hugepages-")
            {
                causes.push(Cause::new(
                    &*field,
                    format!("Invalid value: {name:?}: must be a standard resource for containers"),
                ));
            }
            let Some(parsed) = quantity(list, name) else { continue };
            if parsed.is_negative() {
                causes.push(Cause::new(&*field, format!("Invalid value: {value}: must be greater than or equal to 0")));
            }
            if extended && !parsed.is_integer() {
                causes.push(Cause::new(&*field, format!("Invalid value: {value}: must be an integer")));
            }
        }
    }
    for (name, value) in resources["requests"].as_object().into_iter().flatten() {
        let field = format!("{path}.requests");
        let (request, limit) = (quantity("requests", name), quantity("limits", name));
        match (request, limit) {
            (Some(_), None) if name.contains('/') => {
                causes.push(Cause::new(
                    format!("{path}.limits"),
                    "Required value: Limit must be set for non overcommitable resources",
                ));
            }
            (Some(request), Some(limit)) if name.contains('/') && request.nanos() != limit.nanos() => {
                causes.push(Cause::new(
                    field,
                    format!("Invalid value: {value}: must be equal to {name} limit of {}", limit.canonical()),
                ));
            }
            (Some(request), Some(limit)) if request.nanos() > limit.nanos() => {
                causes.push(Cause::new(
                    field,
                    format!(
                        "Invalid value: {value}: must be less than or equal to {name} limit of {}",
                        limit.canonical()
                    ),
                ));
            }
            _ => {}
        }
    }
}

/// Of a specification only what may never change after creation.
fn fixed(pod: &Value) -> Value {
    let mut spec = pod["spec"].clone();
    for field in [
        "tolerations",
        "activeDeadlineSeconds",
        "terminationGracePeriodSeconds",
        "schedulingGates",
        "ephemeralContainers",
    ] {
        if let Some(spec) = spec.as_object_mut() {
            spec.remove(field);
        }
    }
    for field in CONTAINER_FIELDS {
        for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(container) = container.as_object_mut() {
                container.remove("image");
            }
        }
    }
    spec
}

/// Whether an update of the pod itself changes only what it may.
pub(super) fn check_update(resource: &Resource, old: &Value, new: &Value) -> Result<(), Refusal> {
    let kept = |field: &str| {
        let items = |pod: &Value| pod["spec"][field].as_array().cloned().unwrap_or_default();
        (items(old), items(new))
    };
    let (old_tolerations, new_tolerations) = kept("tolerations");
    let (old_gates, new_gates) = kept("schedulingGates");
    let (old_ephemeral, new_ephemeral) = kept("ephemeralContainers");
    let allowed = fixed(old) == fixed(new)
        && old_tolerations.iter().all(|toleration| new_tolerations.contains(toleration))
        && new_gates.iter().all(|gate| old_gates.contains(gate))
        && old_ephemeral == new_ephemeral;
    if allowed {
        return Ok(());
    }
    let cause = Cause::new(
        "spec",
        "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
         `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
         tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
    );
    Err(Refusal::invalid(resource, meta(old, "name"), &[cause]))
}

/// The pod after a Binding: node, merged annotations and labels, and the condition, all in one version.
pub(super) fn bind(resource: &Resource, pod: &Value, binding: &Value) -> Result<Value, Refusal> {
    let name = meta(pod, "name");
    let conflict = |why: String| Err(Refusal::conflict(resource, "pods/binding", name, &why));
    for (field, word) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
        let wanted = meta(binding, field);
        if !wanted.is_empty() && wanted != meta(pod, field) {
            return conflict(format!(
                "Precondition failed: {word} in precondition: {wanted}, {word} in object meta: {}",
                meta(pod, field)
            ));
        }
    }
    if !meta(pod, "deletionTimestamp").is_empty() {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
        return conflict(format!("pod {name} is already assigned to node {node:?}"));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut bound = pod.clone();
    bound["spec"]["nodeName"] = binding["target"]["name"].clone();
    for (key, value) in binding["metadata"]["annotations"].as_object().into_iter().flatten() {
        bound["metadata"]["annotations"][key] = value.clone();
    }
    for (key, value) in binding["metadata"]["labels"].as_object().into_iter().flatten() {
        let label = &mut bound["metadata"]["labels"][key];
        if label.is_null() {
            *label = value.clone();
        }
    }
    if let Some(status) = bound["status"].as_object_mut() {
        status.remove("nominatedNodeName");
    }
    let condition =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now()});
    let conditions = &mut bound["status"]["conditions"];
    match conditions.as_array_mut() {
        Some(conditions) => {
            conditions.retain(|c| c["type"] != "PodScheduled");
            conditions.push(condition);
        }
        None => *conditions = json!([condition]),
    }
    Ok(bound)
}

/// How many seconds a pod is given to end; 0 for one that nobody runs.
pub(super) fn grace(pod: &Value, asked: Option<i64>) -> i64 {
    let unassigned = pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let finished = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if unassigned || finished {
        return 0;
    }
    let grace = asked.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30);
    // A negative period means: at once, but still gracefully.
    if grace < 0 { 1 } else { grace }
}
