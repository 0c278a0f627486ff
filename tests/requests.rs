//! What users may write, and what it means: every rule as a row of a table, read through the same bytes that an API server sends.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;

use packhorse::gpu::device::Enforcement;
use packhorse::gpu::parse::{CountAlone, Denial, Parsed, Rules};
use packhorse::gpu::request::{
    Ask, Constraints, ContainerRequest, GpuPolicy, Memory, MigProfile, NodePolicy, Phase, PodRequest, totals,
};
use packhorse::kube_api::names;
use packhorse::kube_api::pod::PodView;
use packhorse::kube_api::request::{decode, devices_field_path, encode, host_requests, phases, read_pod};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Reads a pod from bytes by the default rules.
fn read(pod: &Value) -> Result<Parsed, Vec<Denial>> {
    read_by(&Rules::default(), pod)
}

fn read_by(rules: &Rules, pod: &Value) -> Result<Parsed, Vec<Denial>> {
    let bytes = serde_json::to_vec(pod).unwrap();
    let view: PodView<'_> = serde_json::from_slice(&bytes).unwrap();
    read_pod(rules, &view)
}

/// A pod of one container, `main`, with `limits` under `nvidia.com/`.
fn limits(limits: &Value) -> Value {
    json!({"spec": {"containers": [{"name": "main", "resources": {"limits": prefixed("nvidia.com", limits)}}]}})
}

fn prefixed(prefix: &str, names: &Value) -> Value {
    let named = names.as_object().unwrap().iter().map(|(name, value)| (format!("{prefix}/{name}"), value.clone()));
    Value::Object(named.collect())
}

fn with_env(mut pod: Value, env: &[(&str, &str)]) -> Value {
    pod["spec"]["containers"][0]["env"] =
        env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    pod
}

fn with_annotation(mut pod: Value, key: &str, value: &str) -> Value {
    pod["metadata"]["annotations"][key] = json!(value);
    pod
}

fn with_request(pod: Value, containers: &Value) -> Value {
    with_annotation(pod, names::REQUEST, &json!({"v": 1, "containers": containers}).to_string())
}

/// What `main` alone asks for; `None` for no GPU.
fn ask_of(pod: &Value) -> Option<(u32, Ask)> {
    let parsed = read(pod).unwrap_or_else(|denials| panic!("{pod}: denied: {}", denials[0]));
    assert!(parsed.request.containers.len() <= 1, "{pod}");
    parsed.request.containers.into_iter().next().map(|container| (container.count, container.ask))
}

fn denied(pod: &Value) -> Vec<Denial> {
    match read(pod) {
        Ok(parsed) => panic!("{pod}: not denied but read as {:?}", parsed.request),
        Err(denials) => denials,
    }
}

fn mib(memory: u32, cores: u8) -> Ask {
    Ask::Share { memory: Memory::Mib(memory), cores }
}

fn percent(percent: u8, cores: u8) -> Ask {
    Ask::Share { memory: Memory::Percent(percent), cores }
}

fn all(cores: u8) -> Ask {
    Ask::Share { memory: Memory::All, cores }
}

fn mig(profile: &str) -> Ask {
    Ask::Mig(MigProfile(profile.into()))
}

/// What the webhook makes of a pod, as far as the request goes: written here a second time, from the contract.
fn mutated(rules: &Rules, pod: &Value, request: &PodRequest) -> Value {
    let mut pod = pod.clone();
    pod["metadata"]["annotations"][names::REQUEST] = json!(encode(request));
    for list in ["initContainers", "containers"] {
        let Some(containers) = pod["spec"].get_mut(list).and_then(Value::as_array_mut) else { continue };
        for container in containers {
            let name = container["name"].as_str().unwrap().to_owned();
            let asked = request.containers.iter().find(|c| *c.name == *name);
            let mut env: Vec<Value> = container.get("env").and_then(Value::as_array).cloned().unwrap_or_default();
            env.retain(|variable| variable["name"] != names::VISIBLE_DEVICES);
            match asked {
                None => env.push(json!({"name": names::VISIBLE_DEVICES, "value": "void"})),
                Some(asked) => {
                    let path = devices_field_path(&name);
                    env.push(json!({"name": names::VISIBLE_DEVICES, "valueFrom": {"fieldRef": {"fieldPath": path}}}));
                    let (memory, cores) = totals(asked);
                    for side in ["limits", "requests"] {
                        let before = container.pointer(&format!("/resources/{side}")).and_then(Value::as_object);
                        let mut after: Map<String, Value> = before.cloned().unwrap_or_default();
                        after.retain(|name, _| !rules.is_removed(name));
                        let (device, count) = match &asked.ask {
                            Ask::Mig(profile) => (format!("{}/mig-{profile}", rules.prefix), asked.count),
                            _ => (rules.count_name(), asked.count),
                        };
                        after.insert(device, json!(count.to_string()));
                        after.insert(names::GPU_CORES.to_owned(), json!(cores.to_string()));
                        if let Some(memory) = memory {
                            after.insert(names::GPU_MEMORY.to_owned(), json!(memory.to_string()));
                        }
                        container["resources"][side] = Value::Object(after);
                    }
                }
            }
            container["env"] = json!(env);
        }
    }
    pod
}

/// The webhook's output must read as its input did, also under other rules than those of admission, and a second time.
fn assert_idempotent(rules: &Rules, pod: &Value) {
    let Ok(parsed) = read_by(rules, pod) else { return };
    if parsed.request.is_empty() {
        return;
    }
    let once = mutated(rules, pod, &parsed.request);
    for count_alone in [CountAlone::Exclusive, CountAlone::Share(25)] {
        let rules = Rules { count_alone, ..rules.clone() };
        match read_by(&rules, &once) {
            Ok(again) => assert_eq!(again.request, parsed.request, "{pod}\nbecame {once}"),
            Err(denials) => panic!("{pod}\nbecame {once}\nwhich is denied: {}", denials[0]),
        }
    }
    assert_eq!(mutated(rules, &once, &parsed.request), once);
}

