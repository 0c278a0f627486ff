//! One cluster: etcd, kube-apiserver, kube-controller-manager and kube-scheduler as processes, `packhorse server` beside them,
//! everything in `deployments/` applied. Nodes are API objects; a test that needs a real kubelet starts one (`node.rs`).
//!
//! All tests share one lab, one after the other; each begins without nodes, without pods and with the default configuration. A
//! test that fails takes the lab with it, after its logs have been shown, and the next test starts a new one.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use super::address::Address;
use super::audit::{self, Audit};
use super::process::{Component, RUN_DIRECTORY};
use super::{http, identity, kubelab, manifests, wait};

/// Longest time one test may take.
pub(crate) const TEST_LIMIT: Duration = Duration::from_secs(360);
const SYSTEM_NAMESPACES: [&str; 5] = ["default", "kube-system", "kube-public", "kube-node-lease", "packhorse-system"];

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
static SHARED: Mutex<Option<Lab>> = Mutex::const_new(None);
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Runs a test on the shared lab. Returns at once, having said so, where no lab can run.
pub(crate) fn on_cluster(test: impl AsyncFnOnce(&mut Lab)) {
    on_cluster_for(TEST_LIMIT, test);
}

/// Like [`on_cluster`] for a test that may take this long.
pub(crate) fn on_cluster_for(limit: Duration, test: impl AsyncFnOnce(&mut Lab)) {
    let Some(kubelab) = kubelab::binary() else { return };
    RUNTIME.block_on(async {
        let mut shared = SHARED.lock().await;
        let mut lab = match shared.take() {
            Some(lab) => lab,
            None => Lab::start(kubelab).await,
        };
        lab.reset().await;
        // A panic drops the lab on its way out, hence no half-broken one is ever handed on.
        let ended = tokio::time::timeout(limit, test(&mut lab)).await;
        assert!(ended.is_ok(), "the test took longer than {} s", limit.as_secs());
        *shared = Some(lab);
    });
}

/// A running cluster.
pub(crate) struct Lab {
    /// Where its files and logs are.
    pub(crate) directory: PathBuf,
    /// As the lab's administrator.
    pub(crate) client: Client,
    /// The administrator's kubeconfig.
    pub(crate) kubeconfig: PathBuf,
    /// Who wrote what.
    pub(crate) audit: Audit,
    /// The binary with Kubernetes in it.
    pub(crate) kubelab: &'static Path,
    address: Address,
    webhook_port: u16,
    server_kubeconfig: PathBuf,
    /// What the server's configuration file holds; none: the server runs without one.
    server_config: Option<String>,
    // In the order in which they end, and in which their logs are shown after a failure.
    scheduler: Component,
    server: Component,
    controller_manager: Component,
    api_server: Component,
    _etcd: Component,
}

