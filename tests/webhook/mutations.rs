//! What an admitted pod becomes: the exact patch of representative pods, and single changes.

use assert_json_diff::assert_json_eq;
use packhorse::webhook::{Settings, Toleration};
use serde_json::{Value, json};

use super::review::{create, create_with, pod, pod_with_annotations, pod_with_env, visible};

/// `resources` with the same in limits and requests.
fn both(amounts: Value) -> Value {
    json!({"limits": amounts, "requests": amounts})
}

#[test]
fn a_shared_gpu_changes_exactly_these_paths() {
    let pod = pod(json!({"nvidia.com/gpu": "1", "nvidia.com/gpumem": "4096", "nvidia.com/gpucores": "30", "cpu": "2"}));
    let answered = create(&pod);
    assert_eq!(answered.warnings, Vec::<String>::new());
    assert_json_eq!(
        json!(answered.patch),
        json!([
            {"op": "add", "path": "/metadata/annotations", "value":
                {"packhorse.dev/request": r#"{"v":1,"containers":{"main":{"count":1,"memory":4096,"cores":30}}}"#}},
            {"op": "remove", "path": "/spec/containers/0/resources/limits/nvidia.com~1gpucores"},
            {"op": "remove", "path": "/spec/containers/0/resources/limits/nvidia.com~1gpumem"},
            {"op": "add", "path": "/spec/containers/0/resources/limits/packhorse.dev~1gpu-cores", "value": "30"},
            {"op": "add", "path": "/spec/containers/0/resources/limits/packhorse.dev~1gpu-memory", "value": "4096"},
            {"op": "remove", "path": "/spec/containers/0/resources/requests/nvidia.com~1gpucores"},
            {"op": "remove", "path": "/spec/containers/0/resources/requests/nvidia.com~1gpumem"},
            {"op": "add", "path": "/spec/containers/0/resources/requests/packhorse.dev~1gpu-cores", "value": "30"},
            {"op": "add", "path": "/spec/containers/0/resources/requests/packhorse.dev~1gpu-memory", "value": "4096"},
            {"op": "add", "path": "/spec/containers/0/env", "value": [{"name": "NVIDIA_VISIBLE_DEVICES", "valueFrom": {"fieldRef":
                {"apiVersion": "v1", "fieldPath": "metadata.annotations['devices.packhorse.dev/main']"}}}]},
            {"op": "add", "path": "/spec/schedulerName", "value": "packhorse"},
            {"op": "add", "path": "/spec/tolerations", "value":
                [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]},
        ])
    );
}

#[test]
fn a_pod_of_many_containers_changes_exactly_these_paths() {
    let asked = json!({
        "metadata": {"generateName": "train-", "annotations": {"team": "a", "devices.packhorse.dev/main": "GPU-1"}},
        "spec": {
            "initContainers": [
                {"name": "fetch", "env": [{"name": "A", "value": "1"}], "resources": {}},
                {"name": "monitor", "restartPolicy": "Always", "resources": {"requests": {"nvidia.com/gpumem": "512"}}},
            ],
            "containers": [
                {"name": "main", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "0,1"}], "resources": {"limits": {"cpu": "4"}}},
                {"name": "slice", "resources": {"limits": {"nvidia.com/mig-1g.10gb": "1"}, "requests": {"nvidia.com/mig-1g.10gb": "1"}}},
            ],
            "schedulerName": "packhorse",
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        },
    });
    let patch: Vec<String> = create(&asked).patch.iter().map(Value::to_string).collect();
    insta::assert_snapshot!(patch.join("\n"));
}

