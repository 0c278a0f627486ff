//! What a container on a real node sees of the devices it was promised: through kube-scheduler, Packhorse's server, a real kubelet,
//! a real containerd and the agent.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use super::agent::{Agent, cards, uuid};
use super::lab::{Lab, on_cluster};
use super::node::{Node, Runtime, Sight, StandIns, workload};
use super::{pods, wait};

/// Packhorse neither mutates nor polices pods here; what asks for GPUs came around it.
pub(super) const OUTSIDE: &str = "kube-system";

/// Waits until a container has started so often; what each start saw.
async fn started(node: &Node, namespace: &str, pod: &str, container: &str, times: usize) -> Vec<Sight> {
    wait::until(&format!("{container} of {pod} to start"), 90, async || {
        let seen = node.output(namespace, pod, container);
        (seen.len() >= times).then_some(seen)
    })
    .await
}

/// Waits until a container of this very pod has started; what its first start saw.
pub(super) async fn first_start(node: &Node, pod: &Pod, container: &str) -> Sight {
    let uid = pod.metadata.uid.as_deref().expect("the pod was created");
    wait::until(&format!("{container} of {:?} to start", pod.metadata.name), 90, async || {
        node.records().into_iter().find(|sight| sight.pod_uid() == uid && sight.container() == container)
    })
    .await
}

/// The devices of one container by its pod's annotations.
pub(super) async fn promised(client: &Client, namespace: &str, name: &str, container: &str) -> String {
    let pod: Pod = pods::api(client, namespace).get(name).await.expect("the pod is there");
    let annotations = pod.metadata.annotations.unwrap_or_default();
    annotations.get(&format!("devices.packhorse.dev/{container}")).cloned().unwrap_or_default()
}

/// A pod that no scheduler of ours has seen: for `nvidia.com/gpu` by `spec.nodeName`, where the webhook is not asked.
pub(super) fn stranger(node: &Node, name: &str) -> Pod {
    let main = workload::container("main", &["sleep"], &json!({"nvidia.com/gpu": 1}));
    let mut pod = workload::pod(node, name, &[], &[main]);
    let spec = pod.spec.as_mut().expect("a spec");
    spec.scheduler_name = None;
    spec.node_name = Some(node.name.clone());
    pod
}

/// Waits until a container waits because of what the agent said; the kubelet's words.
pub(super) async fn refusal(client: &Client, namespace: &str, name: &str) -> String {
    let pods = pods::api(client, namespace);
    wait::until(&format!("{name} to wait in CreateContainerConfigError"), 60, async || {
        let statuses = pods.get(name).await.ok()?.status?.container_statuses?;
        let mut waiting = statuses.into_iter().filter_map(|status| status.state?.waiting);
        let found = waiting.find(|waiting| waiting.reason.as_deref() == Some("CreateContainerConfigError"))?;
        found.message
    })
    .await
}

/// The cards whose slots the kubelet has given to a container.
async fn slots_of(node: &Node, namespace: &str, pod: &str, container: &str) -> BTreeSet<String> {
    let given = node.pod_resources().await;
    let of_pod = given.into_iter().filter(|it| it.namespace == namespace && it.name == pod);
    let of_container = of_pod.flat_map(|it| it.containers).filter(|it| it.name == container);
    let slots = of_container.flat_map(|it| it.devices).flat_map(|it| it.device_ids);
    slots.map(|slot| slot.split_once("::").expect("a slot").0.to_owned()).collect()
}

/// The nodes of these cards and those that every container with a card gets.
fn nodes_of(stand_ins: &StandIns, uuids: &str) -> BTreeMap<String, String> {
    let cards = uuids.split(',').map(|uuid| (stand_ins.path(uuid), stand_ins.number(uuid)));
    cards.chain(StandIns::common()).collect()
}

/// It has no device, and NVIDIA's runtime is told to give it none, whatever its image says.
fn assert_has_none(sight: &Sight, pod: &str) {
    assert_eq!(sight.visible_devices(), Some("void"), "{} of {pod}", sight.container());
    assert!(sight.devices.is_empty(), "{} of {pod} has {:?}", sight.container(), sight.devices);
}

