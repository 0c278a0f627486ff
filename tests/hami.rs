//! Every name of HAMi's that a pod may still carry, one row each of the page's table, each through the webhook: honoured, answered with
//! a warning, or refused. HAMi's own settings and metrics are in [`settings`].

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as the tests do")]

pub(crate) mod settings;

use std::collections::BTreeSet;

use packhorse::gpu::device::Enforcement;
use packhorse::gpu::parse::Rules;
use packhorse::gpu::parse::hami::{Answer, Place, Row, TABLE, find};
use packhorse::gpu::request::{Ask, Constraints, GpuPolicy, Memory, NodePolicy, PodRequest};
use serde_json::{Value, json};

use crate::requests::read;
use crate::webhook::review::{create, request};

/// What a row must come to.
enum Outcome {
    /// No warning, and this of the request.
    Meaning(fn(&PodRequest) -> bool),
    /// A warning with this text, and the request of the same pod without the name.
    Warning(&'static str),
    /// A denial with this remedy.
    Refusal(&'static str),
}

/// A pod of one container that asks for a share of one GPU, and carries `name`.
fn pod(place: Place, name: &str, value: &str) -> Value {
    let mut pod = json!({"metadata": {"name": "p", "namespace": "team", "annotations": {}, "labels": {}}, "spec": {"containers": [{
        "name": "main", "env": [], "resources": {"limits": {"nvidia.com/gpumem": "4000"}}}]}});
    let main = "/spec/containers/0";
    let resource = |name: String, pod: &mut Value| {
        pod.pointer_mut(main).unwrap()["resources"]["limits"][name] = json!(value);
    };
    match place {
        Place::Resource => resource(format!("nvidia.com/{name}"), &mut pod),
        Place::Vendor if value.parse::<u32>().is_ok() => resource(name.to_owned(), &mut pod),
        Place::Annotation | Place::NodeAnnotation | Place::Vendor => {
            pod["metadata"]["annotations"][name] = json!(value)
        }
        Place::Label => pod["metadata"]["labels"][name] = json!(value),
        Place::Env => pod.pointer_mut(main).unwrap()["env"] = json!([{"name": name, "value": value}]),
        Place::Field if name == "securityContext.privileged" => {
            pod.pointer_mut(main).unwrap()["securityContext"] = json!({"privileged": value == "true"});
        }
        Place::Field => pod["spec"][name.split(':').next().unwrap()] = json!(value),
    }
    pod
}

fn constraints(request: &PodRequest) -> &Constraints {
    &request.constraints
}

fn ask(request: &PodRequest) -> (u32, &Ask) {
    (request.containers[0].count, &request.containers[0].ask)
}

#[test]
fn every_name_is_honoured_warned_of_or_refused() {
    use Outcome::{Meaning, Refusal, Warning};
    use Place::{Annotation, Env, Field, Label, NodeAnnotation, Resource, Vendor};
    const RECORD: &str = "a record that HAMi keeps";
    const VENDOR: &str = "the vendor's own plugin";
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
        (Annotation, "hami.io/numa-alignment", "strict", Warning("packhorse.dev/numa-bind")),
        (Field, "schedulerName: hami-scheduler", "hami-scheduler", Refusal("remove it, or write packhorse")),
        (Field, "runtimeClassName", "nvidia", Meaning(|p| ask(p).0 == 1)),
        (Field, "nodeName", "node-1", Refusal("kubernetes.io/hostname")),
        (Field, "securityContext.privileged", "true", Refusal("move the container to a pod without GPUs")),
        (Env, "NVIDIA_VISIBLE_DEVICES", "3", Meaning(|p| p.containers[0].index == [3])),
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
        (Env, "ACTIVE_OOM_KILLER", "true", Warning("no library is put into containers")),
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
        // By number a resource, else an annotation.
        (Vendor, "cambricon.com/vmlu", "1", Warning(VENDOR)),
        (Vendor, "cambricon.com/mlu.smlu.vmemory", "20", Warning(VENDOR)),
        (Vendor, "cambricon.com/use-mlutype", "MLU370", Warning(VENDOR)),
        (Vendor, "hygon.com/hcunum", "1", Warning(VENDOR)),
        (Vendor, "hygon.com/hcumem", "2000", Warning(VENDOR)),
        (Vendor, "metax-tech.com/sgpu", "1", Warning(VENDOR)),
        (Vendor, "metax-tech.com/vcore", "10", Warning(VENDOR)),
        (Vendor, "enflame.com/drs-gcu", "1", Warning(VENDOR)),
        (Vendor, "kunlunxin.com/vxpu-memory", "24576", Warning(VENDOR)),
        (Vendor, "vastaitech.com/va", "1", Warning(VENDOR)),
        (Vendor, "birentech.com/gpu", "1", Warning(VENDOR)),
        (Vendor, "mthreads.com/sgpu-memory", "32", Warning(VENDOR)),
        (Vendor, "huawei.com/Ascend910B3", "1", Warning(VENDOR)),
        (Vendor, "huawei.com/Ascend910B3-memory", "16384", Warning(VENDOR)),
        (Vendor, "huawei.com/vnpu-mode", "hami-core", Warning(VENDOR)),
        (Vendor, "iluvatar.ai/BI-V150.vMem", "64", Warning(VENDOR)),
        (Vendor, "amd.com/gpumem", "4000", Warning(VENDOR)),
        (Vendor, "aws.amazon.com/neuroncore", "1", Warning(VENDOR)),
    ];
    let bare = create(&pod(Place::Label, "app", "x"));
    assert_eq!(bare.warnings, [""; 0]);
    let bare = request(&Rules::default(), &bare.admitted());
    for (place, name, value, outcome) in &rows {
        let what = format!("{} {name}: {value}", place.as_str());
        let answered = create(&pod(*place, name, value));
        match (&answered.verdict, outcome) {
            (Ok(()), Meaning(holds)) => {
                let request = request(&Rules::default(), &answered.pod);
                assert!(holds(&request), "{what}: {request:?}");
                assert_eq!(answered.warnings, [""; 0], "{what}");
            }
            (Ok(()), Warning(text)) => {
                assert_eq!(answered.warnings.len(), 1, "{what}: {:?}", answered.warnings);
                assert!(answered.warnings[0].contains(text), "{what}: {:?}", answered.warnings);
                assert!(answered.warnings[0].contains(name), "{what}: {:?}", answered.warnings);
                assert_eq!(request(&Rules::default(), &answered.pod), bare, "{what}");
            }
            (Err((_, message)), Refusal(remedy)) => {
                let field = name.split(':').next().unwrap();
                for part in [field, *value, *remedy] {
                    assert!(message.contains(part), "{what}: {message} lacks {part}");
                }
                // With one reason, and none besides.
                assert!(!message.contains("; also "), "{what}: {message}");
            }
            (Ok(()), Refusal(_)) => panic!("{what}: admitted as {}", answered.pod),
            (Err((_, message)), _) => panic!("{what}: {message}"),
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
    // Which devices a container sees is never its own affair.
    let anything = |row: &&Row| row.place != Place::Resource && row.name != "NVIDIA_VISIBLE_DEVICES";
    for row in TABLE.iter().filter(anything) {
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
    let places: BTreeSet<&str> = TABLE.iter().map(|row| row.place.as_str()).collect();
    let written: Vec<[String; 4]> =
        settings::page_rows().into_iter().filter(|row| places.contains(row[0].as_str())).collect();
    let expected = TABLE.iter().map(|row| {
        let name = match row.place {
            Place::Resource => format!("nvidia.com/{}", row.name),
            _ => row.name.to_owned(),
        };
        [row.place.as_str().to_owned(), name, row.answer.as_str().to_owned(), row.note.to_owned()]
    });
    for (written, expected) in written.iter().zip(expected) {
        assert_eq!(*written, expected);
    }
    assert_eq!(written.len(), TABLE.len());
}
