use serde_json::Value;

use super::*;
use crate::agent::devices::HealthChange;
use crate::agent::pods::{Origin, Pods};
use crate::demo::api_server::{self, ApiServer, Match};
use crate::gpu::allocation::{Allocation, ContainerAllocation, Share};
use crate::gpu::device::{Enforcement, Health};
use crate::kube_api::calls::CallMetrics;

struct World {
    api: ApiServer,
    events: Events,
    stop: tokio_util::sync::DropGuard,
}

impl World {
    async fn new() -> Self {
        let api = ApiServer::start(api_server::Settings::default()).await.unwrap();
        for name in ["default", "team"] {
            // The server has `default` already, or not.
            api.objects().create("namespaces", serde_json::json!({"metadata": {"name": name}})).ok();
        }
        let mut registry = Registry::default();
        let metrics = CallMetrics::new(&mut registry);
        let calls = Calls::new(api.client().unwrap(), Duration::from_secs(5), metrics);
        let (events, mut writer) = Events::new(&calls, "node-1".into(), &mut registry);
        writer.pause = Duration::from_millis(1);
        let stop = CancellationToken::new();
        tokio::spawn(writer.run(stop.clone()));
        Self { api, events, stop: stop.drop_guard() }
    }

    /// All Events of a namespace, when there are as many.
    async fn written(&self, namespace: &str, count: usize) -> Vec<Arc<Value>> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let events = self.api.objects().list("events", namespace);
            if events.len() >= count {
                return events;
            }
            assert!(Instant::now() < deadline, "{events:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn notes(events: &[Arc<Value>]) -> Vec<&str> {
    let mut notes: Vec<_> = events.iter().map(|event| event["message"].as_str().unwrap()).collect();
    notes.sort_unstable();
    notes
}

fn pod(name: &str, device: &str) -> NodePod {
    let share =
        Share { device: device.into(), memory: 1, cores: 0, exclusive: false, enforcement: Enforcement::Advisory };
    NodePod {
        uid: format!("uid-{name}").into(),
        namespace: "team".into(),
        name: name.into(),
        node: "node-1".into(),
        ended: false,
        deleting: false,
        created: String::new(),
        containers: Vec::new(),
        running: Vec::new(),
        origin: Origin::Packhorse,
        request: Err(String::new()),
        allocation: Some(Ok(Allocation {
            containers: vec![ContainerAllocation { name: "main".into(), shares: vec![share] }],
        })),
        totals: (0, 0),
        slots: std::collections::BTreeMap::new(),
    }
}

#[tokio::test]
async fn the_nodes_events_name_it_as_kubectl_looks_for_it() {
    let world = World::new().await;
    world.events.node(EventKind::Warning, "GPUUnhealthy", "GPU-1: Xid 79");
    let events = world.written("default", 1).await;
    let event = &events[0];
    assert_eq!(
        event["involvedObject"],
        serde_json::json!({"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "node-1"})
    );
    assert_eq!((event["type"].as_str(), event["reason"].as_str()), (Some("Warning"), Some("GPUUnhealthy")));
    assert_eq!(event["reportingComponent"], "packhorse.dev/agent");
    assert_eq!(event["reportingInstance"], "node-1");
}

#[tokio::test]
async fn the_same_sentence_is_written_once() {
    let world = World::new().await;
    for note in ["one", "one", "two", "one"] {
        world.events.node(EventKind::Normal, "GPUHealthy", note);
    }
    world.events.node(EventKind::Normal, "GPUHealthy", "last");
    let events = world.written("default", 3).await;
    assert_eq!(notes(&events), ["last", "one", "two"]);
}

#[tokio::test]
async fn a_sentence_survives_an_api_server_that_fails_for_a_moment() {
    let world = World::new().await;
    world.api.faults().fail_next(2, 500, Match::of("create", "events"));
    world.events.node(EventKind::Normal, "GPUHealthy", "at last");
    assert_eq!(notes(&world.written("default", 1).await), ["at last"]);
    assert_eq!(world.api.faults().injected(), 2);
}

#[tokio::test]
async fn what_cannot_wait_is_dropped_and_counted() {
    let world = World::new().await;
    drop(world.stop);
    for number in 0..WAITING + 5 {
        world.events.node(EventKind::Normal, "GPUHealthy", &number.to_string());
    }
    assert!(world.events.dropped.get() >= 5);
}

#[tokio::test]
async fn pods_on_a_failed_device_are_told() {
    let world = World::new().await;
    let pods = Arc::new(Pods::default());
    let ended = NodePod { ended: true, ..pod("ended", "GPU-1") };
    pods.replace([pod("on-it", "GPU-1"), pod("beside", "GPU-2"), ended]);
    let (sender, changes) = tokio::sync::broadcast::channel(8);
    let stop = CancellationToken::new();
    let change = |device: &str, to| HealthChange {
        device: device.into(),
        from: Health::Recovering,
        to,
        cause: Some("Xid 79".into()),
    };
    sender.send(change("GPU-2", Health::Suspect)).unwrap();
    sender.send(change("GPU-1", Health::Unhealthy)).unwrap();
    // Ends when nobody can send any more.
    drop(sender);
    report_failures(changes, pods, world.events.clone(), stop).await;
    let events = world.written("team", 1).await;
    assert_eq!(notes(&events), ["GPU-1, allocated to main, is unhealthy: Xid 79"]);
    assert_eq!(events[0]["involvedObject"]["uid"], "uid-on-it");
}

#[test]
fn a_long_note_is_cut_between_characters() {
    let note = "é".repeat(1000);
    assert_eq!(shortened(&note).len(), 1024);
    assert_eq!(shortened(&format!("x{note}")).len(), 1023);
}
