//! The agent's writes to its Node object on the real API server, as the agent's own account with a token that is bound to its node:
//! what the account may do, who owns which label, and how soon the ledger knows. No kubelet runs.

#[path = "agent_node/operator.rs"]
mod operator;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::{SelfSubjectAccessReview, SubjectAccessReviewStatus};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use packhorse::agent::backend::Card;
use packhorse::agent::events::Events;
use packhorse::agent::labels::host::Host;
use packhorse::agent::pods::Pods;
use packhorse::agent::publish::{Metrics, Publisher, Settings, Sources};
use packhorse::agent::standing::{Standing, StandingSender};
use packhorse::agent::view::{MigStrategy, NodeView};
use packhorse::gpu::device::{Device, Enforcement, Health};
use packhorse::kube_api::calls::{CallMetrics, Calls};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::lab::{Lab, on_cluster};
use super::{http, objects, pods, wait};

const AGENT: &str = "system:serviceaccount:packhorse-system:packhorse-agent";
const PRODUCT: &str = "nvidia.com/gpu.product";

/// The part of an agent that writes the node; stops when dropped.
struct Agent {
    view: watch::Sender<Arc<NodeView>>,
    standing: Arc<StandingSender>,
    publisher: Arc<Publisher>,
    metrics: Metrics,
    _stop: DropGuard,
}

impl Agent {
    /// `client` says whose token it has, `node` where it writes.
    fn start(client: Client, node: &str, labels: &[(&str, &str)]) -> Self {
        Self::telling(client, node, labels, "none")
    }

    /// What it tells NVIDIA's GPU operator, as `--operator-labels` says it.
    fn telling(client: Client, node: &str, labels: &[(&str, &str)], operator: &str) -> Self {
        let (view, receiver) = watch::channel(Arc::new(two_cards(node)));
        let pods = Arc::new(Pods::default());
        pods.replace([]);
        let standing = Arc::new(StandingSender::new(Standing { ready: true, ..Standing::default() }));
        let metrics = Metrics::new(&mut Registry::default());
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let host = Arc::new(Host::new(Path::new("/nonexistent")));
        let operator = operator.parse().expect("operator labels");
        let settings = Settings { node: node.into(), host, labels, operator };
        let registry = &mut Registry::default();
        let calls = Calls::new(client.clone(), Duration::from_secs(5), CallMetrics::new(registry));
        let (events, writer) = Events::new(&calls, node.into(), registry);
        let sources = Sources { view: receiver, pods, standing: Arc::clone(&standing), events };
        let publisher = Arc::new(Publisher::new(client, settings, sources, metrics.clone()));
        let stop = CancellationToken::new();
        tokio::spawn(writer.run(stop.clone()));
        tokio::spawn(Arc::clone(&publisher).run(stop.clone()));
        Self { view, standing, publisher, metrics, _stop: stop.drop_guard() }
    }

    fn fail(&self, health: Health) {
        self.view.send_modify(|view| {
            for device in &mut Arc::make_mut(view).devices {
                device.health = health;
            }
        });
    }
}

/// 40,000 MiB each: the API server writes the sum, 80000, as 80k.
fn two_cards(node: &str) -> NodeView {
    let device = |number: u32| Device {
        uuid: format!("GPU-{node}-{number}").into(),
        index: number,
        model: "NVIDIA A100-PCIE-40GB".into(),
        memory: 40_000,
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
    let devices = vec![device(0), device(1)];
    let cards = devices.iter().map(card).collect();
    let driver = "580.95.05".to_owned();
    NodeView { driver, cuda: Some((13, 0)), cards, devices, mig_strategy: MigStrategy::None, ..NodeView::default() }
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
        compute: (8, 0),
        mig_capable: true,
        mig_mode: false,
        instances: Vec::new(),
        links: Vec::new(),
        clique: None,
    }
}

/// A node as a kubelet registers it, with the start-up taint and another one.
async fn register(lab: &Lab, name: &str) {
    let taint = |key: &str| json!({"key": key, "effect": "NoSchedule"});
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"taints": [taint("example.com/mine"), taint("packhorse.dev/not-ready")]},
        "status": {
            "capacity": {"cpu": "8", "memory": "64Gi", "pods": "100"},
            "allocatable": {"cpu": "8", "memory": "64Gi", "pods": "100"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Lab", "message": "",
                "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        },
    }))
    .expect("a Node");
    nodes(lab).create(&PostParams::default(), &node).await.expect("the node is created");
}