#[test]
fn reads_resources_by_every_rule() {
    for (resources, expected) in [
        (json!({"gpu": "1"}), Some((1, Ask::Exclusive))),
        (json!({"gpu": 2}), Some((2, Ask::Exclusive))),
        (json!({"gpu": "1000m"}), Some((1, Ask::Exclusive))),
        (json!({"gpu": "2", "gpumem": "4096"}), Some((2, mib(4_096, 0)))),
        (json!({"gpumem": "1"}), Some((1, mib(1, 0)))),
        (json!({"gpumem-percentage": "1"}), Some((1, percent(1, 0)))),
        (json!({"gpucores": "1"}), Some((1, all(1)))),
        (json!({"gpucores": "99"}), Some((1, all(99)))),
        (json!({"gpu": "1", "gpumem": "4096", "gpucores": "30"}), Some((1, mib(4_096, 30)))),
        (json!({"gpu": "1", "gpumem": 4096, "gpucores": 30}), Some((1, mib(4_096, 30)))),
        (json!({"gpu": "1", "gpumem-percentage": "50"}), Some((1, percent(50, 0)))),
        (json!({"gpu": "1", "gpumem-percentage": "100"}), Some((1, percent(100, 0)))),
        (json!({"gpu": "1", "gpumem-percentage": "0"}), Some((1, Ask::Exclusive))),
        (json!({"gpu": "1", "gpumem": "2000", "gpumem-percentage": "0"}), Some((1, mib(2_000, 0)))),
        (json!({"gpu": "1", "gpumem": "2000", "gpumem-percentage": "50"}), Some((1, mib(2_000, 0)))),
        (json!({"gpu": "1", "gpucores": "100"}), Some((1, Ask::Exclusive))),
        (json!({"gpucores": "100"}), Some((1, Ask::Exclusive))),
        (json!({"gpu": "3", "gpumem": "100", "gpucores": "100"}), Some((3, Ask::Exclusive))),
        (json!({"gpu": "1", "gpucores": "0"}), Some((1, Ask::Exclusive))),
        (json!({"gpu": "1", "gpumem": "4000", "gpucores": "0"}), Some((1, mib(4_000, 0)))),
        (json!({"gpumem": "4k"}), Some((1, mib(4_000, 0)))),
        (json!({"gpumem": "4e3"}), Some((1, mib(4_000, 0)))),
        (json!({"gpumem": "16Gi"}), Some((1, mib(16_384, 0)))),
        (json!({"gpumem": "512Mi"}), Some((1, mib(512, 0)))),
        (json!({"gpumem": "1025Ki"}), Some((1, mib(2, 0)))),
        (json!({"gpumem": "999999"}), Some((1, mib(999_999, 0)))),
        (json!({"gpu": "0"}), None),
        (json!({"gpu": "0", "gpumem": "0", "gpucores": "0"}), None),
        (json!({"gpumem": "0"}), None),
        (json!({}), None),
        (json!({"mig-1g.10gb": "1"}), Some((1, mig("1g.10gb")))),
        (json!({"mig-1g.10gb": "3", "gpu": "0"}), Some((3, mig("1g.10gb")))),
        (json!({"mig-1g.10gb.me": "1"}), Some((1, mig("1g.10gb.me")))),
        (json!({"mig-1c.3g.20gb": "2"}), Some((2, mig("1c.3g.20gb")))),
        (json!({"mig-1g.10gb": "1", "mig-2g.20gb": "0"}), Some((1, mig("1g.10gb")))),
        (json!({"mig-1g.10gb": "0"}), None),
        (json!({"mig-1g.10gb": "0", "gpu": "1"}), Some((1, Ask::Exclusive))),
    ] {
        let pod = limits(&resources);
        assert_eq!(ask_of(&pod), expected, "{resources}");
        assert_idempotent(&Rules::default(), &pod);
    }
}

#[test]
fn denies_what_can_never_run_with_field_value_and_remedy() {
    for (resources, field, value, problem, remedy) in [
        (json!({"gpu": "-1"}), "gpu", "-1", "negative", "whole number of devices"),
        (json!({"gpu": "500m"}), "gpu", "500m", "not a whole number", "for example 1"),
        (json!({"gpu": "0.5"}), "gpu", "0.5", "not a whole number", "for example 1"),
        (json!({"gpu": "one"}), "gpu", "one", "not a quantity", "for example 1"),
        (json!({"gpu": "99E"}), "gpu", "99E", "too large", "for example 1"),
        (json!({"gpu": "1025"}), "gpu", "1025", "more devices than any node has", "for example 1"),
        (json!({"gpumem": "1M"}), "gpumem", "1M", "1000000 MiB or more fits no card", "`1Gi`"),
        (json!({"gpumem": "1G"}), "gpumem", "1G", "1000000 MiB or more fits no card", "`1Gi`"),
        (json!({"gpumem": "1000000"}), "gpumem", "1000000", "fits no card", "`1Gi`"),
        (json!({"gpumem": "1e6"}), "gpumem", "1e6", "fits no card", "`1Gi`"),
        (json!({"gpumem": "1Ti"}), "gpumem", "1Ti", "fits no card", "`1Gi`"),
        (json!({"gpumem": "99999999999999999999999"}), "gpumem", "9999", "fits no card", "`1Gi`"),
        (json!({"gpumem": "0.5"}), "gpumem", "0.5", "not a whole number", "16Gi"),
        (json!({"gpumem": "-4000"}), "gpumem", "-4000", "negative", "16Gi"),
        (json!({"gpumem": "16GB"}), "gpumem", "16GB", "not a quantity", "16Gi"),
        (json!({"gpu": "1", "gpumem-percentage": "101"}), "gpumem-percentage", "101", "more than 100", "1 to 100"),
        (json!({"gpu": "1", "gpumem-percentage": "150"}), "gpumem-percentage", "150", "more than 100", "1 to 100"),
        (json!({"gpu": "1", "gpumem-percentage": "-1"}), "gpumem-percentage", "-1", "negative", "1 to 100"),
        (json!({"gpu": "1", "gpucores": "101"}), "gpucores", "101", "more than 100", "0 to 100"),
        (json!({"gpu": "1", "gpucores": "1.5"}), "gpucores", "1.5", "not a whole number", "0 to 100"),
        (json!({"gpu": "0", "gpumem": "4000"}), "gpu", "0", "nvidia.com/gpumem is 4000", "count of 1 or more"),
        (json!({"gpu": "0", "gpumem-percentage": "5"}), "gpu", "0", "gpumem-percentage is 5", "count of 1 or more"),
        (json!({"gpu": "0", "gpucores": "30"}), "gpu", "0", "nvidia.com/gpucores is 30", "count of 1 or more"),
        (json!({"gpu": "1", "mig-1g.10gb": "1"}), "gpu", "1", "in one container", "two containers"),
        (
            json!({"mig-1g.10gb": "1", "mig-2g.20gb": "1"}),
            "mig-1g.10gb",
            "1",
            "two MIG profiles",
            "one profile per container",
        ),
        (json!({"mig-1g.10gb": "1", "gpumem": "4000"}), "gpumem", "4000", "fixes memory and cores", "remove it"),
        (json!({"mig-1g.10gb": "1", "gpumem-percentage": "5"}), "gpumem-percentage", "5", "fixes memory", "remove it"),
        (json!({"mig-1g.10gb": "1", "gpucores": "5"}), "gpucores", "5", "fixes memory", "remove it"),
        (json!({"mig-large": "1"}), "mig-large", "1", "not the name of a MIG profile", "mig-1g.10gb"),
        (json!({"mig-1g.10gb": "-1"}), "mig-1g.10gb", "-1", "negative", "whole number"),
        (json!({"mig-1g.10gb": "0.5"}), "mig-1g.10gb", "0.5", "not a whole number", "whole number"),
    ] {
        let denials = denied(&limits(&resources));
        assert_eq!(denials.len(), 1, "{resources}: {denials:?}");
        let denial = &denials[0];
        assert_eq!(denial.container.as_deref(), Some("main"), "{resources}");
        assert_eq!(denial.field, format!("nvidia.com/{field}"), "{resources}");
        assert!(denial.value.starts_with(value), "{resources}: {denial}");
        assert!(denial.problem.contains(problem), "{resources}: {denial}");
        assert!(denial.remedy.contains(remedy), "{resources}: {denial}");
        let text = denial.to_string();
        for part in ["\"main\"", field, value, problem, remedy] {
            assert!(text.contains(part), "{text} lacks {part}");
        }
    }
}

