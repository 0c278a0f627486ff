//! The agent's writes to its Node object, against an HTTP API server that fails on purpose. What only the real one knows, owners of
//! fields and who may write, is in `cluster/agent_node.rs`.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; the lint spares only the test functions themselves"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use packhorse::agent::backend::Card;
use packhorse::agent::events::Events;
use packhorse::agent::labels::host::Host;
use packhorse::agent::pods::Pods;
use packhorse::agent::publish::{Deploy, Metrics, Publisher, Settings, Sources};
use packhorse::agent::standing::{Standing, StandingSender};
use packhorse::agent::view::{MigStrategy, NodeView};
use packhorse::demo::api_server::{ApiServer, Match, Settings as Server};
use packhorse::gpu::device::{Device, Enforcement, ForeignPod, Health};
use packhorse::kube_api::calls::{CallMetrics, Calls};
use packhorse::kube_api::inventory;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

const NODE: &str = "n";

/// An agent's publisher and its sources; stops when dropped.
struct Agent {
    api: ApiServer,
    view: watch::Sender<Arc<NodeView>>,
    pods: Arc<Pods>,
    standing: Arc<StandingSender>,
    publisher: Arc<Publisher>,
    metrics: Metrics,
    _stop: DropGuard,
}

impl Agent {
    /// On a node that looks like this.
    async fn on(node: Value) -> Self {
        let api = ApiServer::start(Server::default()).await.unwrap();
        api.objects().create("nodes", node).unwrap();
        Self::start(api)
    }

    fn start(api: ApiServer) -> Self {
        let (view, receiver) = watch::channel(Arc::new(two_cards()));
        let pods = Arc::new(Pods::default());
        let standing = Arc::new(StandingSender::new(Standing::default()));
        let metrics = Metrics::new(&mut Registry::default());
        let settings = Settings {
            node: NODE.into(),
            host: Arc::new(Host::new(Path::new("/nonexistent"))),
            labels: [("gpu".to_owned(), "on".to_owned())].into(),
            operator: "none".parse().unwrap(),
        };
        let client = api.client().unwrap();
        let registry = &mut Registry::default();
        let calls = Calls::new(client.clone(), Duration::from_secs(5), CallMetrics::new(registry));
        let (events, writer) = Events::new(&calls, NODE.into(), registry);
        let sources = Sources { view: receiver, pods: Arc::clone(&pods), standing: Arc::clone(&standing), events };
        let publisher = Arc::new(Publisher::new(client, settings, sources, metrics.clone()));
        let stop = CancellationToken::new();
        tokio::spawn(writer.run(stop.clone()));
        tokio::spawn(Arc::clone(&publisher).run(stop.clone()));
        Self { api, view, pods, standing, publisher, metrics, _stop: stop.drop_guard() }
    }

    fn node(&self) -> Arc<Value> {
        self.api.objects().get("nodes", "", NODE).unwrap()
    }

    fn inventory(&self) -> Option<packhorse::gpu::device::Inventory> {
        let text = self.node()["metadata"]["annotations"]["packhorse.dev/inventory"].as_str().map(str::to_owned)?;
        Some(inventory::decode(&text).unwrap().value)
    }

    fn amounts(&self, list: &str) -> [Value; 2] {
        let amounts = &self.node()["status"][list];
        ["packhorse.dev/gpu-memory", "packhorse.dev/gpu-cores"].map(|name| amounts[name].clone())
    }

    fn patch(&self, patch: &Value) {
        self.api.objects().patch("nodes", "", NODE, patch).unwrap();
    }

    fn patch_status(&self, patch: &Value) {
        self.api.objects().patch_status("nodes", "", NODE, patch).unwrap();
    }

    fn ready(&self) {
        self.standing.send_modify(|standing| standing.ready = true);
    }

    fn fail(&self, device: usize, health: Health) {
        self.view.send_modify(|view| Arc::make_mut(view).devices[device].health = health);
    }