fn nodes(lab: &Lab) -> Api<Node> {
    Api::all(lab.client.clone())
}

async fn node(lab: &Lab, name: &str) -> Value {
    serde_json::to_value(nodes(lab).get(name).await.expect("the node")).expect("JSON")
}

/// A client as the agent's pod on `node` has it: its token is bound to the pod, and thereby to the node.
async fn agent_client(lab: &Lab, node: &str) -> Client {
    let name = format!("agent-{node}");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"nodeName": node, "serviceAccountName": "packhorse-agent", "containers": [{"name": "agent", "image": "none"}]},
    }))
    .expect("a Pod");
    let pod = pods::create(&lab.client, "packhorse-system", &pod).await;
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod.metadata.uid});
    lab.client_of("packhorse-system", "packhorse-agent", Some(bound)).await
}

/// Waits until the node holds all that its agent has to write.
async fn published(lab: &Lab, name: &str) {
    wait::until(&format!("{name} to be published"), 20, async || {
        let node = node(lab, name).await;
        let amounts = |list: &str| {
            let amounts = &node["status"][list];
            (amounts["packhorse.dev/gpu-memory"] == "80k") && (amounts["packhorse.dev/gpu-cores"] == "200")
        };
        let inventory = node["metadata"]["annotations"]["packhorse.dev/inventory"].as_str()?;
        let done = inventory.contains("\"ready\":true")
            && amounts("capacity")
            && amounts("allocatable")
            && node["metadata"]["labels"]["nvidia.com/gpu.count"] == "2"
            && node["spec"]["taints"].as_array()?.len() == 1;
        done.then_some(())
    })
    .await;
}

fn writes(lab: &Lab) -> Vec<super::audit::Write> {
    lab.audit.writes(|write| write.user == AGENT)
}

#[test]
fn with_its_own_account_an_agent_publishes_its_node_once_and_no_other() {
    on_cluster(async |lab| {
        register(lab, "own").await;
        register(lab, "other").await;
        let client = agent_client(lab, "own").await;
        let before = writes(lab).len();
        let agent = Agent::start(client.clone(), "own", &[("gpu", "on")]);
        published(lab, "own").await;
        let own = node(lab, "own").await;
        assert_eq!(own["metadata"]["labels"][PRODUCT], "NVIDIA-A100-PCIE-40GB");
        assert_eq!(own["metadata"]["labels"]["gpu"], "on");
        assert_eq!(own["spec"]["taints"], json!([{"key": "example.com/mine", "effect": "NoSchedule"}]));
        lab.wait_for_ledger(1).await;

        // A kubelet's heartbeats and other people's labels are no reason to write.
        let mut version = String::new();
        for number in 0..6 {
            let beat = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Lab",
                "message": number.to_string(), "lastHeartbeatTime": format!("2026-01-01T00:00:0{number}Z")}]}});
            nodes(lab)
                .patch_status("own", &PatchParams::default(), &Patch::Strategic(beat))
                .await
                .expect("a heartbeat");
            let team = json!({"metadata": {"labels": {"team": number.to_string()}}});
            let node = nodes(lab).patch("own", &PatchParams::default(), &Patch::Merge(team)).await.expect("a label");
            version = node.metadata.resource_version.expect("a version");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let now = nodes(lab).get("own").await.expect("the node").metadata.resource_version;
        assert_eq!(now.as_deref(), Some(&*version), "nobody has written since");
        let made = writes(lab).split_off(before);
        let kinds: Vec<(&str, &str, u64)> =
            made.iter().map(|write| (&*write.resource, &*write.name, write.status)).collect();
        let expected =
            [("nodes", "own", 200), ("nodes", "own", 200), ("nodes", "own", 200), ("nodes/status", "own", 200)];
        let mut sorted = kinds.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, expected, "inventory, labels, taint and totals, each once");

        // As a kubelet does that starts without a checkpoint.
        let zero = json!({"packhorse.dev/gpu-memory": "0", "packhorse.dev/gpu-cores": "0"});
        let reset = json!({"status": {"capacity": zero, "allocatable": zero}});
        nodes(lab).patch_status("own", &PatchParams::default(), &Patch::Merge(reset)).await.expect("the reset");
        published(lab, "own").await;
        drop(agent);

        let trespasser = Agent::start(client, "other", &[]);
        wait::until("its writes to be refused", 20, async || {
            let refused =
                |kind| trespasser.metrics.writes(kind, "conflict") + trespasser.metrics.writes(kind, "refused");
            ["inventory", "totals", "labels"].iter().all(|kind| refused(kind) > 0).then_some(())
        })
        .await;
        let other = node(lab, "other").await;
        assert_eq!(other["metadata"].get("annotations"), None);
        assert_eq!(other["status"]["capacity"].get("packhorse.dev/gpu-cores"), None);
        assert_eq!(other["spec"]["taints"].as_array().map(Vec::len), Some(2));
    });
}