#[test]
fn only_memory_or_cores_gets_a_count_and_requests_only_gets_limits() {
    for (list, amounts, after) in [
        (
            "limits",
            json!({"nvidia.com/gpumem": "16Gi"}),
            json!({"nvidia.com/gpu": "1", "packhorse.dev/gpu-cores": "0", "packhorse.dev/gpu-memory": "16384"}),
        ),
        (
            "requests",
            json!({"nvidia.com/gpumem": "4k"}),
            json!({"nvidia.com/gpu": "1", "packhorse.dev/gpu-cores": "0", "packhorse.dev/gpu-memory": "4000"}),
        ),
        (
            "requests",
            json!({"nvidia.com/gpucores": "30"}),
            json!({"nvidia.com/gpu": "1", "packhorse.dev/gpu-cores": "30"}),
        ),
        (
            "limits",
            json!({"nvidia.com/gpumem-percentage": "50"}),
            json!({"nvidia.com/gpu": "1", "packhorse.dev/gpu-cores": "0"}),
        ),
        ("requests", json!({"nvidia.com/gpu": "2"}), json!({"nvidia.com/gpu": "2", "packhorse.dev/gpu-cores": "200"})),
        (
            "requests",
            json!({"nvidia.com/gpu": "2", "nvidia.com/gpumem": "1000", "nvidia.com/gpucores": "20"}),
            json!({"nvidia.com/gpu": "2", "packhorse.dev/gpu-cores": "40", "packhorse.dev/gpu-memory": "2000"}),
        ),
        (
            "requests",
            json!({"nvidia.com/mig-1g.10gb": "2"}),
            json!({"nvidia.com/mig-1g.10gb": "2", "packhorse.dev/gpu-cores": "0"}),
        ),
        (
            "limits",
            json!({"nvidia.com/gpucores": "100"}),
            json!({"nvidia.com/gpu": "1", "packhorse.dev/gpu-cores": "100"}),
        ),
    ] {
        let mut asked = pod(json!({}));
        asked["spec"]["containers"][0]["resources"] = json!({list: amounts});
        let resources = create(&asked).admitted()["spec"]["containers"][0]["resources"].clone();
        assert_json_eq!(resources, both(after));
    }
}

