//! A small cluster in a ledger, an extender in front of it, and the JSON that kube-scheduler would send.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use packhorse::extender::{Extender, Metrics, NoteUnfit, Parts, Settings, Version, router};
use packhorse::kube_api::node::NodeView;
use packhorse::kube_api::pod::PodView;
use packhorse::ledger::{Ledger, NodeState};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tower::ServiceExt as _;

pub(crate) const GIB: u32 = 1024;

/// A node with `gpus` empty 80 GiB cards.
pub(crate) fn node(name: &str, gpus: usize) -> Value {
    node_with(name, gpus, 80 * GIB)
}

/// A node with `gpus` empty cards of `memory` MiB.
pub(crate) fn node_with(name: &str, gpus: usize, memory: u32) -> Value {
    let devices: Vec<Value> = (0..gpus)
        .map(|i| {
            json!({
                "uuid": device(name, i), "index": i, "model": "NVIDIA A100-SXM4-80GB", "memory": memory, "cores": 100,
                "slots": 10, "numa": 0, "pci": format!("0000:{i:02x}:00.0"), "health": "healthy",
                "enforcement": "advisory",
            })
        })
        .collect();
    let inventory = json!({"v": 1, "ready": true, "driver": "580.95.05", "devices": devices});
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "annotations": {"packhorse.dev/inventory": inventory.to_string()}},
        "status": {
            "allocatable": {"cpu": "96", "memory": "768Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// The UUID of a node's card.
pub(crate) fn device(node: &str, index: usize) -> String {
    format!("GPU-{node}-{index}")
}

/// A pod with one container `main` that has these limits.
pub(crate) fn pod(uid: &str, limits: &Value) -> Value {
    json!({
        "metadata": {"name": uid, "namespace": "ns", "uid": uid},
        "spec": {"priority": 0, "containers": [{"name": "main", "image": "cuda", "resources": {"limits": limits}}]},
        "status": {"phase": "Pending"},
    })
}

/// A pod that asks for one GPU's share of memory, in MiB.
pub(crate) fn share(uid: &str, memory: u32) -> Value {
    pod(uid, &json!({"nvidia.com/gpu": "1", "nvidia.com/gpumem": memory.to_string(), "packhorse.dev/gpu-cores": "0"}))
}

/// The same with a priority.
pub(crate) fn with_priority(mut pod: Value, priority: i32) -> Value {
    pod["spec"]["priority"] = json!(priority);
    pod
}

/// A pod that is bound to a card of a node and holds so much of its memory.
pub(crate) fn bound(uid: &str, priority: i32, node: &str, index: usize, memory: u32) -> Value {
    let mut pod = with_priority(share(uid, memory), priority);
    let uuid = device(node, index);
    let allocation = json!({"v": 1, "containers": {"main": [
        {"device": uuid, "memory": memory, "cores": 0, "enforcement": "advisory"},
    ]}});
    pod["spec"]["nodeName"] = json!(node);
    pod["status"]["phase"] = json!("Running");
    pod["metadata"]["annotations"] = json!({
        "packhorse.dev/allocation": allocation.to_string(), "devices.packhorse.dev/main": uuid,
    });
    pod
}

/// What kube-scheduler sends to `/filter` and `/prioritize`.
pub(crate) fn args(pod: &Value, names: &[&str]) -> Value {
    json!({"Pod": pod, "Nodes": null, "NodeNames": names})
}

/// What it sends to `/bind`.
pub(crate) fn binding(uid: &str, node: &str) -> Value {
    json!({"PodName": uid, "PodNamespace": "ns", "PodUID": uid, "Node": node})
}

/// The names in a filter's answer.
pub(crate) fn names(answer: &Value) -> Vec<String> {
    let names = answer["NodeNames"].as_array().expect("NodeNames is an array");
    names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// The host with each score of a prioritize answer, best first.
pub(crate) fn scores(answer: &Value) -> Vec<(i64, String)> {
    let mut scores: Vec<_> = answer
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| (entry["Score"].as_i64().unwrap(), entry["Host"].as_str().unwrap().to_owned()))
        .collect();
    scores.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    scores
}

/// An extender with a ledger.
pub(crate) struct World {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) extender: Arc<Extender>,
    pub(crate) settings: Arc<ArcSwap<Settings>>,
    /// How many requests reached the API server, where it is the silent one.
    pub(crate) api_calls: Arc<AtomicUsize>,
    clock: Arc<Mutex<Instant>>,
}

impl World {
    /// With an API server that no call may reach.
    pub(crate) fn new(nodes: &[Value]) -> Self {
        Self::with(nodes, None, None, None)
    }

    pub(crate) fn with(
        nodes: &[Value],
        client: Option<kube::Client>,
        api_version: Option<&str>,
        unfit: Option<NoteUnfit>,
    ) -> Self {
        let world = Self::before_lists(client, api_version, unfit);
        let texts: Vec<String> = nodes.iter().map(Value::to_string).collect();
        let views: Vec<NodeView<'_>> = texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        world.ledger.replace_nodes(&views);
        world.ledger.replace_pods([]);
        world
    }

    /// Before the ledger has seen the first lists.
    pub(crate) fn before_lists(
        client: Option<kube::Client>,
        api_version: Option<&str>,
        unfit: Option<NoteUnfit>,
    ) -> Self {
        let api_calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&api_calls);
        let silent = tower::service_fn(move |_: Request<kube::client::Body>| {
            counter.fetch_add(1, Ordering::SeqCst);
            let mut answer = Response::new(Full::<axum::body::Bytes>::default());
            *answer.status_mut() = StatusCode::FORBIDDEN;
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        let client = client.unwrap_or_else(|| kube::Client::new(silent, "default"));
        let ledger = Arc::new(Ledger::default());
        let clock = Arc::new(Mutex::new(Instant::now()));
        let mut parts = Parts::new(Arc::clone(&ledger), client, Metrics::new(&mut Registry::default()));
        parts.api_version = api_version.map(|version| version.parse::<Version>().unwrap());
        parts.unfit = unfit;
        let now = Arc::clone(&clock);
        parts.clock = Arc::new(move || *now.lock().unwrap());
        let settings = Arc::clone(&parts.settings);
        let world = Self { ledger, extender: Extender::new(parts), settings, api_calls, clock };
        // Several nodes tell more of a ranking than the one that is returned by default.
        world.set(|settings| settings.best_nodes = 16.try_into().unwrap());
        world
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = Settings::clone(&self.settings.load());
        change(&mut settings);
        self.settings.store(Arc::new(settings));
    }

    pub(crate) fn apply_pod(&self, pod: &Value) {
        self.ledger.apply_pod(&serde_json::from_str::<PodView<'_>>(&pod.to_string()).unwrap());
    }

    pub(crate) fn remove_pod(&self, pod: &Value) {
        self.ledger.remove_pod(&serde_json::from_str::<PodView<'_>>(&pod.to_string()).unwrap());
    }

    pub(crate) fn apply_node(&self, node: &Value) {
        self.ledger.apply_node(&serde_json::from_str::<NodeView<'_>>(&node.to_string()).unwrap());
    }

    pub(crate) fn pass(&self, time: Duration) {
        *self.clock.lock().unwrap() += time;
    }

    /// One call as it is on the wire.
    pub(crate) async fn post_text(&self, path: &str, body: impl Into<Body>) -> (StatusCode, String) {
        let request = Request::post(path).header("content-type", "application/json").body(body.into()).unwrap();
        let answer = router(Arc::clone(&self.extender)).oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// One call that must be answered with 200 and JSON.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        let (status, text) = self.post_text(path, body.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Filters as kube-scheduler asks, and once more with the fields in another order, which must make no difference.
    pub(crate) async fn filter(&self, pod: &Value, names: &[&str]) -> Value {
        let names = serde_json::to_string(names).unwrap();
        let (status, text) =
            self.post_text("/filter", format!(r#"{{"Pod":{pod},"Nodes":null,"NodeNames":{names}}}"#)).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["Error"], "", "{answer}");
        let (_, again) = self.post_text("/filter", format!(r#"{{ "NodeNames": {names}, "Pod": {pod} }}"#)).await;
        assert_eq!(again, text);
        answer
    }

    pub(crate) async fn prioritize(&self, pod: &Value, names: &[&str]) -> Value {
        self.post("/prioritize", &args(pod, names)).await
    }

    /// Memory booked on each card of a node.
    pub(crate) fn booked(&self, node: &str) -> Vec<u32> {
        let snapshot = self.ledger.node(node).expect("known").snapshot();
        match &snapshot.state {
            NodeState::Usable(node) => node.usage.iter().map(|usage| usage.memory).collect(),
            other => panic!("{node}: {other:?}"),
        }
    }
}
