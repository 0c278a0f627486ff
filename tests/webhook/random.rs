//! Random pods: whatever is admitted, its patch applies, its request reads the same before and after, a second call changes
//! nothing, and nothing is lost that is not ours.

use std::cell::Cell;

use packhorse::gpu::parse::Rules;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use super::review::{create, request};

fn amounts() -> impl Strategy<Value = Map<String, Value>> {
    let name = prop_oneof![
        4 => Just("nvidia.com/gpu"),
        4 => Just("nvidia.com/gpumem"),
        2 => Just("nvidia.com/gpumem-percentage"),
        3 => Just("nvidia.com/gpucores"),
        1 => Just("nvidia.com/mig-1g.10gb"),
        1 => Just("nvidia.com/priority"),
        1 => Just("packhorse.dev/gpu-memory"),
        1 => Just("packhorse.dev/gpu-cores"),
        2 => Just("cpu"),
        1 => Just("example.com/a~b"),
    ];
    let amount = prop_oneof![
        6 => (1_u32..100).prop_map(|n| n.to_string()),
        1 => Just("0".to_owned()),
        1 => Just("4k".to_owned()),
        1 => Just("1Gi".to_owned()),
        1 => Just("-1".to_owned()),
    ];
    proptest::collection::vec((name, amount), 0..4)
        .prop_map(|pairs| pairs.into_iter().map(|(name, amount)| (name.to_owned(), json!(amount))).collect())
}

