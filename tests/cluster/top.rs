//! `packhorse top` through the real API server's proxy to pods, with a right and without it. The agents' pods are API objects; behind
//! their addresses listens what the test puts there, up to a real agent, on an address of this machine that is not loopback: to
//! loopback the API server makes no connection. `PACKHORSE_EXPOSITION=1` keeps what is exposed, for the tests of the dashboards.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use axum::Router;
use axum::routing::get;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::agent::{Agent, cards, uuid};
use super::lab::{Lab, on_cluster};
use super::node::{Node, Runtime, workload};
use super::objects::{self, GpuNode};
use super::{http, identity, kubelab, pods, wait};

const A100: &str = "NVIDIA A100-SXM4-80GB";

/// An address by which others reach this machine; none in a network of its own. Nothing is sent.
fn address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// Serves a text as `/metrics` until the guard is dropped.
async fn serve(ip: IpAddr, text: String) -> (SocketAddr, DropGuard) {
    let listener = tokio::net::TcpListener::bind((ip, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    let router = Router::new().route("/metrics", get(async move || text));
    tokio::spawn(stop.clone().run_until_cancelled_owned(axum::serve(listener, router).into_future()));
    (address, stop.drop_guard())
}

fn labels() -> Value {
    json!({"app.kubernetes.io/name": "packhorse", "app.kubernetes.io/component": "agent"})
}

/// An agent's pod on a node, as the `DaemonSet` makes it, that listens there.
async fn agent_pod(lab: &Lab, node: &str, at: SocketAddr) {
    let name = format!("packhorse-agent-{node}");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": labels()},
        "spec": {"nodeName": node, "tolerations": [{"operator": "Exists"}], "containers": [{"name": "agent", "image": "i",
            "ports": [{"name": "metrics", "containerPort": at.port(), "protocol": "TCP"}]}]},
    });
    let api: Api<Pod> = Api::namespaced(lab.client.clone(), "packhorse-system");
    pods::create(&lab.client, "packhorse-system", &serde_json::from_value(pod).expect("a pod")).await;
    let ip = at.ip().to_string();
    let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True"}]}});
    api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&status)).await.expect("a status");
}