impl Lab {
    /// Starts everything; returns when the server is ready and its webhook is registered.
    pub(crate) async fn start(kubelab: &'static Path) -> Self {
        let started = Instant::now();
        let directory = RUN_DIRECTORY.join(COUNT.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir_all(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let address = Address::claim();
        let ip = address.ip;
        identity::write_keys(&directory);
        let component = |name: &str, arguments: Vec<String>| {
            let arguments: Vec<String> = std::iter::once(name.to_owned()).chain(arguments).collect();
            Component::start(name, &directory, kubelab, &arguments)
        };

        let etcd_url = format!("http://{ip}:2379");
        let etcd =
            component("etcd", vec![text(&directory.join("etcd")), etcd_url.clone(), format!("http://{ip}:2380")]);
        let mut api_server = component("kube-apiserver", api_server_flags(&directory, ip, &etcd_url));
        let server_url = format!("https://{ip}:6443");
        let kubeconfig = identity::administrator(&directory, &server_url);
        wait::until("kube-apiserver's certificate", 60, async || {
            api_server.must_run();
            directory.join("certificates/apiserver.crt").exists().then_some(())
        })
        .await;
        let client = identity::client(&kubeconfig).await;
        wait::until("kube-apiserver to be ready", 90, async || {
            api_server.must_run();
            let request = http_request("/readyz");
            client.request_text(request).await.ok()
        })
        .await;
        let controller_manager = component("kube-controller-manager", controller_manager_flags(&kubeconfig, ip));

        // Accounts first, then what needs their tokens, then what makes pods meet us.
        kubectl(kubelab, &kubeconfig, &["apply", "--server-side", "-f", "deployments/rbac/namespace.yaml"]);
        kubectl(kubelab, &kubeconfig, &["apply", "--server-side", "-f", "deployments/rbac"]);
        let token = identity::token(&client, "packhorse-system", "packhorse-server", None).await;
        let server_kubeconfig = identity::write_kubeconfig(&directory, "packhorse-server", &server_url, &token);
        kubectl(kubelab, &kubeconfig, &["apply", "--server-side", "-f", "deployments/scheduler"]);
        let webhook_port = manifests::route_webhook(&client, ip).await;
        for file in manifests::webhook_files() {
            kubectl(kubelab, &kubeconfig, &["apply", "--server-side", "-f", &file]);
        }

        let server_flags = server_flags(&server_kubeconfig, ip, webhook_port, None);
        let packhorse = Path::new(env!("CARGO_BIN_EXE_packhorse"));
        let server = Component::start("packhorse-server", &directory, packhorse, &server_flags);
        let scheduler_config = manifests::scheduler_config(&directory, &server_kubeconfig, &extender_url(ip));
        let scheduler = component("kube-scheduler", scheduler_flags(&scheduler_config, &server_kubeconfig, ip));

        let mut lab = Self {
            audit: Audit::new(&directory),
            directory,
            client,
            kubeconfig,
            kubelab,
            address,
            webhook_port,
            server_kubeconfig,
            server_config: None,
            scheduler,
            server,
            controller_manager,
            api_server,
            _etcd: etcd,
        };
        lab.wait_until_ready().await;
        kubelab::say(&format!("lab {ip} is ready after {:.1} s", started.elapsed().as_secs_f64()));
        lab
    }

    /// The API server's address.
    pub(crate) fn url(&self) -> String {
        format!("https://{}:6443", self.address.ip)
    }

    /// Where Packhorse serves `/metrics` and `/readyz`.
    pub(crate) fn metrics_address(&self) -> SocketAddr {
        SocketAddr::new(self.address.ip.into(), 9481)
    }

    /// A port of the lab that nobody else uses.
    pub(crate) fn free_address(&self) -> SocketAddr {
        SocketAddr::new(self.address.ip.into(), 20_000 + (COUNT.fetch_add(1, Ordering::Relaxed) % 10_000) as u16)
    }

    /// Where Packhorse serves `/filter` and its sisters.
    pub(crate) fn extender_address(&self) -> SocketAddr {
        SocketAddr::new(self.address.ip.into(), 9480)
    }

    /// Where Packhorse serves `/mutate`, by TLS.
    pub(crate) fn webhook_address(&self) -> SocketAddr {
        SocketAddr::new(self.address.ip.into(), self.webhook_port)
    }

    /// Runs kubectl as the administrator; its standard output. Panics where it fails.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        kubectl(self.kubelab, &self.kubeconfig, arguments)
    }

    /// The same; what kubectl said where it failed.
    pub(crate) fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        try_kubectl(self.kubelab, &self.kubeconfig, arguments)
    }

    /// A kubeconfig of any `ServiceAccount`, with a real token.
    pub(crate) async fn kubeconfig_of(&self, namespace: &str, account: &str, bound_to: Option<Value>) -> PathBuf {
        let token = identity::token(&self.client, namespace, account, bound_to).await;
        identity::write_kubeconfig(&self.directory, &format!("{namespace}-{account}"), &self.url(), &token)
    }

    /// A client that is any `ServiceAccount`, with a real token.
    pub(crate) async fn client_of(&self, namespace: &str, account: &str, bound_to: Option<Value>) -> Client {
        identity::client(&self.kubeconfig_of(namespace, account, bound_to).await).await
    }