#[test]
fn other_resources_and_unknown_fields_survive() {
    let mut asked = pod(json!({"nvidia.com/gpumem": "4000", "cpu": "2", "example.com/fpga": "1"}));
    asked["metadata"]["annotations"] = json!({"team/owner~x": "a"});
    asked["metadata"]["newInMetadata"] = json!({"a": [1, 2.5, null]});
    asked["spec"]["newInSpec"] = json!([{"deep": {"er": true}}]);
    asked["spec"]["containers"][0]["newInContainer"] = json!("x");
    asked["spec"]["containers"][0]["resources"]["claims"] = json!([{"name": "c", "request": "r", "new": 1}]);
    asked["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "1", "newInEnv": 7}]);
    asked["spec"]["tolerations"] = json!([{"key": "a", "operator": "Gt", "value": "5", "new": 1}]);
    asked["spec"]["restartPolicyRules"] = json!([{"action": "new"}]);
    let mut expected = asked.clone();
    let after = create(&asked).admitted();
    let amounts = json!({"cpu": "2", "example.com/fpga": "1", "nvidia.com/gpu": "1", "packhorse.dev/gpu-cores": "0", "packhorse.dev/gpu-memory": "4000"});
    expected["metadata"]["annotations"]["packhorse.dev/request"] =
        json!(r#"{"v":1,"containers":{"main":{"count":1,"memory":4000}}}"#);
    expected["spec"]["containers"][0]["resources"]["limits"] = amounts.clone();
    expected["spec"]["containers"][0]["resources"]["requests"] = amounts;
    expected["spec"]["containers"][0]["env"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "NVIDIA_VISIBLE_DEVICES", "valueFrom":
        {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.annotations['devices.packhorse.dev/main']"}}}));
    expected["spec"]["tolerations"]
        .as_array_mut()
        .unwrap()
        .push(json!({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}));
    expected["spec"]["schedulerName"] = json!("packhorse");
    assert_json_eq!(after, expected);
}

#[test]
fn a_pod_without_gpus_gets_no_patch_and_no_warning() {
    let mut with_sidecar = pod(json!({"cpu": "1", "memory": "1Gi"}));
    with_sidecar["spec"]["initContainers"] =
        json!([{"name": "side", "restartPolicy": "Always", "env": [{"name": "A", "value": "b"}]}]);
    for asked in [
        pod(json!({})),
        with_sidecar,
        pod(json!({"amd.com/gpu": "1"})),
        pod(json!({"nvidia.com/gpu": "0"})),
        pod_with_env(json!({}), visible("void")),
        pod_with_env(json!({}), visible("none")),
        pod_with_env(json!({}), visible("")),
    ] {
        let answered = create(&asked);
        assert_eq!((&answered.patch, &answered.warnings), (&vec![], &vec![]), "{asked}");
        answered.admitted();
    }
}

#[test]
fn a_constraint_without_a_request_is_told_and_changes_nothing() {
    let answered = create(&pod_with_annotations(json!({}), json!({"packhorse.dev/gpu-model": "A100"})));
    answered.untouched();
    assert!(answered.warnings[0].contains("packhorse.dev/gpu-model"), "{:?}", answered.warnings);
    answered.admitted();
}

#[test]
fn every_other_container_of_a_gpu_pod_is_told_void() {
    let gpu =
        json!({"name": "main", "resources": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"nvidia.com/gpu": "1"}}});
    let mut asked = pod(json!({}));
    asked["spec"]["containers"] = json!([
        gpu,
        {"name": "image"},
        {"name": "all", "env": [{"name": "A", "value": "1"}, {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]},
        {"name": "twice", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}, {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]},
        {"name": "none", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "none"}]},
        {"name": "from", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]},
        {"name": "other", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['devices.packhorse.dev/main']"}}}]},
        {"name": "zero", "resources": {"limits": {"nvidia.com/gpumem": "0"}, "requests": {"nvidia.com/gpumem": "0"}}},
    ]);
    asked["spec"]["initContainers"] = json!([{"name": "init"}, {"name": "side", "restartPolicy": "Always"}]);
    asked["spec"]["ephemeralContainers"] = json!([{"name": "debug"}]);
    let answered = create(&asked);
    for container in ["all", "twice", "from", "other"] {
        assert!(
            answered.warnings.iter().any(|w| w.contains(&format!("container {container:?}"))),
            "{container}: {:?}",
            answered.warnings
        );
    }
    let after = answered.admitted();
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    for container in lists.iter().flat_map(|list| after["spec"][list].as_array().unwrap()) {
        let values: Vec<&Value> =
            container["env"].as_array().unwrap().iter().filter(|env| env["name"] == "NVIDIA_VISIBLE_DEVICES").collect();
        assert!(!values.is_empty(), "{container}");
        for value in values {
            match container["name"].as_str().unwrap() {
                "main" => assert_eq!(
                    value["valueFrom"]["fieldRef"]["fieldPath"],
                    "metadata.annotations['devices.packhorse.dev/main']"
                ),
                "none" => assert_eq!(value, &json!({"name": "NVIDIA_VISIBLE_DEVICES", "value": "none"})),
                _ => assert_eq!(value, &json!({"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}), "{container}"),
            }
        }
    }
    assert_eq!(after["spec"]["containers"][7]["resources"], json!({"limits": {}, "requests": {}}));
}

#[test]
fn a_gpu_container_sees_its_own_devices_whatever_it_said() {
    for env in
        [json!([]), visible("all"), visible("GPU-0c1b3a4e-0000-0000-0000-000000000001"), visible("3"), visible("void")]
    {
        let asked = pod_with_env(json!({"nvidia.com/gpu": "1"}), env.clone());
        let after = create(&asked).admitted();
        assert_json_eq!(
            after["spec"]["containers"][0]["env"],
            json!([{"name": "NVIDIA_VISIBLE_DEVICES", "valueFrom":
                {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.annotations['devices.packhorse.dev/main']"}}}])
        );
    }
    let mut null = pod(json!({"nvidia.com/gpu": "1"}));
    null["spec"]["containers"][0]["env"] = Value::Null;
    assert_eq!(create(&null).admitted()["spec"]["containers"][0]["env"].as_array().unwrap().len(), 1);
}

#[test]
fn init_containers_and_sidecars_may_have_gpus_of_their_own() {
    let mut asked = pod(json!({"nvidia.com/gpu": "1"}));
    asked["spec"]["initContainers"] = json!([
        {"name": "load", "resources": {"limits": {"nvidia.com/gpumem": "2000"}}},
        {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"nvidia.com/mig-1g.10gb": "1"}}},
    ]);
    let after = create(&asked).admitted();
    assert_json_eq!(
        after["metadata"]["annotations"]["packhorse.dev/request"].as_str().unwrap().parse::<Value>().unwrap(),
        json!({"v": 1, "containers": {
            "load": {"count": 1, "memory": 2000}, "main": {"count": 1, "exclusive": true}, "side": {"count": 1, "mig": "1g.10gb"}}})
    );
    assert_json_eq!(
        after["spec"]["initContainers"][0]["resources"],
        both(json!({"nvidia.com/gpu": "1", "packhorse.dev/gpu-cores": "0", "packhorse.dev/gpu-memory": "2000"}))
    );
    assert_json_eq!(
        after["spec"]["initContainers"][1]["resources"],
        both(json!({"nvidia.com/mig-1g.10gb": "1", "packhorse.dev/gpu-cores": "0"}))
    );
}

#[test]
fn a_container_name_of_63_characters_still_makes_an_annotation_key() {
    let name = "a".repeat(63);
    let mut asked = pod(json!({"nvidia.com/gpu": "1"}));
    asked["spec"]["containers"][0]["name"] = json!(name);
    let after = create(&asked).admitted();
    let path = after["spec"]["containers"][0]["env"][0]["valueFrom"]["fieldRef"]["fieldPath"].as_str().unwrap();
    let key = path.strip_prefix("metadata.annotations['").unwrap().strip_suffix("']").unwrap();
    // Kubernetes allows 63 characters after the slash, as many as for a container's name.
    assert!(key.split_once('/').unwrap().1.len() <= 63, "{key}");
}

#[test]
fn reserved_annotations_are_stripped_at_creation() {
    let annotations = json!({"packhorse.dev/allocation": "{}", "devices.packhorse.dev/main": "GPU-1", "devices.packhorse.dev/x": "", "keep": "me"});
    for limits in [json!({}), json!({"nvidia.com/gpu": "1"})] {
        let answered = create(&pod_with_annotations(limits.clone(), annotations.clone()));
        assert_eq!(answered.warnings.len(), 3, "{:?}", answered.warnings);
        let after = answered.admitted();
        let mut left: Vec<&String> = after["metadata"]["annotations"].as_object().unwrap().keys().collect();
        left.retain(|key| *key != "packhorse.dev/request");
        assert_eq!(left, ["keep"]);
    }
}

#[test]
fn a_request_given_as_annotation_becomes_resources() {
    let given = json!({"packhorse.dev/request": r#"{"v":1, "containers": {"main": {"memory": 4096, "count": 2}}}"#});
    let answered = create(&pod_with_annotations(json!({}), given));
    let after = answered.admitted();
    assert_eq!(
        after["metadata"]["annotations"]["packhorse.dev/request"],
        r#"{"v":1,"containers":{"main":{"count":2,"memory":4096}}}"#
    );
    assert_json_eq!(
        after["spec"]["containers"][0]["resources"],
        both(json!({"nvidia.com/gpu": "2", "packhorse.dev/gpu-cores": "0", "packhorse.dev/gpu-memory": "8192"}))
    );
    let mig = json!({"packhorse.dev/request": r#"{"v":1,"containers":{"main":{"count":1,"mig":"1g.10gb"}}}"#});
    let mut bare = pod_with_annotations(json!({}), mig);
    bare["spec"]["containers"][0].as_object_mut().unwrap().remove("resources");
    let after = create(&bare).admitted();
    assert_json_eq!(
        after["spec"]["containers"][0]["resources"],
        both(json!({"nvidia.com/mig-1g.10gb": "1", "packhorse.dev/gpu-cores": "0"}))
    );
}

#[test]
fn objects_that_are_absent_are_created() {
    let asked = json!({"spec": {"containers": [{"name": "main", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "0,1"}]}]}});
    let after = create(&asked).admitted();
    assert_eq!(
        after["metadata"]["annotations"]["packhorse.dev/request"],
        r#"{"v":1,"containers":{"main":{"count":2,"exclusive":true,"index":[0,1]}}}"#
    );
    assert_json_eq!(
        after["spec"]["containers"][0]["resources"],
        both(json!({"nvidia.com/gpu": "2", "packhorse.dev/gpu-cores": "200"}))
    );
}

#[test]
fn stale_totals_are_corrected_and_told() {
    let mut asked = pod(
        json!({"nvidia.com/gpu": "1", "nvidia.com/gpumem": "4000", "packhorse.dev/gpu-memory": "1", "packhorse.dev/gpu-cores": "0"}),
    );
    let answered = create(&asked);
    assert_eq!(answered.warnings.len(), 1, "{:?}", answered.warnings);
    assert!(answered.warnings[0].contains("packhorse.dev/gpu-memory"), "{:?}", answered.warnings);
    assert_eq!(
        answered.admitted()["spec"]["containers"][0]["resources"]["requests"]["packhorse.dev/gpu-memory"],
        "4000"
    );

    asked = pod(json!({"nvidia.com/gpu": "1", "packhorse.dev/gpu-memory": "4000"}));
    let after = create(&asked).admitted();
    assert_json_eq!(
        after["spec"]["containers"][0]["resources"],
        both(json!({"nvidia.com/gpu": "1", "packhorse.dev/gpu-cores": "100"}))
    );
}

#[test]
fn placement_is_configurable() {
    let tolerate = |key: &str, value: &str| Toleration {
        key: Some(key.to_owned()),
        operator: None,
        value: Some(value.to_owned()),
        effect: None,
        toleration_seconds: None,
    };
    let settings = || Settings {
        resource_prefix: "example.com".to_owned(),
        scheduler_name: "gpus".to_owned(),
        tolerations: vec![tolerate("a", "1"), tolerate("b", "2")],
        node_selector: [("pool/gpu".to_owned(), "yes".to_owned()), ("zone".to_owned(), "z".to_owned())].into(),
        runtime_class_name: Some("nvidia".to_owned()),
        ..Settings::default()
    };
    let bare = pod(json!({"example.com/gpu": "1"}));
    let after = create_with(settings(), &bare).admitted();
    assert_eq!(after["spec"]["schedulerName"], "gpus");
    assert_eq!(after["spec"]["runtimeClassName"], "nvidia");
    assert_eq!(after["spec"]["nodeSelector"], json!({"pool/gpu": "yes", "zone": "z"}));
    assert_eq!(after["spec"]["tolerations"], json!([{"key": "a", "value": "1"}, {"key": "b", "value": "2"}]));

    let mut own = bare;
    own["spec"]["runtimeClassName"] = json!("kata");
    own["spec"]["nodeSelector"] = json!({"zone": "z", "x": "y"});
    own["spec"]["tolerations"] = json!([{"key": "b", "operator": "Equal", "value": "2"}]);
    let after = create_with(settings(), &own).admitted();
    assert_eq!(after["spec"]["runtimeClassName"], "kata");
    assert_eq!(after["spec"]["nodeSelector"], json!({"pool/gpu": "yes", "zone": "z", "x": "y"}));
    assert_eq!(
        after["spec"]["tolerations"],
        json!([{"key": "b", "operator": "Equal", "value": "2"}, {"key": "a", "value": "1"}])
    );

    // Another value of the same key is another toleration.
    own["spec"]["tolerations"] =
        json!([{"key": "a", "value": "other"}, {"key": "b", "value": "2", "effect": "NoExecute"}]);
    assert_eq!(create_with(settings(), &own).admitted()["spec"]["tolerations"].as_array().unwrap().len(), 4);

    own["spec"]["nodeSelector"] = json!({"zone": "elsewhere"});
    let message = create_with(settings(), &own).denied();
    for part in ["nodeSelector", "zone", "elsewhere", "\"z\""] {
        assert!(message.contains(part), "{message}");
    }
    // NVIDIA's names mean nothing under another prefix.
    create_with(settings(), &pod(json!({"nvidia.com/gpu": "1"}))).untouched();
}

#[test]
fn a_pod_that_tolerates_everything_gets_no_toleration() {
    let mut asked = pod(json!({"nvidia.com/gpu": "1"}));
    asked["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    assert_eq!(create(&asked).admitted()["spec"]["tolerations"], json!([{"operator": "Exists"}]));
}
