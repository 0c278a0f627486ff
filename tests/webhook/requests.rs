//! Every rule of requests, as admission shows it: what the pod's request becomes, or why it is denied.

use packhorse::webhook::{CountAloneText, Settings};
use serde_json::{Value, json};

use super::review::{TIME_SLICED, create, create_with, pod, pod_with_annotations, pod_with_env, visible};

/// A container's entry in the normalised request.
fn entry(pod: &Value) -> Value {
    let text = pod["metadata"]["annotations"]["packhorse.dev/request"].as_str().expect("the request");
    text.parse::<Value>().expect("JSON")["containers"]["main"].clone()
}

#[test]
fn what_is_asked_becomes_this_request() {
    for (limits, request, cores, memory) in [
        (json!({"nvidia.com/gpu": "1"}), json!({"count": 1, "exclusive": true}), "100", None),
        (json!({"nvidia.com/gpu": "8"}), json!({"count": 8, "exclusive": true}), "800", None),
        (json!({"nvidia.com/gpumem": "4000"}), json!({"count": 1, "memory": 4000}), "0", Some("4000")),
        (json!({"nvidia.com/gpumem": "4k"}), json!({"count": 1, "memory": 4000}), "0", Some("4000")),
        (json!({"nvidia.com/gpumem": "4e3"}), json!({"count": 1, "memory": 4000}), "0", Some("4000")),
        (json!({"nvidia.com/gpumem": "16Gi"}), json!({"count": 1, "memory": 16384}), "0", Some("16384")),
        (json!({"nvidia.com/gpumem": "512Mi"}), json!({"count": 1, "memory": 512}), "0", Some("512")),
        (json!({"nvidia.com/gpumem": "1025Ki"}), json!({"count": 1, "memory": 2}), "0", Some("2")),
        (json!({"nvidia.com/gpumem": 4000}), json!({"count": 1, "memory": 4000}), "0", Some("4000")),
        (json!({"nvidia.com/gpumem": "999999"}), json!({"count": 1, "memory": 999_999}), "0", Some("999999")),
        (json!({"nvidia.com/gpumem-percentage": "50"}), json!({"count": 1, "memoryPercent": 50}), "0", None),
        (
            json!({"nvidia.com/gpumem": "2000", "nvidia.com/gpumem-percentage": "50"}),
            json!({"count": 1, "memory": 2000}),
            "0",
            Some("2000"),
        ),
        (json!({"nvidia.com/gpucores": "30"}), json!({"count": 1, "cores": 30}), "30", None),
        (json!({"nvidia.com/gpucores": "100"}), json!({"count": 1, "exclusive": true}), "100", None),
        (
            json!({"nvidia.com/gpucores": "100", "nvidia.com/gpumem": "1000"}),
            json!({"count": 1, "exclusive": true}),
            "100",
            None,
        ),
        (
            json!({"nvidia.com/gpu": "2", "nvidia.com/gpumem": "1000", "nvidia.com/gpucores": "10"}),
            json!({"count": 2, "memory": 1000, "cores": 10}),
            "20",
            Some("2000"),
        ),
        (json!({"nvidia.com/mig-1g.10gb": "2"}), json!({"count": 2, "mig": "1g.10gb"}), "0", None),
        (json!({"nvidia.com/mig-1g.10gb.me": "1"}), json!({"count": 1, "mig": "1g.10gb.me"}), "0", None),
    ] {
        let after = create(&pod(limits.clone())).admitted();
        assert_eq!(entry(&after), request, "{limits}");
        for list in ["limits", "requests"] {
            let amounts = &after["spec"]["containers"][0]["resources"][list];
            assert_eq!(amounts["packhorse.dev/gpu-cores"], cores, "{limits}");
            assert_eq!(amounts["packhorse.dev/gpu-memory"].as_str(), memory, "{limits}");
        }
    }
}