/// Runs the binary with a kubeconfig.
fn top(kubeconfig: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_packhorse")));
    command.arg("top").args(arguments).arg("--kubeconfig").arg(kubeconfig).env_remove("KUBECONFIG");
    command.output().expect("the binary runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A `ServiceAccount` of somebody who looks at the cluster.
async fn viewer(lab: &Lab) -> PathBuf {
    let rules = json!([{"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["get", "list"]}]);
    let subject = json!([{"kind": "ServiceAccount", "name": "viewer", "namespace": "default"}]);
    let group = "rbac.authorization.k8s.io";
    apply(
        lab,
        &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "viewer", "namespace": "default"}}),
    );
    apply(
        lab,
        &json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": "viewer"}, "rules": rules}),
    );
    apply(
        lab,
        &json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": "viewer"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "viewer"}, "subjects": subject}),
    );
    let token = identity::token(&lab.client, "default", "viewer", None).await;
    identity::write_kubeconfig(&lab.directory, "viewer", &lab.url(), &token)
}

fn apply(lab: &Lab, object: &Value) {
    let file = lab.directory.join("applied.json");
    identity::write(&file, &object.to_string());
    lab.kubectl(&["apply", "-f", file.to_str().expect("a path")]);
}

/// The role that the documentation gives to those who use the command.
fn documented_role() -> Value {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/top.md")).expect("the page");
    let role = page.split("```yaml\n").find(|block| block.contains("kind: Role")).expect("the role");
    serde_saphyr::from_str(role.split("```").next().expect("its end")).expect("YAML")
}

#[test]
fn it_reads_the_agents_through_the_api_server_with_the_documented_right_alone() {
    on_cluster(async |lab| {
        let Some(ip) = address() else {
            kubelab::say("SKIPPED top: this machine has no address but loopback, to which no API server connects");
            return;
        };
        for name in ["busy", "silent"] {
            GpuNode::new(name, 1, A100, 81_920).create(&lab.client).await;
        }
        let namespace = lab.namespace("top", json!({})).await;
        for (pod, node) in [("train", "busy"), ("lost", "silent")] {
            let mut object = objects::pod(pod, &json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 20_000}));
            objects::pin(&mut object, node);
            pods::create(&lab.client, &namespace, &object).await;
            pods::bound(&lab.client, &namespace, pod, 30).await;
        }
        let device = "node=\"busy\",device=\"GPU-busy-0\",index=\"0\",model=\"NVIDIA A100-SXM4-80GB\"";
        let container =
            format!("node=\"busy\",namespace=\"{namespace}\",pod=\"train\",container=\"main\",device=\"GPU-busy-0\"");
        let text = format!(
            "packhorse_agent_device_memory_used_mebibytes{{{device}}} 15500\n\
             packhorse_agent_container_memory_used_mebibytes{{{container}}} 15000\n\
             packhorse_agent_container_utilization_percent{{{container}}} 64\n# EOF\n"
        );
        let (at, _serving) = serve(ip, text).await;
        agent_pod(lab, "busy", at).await;
        let (nobody, serving) = serve(ip, String::new()).await;
        drop(serving);
        agent_pod(lab, "silent", nobody).await;

        let kubeconfig = viewer(lab).await;
        let output = top(&kubeconfig, &[]);
        let refused = said(&output);
        assert_eq!(output.status.code(), Some(1), "{refused}");
        assert!(refused.contains("cannot get resource \"pods/proxy\""), "{refused}");
        assert!(refused.contains("allow get of pods/proxy in namespace packhorse-system"), "{refused}");

        let role = documented_role();
        apply(lab, &role);
        let group = "rbac.authorization.k8s.io";
        let name = role["metadata"]["name"].clone();
        apply(
            lab,
            &json!({"apiVersion": format!("{group}/v1"), "kind": "RoleBinding",
                "metadata": {"name": name, "namespace": "packhorse-system"},
                "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": "viewer", "namespace": "default"}]}),
        );
        let report = wait::until("the right to be known", 30, async || {
            let output = top(&kubeconfig, &["pods", "devices", "-n", &namespace, "-o", "json"]);
            output.status.success().then(|| serde_json::from_slice::<Value>(&output.stdout).expect("JSON"))
        })
        .await;
        let rows = report["pods"].as_array().expect("rows");
        assert_eq!(rows.len(), 2, "{report}");
        assert_eq!(
            (&rows[0]["pod"], &rows[0]["state"], &rows[0]["memoryLimit"]),
            (&json!("lost"), &json!("unknown"), &json!(20_000))
        );
        assert_eq!(
            (&rows[1]["pod"], &rows[1]["memoryUsed"], &rows[1]["memoryPercent"]),
            (&json!("train"), &json!(15_000), &json!(75.0))
        );
        assert_eq!(rows[1]["utilization"], json!(64.0));
        assert_eq!(report["devices"][0]["memoryUsed"], json!(15_500));
        let silent = &report["silent"][0];
        assert_eq!(silent["node"], "silent");
        assert!(silent["why"].as_str().is_some_and(|why| why.contains("connection refused")), "{silent}");
    });
}

/// Hands connections to an address of this machine on to one on loopback, where everything of the lab listens.
async fn relay(ip: IpAddr, to: SocketAddr) -> (SocketAddr, DropGuard) {
    let listener = tokio::net::TcpListener::bind((ip, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut there) = tokio::net::TcpStream::connect(to).await {
                    // Either end may leave first.
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut there).await;
                }
            });
        }
    }));
    (address, stop.drop_guard())
}

/// The first process of a container on this machine.
fn process_of(node: &Node, container: &str) -> Option<String> {
    let inside = |process: &String| {
        std::fs::read_to_string(format!("/proc/{process}/cgroup")).is_ok_and(|text| text.contains(container))
    };
    node.processes().into_iter().find(inside)
}

/// Keeps what a cluster exposes for the tests of the dashboards, under the names that they use.
fn keep(part: &str, text: &str, namespace: &str) {
    if std::env::var_os("PACKHORSE_EXPOSITION").is_some() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chart/exposition");
        std::fs::create_dir_all(&folder).expect("a folder");
        let text = text.replace(&format!("namespace=\"{namespace}\""), "namespace=\"team\"");
        identity::write(&folder.join(format!("{part}.txt")), &text);
    }
}

