//! Nomination against the demo's API server: what a pod's status says afterwards, and how often it was written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::super::query::Query;
use super::super::shape::Shapes;
use super::super::{Settings as ExtenderSettings, Unfit};
use super::{Metrics, Nominator, Settings};
use crate::demo::api_server::{self, ApiServer};
use crate::gpu::parse::Rules;
use crate::kube_api::calls::{CallMetrics, Calls};
use crate::kube_api::node::NodeView;
use crate::kube_api::pod::PodView;
use crate::ledger::{self, Ledger};

const PATIENCE: Duration = Duration::from_secs(20);

/// An API server with nodes of one 40 GiB card each, a ledger that knows them, and a nominator at work.
struct World {
    api: ApiServer,
    ledger: Arc<Ledger>,
    nominator: Arc<Nominator>,
    running: tokio::task::JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl World {
    async fn new(nodes: Vec<Value>, settings: Settings) -> Self {
        let api = ApiServer::start(api_server::Settings::default()).await.unwrap();
        let ledger_settings = ledger::Settings { node_labels: true, ..ledger::Settings::default() };
        let ledger_settings = Arc::new(ArcSwap::from_pointee(ledger_settings));
        let ledger = Arc::new(Ledger::new(ledger_settings, ledger::Metrics::default()));
        let texts: Vec<String> = nodes.iter().map(Value::to_string).collect();
        let views: Vec<NodeView<'_>> = texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        ledger.replace_nodes(&views);
        ledger.replace_pods([]);
        let mut registry = Registry::default();
        let metrics = CallMetrics::new(&mut registry);
        let calls = Calls::new(api.client().unwrap(), Duration::from_secs(5), metrics);
        let settings = ExtenderSettings { nomination: settings, ..ExtenderSettings::default() };
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let nominator = Nominator::new(Arc::clone(&ledger), calls, settings, Metrics::new(&mut registry));
        let running = tokio::spawn(Arc::clone(&nominator).run());
        Self { api, ledger, nominator, running }
    }

    /// Creates a pending pod; gives it as the API server tells it.
    fn create(&self, name: &str, edit: impl FnOnce(&mut Value)) -> Value {
        let mut pod = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": [{
            "name": "main", "image": "cuda",
            "resources": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"cpu": "4"}},
        }]}});
        edit(&mut pod);
        (*self.api.objects().create("pods", pod).unwrap()).clone()
    }

    /// What filter does with a pod that fits none of so many nodes.
    fn unfit(&self, pod: &Value, nodes: usize) {
        let names: Vec<String> = (0..nodes).map(|n| format!("asked-{n}")).collect();
        self.unfit_on(pod, &names.iter().map(|name| &**name).collect::<Vec<_>>());
    }

    /// What filter does with a pod that fits none of these nodes.
    fn unfit_on(&self, pod: &Value, names: &[&str]) {
        let text = pod.to_string();
        let pod: PodView<'_> = serde_json::from_str(&text).unwrap();
        let query = Query::read(&pod, &Rules::default(), Default::default(), &Shapes::default());
        let query = query.unwrap().expect("a GPU pod");
        let asked: Vec<_> = names.iter().map(|name| (*name, None)).collect();
        self.nominator.note_unfit(&Unfit { record: &query.record, pod: &pod, asked: &asked });
    }

    fn nominated(&self, name: &str) -> Option<String> {
        let pod = self.api.objects().get("pods", "default", name)?;
        pod["status"]["nominatedNodeName"].as_str().map(ToOwned::to_owned)
    }

    async fn is_nominated(&self, name: &str, node: &str) {
        wait(&format!("{name} to be nominated for {node}"), || self.nominated(name).as_deref() == Some(node)).await;
    }

    /// How often the status of any pod was written.
    fn writes(&self) -> usize {
        self.api.requests().iter().filter(|entry| entry.resource == "pods/status").count()
    }

    async fn counted(&self, result: &'static str, times: u64) {
        let what = format!("{times} times {result}");
        wait(&what, || self.nominator.metrics.count(result) == times).await;
    }
}

async fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn node(name: &str, gpus: u32) -> Value {
    let device = |at: u32| {
        json!({"uuid": format!("GPU-{name}-{at}"), "index": at, "model": "NVIDIA A100-SXM4-40GB", "memory": 40_960,
               "cores": 100, "slots": 10, "numa": -1, "pci": format!("0000:{at:02x}:00.0"), "health": "healthy",
               "enforcement": "advisory"})
    };
    let devices: Vec<Value> = (0..gpus).map(device).collect();
    let inventory = json!({"v": 1, "ready": true, "driver": "580", "devices": devices}).to_string();
    json!({"metadata": {"name": name, "annotations": {"packhorse.dev/inventory": inventory}},
           "status": {"allocatable": {"cpu": "8", "memory": "64Gi"}}})
}

/// Nothing waits.
fn eager() -> Settings {
    Settings { settle_millis: 0, first_wait_seconds: 0, ..Settings::default() }
}

#[tokio::test]
async fn a_pod_goes_to_the_node_that_the_sample_missed() {
    let world = World::new(vec![node("empty-handed", 0), node("rare", 1)], eager()).await;
    let pod = world.create("p", |_| {});
    world.unfit(&pod, 100);
    world.is_nominated("p", "rare").await;
    world.counted("nominated", 1).await;
    assert_eq!(world.writes(), 1);
}

#[tokio::test]
async fn fewer_than_a_sample_were_all_there_are() {
    let world = World::new(vec![node("rare", 1)], eager()).await;
    let (whole, sampled) = (world.create("whole", |_| {}), world.create("sampled", |_| {}));
    world.unfit(&whole, 99);
    world.unfit(&sampled, 100);
    world.is_nominated("sampled", "rare").await;
    assert_eq!(world.nominated("whole"), None);
}

/// kube-scheduler heard of it first, asked, and was refused by a ledger that had not.
#[tokio::test]
async fn room_that_the_watch_tells_of_a_moment_later_is_found() {
    let world = World::new(vec![node("late", 0), node("refused-by-kube-scheduler", 1)], eager()).await;
    let pod = world.create("p", |_| {});
    world.unfit_on(&pod, &["late"]);
    world.counted("no_node", 1).await;
    let grown = node("late", 1).to_string();
    world.ledger.apply_node(&serde_json::from_str(&grown).unwrap());
    world.is_nominated("p", "late").await;
}

#[tokio::test]
async fn room_of_a_pod_that_came_and_went_is_found() {
    let world = World::new(vec![node("only", 1)], eager()).await;
    let (short, next) = (world.create("short-lived", |_| {}), world.create("next", |_| {}));
    world.unfit(&short, 100);
    world.is_nominated("short-lived", "only").await;
    // Bound and gone: the ledger is as it was before.
    world.api.objects().delete("pods", "default", "short-lived", Some(0)).unwrap();
    world.unfit_on(&next, &["only"]);
    world.counted("no_node", 1).await;
    world.is_nominated("next", "only").await;
}

#[tokio::test]
async fn nodes_that_kube_scheduler_would_refuse_are_passed_over() {
    let mut cordoned = node("a-cordoned", 1);
    cordoned["spec"] = json!({"unschedulable": true});
    let mut busy = node("b-busy", 1);
    busy["status"]["allocatable"]["cpu"] = json!("3");
    let mut right = node("d-right", 1);
    right["metadata"]["labels"] = json!({"pool": "gpu"});
    let world = World::new(vec![cordoned, busy, node("c-other-pool", 1), right], eager()).await;
    let pod = world.create("p", |pod| pod["spec"]["nodeSelector"] = json!({"pool": "gpu"}));
    world.unfit(&pod, 100);
    world.is_nominated("p", "d-right").await;
}

#[tokio::test]
async fn each_time_another_node_is_tried_and_then_the_pod_rests() {
    let world = World::new(vec![node("a", 1), node("b", 1)], eager()).await;
    let pod = world.create("p", |_| {});
    world.unfit(&pod, 100);
    world.is_nominated("p", "a").await;
    world.counted("nominated", 1).await;
    world.unfit(&pod, 100);
    world.is_nominated("p", "b").await;
    world.counted("nominated", 2).await;
    world.unfit(&pod, 100);
    world.counted("no_node", 1).await;
    // From now on it waits for long.
    let (other, writes) = (world.create("other", |_| {}), world.writes());
    world.unfit(&pod, 100);
    world.unfit(&other, 100);
    world.is_nominated("other", "a").await;
    assert_eq!(world.writes(), writes + 1, "only the other pod's");
}

