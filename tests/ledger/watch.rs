//! The ledger behind its watches, against a real HTTP API server that fails on purpose.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use packhorse::demo::api_server::{ApiServer, Faults, Match, Objects, Rates, Settings as Server};
use packhorse::kube_api::allocation;
use packhorse::ledger::{BookingPod, Ledger, Metrics, NodeState, Settings};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::build::*;

/// A ledger that watches an API server; stops when dropped.
struct Cluster {
    api: ApiServer,
    ledger: Arc<Ledger>,
    watch: JoinHandle<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Cluster {
    /// Starts with node `n` of devices 1 and 2, and waits for nothing.
    async fn start(settings: Settings) -> Self {
        let server = Server { bookmark_every: Duration::from_millis(20), ..Server::default() };
        let api = ApiServer::start(server).await.unwrap();
        api.objects().create("namespaces", json!({"metadata": {"name": "ns"}})).unwrap();
        api.objects().create("nodes", node("n", &[1, 2])).unwrap();
        let ledger = Arc::new(Ledger::new(Arc::new(ArcSwap::from_pointee(settings)), Metrics::default()));
        let watch = tokio::spawn(Arc::clone(&ledger).watch(api.client().unwrap()));
        Self { api, ledger, watch }
    }

    async fn ready() -> Self {
        let cluster = Self::start(Settings::default()).await;
        cluster.eventually("ready", |ledger| ledger.is_ready()).await;
        // The watches are open when both have asked for one.
        let watches = |entry: &&packhorse::demo::api_server::Entry| entry.verb == "watch";
        until("the watches", || cluster.api.requests().iter().filter(watches).count() >= 2).await;
        cluster
    }

    fn objects(&self) -> Objects {
        self.api.objects()
    }

    fn faults(&self) -> Faults {
        self.api.faults()
    }

    fn count(&self, verb: &str, resource: &str) -> usize {
        self.api.requests().iter().filter(|entry| entry.verb == verb && entry.resource == resource).count()
    }

    /// Creates a pod of this name; its UID is the server's.
    fn create(&self, name: &str) -> String {
        let mut pod = pending("");
        pod["metadata"] = json!({"name": name, "namespace": "ns"});
        let created = self.objects().create("pods", pod).unwrap();
        created["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    fn bind(&self, name: &str, uid: &str, node: &str, device: usize) {
        let annotations: serde_json::Map<String, Value> =
            allocation::annotations(&share(device)).into_iter().map(|(key, value)| (key, json!(value))).collect();
        self.objects().bind("ns", name, uid, node, &Value::Object(annotations)).unwrap();
    }

    async fn eventually(&self, what: &str, holds: impl Fn(&Ledger) -> bool) {
        until(what, || holds(&self.ledger)).await;
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn used(ledger: &Ledger, device: usize) -> u32 {
    memory(ledger, "n", device)
}

#[tokio::test]
async fn follows_nodes_and_pods() {
    let cluster = Cluster::ready().await;
    let uid = cluster.create("a");
    cluster.bind("a", &uid, "n", 1);
    cluster.eventually("bound", |ledger| used(ledger, 1) == 1000).await;
    cluster.objects().delete("pods", "ns", "a", Some(30)).unwrap();
    cluster.eventually("terminating", |ledger| ledger.pod(&uid).is_some_and(|pod| pod.terminating)).await;
    assert_eq!(used(&cluster.ledger, 1), 1000, "a terminating pod counts");
    cluster.objects().delete("pods", "ns", "a", Some(0)).unwrap();
    cluster.eventually("gone", |ledger| used(ledger, 1) == 0).await;

    cluster.objects().create("nodes", node("m", &[3])).unwrap();
    cluster.eventually("a node more", |ledger| ledger.node("m").is_some()).await;
    let cordon = json!({"metadata": {"annotations": {"packhorse.dev/cordon": "GPU-3"}}});
    cluster.objects().patch("nodes", "", "m", &cordon).unwrap();
    cluster.eventually("a cordon", |ledger| usable(ledger, "m").cordoned == [true]).await;
    cluster.objects().delete("nodes", "", "m", Some(0)).unwrap();
    cluster.eventually("a node less", |ledger| ledger.node("m").is_none()).await;
    assert_eq!((cluster.count("list", "nodes"), cluster.count("list", "pods")), (1, 1));
    assert_eq!(cluster.count("get", "pods"), 0, "an end that was seen needs no GET");
}

#[tokio::test]
async fn is_not_ready_before_the_first_lists_and_reads_them_page_by_page() {
    let cluster = Cluster::start(Settings { page_size: 2, ..Settings::default() }).await;
    cluster.faults().fail_next(1, 500, Match::of("list", "pods"));
    for number in 0..5 {
        let uid = cluster.create(&format!("p{number}"));
        cluster.bind(&format!("p{number}"), &uid, "n", 1);
    }
    cluster.eventually("ready", |ledger| ledger.is_ready()).await;
    cluster.eventually("five pods", |ledger| used(ledger, 1) == 5000).await;
    assert!(cluster.count("list", "pods") >= 3, "{:?}", cluster.api.requests());
}

#[tokio::test]
async fn a_dropped_watch_goes_on_where_it_was() {
    let cluster = Cluster::ready().await;
    let uid = cluster.create("a");
    for round in 1..=3 {
        cluster.faults().cut_watches();
        let name = format!("b{round}");
        let other = cluster.create(&name);
        cluster.bind(&name, &other, "n", 2);
        cluster.eventually("the pod bound meanwhile", |ledger| used(ledger, 2) == round * 1000).await;
    }
    cluster.bind("a", &uid, "n", 1);
    cluster.eventually("bound", |ledger| used(ledger, 1) == 1000).await;
    assert_eq!((cluster.count("list", "nodes"), cluster.count("list", "pods")), (1, 1));
}

#[tokio::test]
async fn a_gone_version_means_a_list_and_a_pod_missing_from_it_is_asked_for() {
    let cluster = Cluster::ready().await;
    for (name, device) in [("stays", 1), ("goes", 2)] {
        let uid = cluster.create(name);
        cluster.bind(name, &uid, "n", device);
        cluster.eventually("bound", |ledger| used(ledger, device) == 1000).await;
    }
    // The ledger misses the deletion: its watch is held, and then cannot be continued.
    cluster.faults().hold_watches(true);
    cluster.faults().fail_next(3, 500, Match::of("get", "pods"));
    cluster.objects().delete("pods", "ns", "goes", Some(0)).unwrap();
    let recreated = cluster.create("goes");
    cluster.faults().compact();
    cluster.faults().hold_watches(false);
    until("a list", || cluster.count("list", "pods") >= 2).await;
    until("a GET that failed", || cluster.count("get", "pods") >= 2).await;
    assert_eq!(used(&cluster.ledger, 2), 1000, "kept while nobody answers");
    cluster.eventually("freed", |ledger| used(ledger, 2) == 0).await;
    assert!(cluster.count("get", "pods") >= 4, "three failed");
    assert_eq!(used(&cluster.ledger, 1), 1000);
    cluster.bind("goes", &recreated, "n", 2);
    cluster.eventually("the pod of the same name", |ledger| used(ledger, 2) == 1000).await;
}

#[tokio::test]
async fn a_watch_that_lags_behind_the_bind_takes_nothing_back() {
    let cluster = Cluster::ready().await;
    let uid = cluster.create("a");
    cluster.faults().hold_watches(true);
    let pod = BookingPod { name: "a".into(), ..booking(&uid) };
    cluster.ledger.book("n", &pod, |_| Ok((share(1), holdings(&share(1))))).unwrap();
    cluster.bind("a", &uid, "n", 1);
    cluster.faults().compact();
    cluster.faults().cut_watches();
    cluster.faults().hold_watches(false);
    cluster.eventually("confirmed", |ledger| ledger.pod(&uid).is_some_and(|pod| pod.confirmed)).await;
    assert_eq!(used(&cluster.ledger, 1), 1000);
}

#[tokio::test]
async fn an_unknown_bind_is_settled_by_a_get_while_the_watch_is_silent() {
    let cluster = Cluster::start(Settings { unknown_bind_seconds: 1, ..Settings::default() }).await;
    cluster.eventually("ready", |ledger| ledger.is_ready()).await;
    let (bound, unbound) = (cluster.create("bound"), cluster.create("unbound"));
    let gone = "5ec7f1d4-0000-4000-8000-000000000001";
    cluster.faults().hold_watches(true);
    for (uid, name) in [(&*bound, "bound"), (&*unbound, "unbound"), (gone, "gone")] {
        let pod = BookingPod { name: name.into(), ..booking(uid) };
        cluster.ledger.book("n", &pod, |_| Ok((share(1), holdings(&share(1))))).unwrap();
    }
    cluster.bind("bound", &bound, "n", 1);
    for uid in [&*bound, &*unbound, gone] {
        cluster.ledger.mark_unknown(uid);
    }
    cluster.eventually("all three settled", |ledger| ledger.unconfirmed() == 0).await;
    assert_eq!(used(&cluster.ledger, 1), 1000);
    assert!(cluster.ledger.pod(&bound).unwrap().confirmed);
    assert!(cluster.ledger.pod(&unbound).is_none() && cluster.ledger.pod(gone).is_none());
}

#[tokio::test]
async fn damage_becomes_one_event_on_the_object() {
    let cluster = Cluster::ready().await;
    let damage = json!({"metadata": {"annotations": {"packhorse.dev/inventory": "{"}}});
    cluster.objects().patch("nodes", "", "n", &damage).unwrap();
    let state = |ledger: &Ledger| ledger.node("n").unwrap().snapshot();
    cluster.eventually("damaged", |ledger| matches!(state(ledger).state, NodeState::Damaged)).await;
    let uid = cluster.create("a");
    let annotations = json!({"packhorse.dev/allocation": r#"{"v":2}"#});
    cluster.objects().bind("ns", "a", &uid, "n", &annotations).unwrap();
    // Seen again with the same text: told once.
    cluster.objects().patch("nodes", "", "n", &json!({"metadata": {"labels": {"x": "y"}}})).unwrap();
    until("two Events", || cluster.objects().list("events", "").len() == 2).await;
    let events = cluster.objects().list("events", "");
    let told = |kind: &str| events.iter().find(|event| event["involvedObject"]["kind"] == kind).unwrap();
    assert_eq!(told("Node")["reason"], "UnreadableInventory");
    let node = cluster.objects().get("nodes", "", "n").unwrap();
    assert_eq!(told("Node")["involvedObject"]["uid"], node["metadata"]["uid"]);
    let message = told("Pod")["message"].as_str().unwrap();
    assert!(message.contains("packhorse.dev/allocation: v: 2: unknown version"), "{message}");
    assert_eq!(told("Pod")["involvedObject"]["uid"], json!(uid));
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(cluster.objects().list("events", "").len(), 2, "a second round would have come by now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_goes_wrong_the_ledger_ends_up_right_and_never_short() {
    let cluster = Cluster::ready().await;
    cluster.objects().create("nodes", node("m", &[3])).unwrap();
    cluster.faults().set_rates(Rates {
        cut_watch: 0.1,
        delay_event: 0.2,
        event_delay: Duration::from_millis(20),
        expire_resume: 0.3,
        slow_answer: 0.2,
        answer_delay: Duration::from_millis(20),
        lose_answer: 0.0,
    });
    let mut live: Vec<(String, String)> = Vec::new();
    for step in 0..150_usize {
        let name = format!("p{step}");
        let uid = cluster.create(&name);
        let (node, device) = [("n", 1), ("n", 2), ("m", 3)][step % 3];
        // As a bind does: booked first, so that the ledger is never behind the API server.
        cluster.eventually("the node", |ledger| ledger.node(node).is_some()).await;
        let pod = BookingPod { name: name.as_str().into(), ..booking(&uid) };
        cluster.ledger.book(node, &pod, |_| Ok((share(device), holdings(&share(device))))).unwrap();
        cluster.bind(&name, &uid, node, device);
        live.push((name, uid));
        if step % 2 == 1 {
            let (name, _) = live.swap_remove(step % live.len());
            match step % 4 {
                1 => cluster.objects().delete("pods", "ns", &name, Some(0)).unwrap(),
                _ => drop(
                    cluster
                        .objects()
                        .patch_status("pods", "ns", &name, &json!({"status": {"phase": "Failed"}}))
                        .unwrap(),
                ),
            }
        }
        if step % 40 == 39 {
            cluster.faults().compact();
            cluster.faults().cut_watches();
        }
        for (_, uid) in &live {
            assert!(cluster.ledger.pod(uid).is_some(), "a live pod was forgotten at step {step}");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(cluster.faults().injected() > 10, "something did go wrong");
    cluster.faults().set_rates(Rates::default());
    let expected = live.len();
    let settled = |ledger: &Ledger| {
        ledger.unconfirmed() == 0 && ledger.pods().len() == expected && ledger.pods().iter().all(|pod| pod.confirmed)
    };
    cluster.eventually("the same pods", settled).await;
    let total = used(&cluster.ledger, 1) + used(&cluster.ledger, 2) + memory(&cluster.ledger, "m", 3);
    assert_eq!(total, u32::try_from(expected).unwrap() * 1000);
}

#[tokio::test]
async fn one_unreadable_object_does_not_hide_the_others() {
    let odd = json!({"metadata": {"name": "odd", "uid": "odd", "annotations": 7}});
    let list = |items: Value| json!({"metadata": {"resourceVersion": "5"}, "items": items}).to_string();
    let nodes = list(json!([odd, node("n", &[1])]));
    let pods = list(json!([odd, bound("a", "n", &share(1))]));
    let line = json!({"type": "ADDED", "object": {"metadata": {"name": 9}}}).to_string();
    let good = json!({"type": "ADDED", "object": bound("b", "n", &share(1))}).to_string();
    let events = format!("{line}\n{{\"type\":\"LATER\",\"object\":{{}}}}\n{good}\n");
    let answer = move |listed: String, events: String| {
        axum::routing::get(move |uri: axum::http::Uri| async move {
            if uri.query().is_some_and(|query| query.contains("watch=")) { events } else { listed }
        })
    };
    let router = axum::Router::new()
        .route("/api/v1/nodes", answer(nodes, String::new()))
        .route("/api/v1/pods", answer(pods, events));
    let ledger = Arc::new(Ledger::default());
    let watch = tokio::spawn(Arc::clone(&ledger).watch(client(router)));
    until("ready", || ledger.is_ready()).await;
    until("both pods", || memory(&ledger, "n", 1) == 2000).await;
    watch.abort();
}

#[tokio::test]
async fn a_silent_watch_is_given_up() {
    let watches = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = Arc::clone(&watches);
    let handler = move |uri: axum::http::Uri| {
        let watches = Arc::clone(&seen);
        async move {
            if !uri.query().is_some_and(|query| query.contains("watch=")) {
                return axum::body::Body::from(r#"{"metadata":{"resourceVersion":"5"},"items":[]}"#);
            }
            watches.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            axum::body::Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>())
        }
    };
    let router = axum::Router::new()
        .route("/api/v1/nodes", axum::routing::get(handler.clone()))
        .route("/api/v1/pods", axum::routing::get(handler));
    let settings = Settings { watch_seconds: 1, ..Settings::default() };
    let ledger = Arc::new(Ledger::new(Arc::new(ArcSwap::from_pointee(settings)), Metrics::default()));
    let watch = tokio::spawn(ledger.watch(client(router)));
    until("new watches after the silence", || watches.load(std::sync::atomic::Ordering::Relaxed) >= 4).await;
    watch.abort();
}

/// A client whose API server is a router in the process.
fn client(router: axum::Router) -> kube::Client {
    use tower::ServiceExt as _;
    let service =
        router.map_request(|request: axum::http::Request<kube::client::Body>| request.map(axum::body::Body::new));
    kube::Client::new(service, "default")
}
