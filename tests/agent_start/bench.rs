//! A node with two cards, its agent's check, a stand-in kubelet and an API server; and pods as the extender binds them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use packhorse::agent::backend::Card;
use packhorse::agent::foreign::{Policy, Publication};
use packhorse::agent::identity::Identity;
use packhorse::agent::options::DeviceIdStrategy;
use packhorse::agent::pins::Pins;
use packhorse::agent::pods::{Pods, Source};
use packhorse::agent::specification::{Form, Settings, Specifications};
use packhorse::agent::standing::{Standing, StandingSender};
use packhorse::agent::start::{Metrics, Parts, Reason, Start, Starter};
use packhorse::agent::view::NodeView;
use packhorse::demo::api_server::{ApiServer, Match, Settings as Server};
use packhorse::gpu::device::{Device, Enforcement, Health};
use packhorse::kube_api::calls::{CallMetrics, Calls};
use prometheus_client::registry::Registry;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::kubelet::Kubelet;

pub(super) const GPU: &str = "nvidia.com/gpu";
/// MiB of each card.
pub(super) const MEMORY: u32 = 10_000;

/// `GPU-1` …
pub(super) fn uuid(number: usize) -> String {
    format!("GPU-{number}")
}

/// Cards 1 to `count` of [`MEMORY`] MiB.
pub(super) fn view(count: usize) -> NodeView {
    let device = |number: usize| Device {
        uuid: uuid(number).into(),
        index: u32::try_from(number).unwrap() - 1,
        model: "NVIDIA T4".into(),
        memory: MEMORY,
        cores: 100,
        slots: 10,
        numa: None,
        pci: format!("0000:0{number}:00.0").into(),
        health: Health::Healthy,
        enforcement: Enforcement::Advisory,
        links: Vec::new(),
        mig: None,
        parent: None,
        foreign: None,
    };
    let card = |number: usize| Card {
        uuid: uuid(number).into(),
        index: u32::try_from(number).unwrap() - 1,
        model: "NVIDIA T4".into(),
        memory: MEMORY,
        pci: format!("0000:0{number}:00.0").into(),
        numa: None,
        minor: u32::try_from(number).unwrap() - 1,
        compute: (7, 5),
        mig_capable: false,
        mig_mode: false,
        instances: Vec::new(),
        links: Vec::new(),
        clique: None,
    };
    NodeView {
        devices: (1..=count).map(device).collect(),
        cards: (1..=count).map(card).collect(),
        ..NodeView::default()
    }
}

/// Who publishes the inventory, in a test's hands.
#[derive(Debug, Default)]
pub(super) struct Publisher {
    pub(super) cordoned: Mutex<BTreeSet<Arc<str>>>,
    pub(super) away: AtomicBool,
    pub(super) calls: AtomicUsize,
}

#[tonic::async_trait]
impl Publication for Publisher {
    fn cordoned(&self) -> BTreeSet<Arc<str>> {
        self.cordoned.lock().unwrap().clone()
    }

    async fn published(&self) -> Result<(), String> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) { Err("no answer".to_owned()) } else { Ok(()) }
    }
}

/// One container of a pod under construction.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    /// `init`, `sidecar` or `app`.
    pub(super) kind: &'static str,
    pub(super) slots: Vec<&'static str>,
    /// Devices, by number.
    pub(super) devices: Vec<usize>,
    /// MiB and percent; `None`: whole.
    pub(super) share: Option<(u32, u16)>,
}

