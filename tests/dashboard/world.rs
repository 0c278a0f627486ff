//! A ledger with nodes and pods, and the page over it on a port of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use packhorse::dashboard::Dashboard;
use packhorse::ledger::Ledger;
use packhorse::serve;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The page, served.
pub(super) struct World {
    pub(super) ledger: Arc<Ledger>,
    pub(super) dashboard: Arc<Dashboard>,
    pub(super) address: SocketAddr,
    pub(super) stop: CancellationToken,
    served: JoinHandle<()>,
}

impl World {
    pub(super) async fn start(nodes: &[Value], pods: &[Value]) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), nodes, pods).await
    }

    pub(super) async fn start_at(address: SocketAddr, nodes: &[Value], pods: &[Value]) -> Self {
        let (ledger, stop) = (Arc::new(Ledger::default()), CancellationToken::new());
        let dashboard = Dashboard::new(Arc::clone(&ledger), Arc::default(), stop.clone());
        let texts: Vec<String> = nodes.iter().map(Value::to_string).collect();
        let views: Vec<_> = texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        ledger.replace_nodes(&views);
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Arc::clone(&dashboard).router();
        let served = tokio::spawn(serve::run(listener, None, router, stop.clone().cancelled_owned()));
        let world = Self { ledger, dashboard, address, stop, served };
        world.replace_pods(pods);
        world
    }

    pub(super) fn replace_pods(&self, pods: &[Value]) {
        let texts: Vec<String> = pods.iter().map(Value::to_string).collect();
        let views: Vec<_> = texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        self.ledger.replace_pods(&views);
    }

    pub(super) fn apply(&self, pod: &Value) {
        self.ledger.apply_pod(&serde_json::from_str(&pod.to_string()).unwrap());
    }

    pub(super) fn remove(&self, pod: &Value) {
        self.ledger.remove_pod(&serde_json::from_str(&pod.to_string()).unwrap());
    }

    pub(super) fn apply_node(&self, node: &Value) {
        self.ledger.apply_node(&serde_json::from_str(&node.to_string()).unwrap());
    }

    /// Ends the server; returns once its port is free.
    pub(super) async fn end(self) {
        self.stop.cancel();
        self.served.await.unwrap();
    }
}

/// A card as the inventory has it.
pub(super) fn card(node: &str, index: usize, model: &str, memory: u32) -> Value {
    json!({"uuid": uuid(node, index), "index": index, "model": model, "memory": memory, "cores": 100, "slots": 10, "numa": index / 4,
        "pci": format!("0000:{index:02x}:00.0"), "health": "healthy", "enforcement": "advisory"})
}

/// The UUID of a node's card.
pub(super) fn uuid(node: &str, index: usize) -> String {
    format!("GPU-{node}-{index}")
}

/// A node with these devices.
pub(super) fn node(name: &str, devices: &[Value]) -> Value {
    let inventory = json!({"v": 1, "ready": true, "driver": "580.95.05", "devices": devices});
    json!({"metadata": {"name": name, "annotations": {"packhorse.dev/inventory": inventory.to_string()}},
        "status": {"allocatable": {"cpu": "96", "memory": "768Gi"}, "conditions": [{"type": "Ready", "status": "True"}]}})
}

/// A node with so many cards of 80 GiB.
pub(super) fn a100s(name: &str, cards: usize) -> Value {
    let cards: Vec<Value> = (0..cards).map(|index| card(name, index, "NVIDIA A100-SXM4-80GB", 81_920)).collect();
    node(name, &cards)
}

/// A pod that waits, asking for a share of one GPU.
pub(super) fn pending(namespace: &str, name: &str, memory: u32) -> Value {
    let limits =
        json!({"nvidia.com/gpu": "1", "nvidia.com/gpumem": memory.to_string(), "packhorse.dev/gpu-cores": "0"});
    json!({
        "metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{namespace}-{name}"),
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "main", "image": "cuda", "resources": {"limits": limits}}]},
        "status": {"phase": "Pending"},
    })
}

/// A running pod that holds so much of a device.
pub(super) fn running(namespace: &str, name: &str, node: &str, device: &str, memory: u32, cores: u32) -> Value {
    let mut pod = pending(namespace, name, memory);
    let share = json!({"device": device, "memory": memory, "cores": cores, "enforcement": "advisory"});
    let allocation = json!({"v": 1, "containers": {"main": [share]}});
    pod["spec"]["nodeName"] = json!(node);
    pod["status"]["phase"] = json!("Running");
    pod["metadata"]["annotations"] =
        json!({"packhorse.dev/allocation": allocation.to_string(), "devices.packhorse.dev/main": device});
    pod
}