    /// A namespace of the test's own, with the `ServiceAccount` that every pod needs.
    pub(crate) async fn namespace(&self, name: &str, labels: Value) -> String {
        // Never the name of an earlier test, whose namespace may still be on its way out.
        let name = format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).expect("a Namespace");
        namespaces.create(&Default::default(), &namespace).await.expect("a namespace is created");
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(self.client.clone(), &name);
        wait::until("the default ServiceAccount", 20, async || accounts.get("default").await.ok()).await;
        name
    }

    // ---- packhorse server ----

    /// Starts the server anew with this configuration file, and waits until it is ready.
    pub(crate) async fn configure_server(&mut self, config: Option<&str>) {
        self.server.kill();
        self.server_config = config.map(str::to_owned);
        self.start_server();
        self.wait_until_ready().await;
    }

    /// Ends the server as a crash would.
    pub(crate) fn kill_server(&mut self) {
        self.server.kill();
    }

    /// Ends the server as Kubernetes would; how it ended.
    pub(crate) async fn stop_server(&mut self) -> std::process::ExitStatus {
        self.server.stop().await
    }

    /// Starts the server after its end. Does not wait.
    pub(crate) fn start_server(&mut self) {
        let config = self.server_config.as_ref().map(|text| {
            let path = self.directory.join("server.yaml");
            identity::write(&path, text);
            path
        });
        let flags = server_flags(&self.server_kubeconfig, self.address.ip, self.webhook_port, config.as_deref());
        self.server.run(Path::new(env!("CARGO_BIN_EXE_packhorse")), &flags);
    }

    /// Until the webhook can answer, the ledger is complete and a GPU pod is really admitted.
    pub(crate) async fn wait_until_ready(&mut self) {
        let address = self.metrics_address();
        for path in ["/readyz", "/readyz/extender"] {
            wait::until(&format!("packhorse server to answer 200 on {path}"), 60, async || {
                self.server.must_run();
                http::get(address, path).await.filter(|(status, _)| *status == 200)
            })
            .await;
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "default");
        let dry = kube::api::PostParams { dry_run: true, ..Default::default() };
        let probe = super::objects::pod("readiness", &json!({"nvidia.com/gpu": 1}));
        let mut last = String::new();
        let ready = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                match pods.create(&dry, &probe).await {
                    Ok(pod) if super::objects::scheduler_of(&pod) == "packhorse" => break,
                    Ok(_) => last = "admitted without the webhook".to_owned(),
                    Err(error) => last = error.to_string(),
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        assert!(ready.await.is_ok(), "no GPU pod is admitted within 60 s: {last}");
    }

    /// One value of the server's metrics: the sum over all series of the name whose labels contain each of `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, body) = http::get(self.metrics_address(), "/metrics").await.expect("metrics are served");
        http::sum(&body, name, labels)
    }

    /// Waits until the ledger has this many nodes.
    pub(crate) async fn wait_for_ledger(&self, nodes: usize) {
        let state = "packhorse_ledger_nodes";
        wait::until(&format!("{nodes} nodes in the ledger"), 60, async || {
            (self.metric(state, &["state=\"usable\""]).await == nodes as f64).then_some(())
        })
        .await;
    }

    /// How often kube-scheduler has called one of the extender's verbs.
    pub(crate) async fn extender_calls(&self, verb: &str) -> f64 {
        self.metric(&format!("packhorse_extender_{verb}_seconds_count"), &[]).await
    }

    /// How many binds found their room taken.
    pub(crate) async fn bind_conflicts(&self) -> f64 {
        self.metric("packhorse_extender_bind_conflicts_total", &[]).await
    }

    // ---- kube-apiserver ----

    /// Stops kube-apiserver where it is: connections stay, nobody answers. kube-scheduler ends by itself, if it lasts longer than the
    /// scheduler's lease.
    pub(crate) fn pause_api_server(&self) {
        self.api_server.signal("STOP");
    }

    /// Lets it go on.
    pub(crate) fn resume_api_server(&self) {
        self.api_server.signal("CONT");
    }

    // ---- kube-controller-manager ----

    /// Stops kube-controller-manager where it is.
    pub(crate) fn pause_controllers(&self) {
        self.controller_manager.signal("STOP");
    }

    /// Lets it go on.
    pub(crate) fn resume_controllers(&self) {
        self.controller_manager.signal("CONT");
    }

    // ---- kube-scheduler ----

    /// Ends kube-scheduler as a crash would.
    pub(crate) fn kill_scheduler(&mut self) {
        self.scheduler.kill();
    }

    /// Stops kube-scheduler where it is. Its lease lasts 15 s.
    pub(crate) fn pause_scheduler(&self) {
        self.scheduler.signal("STOP");
    }

    /// Lets it go on.
    pub(crate) fn resume_scheduler(&self) {
        self.scheduler.signal("CONT");
    }

    /// Starts kube-scheduler after its end. Does not wait.
    pub(crate) fn start_scheduler(&mut self) {
        let config =
            manifests::scheduler_config(&self.directory, &self.server_kubeconfig, &extender_url(self.address.ip));
        let mut arguments = vec!["kube-scheduler".to_owned()];
        arguments.extend(scheduler_flags(&config, &self.server_kubeconfig, self.address.ip));
        self.scheduler.run(self.kubelab, &arguments);
    }

    // ---- between tests ----

    /// No nodes, no pods, no namespaces of tests, all components alive, the default configuration.
    async fn reset(&mut self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let listed = namespaces.list(&ListParams::default()).await.expect("namespaces are listed");
        for name in listed.items.iter().filter_map(|namespace| namespace.metadata.name.as_deref()) {
            if !SYSTEM_NAMESPACES.contains(&name) {
                // Already on its way out is as good.
                let _ = namespaces.delete(name, &DeleteParams::default()).await;
            }
        }
        let all: Api<Pod> = Api::all(self.client.clone());
        let client = self.client.clone();
        wait::until("the pods of the test before to go", 90, async || {
            let pods = all.list_metadata(&ListParams::default()).await.ok()?.items;
            for namespace in
                pods.iter().filter_map(|pod| pod.metadata.namespace.clone()).collect::<std::collections::BTreeSet<_>>()
            {
                let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
                // What is left is met again in the next round.
                let _ = pods.delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default()).await;
            }
            pods.is_empty().then_some(())
        })
        .await;
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.delete_collection(&DeleteParams::default(), &ListParams::default()).await.expect("nodes are deleted");
        if self.server_config.is_some() || self.server.has_exited().is_some() {
            self.configure_server(None).await;
        }
        self.wait_until_ready().await;
    }
}