fn environment() -> impl Strategy<Value = Value> {
    let variable = prop_oneof![
        3 => Just(json!({"name": "A", "value": "1", "newInEnv": [1]})),
        1 => Just(json!({"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"})),
        1 => Just(json!({"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"})),
        1 => Just(json!({"name": "NVIDIA_VISIBLE_DEVICES"})),
        1 => Just(json!({"name": "NVIDIA_VISIBLE_DEVICES", "value": "0"})),
        1 => Just(json!({"name": "NVIDIA_VISIBLE_DEVICES", "value": "GPU-1,GPU-2"})),
        1 => Just(json!({"name": "NVIDIA_VISIBLE_DEVICES", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['devices.packhorse.dev/c0']"}}})),
        1 => Just(json!({"name": "NVIDIA_VISIBLE_DEVICES", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}})),
    ];
    prop_oneof![Just(Value::Null), proptest::collection::vec(variable, 0..3).prop_map(|list| json!(list))]
}

/// Containers without names; the pod numbers them.
fn container() -> impl Strategy<Value = Value> {
    (any::<bool>(), proptest::option::of(amounts()), proptest::option::of(amounts()), environment(), any::<bool>())
        .prop_map(|(same, limits, requests, env, resources)| {
            let mut container = json!({"image": "cuda", "newInContainer": {"x": [null]}});
            if resources || limits.is_some() || requests.is_some() {
                container["resources"] = json!({"claims": [{"name": "c"}]});
            }
            if let Some(requests) = if same { &limits } else { &requests } {
                container["resources"]["requests"] = json!(requests);
            }
            if let Some(limits) = limits {
                container["resources"]["limits"] = json!(limits);
            }
            if !env.is_null() {
                container["env"] = env;
            }
            container
        })
}

fn annotations() -> impl Strategy<Value = Option<Value>> {
    let pair = prop_oneof![
        2 => Just(("team/owner~x", "a")),
        1 => Just(("packhorse.dev/allocation", "{}")),
        1 => Just(("devices.packhorse.dev/c0", "GPU-1")),
        1 => Just(("packhorse.dev/gpu-model", "A100")),
        1 => Just(("nvidia.com/use-gputype", "A10,H100")),
        1 => Just(("packhorse.dev/request", r#"{"v":1,"containers":{"c0":{"count":1,"memory":1000}}}"#)),
    ];
    proptest::option::of(
        proptest::collection::vec(pair, 0..3)
            .prop_map(|pairs| json!(pairs.into_iter().map(|(k, v)| (k.to_owned(), json!(v))).collect::<Map<_, _>>())),
    )
}

fn pods() -> impl Strategy<Value = Value> {
    let containers = proptest::collection::vec(container(), 1..4);
    let init = proptest::collection::vec((container(), any::<bool>()), 0..3);
    let scheduler = prop_oneof![Just(Value::Null), Just(json!("default-scheduler")), Just(json!("packhorse"))];
    (containers, init, annotations(), scheduler, any::<bool>()).prop_map(|(mut containers, init, annotations, scheduler, tolerant)| {
        for (index, container) in containers.iter_mut().enumerate() {
            container["name"] = json!(format!("c{index}"));
        }
        let mut pod = json!({"metadata": {"namespace": "team", "generateName": "g-", "new": 1}, "spec": {"containers": containers, "new": {"a": 1}}});
        if !init.is_empty() {
            let named = init.into_iter().enumerate().map(|(index, (mut container, sidecar))| {
                container["name"] = json!(format!("i{index}"));
                if sidecar {
                    container["restartPolicy"] = json!("Always");
                }
                container
            });
            pod["spec"]["initContainers"] = named.collect();
        }
        if let Some(annotations) = annotations {
            pod["metadata"]["annotations"] = annotations;
        }
        if !scheduler.is_null() {
            pod["spec"]["schedulerName"] = scheduler;
        }
        if tolerant {
            pod["spec"]["tolerations"] = json!([{"key": "x", "operator": "Exists", "tolerationSeconds": 5}]);
        }
        pod
    })
}

/// The pod without anything that the webhook may change.
fn untouchable(pod: &Value) -> Value {
    let ours = |name: &str| name.starts_with("nvidia.com/") || name.starts_with("packhorse.dev/");
    let mut pod = pod.clone();
    if let Some(annotations) = pod["metadata"]["annotations"].as_object_mut() {
        annotations.retain(|key, _| {
            !matches!(key.as_str(), "packhorse.dev/request" | "packhorse.dev/allocation" | "devices.packhorse.dev/c0")
        });
    }
    if pod["metadata"]["annotations"].as_object().is_none_or(Map::is_empty) {
        pod["metadata"].as_object_mut().unwrap().remove("annotations");
    }
    let spec = pod["spec"].as_object_mut().unwrap();
    spec.remove("schedulerName");
    if let Some(tolerations) = spec.get_mut("tolerations").and_then(Value::as_array_mut) {
        tolerations.retain(|toleration| toleration["key"] != "nvidia.com/gpu");
    }
    spec.retain(|key, value| key != "tolerations" || value.as_array().is_some_and(|list| !list.is_empty()));
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            for kind in ["limits", "requests"] {
                if let Some(amounts) = container["resources"][kind].as_object_mut() {
                    amounts.retain(|name, _| !ours(name));
                }
                if container["resources"][kind].as_object().is_none_or(Map::is_empty) {
                    container["resources"].as_object_mut().map(|resources| resources.remove(kind));
                }
            }
            if let Some(env) = container["env"].as_array_mut() {
                env.retain(|variable| variable["name"] != "NVIDIA_VISIBLE_DEVICES");
            }
            let container = container.as_object_mut().unwrap();
            container.retain(|key, value| {
                !(key == "env" && value.as_array().is_none_or(Vec::is_empty)
                    || key == "resources" && value.as_object().is_none_or(Map::is_empty))
            });
        }
    }
    pod
}

#[test]
fn what_is_admitted_means_what_was_asked_and_loses_nothing() {
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let (admitted, mutated) = (Cell::new(0), Cell::new(0));
    let result = runner.run(&pods(), |pod| {
        let answered = create(&pod);
        if answered.verdict.is_ok() {
            admitted.set(admitted.get() + 1);
            mutated.set(mutated.get() + i32::from(!answered.patch.is_empty()));
            prop_assert_eq!(request(&Rules::default(), &pod), request(&Rules::default(), &answered.pod));
            prop_assert_eq!(untouchable(&pod), untouchable(&answered.pod));
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(mutated.get() > 30 && admitted.get() < 300, "of 300 pods {admitted:?} admitted, {mutated:?} mutated");
}