#[test]
fn what_can_never_run_is_denied_with_container_field_value_and_remedy() {
    for (limits, parts) in [
        (json!({"nvidia.com/gpu": "0", "nvidia.com/gpumem": "4000"}), ["nvidia.com/gpu", "0", "count of 1 or more"]),
        (json!({"nvidia.com/gpu": "-1"}), ["nvidia.com/gpu", "-1", "whole number"]),
        (json!({"nvidia.com/gpu": "1500m"}), ["nvidia.com/gpu", "1500m", "whole number"]),
        (json!({"nvidia.com/gpu": "one"}), ["nvidia.com/gpu", "one", "whole number"]),
        (json!({"nvidia.com/gpu": "99999999999999999999"}), ["nvidia.com/gpu", "99999999999999999999", "whole number"]),
        (json!({"nvidia.com/gpumem": "-5"}), ["nvidia.com/gpumem", "-5", "16Gi"]),
        (json!({"nvidia.com/gpumem": "0.5"}), ["nvidia.com/gpumem", "0.5", "16Gi"]),
        (json!({"nvidia.com/gpumem": "1M"}), ["nvidia.com/gpumem", "1M", "1Gi"]),
        (json!({"nvidia.com/gpumem": "1G"}), ["nvidia.com/gpumem", "1G", "1Gi"]),
        (json!({"nvidia.com/gpumem": "1000000"}), ["nvidia.com/gpumem", "1000000", "1Gi"]),
        (json!({"nvidia.com/gpumem": "16 Gi"}), ["nvidia.com/gpumem", "16 Gi", "16Gi"]),
        (json!({"nvidia.com/gpumem-percentage": "101"}), ["nvidia.com/gpumem-percentage", "101", "1 to 100"]),
        (json!({"nvidia.com/gpumem-percentage": "-1"}), ["nvidia.com/gpumem-percentage", "-1", "1 to 100"]),
        (json!({"nvidia.com/gpucores": "101"}), ["nvidia.com/gpucores", "101", "0 to 100"]),
        (json!({"nvidia.com/gpu": "1", "nvidia.com/mig-1g.10gb": "1"}), ["mig-1g.10gb", "1", "two containers"]),
        (
            json!({"nvidia.com/mig-1g.10gb": "1", "nvidia.com/gpumem": "1000"}),
            ["nvidia.com/gpumem", "1000", "mig-1g.10gb"],
        ),
        (
            json!({"nvidia.com/mig-1g.10gb": "1", "nvidia.com/gpucores": "10"}),
            ["nvidia.com/gpucores", "10", "mig-1g.10gb"],
        ),
        (json!({"nvidia.com/mig-huge": "1"}), ["nvidia.com/mig-huge", "huge", "mig-1g.10gb"]),
    ] {
        let answered = create(&pod(limits.clone()));
        let (code, message) = answered.verdict.expect_err(&limits.to_string());
        assert_eq!(code, 422, "{message}");
        assert!(message.contains("container \"main\""), "{message}");
        for part in parts {
            assert!(message.contains(part), "{limits}: {part:?} not in {message:?}");
        }
    }
}

#[test]
fn limits_and_requests_must_agree() {
    let mut asked = pod(json!({"nvidia.com/gpumem": "4000"}));
    asked["spec"]["containers"][0]["resources"]["requests"] = json!({"nvidia.com/gpumem": "5000"});
    let message = create(&asked).denied();
    assert!(message.contains("4000") && message.contains("5000"), "{message}");
    asked["spec"]["containers"][0]["resources"]["requests"] = json!({"nvidia.com/gpumem": "4k"});
    assert_eq!(entry(&create(&asked).admitted()), json!({"count": 1, "memory": 4000}));
}