    fn writes(&self) -> usize {
        self.api.requests().iter().filter(|entry| entry.is_write() && entry.resource.starts_with("nodes")).count()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let started = Instant::now();
        while !holds(self) {
            assert!(started.elapsed() < Duration::from_secs(20), "not within 20 s: {what}; {:#}", self.node());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        started.elapsed()
    }

    /// Everything that two healthy cards and a ready agent call for.
    async fn settle(&self) {
        self.ready();
        self.until("ready", |agent| agent.inventory().is_some_and(|inventory| inventory.ready)).await;
        let totals = [json!("30720"), json!("200")];
        self.until("totals", |agent| agent.amounts("capacity") == totals && agent.amounts("allocatable") == totals)
            .await;
        self.until("labels", |agent| agent.node()["metadata"]["labels"]["gpu"] == "on").await;
    }
}

fn two_cards() -> NodeView {
    let devices = vec![device(1), device(2)];
    let cards = devices.iter().map(card).collect();
    let driver = "580.95.05".to_owned();
    NodeView { driver, cuda: Some((13, 0)), cards, devices, mig_strategy: MigStrategy::None, ..NodeView::default() }
}

fn device(number: u32) -> Device {
    Device {
        uuid: format!("GPU-{number}").into(),
        index: number - 1,
        model: "Tesla T4".into(),
        memory: 15360,
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
    }
}

fn card(device: &Device) -> Card {
    Card {
        uuid: Arc::clone(&device.uuid),
        index: device.index,
        model: Arc::clone(&device.model),
        memory: device.memory,
        pci: Arc::clone(&device.pci),
        numa: None,
        minor: device.index,
        compute: (7, 5),
        mig_capable: false,
        mig_mode: false,
        instances: Vec::new(),
        links: Vec::new(),
        clique: None,
    }
}

fn bare() -> Value {
    json!({"metadata": {"name": NODE, "labels": {"kubernetes.io/os": "linux"}}})
}

#[tokio::test]
async fn publishes_everything_and_then_writes_nothing_more() {
    let agent = Agent::on(bare()).await;
    agent.settle().await;
    let node = agent.node();
    assert_eq!(node["metadata"]["labels"]["nvidia.com/gpu.product"], "Tesla-T4");
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/os"], "linux");
    assert_eq!(agent.inventory().unwrap().devices, agent.view.borrow().devices);
    let mut totals = agent.publisher.totals_written();
    tokio::time::timeout(Duration::from_secs(5), totals.wait_for(|written| *written)).await.unwrap().unwrap();

    let (writes, version) = (agent.writes(), agent.node()["metadata"]["resourceVersion"].clone());
    // Heartbeats, other people's labels, a view that is rebuilt and is the same: nothing to write.
    for number in 0..5 {
        agent.patch_status(
            &json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": format!("{number}")}]}}),
        );
        agent.patch(&json!({"metadata": {"labels": {"other": number.to_string()}}}));
        agent.view.send_modify(|view| *view = Arc::new(NodeView::clone(view)));
        agent.standing.send_modify(|_| {});
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_ne!(agent.node()["metadata"]["resourceVersion"], version, "the others did write");
    assert_eq!(agent.writes(), writes, "an unchanged node gets no write");
}

#[tokio::test]
async fn a_failed_device_is_told_within_a_fraction_of_a_second_and_a_burst_is_one_write() {
    let agent = Agent::on(bare()).await;
    agent.settle().await;
    let writes = agent.metrics.writes("inventory", "ok");
    for _ in 0..50 {
        agent.fail(0, Health::Suspect);
        agent.fail(0, Health::Unhealthy);
    }
    let took = agent
        .until("failed", |agent| {
            agent.inventory().is_some_and(|inventory| inventory.devices[0].health == Health::Unhealthy)
        })
        .await;
    assert!(took < Duration::from_millis(1500), "{took:?}");
    assert!(agent.metrics.writes("inventory", "ok") <= writes + 2, "a burst is coalesced");
    assert_eq!(agent.amounts("capacity"), [json!("30720"), json!("200")], "a failed device stays in the totals");
}

#[tokio::test]
async fn what_somebody_resets_is_asserted_again() {
    let agent = Agent::on(bare()).await;
    agent.settle().await;
    agent.patch(&json!({"metadata": {"annotations": {"packhorse.dev/inventory": null}}}));
    agent.until("the inventory", |agent| agent.inventory().is_some()).await;
    // As a kubelet does that starts without a checkpoint.
    let zero = json!({"packhorse.dev/gpu-memory": "0", "packhorse.dev/gpu-cores": "0"});
    agent.patch_status(&json!({"status": {"capacity": zero, "allocatable": zero}}));
    agent.settle().await;
    // And as one does that registers its node anew.
    agent.api.objects().delete("nodes", "", NODE, Some(0)).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    agent.api.objects().create("nodes", bare()).unwrap();
    agent.settle().await;
}

#[tokio::test]
async fn what_was_confirmed_is_on_the_node() {
    let agent = Agent::on(bare()).await;
    agent.settle().await;
    let mut confirmed = agent.publisher.confirmed();
    agent.api.faults().delay(Duration::from_millis(300), Match::of("patch", "nodes"));
    let foreign = ForeignPod { pod: "ns/f".to_owned(), uid: "f".to_owned() };
    agent.standing.send_modify(|standing| {
        standing.foreign.insert("GPU-2".into(), foreign.clone());
    });
    let told = confirmed.wait_for(|confirmed| {
        confirmed.as_ref().is_some_and(|confirmed| confirmed.standing.foreign.contains_key("GPU-2"))
    });
    tokio::time::timeout(Duration::from_secs(5), told).await.expect("confirmed").unwrap();
    assert_eq!(agent.inventory().unwrap().devices[1].foreign, Some(foreign));
}

#[tokio::test]
async fn after_an_outage_the_newest_state_arrives() {
    let agent = Agent::on(bare()).await;
    agent.settle().await;
    let mut changes = agent.api.objects().observe();
    agent.api.faults().fail_next(4, 500, Match::of("patch", "nodes"));
    agent.api.faults().cut_watches();
    agent.fail(0, Health::Suspect);
    agent.until("a failed write", |agent| agent.metrics.writes("inventory", "unknown") >= 2).await;
    agent.fail(0, Health::Unhealthy);
    agent
        .until("the newest", |agent| {
            agent.inventory().is_some_and(|inventory| inventory.devices[0].health == Health::Unhealthy)
        })
        .await;
    while let Ok(change) = changes.try_recv() {
        assert!(!change.object.to_string().contains("suspect"), "what is outdated is not written");
    }
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_not_confirmed_before_the_node_shows_it() {
    let agent = Agent::on(bare()).await;
    agent.settle().await;
    agent.api.faults().lose_next_answers(1, Match::of("patch", "nodes"));
    agent.fail(1, Health::Unhealthy);
    let mut confirmed = agent.publisher.confirmed();
    let told = confirmed
        .wait_for(|confirmed| confirmed.as_ref().is_some_and(|confirmed| confirmed.inventory.contains("unhealthy")));
    tokio::time::timeout(Duration::from_secs(10), told).await.expect("confirmed by the watch").unwrap();
    assert_eq!(agent.inventory().unwrap().devices[1].health, Health::Unhealthy);
}

#[tokio::test]
async fn the_start_up_taint_goes_when_the_node_serves_and_no_other_with_it() {
    let taint = |key: &str| json!({"key": key, "effect": "NoSchedule"});
    let mut node = bare();
    node["spec"] = json!({"taints": [taint("first"), taint("packhorse.dev/not-ready"), taint("last")]});
    let agent = Agent::on(node).await;
    agent.until("not ready", |agent| agent.inventory().is_some()).await;
    agent.until("totals", |agent| agent.amounts("capacity")[1] == "200").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(agent.node()["spec"]["taints"].as_array().unwrap().len(), 3, "an agent that is not ready leaves it");
    agent.settle().await;
    agent.until("one less", |agent| agent.node()["spec"]["taints"] == json!([taint("first"), taint("last")])).await;
}

#[tokio::test]
async fn the_operators_labels_are_honoured() {
    let mut node = bare();
    node["metadata"]["labels"]["nvidia.com/gpu-driver-upgrade-state"] = json!("drain-required");
    let agent = Agent::on(node).await;
    let mut deploy = agent.publisher.deploy();
    let mut becomes = async |wanted: Deploy| {
        let told = deploy.wait_for(|deploy| *deploy == wanted);
        tokio::time::timeout(Duration::from_secs(5), told).await.expect("told").unwrap();
    };
    becomes(Deploy::Upgrade).await;
    agent.patch(&json!({"metadata": {"labels": {"nvidia.com/gpu-driver-upgrade-state": "upgrade-done"}}}));
    becomes(Deploy::Serve).await;
    agent.patch(&json!({"metadata": {"labels": {"nvidia.com/gpu.deploy.operands": "false"}}}));
    becomes(Deploy::Nothing).await;
}

#[tokio::test]
async fn nothing_is_written_before_the_node_is_there() {
    let api = ApiServer::start(Server::default()).await.unwrap();
    let agent = Agent::start(api);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(agent.writes(), 0);
    agent.pods.replace([]);
    agent.api.objects().create("nodes", bare()).unwrap();
    agent.settle().await;
}

#[tokio::test]
async fn a_foreign_pod_is_published_before_it_starts_and_cordoned_devices_are_known() {
    use packhorse::agent::foreign::Publication as _;

    let agent =
        Agent::on(json!({"metadata": {"name": NODE, "annotations": {"packhorse.dev/cordon": "GPU-7, GPU-8"}}})).await;
    agent.settle().await;
    let cordoned: Vec<_> = agent.publisher.cordoned().into_iter().collect();
    assert_eq!(cordoned, ["GPU-7", "GPU-8"].map(Arc::<str>::from));
    let device = Arc::clone(&agent.view.borrow().devices[0].uuid);
    let foreign = ForeignPod { pod: "ns/p".to_owned(), uid: "u".to_owned() };
    agent.standing.send_modify(|standing| drop(standing.foreign.insert(Arc::clone(&device), foreign.clone())));
    agent.publisher.published().await.unwrap();
    assert_eq!(agent.inventory().unwrap().devices[0].foreign, Some(foreign));
}
