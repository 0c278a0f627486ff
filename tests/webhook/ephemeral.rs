//! Ephemeral containers, as `kubectl debug` adds them.

use packhorse::webhook::{Settings, VisibleAction, VisibleDevicesAll};
use serde_json::{Value, json};

use super::review::{answer, create, extension, pod, visible, webhook};

fn with_debug(pod: &Value, containers: Value) -> Value {
    let mut pod = pod.clone();
    pod["spec"]["ephemeralContainers"] = containers;
    pod
}

fn extend(settings: Settings, old: &Value, pod: &Value) -> super::review::Answered {
    let webhook = webhook(settings);
    let first = answer(&webhook, &extension(old, pod));
    if first.verdict.is_ok() {
        let second = answer(&webhook, &extension(old, &first.pod));
        assert_eq!((second.verdict, second.patch), (Ok(()), vec![]), "its own output is changed again");
    }
    first
}

#[test]
fn those_of_a_gpu_pod_are_told_void_and_nothing_else_changes() {
    let old = create(&pod(json!({"nvidia.com/gpu": "1"}))).admitted();
    for env in [Value::Null, json!([]), visible("all"), visible("3"), visible("anything")] {
        let new = with_debug(&old, json!([{"name": "debug", "env": env}]));
        let answered = extend(Settings::default(), &old, &new);
        assert_eq!(answered.patch.len(), 1, "{:?}", answered.patch);
        let mut expected = new.clone();
        expected["spec"]["ephemeralContainers"][0]["env"] = visible("void");
        assert_eq!(answered.admitted(), expected);
    }
}

#[test]
fn those_that_were_there_are_left_alone() {
    let old = with_debug(&create(&pod(json!({"nvidia.com/gpu": "1"}))).admitted(), json!([{"name": "old"}]));
    let new = with_debug(&old, json!([{"name": "old"}, {"name": "new"}]));
    let answered = extend(Settings::default(), &old, &new);
    assert_eq!(
        answered.patch,
        [json!({"op": "add", "path": "/spec/ephemeralContainers/1/env", "value": visible("void")})]
    );
}

#[test]
fn they_bring_no_privilege_and_no_limits_into_a_gpu_pod() {
    let old = create(&pod(json!({"nvidia.com/gpu": "1"}))).admitted();
    for (container, part) in [
        (json!({"name": "debug", "securityContext": {"privileged": true}}), "securityContext.privileged"),
        (
            json!({"name": "debug", "env": [{"name": "CUDA_MPS_PIPE_DIRECTORY", "value": "/mps"}]}),
            "CUDA_MPS_PIPE_DIRECTORY",
        ),
    ] {
        let message = extend(Settings::default(), &old, &with_debug(&old, json!([container]))).denied();
        assert!(message.contains(part) && message.contains("debug"), "{message}");
    }
}

#[test]
fn elsewhere_they_see_no_gpu_either() {
    let old = pod(json!({}));
    for value in ["all", "0", "GPU-1"] {
        let new = with_debug(&old, json!([{"name": "debug", "env": visible(value)}]));
        let message = extend(Settings::default(), &old, &new).denied();
        assert!(message.contains("debug") && message.contains(value), "{message}");
        let void = Settings {
            visible_devices_all: VisibleDevicesAll { action: VisibleAction::Void, ..VisibleDevicesAll::default() },
            ..Settings::default()
        };
        assert_eq!(extend(void, &old, &new).admitted()["spec"]["ephemeralContainers"][0]["env"], visible("void"));
    }
    let plain = with_debug(&old, json!([{"name": "debug"}, {"name": "more", "env": visible("void")}]));
    extend(Settings::default(), &old, &plain).untouched();
    let mut nvidia = plain;
    nvidia["spec"]["runtimeClassName"] = json!("nvidia");
    assert_eq!(extend(Settings::default(), &old, &nvidia).patch.len(), 1);
    let mut exempt = with_debug(&old, json!([{"name": "debug", "env": visible("all")}]));
    exempt["metadata"]["namespace"] = json!("gpu-operator");
    extend(Settings::default(), &old, &exempt).untouched();
}

#[test]
fn other_updates_are_not_ours_to_judge() {
    let webhook = webhook(Settings::default());
    let asked = pod(json!({"nvidia.com/gpu": "1"}));
    for (operation, subresource) in [("UPDATE", ""), ("UPDATE", "status"), ("CREATE", "binding"), ("CONNECT", "exec")] {
        let mut review = extension(&asked, &asked);
        review["request"]["operation"] = json!(operation);
        review["request"]["subResource"] = json!(subresource);
        let answered = answer(&webhook, &review);
        assert_eq!((answered.verdict, answered.patch), (Ok(()), vec![]), "{operation} {subresource}");
    }
    let mut deletion = extension(&asked, &asked);
    deletion["request"]["operation"] = json!("DELETE");
    deletion["request"]["subResource"] = Value::Null;
    deletion["request"]["object"] = Value::Null;
    assert_eq!(answer(&webhook, &deletion).verdict, Ok(()));
}
