//! Bind: one call, and never a device given out twice, whatever becomes of the call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use packhorse::demo::api_server::{ApiServer, Match, Settings as ServerSettings};
use serde_json::{Value, json};

use super::world::{GIB, World, binding, bound, device, names, node, pod, share};

/// An extender in front of a real HTTP API server that has these nodes and pods.
pub(crate) struct Bench {
    pub(crate) world: World,
    server: ApiServer,
}

impl Bench {
    pub(crate) async fn new(nodes: &[Value], pods: &[Value]) -> Self {
        let server = ApiServer::start(ServerSettings::default()).await.unwrap();
        let objects = server.objects();
        objects.create("namespaces", json!({"metadata": {"name": "ns"}})).ok();
        for node in nodes {
            objects.create("nodes", node.clone()).unwrap();
        }
        for pod in pods {
            objects.create("pods", pod.clone()).unwrap();
        }
        let mut config = kube::Config::new(server.url().parse().unwrap());
        config.default_retry = false;
        let world = World::with(nodes, Some(kube::Client::try_from(config).unwrap()), None, None);
        Self { world, server }
    }

    /// The pod as the API server has it; created pods get new UIDs there.
    pub(crate) fn pod(&self, name: &str) -> Value {
        Value::clone(&self.server.objects().get("pods", "ns", name).expect("exists"))
    }