/// Device nodes for so many [`cards`], and the host's generated specification of them where the runtime and the agent read it.
pub(super) fn host_devices(node: &Node, count: usize) -> StandIns {
    let uuids: Vec<String> = (0..count).map(uuid).collect();
    let stand_ins = node.stand_ins(&uuids.iter().map(String::as_str).collect::<Vec<_>>());
    stand_ins.write_specification(&node.cdi_dir);
    stand_ins
}

/// Strangers that take a slot each and never start: from then on the kubelet has fewer slots of a card than Packhorse has room on it.
async fn take_slots(lab: &Lab, node: &Node, count: usize) {
    for number in 0..count {
        let name = format!("taker-{number}");
        pods::create(&lab.client, OUTSIDE, &stranger(node, &name)).await;
        refusal(&lab.client, OUTSIDE, &name).await;
    }
}

/// A pod with one container that has GPUs and one that has none.
fn pair(node: &Node, name: &str, limits: &Value, annotations: &Value) -> Pod {
    let main = workload::container("main", &["sleep"], limits);
    let beside = workload::container("beside", &["sleep"], &json!({}));
    let mut pod = workload::pod(node, name, &[], &[main, beside]);
    pod.metadata.annotations = serde_json::from_value(annotations.clone()).expect("annotations");
    pod
}

/// The old way to choose a GPU: by its index, in the variable of the container.
fn choose_by_variable(pod: &mut Pod, index: &str) {
    let variable = serde_json::from_value(json!({"name": "NVIDIA_VISIBLE_DEVICES", "value": index}));
    let main = &mut pod.spec.as_mut().expect("a spec").containers[0];
    main.env.get_or_insert_default().push(variable.expect("a variable"));
}

/// Deletes a pod at once and waits until the kubelet has its slots back.
async fn remove(lab: &Lab, node: &Node, namespace: &str, name: &str) {
    pods::api(&lab.client, namespace).delete(name, &DeleteParams::default().grace_period(1)).await.expect("deleted");
    wait::until(&format!("{name} to be gone"), 60, async || {
        let there = pods::api(&lab.client, namespace).get_opt(name).await.expect("pods are read").is_some();
        (!there && slots_of(node, namespace, name, "main").await.is_empty()).then_some(())
    })
    .await;
}

/// Four containers with a card each, and one beside each that has none.
fn told(runtime: Runtime) {
    if !runtime.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let node = Node::start(lab, "gpus", runtime, &[]).await;
        let _agent = Agent::start(lab, &node, &cards(4), &[]).await;
        let namespace = lab.namespace("told", json!({})).await;
        for number in 0..4 {
            let pod = pair(&node, &format!("pod-{number}"), &json!({"nvidia.com/gpu": 1}), &json!({}));
            pods::create(&lab.client, &namespace, &pod).await;
        }
        for number in 0..4 {
            let name = format!("pod-{number}");
            let seen = started(&node, &namespace, &name, "main", 1).await;
            let given = promised(&lab.client, &namespace, &name, "main").await;
            assert!((0..4).any(|index| given == uuid(index)), "{given}");
            assert_eq!(seen[0].visible_devices(), Some(&*given));
            let seen = started(&node, &namespace, &name, "beside", 1).await;
            assert_eq!(seen[0].visible_devices(), Some("void"), "its image says all");
        }
    });
}

#[test]
fn a_container_is_told_its_device_by_its_own_variable_where_the_runtime_has_no_cdi() {
    told(Runtime::Containerd16);
}

#[test]
fn a_container_is_told_its_device_by_cdi() {
    told(Runtime::Containerd22);
}

