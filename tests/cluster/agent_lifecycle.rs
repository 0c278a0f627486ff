//! The agent and what happens around it on a real node: kubelets that crash, agents that are replaced, an API server that is away.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use packhorse::kubelet_api::device_plugin::device_plugin_client::DevicePluginClient;
use packhorse::kubelet_api::device_plugin::{AllocateRequest, ContainerAllocateRequest};
use serde_json::{Value, json};

use super::agent::{Agent, cards};
use super::kubelab::say;
use super::lab::{Lab, on_cluster};
use super::node::{Node, Runtime, workload};
use super::said::History;
use super::{pods, wait};

const GPU: &str = "nvidia.com/gpu";

/// A tenth of a card.
fn tenth() -> Value {
    json!({GPU: 1, "nvidia.com/gpumem": 8192, "nvidia.com/gpucores": 10})
}

/// A pod that stays.
fn sleeper(node: &Node, name: &str) -> Pod {
    workload::pod(node, name, &[], &[workload::container("main", &["sleep"], &tenth())])
}

/// A pod that ends well after so many milliseconds.
fn short(node: &Node, name: &str, milliseconds: u32) -> Pod {
    let main = workload::container("main", &["after", &milliseconds.to_string(), "0"], &tenth());
    let mut pod = workload::pod(node, name, &[], &[main]);
    pod.spec.as_mut().expect("a spec").restart_policy = Some("Never".to_owned());
    pod
}

/// Which container holds which slots, as the kubelet says. Panics where two hold the same.
async fn holders(node: &Node) -> BTreeMap<String, Vec<String>> {
    let mut holders = BTreeMap::new();
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    for pod in node.pod_resources().await {
        for container in pod.containers {
            let name = format!("{}/{}", pod.name, container.name);
            let devices = container.devices.into_iter().filter(|devices| devices.resource_name == GPU);
            let mut slots: Vec<String> = devices.flat_map(|devices| devices.device_ids).collect();
            slots.sort();
            for slot in &slots {
                let other = owners.insert(slot.clone(), name.clone());
                assert!(other.is_none(), "{slot} is handed out to {name} and {other:?}");
            }
            holders.insert(name, slots);
        }
    }
    holders
}

/// The agent's sockets in the kubelet's folder.
fn sockets(node: &Node) -> Vec<std::path::PathBuf> {
    let folder = std::fs::read_dir(node.kubelet_dir.join("device-plugins")).expect("the kubelet's folder");
    let files = folder.flatten().map(|entry| entry.path());
    files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("packhorse-"))).collect()
}

async fn set_label(client: &Client, node: &str, value: Option<&str>) {
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let patch = json!({"metadata": {"labels": {"nvidia.com/gpu.deploy.operands": value}}});
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(&patch)).await.expect("the node is patched");
}

fn milliseconds(times: &mut [Duration]) -> String {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_millis();
    format!("{} / {} / {} ms (least, median, most)", at(0), at(50), at(100))
}

