//! A made-up cluster for the benchmarks: nodes of 8 GPUs, filled at random (always the same way) with pods of many sizes, so that
//! hardly two nodes are alike. Pods come and go by [`Cluster::arrive`] and [`Cluster::leave`], or because they were bound.

#![allow(
    missing_docs,
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    reason = "each benchmark uses some of it, and ends where it fails"
)]

pub mod object;
pub mod shape;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Bytes;
use axum::http::{Request, Response};
use http_body_util::Full;
use packhorse::extender::{Extender, Metrics, Parts};
use packhorse::gpu::fit::{Policies, place};
use packhorse::gpu::parse::Rules;
use packhorse::gpu::request::PodRequest;
use packhorse::kube_api::allocation::annotations;
use packhorse::kube_api::node::NodeView;
use packhorse::kube_api::pod::PodView;
use packhorse::kube_api::request::read_pod;
use packhorse::ledger::{Ledger, NodeState};
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use object::{Bound, CARDS};
use shape::{Rng, shape};

/// How many different pods there are.
pub const SHAPES: usize = 150;

/// How full the nodes are at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fill {
    /// No pod.
    Empty,
    /// Each node between a fifth and four fifths of its GPUs; each tenth node empty.
    Half,
    /// Each node between 85 and 100 %.
    NearlyFull,
}

/// What kind of cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    pub nodes: usize,
    /// Names of 40 characters, not of 14.
    pub long_names: bool,
    pub fill: Fill,
    /// How many different pods there are.
    pub shapes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 5_000, long_names: true, fill: Fill::Half, shapes: SHAPES }
    }
}

impl Options {
    pub fn names(&self) -> Vec<String> {
        let name = |i: usize| {
            if self.long_names {
                format!("gpu-worker-{i:05}.pool-a.cluster.internal")
            } else {
                format!("gpu-node-{i:05}")
            }
        };
        let names: Vec<String> = (0..self.nodes).map(name).collect();
        assert!(names.iter().all(|name| name.len() == if self.long_names { 40 } else { 14 }), "{:?}", names.first());
        names
    }
}

/// Told of each Binding, as it was sent to the API server.
pub type OnBind = Arc<dyn Fn(Bytes) + Send + Sync>;

/// A bound pod.
#[derive(Debug)]
struct Live {
    uid: String,
    shape: usize,
    node: String,
}

/// Who is where.
#[derive(Debug)]
struct Pods {
    rng: Rng,
    live: Vec<Live>,
    /// Cards' worth, of all pods.
    gpus: f64,
    next: usize,
}

/// A ledger with this many nodes, and the extender in front of it. The API server says yes to everything, at once.
pub struct Cluster {
    /// Fed by hand.
    pub ledger: Arc<Ledger>,
    /// To be measured.
    pub extender: Arc<Extender>,
    /// What both count.
    pub registry: Registry,
    /// All nodes.
    pub names: Vec<String>,
    requests: Vec<PodRequest>,
    /// Cards' worth, that pods keep to once it is reached.
    usual: f64,
    pods: Mutex<Pods>,
}

impl Cluster {
    /// Half full.
    pub fn new(nodes: usize) -> Self {
        Self::of(&Options { nodes, ..Options::default() }, None)
    }