fn extender_url(ip: Ipv4Addr) -> String {
    format!("http://{ip}:9480")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn http_request(path: &str) -> axum::http::Request<Vec<u8>> {
    axum::http::Request::get(path).body(Vec::new()).expect("a request")
}

fn api_server_flags(directory: &Path, ip: Ipv4Addr, etcd: &str) -> Vec<String> {
    let file = |name: &str| text(&directory.join(name));
    identity::write(&directory.join("audit-policy.json"), &audit::policy());
    vec![
        format!("--etcd-servers={etcd}"),
        format!("--bind-address={ip}"),
        "--secure-port=6443".to_owned(),
        format!("--cert-dir={}", file("certificates")),
        // Nobody looks it up, and the machine may have no other address than loopback.
        "--advertise-address=192.0.2.1".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--service-account-issuer=https://lab.packhorse.dev".to_owned(),
        format!("--service-account-key-file={}", file("service-account.pub")),
        format!("--service-account-signing-key-file={}", file("service-account.key")),
        format!("--token-auth-file={}", file("tokens.csv")),
        // Who signs the certificates of real kubelets. With it the API server also publishes the ConfigMap that components look for.
        format!("--client-ca-file={}", file("client-ca.crt")),
        "--authorization-mode=Node,RBAC".to_owned(),
        // As every distribution sets it: the agent is privileged.
        "--allow-privileged=true".to_owned(),
        // Nothing would ever remove the taint from nodes that have no kubelet.
        "--disable-admission-plugins=TaintNodesByCondition".to_owned(),
        // As kubeadm sets it: a kubelet may write its own node and its own pods only.
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        format!("--audit-policy-file={}", file("audit-policy.json")),
        format!("--audit-log-path={}", file("audit.log")),
        "--profiling=false".to_owned(),
    ]
}

/// The controllers that act on what the tests create. Those that judge or police nodes would taint ours, which have no kubelet.
fn controller_manager_flags(kubeconfig: &Path, ip: Ipv4Addr) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", text(kubeconfig)),
        format!("--bind-address={ip}"),
        "--leader-elect=false".to_owned(),
        "--controllers=serviceaccount-controller,namespace-controller,deployment-controller,replicaset-controller,\
         daemonset-controller,job-controller,resourcequota-controller,garbage-collector-controller,pod-garbage-collector-controller,\
         disruption-controller,validatingadmissionpolicy-status-controller"
            .to_owned(),
        "--kube-api-qps=500".to_owned(),
        "--kube-api-burst=1000".to_owned(),
        // Quotas are counted anew this often; a test waits for the first count.
        "--resource-quota-sync-period=2s".to_owned(),
        "--profiling=false".to_owned(),
    ]
}

fn scheduler_flags(config: &Path, kubeconfig: &Path, ip: Ipv4Addr) -> Vec<String> {
    vec![
        format!("--config={}", text(config)),
        format!("--bind-address={ip}"),
        // Else its own metrics endpoint would look for an in-cluster configuration.
        format!("--authentication-kubeconfig={}", text(kubeconfig)),
        format!("--authorization-kubeconfig={}", text(kubeconfig)),
    ]
}

fn server_flags(kubeconfig: &Path, ip: Ipv4Addr, webhook_port: u16, config: Option<&Path>) -> Vec<String> {
    let mut flags = vec![
        "server".to_owned(),
        "--kubeconfig".to_owned(),
        text(kubeconfig),
        "--extender-listen".to_owned(),
        format!("{ip}:9480"),
        "--webhook-listen".to_owned(),
        format!("{ip}:{webhook_port}"),
        "--metrics-listen".to_owned(),
        format!("{ip}:9481"),
    ];
    if let Some(config) = config {
        flags.extend(["--config".to_owned(), text(config)]);
    }
    flags
}

fn kubectl(kubelab: &Path, kubeconfig: &Path, arguments: &[&str]) -> String {
    try_kubectl(kubelab, kubeconfig, arguments).unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
}

/// In the top folder of the repository, so that `deployments/…` is found.
fn try_kubectl(kubelab: &Path, kubeconfig: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = std::process::Command::new(kubelab)
        .arg("kubectl")
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("kubectl runs");
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
