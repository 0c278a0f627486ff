//! Pods without a GPU request that would see GPUs all the same.

use packhorse::webhook::{Settings, VisibleAction, VisibleDevicesAll};
use serde_json::{Value, json};

use super::review::{create, create_with, pod, pod_with_annotations, pod_with_env, visible};

fn acting(action: VisibleAction) -> Settings {
    Settings {
        visible_devices_all: VisibleDevicesAll { action, ..VisibleDevicesAll::default() },
        ..Settings::default()
    }
}

fn indirect() -> Value {
    json!([{"name": "NVIDIA_VISIBLE_DEVICES", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}])
}

#[test]
fn all_is_denied_voided_or_warned_of() {
    for env in [visible("all"), indirect()] {
        for list in ["containers", "initContainers"] {
            let mut asked = pod(json!({}));
            asked["spec"][list] = json!([{"name": "main", "env": env}]);
            let message = create(&asked).denied();
            for part in ["main", "NVIDIA_VISIBLE_DEVICES", "nvidia.com/gpu", "void"] {
                assert!(message.contains(part), "{part} not in {message}");
            }
            let voided = create_with(acting(VisibleAction::Void), &asked);
            assert_eq!(voided.warnings.len(), 1);
            assert_eq!(voided.admitted()["spec"][list][0]["env"], visible("void"));
            let warned = create_with(acting(VisibleAction::Warn), &asked);
            warned.untouched();
            assert_eq!(warned.warnings.len(), 1, "{:?}", warned.warnings);
        }
    }
}

#[test]
fn monitoring_and_operators_are_exempt() {
    let exempt = [("gpu-operator", "anything"), ("dcgm-exporter", "default"), ("monitoring", "dcgm-exporter")];
    let not = [("team", "dcgm-exporter"), ("monitoring", "default"), ("gpu-operators", "default")];
    for (namespace, account) in exempt.into_iter().chain(not) {
        let mut asked = pod_with_env(json!({"cpu": "100m", "nvidia.com/gpu": "0"}), visible("all"));
        asked["metadata"]["namespace"] = json!(namespace);
        asked["metadata"]["annotations"] = json!({"cdi.k8s.io/x": "management.nvidia.com/gpu=all"});
        asked["spec"]["serviceAccountName"] = json!(account);
        asked["spec"]["runtimeClassName"] = json!("nvidia");
        asked["spec"]["containers"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "mps", "env": [{"name": "CUDA_MPS_PIPE_DIRECTORY", "value": "/mps"}]}));
        let answered = create(&asked);
        if exempt.contains(&(namespace, account)) {
            assert_eq!((answered.patch.len(), answered.warnings.len()), (0, 0), "{namespace}/{account}: {answered:?}");
            answered.admitted();
        } else {
            answered.denied();
        }
    }
    // Whoever asks for GPUs is treated as everybody else.
    let mut asks = pod_with_env(json!({"nvidia.com/gpu": "1"}), visible("all"));
    asks["metadata"]["namespace"] = json!("gpu-operator");
    assert_eq!(create(&asks).admitted()["spec"]["schedulerName"], "packhorse");
}

#[test]
fn an_image_under_nvidias_runtime_is_told_void() {
    for class in ["nvidia", "nvidia-cdi", "nvidia-legacy"] {
        let mut asked = pod(json!({}));
        asked["spec"]["runtimeClassName"] = json!(class);
        asked["spec"]["initContainers"] = json!([{"name": "init", "env": visible("none")}]);
        let answered = create(&asked);
        assert_eq!(answered.warnings.len(), 1, "{:?}", answered.warnings);
        let after = answered.admitted();
        assert_eq!(after["spec"]["containers"][0]["env"], visible("void"));
        assert_eq!(after["spec"]["initContainers"][0]["env"], visible("none"));
        assert_eq!(after["spec"]["schedulerName"], "default-scheduler");
        assert!(after["metadata"].get("annotations").is_none());
    }
    let mut kata = pod(json!({}));
    kata["spec"]["runtimeClassName"] = json!("kata");
    create(&kata).untouched();
    kata["spec"]["runtimeClassName"] = json!("nvidia");
    create_with(acting(VisibleAction::Warn), &kata).untouched();
}

#[test]
fn a_cdi_annotation_can_be_removed_instead() {
    let asked = pod_with_annotations(json!({}), json!({"cdi.k8s.io/mine": "nvidia.com/gpu=0"}));
    assert_eq!(create_with(acting(VisibleAction::Void), &asked).admitted()["metadata"]["annotations"], json!({}));
    create_with(acting(VisibleAction::Warn), &asked).untouched();
}

#[test]
fn naming_a_device_is_asking_for_it() {
    let after = create(&pod_with_env(json!({}), visible("3"))).admitted();
    assert_eq!(
        after["metadata"]["annotations"]["packhorse.dev/request"],
        r#"{"v":1,"containers":{"main":{"count":1,"exclusive":true,"index":[3]}}}"#
    );
    assert_eq!(after["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"], "1");
    assert_eq!(after["spec"]["schedulerName"], "packhorse");
    let message = create(&pod_with_env(json!({}), visible("$(OTHER)"))).denied();
    assert!(message.contains("$(OTHER)"), "{message}");
}