#[test]
fn the_account_may_do_what_the_agent_does_and_nothing_more() {
    on_cluster(async |lab| {
        register(lab, "own").await;
        let client = agent_client(lab, "own").await;
        let reviews: Api<SelfSubjectAccessReview> = Api::all(client);
        let may = async |verb: &str, group: &str, resource: &str| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let review = serde_json::from_value(json!({"metadata": {}, "spec": {"resourceAttributes": {
                "verb": verb, "group": group, "resource": resource, "subresource": subresource, "namespace": "default",
            }}}));
            let answer = reviews.create(&PostParams::default(), &review.expect("a review")).await.expect("an answer");
            matches!(answer.status, Some(SubjectAccessReviewStatus { allowed: true, .. }))
        };
        const VERBS: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
        for (group, resource, allowed) in [
            ("", "nodes", &["get", "list", "watch", "patch"][..]),
            ("", "nodes/status", &["patch"][..]),
            ("", "pods", &["get", "list", "watch"][..]),
            ("", "events", &[][..]),
            ("events.k8s.io", "events", &["create"][..]),
            ("", "pods/binding", &[][..]),
            ("", "pods/status", &[][..]),
            ("", "pods/eviction", &[][..]),
            ("", "secrets", &[][..]),
            ("", "configmaps", &[][..]),
            ("", "serviceaccounts/token", &[][..]),
            ("apps", "daemonsets", &[][..]),
            ("rbac.authorization.k8s.io", "clusterroles", &[][..]),
        ] {
            for verb in VERBS {
                assert_eq!(may(verb, group, resource).await, allowed.contains(&verb), "{verb} {group}/{resource}");
            }
        }
    });
}

