//! `packhorse top` through the real API server's proxy to pods, with a right and without it. The agents' pods are API objects; behind
//! their addresses listens what the test puts there, on an address of this machine that is not loopback: to loopback the API server
//! makes no connection.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use axum::Router;
use axum::routing::get;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::lab::{Lab, on_cluster};
use super::objects::{self, GpuNode};
use super::{identity, kubelab, pods};

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

/// An agent's pod on a node, as the `DaemonSet` makes it, that listens there.
async fn agent_pod(lab: &Lab, node: &str, at: SocketAddr) {
    let name = format!("packhorse-agent-{node}");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "packhorse", "app.kubernetes.io/component": "agent"}},
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
        let report = super::wait::until("the right to be known", 30, async || {
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
