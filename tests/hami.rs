//! Every name of HAMi's that a pod may still carry, one row each: honoured, answered with a warning, or refused.

use std::collections::BTreeSet;

use packhorse::gpu::device::Enforcement;
use packhorse::gpu::parse::Parsed;
use packhorse::gpu::parse::hami::{Answer, Place, TABLE, find};
use packhorse::gpu::request::{Ask, Constraints, GpuPolicy, Memory, NodePolicy};
use serde_json::{Value, json};

use crate::requests::read;

/// What a row must come to.
enum Outcome {
    /// No warning, and this of the request.
    Meaning(fn(&Parsed) -> bool),
    /// A warning with this text, and the request of the same pod without the name.
    Warning(&'static str),
    /// A denial with this remedy.
    Refusal(&'static str),
}

/// A pod of one container that asks for a share of one GPU, and carries `name`.
fn pod(place: Place, name: &str, value: &str) -> Value {
    let mut pod = json!({"metadata": {"annotations": {}, "labels": {}}, "spec": {"containers": [{
        "name": "main", "env": [], "resources": {"limits": {"nvidia.com/gpumem": "4000"}}}]}});
    match place {
        Place::Resource => {
            pod["spec"]["containers"][0]["resources"]["limits"][format!("nvidia.com/{name}")] = json!(value)
        }
        Place::Annotation | Place::NodeAnnotation => pod["metadata"]["annotations"][name] = json!(value),
        Place::Label => pod["metadata"]["labels"][name] = json!(value),
        Place::Env => pod["spec"]["containers"][0]["env"] = json!([{"name": name, "value": value}]),
    }
    pod
}

fn constraints(parsed: &Parsed) -> &Constraints {
    &parsed.request.constraints
}

fn ask(parsed: &Parsed) -> (u32, &Ask) {
    (parsed.request.containers[0].count, &parsed.request.containers[0].ask)
}

#[test]
fn every_name_is_honoured_warned_of_or_refused() {
    use Outcome::{Meaning, Refusal, Warning};
    use Place::{Annotation, Env, Label, NodeAnnotation, Resource};
    const RECORD: &str = "a record that HAMi keeps";
    let rows = [
        (Resource, "gpu", "2", Meaning(|p| ask(p).0 == 2)),
        (Resource, "gpumem", "5000", Meaning(|p| *ask(p).1 == Ask::Share { memory: Memory::Mib(5_000), cores: 0 })),
        // HAMi's 0 means not asked, here too.
        (
            Resource,
            "gpumem-percentage",
            "0",
            Meaning(|p| *ask(p).1 == Ask::Share { memory: Memory::Mib(4_000), cores: 0 }),
        ),
        (Resource, "gpucores", "30", Meaning(|p| *ask(p).1 == Ask::Share { memory: Memory::Mib(4_000), cores: 30 })),
        (Resource, "priority", "1", Warning("priorities between the tasks of one card do not exist")),
        (Annotation, "nvidia.com/use-gputype", "A100", Meaning(|p| constraints(p).model == ["A100"])),
        (Annotation, "nvidia.com/nouse-gputype", "A10", Meaning(|p| constraints(p).model_exclude == ["A10"])),
        (Annotation, "nvidia.com/use-gpuuuid", "GPU-a", Meaning(|p| constraints(p).uuid == ["GPU-a"])),
        (Annotation, "nvidia.com/nouse-gpuuuid", "GPU-a", Meaning(|p| constraints(p).uuid_exclude == ["GPU-a"])),
        (Annotation, "nvidia.com/numa-bind", "true", Meaning(|p| constraints(p).numa_bind)),
        (
            Annotation,
            "nvidia.com/vgpu-mode",
            "mig",
            Meaning(|p| constraints(p).require_enforcement == Some(Enforcement::Mig)),
        ),
        (
            Annotation,
            "nvidia.com/vgpu-mode",
            "mps",
            Meaning(|p| constraints(p).require_enforcement == Some(Enforcement::Mps)),
        ),
        (Annotation, "nvidia.com/vgpu-mode", "hami-core", Warning("packhorse.dev/require-enforcement")),
        (Annotation, "nvidia.com/vgpu-mode", "fast", Refusal("mig, mps or hami-core")),
        (
            Annotation,
            "hami.io/node-scheduler-policy",
            "spread",
            Meaning(|p| constraints(p).node_policy == Some(NodePolicy::Spread)),
        ),
        (Annotation, "hami.io/node-scheduler-policy", "fast", Refusal("binpack or spread")),
        (
            Annotation,
            "hami.io/gpu-scheduler-policy",
            "topology-aware",
            Meaning(|p| constraints(p).gpu_policy == Some(GpuPolicy::Topology)),
        ),
        (Annotation, "hami.io/gpu-scheduler-policy", "fast", Refusal("binpack, spread, topology-aware")),
        (Annotation, "hami.io/device-scoring-weights", "slot=1,core=1,memory=3", Warning("packhorse.dev/gpu-policy")),
        (Label, "hami.io/webhook", "ignore", Refusal("remove the label")),
        (Label, "hami.io/webhook", "enabled", Meaning(|p| ask(p).0 == 1)),
        (Label, "scheduling.x-k8s.io/pod-group", "gang", Meaning(|p| ask(p).0 == 1)),
        (Label, "hami.io/vgpu-node", "node-1", Warning(RECORD)),
        (Label, "hami.io/anything", "x", Warning("is HAMi's and has no meaning here")),
        (Env, "CUDA_DISABLE_CONTROL", "true", Warning("limits cannot be switched off")),
        (Env, "CUDA_TASK_PRIORITY", "1", Warning("has no effect")),
        (Env, "GPU_CORE_UTILIZATION_POLICY", "force", Warning("limits come from the resources")),
        (Env, "CUDA_DEVICE_MEMORY_LIMIT", "9g", Warning("limits come from the resources")),
        (Env, "CUDA_DEVICE_MEMORY_LIMIT_0", "9g", Warning("limits come from the resources")),
        (Env, "CUDA_DEVICE_SM_LIMIT", "90", Warning("limits come from the resources")),
        (Env, "CUDA_DEVICE_SM_LIMIT_1", "90", Warning("limits come from the resources")),
        (Env, "CUDA_DEVICE_MEMORY_SHARED_CACHE", "/tmp/x", Warning("no library is put into containers")),
        (Env, "CUDA_OVERSUBSCRIBE", "true", Warning("never oversubscribed")),
        (Env, "LIBCUDA_LOG_LEVEL", "4", Warning("no library is put into containers")),
        (Annotation, "hami.io/vgpu-node", "node-1", Warning(RECORD)),
        (Annotation, "hami.io/vgpu-time", "1700000000", Warning(RECORD)),
        (Annotation, "hami.io/bind-time", "1700000000", Warning(RECORD)),
        (Annotation, "hami.io/bind-phase", "success", Warning(RECORD)),
        (Annotation, "hami.io/vgpu-devices-to-allocate", ";", Warning(RECORD)),
        (Annotation, "hami.io/vgpu-devices-allocated", "GPU-a,NVIDIA,4000,30:;", Warning(RECORD)),
        (Annotation, "hami.io/vgpu-mig-allocations", "[]", Warning(RECORD)),
        (Annotation, "hami.io/anything", "x", Warning("is HAMi's and has no meaning here")),
        (NodeAnnotation, "hami.io/node-nvidia-register", "[]", Warning("packhorse.dev/inventory")),
        (NodeAnnotation, "hami.io/node-nvidia-score", "[]", Warning("packhorse.dev/inventory")),
        (NodeAnnotation, "hami.io/node-handshake", "Requesting_1", Warning("packhorse.dev/inventory")),
        (NodeAnnotation, "hami.io/mutex.lock", "x", Warning("locks no nodes")),
        (NodeAnnotation, "hami.io/device-cordon", "GPU-a", Warning("packhorse.dev/cordon")),
    ];
    let bare = read(&pod(Place::Label, "app", "x")).unwrap();
    assert_eq!(bare.warnings, [""; 0]);
    for (place, name, value, outcome) in &rows {
        let what = format!("{} {name}: {value}", place.as_str());
        match (read(&pod(*place, name, value)), outcome) {
            (Ok(parsed), Meaning(holds)) => {
                assert!(holds(&parsed), "{what}: {:?}", parsed.request);
                assert_eq!(parsed.warnings, [""; 0], "{what}");
            }
            (Ok(parsed), Warning(text)) => {
                assert_eq!(parsed.warnings.len(), 1, "{what}: {:?}", parsed.warnings);
                assert!(parsed.warnings[0].contains(text), "{what}: {:?}", parsed.warnings);
                assert!(parsed.warnings[0].contains(name), "{what}: {:?}", parsed.warnings);
                assert_eq!(parsed.request, bare.request, "{what}");
            }
            (Err(denials), Refusal(remedy)) => {
                assert_eq!(denials.len(), 1, "{what}: {denials:?}");
                assert_eq!((denials[0].field.as_str(), denials[0].value.as_str()), (*name, *value));
                assert!(denials[0].remedy.contains(remedy), "{what}: {}", denials[0]);
            }
            (Ok(parsed), Refusal(_)) => panic!("{what}: admitted as {parsed:?}"),
            (Err(denials), _) => panic!("{what}: {}", denials[0]),
        }
    }

    // Every row of the table has its test, with the answer that the table gives.
    let tested = |place: Place, name: &str, answer: Answer| {
        rows.iter().any(|(other, tested, _, outcome)| {
            let same = match outcome {
                Meaning(_) => Answer::Honoured,
                Warning(_) => Answer::Warned,
                Refusal(_) => Answer::Refused,
            };
            *other == place
                && answer == same
                && find(place, tested).is_some_and(|row| row.name == name && row.place == place)
        })
    };
    for row in TABLE {
        assert!(tested(row.place, row.name, row.answer), "{} {} has no test", row.place.as_str(), row.name);
    }
}

#[test]
fn a_pod_without_gpus_may_carry_anything_of_hami() {
    for row in TABLE.iter().filter(|row| !matches!(row.place, Place::Resource)) {
        let mut pod = pod(row.place, row.name, "ignore");
        pod["spec"]["containers"][0]["resources"] = json!({});
        assert!(read(&pod).is_ok_and(|parsed| parsed.request.is_empty()), "{}", row.name);
    }
}

#[test]
fn no_two_rows_answer_one_name() {
    let names: BTreeSet<(Place, &str)> = TABLE.iter().map(|row| (row.place, row.name)).collect();
    assert_eq!(names.len(), TABLE.len());
}

#[test]
fn the_table_of_the_documentation_is_the_table_of_the_code() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/migrate-from-hami.md")).unwrap();
    let written: Vec<String> =
        page.lines().filter(|line| line.starts_with("| ") && line.contains(" | `")).map(str::to_owned).collect();
    let expected: Vec<String> = TABLE
        .iter()
        .map(|row| {
            let name = match row.place {
                Place::Resource => format!("nvidia.com/{}", row.name),
                _ => row.name.to_owned(),
            };
            format!("| {} | `{name}` | {} | {} |", row.place.as_str(), row.answer.as_str(), row.note)
        })
        .collect();
    for (written, expected) in written.iter().zip(&expected) {
        assert_eq!(written, expected);
    }
    assert_eq!(written.len(), expected.len());
}
