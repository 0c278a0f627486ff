//! What users may write, and what it means: every rule as a row of a table, read through the same bytes that an API server sends.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod constraints;
mod docs;
mod given;
mod hostile;
mod peers;
mod properties;
mod resources;
mod sums;
mod visible;

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
pub(crate) fn read(pod: &Value) -> Result<Parsed, Vec<Denial>> {
    read_by(&Rules::default(), pod)
}

pub(crate) fn read_by(rules: &Rules, pod: &Value) -> Result<Parsed, Vec<Denial>> {
    let bytes = serde_json::to_vec(pod).unwrap();
    let view: PodView<'_> = serde_json::from_slice(&bytes).unwrap();
    read_pod(rules, &view)
}

/// A pod of one container, `main`, with `limits` under `nvidia.com/`.
pub(crate) fn limits(limits: &Value) -> Value {
    json!({"spec": {"containers": [{"name": "main", "resources": {"limits": prefixed("nvidia.com", limits)}}]}})
}

pub(crate) fn prefixed(prefix: &str, names: &Value) -> Value {
    let named = names.as_object().unwrap().iter().map(|(name, value)| (format!("{prefix}/{name}"), value.clone()));
    Value::Object(named.collect())
}

pub(crate) fn with_env(mut pod: Value, env: &[(&str, &str)]) -> Value {
    pod["spec"]["containers"][0]["env"] =
        env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    pod
}

pub(crate) fn with_annotation(mut pod: Value, key: &str, value: &str) -> Value {
    pod["metadata"]["annotations"][key] = json!(value);
    pod
}

pub(crate) fn with_request(pod: Value, containers: &Value) -> Value {
    with_annotation(pod, names::REQUEST, &json!({"v": 1, "containers": containers}).to_string())
}

/// What `main` alone asks for; `None` for no GPU.
pub(crate) fn ask_of(pod: &Value) -> Option<(u32, Ask)> {
    let parsed = read(pod).unwrap_or_else(|denials| panic!("{pod}: denied: {}", denials[0]));
    assert!(parsed.request.containers.len() <= 1, "{pod}");
    parsed.request.containers.into_iter().next().map(|container| (container.count, container.ask))
}

pub(crate) fn denied(pod: &Value) -> Vec<Denial> {
    match read(pod) {
        Ok(parsed) => panic!("{pod}: not denied but read as {:?}", parsed.request),
        Err(denials) => denials,
    }
}

pub(crate) fn mib(memory: u32, cores: u8) -> Ask {
    Ask::Share { memory: Memory::Mib(memory), cores }
}

pub(crate) fn percent(percent: u8, cores: u8) -> Ask {
    Ask::Share { memory: Memory::Percent(percent), cores }
}

pub(crate) fn all(cores: u8) -> Ask {
    Ask::Share { memory: Memory::All, cores }
}

pub(crate) fn mig(profile: &str) -> Ask {
    Ask::Mig(MigProfile(profile.into()))
}

/// What the webhook makes of a pod, as far as the request goes: written here a second time, from the contract.
pub(crate) fn mutated(rules: &Rules, pod: &Value, request: &PodRequest) -> Value {
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
pub(crate) fn assert_idempotent(rules: &Rules, pod: &Value) {
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
