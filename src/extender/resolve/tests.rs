//! Resolving against the demo's API server, with the time told by the test.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::super::Settings as ExtenderSettings;
use super::{Case, Metrics, Policy, Resolver, Settings};
use crate::demo::api_server::{self, ApiServer, Match};
use crate::kube_api::calls::{CallMetrics, Calls};
use crate::kube_api::node::NodeView;
use crate::kube_api::pod::PodView;
use crate::ledger::Ledger;

/// Nodes of one 40 GiB card, with pods bound by hand.
struct World {
    api: ApiServer,
    resolver: Arc<Resolver>,
    cases: HashMap<Arc<str>, Case>,
    started: Instant,
}

impl World {
    async fn new(policy: Policy) -> Self {
        let api = ApiServer::start(api_server::Settings::default()).await.unwrap();
        let mut registry = Registry::default();
        let metrics = CallMetrics::new(&mut registry);
        let calls = Calls::new(api.client().unwrap(), Duration::from_secs(5), metrics);
        let stranded = Settings { policy, ..Settings::default() };
        let settings = ExtenderSettings { stranded, ..ExtenderSettings::default() };
        let resolver = Resolver::new(
            Arc::default(),
            calls,
            Arc::new(ArcSwap::from_pointee(settings)),
            Metrics::new(&mut registry),
        );
        let world = Self { api, resolver, cases: HashMap::new(), started: Instant::now() };
        world.node("n", &[]);
        world
    }

    fn node(&self, name: &str, refused: &[Value]) {
        let device = json!({"uuid": format!("GPU-{name}"), "index": 0, "model": "NVIDIA A100-SXM4-40GB",
            "memory": 40_960, "cores": 100, "slots": 10, "numa": -1, "pci": "0000:07:00.0", "health": "healthy",
            "enforcement": "advisory"});
        let inventory = json!({"v": 1, "ready": true, "driver": "580", "devices": [device], "refused": refused});
        let annotations = json!({"packhorse.dev/inventory": inventory.to_string()});
        let objects = self.api.objects();
        if objects.get("nodes", "", name).is_some() {
            objects.patch("nodes", "", name, &json!({"metadata": {"annotations": annotations}})).unwrap();
        } else {
            objects.create("nodes", json!({"metadata": {"name": name, "annotations": annotations}})).unwrap();
        }
    }