#[test]
fn a_count_alone_means_what_the_rules_say() {
    let rules = Rules { count_alone: CountAlone::Share(25), ..Rules::default() };
    for (resources, expected) in [
        (json!({"gpu": "2"}), (2, percent(25, 0))),
        (json!({"gpu": "2", "gpucores": "0"}), (2, percent(25, 0))),
        (json!({"gpu": "2", "gpumem": "100"}), (2, mib(100, 0))),
        (json!({"gpu": "2", "gpucores": "10"}), (2, all(10))),
        (json!({"gpu": "2", "gpucores": "100"}), (2, Ask::Exclusive)),
    ] {
        let pod = limits(&resources);
        let request = read_by(&rules, &pod).unwrap().request;
        assert_eq!((request.containers[0].count, request.containers[0].ask.clone()), expected, "{resources}");
        assert_idempotent(&rules, &pod);
    }
    let pinned = with_env(limits(&json!({})), &[("NVIDIA_VISIBLE_DEVICES", "3")]);
    assert_eq!(read_by(&rules, &pinned).unwrap().request.containers[0].ask, percent(25, 0));
    assert_idempotent(&rules, &pinned);
}

#[test]
fn a_given_entry_decides_and_must_agree() {
    for (resources, entry, expected) in [
        (json!({}), json!({"count": 1, "memory": 4096, "cores": 30}), Some((1, mib(4_096, 30)))),
        (json!({}), json!({"count": 2, "memoryPercent": 50}), Some((2, percent(50, 0)))),
        (json!({}), json!({"count": 1, "exclusive": true}), Some((1, Ask::Exclusive))),
        (json!({}), json!({"count": 1}), Some((1, Ask::Exclusive))),
        (json!({}), json!({"count": 1, "cores": 100, "memory": 7}), Some((1, Ask::Exclusive))),
        (json!({}), json!({"memory": 4096}), Some((1, mib(4_096, 0)))),
        (json!({}), json!({"count": 0}), None),
        (json!({}), json!({}), None),
        (json!({}), json!({"count": 3, "mig": "1g.10gb"}), Some((3, mig("1g.10gb")))),
        (json!({"mig-1g.10gb": "3"}), json!({"count": 3, "mig": "1g.10gb"}), Some((3, mig("1g.10gb")))),
        (json!({"mig-1g.10gb": "3"}), json!({"mig": "1g.10gb"}), Some((3, mig("1g.10gb")))),
        (json!({"gpu": "2"}), json!({"memory": 4096}), Some((2, mib(4_096, 0)))),
        (json!({"gpu": "2"}), json!({}), Some((2, Ask::Exclusive))),
        (json!({"gpu": "1", "gpumem": "4k"}), json!({"count": 1, "memory": 4000}), Some((1, mib(4_000, 0)))),
        (json!({"gpu": "1", "gpucores": "100"}), json!({"count": 1, "exclusive": true}), Some((1, Ask::Exclusive))),
    ] {
        let pod = with_request(limits(&resources), &json!({"main": entry}));
        assert_eq!(ask_of(&pod), expected, "{resources} {entry}");
        assert_idempotent(&Rules::default(), &pod);
    }
    for (resources, entry, field, problem) in [
        (json!({"gpu": "2"}), json!({"count": 1}), "nvidia.com/gpu", "says count 1"),
        (
            json!({"gpu": "1", "gpumem": "4000"}),
            json!({"count": 1, "memory": 4096}),
            "nvidia.com/gpumem",
            "memory 4096",
        ),
        (json!({"gpu": "1", "gpumem": "4000"}), json!({"count": 1}), "nvidia.com/gpumem", "no memory"),
        (
            json!({"gpumem-percentage": "5"}),
            json!({"memoryPercent": 6}),
            "nvidia.com/gpumem-percentage",
            "memoryPercent 6",
        ),
        (json!({"gpucores": "5"}), json!({"cores": 6}), "nvidia.com/gpucores", "cores 6"),
        (json!({"gpucores": "5"}), json!({"exclusive": true}), "nvidia.com/gpucores", "cores 100"),
        (json!({"gpu": "1"}), json!({"mig": "1g.10gb"}), "nvidia.com/gpu", "MIG profile 1g.10gb"),
        (json!({"mig-1g.10gb": "1"}), json!({"count": 1}), "nvidia.com/mig-1g.10gb", "no MIG profile"),
        (json!({"mig-1g.10gb": "1"}), json!({"mig": "2g.20gb"}), "nvidia.com/mig-1g.10gb", "profile 2g.20gb"),
        (json!({"mig-1g.10gb": "1"}), json!({"count": 2, "mig": "1g.10gb"}), "nvidia.com/mig-1g.10gb", "count 2"),
        (json!({}), json!({"count": -1}), "packhorse.dev/request field count", "negative"),
        (json!({}), json!({"count": 1025}), "packhorse.dev/request field count", "more than 1024"),
        (json!({}), json!({"memory": 1_000_000}), "packhorse.dev/request field memory", "fits no card"),
        (json!({}), json!({"memory": -1}), "packhorse.dev/request field memory", "negative"),
        (json!({}), json!({"memoryPercent": 101}), "packhorse.dev/request field memoryPercent", "more than 100"),
        (json!({}), json!({"cores": 101}), "packhorse.dev/request field cores", "more than 100"),
        (json!({}), json!({"mig": "huge"}), "packhorse.dev/request field mig", "MIG profile"),
        (json!({}), json!({"mig": "1g.10gb", "memory": 5}), "packhorse.dev/request field memory", "fixes memory"),
        (
            json!({}),
            json!({"mig": "1g.10gb", "exclusive": true}),
            "packhorse.dev/request field exclusive",
            "fixes memory",
        ),
        (json!({}), json!({"count": 0, "memory": 5}), "packhorse.dev/request field count", "field memory is 5"),
        (json!({}), json!({"count": 0, "mig": "1g.10gb", "memory": 5}), "packhorse.dev/request field count", "is 5"),
        (json!({}), json!({"count": 1, "index": [1, 2]}), "packhorse.dev/request", "names 2 devices"),
        (json!({}), json!({"index": [1, 1]}), "packhorse.dev/request field index", "named twice"),
        (json!({}), json!({"uuid": ["GPU-a", "GPU-a"]}), "packhorse.dev/request field uuid", "named twice"),
        (json!({}), json!({"uuid": ["card"]}), "packhorse.dev/request field uuid", "not the UUID"),
        (json!({}), json!({"index": [1], "uuid": ["GPU-a"]}), "packhorse.dev/request field index", "mixed"),
    ] {
        let denials = denied(&with_request(limits(&resources), &json!({"main": entry})));
        let denial = &denials[0];
        assert_eq!(denial.container.as_deref(), Some("main"), "{resources} {entry}");
        assert_eq!(denial.field, field, "{resources} {entry}: {denial}");
        assert!(denial.problem.contains(problem), "{resources} {entry}: {denial}");
    }
}

