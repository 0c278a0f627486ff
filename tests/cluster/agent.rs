//! `packhorse agent` beside a real node of the lab: as the `ServiceAccount` packhorse-agent with a token that is bound to the node,
//! with devices out of a topology file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::api::Api;
use serde_json::json;

use super::lab::Lab;
use super::node::Node;
use super::process::Component;
use super::{http, identity, wait};

/// A running agent.
pub(crate) struct Agent {
    /// Where it serves `/metrics` and `/readyz`.
    pub(crate) metrics_address: SocketAddr,
    topology: PathBuf,
    flags: Vec<String>,
    component: Component,
}

impl Agent {
    /// Starts it and waits until it is ready. `flags` come last.
    pub(crate) async fn start(lab: &Lab, node: &Node, topology: &str, flags: &[&str]) -> Self {
        let mut agent = Self::launch(lab, node, "agent", topology, flags).await;
        agent.wait_until_ready().await;
        agent
    }

    /// Starts one of that name (several can be on one node) and does not wait.
    pub(crate) async fn launch(lab: &Lab, node: &Node, name: &str, topology: &str, flags: &[&str]) -> Self {
        let nodes: Api<NodeObject> = Api::all(lab.client.clone());
        let uid = nodes.get(&node.name).await.expect("the node is registered").metadata.uid;
        let bound = json!({"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": uid});
        let token = identity::token(&lab.client, "packhorse-system", "packhorse-agent", Some(bound)).await;
        let user = format!("{name}-{}", node.name);
        let kubeconfig = identity::write_kubeconfig(&lab.directory, &user, &lab.url(), &token);
        let topology_file = node.directory.join(format!("{name}.yaml"));
        identity::write(&topology_file, topology);
        let metrics_address = lab.free_address();
        let text = |path: &Path| path.display().to_string();
        let mut all: Vec<String> = ["agent", "--node-name", &node.name].map(str::to_owned).to_vec();
        for (flag, value) in [
            ("--kubeconfig", text(&kubeconfig)),
            ("--gpu-backend", format!("fake:{}", text(&topology_file))),
            ("--kubelet-dir", text(&node.kubelet_dir)),
            ("--cdi-dir", text(&node.cdi_dir)),
            ("--state-dir", text(&node.state_dir)),
            ("--metrics-listen", metrics_address.to_string()),
        ] {
            all.extend([flag.to_owned(), value]);
        }
        all.extend(flags.iter().map(|&flag| flag.to_owned()));
        let program = Path::new(env!("CARGO_BIN_EXE_packhorse"));
        let component = Component::start(&user, &lab.directory, program, &all);
        Self { metrics_address, topology: topology_file, flags: all, component }
    }

    /// Until it says that it serves the kubelet.
    pub(crate) async fn wait_until_ready(&mut self) {
        wait::until("packhorse agent to answer 200 on /readyz", 60, async || {
            self.component.must_run();
            http::get(self.metrics_address, "/readyz").await.filter(|(status, _)| *status == 200)
        })
        .await;
    }

    /// Other devices from now on.
    pub(crate) fn set_topology(&self, text: &str) {
        identity::write(&self.topology, text);
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        self.component.kill();
    }

    /// Ends it as Kubernetes would; how it ended.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.component.stop().await
    }

    /// Starts it after its end. Does not wait.
    pub(crate) fn run(&mut self) {
        self.component.run(Path::new(env!("CARGO_BIN_EXE_packhorse")), &self.flags);
    }

    /// One value of its metrics: the sum over all series of the name whose labels contain each of `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, body) = http::get(self.metrics_address, "/metrics").await.expect("metrics are served");
        http::sum(&body, name, labels)
    }

    /// Waits until it has ended by itself; how.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        wait::until("packhorse agent to end by itself", 60, async || self.component.has_exited()).await
    }

    /// All it has logged.
    pub(crate) fn log(&self) -> String {
        self.component.log()
    }

    /// Its resident memory now, MiB.
    pub(crate) fn resident_mib(&self) -> f64 {
        self.component.resident_mib()
    }
}

/// A topology of `count` cards of 80 GiB.
pub(crate) fn cards(count: usize) -> String {
    let mut text = "v: 1\ndriver: \"580.95.05\"\ndevices:\n".to_owned();
    for index in 0..count {
        text += &format!(
            "- {{uuid: {}, model: NVIDIA A100-SXM4-80GB, memory: 81920, pci: \"0000:{:02x}:00.0\", numa: {}, minor: {index}, compute: \"8.0\"}}\n",
            uuid(index),
            7 + index,
            index % 2,
        );
    }
    text
}

/// The UUID of the card of that index in [`cards`].
pub(crate) fn uuid(index: usize) -> String {
    format!("GPU-00000000-0000-0000-0000-{:012}", index + 1)
}
