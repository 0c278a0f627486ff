//! What `packhorse inspect` shows.

use std::io::BufRead as _;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use packhorse::demo::api_server::Match;
use serde_json::{Value, json};

use super::{Live, device, node, share, text};

/// Two nodes: one card that is half full, and two of which one is full and one cordoned. `waits` wants 20,000 MiB.
async fn cluster() -> Live {
    let live = Live::start().await;
    live.create("nodes", node("a", &[device("GPU-a", 0, 24_000)]));
    let mut cordoned = node("b", &[device("GPU-b0", 0, 24_000), device("GPU-b1", 1, 24_000)]);
    cordoned["metadata"]["annotations"]["packhorse.dev/cordon"] = "GPU-b1".into();
    live.create("nodes", cordoned);
    live.create(
        "nodes",
        json!({"metadata": {"name": "cpu-only"}, "status": {"allocatable": {"cpu": "4", "memory": "8Gi"}}}),
    );
    live.bound("half", "a", "GPU-a", 12_000);
    live.bound("full", "b", "GPU-b0", 24_000);
    live.create("pods", share("waits", 20_000));
    live
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_shows_nodes_and_who_waits() {
    let live = cluster().await;
    let said = live.said(&["inspect"]).await;
    let row = |name: &str| {
        said.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{said}"))
    };
    let cells = |name: &str| row(name).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(cells("a"), ["a", "ready", "1", "12000/24000", "0/100", "1"]);
    assert_eq!(cells("b"), ["b", "ready", "1", "of", "2", "24000/48000", "0/200", "1"]);
    assert!(said.contains("and 1 without a GPU inventory"), "{said}");
    assert!(row("default").contains("waits") && !said.contains("half"), "only pods that wait: {said}");
    assert!(live.said(&["inspect", "-o", "wide"]).await.contains("cpu-only"), "wide leaves nothing out");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_tell_who_holds_them() {
    let live = cluster().await;
    let report = live.json(&["inspect", "devices"]).await;
    let devices = report["devices"].as_array().unwrap();
    let of = |uuid: &str| devices.iter().find(|device| device["uuid"] == uuid).unwrap();
    assert_eq!(
        of("GPU-a")["holders"],
        json!([{"pod": "default/half", "memory": 12_000, "cores": 0, "exclusive": false}])
    );
    assert_eq!(
        (&of("GPU-a")["memory"], &of("GPU-a")["slots"]),
        (&json!({"total": 24_000, "booked": 12_000}), &json!({"total": 10, "booked": 1}))
    );
    assert_eq!((&of("GPU-b1")["cordoned"], &of("GPU-b0")["cordoned"]), (&json!(true), &json!(false)));
    assert!(report.get("nodes").is_none() && report.get("pods").is_none());
    let said = live.said(&["inspect", "devices"]).await;
    assert!(said.contains("healthy, cordoned") && said.contains("default/half (12000 MiB)"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_pod_is_explained_node_by_node_and_the_change_that_is_named_helps() {
    let live = cluster().await;
    let report = live.json(&["inspect", "waits"]).await;
    let waits = &report["pods"][0]["waits"];
    let answers = waits["nodes"].as_array().unwrap();
    let reasons = |node: &str| answers.iter().find(|answer| answer["node"] == node).unwrap()["reasons"].clone();
    let short = "packhorse.dev/gpu-memory short: asks 20000, 12000 left";
    assert_eq!(reasons("a"), json!([short, "GPU memory exhausted"]));
    assert!(reasons("b").to_string().contains("GPU memory exhausted"), "{answers:?}");
    assert!(reasons("cpu-only").to_string().contains("no GPU inventory published"), "{answers:?}");
    let changes: Vec<&str> =
        waits["changes"].as_array().unwrap().iter().map(|change| change["kind"].as_str().unwrap()).collect();
    assert_eq!(changes, ["cordon", "limit", "pod"], "smallest first: {waits}");
    assert!(waits["changes"][2]["change"].as_str().unwrap().contains("default/half"), "{waits}");
    let said = live.said(&["inspect", "pod/waits"]).await;
    assert!(said.contains("smallest change: lift the cordon of GPU-b1 on node b"), "{said}");

    let patch = json!({"metadata": {"annotations": {"packhorse.dev/cordon": null}}});
    live.api.objects().patch("nodes", "", "b", &patch).unwrap();
    let report = live.json(&["inspect", "default/waits"]).await;
    let waits = &report["pods"][0]["waits"];
    assert_eq!((&waits["nodes"][0]["node"], &waits["nodes"][0]["fits"]), (&json!("b"), &json!(true)), "{waits}");
    assert_eq!(waits["changes"], json!([]));
    assert!(report["pods"][0]["notes"][0].as_str().unwrap().contains("it fits node b"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_pod_and_a_node_tell_what_they_have() {
    let live = cluster().await;
    let said = live.said(&["inspect", "half"]).await;
    assert!(said.contains("on node a") && said.contains("12000 MiB of GPU-a"), "{said}");
    let report = live.json(&["inspect", "node/b"]).await;
    assert_eq!(report["nodes"][0]["name"], "b");
    assert_eq!(report["devices"].as_array().unwrap().len(), 2);
    let pods = live.json(&["inspect", "pods"]).await;
    assert_eq!(pods["pods"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn yaml_says_the_same_as_json() {
    let live = cluster().await;
    let yaml = live.said(&["inspect", "nodes", "devices", "pods", "-o", "yaml"]).await;
    let yaml: Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(yaml, live.json(&["inspect", "nodes", "devices", "pods"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_a_plugin_of_kubectl_it_has_the_same_commands() {
    let live = cluster().await;
    let plugin = live.directory.path().join("kubectl-packhorse");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_packhorse"), &plugin).unwrap();
    let output = live.run_as(&plugin, &["inspect", "nodes"]).await;
    assert!(output.status.success() && text(&output.stdout).contains("12000/24000"), "{}", text(&output.stderr));
    let output = live.run_as(&plugin, &["inspect", "--nonsense"]).await;
    assert!(text(&output.stderr).contains("kubectl packhorse inspect"), "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_is_called_is_an_error_and_so_is_what_several_are() {
    let live = cluster().await;
    let output = live.run(&["inspect", "nobody"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nobody: neither a node nor a live pod"), "{}", text(&output.stderr));
    for namespace in ["x", "y"] {
        live.create("namespaces", json!({"metadata": {"name": namespace}}));
        let mut pod = share("twin", 1_000);
        pod["metadata"]["namespace"] = namespace.into();
        live.create("pods", pod);
    }
    let output = live.run(&["inspect", "twin"]).await;
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("x/twin") && said.contains("y/twin"), "{said}");
    assert!(live.said(&["inspect", "twin", "-n", "y"]).await.contains("pod y/twin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_told_and_the_rest_is_shown() {
    let live = cluster().await;
    let broken = json!({"metadata": {"name": "broken", "annotations": {"packhorse.dev/inventory": "{\"v\":1}"}}});
    live.create("nodes", broken);
    let output = live.run(&["inspect", "nodes"]).await;
    assert!(output.status.success());
    assert!(text(&output.stderr).contains("node broken: packhorse.dev/inventory: devices"), "{}", text(&output.stderr));
    assert!(text(&output.stdout).lines().any(|line| line.starts_with("broken ") && line.contains("inventory-damaged")));
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_prints_again_when_something_changed() {
    let live = cluster().await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_packhorse"))
        .args(["inspect", "pods", "-o", "json", "--watch", "--interval", "1"])
        .env("KUBECONFIG", live.kubeconfig())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = mpsc::channel();
    let out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || out.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
    let next = || {
        let line = lines.recv_timeout(Duration::from_secs(20)).expect("a report");
        serde_json::from_str::<Value>(&line).unwrap()["pods"].as_array().unwrap().len()
    };
    assert_eq!(next(), 3);
    // A read that fails ends nothing.
    live.api.faults().fail_next(1, 500, Match::of("list", "pods"));
    live.create("pods", share("another", 1_000));
    assert_eq!(next(), 4);
    assert_eq!(live.api.faults().injected(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
}
