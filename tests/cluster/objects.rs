//! Nodes and pods as users and agents would write them.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::{Map, Value, json};

/// One device of an inventory.
pub(crate) fn device(uuid: &str, index: usize, model: &str, memory: u64) -> Value {
    json!({
        "uuid": uuid, "index": index, "model": model, "memory": memory, "cores": 100, "slots": 10, "numa": 0,
        "pci": format!("0000:{:02x}:00.0", 7 + index), "health": "healthy", "enforcement": "advisory",
    })
}

/// One MIG instance of an inventory.
pub(crate) fn mig_instance(uuid: &str, parent: &str, profile: &str, memory: u64, start: u64) -> Value {
    json!({
        "uuid": uuid, "index": 0, "parent": parent, "model": "NVIDIA A100-SXM4-80GB", "memory": memory, "cores": 100,
        "slots": 1, "numa": 0, "pci": "0000:07:00.0", "health": "healthy", "enforcement": "mig",
        "mig": {"profile": profile, "start": start, "size": 1},
    })
}

/// What an agent publishes of its node.
#[derive(Debug, Clone)]
pub(crate) struct GpuNode {
    pub(crate) name: String,
    pub(crate) devices: Vec<Value>,
    /// Millicores.
    pub(crate) cpu: u64,
    /// MiB.
    pub(crate) memory: u64,
    pub(crate) refused: Vec<Value>,
    pub(crate) labels: Map<String, Value>,
    pub(crate) taints: Vec<Value>,
    pub(crate) annotations: Map<String, Value>,
}

impl GpuNode {
    /// `count` cards of one model; the UUIDs are made from the node's name.
    pub(crate) fn new(name: &str, count: usize, model: &str, memory: u64) -> Self {
        let devices = (0..count).map(|index| device(&format!("GPU-{name}-{index}"), index, model, memory)).collect();
        Self {
            name: name.to_owned(),
            devices,
            cpu: 96_000,
            memory: 1 << 20,
            refused: Vec::new(),
            labels: Map::new(),
            taints: Vec::new(),
            annotations: Map::new(),
        }
    }

    /// With a label.
    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), json!(value));
        self
    }

    /// With a taint.
    pub(crate) fn taint(mut self, key: &str, effect: &str) -> Self {
        self.taints.push(json!({"key": key, "effect": effect}));
        self
    }

    /// The inventory annotation.
    pub(crate) fn inventory(&self) -> String {
        let mut inventory = json!({"v": 1, "ready": true, "driver": "580.95.05", "devices": self.devices});
        if !self.refused.is_empty() {
            inventory["refused"] = json!(self.refused);
        }
        inventory.to_string()
    }

    /// The node with inventory and totals, as it looks once agent and kubelet have written it.
    pub(crate) fn object(&self) -> Node {
        let cards = self.devices.iter().filter(|device| device.get("mig").is_none());
        let memory: u64 = cards.clone().filter_map(|device| device["memory"].as_u64()).sum();
        let slots: u64 = cards.clone().filter_map(|device| device["slots"].as_u64()).sum();
        let mut capacity = json!({
            "cpu": format!("{}m", self.cpu), "memory": format!("{}Mi", self.memory), "pods": "500",
            "nvidia.com/gpu": slots.to_string(),
            "packhorse.dev/gpu-memory": memory.to_string(),
            "packhorse.dev/gpu-cores": (cards.count() * 100).to_string(),
        });
        for instance in self.devices.iter().filter_map(|device| device["mig"]["profile"].as_str()) {
            let name = format!("nvidia.com/mig-{instance}");
            let count = capacity[&name].as_str().map_or(0, |count| count.parse::<u64>().expect("a count"));
            capacity[name] = json!((count + 1).to_string());
        }
        let mut annotations = self.annotations.clone();
        annotations.insert("packhorse.dev/inventory".to_owned(), json!(self.inventory()));
        let mut labels = self.labels.clone();
        labels.insert("kubernetes.io/hostname".to_owned(), json!(self.name));
        serde_json::from_value(json!({
            "metadata": {"name": self.name, "annotations": annotations, "labels": labels},
            "spec": {"taints": self.taints},
            "status": {
                "capacity": capacity.clone(), "allocatable": capacity,
                "conditions": [{"type": "Ready", "status": "True", "reason": "Lab", "message": "",
                    "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        }))
        .expect("a Node")
    }

    /// Creates it.
    pub(crate) async fn create(&self, client: &Client) {
        let nodes: Api<Node> = Api::all(client.clone());
        nodes
            .create(&PostParams::default(), &self.object())
            .await
            .unwrap_or_else(|error| panic!("node {} is not created: {error}", self.name));
    }
}

/// A pod with one container `main` and these limits.
pub(crate) fn pod(name: &str, limits: &Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": pod_spec(limits)})).expect("a Pod")
}

/// Only this node will do.
pub(crate) fn pin(pod: &mut Pod, node: &str) {
    let selector = [("kubernetes.io/hostname".to_owned(), node.to_owned())].into();
    pod.spec.as_mut().expect("a spec").node_selector = Some(selector);
}

/// The specification of a pod with one container `main` and these limits.
pub(crate) fn pod_spec(limits: &Value) -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "registry.example/app:1", "resources": {"limits": limits}}],
    })
}

/// A Deployment of such pods.
pub(crate) fn deployment(name: &str, replicas: u32, template: &Value) -> k8s_openapi::api::apps::v1::Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": template},
        },
    }))
    .expect("a Deployment")
}

/// `spec.schedulerName`.
pub(crate) fn scheduler_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or_default()
}

/// `spec.nodeName`.
pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref())
}

/// One annotation.
pub(crate) fn annotation<'pod>(pod: &'pod Pod, key: &str) -> Option<&'pod str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}
