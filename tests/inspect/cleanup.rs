//! `packhorse cleanup`: what it asks and refuses. That labels go and nothing else changes is shown on a real API server.

use serde_json::{Value, json};

use super::{Live, device, node, share, text};

async fn cluster() -> Live {
    let live = Live::start().await;
    let mut used = node("used", &[device("GPU-a", 0, 24_000)]);
    used["metadata"]["annotations"]["mine"] = "1".into();
    live.create("nodes", used);
    let mut idle = node("idle", &[device("GPU-b", 0, 24_000)]);
    idle["metadata"]["annotations"]["mine"] = "1".into();
    idle["spec"]["taints"] =
        json!([{"key": "packhorse.dev/not-ready", "effect": "NoSchedule"}, {"key": "x", "effect": "NoSchedule"}]);
    live.create("nodes", idle);
    live.create("nodes", json!({"metadata": {"name": "other", "annotations": {"mine": "1"}}}));
    live.bound("half", "used", "GPU-a", 12_000);
    live.create("pods", share("waits", 20_000));
    live
}

fn object(live: &Live, name: &str) -> Value {
    Value::clone(&live.api.objects().get("nodes", "", name).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_in_use_are_left_alone_unless_forced() {
    let live = cluster().await;
    let before = object(&live, "used");
    let output = live.run(&["cleanup", "--yes"]).await;
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("node used is left alone: pod default/half uses GPUs of Packhorse"), "{said}");
    assert_eq!(object(&live, "used"), before);
    let idle = object(&live, "idle");
    assert_eq!(idle["metadata"]["annotations"], json!({"mine": "1"}));
    assert_eq!(idle["spec"]["taints"], json!([{"key": "x", "effect": "NoSchedule"}]));
    for list in ["capacity", "allocatable"] {
        let names: Vec<&String> = idle["status"][list].as_object().unwrap().keys().collect();
        assert!(
            !names.iter().any(|name| name.starts_with("packhorse.dev/")) && names.contains(&&"cpu".to_owned()),
            "{names:?}"
        );
    }
    live.said(&["cleanup", "--yes", "--force"]).await;
    assert_eq!(object(&live, "used")["metadata"]["annotations"], json!({"mine": "1"}));
    assert!(live.said(&["cleanup", "--yes"]).await.contains("no trace is left"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_changes_without_consent() {
    let live = cluster().await;
    let before = ["used", "idle", "other"].map(|name| object(&live, name));
    let said = live.said(&["cleanup", "--dry-run", "--node", "idle"]).await;
    assert!(said.contains("node idle: annotations packhorse.dev/inventory") && said.contains("taint"), "{said}");
    let output = live.run(&["cleanup", "--node", "idle"]).await;
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("--yes"), "{}", text(&output.stderr));
    let output = live.run(&["cleanup", "--node", "nobody", "--yes"]).await;
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("nobody: there is no such node"));
    assert_eq!(["used", "idle", "other"].map(|name| object(&live, name)), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_this_machine_need_no_cluster() {
    let live = Live::start().await;
    let root = live.directory.path();
    let directories = ["cdi", "kubelet/device-plugins", "state/pods"].map(|name| root.join(name));
    directories.iter().for_each(|directory| std::fs::create_dir_all(directory).unwrap());
    let (ours, other) = (directories[0].join("packhorse.dev-gpu_0f.json"), directories[0].join("nvidia.yaml"));
    for path in [&ours, &other] {
        std::fs::write(path, "{}").unwrap();
    }
    let flag = |name: &str, directory: &str| format!("--{name}={}", root.join(directory).display());
    let flags = [flag("cdi-dir", "cdi"), flag("kubelet-dir", "kubelet"), flag("state-dir", "state")];
    let arguments = ["cleanup", "--files", "--yes", &flags[0], &flags[1], &flags[2]];
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_packhorse"))
        .args(arguments)
        .env("KUBECONFIG", "/nonexistent")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("packhorse.dev-gpu_0f.json"), "{}", text(&output.stdout));
    assert!(!ours.exists() && other.exists());
}