#[test]
fn a_count_alone_means_what_the_cluster_or_the_namespace_says() {
    let settings = |text: &str| Settings {
        count_alone: CountAloneText::try_from(text.to_owned()).expect(text),
        ..Settings::default()
    };
    let asked = pod(json!({"nvidia.com/gpu": "2"}));
    assert_eq!(entry(&create_with(settings("share-25"), &asked).admitted()), json!({"count": 2, "memoryPercent": 25}));
    let mut sliced = asked;
    sliced["metadata"]["namespace"] = json!(TIME_SLICED);
    assert_eq!(entry(&create(&sliced).admitted()), json!({"count": 2, "memoryPercent": 50}));
    // Said in so many words it means what it says everywhere.
    sliced["metadata"]["annotations"] =
        json!({"packhorse.dev/request": r#"{"v":1,"containers":{"main":{"count":2,"exclusive":true}}}"#});
    assert_eq!(entry(&create(&sliced).admitted()), json!({"count": 2, "exclusive": true}));
}

#[test]
fn the_annotation_must_agree_with_the_resources() {
    let given = |text: &str| json!({"packhorse.dev/request": text});
    for (limits, text, parts) in [
        (
            json!({"nvidia.com/gpu": "1"}),
            r#"{"v":1,"containers":{"main":{"count":2,"memory":1000}}}"#,
            ["nvidia.com/gpu", "2"],
        ),
        (
            json!({"nvidia.com/gpumem": "2000"}),
            r#"{"v":1,"containers":{"main":{"count":1,"memory":1000}}}"#,
            ["nvidia.com/gpumem", "1000"],
        ),
        (
            json!({"nvidia.com/mig-1g.10gb": "1"}),
            r#"{"v":1,"containers":{"main":{"count":1,"memory":1000}}}"#,
            ["mig-1g.10gb", "MIG"],
        ),
        (json!({}), r#"{"v":1,"containers":{"other":{"count":1}}}"#, ["packhorse.dev/request", "other"]),
        (json!({}), r#"{"v":2,"containers":{}}"#, ["packhorse.dev/request", "version"]),
        (json!({}), r#"{"v":1,"containers":{"main":{"count":-1}}}"#, ["packhorse.dev/request", "-1"]),
        (json!({}), "not json", ["packhorse.dev/request", "not json"]),
        (json!({}), "", ["packhorse.dev/request", "write"]),
    ] {
        let message = create(&pod_with_annotations(limits, given(text))).denied();
        for part in parts {
            assert!(message.contains(part), "{text}: {part:?} not in {message:?}");
        }
    }
}

#[test]
fn named_devices_become_part_of_the_request() {
    let uuid = "GPU-0c1b3a4e-0000-0000-0000-000000000001";
    for (limits, value, request) in [
        (json!({}), "3", json!({"count": 1, "exclusive": true, "index": [3]})),
        (json!({}), "0,2", json!({"count": 2, "exclusive": true, "index": [0, 2]})),
        (json!({}), uuid, json!({"count": 1, "exclusive": true, "uuid": [uuid]})),
        (json!({"nvidia.com/gpumem": "1000"}), "3", json!({"count": 1, "memory": 1000, "index": [3]})),
        (json!({"nvidia.com/gpu": "2"}), "0,1", json!({"count": 2, "exclusive": true, "index": [0, 1]})),
    ] {
        let after = create(&pod_with_env(limits.clone(), visible(value))).admitted();
        assert_eq!(entry(&after), request, "{limits} {value}");
    }
    for (limits, value) in [
        (json!({"nvidia.com/gpu": "1"}), "0,1"),
        (json!({}), "0,0"),
        (json!({}), "0:1"),
        (json!({}), "nvidia.com/gpu=all"),
        (json!({}), "0,GPU-1"),
    ] {
        let message = create(&pod_with_env(limits, visible(value))).denied();
        assert!(message.contains("NVIDIA_VISIBLE_DEVICES") && message.contains("main"), "{value}: {message}");
    }
}

#[test]
fn constraints_are_left_for_the_extender_and_nonsense_in_them_is_denied() {
    let annotations = json!({"packhorse.dev/gpu-model": "A100", "packhorse.dev/node-policy": "spread", "packhorse.dev/numa-bind": "true"});
    let after = create(&pod_with_annotations(json!({"nvidia.com/gpu": "1"}), annotations.clone())).admitted();
    for (key, value) in annotations.as_object().unwrap() {
        assert_eq!(&after["metadata"]["annotations"][key], value);
    }
    let message =
        create(&pod_with_annotations(json!({"nvidia.com/gpu": "1"}), json!({"packhorse.dev/node-policy": "best"})))
            .denied();
    assert!(message.contains("packhorse.dev/node-policy") && message.contains("best"), "{message}");
}