#[test]
fn a_label_that_another_manager_owns_is_left_alone_and_reported_and_outdated_ones_go() {
    on_cluster(async |lab| {
        register(lab, "own").await;
        let discovery = PatchParams::apply("gpu-feature-discovery");
        let theirs = |labels: Value| {
            Patch::Apply(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "own", "labels": labels}}))
        };
        // One with another value than ours, one with the same.
        let labels = json!({PRODUCT: "NVIDIA-A100-PCIE-40GB-SHARED", "nvidia.com/gpu.count": "2"});
        nodes(lab).patch("own", &discovery, &theirs(labels)).await.expect("their labels");
        let client = agent_client(lab, "own").await;
        let agent = Agent::start(client.clone(), "own", &[("gpu", "on")]);
        published(lab, "own").await;
        wait::until("the rest of the labels", 20, async || {
            (node(lab, "own").await["metadata"]["labels"]["nvidia.com/gpu.family"] == "ampere").then_some(())
        })
        .await;
        let there = node(lab, "own").await;
        assert_eq!(there["metadata"]["labels"][PRODUCT], "NVIDIA-A100-PCIE-40GB-SHARED");
        assert_eq!(agent.metrics.contested(), 1);
        let events: Api<Event> = Api::namespaced(lab.client.clone(), "default");
        let about = ListParams::default().fields("involvedObject.name=own,reason=LabelsOwnedByAnother");
        let messages = async || -> Vec<String> {
            let listed = events.list(&about).await.expect("events").items;
            listed.into_iter().filter_map(|event| event.message).collect()
        };
        let told = wait::until("an Event", 20, async || messages().await.first().cloned()).await;
        assert!(told.contains(PRODUCT) && told.contains("gpu-feature-discovery"), "{told}");
        assert!(!told.contains("gpu.count"), "an equal value is no conflict: {told}");

        // What changes meanwhile is written, and the conflict is not told again.
        agent.view.send_modify(|view| Arc::make_mut(view).driver = "590.1".to_owned());
        wait::until("the new driver", 20, async || {
            (node(lab, "own").await["metadata"]["labels"]["nvidia.com/cuda.driver.major"] == "590").then_some(())
        })
        .await;
        assert_eq!(messages().await.len(), 1);

        // They go, and take what they alone owned with them.
        nodes(lab).patch("own", &discovery, &theirs(json!({}))).await.expect("they let go");
        wait::until("our product", 20, async || {
            let labels = &node(lab, "own").await["metadata"]["labels"];
            (labels[PRODUCT] == "NVIDIA-A100-PCIE-40GB" && labels["nvidia.com/gpu.count"] == "2").then_some(())
        })
        .await;
        wait::until("no more conflict", 20, async || (agent.metrics.contested() == 0).then_some(())).await;
        drop(agent);

        // The next agent is configured otherwise, and its cards are gone but one.
        let team = json!({"metadata": {"labels": {"team": "a"}}});
        nodes(lab).patch("own", &PatchParams::default(), &Patch::Merge(team)).await.expect("a label");
        let agent = Agent::start(client, "own", &[("accelerated", "yes")]);
        agent.view.send_modify(|view| Arc::make_mut(view).cuda = None);
        wait::until("the outdated labels to go", 20, async || {
            let node = node(lab, "own").await;
            let labels = node["metadata"]["labels"].as_object()?;
            let gone = !labels.contains_key("gpu") && !labels.contains_key("nvidia.com/cuda.runtime.major");
            (gone && labels.get("accelerated")? == "yes" && labels.get("team")? == "a").then_some(())
        })
        .await;
        // The operator wants nothing of NVIDIA's here.
        let none = json!({"metadata": {"labels": {"nvidia.com/gpu.deploy.operands": "false"}}});
        nodes(lab).patch("own", &PatchParams::default(), &Patch::Merge(none)).await.expect("a label");
        wait::until("our labels to go", 20, async || {
            let node = node(lab, "own").await;
            let labels = node["metadata"]["labels"].as_object()?;
            let left: Vec<&String> = labels.keys().filter(|key| key.starts_with("nvidia.com/")).collect();
            (left == ["nvidia.com/gpu.deploy.operands"] && !labels.contains_key("accelerated")).then_some(())
        })
        .await;
        assert!(!agent.publisher.deploy().borrow().serves());
    });
}

#[test]
fn a_failed_device_is_out_of_the_ledger_within_two_seconds_and_back_when_it_recovers() {
    on_cluster(async |lab| {
        register(lab, "own").await;
        let agent = Agent::start(agent_client(lab, "own").await, "own", &[]);
        published(lab, "own").await;
        lab.wait_for_ledger(1).await;
        let namespace = lab.namespace("failing", json!({})).await;
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let pod = objects::pod("p", &json!({"nvidia.com/gpu": 1}));
        let pod = pods::api(&lab.client, &namespace).create(&dry, &pod).await.expect("admitted");
        let question = json!({"Pod": pod, "NodeNames": ["own"]}).to_string();
        let fits = async || {
            let (_, answer) = http::post(lab.extender_address(), "/filter", &question).await.expect("an answer");
            let answer: Value = serde_json::from_str(&answer).expect("JSON");
            answer["NodeNames"].as_array().is_some_and(|names| !names.is_empty())
        };
        assert!(fits().await);
        let mut slowest = Duration::ZERO;
        for _ in 0..5 {
            for (health, expected) in [(Health::Unhealthy, false), (Health::Healthy, true)] {
                let started = Instant::now();
                agent.fail(health);
                while fits().await != expected {
                    assert!(started.elapsed() < Duration::from_secs(2), "{health:?} is not in the ledger after 2 s");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                slowest = slowest.max(started.elapsed());
            }
        }
        super::kubelab::say(&format!("from a device's failure or recovery to the ledger: {slowest:?} at most"));
        agent.standing.send_modify(|standing| standing.ready = false);
        wait::until("the node to take nothing more", 5, async || (!fits().await).then_some(())).await;
    });
}