#[test]
fn after_every_crash_of_the_kubelet_its_slots_are_back_and_nothing_is_handed_out_twice() {
    const ROUNDS: usize = 20;
    if !Runtime::Containerd16.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let mut node = Node::start(lab, "gpus", Runtime::Containerd16, &[]).await;
        let agent = Agent::start(lab, &node, &cards(2), &[]).await;
        let namespace = lab.namespace("crashes", json!({})).await;
        let mut count = 6;
        for number in 0..count {
            pods::create(&lab.client, &namespace, &sleeper(&node, &format!("pod-{number}"))).await;
        }
        let mut running = pods::all_running(&lab.client, &namespace, count, 60).await;
        let mut held = holders(&node).await;
        let history = History::watch(&lab.client, "gpus").await;
        let totals = history.now().totals();
        assert_eq!(totals, [Some(2 * 81920), Some(200), Some(2 * 81920), Some(200)]);
        let registrations =
            async || agent.metric("packhorse_agent_registrations_total", &["result=\"registered\""]).await;
        let (mut times, mut gone) = (Vec::new(), 0);
        for round in 1..=ROUNDS {
            let (before, versions) = (registrations().await, history.all().len());
            node.restart_kubelet().await;
            let socket = Instant::now();
            wait::until("the agent to register again", 30, async || (registrations().await > before).then_some(()))
                .await;
            wait::until("all slots with the kubelet", 30, async || {
                (node.healthy_slots(GPU).await.len() == 20).then_some(())
            })
            .await;
            let kubelet = Instant::now();
            let node_says =
                history.until("20 slots, ready", 30, |it| it.slots(GPU) == Some(20) && it.ready == Some(true)).await;
            times.push(kubelet.max(node_says).saturating_duration_since(socket));
            gone += usize::from(history.all()[versions..].iter().any(|(_, said)| said.slots(GPU) == Some(0)));

            wait::until("the kubelet to know its pods again", 30, async || {
                (holders(&node).await == held).then_some(())
            })
            .await;
            assert_eq!(pods::running_containers(&lab.client, &namespace).await, running, "round {round}");
            if round.is_multiple_of(5) {
                pods::create(&lab.client, &namespace, &sleeper(&node, &format!("pod-{count}"))).await;
                count += 1;
                let now = pods::all_running(&lab.client, &namespace, count, 60).await;
                assert!(running.iter().all(|(name, id)| now.get(name) == Some(id)), "{running:?} {now:?}");
                running = now;
                held = holders(&node).await;
                assert_eq!(held.len(), count);
            }
        }
        assert!(history.all().iter().all(|(_, said)| said.totals() == totals), "{:#?}", history.all());
        assert_eq!(node.records().len(), count, "no container was started twice");
        pods::checked(&lab.client).await;
        say(&format!(
            "{ROUNDS} crashes of the kubelet: from its socket to all slots in allocatable {}; {gone} times the node said 0 meanwhile",
            milliseconds(&mut times)
        ));
        assert!(*times.last().expect("20") < Duration::from_secs(10), "{times:?}");
    });
}

/// Pods come at five a second while one agent after the other takes over.
async fn roll(lab: &Lab, namespace: &str, replace: impl AsyncFnOnce(&Node, Agent) -> Agent) {
    const PODS: usize = 100;
    let node = Node::start(lab, "gpus", Runtime::Containerd16, &[]).await;
    let agent = Agent::start(lab, &node, &cards(4), &[]).await;
    pods::create(&lab.client, namespace, &sleeper(&node, "neighbour")).await;
    let neighbour = pods::all_running(&lab.client, namespace, 1, 60).await;
    let began = Instant::now();
    let creating = async {
        for number in 0..PODS {
            tokio::time::sleep_until((began + Duration::from_millis(200) * number as u32).into()).await;
            pods::create(&lab.client, namespace, &short(&node, &format!("pod-{number}"), 200)).await;
        }
    };
    let ((), agent) = tokio::join!(creating, replace(&node, agent));
    let mut phases = BTreeMap::new();
    let ended = wait::becomes(150, async || {
        phases.clear();
        for pod in pods::list(&lab.client, namespace).await {
            let status = pod.status.unwrap_or_default();
            let phase = status.phase.unwrap_or_default();
            assert_ne!(phase, "Failed", "{:?}: {:?} {:?}", pod.metadata.name, status.reason, status.message);
            *phases.entry(phase).or_insert(0) += 1;
        }
        phases.get("Succeeded") == Some(&PODS)
    })
    .await;
    assert!(ended, "{phases:?}");
    say(&format!("{PODS} pods at 5 a second ended well after {:.1} s", began.elapsed().as_secs_f64()));
    let running = pods::running_containers(&lab.client, namespace).await;
    assert_eq!(running.get("neighbour/main"), neighbour.get("neighbour/main"));
    drop(agent);
}

#[test]
fn an_agent_that_is_replaced_at_five_binds_a_second_costs_no_pod() {
    if !Runtime::Containerd16.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let namespace = lab.namespace("replaced", json!({})).await;
        roll(lab, &namespace, async |_, mut agent| {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(3)).await;
                let began = Instant::now();
                let status = agent.stop().await;
                assert!(status.success(), "{status}");
                let stopped = began.elapsed();
                agent.run();
                agent.wait_until_ready().await;
                say(&format!("an agent ended in {stopped:.1?}, the next was ready after {:.1?}", began.elapsed()));
            }
            agent
        })
        .await;
    });
}

