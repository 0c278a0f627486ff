//! A made-up cluster for the benchmarks: nodes of 8 GPUs with names of 40 characters, half full, and pods of many shapes.

#![allow(
    missing_docs,
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    reason = "each benchmark uses some of it, and ends where it fails"
)]

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::{Request, Response};
use http_body_util::Full;
use packhorse::extender::{Extender, Metrics, Parts};
use packhorse::kube_api::node::NodeView;
use packhorse::kube_api::pod::PodView;
use packhorse::ledger::Ledger;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

/// How many different pods there are.
pub const SHAPES: usize = 150;

/// A ledger with this many nodes, and the extender in front of it. The API server says yes to everything, at once.
pub struct Cluster {
    /// Fed by hand.
    pub ledger: Arc<Ledger>,
    /// To be measured.
    pub extender: Arc<Extender>,
    /// All nodes.
    pub names: Vec<String>,
}

impl Cluster {
    /// Every card of every second node, and every second card of the others, has a pod with half of its memory.
    pub fn new(nodes: usize) -> Self {
        let names: Vec<String> = (0..nodes).map(|i| format!("gpu-worker-{i:05}.pool-a.cluster.internal")).collect();
        assert!(names.iter().all(|name| name.len() == 40), "{:?}", names.first().map(String::len));
        let ledger = Arc::new(Ledger::default());
        ledger.replace_pods([]);
        let mut relist = ledger.relist_nodes();
        for name in &names {
            let text = node(name).to_string();
            relist.apply(&serde_json::from_str::<NodeView<'_>>(&text).expect("a Node"));
        }
        relist.finish();
        for (i, name) in names.iter().enumerate() {
            for card in (0..8).step_by(1 + i % 2) {
                let text = bound(name, card, 0).to_string();
                ledger.apply_pod(&serde_json::from_str::<PodView<'_>>(&text).expect("a Pod"));
            }
        }
        let yes = tower::service_fn(|_: Request<kube::client::Body>| {
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("{}"))))
        });
        let client = kube::Client::new(yes, "default");
        let parts = Parts::new(Arc::clone(&ledger), client, Metrics::new(&mut Registry::default()));
        Self { extender: Extender::new(parts), ledger, names }
    }

    /// A pod comes to a card or leaves it, so that one node changes: the `n`th such event.
    pub fn event(&self, n: usize) {
        let name = &self.names[n * 7919 % self.names.len()];
        let text = bound(name, n % 8, 1).to_string();
        let pod = serde_json::from_str::<PodView<'_>>(&text).expect("a Pod");
        if n.is_multiple_of(2) { self.ledger.apply_pod(&pod) } else { self.ledger.remove_pod(&pod) }
    }

    /// What kube-scheduler sends to `/filter` about a pod of one shape.
    pub fn request(&self, uid: &str, shape: usize) -> Vec<u8> {
        request(uid, shape, &self.names)
    }
}

/// What kube-scheduler sends to `/filter` about some nodes.
pub fn request(uid: &str, shape: usize, names: &[String]) -> Vec<u8> {
    request_of(&pending(uid, shape), names)
}

/// The same about any pod. The fields are in the order in which Go writes them.
pub fn request_of(pod: &Value, names: &[String]) -> Vec<u8> {
    let names = serde_json::to_string(names).expect("JSON");
    format!(r#"{{"Pod":{pod},"Nodes":null,"NodeNames":{names}}}"#).into_bytes()
}

fn uuid(node: &str, card: usize) -> String {
    format!("GPU-{node}-{card}")
}

fn node(name: &str) -> Value {
    let devices: Vec<Value> = (0..8)
        .map(|card| {
            let links: serde_json::Map<String, Value> = (0..8)
                .filter(|peer| *peer != card)
                .map(|peer| (uuid(name, peer), json!({"nvlink": 12, "pcie": "same-cpu"})))
                .collect();
            json!({
                "uuid": uuid(name, card), "index": card, "model": "NVIDIA A100-SXM4-80GB", "memory": 81920, "cores": 100,
                "slots": 10, "numa": card / 4, "pci": format!("0000:{card:02x}:00.0"), "health": "healthy",
                "enforcement": "advisory", "links": links,
            })
        })
        .collect();
    let inventory = json!({"v": 1, "ready": true, "driver": "580.95.05", "devices": devices});
    json!({
        "metadata": {"name": name, "annotations": {"packhorse.dev/inventory": inventory.to_string()}},
        "status": {"allocatable": {"cpu": "128", "memory": "1024Gi"}, "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn bound(node: &str, card: usize, round: usize) -> Value {
    let memory = if round == 0 { 40960 } else { 4096 };
    let allocation = json!({"v": 1, "containers": {"main": [
        {"device": uuid(node, card), "memory": memory, "cores": 0, "enforcement": "advisory"},
    ]}});
    let uid = format!("{node}-{card}-{round}");
    let mut pod = pod(&uid, &json!({"nvidia.com/gpu": "1", "nvidia.com/gpumem": memory.to_string(), "cpu": "4"}));
    pod["spec"]["nodeName"] = json!(node);
    pod["status"]["phase"] = json!("Running");
    pod["metadata"]["annotations"]["packhorse.dev/allocation"] = json!(allocation.to_string());
    pod
}

/// A pod as kube-scheduler sends it after admission: about 2 KB.
pub fn pending(uid: &str, shape: usize) -> Value {
    let memory = 1024 * (1 + shape % 30);
    let cores = 10 * (shape / 30);
    let mut pod = pod(
        uid,
        &json!({
            "cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1", "packhorse.dev/gpu-memory": memory.to_string(),
            "packhorse.dev/gpu-cores": cores.to_string(),
        }),
    );
    let mut request = json!({"count": 1, "memory": memory});
    if cores > 0 {
        request["cores"] = json!(cores);
    }
    let request = json!({"v": 1, "containers": {"main": request}});
    pod["metadata"]["annotations"]["packhorse.dev/request"] = json!(request.to_string());
    pod
}

fn pod(uid: &str, limits: &Value) -> Value {
    json!({
        "metadata": {
            "name": uid, "generateName": "worker-", "namespace": "team-a", "uid": uid, "resourceVersion": "123456",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "worker", "pod-template-hash": "5d9f7b8c4", "team": "a"},
            "annotations": {"kubernetes.io/config.seen": "2026-01-01T00:00:00Z"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "worker-5d9f7b8c4",
                "uid": "6c7b4a1e-0d3c-4a57-9f3d-0a52b3c1d2e4", "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "schedulerName": "packhorse", "priority": 0, "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default", "terminationGracePeriodSeconds": 30, "enableServiceLinks": true,
            "containers": [{
                "name": "main", "image": "registry.example.com/team-a/worker:1.2.3",
                "command": ["python", "-m", "worker"], "args": ["--batch", "32"],
                "resources": {"limits": limits, "requests": limits},
                "env": [
                    {"name": "NVIDIA_VISIBLE_DEVICES", "valueFrom": {"fieldRef": {
                        "apiVersion": "v1", "fieldPath": "metadata.annotations['devices.packhorse.dev/main']",
                    }}},
                    {"name": "MODE", "value": "production"},
                ],
                "volumeMounts": [{
                    "name": "kube-api-access", "readOnly": true,
                    "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                }],
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "imagePullPolicy": "IfNotPresent",
            }],
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists"},
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            ],
            "volumes": [{"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": []}}],
        },
        "status": {"phase": "Pending", "qosClass": "Guaranteed"},
    })
}
