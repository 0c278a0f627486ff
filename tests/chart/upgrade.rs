//! Upgrades: whatever value somebody changes, the API server takes the new rendering over the old one. What Kubernetes never lets change
//! (selectors, role references) stays, pods keep the labels that their selectors ask for, and no object of the chart is one that the
//! server writes for itself.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::values::{Case, cases};
use super::{Rendered, helm, job, render, yaml};

/// What every rendering has, by these names, for ever: pods, admission and other people's settings refer to them.
const LASTING: [&str; 9] = [
    "Deployment/packhorse-server",
    "DaemonSet/packhorse-agent",
    "Service/packhorse-server",
    "ServiceAccount/packhorse-server",
    "ServiceAccount/packhorse-agent",
    "ClusterRole/packhorse-agent",
    "ConfigMap/packhorse-server",
    "ConfigMap/packhorse-kube-scheduler",
    "MutatingWebhookConfiguration/packhorse",
];
/// What a value may change although Kubernetes refuses it on the same object, with the words that tell so in its comment.
const REFUSED: [(&str, &str); 1] = [("runtimeClass.handler", "Kubernetes lets nobody change it")];

/// The fields of an object that the API server lets nobody change.
fn immutable(object: &Value) -> Value {
    let spec = &object["spec"];
    match object["kind"].as_str().unwrap() {
        "Deployment" | "DaemonSet" | "StatefulSet" => spec["selector"].clone(),
        "RoleBinding" | "ClusterRoleBinding" => object["roleRef"].clone(),
        "Service" => json!([spec["clusterIP"], spec["type"]]),
        "RuntimeClass" => object["handler"].clone(),
        "Secret" => json!([object["type"], object["immutable"]]),
        "Job" => json!([spec["selector"], spec["template"]]),
        "PersistentVolumeClaim" => spec.clone(),
        _ => Value::Null,
    }
}

fn by_name(rendered: &Rendered) -> BTreeMap<String, &Value> {
    assert!(rendered.error.is_empty(), "{}", rendered.error);
    let text =
        |object: &Value, pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    rendered
        .objects
        .iter()
        .map(|object| {
            let place = [text(object, "/metadata/namespace"), text(object, "/metadata/name")].join("/");
            (format!("{} {}", text(object, "/kind"), place.trim_start_matches('/')), object)
        })
        .collect()
}

/// What stands in the way of applying the second over the first.
fn obstacles(before: &Rendered, after: &Rendered) -> Vec<String> {
    let (before, mut found) = (by_name(before), Vec::new());
    for (name, object) in by_name(after) {
        if let Some(old) = before.get(&name)
            && immutable(old) != immutable(object)
        {
            found.push(format!("{name}: {} becomes {}", immutable(old), immutable(object)));
        }
    }
    found
}

/// What a rendering must have in itself.
fn faults(rendered: &Rendered) -> Vec<String> {
    let mut found = Vec::new();
    for name in LASTING.iter().filter(|name| rendered.find(name).is_none()) {
        found.push(format!("{name} is gone"));
    }
    for object in &rendered.objects {
        let name = format!("{}/{}", object["kind"], object["metadata"]["name"]);
        // The CA and the certificate are the server's own, and a release that had them would delete or overwrite them.
        if object["kind"] == "Secret" {
            found.push(format!("{name} is part of the release"));
        }
        let Some(selector) = object.pointer("/spec/selector/matchLabels").and_then(Value::as_object) else { continue };
        if object["spec"]["template"].is_null() {
            continue;
        }
        let labels = &object["spec"]["template"]["metadata"]["labels"];
        if selector.iter().any(|(key, value)| labels[key] != *value) {
            found.push(format!("{name}: its pods lack labels of its selector"));
        }
    }
    found
}

#[test]
fn no_value_changes_what_kubernetes_lets_nobody_change() {
    let cases = cases();
    let Some(helm) = helm::binary() else { return };
    let mut jobs = vec![job(json!({}))];
    jobs.extend(cases.values().flat_map(Case::jobs));
    jobs.extend(super::VALUES_FILES.map(yaml).map(job));
    let renderings = render(helm, &jobs);
    let mut wrong = Vec::new();
    for (at, rendered) in renderings.iter().enumerate() {
        wrong.extend(faults(rendered).into_iter().map(|fault| format!("{}: {fault}", jobs[at])));
    }
    let allowed = |case: &Case| REFUSED.iter().any(|(path, _)| *path == case.path);
    for (case, pair) in cases.values().zip(renderings[1..].chunks(2)) {
        let [before, after] = pair else { unreachable!("two of each") };
        let found = [obstacles(before, after), obstacles(after, before)].concat();
        assert!(!allowed(case) || !found.is_empty(), "{} is in the list and changes nothing", case.path);
        wrong.extend(found.into_iter().filter(|_| !allowed(case)).map(|found| format!("{}: {found}", case.path)));
    }
    // From the defaults to each file of values, and between any two of them.
    let files: Vec<&Rendered> =
        std::iter::once(&renderings[0]).chain(&renderings[renderings.len() - super::VALUES_FILES.len()..]).collect();
    for before in &files {
        for after in &files {
            wrong.extend(obstacles(before, after));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let text = std::fs::read_to_string(format!("{}/values.yaml", super::CHART)).unwrap();
    for (path, words) in REFUSED {
        assert!(text.contains(words), "values.yaml does not say of {path}: {words}");
    }
}

#[test]
fn many_values_at_once_change_no_more_than_each_alone() {
    let cases: Vec<Case> = cases().into_values().filter(|case| case.path != "runtimeClass.handler").collect();
    let Some(helm) = helm::binary() else { return };
    // A fixed sequence: a failure can be looked at again.
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random >> 33
    };
    let mut jobs = vec![job(json!({}))];
    for _ in 0..60 {
        let mut values = json!({});
        for case in &cases {
            if next() % 3 == 0 {
                json_patch::merge(&mut values, &case.values());
            }
        }
        jobs.push(job(values));
    }
    let renderings = render(helm, &jobs);
    // Values that exclude each other are refused before anything is applied.
    let valid: Vec<(usize, &Rendered)> =
        renderings.iter().enumerate().filter(|(_, rendered)| rendered.error.is_empty()).collect();
    assert!(valid.len() > 20, "{}: {:?}", valid.len(), renderings.iter().map(|it| &it.error).collect::<Vec<_>>());
    for pair in valid.windows(2) {
        let [(first, before), (second, after)] = pair else { unreachable!("windows of two") };
        let found = [obstacles(before, after), faults(after)].concat();
        assert!(found.is_empty(), "{}\n{}\n{}", jobs[*first], jobs[*second], found.join("\n"));
    }
}

#[test]
fn labels_of_the_user_do_not_take_the_place_of_those_that_selectors_need() {
    let Some(helm) = helm::binary() else { return };
    let label = json!({"app.kubernetes.io/component": "mine"});
    for values in [
        json!({"commonLabels": label}),
        json!({"agent": {"podLabels": label}}),
        json!({"server": {"podLabels": label}}),
    ] {
        let rendered = render(helm, &[job(values.clone())]).remove(0);
        assert!(rendered.error.contains("app.kubernetes.io/component"), "{values}: {:?}", rendered.error);
    }
}