#[test]
fn a_container_has_exactly_the_device_nodes_of_its_allocation_whatever_its_slots() {
    if !Runtime::Containerd22.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let node = Node::start(lab, "gpus", Runtime::Containerd22, &[]).await;
        let stand_ins = host_devices(&node, 4);
        let _agent = Agent::start(lab, &node, &cards(4), &["--slots", "3"]).await;
        // Two slots are left of each card, three containers share the last one.
        take_slots(lab, &node, 4).await;
        let namespace = lab.namespace("full", json!({})).await;
        let last = json!({"packhorse.dev/gpu-uuid": uuid(3)});
        let share = json!({"nvidia.com/gpumem": 20000});
        let mut chosen = pair(&node, "chosen", &json!({"nvidia.com/gpu": 1}), &json!({}));
        choose_by_variable(&mut chosen, "2");
        let table = [
            (chosen, Some(uuid(2))),
            (pair(&node, "share-1", &share, &last), Some(uuid(3))),
            (pair(&node, "share-2", &share, &last), Some(uuid(3))),
            (pair(&node, "share-3", &share, &last), Some(uuid(3))),
            (pair(&node, "wide", &json!({"nvidia.com/gpu": 2}), &json!({})), None),
        ];
        let mut created = Vec::new();
        for (pod, expected) in table {
            created.push((pods::create(&lab.client, &namespace, &pod).await, expected));
        }
        let (mut others, mut cards) = (0, BTreeSet::new());
        for (pod, expected) in &created {
            let name = pod.metadata.name.as_deref().expect("a name");
            let seen = first_start(&node, pod, "main").await;
            let given = promised(&lab.client, &namespace, name, "main").await;
            assert!(expected.as_ref().is_none_or(|expected| given == *expected), "{name} has {given}");
            assert_eq!(seen.devices, nodes_of(&stand_ins, &given), "{name} was promised {given}");
            assert_eq!(seen.visible_devices(), Some("void"), "{name}");
            let beside = first_start(&node, pod, "beside").await;
            assert_has_none(&beside, name);
            let slots = slots_of(&node, &namespace, name, "main").await;
            others += usize::from(slots != given.split(',').map(str::to_owned).collect());
            cards.extend(given.split(',').map(str::to_owned));
        }
        assert_eq!(cards, (0..4).map(uuid).collect(), "two whole cards, one by index and one shared");
        assert!(others > 0, "no container had slots of another card than its own: the test shows little");
    });
}

#[test]
fn every_device_list_strategy_gives_the_allocation_s_device_whatever_the_slot() {
    if !Runtime::Containerd22.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let node = Node::start(lab, "gpus", Runtime::Containerd22, &[]).await;
        let stand_ins = host_devices(&node, 2);
        let root = format!("--nvidia-driver-root={}", node.directory.display());
        let namespace = lab.namespace("strategies", json!({})).await;
        let mounted = "/var/run/nvidia-container-devices";
        let env = "--specification-form=env";
        // Flags; what the variable says; whether the nodes are there; whether the mount is there. U: the UUID, I: the index.
        let table: [(&[&str], &str, bool, bool); 9] = [
            (&["--device-list-strategy=envvar"], "void", true, false),
            (&["--device-list-strategy=cdi-cri"], "void", true, false),
            (&["--device-list-strategy=cdi-annotations"], "void", true, false),
            (&["--device-list-strategy=volume-mounts"], "void", true, true),
            (&["--pass-device-specs=true", &root], "void", true, false),
            (&[env, "--device-list-strategy=cdi-annotations"], "U", false, false),
            (&[env, "--device-list-strategy=volume-mounts"], mounted, false, true),
            (&[env, "--pass-device-specs=true", &root], "U", true, false),
            (&[env, "--device-list-strategy=cdi-cri", "--device-id-strategy=index"], "I", false, false),
        ];
        let mut taken = None;
        for (number, (flags, variable, has_nodes, has_mount)) in table.into_iter().enumerate() {
            let flags: Vec<&str> = flags.iter().copied().chain(["--slots", "1"]).collect();
            let mut agent = Agent::start(lab, &node, &cards(2), &flags).await;
            if taken.is_none() {
                take_slots(lab, &node, 1).await;
                taken = slots_of(&node, OUTSIDE, "taker-0", "main").await.pop_first();
            }
            // The pod wants the one card of which no slot is left.
            let index = (0..2).find(|index| taken.as_ref() == Some(&uuid(*index))).expect("a slot is taken");
            let name = format!("case-{number}");
            let mut pod = pair(&node, &name, &json!({"nvidia.com/gpu": 1}), &json!({}));
            choose_by_variable(&mut pod, &index.to_string());
            let pod = pods::create(&lab.client, &namespace, &pod).await;
            let seen = first_start(&node, &pod, "main").await;
            assert_eq!(promised(&lab.client, &namespace, &name, "main").await, uuid(index), "{flags:?}");
            assert_eq!(slots_of(&node, &namespace, &name, "main").await, [uuid(1 - index)].into(), "{flags:?}");
            let expected = if has_nodes { nodes_of(&stand_ins, &uuid(index)) } else { BTreeMap::new() };
            assert_eq!(seen.devices, expected, "{flags:?}");
            let variable = variable.replace('U', &uuid(index)).replace('I', &index.to_string());
            assert_eq!(seen.visible_devices(), Some(&*variable), "{flags:?}");
            let mounts = if has_mount { vec![uuid(index)] } else { Vec::new() };
            assert_eq!(seen.mounts, mounts, "{flags:?}");
            let beside = first_start(&node, &pod, "beside").await;
            assert_has_none(&beside, &name);
            remove(lab, &node, &namespace, &name).await;
            assert!(agent.stop().await.success());
        }
    });
}