    /// A pod bound to node `n` in that second, holding this of its card; gives its UID.
    fn bound(&self, name: &str, owned: bool, second: u32, share: &Value) -> String {
        let mut pod = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": [{
            "name": "main", "image": "cuda", "resources": {"limits": {"nvidia.com/gpu": "1"}},
        }]}});
        if owned {
            pod["metadata"]["ownerReferences"] = json!([{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "1", "controller": true,
            }]);
        }
        let objects = self.api.objects();
        let created = objects.create("pods", pod).unwrap();
        let uid = created["metadata"]["uid"].as_str().unwrap().to_owned();
        let allocation = json!({"v": 1, "containers": {"main": [share]}}).to_string();
        let annotations = json!({"packhorse.dev/allocation": allocation, "devices.packhorse.dev/main": "GPU-n"});
        objects.bind("default", name, &uid, "n", &annotations).unwrap();
        let condition = json!({"type": "PodScheduled", "status": "True",
            "lastTransitionTime": format!("2026-11-01T00:00:{second:02}Z")});
        objects.patch_status("pods", "default", name, &json!({"status": {"conditions": [condition]}})).unwrap();
        uid
    }

    /// One look through what the API server has, so many seconds after the start.
    async fn check_at(&mut self, seconds: u64) {
        let objects = self.api.objects();
        let texts = |kind: &str| objects.list(kind, "").iter().map(|object| object.to_string()).collect::<Vec<_>>();
        let (nodes, pods) = (texts("nodes"), texts("pods"));
        // A fresh ledger each time: what counts is what the API server says.
        let ledger = Arc::new(Ledger::default());
        ledger.replace_nodes(
            &nodes.iter().map(|text| serde_json::from_str(text).unwrap()).collect::<Vec<NodeView<'_>>>(),
        );
        ledger.replace_pods(&pods.iter().map(|text| serde_json::from_str(text).unwrap()).collect::<Vec<PodView<'_>>>());
        let resolver = Resolver {
            ledger,
            calls: self.resolver.calls.clone(),
            settings: Arc::clone(&self.resolver.settings),
            metrics: self.resolver.metrics.clone(),
        };
        resolver.check(&mut self.cases, self.started + Duration::from_secs(seconds)).await;
    }

    /// The pods that are not on their way out.
    fn staying(&self) -> Vec<String> {
        let pods = self.api.objects().list("pods", "default");
        let staying = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        staying.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    fn evictions(&self) -> usize {
        self.api.requests().iter().filter(|entry| entry.resource == "pods/eviction").count()
    }

    /// The notes of the Events about a pod.
    fn told(&self, pod: &str) -> Vec<String> {
        let events = self.api.objects().list("events", "default");
        let about = events.iter().filter(|event| event["involvedObject"]["name"] == pod);
        about.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
    }
}

fn whole() -> Value {
    json!({"device": "GPU-n", "memory": 40_960, "cores": 100, "exclusive": true, "enforcement": "advisory"})
}

fn part(memory: u32, cores: u32) -> Value {
    json!({"device": "GPU-n", "memory": memory, "cores": cores, "enforcement": "advisory"})
}

fn refused(name: &str, uid: &str, reason: &str) -> Value {
    json!({"pod": format!("default/{name}"), "uid": uid, "reason": reason})
}

#[tokio::test]
async fn the_later_of_two_is_evicted_after_a_minute() {
    let mut world = World::new(Policy::Evict).await;
    world.bound("a-later", true, 2, &whole());
    world.bound("b-earlier", true, 1, &whole());
    world.check_at(0).await;
    world.check_at(59).await;
    assert_eq!(world.staying(), ["a-later", "b-earlier"]);
    world.check_at(60).await;
    assert_eq!(world.staying(), ["b-earlier"]);
    assert_eq!(world.resolver.metrics.count("overlap", "evicted"), 1);
    let told = world.told("a-later");
    assert!(told.len() == 1 && told[0].contains("GPU-n") && told[0].contains("evicted"), "{told:?}");
    world.check_at(65).await;
    world.check_at(600).await;
    assert_eq!((world.evictions(), world.staying().len()), (1, 1), "what is leaving is left alone");
}

#[tokio::test]
async fn what_runs_already_is_told_about_and_never_evicted() {
    let mut world = World::new(Policy::Evict).await;
    world.bound("a-later", true, 2, &whole());
    world.bound("b-earlier", true, 1, &whole());
    let running = json!({"status": {"phase": "Running"}});
    world.api.objects().patch_status("pods", "default", "a-later", &running).unwrap();
    world.check_at(0).await;
    world.check_at(60).await;
    assert_eq!((world.evictions(), world.staying().len()), (0, 2));
    let told = world.told("a-later");
    assert!(told.len() == 1 && told[0].contains("runs already"), "{told:?}");
}

#[tokio::test]
async fn of_two_bound_in_one_second_the_greater_uid_loses() {
    let mut world = World::new(Policy::Evict).await;
    let mut uids: Vec<_> =
        ["a", "b", "c"].iter().map(|name| (world.bound(name, true, 7, &part(30_000, 0)), *name)).collect();
    uids.sort();
    world.check_at(0).await;
    world.check_at(60).await;
    assert_eq!(world.staying(), [uids[0].1]);
}

#[tokio::test]
async fn any_excess_counts_and_no_less() {
    for (case, shares, loser) in [
        ("memory", [part(30_000, 0), part(10_961, 0)], true),
        ("memory to the MiB", [part(30_000, 0), part(10_960, 0)], false),
        ("cores", [part(1, 60), part(1, 41)], true),
        ("cores to the percent", [part(1, 60), part(1, 40)], false),
        ("a whole card beside a share", [part(1, 1), whole()], true),
        ("a share beside a whole card", [whole(), part(1, 1)], true),
        (
            "alone beyond the card",
            [part(50_000, 0), json!({"device": "GPU-m", "memory": 1, "cores": 0, "enforcement": "advisory"})],
            false,
        ),
    ] {
        let mut world = World::new(Policy::Evict).await;
        for (at, share) in (0..).zip(&shares) {
            world.bound(["first", "second"][at as usize], true, at, share);
        }
        world.check_at(0).await;
        world.check_at(60).await;
        assert_eq!(world.staying(), if loser { vec!["first"] } else { vec!["first", "second"] }, "{case}");
    }
}

#[tokio::test]
async fn a_pod_without_a_controller_is_reported_once() {
    let mut world = World::new(Policy::Evict).await;
    world.bound("earlier", true, 1, &whole());
    world.bound("bare", false, 2, &whole());
    world.api.faults().fail_next(1, 500, Match::of("create", "events"));
    for at in [0, 60, 65, 600] {
        world.check_at(at).await;
    }
    assert_eq!((world.evictions(), world.staying().len()), (0, 2));
    let told = world.told("bare");
    assert!(told.len() == 1 && told[0].contains("GPU-n") && told[0].contains("no controller"), "{told:?}");
    assert_eq!(world.resolver.metrics.count("overlap", "reported"), 1);
    assert!(world.told("earlier").is_empty());
}

#[tokio::test]
async fn what_the_agent_refuses_goes_and_makes_room_for_the_other() {
    let mut world = World::new(Policy::Evict).await;
    let uid = world.bound("refused", true, 1, &whole());
    world.bound("beside", true, 2, &whole());
    let bare = world.bound("bare", false, 3, &part(1, 0));
    world.node("n", &[refused("refused", &uid, "device in use"), refused("bare", &bare, &"é".repeat(2_000))]);
    world.check_at(0).await;
    world.check_at(60).await;
    assert_eq!(world.staying(), ["bare", "beside"]);
    assert!(world.told("refused")[0].contains("device in use"));
    assert_eq!(world.told("bare").len(), 1, "however long the agent's words are");
    assert_eq!(world.resolver.metrics.count("refused", "evicted"), 1);
}

#[tokio::test]
async fn trouble_that_passes_begins_anew() {
    let mut world = World::new(Policy::Evict).await;
    let uid = world.bound("p", true, 1, &whole());
    world.node("n", &[refused("p", &uid, "device in use")]);
    world.check_at(0).await;
    world.node("n", &[]);
    world.check_at(50).await;
    world.node("n", &[refused("p", &uid, "device in use"), refused("p", "another-uid", "of long ago")]);
    world.check_at(60).await;
    world.check_at(119).await;
    assert_eq!(world.evictions(), 0);
    world.check_at(120).await;
    assert_eq!(world.evictions(), 1);
}

#[tokio::test]
async fn by_policy_pods_are_only_reported() {
    let mut world = World::new(Policy::Report).await;
    world.bound("earlier", true, 1, &whole());
    world.bound("later", true, 2, &whole());
    for at in [0, 60, 120] {
        world.check_at(at).await;
    }
    assert_eq!((world.evictions(), world.told("later").len()), (0, 1));
}

#[tokio::test]
async fn an_eviction_that_fails_is_tried_again_ever_more_rarely() {
    let mut world = World::new(Policy::Evict).await;
    world.bound("earlier", true, 1, &whole());
    world.bound("later", true, 2, &whole());
    world.api.faults().fail_next(2, 500, Match::of("create", "pods/eviction"));
    world.check_at(0).await;
    for (at, evictions) in [(60, 1), (74, 1), (75, 2), (104, 2), (105, 3)] {
        world.check_at(at).await;
        assert_eq!(world.evictions(), evictions, "after {at} s");
    }
    assert_eq!(world.staying(), ["earlier"]);
    assert_eq!(world.resolver.metrics.count("overlap", "failed"), 2);
    assert_eq!(world.told("later").len(), 2, "the failure and the eviction");
}

#[tokio::test]
async fn what_cannot_be_read_and_what_is_leaving_takes_nobodys_place() {
    let mut world = World::new(Policy::Evict).await;
    world.bound("unreadable", true, 1, &json!({"device": "GPU-n", "memory": "much"}));
    world.bound("leaving", true, 2, &whole());
    world.bound("p", true, 3, &whole());
    world.api.objects().delete("pods", "default", "leaving", Some(30)).unwrap();
    world.check_at(0).await;
    world.check_at(60).await;
    assert_eq!(world.staying(), ["p", "unreadable"]);
    assert_eq!(world.evictions(), 0);
}