#[test]
fn an_agent_that_starts_before_the_old_one_ends_waits_for_it_and_costs_no_pod() {
    if !Runtime::Containerd16.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let namespace = lab.namespace("rolled", json!({})).await;
        roll(lab, &namespace, async |node, mut old| {
            for round in 0..3 {
                tokio::time::sleep(Duration::from_secs(2)).await;
                let mut new = Agent::launch(lab, node, &format!("agent-{round}"), &cards(4), &[]).await;
                new.wait_until_ready().await;
                assert!(new.log().contains("another agent serves this node"), "{}", new.log());
                assert!(!new.log().contains("is served"), "{}", new.log());
                let status = old.stop().await;
                assert!(status.success(), "{status}");
                wait::until("the new agent to serve", 30, async || {
                    new.log().contains("serving the kubelet").then_some(())
                })
                .await;
                old = new;
            }
            old
        })
        .await;
    });
}

#[test]
fn without_the_api_server_slots_are_allocated_and_crashed_containers_start_again() {
    let runtime = [Runtime::Containerd22, Runtime::Containerd16].into_iter().find(|runtime| runtime.is_here());
    let Some(runtime) = runtime else { return };
    on_cluster(async |lab| {
        let node = Node::start(lab, "gpus", runtime, &[]).await;
        let mut agent = Agent::start(lab, &node, &cards(2), &[]).await;
        let namespace = lab.namespace("away", json!({})).await;
        let main = workload::container("main", &["after", "200", "3"], &tenth());
        pods::create(&lab.client, &namespace, &workload::pod(&node, "crashing", &[], &[main])).await;
        let starts = async |count: usize| {
            wait::until(&format!("{count} starts"), 60, async || {
                let records = node.records();
                (records.len() >= count).then_some(records)
            })
            .await
        };
        starts(2).await;
        let held = holders(&node).await;
        let free = node.healthy_slots(GPU).await.into_iter().find(|slot| !held["crashing/main"].contains(slot));
        let free = free.expect("a free slot");

        lab.pause_api_server();
        let before = node.records().len();
        let socket = format!("unix://{}", sockets(&node).first().expect("the agent listens").display());
        let mut plugin = DevicePluginClient::connect(socket).await.expect("the agent listens");
        let mut times = Vec::new();
        for _ in 0..1000 {
            let container_requests = vec![ContainerAllocateRequest { devices_ids: vec![free.clone()] }];
            let began = Instant::now();
            let answer = plugin.allocate(AllocateRequest { container_requests }).await.expect("slots are allocated");
            times.push(began.elapsed());
            let answer = &answer.into_inner().container_responses[0];
            assert_eq!(answer.envs.get("NVIDIA_VISIBLE_DEVICES").map(String::as_str), Some("void"));
        }
        times.sort();
        say(&format!(
            "1,000 Allocate calls without API server: p50 {:?}, p99 {:?} (this build)",
            times[500], times[990]
        ));
        let seen = starts(before + 3).await;
        lab.resume_api_server();
        let devices: std::collections::BTreeSet<_> = seen.iter().map(|sight| sight.visible_devices()).collect();
        assert!(
            devices.len() == 1 && devices.first().is_some_and(|it| it.is_some_and(|it| it.starts_with("GPU-"))),
            "{devices:?}"
        );

        // It may have lost its lease.
        lab.kill_scheduler();
        lab.start_scheduler();
        agent.wait_until_ready().await;
        pods::create(&lab.client, &namespace, &sleeper(&node, "afterwards")).await;
        wait::until("a new pod to run", 90, async || {
            pods::running_containers(&lab.client, &namespace).await.contains_key("afterwards/main").then_some(())
        })
        .await;
    });
}

