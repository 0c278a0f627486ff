//! `packhorse inspect`, `top`, `check` and `cleanup` as people run them, against a cluster in the process.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as the tests do")]

mod check;
mod cleanup;
mod opinions;
mod pictures;
mod proxy;
mod top;
mod views;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use packhorse::demo::api_server::{ApiServer, Settings};
use serde_json::{Value, json};

/// A cluster, and a kubeconfig that leads there.
struct Live {
    api: ApiServer,
    directory: tempfile::TempDir,
}

/// A card of so many MiB.
fn device(uuid: &str, index: usize, memory: u32) -> Value {
    json!({
        "uuid": uuid, "index": index, "model": "NVIDIA A10", "memory": memory, "cores": 100, "slots": 10,
        "pci": format!("0000:{index:02x}:00.0"), "health": "healthy", "enforcement": "advisory",
    })
}

/// A node with these devices, as its agent and its kubelet leave it.
fn node(name: &str, devices: &[Value]) -> Value {
    let memory: u64 = devices.iter().map(|device| device["memory"].as_u64().unwrap()).sum();
    let inventory = json!({"v": 1, "ready": true, "driver": "580.95.05", "devices": devices});
    let amounts = json!({
        "cpu": "16", "memory": "64Gi", "pods": "110", "nvidia.com/gpu": (10 * devices.len()).to_string(),
        "packhorse.dev/gpu-memory": memory.to_string(), "packhorse.dev/gpu-cores": (100 * devices.len()).to_string(),
    });
    json!({
        "metadata": {"name": name, "annotations": {"packhorse.dev/inventory": inventory.to_string()}},
        "spec": {},
        "status": {"allocatable": &amounts, "capacity": amounts, "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// A pod that asks for so many MiB of one card, as the webhook leaves it.
fn share(name: &str, memory: u32) -> Value {
    let request = json!({"v": 1, "containers": {"main": {"count": 1, "memory": memory}}});
    let limits = json!({
        "nvidia.com/gpu": "1", "packhorse.dev/gpu-memory": memory.to_string(), "packhorse.dev/gpu-cores": "0",
    });
    json!({
        "metadata": {"name": name, "namespace": "default", "annotations": {"packhorse.dev/request": request.to_string()}},
        "spec": {
            "schedulerName": "packhorse",
            "containers": [{"name": "main", "image": "i", "resources": {"limits": &limits, "requests": limits}}],
        },
    })
}

/// The allocation of a pod of [`share`].
fn allocation(device: &str, memory: u32) -> String {
    let share = json!({"device": device, "memory": memory, "cores": 0, "enforcement": "advisory"});
    json!({"v": 1, "containers": {"main": [share]}}).to_string()
}

impl Live {
    async fn start() -> Self {
        let api = ApiServer::start(Settings::default()).await.unwrap();
        let live = Self { api, directory: tempfile::tempdir().unwrap() };
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: it\nclusters: [{{name: it, cluster: {{server: '{}'}}}}]\n\
             contexts: [{{name: it, context: {{cluster: it, user: it}}}}]\nusers: [{{name: it, user: {{}}}}]\n",
            live.api.url()
        );
        std::fs::write(live.kubeconfig(), config).unwrap();
        live
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    fn create(&self, kind: &str, object: Value) {
        self.api.objects().create(kind, object).unwrap();
    }

    /// A pod that is bound to a node and holds a part of a device.
    fn bound(&self, name: &str, node: &str, device: &str, memory: u32) {
        self.create("pods", share(name, memory));
        let annotations = json!({"packhorse.dev/allocation": allocation(device, memory)});
        self.api.objects().bind("default", name, "", node, &annotations).unwrap();
    }

    /// Runs the binary by this path with this kubeconfig in the environment.
    async fn run_as(&self, program: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).env("KUBECONFIG", self.kubeconfig()).env_remove("KUBERNETES_SERVICE_HOST");
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        self.run_as(Path::new(env!("CARGO_BIN_EXE_packhorse")), arguments).await
    }

    /// Standard output of a run that has to succeed.
    async fn said(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.said(&[arguments, &["-o", "json"]].concat()).await).unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