#[test]
fn a_pod_that_takes_the_name_of_another_gets_its_own_devices() {
    if !Runtime::Containerd22.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let node = Node::start(lab, "gpus", Runtime::Containerd22, &[]).await;
        let stand_ins = host_devices(&node, 2);
        let _agent = Agent::start(lab, &node, &cards(2), &[]).await;
        let namespace = lab.namespace("again", json!({})).await;
        let pods = pods::api(&lab.client, &namespace);
        let mut devices = Vec::new();
        // By turns the other card; now and then the name is free while the predecessor still runs, as after a forced deletion, else as a
        // StatefulSet does it.
        for (turn, forced) in [false, true, true, false, true].into_iter().enumerate() {
            let pinned = json!({"packhorse.dev/gpu-uuid": uuid(turn % 2)});
            let mut pod = pair(&node, "db-0", &json!({"nvidia.com/gpu": 1}), &pinned);
            if forced {
                let lingers = serde_json::from_value(json!({"preStop": {"sleep": {"seconds": 3}}}));
                pod.spec.as_mut().expect("a spec").containers[0].lifecycle = Some(lingers.expect("a hook"));
            }
            let create = async || pods.create(&PostParams::default(), &pod).await.ok();
            let pod = wait::until("the name to be free", 60, create).await;
            let seen = first_start(&node, &pod, "main").await;
            assert_eq!(promised(&lab.client, &namespace, "db-0", "main").await, uuid(turn % 2));
            assert_eq!(seen.devices, nodes_of(&stand_ins, &uuid(turn % 2)), "turn {turn}");
            devices.push(seen.devices);
            let grace = if forced { 0 } else { 5 };
            pods.delete("db-0", &DeleteParams::default().grace_period(grace)).await.expect("deleted");
        }
        assert_eq!(devices.len(), node.records().iter().filter(|sight| sight.container() == "main").count());
    });
}

#[test]
fn without_cdi_the_agent_refuses_to_start_with_strategies_that_need_it() {
    if !Runtime::Containerd16.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let node = Node::start(lab, "old", Runtime::Containerd16, &[]).await;
        for (number, flag) in [
            "--device-list-strategy=cdi-cri",
            "--device-list-strategy=cdi-annotations",
            "--device-list-strategy=volume-mounts",
            "--pass-device-specs",
        ]
        .into_iter()
        .enumerate()
        {
            let mut agent = Agent::launch(lab, &node, &format!("agent-{number}"), &cards(1), &[flag]).await;
            assert_eq!(agent.ended().await.code(), Some(1), "{flag}");
            let log = agent.log();
            for part in [flag, "containerd://1.6", "use --device-list-strategy=envvar", "containerd 2.0 or newer"] {
                assert!(log.contains(part), "{flag}: {part:?} is not in:\n{log}");
            }
        }
        let agent = Agent::start(lab, &node, &cards(1), &["--device-list-strategy=envvar"]).await;
        assert!(agent.log().contains("serving the kubelet"));
    });
}
