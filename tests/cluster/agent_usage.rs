//! Whose memory of a GPU it is, on a real node: the kubelet and containerd make the cgroups, and the agent finds the containers of
//! processes that a topology file says use a card.

use std::fs;
use std::time::Duration;

use serde_json::json;

use super::agent::{Agent, cards, uuid};
use super::lab::on_cluster;
use super::node::{Node, Runtime, workload};
use super::{http, pods, wait};

/// The probe's process in a container, found by its environment and not by its cgroup.
async fn process_of(node: &Node, pod_uid: &str, container: &str) -> String {
    let wanted = [format!("POD_UID={pod_uid}"), format!("CONTAINER={container}")];
    wait::until(&format!("a process of {container}"), 60, async || {
        node.processes().into_iter().find(|process| {
            let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
            let environment = String::from_utf8_lossy(&environment);
            wanted.iter().all(|variable| environment.split('\0').any(|entry| entry == variable))
        })
    })
    .await
}

/// What the agent tells, once it tells `line` too.
async fn told(agent: &Agent, line: &str) -> String {
    let mut latest = String::new();
    for _ in 0..100 {
        let (_, body) = http::get(agent.metrics_address, "/metrics").await.expect("metrics are served");
        if body.lines().any(|told| told == line) {
            return body;
        }
        latest = body;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    panic!("the agent does not tell {line}:\n{latest}\n{}", agent.log())
}

fn names_containers(runtime: Runtime, kubelet: &[&str]) {
    if !runtime.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let node = Node::start(lab, "gpus", runtime, kubelet).await;
        let agent = Agent::start(lab, &node, &cards(1), &["--metrics-dcgm"]).await;
        let namespace = lab.namespace("usage", json!({})).await;
        let share = |memory: u32| json!({"nvidia.com/gpumem": memory, "nvidia.com/gpucores": 30});
        let mut processes = Vec::new();
        for (name, memory) in [("busy", 4000), ("idle", 8000)] {
            let containers = [
                workload::container("main", &["sleep"], &share(memory)),
                workload::container("beside", &["sleep"], &json!({})),
            ];
            let pod = pods::create(&lab.client, &namespace, &workload::pod(&node, name, &[], &containers)).await;
            let uid = pod.metadata.uid.expect("the pod was created");
            processes.push((process_of(&node, &uid, "main").await, process_of(&node, &uid, "beside").await));
        }
        // Nobody gave this one a card; it has found a way.
        let plain = [workload::container("main", &["sleep"], &json!({}))];
        let plain = pods::create(&lab.client, &namespace, &workload::pod(&node, "plain", &[], &plain)).await;
        let plain = process_of(&node, plain.metadata.uid.as_deref().expect("the pod was created"), "main").await;

        let (busy, beside) = &processes[0];
        let host = std::process::id();
        agent.set_topology(&format!(
            "{}usage:
- device: 0
  memoryUsed: 5000
  temperature: 61
  processes:
  - {{pid: {busy}, memory: 3000, utilization: 40}}
  - {{pid: {beside}, memory: 500, utilization: 2}}
  - {{pid: {plain}, memory: 70}}
  - {{pid: {host}, memory: 6}}
  - {{pid: 4194304, memory: 1}}
",
            cards(1),
        ));
        let card = uuid(0);
        let of = |pod: &str, container: &str| {
            format!("node=\"gpus\",namespace=\"{namespace}\",pod=\"{pod}\",container=\"{container}\",device=\"{card}\"")
        };
        let used = format!("packhorse_agent_container_memory_used_mebibytes{{{}}} 3000", of("busy", "main"));
        let mut body = told(&agent, &used).await;
        let device = format!("node=\"gpus\",device=\"{card}\",index=\"0\",model=\"NVIDIA A100-SXM4-80GB\"");
        for line in [
            format!(
                "packhorse_agent_container_memory_limit_mebibytes{{{},enforcement=\"advisory\"}} 4000",
                of("busy", "main")
            ),
            format!("packhorse_agent_container_cores_limit_percent{{{}}} 30", of("busy", "main")),
            format!("packhorse_agent_container_utilization_percent{{{}}} 40", of("busy", "main")),
            format!("packhorse_agent_container_processes{{{}}} 1", of("busy", "main")),
            // The container beside it has no card and uses one all the same.
            format!("packhorse_agent_container_memory_used_mebibytes{{{}}} 500", of("busy", "beside")),
            format!("packhorse_agent_container_memory_used_mebibytes{{{}}} 0", of("idle", "main")),
            format!("packhorse_agent_container_processes{{{}}} 0", of("idle", "main")),
            format!("packhorse_agent_unattributed_memory_mebibytes{{{device},kind=\"host\"}} 6"),
            format!("packhorse_agent_unattributed_memory_mebibytes{{{device},kind=\"pod\"}} 70"),
            format!("packhorse_agent_unattributed_memory_mebibytes{{{device},kind=\"unknown\"}} 1"),
            format!("packhorse_agent_device_memory_used_mebibytes{{{device}}} 5000"),
        ] {
            // The watch may still have to tell of a container.
            body = told(&agent, &line).await;
        }
        assert!(!body.contains(&of("idle", "beside")), "it holds nothing and uses nothing");
        assert!(body.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"0\","), "asked for");

        // A container that starts again has another process under another id.
        let status = std::process::Command::new("kill").args(["-KILL", busy]).status().expect("kill runs");
        assert!(status.success());
        let uid =
            pods::api(&lab.client, &namespace).get("busy").await.expect("it is there").metadata.uid.expect("a UID");
        let again = wait::until("main to start again", 60, async || {
            let process = process_of(&node, &uid, "main").await;
            (process != *busy).then_some(process)
        })
        .await;
        agent.set_topology(&format!(
            "{}usage: [{{device: 0, processes: [{{pid: {again}, memory: 2222}}]}}]\n",
            cards(1)
        ));
        told(&agent, &format!("packhorse_agent_container_memory_used_mebibytes{{{}}} 2222", of("busy", "main"))).await;

        // A pod that has gone leaves no series.
        pods::api(&lab.client, &namespace).delete("idle", &kube::api::DeleteParams::default()).await.expect("deleted");
        wait::until("idle to leave the metrics", 60, async || {
            let (_, body) = http::get(agent.metrics_address, "/metrics").await?;
            (!body.contains("pod=\"idle\"")).then_some(())
        })
        .await;
    });
}

#[test]
fn agent_usage_names_the_container_behind_each_process() {
    names_containers(Runtime::Containerd22, &["--cgroups-per-qos=true"]);
}

#[test]
fn agent_usage_names_the_container_behind_each_process_where_pods_have_no_groups() {
    names_containers(Runtime::Containerd16, &[]);
}
