//! The control plane of the measurement: etcd and kube-apiserver of the lab with the shipped accounts and policies, and the nodes.
//! It lives through all runs; kube-scheduler and the extender are started anew for each (`run.rs`).
//!
//! There is no kube-controller-manager: nothing here needs a controller, and none should take part in what is measured.
//! Everything ends with this process, however that ends.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::json;

use super::address::Address;
use super::process::{Component, RUN_DIRECTORY};
use super::{identity, pods, wait};

/// How many objects are created at a time.
const CREATORS: usize = 24;

/// What runs all the time.
pub(crate) struct Plane {
    pub(crate) directory: PathBuf,
    pub(crate) kubelab: &'static Path,
    /// The administrator's.
    pub(crate) client: Client,
    kubeconfig: PathBuf,
    /// Of the `ServiceAccount` that kube-scheduler, Packhorse and the no-op extender are.
    pub(crate) server_kubeconfig: PathBuf,
    pub(crate) nodes: Vec<Node>,
    address: Address,
    pub(crate) api_server: Component,
    pub(crate) etcd: Component,
}

impl Plane {
    /// Starts it and creates this many nodes.
    pub(crate) async fn start(kubelab: &'static Path, nodes: usize) -> Self {
        let directory = RUN_DIRECTORY.join("throughput");
        std::fs::create_dir_all(&directory).expect("the directory of the run can be created");
        let address = Address::claim();
        let ip = address.ip;
        identity::write_keys(&directory);
        let etcd_url = format!("http://{ip}:2379");
        let etcd_arguments =
            ["etcd", &text(&directory.join("etcd")), &etcd_url, &format!("http://{ip}:2380")].map(str::to_owned);
        let etcd = Component::start("etcd", &directory, kubelab, &etcd_arguments);
        let mut api_server =
            Component::start("kube-apiserver", &directory, kubelab, &api_server_arguments(&directory, ip, &etcd_url));
        let url = format!("https://{ip}:6443");
        let kubeconfig = identity::administrator(&directory, &url);
        wait::until("kube-apiserver's certificate", 120, async || {
            api_server.must_run();
            directory.join("certificates/apiserver.crt").exists().then_some(())
        })
        .await;
        let client = identity::client(&kubeconfig).await;
        wait::until("kube-apiserver to be ready", 120, async || {
            api_server.must_run();
            get(&client, "/readyz").await
        })
        .await;
        let mut plane = Self {
            server_kubeconfig: PathBuf::new(),
            nodes: Vec::new(),
            directory,
            kubelab,
            client,
            kubeconfig,
            address,
            api_server,
            etcd,
        };
        for what in ["deployments/rbac/namespace.yaml", "deployments/rbac", "deployments/webhook/policies.yaml"] {
            plane.kubectl(&["apply", "--server-side", "-f", what]);
        }
        plane.open_default_namespace().await;
        let token = identity::token(&plane.client, "packhorse-system", "packhorse-server", None).await;
        plane.server_kubeconfig = identity::write_kubeconfig(&plane.directory, "packhorse-server", &url, &token);
        plane.create_nodes(nodes).await;
        plane
    }

    /// An address of this plane.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address.ip.into(), port)
    }

    /// Runs kubectl as the administrator. Panics where it fails.
    pub(crate) fn kubectl(&self, arguments: &[&str]) {
        let output = std::process::Command::new(self.kubelab)
            .arg("kubectl")
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("kubectl runs");
        assert!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The API server's own metrics.
    pub(crate) async fn metrics(&self) -> String {
        get(&self.client, "/metrics").await.expect("kube-apiserver tells its metrics")
    }

    /// Creates pods in the namespace `default`; none of them may be refused.
    pub(crate) async fn create_pods(&self, pods: &[Pod]) {
        let bodies: Vec<Vec<u8>> = pods.iter().map(|pod| serde_json::to_vec(pod).expect("JSON")).collect();
        self.create("/api/v1/namespaces/default/pods", bodies).await;
    }

    /// Deletes all pods; returns when none is left.
    pub(crate) async fn delete_pods(&self) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "default");
        wait::until("the pods to be gone", 300, async || {
            let at_once = DeleteParams::default().grace_period(0);
            // What it does not reach within the API server's time for a request is met again in the next round.
            let _ = pods.delete_collection(&at_once, &ListParams::default()).await;
            let left = pods.list_metadata(&ListParams::default().limit(1)).await.ok()?;
            left.items.is_empty().then_some(())
        })
        .await;
    }

    async fn create(&self, path: &str, bodies: Vec<Vec<u8>>) {
        let calls = futures::stream::iter(bodies).map(|body| async move {
            let request = axum::http::Request::post(path).header("content-type", "application/json").body(body);
            let answer = self.client.request_text(request.expect("a request")).await;
            answer.unwrap_or_else(|error| panic!("POST {path}: {error}"));
        });
        calls.buffer_unordered(CREATORS).collect::<Vec<()>>().await;
    }

    /// Every pod needs the namespace's `ServiceAccount`, which a controller would make.
    async fn open_default_namespace(&self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        wait::until("the namespace default", 30, async || namespaces.get("default").await.ok()).await;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), "default");
        let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).expect("a ServiceAccount");
        accounts.create(&PostParams::default(), &account).await.expect("the ServiceAccount is created");
    }

    async fn create_nodes(&mut self, count: usize) {
        let nodes: Vec<Node> = (0..count).map(|number| pods::node(number).object()).collect();
        let bodies = nodes.iter().map(|node| serde_json::to_vec(node).expect("JSON")).collect();
        self.create("/api/v1/nodes", bodies).await;
        self.nodes = nodes;
    }
}

async fn get(client: &Client, path: &str) -> Option<String> {
    client.request_text(axum::http::Request::get(path).body(Vec::new()).expect("a request")).await.ok()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// As in the cluster tests, without the audit log, which would take part in what is measured.
fn api_server_arguments(directory: &Path, ip: Ipv4Addr, etcd: &str) -> Vec<String> {
    let file = |name: &str| text(&directory.join(name));
    vec![
        "kube-apiserver".to_owned(),
        format!("--etcd-servers={etcd}"),
        format!("--bind-address={ip}"),
        "--secure-port=6443".to_owned(),
        format!("--cert-dir={}", file("certificates")),
        "--advertise-address=192.0.2.1".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--service-account-issuer=https://lab.packhorse.dev".to_owned(),
        format!("--service-account-key-file={}", file("service-account.pub")),
        format!("--service-account-signing-key-file={}", file("service-account.key")),
        format!("--token-auth-file={}", file("tokens.csv")),
        format!("--client-ca-file={}", file("client-ca.crt")),
        "--authorization-mode=Node,RBAC".to_owned(),
        // Nothing would ever remove the taint from nodes that have no kubelet.
        "--disable-admission-plugins=TaintNodesByCondition".to_owned(),
        "--delete-collection-workers=16".to_owned(),
        "--event-ttl=10m".to_owned(),
    ]
}