    fn uid(&self, name: &str) -> String {
        self.pod(name)["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// Filters the pod as the API server has it, like kube-scheduler.
    pub(crate) async fn filter(&self, name: &str, nodes: &[&str]) -> Vec<String> {
        names(&self.world.filter(&self.pod(name), nodes).await)
    }

    pub(crate) async fn bind(&self, name: &str, node: &str) -> String {
        let mut body = binding(name, node);
        body["PodUID"] = json!(self.uid(name));
        self.world.post("/bind", &body).await["Error"].as_str().unwrap().to_owned()
    }

    /// How many requests of a kind the API server got.
    fn calls(&self, verb: &str, resource: &str) -> usize {
        self.server.requests().iter().filter(|entry| entry.verb == verb && entry.resource == resource).count()
    }
}

#[tokio::test]
async fn one_call_binds_and_annotates() {
    let bench = Bench::new(&[node("n1", 2)], &[share("p", 4 * GIB)]).await;
    assert_eq!(bench.filter("p", &["n1"]).await, ["n1"]);
    let before = bench.server.requests().len();
    assert_eq!(bench.bind("p", "n1").await, "");
    assert_eq!(bench.server.requests().len() - before, 1, "one call");

    let pod = bench.pod("p");
    assert_eq!(pod["spec"]["nodeName"], "n1");
    let annotations = &pod["metadata"]["annotations"];
    let uuid = annotations["devices.packhorse.dev/main"].as_str().unwrap();
    let allocation: Value = serde_json::from_str(annotations["packhorse.dev/allocation"].as_str().unwrap()).unwrap();
    assert_eq!(
        allocation,
        json!({"v": 1, "containers": {"main": [
            {"device": uuid, "memory": 4096, "cores": 0, "enforcement": "advisory"}
        ]}})
    );
    assert_eq!(bench.world.booked("n1").iter().sum::<u32>(), 4096);
    assert_eq!(bench.world.extender.holds(), 0, "the hold is gone");
    assert_eq!(bench.world.extender.metrics().calls.count("bind", "ok"), 1);
}

#[tokio::test]
async fn a_pod_never_filtered_here_costs_one_get() {
    let bench = Bench::new(&[node("n1", 1)], &[share("p", GIB), pod("plain", &json!({"cpu": "1"}))]).await;
    assert_eq!(bench.bind("p", "n1").await, "");
    assert_eq!(bench.calls("get", "pods"), 1);
    assert_eq!(bench.world.extender.metrics().lookups(), 1);
    assert_eq!(bench.world.booked("n1"), [GIB]);
    assert_eq!(bench.bind("plain", "n1").await, "", "a pod without GPUs is bound all the same");
    assert!(bench.pod("plain")["metadata"]["annotations"].get("packhorse.dev/allocation").is_none());
}

#[tokio::test]
async fn binding_again_is_a_success_on_the_same_node_and_an_error_elsewhere() {
    let bench = Bench::new(&[node("n1", 1), node("n2", 1)], &[share("p", GIB)]).await;
    bench.filter("p", &["n1", "n2"]).await;
    for _ in 0..3 {
        assert_eq!(bench.bind("p", "n1").await, "");
        assert_eq!(bench.world.booked("n1"), [GIB], "counted once");
    }
    let error = bench.bind("p", "n2").await;
    assert!(error.contains("already bound to node n1"), "{error}");
    assert_eq!((bench.world.booked("n1"), bench.world.booked("n2")), (vec![GIB], vec![0]));
    // The same once the watch has confirmed it.
    bench.world.apply_pod(&bench.pod("p"));
    let calls = bench.server.requests().len();
    assert_eq!(bench.bind("p", "n1").await, "");
    assert!(bench.bind("p", "n2").await.contains("already bound to node n1"));
    assert_eq!(bench.server.requests().len(), calls, "known without a call");
}

#[tokio::test]
async fn another_uid_is_another_pod() {
    let bench = Bench::new(&[node("n1", 1)], &[share("p", GIB)]).await;
    bench.filter("p", &["n1"]).await;
    let uid = bench.uid("p");
    bench.server.objects().delete("pods", "ns", "p", Some(0)).unwrap();
    bench.server.objects().create("pods", share("p", 2 * GIB)).unwrap();
    let mut body = binding("p", "n1");
    body["PodUID"] = json!(uid);
    let error = bench.world.post("/bind", &body).await["Error"].as_str().unwrap().to_owned();
    assert!(error.contains(&bench.uid("p")), "{error}");
    assert_eq!(bench.world.booked("n1"), [0]);
    assert!(bench.pod("p")["spec"].get("nodeName").is_none());
    // The recreated one is bound on its own account, and then not disturbed by the former's late bind.
    assert_eq!(bench.bind("p", "n1").await, "");
    assert_ne!(bench.world.post("/bind", &body).await["Error"], "");
    assert_eq!(bench.world.booked("n1"), [2 * GIB]);
    // A UID that belongs to another name is refused without a call.
    let calls = bench.server.requests().len();
    let mut body = binding("q", "n1");
    body["PodUID"] = json!(bench.uid("p"));
    assert_ne!(bench.world.post("/bind", &body).await["Error"], "");
    assert_eq!(bench.server.requests().len(), calls);
}

#[tokio::test]
async fn a_bind_that_certainly_failed_gives_the_devices_back() {
    let bench = Bench::new(&[node("n1", 1)], &[share("p", GIB), share("gone", GIB)]).await;
    bench.filter("p", &["n1"]).await;
    for code in [403, 422, 429] {
        bench.server.faults().fail_next(1, code, Match::of("create", "pods/binding"));
        assert_ne!(bench.bind("p", "n1").await, "", "{code}");
        assert_eq!(bench.world.booked("n1"), [0], "{code}");
    }
    bench.filter("gone", &["n1"]).await;
    let mut body = binding("gone", "n1");
    body["PodUID"] = json!(bench.uid("gone"));
    bench.server.objects().delete("pods", "ns", "gone", Some(0)).unwrap();
    let error = bench.world.post("/bind", &body).await["Error"].as_str().unwrap().to_owned();
    assert!(error.contains("no such pod"), "{error}");
    assert_eq!(bench.world.booked("n1"), [0]);
    assert_eq!(bench.bind("p", "n1").await, "", "and the next try succeeds");
}

#[tokio::test]
async fn a_pod_bound_by_somebody_else_meanwhile_is_not_ours() {
    let bench = Bench::new(&[node("n1", 1), node("n2", 1)], &[share("p", GIB), share("q", GIB)]).await;
    for name in ["p", "q"] {
        bench.filter(name, &["n1"]).await;
    }
    bench.server.objects().bind("ns", "p", &bench.uid("p"), "n2", &json!({})).unwrap();
    let error = bench.bind("p", "n1").await;
    assert!(error.contains("already bound to node n2"), "{error}");
    assert_eq!(bench.world.booked("n1"), [0]);
    // To the very node, but with other devices: bound it is, and the watch will tell what it holds.
    bench.server.objects().bind("ns", "q", &bench.uid("q"), "n1", &json!({})).unwrap();
    assert_eq!(bench.bind("q", "n1").await, "");
    assert_eq!(bench.world.booked("n1"), [0]);
}

#[tokio::test]
async fn an_answer_lost_after_the_write_is_a_success() {
    let bench = Bench::new(&[node("n1", 1)], &[share("p", GIB)]).await;
    bench.filter("p", &["n1"]).await;
    bench.server.faults().lose_next_binding_answer();
    assert_eq!(bench.bind("p", "n1").await, "");
    assert_eq!(bench.calls("create", "pods/binding"), 1);
    assert_eq!(bench.calls("get", "pods"), 1, "a GET has told");
    assert_eq!(bench.world.booked("n1"), [GIB]);
    assert_eq!(bench.world.extender.metrics().calls.count("bind", "unknown"), 1);
}

#[tokio::test]
async fn an_unknown_outcome_keeps_the_booking_until_it_is_told() {
    let bench = Bench::new(&[node("n1", 1), node("n2", 1)], &[share("p", 50 * GIB), share("q", 50 * GIB)]).await;
    let both = ["n1", "n2"];
    bench.filter("p", &both).await;
    bench.filter("q", &both).await;
    // The API server fails before it has written anything, which nobody can know.
    bench.server.faults().fail_next(1, 500, Match::of("create", "pods/binding"));
    let error = bench.bind("p", "n1").await;
    assert!(error.contains("outcome unknown"), "{error}");
    assert_eq!(bench.world.booked("n1"), [50 * GIB], "kept");
    assert_eq!(bench.filter("q", &["n1"]).await, [""; 0], "and refused to others");
    assert!(bench.bind("q", "n1").await.contains("no longer has room"));
    assert_eq!(bench.world.extender.metrics().conflicts(), 1);
    assert_eq!(bench.filter("p", &both).await, ["n1"], "the pod itself is sent where it may be bound already");
    let error = bench.bind("p", "n2").await;
    assert!(error.contains("earlier bind of the pod to node n1"), "{error}");
    assert_eq!(bench.world.booked("n2"), [0]);
    assert_eq!(bench.bind("p", "n1").await, "", "the second try succeeds with the same devices");
    assert_eq!(bench.world.booked("n1"), [50 * GIB]);
}

#[tokio::test]
async fn a_write_that_comes_after_the_timeout_is_still_counted() {
    let bench = Bench::new(&[node("n1", 1)], &[share("p", 50 * GIB)]).await;
    let extender_timeout = Duration::from_secs(1);
    let world = {
        let mut config = kube::Config::new(bench.server.url().parse().unwrap());
        config.default_retry = false;
        config.read_timeout = Some(extender_timeout / 4);
        World::with(&[node("n1", 1)], Some(kube::Client::try_from(config).unwrap()), None, None)
    };
    let pod = bench.pod("p");
    world.filter(&pod, &["n1"]).await;
    bench.server.faults().delay_bindings(extender_timeout);
    let mut body = binding("p", "n1");
    body["PodUID"] = pod["metadata"]["uid"].clone();
    let error = world.post("/bind", &body).await["Error"].as_str().unwrap().to_owned();
    assert!(error.contains("unknown"), "{error}");
    assert_eq!(world.booked("n1"), [50 * GIB]);
    // However the API server decides about a caller that hung up, the booking and the pod agree in the end.
    bench.server.faults().delay_bindings(Duration::ZERO);
    assert_eq!(world.post("/bind", &body).await["Error"], "");
    assert_eq!(bench.pod("p")["spec"]["nodeName"], "n1");
    assert_eq!(world.booked("n1"), [50 * GIB]);
}

#[tokio::test]
async fn simultaneous_binds_never_oversubscribe() {
    // Room for 8 of 40, on two nodes with two cards each.
    let pods: Vec<Value> = (0..40).map(|i| share(&format!("p{i}"), 35 * GIB)).collect();
    let bench = Arc::new(Bench::new(&[node("n1", 2), node("n2", 2)], &pods).await);
    for i in 0..40 {
        bench.filter(&format!("p{i}"), &["n1", "n2"]).await;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..40 {
        let bench = Arc::clone(&bench);
        tasks.spawn(async move { bench.bind(&format!("p{i}"), if i % 2 == 0 { "n1" } else { "n2" }).await });
    }
    let results = tasks.join_all().await;
    assert_eq!(results.iter().filter(|error| error.is_empty()).count(), 8, "{results:?}");
    assert!(results.iter().all(|error| error.is_empty() || error.contains("no longer has room")));
    let mut held: BTreeMap<String, u64> = BTreeMap::new();
    for i in 0..40 {
        let pod = bench.pod(&format!("p{i}"));
        if let Some(text) = pod["metadata"]["annotations"]["packhorse.dev/allocation"].as_str() {
            let allocation: Value = serde_json::from_str(text).unwrap();
            for share in allocation["containers"]["main"].as_array().unwrap() {
                *held.entry(share["device"].as_str().unwrap().to_owned()).or_default() +=
                    share["memory"].as_u64().unwrap();
            }
        }
    }
    assert_eq!(held.len(), 4);
    assert!(held.values().all(|memory| *memory <= u64::from(80 * GIB)), "{held:?}");
}

/// Counted as booked and as held, it would drive the next pod away from a node that has room.
#[tokio::test]
async fn a_pod_is_counted_once_while_its_bind_is_under_way() {
    let bench = Bench::new(&[node("n1", 1)], &[share("p", GIB)]).await;
    bench.filter("p", &["n1"]).await;
    assert_eq!(bench.world.extender.holds(), 1);
    bench.server.faults().delay_bindings(Duration::from_secs(3));
    let under_way = tokio::time::timeout(Duration::from_secs(1), bench.bind("p", "n1")).await;
    assert!(under_way.is_err(), "the API server takes its time");
    assert_eq!(bench.world.booked("n1"), [GIB]);
    assert_eq!(bench.world.extender.holds(), 0);
}

#[tokio::test]
async fn simultaneous_binds_of_one_pod_are_one_bind() {
    let bench = Arc::new(Bench::new(&[node("n1", 1), node("n2", 1)], &[share("p", GIB)]).await);
    bench.filter("p", &["n1", "n2"]).await;
    bench.server.faults().delay_bindings(Duration::from_millis(100));
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..10 {
        let bench = Arc::clone(&bench);
        let node = if i == 9 { "n2" } else { "n1" };
        tasks.spawn(async move { (node, bench.bind("p", node).await) });
    }
    let results = tasks.join_all().await;
    let at = bench.pod("p")["spec"]["nodeName"].as_str().unwrap().to_owned();
    for (node, error) in results {
        assert_eq!(error.is_empty(), node == at, "{node}: {error}");
    }
    assert_eq!(bench.calls("create", "pods/binding"), 1);
}

#[tokio::test]
async fn a_caller_that_hangs_up_does_not_leave_a_bind_half_done() {
    let bench = Bench::new(&[node("n1", 1)], &[share("p", GIB)]).await;
    bench.filter("p", &["n1"]).await;
    bench.server.faults().delay_bindings(Duration::from_millis(200));
    let hung_up = tokio::time::timeout(Duration::from_millis(50), bench.bind("p", "n1")).await;
    assert!(hung_up.is_err());
    bench.server.faults().delay_bindings(Duration::ZERO);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while bench.world.extender.metrics().calls.count("bind", "ok") == 0 {
        assert!(tokio::time::Instant::now() < deadline, "the bind runs to its end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(bench.pod("p")["spec"]["nodeName"], "n1");
    assert_eq!(bench.world.booked("n1"), [GIB]);
}

#[tokio::test]
async fn room_that_is_gone_or_promised_is_refused_at_bind() {
    let bench = Bench::new(&[node("n1", 1)], &[share("p", 50 * GIB)]).await;
    bench.filter("p", &["n1"]).await;
    let mut preemptor = share("high", 60 * GIB);
    preemptor["spec"]["priority"] = json!(100);
    preemptor["status"]["nominatedNodeName"] = json!("n1");
    bench.world.apply_pod(&preemptor);
    let error = bench.bind("p", "n1").await;
    assert!(error.contains("room promised"), "{error}");
    bench.world.remove_pod(&preemptor);
    bench.world.apply_pod(&bound("other", 0, "n1", 0, 70 * GIB));
    let error = bench.bind("p", "n1").await;
    assert!(error.contains("no longer has room for the pod: GPU memory exhausted"), "{error}");
    assert_eq!(bench.calls("create", "pods/binding"), 0, "no call is made for it");
    let error = bench.bind("p", "nowhere").await;
    assert!(error.contains("nowhere"), "{error}");
    assert_eq!(bench.world.booked("n1"), [70 * GIB]);
    assert_eq!(device("n1", 0), "GPU-n1-0");
}