/// A container that gets `devices` and holds `slots`.
pub(super) fn container(name: &'static str, kind: &'static str, slots: &[&'static str], devices: &[usize]) -> Spec {
    Spec { name, kind, slots: slots.to_vec(), devices: devices.to_vec(), share: Some((1000, 10)) }
}

/// One app container `main` on one slot and one device.
pub(super) fn main(slot: &'static str, device: usize) -> Vec<Spec> {
    vec![container("main", "app", &[slot], &[device])]
}

impl Spec {
    /// A whole card each.
    pub(super) fn whole(mut self) -> Self {
        self.share = None;
        self
    }

    /// MiB, percent.
    pub(super) fn share(mut self, memory: u32, cores: u16) -> Self {
        self.share = Some((memory, cores));
        self
    }
}

/// A bound pod as the webhook and the extender leave it.
pub(super) fn pod(name: &str, containers: &[Spec]) -> Value {
    let (mut request, mut allocation) = (Map::new(), Map::new());
    let (mut init, mut apps) = (Vec::new(), Vec::new());
    for spec in containers {
        let count = spec.devices.len();
        let cores = spec.share.map_or(100, |(_, cores)| usize::from(cores)) * count;
        let limits = json!({"nvidia.com/gpu": count.to_string(), "packhorse.dev/gpu-cores": cores.to_string()});
        let mut written = json!({"name": spec.name, "image": "i", "resources": {"limits": limits, "requests": limits}});
        if spec.kind == "sidecar" {
            written["restartPolicy"] = "Always".into();
        }
        (if spec.kind == "app" { &mut apps } else { &mut init }).push(written);
        let (asked, share) = match spec.share {
            Some((memory, 0)) => (json!({"count": count, "memory": memory}), (memory, 0, false)),
            Some((memory, cores)) => {
                (json!({"count": count, "memory": memory, "cores": cores}), (memory, cores, false))
            }
            None => (json!({"count": count, "exclusive": true}), (MEMORY, 100, true)),
        };
        request.insert(spec.name.to_owned(), asked);
        let shares = spec.devices.iter().map(|device| {
            let (memory, cores, exclusive) = share;
            json!({"device": uuid(*device), "memory": memory, "cores": cores, "exclusive": exclusive, "enforcement": "advisory"})
        });
        allocation.insert(spec.name.to_owned(), shares.collect());
    }
    json!({
        "metadata": {"name": name, "namespace": "ns", "annotations": {
            "packhorse.dev/request": json!({"v": 1, "containers": request}).to_string(),
            "packhorse.dev/allocation": json!({"v": 1, "containers": allocation}).to_string(),
        }},
        "spec": {"nodeName": "n", "schedulerName": "packhorse", "initContainers": init, "containers": apps},
    })
}

/// The files and processes of one node. The agent can be killed and started again.
pub(super) struct Node {
    pub(super) directory: tempfile::TempDir,
    pub(super) api: ApiServer,
    pub(super) kubelet: Kubelet,
    pub(super) view: watch::Sender<Arc<NodeView>>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) policy: Policy,
    pub(super) form: Form,
    agent: Option<Agent>,
}

/// One life of the agent.
pub(super) struct Agent {
    pub(super) pods: Arc<Pods>,
    pub(super) pins: Arc<Pins>,
    pub(super) standing: Arc<StandingSender>,
    pub(super) metrics: Metrics,
    pub(super) start: Arc<Start>,
    _stop: DropGuard,
}

impl Node {
    /// With `cards` cards; the agent is not started.
    pub(super) async fn new(cards: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let api = ApiServer::start(Server::default()).await.unwrap();
        api.objects().create("namespaces", json!({"metadata": {"name": "ns"}})).unwrap();
        let kubelet = Kubelet::start(&directory.path().join("kubelet"));
        let view = watch::Sender::new(Arc::new(view(cards)));
        let publisher = Arc::default();
        Self { directory, api, kubelet, view, publisher, policy: Policy::Refuse, form: Form::Env, agent: None }
    }

    /// With two cards and a running agent whose first list is complete.
    pub(super) async fn ready() -> Self {
        let mut node = Self::new(2).await;
        node.boot().await;
        node
    }

    /// Starts the agent anew and waits until it knows the pods.
    pub(super) async fn boot(&mut self) {
        self.boot_blind();
        self.until("the first list", |agent| agent.pods.is_complete()).await;
    }