#[test]
fn totals_that_somebody_resets_are_back_and_the_start_up_taint_goes() {
    if !Runtime::Containerd16.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let flags = ["--register-with-taints=packhorse.dev/not-ready=:NoSchedule,example.com/mine=:PreferNoSchedule"];
        let node = Node::start(lab, "gpus", Runtime::Containerd16, &flags).await;
        let history = History::watch(&lab.client, "gpus").await;
        let taint = "packhorse.dev/not-ready".to_owned();
        assert!(history.now().taints.contains(&taint));
        let _agent = Agent::start(lab, &node, &cards(2), &[]).await;
        history.until("no start-up taint", 30, |said| !said.taints.contains(&taint)).await;
        let full = [Some(2 * 81920), Some(200), Some(2 * 81920), Some(200)];
        for (_, said) in history.all() {
            assert!(said.taints.contains(&"example.com/mine".to_owned()), "{said:?}");
            if !said.taints.contains(&taint) {
                assert_eq!((said.totals(), said.ready), (full, Some(true)), "free of the taint before it is ready");
            }
            if said.slots(GPU).is_some_and(|slots| slots > 0) {
                assert_eq!(said.totals(), full, "slots before totals");
            }
        }

        // As a kubelet does that has lost its checkpoint.
        let nodes: Api<NodeObject> = Api::all(lab.client.clone());
        let zero = json!({"packhorse.dev/gpu-memory": "0", "packhorse.dev/gpu-cores": "0"});
        let reset = json!({"status": {"capacity": zero, "allocatable": zero}});
        let began = Instant::now();
        nodes.patch_status("gpus", &PatchParams::default(), &Patch::Merge(&reset)).await.expect("a reset");
        let zeroed = history.until("totals of zero once", 5, |_| {
            history.all().iter().any(|(at, said)| *at > began && said.totals() == [Some(0); 4])
        });
        zeroed.await;
        let back = history.until("the totals", 10, |said| said.totals() == full).await;
        say(&format!("totals that were reset are back after {:.1?}", back.saturating_duration_since(began)));

        let namespace = lab.namespace("untainted", json!({})).await;
        pods::create(&lab.client, &namespace, &sleeper(&node, "pod")).await;
        pods::all_running(&lab.client, &namespace, 1, 60).await;
    });
}

#[test]
fn an_agent_leaves_its_node_in_order_and_takes_it_up_again() {
    if !Runtime::Containerd16.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let node = Node::start(lab, "gpus", Runtime::Containerd16, &[]).await;
        let mut agent = Agent::start(lab, &node, &cards(2), &[]).await;
        let history = History::watch(&lab.client, "gpus").await;
        let namespace = lab.namespace("order", json!({})).await;
        pods::create(&lab.client, &namespace, &sleeper(&node, "pod")).await;
        let running = pods::all_running(&lab.client, &namespace, 1, 60).await;
        let totals = history.now().totals();
        for label in [false, true] {
            history.until("served", 30, |said| said.slots(GPU) == Some(20) && said.ready == Some(true)).await;
            assert_eq!(sockets(&node).len(), 1);
            let before = history.all().len();
            if label {
                set_label(&lab.client, "gpus", Some("false")).await;
            } else {
                let status = agent.stop().await;
                assert_eq!(status.code(), Some(0));
                assert!(sockets(&node).is_empty(), "{:?}", sockets(&node));
            }
            history
                .until("nothing to be had", 30, |said| said.slots(GPU) == Some(0) && said.ready == Some(false))
                .await;
            let since = history.all().split_off(before);
            let first = since.iter().find(|(_, said)| said.ready == Some(false) || said.slots(GPU) == Some(0));
            assert_eq!(
                first.and_then(|(_, said)| said.slots(GPU)),
                Some(20),
                "told of before the slots went: {since:#?}"
            );
            assert!(since.iter().all(|(_, said)| said.totals() == totals), "{since:#?}");
            wait::until("the socket to go", 10, async || sockets(&node).is_empty().then_some(())).await;
            if label {
                set_label(&lab.client, "gpus", None).await;
            } else {
                agent.run();
            }
        }
        history.until("served again", 30, |said| said.slots(GPU) == Some(20) && said.ready == Some(true)).await;
        assert_eq!(pods::running_containers(&lab.client, &namespace).await, running);
        pods::create(&lab.client, &namespace, &sleeper(&node, "another")).await;
        pods::all_running(&lab.client, &namespace, 2, 60).await;
    });
}
