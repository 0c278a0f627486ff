//! A live cluster: what is read of it, what each policy would leave, and what is said where it cannot be read.

use std::path::Path;
use std::process::{Command, Output};

use packhorse::demo::api_server::{ApiServer, Match, Settings};
use serde_json::{Value, json};

use super::text;

/// Nodes with 16 cores.
struct Live {
    api: ApiServer,
    directory: tempfile::TempDir,
}

/// A device of this much memory; an instance of a MIG profile where there is one.
fn device(uuid: &str, memory: u32, profile: Option<&str>) -> Value {
    let mut device = json!({
        "uuid": uuid, "index": 0, "model": "NVIDIA A10", "memory": memory, "cores": 100, "slots": 10,
        "pci": "0000:07:00.0", "health": "healthy", "enforcement": "advisory",
    });
    if let Some(profile) = profile {
        device["mig"] = json!({"profile": profile, "start": 0, "size": 1});
        device["parent"] = "GPU-parent".into();
        device["enforcement"] = "mig".into();
    }
    device
}

/// A pod of one container with these limits.
fn pod(name: &str, limits: &Value) -> Value {
    let resources = json!({"limits": limits, "requests": limits});
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": [{"name": "main", "image": "i", "resources": resources}]}})
}

impl Live {
    async fn start() -> Self {
        let api = ApiServer::start(Settings::default()).await.unwrap();
        Self { api, directory: tempfile::tempdir().unwrap() }
    }

    fn node(&self, name: &str, inventory: &str, more: Value) {
        let mut node = json!({
            "metadata": {"name": name, "annotations": {"packhorse.dev/inventory": inventory}},
            "status": {"allocatable": {"cpu": "16", "memory": "64Gi"}},
        });
        node["spec"] = more;
        self.api.objects().create("nodes", node).unwrap();
    }

    fn cards(&self, name: &str, devices: &[Value]) {
        self.node(name, &json!({"v": 1, "ready": true, "devices": devices}).to_string(), json!({}));
    }

    /// Creates a pod and binds it, with the part of a device it holds.
    fn bound(&self, pod: Value, node: &str, share: Option<(&str, u32)>) {
        let created = self.api.objects().create("pods", pod).unwrap();
        let name = created["metadata"]["name"].as_str().unwrap();
        let allocation = share.map(|(device, memory)| {
            json!({"v": 1, "containers": {"main": [{"device": device, "memory": memory, "cores": 0, "exclusive": false, "enforcement": "advisory"}]}})
        });
        let annotations = allocation.map_or_else(|| json!({}), |a| json!({"packhorse.dev/allocation": a.to_string()}));
        self.api.objects().bind("default", name, "", node, &annotations).unwrap();
    }

    fn pending(&self, pod: Value) {
        self.api.objects().create("pods", pod).unwrap();
    }

    async fn simulate(&self, more: &[&str]) -> Output {
        simulate(self.directory.path(), &self.api.url(), more).await
    }