#[test]
fn a_running_containers_use_comes_from_its_process_through_agent_and_api_server_to_the_table() {
    on_cluster(async |lab| {
        let Some(ip) = address() else {
            kubelab::say("SKIPPED top: this machine has no address but loopback, to which no API server connects");
            return;
        };
        if !Runtime::Containerd22.is_here() {
            return;
        }
        let node = Node::start(lab, "gpus", Runtime::Containerd22, &["--cgroups-per-qos=true"]).await;
        let agent = Agent::start(lab, &node, &cards(2), &[]).await;
        let (at, _relay) = relay(ip, agent.metrics_address).await;
        // Its status is the kubelet's: the address is the node's, as of every pod in the host's network.
        let mut main = workload::container("agent", &["sleep"], &json!({}));
        main["ports"] = json!([{"name": "metrics", "containerPort": at.port(), "protocol": "TCP"}]);
        let mut pod = workload::pod(&node, "packhorse-agent-gpus", &[], &[main]);
        pod.metadata.labels = serde_json::from_value(labels()).expect("labels");
        pods::create(&lab.client, "packhorse-system", &pod).await;
        pods::all_running(&lab.client, "packhorse-system", 1, 90).await;
        let namespace = lab.namespace("top", json!({})).await;
        let limits = json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 20_000, "nvidia.com/gpucores": 40});
        let main = workload::container("main", &["sleep"], &limits);
        pods::create(&lab.client, &namespace, &workload::pod(&node, "train", &[], &[main])).await;
        pods::all_running(&lab.client, &namespace, 1, 90).await;
        let container = wait::until("the container's ID", 60, async || {
            let pod = pods::api(&lab.client, &namespace).get("train").await.ok()?;
            let id = pod.status?.container_statuses?.into_iter().next()?.container_id?;
            id.split_once("://").map(|(_, id)| id.to_owned())
        })
        .await;
        let process = wait::until("its process", 20, async || process_of(&node, &container)).await;
        let pod = pods::api(&lab.client, &namespace).get("train").await.expect("the pod");
        let device = objects::annotation(&pod, "devices.packhorse.dev/main").expect("a device").to_owned();
        let given = usize::from(device == uuid(1));
        let mut topology = cards(2) + "usage:\n";
        for card in 0..2 {
            let processes = if card == given {
                format!("{{pid: {process}, memory: 15000, utilization: 33}}")
            } else {
                String::new()
            };
            topology += &format!(
                "- {{device: {card}, memoryUsed: {}, utilization: 35, memoryUtilization: 12, temperature: 54, power: 310, \
                 powerLimit: 400, smClock: 1410, memoryClock: 1593, energy: 123456, processes: [{processes}]}}\n",
                if card == given { 15_500 } else { 400 },
            );
        }
        agent.set_topology(&topology);

        let mut report = Value::Null;
        let told = wait::becomes(60, async || {
            let output = top(&lab.kubeconfig, &["pods", "devices", "-n", &namespace, "-o", "json"]);
            assert!(output.status.success(), "{}", said(&output));
            report = serde_json::from_slice(&output.stdout).expect("JSON");
            report["pods"][0]["memoryUsed"] == json!(15_000) && report["devices"][given]["memoryUsed"] == json!(15_500)
        })
        .await;
        assert!(told, "{report}");
        let row = &report["pods"][0];
        for (field, value) in [
            ("pod", json!("train")),
            ("container", json!("main")),
            ("device", json!(device)),
            ("state", json!("reported")),
            ("memoryLimit", json!(20_000)),
            ("memoryPercent", json!(75.0)),
            ("utilization", json!(33.0)),
            ("coresLimit", json!(40)),
            ("processes", json!(1)),
        ] {
            assert_eq!(row[field], value, "{field}: {row}");
        }

        // Something of everything for the panels.
        let bad = workload::container("main", &["sleep"], &json!({"nvidia.com/gpumem-percentage": 150}));
        let bad = workload::pod(&node, "bad", &[], &[bad]);
        pods::api(&lab.client, &namespace).create(&Default::default(), &bad).await.expect_err("denied");
        let huge = workload::container("main", &["sleep"], &json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 81_000}));
        pods::create(&lab.client, &namespace, &workload::pod(&node, "whole", &[], std::slice::from_ref(&huge))).await;
        pods::create(&lab.client, &namespace, &workload::pod(&node, "waits", &[], &[huge])).await;
        pods::refused(&lab.client, &namespace, "waits", 60).await;
        let (_, text) = http::get(agent.metrics_address, "/metrics").await.expect("the agent's metrics");
        keep("agent", &text, &namespace);
        let (_, text) = http::get(lab.metrics_address(), "/metrics").await.expect("the server's metrics");
        keep("server", &text, &namespace);
    });
}