    /// As a server finds it at its start: all nodes listed, and all pods.
    pub fn of(options: &Options, on_bind: Option<OnBind>) -> Self {
        let names = options.names();
        let ledger = Arc::new(Ledger::default());
        let mut relist = ledger.relist_nodes();
        for (index, name) in names.iter().enumerate() {
            let text = object::node(index, name);
            relist.apply(&serde_json::from_str::<NodeView<'_>>(&text).expect("a Node"));
        }
        relist.finish();
        let mut registry = Registry::default();
        let parts = Parts::new(Arc::clone(&ledger), client(on_bind), Metrics::new(&mut registry));
        let requests = (0..options.shapes.max(SHAPES)).map(|index| {
            let text = object::pod("", shape(index), None);
            let pod = serde_json::from_str::<PodView<'_>>(&text).expect("a Pod");
            read_pod(&Rules::default(), &pod).expect("a request").request
        });
        let pods = Pods { rng: Rng::new(7), live: Vec::new(), gpus: 0.0, next: 0 };
        let mut cluster = Self {
            extender: Extender::new(parts),
            registry,
            names,
            requests: requests.collect(),
            usual: 0.0,
            pods: Mutex::new(pods),
            ledger: Arc::clone(&ledger),
        };
        let mut relist = ledger.relist_pods();
        cluster.fill(options.fill, &mut |pod| relist.apply(pod));
        relist.finish();
        let usual = cluster.pods().gpus;
        cluster.usual = usual;
        cluster
    }

    fn fill(&self, fill: Fill, apply: &mut dyn FnMut(&PodView<'_>)) {
        let mut pods = self.pods();
        for name in &self.names {
            let part = match fill {
                // One pod a node, who all leave at once: what kinds come is known all the same.
                Fill::Empty => 0.001,
                Fill::Half if pods.rng.below(10) == 0 => 0.0,
                Fill::Half => 0.2 + 0.6 * pods.rng.unit(),
                Fill::NearlyFull => 0.85 + 0.15 * pods.rng.unit(),
            };
            let (before, mut tries) = (pods.gpus, 0);
            while pods.gpus < before + part * CARDS as f64 && tries < 12 {
                tries += 1;
                self.place(&mut pods, name, apply);
            }
        }
        if fill == Fill::Empty {
            while !pods.live.is_empty() {
                let last = pods.live.len() - 1;
                self.end(&mut pods, last);
            }
        }
    }

    /// Binds a pod of a random shape here, if it fits. Behind the extender's back.
    fn place(&self, pods: &mut Pods, name: &str, apply: &mut dyn FnMut(&PodView<'_>)) -> bool {
        let index = pods.rng.below(self.requests.len());
        let entry = self.ledger.node(name).expect("a node");
        let snapshot = entry.snapshot();
        let NodeState::Usable(node) = &snapshot.state else { panic!("node {name} has no usable inventory") };
        let wanted = shape(index);
        if node.cpu_left.is_some_and(|left| left < 1000 * i64::from(wanted.cpu)) {
            return false;
        }
        let Ok(placement) = place(node, &self.requests[index], Policies::default()) else { return false };
        pods.next += 1;
        let uid = uid(index, 0, pods.next);
        let annotations = annotations(&placement.allocation);
        bound(pods, uid, index, Bound { node: name, annotations: &annotations }, apply);
        true
    }

    fn end(&self, pods: &mut Pods, at: usize) {
        let pod = pods.live.swap_remove(at);
        pods.gpus -= shape(pod.shape).gpus();
        let text = object::pod(&pod.uid, shape(pod.shape), Some(Bound { node: &pod.node, annotations: &[] }));
        self.ledger.remove_pod(&serde_json::from_str::<PodView<'_>>(&text).expect("a Pod"));
    }

    fn end_any(&self, pods: &mut Pods) {
        if !pods.live.is_empty() {
            let at = pods.rng.below(pods.live.len());
            self.end(pods, at);
        }
    }

    fn pods(&self) -> MutexGuard<'_, Pods> {
        self.pods.lock().expect("no earlier panic")
    }

    /// A pod comes or goes, so that one node changes; the cluster stays as full as it is. `n` is not used twice.
    pub fn event(&self, n: usize) {
        let mut pods = self.pods();
        if n.is_multiple_of(2) || pods.gpus < self.usual {
            for _ in 0..50 {
                let at = pods.rng.below(self.names.len());
                if self.place(&mut pods, &self.names[at], &mut |pod| self.ledger.apply_pod(pod)) {
                    return;
                }
            }
        }
        self.end_any(&mut pods);
    }

    /// The watch shows a new pod, not bound yet.
    pub fn announce(&self, uid: &str) {
        let text = object::pod(uid, shape(shape_of(uid)), None);
        self.ledger.apply_pod(&serde_json::from_str::<PodView<'_>>(&text).expect("a Pod"));
    }

    /// The watch shows a pod bound, by this Binding; older pods end where there are more than usual.
    pub fn show_bound(&self, binding: &[u8]) {
        let binding: Value = serde_json::from_slice(binding).expect("a Binding");
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let uid = text(&binding["metadata"]["uid"]);
        let written = binding["metadata"]["annotations"].as_object().expect("annotations");
        let annotations: Vec<_> = written.iter().map(|(key, value)| (key.clone(), text(value))).collect();
        let node = text(&binding["target"]["name"]);
        let index = shape_of(&uid);
        let mut pods = self.pods();
        let bind = Bound { node: &node, annotations: &annotations };
        bound(&mut pods, uid, index, bind, &mut |pod| self.ledger.apply_pod(pod));
        // An empty cluster has a few pods once it is used.
        while pods.gpus > self.usual && pods.live.len() > 64 {
            self.end_any(&mut pods);
        }
    }

    /// How many pods are bound, and how many cards' worth they have.
    pub fn live(&self) -> (usize, f64) {
        let pods = self.pods();
        (pods.live.len(), pods.gpus)
    }

    /// What kube-scheduler sends to `/filter` about a pod of one shape.
    pub fn request(&self, uid: &str, shape: usize) -> Vec<u8> {
        request(uid, shape, &self.names)
    }
}

fn bound(pods: &mut Pods, uid: String, index: usize, bind: Bound<'_>, apply: &mut dyn FnMut(&PodView<'_>)) {
    let text = object::pod(&uid, shape(index), Some(bind));
    apply(&serde_json::from_str::<PodView<'_>>(&text).expect("a Pod"));
    pods.gpus += shape(index).gpus();
    pods.live.push(Live { uid, shape: index, node: bind.node.to_owned() });
}

/// 36 characters that tell the shape too. `part` keeps the numbers of several writers apart.
pub fn uid(shape: usize, part: usize, n: usize) -> String {
    format!("{shape:08x}-{part:04x}-4000-8000-{n:012x}")
}

fn shape_of(uid: &str) -> usize {
    uid.get(..8).and_then(|digits| usize::from_str_radix(digits, 16).ok()).expect("a UID that tells the shape")
}

/// An API server that says yes to everything.
fn client(on_bind: Option<OnBind>) -> kube::Client {
    let yes = tower::service_fn(move |request: Request<kube::client::Body>| {
        let on_bind = on_bind.clone();
        async move {
            if let Some(on_bind) = on_bind
                && request.uri().path().ends_with("/binding")
            {
                on_bind(request.into_body().collect_bytes().await.expect("a body"));
            }
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("{}")))
        }
    });
    kube::Client::new(yes, "default")
}

/// What kube-scheduler sends to `/filter` about some nodes.
pub fn request(uid: &str, index: usize, names: &[String]) -> Vec<u8> {
    request_of(&object::pod(uid, shape(index), None), names)
}

/// The same about any pod. The fields are in the order in which Go writes them.
pub fn request_of(pod: &impl std::fmt::Display, names: &[String]) -> Vec<u8> {
    let names = serde_json::to_string(names).expect("JSON");
    format!(r#"{{"Pod":{pod},"Nodes":null,"NodeNames":{names}}}"#).into_bytes()
}

/// A pod as kube-scheduler sends it after admission.
pub fn pending(uid: &str, index: usize) -> Value {
    serde_json::from_str(&object::pod(uid, shape(index), None)).expect("a Pod")
}

/// What kube-scheduler sends to `/bind`.
pub fn binding(uid: &str, node: &str) -> Vec<u8> {
    json!({"PodName": uid, "PodNamespace": "team-a", "PodUID": uid, "Node": node}).to_string().into_bytes()
}