    /// Starts the agent anew and waits for nothing.
    pub(super) fn boot_blind(&mut self) {
        self.agent = None;
        let path = |name: &str| self.directory.path().join(name);
        let mut registry = Registry::default();
        let client = self.api.client().unwrap();
        let calls = Calls::new(client.clone(), Duration::from_secs(5), CallMetrics::new(&mut registry));
        let (pods, node) = (Arc::new(Pods::default()), Arc::<str>::from("n"));
        let pins = Arc::new(Pins::open(&path("state")).unwrap());
        let standing = Arc::new(StandingSender::new(Standing::default()));
        let metrics = Metrics::new(&mut registry);
        let stop = CancellationToken::new();
        let settings = Settings {
            cdi_dir: path("cdi"),
            host_dirs: Vec::new(),
            form: self.form,
            strategies: Vec::new(),
            device_ids: DeviceIdStrategy::Uuid,
            pass_device_specs: false,
            dev_root: "/".into(),
            mig_minors: path("mig-minors"),
        };
        let start = Arc::new(Start::new(Parts {
            node: Arc::clone(&node),
            view: self.view.subscribe(),
            pods: Arc::clone(&pods),
            source: Source::new(calls, Arc::clone(&node)),
            identity: Identity::new(&path("kubelet"), Duration::from_secs(2)),
            pins: Arc::clone(&pins),
            specifications: Arc::new(Specifications::new(settings).unwrap()),
            standing: Arc::clone(&standing),
            foreign: self.policy,
            publication: Arc::clone(&self.publisher) as Arc<dyn Publication>,
            metrics: metrics.clone(),
        }));
        tokio::spawn(Arc::clone(&pods).run(client, node, stop.clone()));
        tokio::spawn(Arc::clone(&start).run(stop.clone()));
        self.agent = Some(Agent { pods, pins, standing, metrics, start, _stop: stop.drop_guard() });
    }

    pub(super) fn agent(&self) -> &Agent {
        self.agent.as_ref().unwrap()
    }

    /// The API server no longer answers.
    pub(super) fn lose_api_server(&self) {
        self.api.faults().cut_watches();
        self.api.faults().fail_next(usize::MAX, 500, Match::any());
    }

    /// Creates a pod at the API server, admits it at the kubelet, and waits until the agent's watch has told of it. Gives the UID, and the
    /// CDI devices by container in the given order.
    pub(super) async fn bind(&self, name: &str, containers: &[Spec]) -> (String, Vec<String>) {
        self.bind_object(name, pod(name, containers), containers).await
    }

    /// The same for an object that a test has changed.
    pub(super) async fn bind_object(&self, name: &str, object: Value, containers: &[Spec]) -> (String, Vec<String>) {
        let uid = self.create(object);
        let named = self.admit(&uid, name, containers);
        self.until("the pod", |agent| agent.pods.get(&uid).is_some()).await;
        (uid, named)
    }

    /// Creates a pod at the API server alone.
    pub(super) fn create(&self, object: Value) -> String {
        let created = self.api.objects().create("pods", object).unwrap();
        created["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// Admits a pod at the kubelet alone.
    pub(super) fn admit(&self, uid: &str, name: &str, containers: &[Spec]) -> Vec<String> {
        containers.iter().map(|c| self.kubelet.admit(uid, name, c.name, c.kind == "init", &c.slots)).collect()
    }

    /// Deletes a pod at once and at the kubelet too; the checkpoint keeps it.
    pub(super) fn delete(&self, name: &str, uid: &str) {
        self.api.objects().delete("pods", "ns", name, Some(0)).unwrap();
        self.kubelet.end(uid);
    }

    /// The kubelet is about to start a container with these slots.
    pub(super) async fn prepare(&self, slots: &[&str]) -> Result<(), String> {
        let slots: Vec<String> = slots.iter().map(|slot| (*slot).to_owned()).collect();
        self.agent().start.prepare(GPU, &slots).await.map_err(|refusal| refusal.0)
    }

    /// What the runtime would give the container of that CDI device; `None` without a specification.
    pub(super) fn gets(&self, cdi: &str) -> Option<String> {
        gets(&self.directory.path().join("cdi"), cdi)
    }

    /// What is published of a refused pod.
    pub(super) fn refused(&self, uid: &str) -> Option<String> {
        self.agent().standing.borrow().refused.get(uid).map(|refused| refused.reason.clone())
    }

    pub(super) fn count(&self, reason: Reason) -> u64 {
        self.agent().metrics.refused(reason)
    }

    /// Waits for a condition.
    pub(super) async fn until(&self, what: &str, holds: impl Fn(&Agent) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !holds(self.agent()) {
            assert!(tokio::time::Instant::now() < deadline, "not within 20 s: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn gets(directory: &Path, cdi: &str) -> Option<String> {
    let text = std::fs::read_to_string(directory.join(format!("packhorse.dev-gpu_{cdi}.json"))).ok()?;
    let document: Value = serde_json::from_str(&text).unwrap();
    let env = document["devices"][0]["containerEdits"]["env"].as_array().unwrap().clone();
    let value = env.iter().find_map(|entry| entry.as_str().unwrap().strip_prefix("NVIDIA_VISIBLE_DEVICES="));
    value.map(str::to_owned)
}