#[tokio::test]
async fn a_pod_nominated_in_vain_waits_before_the_next_time() {
    let settings = Settings { first_wait_seconds: 1, ..eager() };
    let world = World::new(vec![node("a", 1), node("b", 1)], settings).await;
    let pod = world.create("p", |_| {});
    world.unfit(&pod, 100);
    world.counted("nominated", 1).await;
    let started = Instant::now();
    world.unfit(&pod, 100);
    world.unfit(&pod, 100);
    world.is_nominated("p", "b").await;
    assert!(started.elapsed() > Duration::from_millis(900), "after {:?}", started.elapsed());
    assert_eq!(world.writes(), 2);
}

#[tokio::test]
async fn two_pods_are_not_sent_to_one_place() {
    let world = World::new(vec![node("a", 1), node("b", 1)], eager()).await;
    let (first, second, third) = (world.create("1", |_| {}), world.create("2", |_| {}), world.create("3", |_| {}));
    world.unfit(&first, 100);
    world.unfit(&second, 100);
    world.unfit(&third, 100);
    world.counted("no_node", 1).await;
    let places = ["1", "2", "3"].map(|name| world.nominated(name));
    assert_eq!(places, [Some("a".to_owned()), Some("b".to_owned()), None]);
}

#[tokio::test]
async fn where_no_node_has_room_nothing_is_written_until_something_changes() {
    let world = World::new(vec![node("small", 1)], eager()).await;
    let two = |pod: &mut Value| pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = json!("2");
    let pod = world.create("p", two);
    world.unfit(&pod, 100);
    world.counted("no_node", 1).await;
    let (again, marker) = (world.create("again", two), world.create("marker", |_| {}));
    world.unfit(&again, 100);
    world.unfit(&marker, 100);
    world.is_nominated("marker", "small").await;
    assert_eq!(world.nominator.metrics.count("no_node"), 1, "not searched again for the like");
    let large = node("large", 2).to_string();
    world.ledger.apply_node(&serde_json::from_str(&large).unwrap());
    world.unfit(&pod, 100);
    world.is_nominated("p", "large").await;
}

#[tokio::test]
async fn pods_that_have_a_place_or_are_gone_are_left_alone() {
    let world = World::new(vec![node("a", 1), node("b", 1), node("c", 1), node("d", 1)], eager()).await;
    let waiting = world.create("waiting", |pod| pod["status"] = json!({"nominatedNodeName": "behind-victims"}));
    let bound = world.create("bound", |_| {});
    let mut seen = bound.clone();
    seen["spec"]["nodeName"] = json!("a");
    world.ledger.apply_pod(&serde_json::from_str(&seen.to_string()).unwrap());
    let gone = world.create("gone", |_| {});
    world.api.objects().delete("pods", "default", "gone", Some(0)).unwrap();
    let recreated = world.create("gone", |_| {});
    let marker = world.create("marker", |_| {});
    for pod in [&waiting, &bound, &gone, &marker] {
        world.unfit(pod, 100);
    }
    wait("the marker", || world.nominated("marker").is_some()).await;
    assert_eq!(world.nominated("waiting").as_deref(), Some("behind-victims"));
    assert_eq!(world.nominated("bound"), None);
    assert_ne!(recreated["metadata"]["uid"], gone["metadata"]["uid"]);
    assert_eq!(world.nominated("gone"), None, "another pod of the same name is not meant");
}

#[tokio::test]
async fn switched_off_it_takes_no_note() {
    for (enabled, notes) in [(false, 0), (true, 1)] {
        let world = World::new(vec![node("a", 1)], Settings { enabled, ..eager() }).await;
        world.running.abort();
        let pod = world.create("p", |_| {});
        world.unfit(&pod, 100);
        assert_eq!(super::WAITING - world.nominator.sender.capacity(), notes);
    }
}

#[test]
fn waits_grow_and_end() {
    let settings = Settings::default();
    let waits: Vec<u64> = (1..7).map(|n| settings.wait(n).as_secs()).collect();
    assert_eq!(waits, [2, 10, 50, 250, 600, 600]);
    assert_eq!(settings.wait(u32::MAX).as_secs(), 600);
}