    async fn json(&self, more: &[&str]) -> Value {
        let output = self.simulate(&[&["--format", "json"], more].concat()).await;
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

async fn simulate(directory: &Path, url: &str, more: &[&str]) -> Output {
    let kubeconfig = directory.join("kubeconfig");
    let config = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: it\nclusters: [{{name: it, cluster: {{server: '{url}'}}}}]\n\
         contexts: [{{name: it, context: {{cluster: it, user: it}}}}]\nusers: [{{name: it, user: {{}}}}]\n"
    );
    std::fs::write(&kubeconfig, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_packhorse"));
    command.args(["simulate", "--from-cluster", "--kubeconfig"]).arg(kubeconfig).args(more);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Two nodes of one card; two halves, one on each, and a whole card that waits.
async fn halves() -> Live {
    let live = Live::start().await;
    live.cards("a", &[device("GPU-a", 24_000, None)]);
    live.cards("b", &[device("GPU-b", 24_000, None)]);
    live.bound(pod("p1", &json!({"nvidia.com/gpu": "1", "nvidia.com/gpumem": "12000"})), "a", Some(("GPU-a", 12_000)));
    let half = json!({"nvidia.com/gpu": "1", "nvidia.com/gpumem-percentage": "50"});
    live.bound(pod("p2", &half), "b", Some(("GPU-b", 12_000)));
    live.pending(pod("p3", &json!({"nvidia.com/gpu": "1"})));
    live
}

#[tokio::test(flavor = "multi_thread")]
async fn each_policy_is_held_against_what_the_cluster_has_now() {
    let live = halves().await;
    let reports = live.json(&["--policy", "all"]).await;
    let reports = reports.as_array().unwrap();
    assert_eq!(reports.len(), 10);
    for report in reports {
        let policy = report["policy"].as_str().unwrap();
        let now = &report["cluster"];
        assert_eq!((&now["unallocated"], &now["waiting"], &now["gpus"]), (&json!(50.0), &json!(1), &json!(2.0)));
        assert_eq!((&now["nodes"], &now["pods"], &now["gpu_pods"]), (&json!(2), &json!(3), &json!(3)));
        assert_eq!(report["seeds"], json!([42]), "one run, in the order of creation");
        let expected = match policy {
            "spread" => (50.0, 1.0),
            // Which node is a matter of chance: one policy knows no better, of the other half a card is less than a point.
            "random" | "dotproduct" => continue,
            _ => (0.0, 0.0),
        };
        let number = |field: &str| report[field]["mean"].as_f64().unwrap();
        let found = (number("unallocated_at_end"), number("gpu_pods_without_node"));
        assert_eq!(found, expected, "{policy}");
        assert_eq!(report["runs"][0]["pods_without_node"].as_f64(), Some(expected.1), "{policy}");
    }
    let table = text(&live.simulate(&["--policy", "packhorse,spread"]).await.stdout);
    let now = table.lines().find(|line| line.starts_with("the cluster now")).unwrap();
    assert!(now.contains(" 1 ") && now.ends_with("50.00"), "{table}");
    assert!(table.contains("3 pods, 3 of them with GPUs, on 2 nodes with 2.00 GPUs"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn further_runs_shuffle_the_same_pods() {
    let report = halves().await.json(&["--policy", "bestfit", "--seeds", "1..40"]).await;
    let runs = report["runs"].as_array().unwrap();
    let left: Vec<_> = runs.iter().map(|run| run["unallocated_at_end"].as_f64().unwrap()).collect();
    assert_eq!(left, [0.0; 40], "whatever the order, both halves go to one card");
    // With the whole card between or after them, the halves of another policy may already have both cards.
    let report = halves().await.json(&["--policy", "spread", "--seeds", "1..40"]).await;
    let runs = report["runs"].as_array().unwrap();
    let left: Vec<_> = runs.iter().map(|run| run["unallocated_at_end"].as_f64().unwrap()).collect();
    assert_eq!(left[0], 50.0);
    assert!(left.contains(&0.0), "the whole card came first in some: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_are_measured_by_the_card_at_hand() {
    let live = Live::start().await;
    live.cards("a", &[device("GPU-a", 10_000, None)]);
    live.cards("b", &[device("GPU-b", 80_000, None)]);
    // Only one card is large enough, and only for seven of them; thirds by MiB fit three times, whatever is rounded.
    for at in 0..9 {
        live.pending(pod(&format!("large{at}"), &json!({"nvidia.com/gpu": "1", "nvidia.com/gpumem": "10001"})));
    }
    for at in 0..4 {
        live.pending(pod(&format!("third{at}"), &json!({"nvidia.com/gpu": "1", "nvidia.com/gpumem": "3333"})));
    }
    for report in live.json(&["--policy", "all"]).await.as_array().unwrap() {
        // Seven of 10,001 MiB leave 9,993 there: for two thirds more, not for an eighth.
        assert_eq!(report["gpu_pods_without_node"]["mean"], json!(2.0), "{}", report["policy"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_take_pods_of_their_profile_under_every_policy() {
    let live = Live::start().await;
    live.cards("a", &[device("GPU-a", 24_000, None)]);
    live.cards("m", &[device("MIG-1", 9_000, Some("1g.10gb")), device("MIG-2", 9_000, Some("1g.10gb"))]);
    for at in 0..3 {
        live.pending(pod(&format!("m{at}"), &json!({"nvidia.com/mig-1g.10gb": "1"})));
    }
    live.pending(pod("whole", &json!({"nvidia.com/gpu": "1"})));
    for report in live.json(&["--policy", "all"]).await.as_array().unwrap() {
        let policy = &report["policy"];
        assert_eq!(report["cluster"]["served"], 3, "{policy}");
        assert_eq!(report["cluster"]["gpus"], 1.25, "{policy}");
        assert_eq!(report["gpu_pods_without_node"]["mean"], 1.0, "{policy}");
        assert_eq!(report["unallocated_at_end"]["mean"], 0.0, "{policy}");
    }
    let table = text(&live.simulate(&[]).await.stdout);
    assert!(table.contains("3 pods with MIG instances"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_belong_to_their_node_stay_there() {
    let live = Live::start().await;
    live.cards("a", &[device("GPU-a", 24_000, None)]);
    live.cards("b", &[device("GPU-b", 24_000, None)]);
    let mut daemon = pod("daemon", &json!({"cpu": "15"}));
    daemon["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u", "controller": true}]);
    live.bound(daemon, "a", None);
    live.bound(pod("ordinary", &json!({"cpu": "15"})), "a", None);
    live.pending(pod("gpu", &json!({"nvidia.com/gpu": "1", "cpu": "2"})));
    let report = live.json(&[]).await;
    // Beside the DaemonSet's no other fits on a, so both want b. The earlier one gets it.
    assert_eq!(report["cluster"]["pods"], 2);
    assert_eq!(report["pods_without_node"]["mean"], 1.0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_replayed_is_named_and_counted() {
    let live = halves().await;
    live.node("damaged", r#"{"v":1,"ready":true,"devices":[{"uuid":7}]}"#, json!({}));
    live.bound(pod("there", &json!({"nvidia.com/gpu": "1"})), "damaged", None);
    let card = json!({"v": 1, "ready": true, "devices": [device("GPU-c", 24_000, None)]});
    live.node("cordoned", &card.to_string(), json!({"unschedulable": true}));
    live.pending(pod("half-a-gpu", &json!({"nvidia.com/gpu": "1", "nvidia.com/gpumem-percentage": "101"})));
    live.bound(pod("foreign", &json!({"nvidia.com/gpu": "1"})), "a", None);
    let output = live.simulate(&["--format", "json"]).await;
    let (report, said): (Value, _) = (serde_json::from_slice(&output.stdout).unwrap(), text(&output.stderr));
    let now = &report["cluster"];
    assert_eq!((&now["left_out_nodes"], &now["left_out_pods"]), (&json!(2), &json!(3)), "{said}");
    assert_eq!((&now["pods"], &now["nodes"]), (&json!(3), &json!(2)));
    for (object, why) in [
        ("node damaged is left out with its 1 pods", "packhorse.dev/inventory: devices[0]"),
        ("node cordoned is left out with its 0 pods", "cordoned"),
        ("pod default/half-a-gpu", "gpumem-percentage"),
        ("pod default/foreign", "without an allocation"),
    ] {
        let named =
            said.lines().any(|line| line.starts_with("warning: ") && line.contains(object) && line.contains(why));
        assert!(named, "{object}, {why}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_does_not_come_is_an_error() {
    for (what, code, words) in [("nodes", 403, "list nodes"), ("pods", 401, "list pods"), ("pods", 500, "list pods")] {
        let live = halves().await;
        live.api.faults().fail_next(1, code, Match::of("list", what));
        let output = live.simulate(&[]).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("error: ") && said.contains(words), "{said}");
        assert_eq!(said.contains("allow get and list of nodes and pods"), code != 500, "{said}");
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let output = simulate(directory.path(), &format!("http://{nobody}"), &[]).await;
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.starts_with("error: cannot list nodes: "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_gpus_is_nothing_to_replay() {
    let live = Live::start().await;
    let said = text(&live.simulate(&[]).await.stderr);
    assert!(said.contains("no node has a GPU"), "{said}");
}