#[test]
fn damaged_request_annotations_are_denied_and_unknown_fields_warned_of() {
    for (text, problem) in [
        ("", "EOF"),
        ("{", "EOF"),
        ("[]", "an object with v and containers"),
        ("{}", "version (none)"),
        (r#"{"containers":{}}"#, "version (none)"),
        (r#"{"v":2,"containers":{}}"#, "version 2"),
        (r#"{"v":2,"containers":[]}"#, "version 2"),
        (r#"{"v":"1","containers":{}}"#, "version \"1\""),
        (r#"{"v":1,"containers":[]}"#, "containers by name"),
        (r#"{"v":1,"containers":{"main":{"count":"1"}}}"#, "expected i64"),
        (r#"{"v":1,"containers":{"main":{"memory":4096.5}}}"#, "expected i64"),
        (r#"{"v":1,"containers":{"main":{"memory":1e30}}}"#, "expected i64"),
        (r#"{"v":1,"containers":{"main":{"index":[-1]}}}"#, "expected u32"),
        (r#"{"v":1,"containers":{"main":{},"main":{"count":1}}}"#, "named twice"),
        (r#"{"v":1,"containers":{}} x"#, "trailing"),
    ] {
        let denials = denied(&with_annotation(limits(&json!({"gpu": "1"})), names::REQUEST, text));
        assert_eq!((denials.len(), denials[0].field.as_str()), (1, names::REQUEST), "{text}");
        assert_eq!(denials[0].value, text);
        assert!(denials[0].problem.contains(problem), "{text}: {}", denials[0]);
        assert!(denials[0].remedy.contains(r#"{"v":1"#), "{text}: {}", denials[0]);
    }
    let denials = denied(&with_request(limits(&json!({})), &json!({"mian": {"count": 1}})));
    assert_eq!((denials[0].field.as_str(), denials[0].value.as_str()), (names::REQUEST, "mian"));
    assert!(denials[0].problem.contains("no container of that name"), "{}", denials[0]);

    let text = r#"{"v":1,"later":{},"containers":{"main":{"count":1,"memory":5,"colour":"red"}}}"#;
    let parsed = read(&with_annotation(limits(&json!({})), names::REQUEST, text)).unwrap();
    assert_eq!(parsed.request.containers[0].ask, mib(5, 0));
    for field in ["later", "main.colour"] {
        assert!(
            parsed.warnings.iter().any(|w| w.contains(&format!("unknown field {field} "))),
            "{:?}",
            parsed.warnings
        );
    }
}

#[test]
fn visible_devices_pin_are_left_or_are_denied() {
    let pins = |parsed: &Parsed| {
        let container = parsed.request.containers.first()?;
        Some((container.count, container.ask.clone(), container.index.clone(), container.uuid.clone()))
    };
    let uuids = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect::<Vec<Arc<str>>>();
    for (resources, value, expected) in [
        (json!({}), "3", Some((1, Ask::Exclusive, vec![3], vec![]))),
        (json!({}), "0, 2", Some((2, Ask::Exclusive, vec![0, 2], vec![]))),
        (json!({}), "GPU-a,GPU-b", Some((2, Ask::Exclusive, vec![], uuids(&["GPU-a", "GPU-b"])))),
        (json!({}), "MIG-a", Some((1, Ask::Exclusive, vec![], uuids(&["MIG-a"])))),
        (json!({"gpu": "1", "gpumem": "100"}), "3", Some((1, mib(100, 0), vec![3], vec![]))),
        (json!({"gpumem": "100"}), "3", Some((1, mib(100, 0), vec![3], vec![]))),
        (json!({"gpu": "2"}), "GPU-a,MIG-b", Some((2, Ask::Exclusive, vec![], uuids(&["GPU-a", "MIG-b"])))),
        (json!({"mig-1g.10gb": "1"}), "MIG-b", Some((1, mig("1g.10gb"), vec![], uuids(&["MIG-b"])))),
        (json!({"mig-1g.10gb": "1"}), "2", Some((1, mig("1g.10gb"), vec![2], vec![]))),
        (json!({}), "none", None),
        (json!({}), "void", None),
        (json!({}), "", None),
        (json!({"gpu": "0"}), "none", None),
        (json!({"gpu": "1"}), "all", Some((1, Ask::Exclusive, vec![], vec![]))),
        (json!({"gpu": "1"}), "void", Some((1, Ask::Exclusive, vec![], vec![]))),
    ] {
        let pod = with_env(limits(&resources), &[("NVIDIA_VISIBLE_DEVICES", value)]);
        let parsed = read(&pod).unwrap_or_else(|denials| panic!("{resources} {value}: {}", denials[0]));
        assert_eq!(pins(&parsed), expected, "{resources} {value}");
        assert!(parsed.visible_all.is_empty() && parsed.visible_indirect.is_empty());
        assert_idempotent(&Rules::default(), &pod);
    }
    for (resources, value, problem) in [
        (json!({}), "0,0", "\"0\" is named twice"),
        (json!({}), "GPU-a,GPU-a", "\"GPU-a\" is named twice"),
        (json!({}), "0,GPU-a", "mixed"),
        (json!({}), "0,", "\"\" is neither"),
        (json!({}), "0:1", "\"0:1\" is neither"),
        (json!({}), "-1", "\"-1\" is neither"),
        (json!({}), "99999999999", "is neither"),
        (json!({}), "ALL", "\"ALL\" is neither"),
        (json!({}), "0,all", "\"all\" is neither"),
        (json!({}), "nvidia.com/gpu=0", "is neither"),
        (json!({}), "/var/run/nvidia-container-devices", "is neither"),
        (json!({"gpu": "2"}), "3", "names 1 devices, but the container asks for 2"),
        (json!({"gpumem": "100"}), "1,2", "names 2 devices, but the container asks for 1"),
        (json!({"mig-1g.10gb": "1"}), "GPU-a", "this is a whole GPU"),
    ] {
        let denials = denied(&with_env(limits(&resources), &[("NVIDIA_VISIBLE_DEVICES", value)]));
        let denial = &denials[0];
        assert_eq!(denial.container.as_deref(), Some("main"), "{value}");
        assert_eq!(denial.field, "NVIDIA_VISIBLE_DEVICES", "{value}");
        assert!(denial.problem.contains(problem), "{value}: {denial}");
    }
    let denials = denied(&with_env(limits(&json!({"gpu": "0"})), &[("NVIDIA_VISIBLE_DEVICES", "3")]));
    assert_eq!(denials[0].field, "nvidia.com/gpu");
    assert!(denials[0].problem.contains("names devices: 3"), "{}", denials[0]);
}

#[test]
fn visible_all_and_indirect_without_a_request_are_told_to_the_caller() {
    let parsed = read(&with_env(limits(&json!({})), &[("NVIDIA_VISIBLE_DEVICES", "all")])).unwrap();
    assert!(parsed.request.is_empty());
    assert_eq!(parsed.visible_all, [Arc::from("main")]);

    let indirect = |resources: &Value, from: Value| {
        let mut pod = limits(resources);
        pod["spec"]["containers"][0]["env"] = json!([{"name": "NVIDIA_VISIBLE_DEVICES", "valueFrom": from}]);
        pod
    };
    let config_map = json!({"configMapKeyRef": {"name": "c", "key": "k"}});
    let foreign = json!({"fieldRef": {"fieldPath": "metadata.annotations['devices.packhorse.dev/other']"}});
    for from in [&config_map, &foreign] {
        let parsed = read(&indirect(&json!({}), from.clone())).unwrap();
        assert_eq!(parsed.visible_indirect, [Arc::from("main")], "{from}");
        let denials = denied(&indirect(&json!({"gpu": "1"}), from.clone()));
        assert_eq!(denials[0].field, "NVIDIA_VISIBLE_DEVICES");
        assert!(denials[0].problem.contains("cannot be read at admission"), "{}", denials[0]);
    }
    let ours = json!({"fieldRef": {"fieldPath": devices_field_path("main")}});
    assert_eq!(read(&indirect(&json!({"gpu": "1"}), ours.clone())).unwrap().request.containers.len(), 1);
    assert_eq!(read(&indirect(&json!({}), ours)).unwrap(), Parsed::default());
}

#[test]
fn requests_only_count_as_limits_and_a_contradiction_is_denied() {
    let both = |limits: Value, requests: Value| {
        json!({"spec": {"containers": [{"name": "main", "resources": {
            "limits": prefixed("nvidia.com", &limits), "requests": prefixed("nvidia.com", &requests)}}]}})
    };
    for (limits, requests, expected) in [
        (json!({}), json!({"gpu": "1"}), (1, Ask::Exclusive)),
        (json!({}), json!({"gpu": "1", "gpumem": "4k", "gpucores": "55"}), (1, mib(4_000, 55))),
        (json!({"gpu": "1"}), json!({"gpumem": "4k"}), (1, mib(4_000, 0))),
        (json!({"gpumem": "4000"}), json!({"gpumem": "4k"}), (1, mib(4_000, 0))),
        (json!({}), json!({"mig-1g.10gb": "1"}), (1, mig("1g.10gb"))),
    ] {
        let pod = both(limits, requests);
        assert_eq!(ask_of(&pod), Some(expected), "{pod}");
        assert_idempotent(&Rules::default(), &pod);
    }
    for (name, limit, request) in [
        ("gpu", "1", "2"),
        ("gpumem", "4000", "4Gi"),
        ("gpumem-percentage", "50", "40"),
        ("gpucores", "1", "0"),
        ("mig-1g.10gb", "1", "2"),
        ("gpu", "1", "x"),
    ] {
        let denials = denied(&both(json!({name: limit}), json!({name: request})));
        assert_eq!(denials[0].field, format!("nvidia.com/{name}"));
        assert_eq!(denials[0].value, request);
        assert!(denials[0].problem.contains(limit) && denials[0].problem.contains("differ"), "{}", denials[0]);
    }
}

#[test]
fn every_kind_of_container_is_read_in_the_order_of_the_pod() {
    let gpu = |name: &str, memory: &str| json!({"name": name, "resources": {"limits": {"nvidia.com/gpumem": memory}}});
    let mut sidecar = gpu("log", "200");
    sidecar["restartPolicy"] = json!("Always");
    let pod = json!({"spec": {
        "initContainers": [gpu("warm", "100"), sidecar, {"name": "copy"}],
        "containers": [gpu("main", "300"), {"name": "proxy"}],
        "ephemeralContainers": [{"name": "debug"}]}});
    let expected: Vec<ContainerRequest> =
        [("warm", Phase::Init, 100), ("log", Phase::Sidecar, 200), ("main", Phase::App, 300)]
            .into_iter()
            .map(|(name, phase, memory)| ContainerRequest {
                name: name.into(),
                phase,
                count: 1,
                ask: mib(memory, 0),
                index: vec![],
                uuid: vec![],
            })
            .collect();
    assert_eq!(read(&pod).unwrap().request.containers, expected);
    assert_idempotent(&Rules::default(), &pod);

    let bytes = serde_json::to_vec(&pod).unwrap();
    let view: PodView<'_> = serde_json::from_slice(&bytes).unwrap();
    let named: Vec<(String, Phase)> =
        phases(&view).into_iter().map(|(name, phase)| (name.to_string(), phase)).collect();
    let expected = [
        ("warm", Phase::Init),
        ("log", Phase::Sidecar),
        ("copy", Phase::Init),
        ("main", Phase::App),
        ("proxy", Phase::App),
    ];
    assert_eq!(named, expected.map(|(name, phase)| (name.to_owned(), phase)));
}

#[test]
fn another_prefix_reads_its_own_names_only() {
    let rules = Rules { prefix: "gpu.example.com".to_owned(), ..Rules::default() };
    let pod = |prefix: &str| {
        let limits = prefixed(prefix, &json!({"gpu": "1", "gpumem": "4k"}));
        json!({"spec": {"containers": [{"name": "main", "resources": {"limits": limits}}]}})
    };
    assert_eq!(read_by(&rules, &pod("gpu.example.com")).unwrap().request.containers[0].ask, mib(4_000, 0));
    assert_idempotent(&rules, &pod("gpu.example.com"));
    for other in ["nvidia.com", "gpu.example.comx", "x.gpu.example.com"] {
        assert!(read_by(&rules, &pod(other)).unwrap().request.is_empty(), "{other}");
    }
    assert!(rules.is_removed("gpu.example.com/gpumem") && !rules.is_removed("nvidia.com/gpumem"));
}

#[test]
fn constraints_are_read_in_both_vocabularies() {
    let gpus = || limits(&json!({"gpu": "1"}));
    let none = Constraints::default;
    let list = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect::<Vec<String>>();
    for (ours, hami, value, expected) in [
        (
            "gpu-model",
            "nvidia.com/use-gputype",
            "A100, h100,",
            Constraints { model: list(&["A100", "h100"]), ..none() },
        ),
        ("gpu-model", "nvidia.com/use-gputype", "", none()),
        (
            "gpu-model-exclude",
            "nvidia.com/nouse-gputype",
            "A10",
            Constraints { model_exclude: list(&["A10"]), ..none() },
        ),
        (
            "gpu-uuid",
            "nvidia.com/use-gpuuuid",
            "GPU-a,GPU-b",
            Constraints { uuid: list(&["GPU-a", "GPU-b"]), ..none() },
        ),
        (
            "gpu-uuid-exclude",
            "nvidia.com/nouse-gpuuuid",
            "GPU-a",
            Constraints { uuid_exclude: list(&["GPU-a"]), ..none() },
        ),
        (
            "node-policy",
            "hami.io/node-scheduler-policy",
            "spread",
            Constraints { node_policy: Some(NodePolicy::Spread), ..none() },
        ),
        (
            "node-policy",
            "hami.io/node-scheduler-policy",
            "binpack",
            Constraints { node_policy: Some(NodePolicy::Binpack), ..none() },
        ),
        (
            "gpu-policy",
            "hami.io/gpu-scheduler-policy",
            "spread",
            Constraints { gpu_policy: Some(GpuPolicy::Spread), ..none() },
        ),
        (
            "gpu-policy",
            "hami.io/gpu-scheduler-policy",
            "binpack",
            Constraints { gpu_policy: Some(GpuPolicy::Binpack), ..none() },
        ),
        ("numa-bind", "nvidia.com/numa-bind", "true", Constraints { numa_bind: true, ..none() }),
        ("numa-bind", "nvidia.com/numa-bind", "false", none()),
        (
            "require-enforcement",
            "nvidia.com/vgpu-mode",
            "mig",
            Constraints { require_enforcement: Some(Enforcement::Mig), ..none() },
        ),
        (
            "require-enforcement",
            "nvidia.com/vgpu-mode",
            "mps",
            Constraints { require_enforcement: Some(Enforcement::Mps), ..none() },
        ),
    ] {
        for key in [&format!("packhorse.dev/{ours}"), hami] {
            let pod = with_annotation(gpus(), key, value);
            let parsed = read(&pod).unwrap_or_else(|denials| panic!("{key} {value}: {}", denials[0]));
            assert_eq!(parsed.request.constraints, expected, "{key}: {value}");
            assert_eq!(parsed.warnings, [""; 0], "{key}: {value}");
            assert_idempotent(&Rules::default(), &pod);
        }
    }
    for (value, level) in [("cgroup", Enforcement::Cgroup), ("watched", Enforcement::Watched)] {
        let parsed = read(&with_annotation(gpus(), "packhorse.dev/require-enforcement", value)).unwrap();
        assert_eq!(parsed.request.constraints.require_enforcement, Some(level));
    }
    let topology = read(&with_annotation(gpus(), "packhorse.dev/gpu-policy", "topology")).unwrap();
    assert_eq!(topology.request.constraints.gpu_policy, Some(GpuPolicy::Topology));
}

#[test]
fn orders_of_hami_are_translated_and_what_is_lost_is_said() {
    for (value, expected, warning) in [
        ("topology-aware", GpuPolicy::Topology, None),
        ("numa", GpuPolicy::Topology, None),
        ("mutex", GpuPolicy::Spread, Some("mutex")),
        ("binpack,numa", GpuPolicy::Binpack, Some("first order")),
        ("numa, binpack", GpuPolicy::Topology, Some("first order")),
        ("mutex,binpack", GpuPolicy::Binpack, Some("mutex")),
        ("spread,topology-aware", GpuPolicy::Topology, Some("first order")),
    ] {
        let pod = with_annotation(limits(&json!({"gpu": "1"})), "hami.io/gpu-scheduler-policy", value);
        let parsed = read(&pod).unwrap();
        assert_eq!(parsed.request.constraints.gpu_policy, Some(expected), "{value}");
        match warning {
            None => assert_eq!(parsed.warnings, [""; 0], "{value}"),
            Some(text) => assert!(parsed.warnings[0].contains(text), "{value}: {:?}", parsed.warnings),
        }
    }
}

#[test]
fn bad_constraints_are_denied_with_the_key_and_the_choices() {
    for (key, value, remedy) in [
        ("packhorse.dev/gpu-model", "A100,*", "A100 or H100"),
        ("packhorse.dev/gpu-uuid", "3", "GPU-…"),
        ("nvidia.com/use-gpuuuid", "dev-0", "GPU-…"),
        ("packhorse.dev/gpu-uuid-exclude", "a b", "GPU-…"),
        ("packhorse.dev/node-policy", "topology", "binpack or spread"),
        ("hami.io/node-scheduler-policy", "best", "binpack or spread"),
        ("packhorse.dev/gpu-policy", "mutex", "binpack, spread or topology"),
        ("hami.io/gpu-scheduler-policy", "binpack,best", "binpack,numa"),
        ("hami.io/gpu-scheduler-policy", "", "binpack,numa"),
        ("packhorse.dev/numa-bind", "yes", "\"true\" or \"false\""),
        ("nvidia.com/numa-bind", "True", "\"true\" or \"false\""),
        ("packhorse.dev/require-enforcement", "advisory", "mig, cgroup, mps or watched"),
        ("packhorse.dev/require-enforcement", "hard", "mig, cgroup, mps or watched"),
        ("nvidia.com/vgpu-mode", "cgroup", "mig, mps or hami-core"),
    ] {
        let denials = denied(&with_annotation(limits(&json!({"gpu": "1"})), key, value));
        assert_eq!(denials.len(), 1, "{key}: {denials:?}");
        assert_eq!((denials[0].field.as_str(), denials[0].value.as_str()), (key, value));
        assert!(denials[0].remedy.contains(remedy), "{key}: {}", denials[0]);
        assert_eq!(denials[0].container, None);
    }
    let few = with_annotation(limits(&json!({"gpu": "2"})), "packhorse.dev/gpu-uuid", "GPU-a,GPU-b");
    assert!(read(&few).is_ok());
    let denials = denied(&with_annotation(few, "packhorse.dev/gpu-uuid-exclude", "GPU-b"));
    assert!(denials[0].problem.contains("accepts 1 devices"), "{}", denials[0]);
}

#[test]
fn of_two_vocabularies_ours_wins_with_a_warning() {
    let pod = with_annotation(limits(&json!({"gpu": "1"})), "packhorse.dev/node-policy", "spread");
    let parsed = read(&with_annotation(pod.clone(), "hami.io/node-scheduler-policy", "binpack")).unwrap();
    assert_eq!(parsed.request.constraints.node_policy, Some(NodePolicy::Spread));
    assert!(parsed.warnings[0].contains("hami.io/node-scheduler-policy has no effect"), "{:?}", parsed.warnings);
    let parsed = read(&with_annotation(pod, "hami.io/node-scheduler-policy", "spread")).unwrap();
    assert_eq!(parsed.warnings, [""; 0]);
}

#[test]
fn a_pod_without_gpus_is_not_held_to_gpu_rules() {
    let plain = limits(&json!({}));
    assert_eq!(read(&plain).unwrap(), Parsed::default());
    let parsed = read(&with_annotation(plain, "packhorse.dev/gpu-policy", "nonsense")).unwrap();
    assert!(parsed.request.is_empty() && parsed.request.constraints == Constraints::default());
    assert!(parsed.warnings[0].contains("packhorse.dev/gpu-policy has no effect"), "{:?}", parsed.warnings);
}

#[test]
fn totals_without_a_gpu_are_denied() {
    for name in [names::GPU_MEMORY, names::GPU_CORES] {
        let pod = json!({"spec": {"containers": [{"name": "main", "resources": {"limits": {name: "0"}}}]}});
        let denials = denied(&pod);
        assert_eq!((denials[0].field.as_str(), denials[0].container.as_deref()), (name, Some("main")));
        assert!(denials[0].remedy.contains("nvidia.com/gpumem"), "{}", denials[0]);
    }
}

#[test]
fn names_that_look_like_ours_are_warned_of() {
    let parsed = read(&limits(&json!({"gpu": "1", "gpumemory": "5"}))).unwrap();
    assert!(parsed.warnings[0].contains("nvidia.com/gpumemory is not a resource"), "{:?}", parsed.warnings);
    let parsed = read(&with_annotation(limits(&json!({"gpu": "1"})), "packhorse.dev/gpu-models", "A100")).unwrap();
    assert!(parsed.warnings[0].contains("packhorse.dev/gpu-models"), "{:?}", parsed.warnings);
    assert_eq!(read(&limits(&json!({"hostdev": "1"}))).unwrap(), Parsed::default());
}

#[test]
fn totals_count_what_is_known_before_placement() {
    for (resources, expected) in [
        (json!({"gpu": "2", "gpumem": "4096", "gpucores": "30"}), (Some(8_192), 60)),
        (json!({"gpu": "2", "gpumem": "4096"}), (Some(8_192), 0)),
        (json!({"gpu": "2", "gpumem-percentage": "50", "gpucores": "10"}), (None, 20)),
        (json!({"gpu": "3", "gpucores": "10"}), (None, 30)),
        (json!({"gpu": "3"}), (None, 300)),
        (json!({"mig-1g.10gb": "2"}), (None, 0)),
        (json!({"gpu": "1024", "gpumem": "999999"}), (Some(1_023_998_976), 0)),
    ] {
        assert_eq!(totals(&read(&limits(&resources)).unwrap().request.containers[0]), expected, "{resources}");
    }
}

#[test]
fn host_requests_are_those_of_kubernetes() {
    let container =
        |cpu: &str, memory: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}});
    let sidecar = |cpu: &str, memory: &str| {
        let mut container = container(cpu, memory);
        container["restartPolicy"] = json!("Always");
        container
    };
    for (spec, expected, why) in [
        (json!({}), (0, 0), "an empty pod"),
        (json!({"containers": [container("250m", "1Ki"), container("1", "1k")]}), (1_250, 2_024), "apps add up"),
        (
            json!({"initContainers": [container("2", "1"), container("3", "1")], "containers": [container("1", "5")]}),
            (3_000, 5),
            "init containers count by their maximum",
        ),
        (
            json!({"initContainers": [container("3", "0"), sidecar("1", "0")], "containers": [container("1", "0")]}),
            (3_000, 0),
            "a sidecar does not run beside the init containers before it",
        ),
        (
            json!({"initContainers": [sidecar("1", "0"), container("3", "0")], "containers": [container("1", "0")]}),
            (4_000, 0),
            "it runs beside those after it",
        ),
        (
            json!({"initContainers": [sidecar("1", "0"), sidecar("2", "0")], "containers": [container("1", "0")]}),
            (4_000, 0),
            "sidecars run beside the apps",
        ),
        (
            json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "2", "memory": "7"}}}]}),
            (2_000, 7),
            "a limit is the default of a request",
        ),
        (
            json!({"containers": [container("1", "5")], "overhead": {"cpu": "100m", "memory": "3"}}),
            (1_100, 8),
            "overhead is added",
        ),
        (
            json!({"containers": [container("1", "5")], "resources": {"requests": {"cpu": "4"}}, "overhead": {"cpu": "1"}}),
            (5_000, 5),
            "the pod's own request replaces the sum",
        ),
        (
            json!({"containers": [{"name": "c"}], "resources": {"limits": {"cpu": "4"}}}),
            (4_000, 0),
            "the pod's limit counts where no container requests any",
        ),
        (
            json!({"containers": [container("1", "5")], "resources": {"limits": {"cpu": "4", "memory": "9"}}}),
            (1_000, 5),
            "and not where one does",
        ),
    ] {
        let bytes = serde_json::to_vec(&json!({"spec": spec})).unwrap();
        let view: PodView<'_> = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(host_requests(&view), expected, "{why}");
    }
}

#[test]
fn encodes_the_example_of_the_wire_format() {
    let share = |memory, cores| Ask::Share { memory, cores };
    let container = |name: &str, count, ask, index: &[u32]| ContainerRequest {
        name: name.into(),
        phase: Phase::App,
        count,
        ask,
        index: index.to_vec(),
        uuid: vec![],
    };
    let request = PodRequest {
        containers: vec![
            container("main", 1, share(Memory::Mib(4_096), 30), &[]),
            container("half", 2, share(Memory::Percent(50), 0), &[]),
            container("whole", 1, Ask::Exclusive, &[]),
            container("slice", 1, mig("1g.10gb"), &[]),
            container("old", 1, Ask::Exclusive, &[3]),
        ],
        constraints: Constraints::default(),
    };
    let text = encode(&request);
    let expected = json!({"v": 1, "containers": {
        "main": {"count": 1, "memory": 4096, "cores": 30},
        "half": {"count": 2, "memoryPercent": 50},
        "whole": {"count": 1, "exclusive": true},
        "slice": {"count": 1, "mig": "1g.10gb"},
        "old": {"count": 1, "exclusive": true, "index": [3]}}});
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    let given = decode(&text).unwrap();
    assert_eq!(given.unknown, [""; 0]);
    assert_eq!(given.containers["half"].memory_percent, Some(50));
    assert_eq!(given.containers["old"].index, [3]);
}

fn any_amount() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        3 => Just(None),
        4 => (0_u32..130).prop_map(|n| Some(n.to_string())),
        1 => (0_u32..5_000).prop_map(|n| Some(format!("{n}Mi"))),
        1 => (0_u32..20).prop_map(|n| Some(format!("{n}k"))),
        1 => "[-+0-9.eEikmMGT]{0,6}".prop_map(Some),
    ]
}

prop_compose! {
    fn any_container(name: &'static str)(
        limits in prop::collection::btree_map(
            prop::sample::select(vec!["gpu", "gpumem", "gpumem-percentage", "gpucores", "mig-1g.10gb", "priority", "gpux"]),
            any_amount().prop_filter_map("absent", |amount| amount),
            0..4,
        ),
        in_requests in any::<bool>(),
        always in any::<bool>(),
        env in prop_oneof![
            4 => Just(None),
            1 => prop::sample::select(vec!["all", "none", "", "void", "3", "0,1", "GPU-a", "MIG-a,MIG-b"])
                .prop_map(|value| Some(value.to_owned())),
            1 => ".{0,8}".prop_map(Some),
        ],
    ) -> Value {
        let limits = prefixed("nvidia.com", &json!(limits));
        let mut container = json!({"name": name, "resources": {(if in_requests { "requests" } else { "limits" }): limits}});
        if always {
            container["restartPolicy"] = json!("Always");
        }
        if let Some(value) = env {
            container["env"] = json!([{"name": "NVIDIA_VISIBLE_DEVICES", "value": value}]);
        }
        container
    }
}

fn any_entry() -> impl Strategy<Value = Value> {
    prop::collection::btree_map(
        prop::sample::select(vec![
            "count",
            "memory",
            "memoryPercent",
            "cores",
            "exclusive",
            "mig",
            "index",
            "uuid",
            "x",
        ]),
        0_i64..3,
        0..4,
    )
    .prop_map(|fields| {
        let value = |(name, n): (&str, i64)| match name {
            "exclusive" => (name.to_owned(), json!(n > 0)),
            "mig" => (name.to_owned(), json!("1g.10gb")),
            "index" => (name.to_owned(), json!([n])),
            "uuid" => (name.to_owned(), json!([format!("GPU-{n}")])),
            _ => (name.to_owned(), json!(n)),
        };
        Value::Object(fields.into_iter().map(value).collect())
    })
}

proptest! {
    #[test]
    fn the_output_of_the_webhook_reads_as_its_input(
        init in any_container("init"),
        main in any_container("main"),
        side in any_container("side"),
        entry in prop::option::of(any_entry()),
        share in prop::option::of(1_u8..=100),
        policy in prop::option::of(prop::sample::select(vec!["binpack", "spread", "topology", "x"])),
    ) {
        let rules = Rules { count_alone: share.map_or(CountAlone::Exclusive, CountAlone::Share), ..Rules::default() };
        let mut pod = json!({"spec": {"initContainers": [init], "containers": [main, side]}});
        if let Some(entry) = entry {
            pod = with_request(pod, &json!({"main": entry}));
        }
        if let Some(policy) = policy {
            pod = with_annotation(pod, "packhorse.dev/gpu-policy", policy);
        }
        assert_idempotent(&rules, &pod);
    }

    #[test]
    fn arbitrary_text_never_panics(
        key in "(packhorse.dev|nvidia.com|hami.io)/[a-z-]{0,24}",
        value in ".{0,40}",
        resource in "nvidia.com/(gpu|mig-)?[a-z0-9.-]{0,12}",
        amount in ".{0,12}",
        request in ".{0,60}",
    ) {
        let mut pod = json!({"spec": {"containers": [{"name": "main", "resources": {"limits": {resource: amount, "nvidia.com/gpu": "1"}}}]}});
        pod = with_annotation(pod, &key, &value);
        let messages = match read(&pod) {
            Ok(parsed) => parsed.warnings,
            Err(denials) => denials.iter().map(Denial::to_string).collect(),
        };
        prop_assert!(messages.iter().all(|message| message.len() < 2_000));
        let _ = decode(&request).is_ok();
        let _ = read(&with_annotation(pod, names::REQUEST, &request)).is_ok();
    }

    #[test]
    fn more_memory_is_never_read_as_less(a in 1_u32..900_000, b in 1_u32..900_000, suffix in "(Ki|Mi|m)?") {
        let memory = |n: u32| match read(&limits(&json!({"gpumem": format!("{n}{suffix}")}))) {
            Ok(parsed) => match parsed.request.containers.first().map(|container| container.ask.clone()) {
                Some(Ask::Share { memory: Memory::Mib(mib), .. }) => Some(mib),
                _ => None,
            },
            Err(_) => None,
        };
        if let (Some(low), Some(high)) = (memory(a.min(b)), memory(a.max(b))) {
            prop_assert!(low <= high);
        }
    }
}
