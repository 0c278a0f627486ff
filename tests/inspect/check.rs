//! `packhorse check`: lines and exit status. What a real API server answers is in the cluster tests.

use serde_json::{Value, json};

use super::{Live, device, node, text};

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_looked_at_is_told_and_ends_with_2() {
    let live = Live::start().await;
    let mut labelled = node("a", &[device("GPU-a", 0, 24_000)]);
    labelled["metadata"]["labels"] = json!({"nvidia.com/gpu.present": "true"});
    labelled["status"]["nodeInfo"] = json!({"containerRuntimeVersion": "containerd://2.1.4"});
    live.create("nodes", labelled);
    // The API server of the demo has no quotas.
    let output = live.run(&["check", "--before-install"]).await;
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.lines().any(|line| line.starts_with("ok      API version: v1.36.1")), "{said}");
    assert!(said.lines().any(|line| line.starts_with("unknown quotas: ")), "{said}");
    let output = live.run(&["check", "--before-install", "--quiet", "-o", "json"]).await;
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        found["findings"].as_array().unwrap().iter().all(|it| it["level"] != "ok" && it["remedy"].is_string()),
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn anything_wrong_ends_with_1_and_names_the_remedy() {
    let live = Live::start().await;
    live.create("nodes", node("a", &[device("GPU-a", 0, 24_000)]));
    let file = live.directory.path().join("profile.yaml");
    std::fs::write(&file, "kind: KubeSchedulerConfiguration\nprofiles: [{schedulerName: packhorse}]\n").unwrap();
    let output = live.run(&["check", "--scheduler-config", file.to_str().unwrap()]).await;
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let wrong = |words: &str| {
        said.lines().any(|line| line.starts_with("wrong ") && line.contains(words) && line.contains("; "))
    };
    assert!(wrong("extenders is absent"), "{said}");
    assert!(wrong("there is no MutatingWebhookConfiguration packhorse"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_does_not_answer_is_not_in_order_and_not_wrong() {
    let live = Live::start().await;
    std::fs::write(
        live.kubeconfig(),
        std::fs::read_to_string(live.kubeconfig()).unwrap().replace(&live.api.url(), "http://127.0.0.1:1"),
    )
    .unwrap();
    let output = live.run(&["check"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("error: the API server does not answer"), "{}", text(&output.stderr));
}
