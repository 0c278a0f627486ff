//! `packhorse inspect`, `check` and `cleanup` on a real API server, as people run them: a kubeconfig and nothing else.

use std::path::Path;
use std::process::{Command, Output};

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, ResourceQuota};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::lab::{Lab, on_cluster};
use super::objects::{self, GpuNode, annotation};
use super::{pods, wait};

const A100: &str = "NVIDIA A100-SXM4-80GB";

/// Runs the binary with the administrator's kubeconfig.
fn packhorse(lab: &Lab, arguments: &[&str]) -> Output {
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_packhorse")));
    command.args(arguments).arg("--kubeconfig").arg(&lab.kubeconfig).env_remove("KUBECONFIG");
    command.output().expect("the binary runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What is told of one pod.
fn inspected(lab: &Lab, namespace: &str, pod: &str) -> Value {
    let output = packhorse(lab, &["inspect", &format!("{namespace}/{pod}"), "-o", "json"]);
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    report["pods"][0].clone()
}

fn share(mib: u64) -> Value {
    json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": mib})
}

#[test]
fn the_change_that_is_named_lets_a_waiting_pod_in() {
    on_cluster(async |lab| {
        GpuNode::new("tight", 1, A100, 81920).create(&lab.client).await;
        let namespace = lab.namespace("inspect", json!({})).await;
        pods::create(&lab.client, &namespace, &objects::pod("large", &share(60_000))).await;
        pods::bound(&lab.client, &namespace, "large", 30).await;
        pods::create(&lab.client, &namespace, &objects::pod("waits", &share(40_000))).await;
        let message = pods::refused(&lab.client, &namespace, "waits", 30).await;
        let report = inspected(lab, &namespace, "waits");
        let waits = &report["waits"];
        assert_eq!(waits["schedulerSays"], json!(message));
        let reasons = waits["nodes"][0]["reasons"].to_string();
        assert!(
            reasons.contains("packhorse.dev/gpu-memory short") && reasons.contains("GPU memory exhausted"),
            "{waits}"
        );
        let change = |kind: &str| {
            let changes = waits["changes"].as_array().expect("changes");
            changes.iter().find(|change| change["kind"] == kind).unwrap_or_else(|| panic!("{kind}: {waits}")).clone()
        };
        assert_eq!(waits["changes"][0]["kind"], "limit", "the smallest: {waits}");
        let words = change("limit")["change"].as_str().expect("words").to_owned();
        let to = words.split(" to ").nth(1).and_then(|rest| rest.split(':').next()).expect("an amount");
        let to: u64 = to.parse().expect("MiB");

        // One more MiB is too much, that many are not.
        pods::create(&lab.client, &namespace, &objects::pod("more", &share(to + 1))).await;
        pods::refused(&lab.client, &namespace, "more", 30).await;
        pods::create(&lab.client, &namespace, &objects::pod("less", &share(to))).await;
        let less = pods::bound(&lab.client, &namespace, "less", 30).await;
        let held = inspected(lab, &namespace, "less");
        let device = annotation(&less, "devices.packhorse.dev/main").expect("a device");
        assert_eq!(held["holds"]["main"][0]["device"], device);
        assert_eq!(held["holds"]["main"][0]["memory"], json!(to));

        // The pod that is named for removal makes room.
        for name in ["more", "less"] {
            pods::api(&lab.client, &namespace)
                .delete(name, &DeleteParams::default().grace_period(0))
                .await
                .expect("deleted");
        }
        assert!(change("pod")["change"].as_str().expect("words").contains(&format!("{namespace}/large")), "{waits}");
        pods::api(&lab.client, &namespace)
            .delete("large", &DeleteParams::default().grace_period(0))
            .await
            .expect("deleted");
        pods::bound(&lab.client, &namespace, "waits", 30).await;
    });
}

#[test]
fn a_cordon_is_named_and_lifting_it_lets_the_pod_in() {
    on_cluster(async |lab| {
        let mut node = GpuNode::new("cordoned", 1, A100, 81920);
        node.annotations.insert("packhorse.dev/cordon".to_owned(), json!("GPU-cordoned-0"));
        node.create(&lab.client).await;
        let namespace = lab.namespace("cordon", json!({})).await;
        pods::create(&lab.client, &namespace, &objects::pod("waits", &share(4_096))).await;
        pods::refused(&lab.client, &namespace, "waits", 30).await;
        let waits = inspected(lab, &namespace, "waits")["waits"].clone();
        assert_eq!(waits["nodes"][0]["reasons"], json!(["GPU cordoned"]));
        assert!(
            waits["changes"][0]["change"].as_str().is_some_and(|words| words.contains("GPU-cordoned-0")),
            "{waits}"
        );
        pods::annotate_node(&lab.client, "cordoned", json!({"packhorse.dev/cordon": null})).await;
        pods::bound(&lab.client, &namespace, "waits", 30).await;
    });
}

/// The lines that are not in order, and the exit status.
fn checked(lab: &Lab, namespace: &str) -> (Vec<String>, Option<i32>) {
    let output = packhorse(lab, &["check", "--quiet", "--namespace", namespace]);
    let lines = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    (lines, output.status.code())
}

#[test]
fn check_passes_a_good_set_up_and_names_what_is_broken() {
    on_cluster(async |lab| {
        GpuNode::new("sound", 1, A100, 81920).create(&lab.client).await;
        let namespace = lab.namespace("check", json!({})).await;
        // In a young cluster kube-scheduler has not taken its lease yet.
        wait::becomes(30, async || checked(lab, &namespace).1 == Some(0)).await;
        let (lines, status) = checked(lab, &namespace);
        assert_eq!(status, Some(0), "{lines:#?}");
        if std::env::var_os("PACKHORSE_SCREENSHOTS").is_some() {
            // For the picture of it: `inspect/pictures.rs`.
            let all = String::from_utf8(packhorse(lab, &["check", "--namespace", &namespace]).stdout).expect("UTF-8");
            // In a cluster that is the pod's name, here it is the machine's.
            let (before, rest) = all
                .split_once("scheduler: ")
                .and_then(|(before, rest)| Some((before, rest.split_once(" holds ")?.1)))
                .expect("who holds the lease");
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/inspect/check.txt");
            std::fs::write(file, format!("{before}scheduler: packhorse-server-0 holds {rest}")).expect("kept");
        }
        assert!(lines.iter().all(|line| line.starts_with("note ")), "{lines:#?}");

        let has = |lines: &[String], words: &[&str]| {
            let found =
                lines.iter().any(|line| line.starts_with("wrong ") && words.iter().all(|word| line.contains(word)));
            assert!(found, "{words:?}: {lines:#?}");
        };
        // A quota on what is not counted, a node without slots.
        let quotas: Api<ResourceQuota> = Api::namespaced(lab.client.clone(), &namespace);
        let quota = json!({"metadata": {"name": "old"}, "spec": {"hard": {"requests.nvidia.com/gpumem": "8000"}}});
        quotas.create(&PostParams::default(), &serde_json::from_value(quota).expect("a quota")).await.expect("created");
        let nodes: Api<Node> = Api::all(lab.client.clone());
        let none = json!({"status": {"allocatable": {"nvidia.com/gpu": "0"}}});
        nodes.patch_status("sound", &PatchParams::default(), &Patch::Merge(&none)).await.expect("patched");
        let (lines, status) = checked(lab, &namespace);
        assert_eq!(status, Some(1), "{lines:#?}");
        has(&lines, &["quotas", &namespace, "requests.nvidia.com/gpumem", "requests.packhorse.dev/gpu-memory"]);
        has(&lines, &["slots", "sound", "nvidia.com/gpu"]);
        quotas.delete("old", &DeleteParams::default()).await.expect("deleted");

        // The webhook's registration, then the webhook itself.
        let registrations: Api<MutatingWebhookConfiguration> = Api::all(lab.client.clone());
        let policy = async |policy: &str| {
            let patch = json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": policy}]);
            let patch: json_patch::Patch = serde_json::from_value(patch).expect("a patch");
            let params = PatchParams::default();
            registrations.patch("packhorse", &params, &Patch::Json::<()>(patch)).await.expect("patched");
        };
        policy("Ignore").await;
        let (lines, _) = checked(lab, &namespace);
        policy("Fail").await;
        has(&lines, &["webhook registration", "failurePolicy"]);
        lab.kill_server();
        let (lines, status) = checked(lab, &namespace);
        lab.start_server();
        lab.wait_until_ready().await;
        has(&lines, &["webhook: ", "cannot call it"]);
        assert_eq!(status, Some(1), "{lines:#?}");
    });
}

#[test]
fn check_names_the_pods_of_another_plugin_by_node_and_forgets_them_with_their_daemon_set() {
    on_cluster(async |lab| {
        GpuNode::new("sound", 1, A100, 81920).create(&lab.client).await;
        GpuNode::new("theirs", 1, A100, 81920).create(&lab.client).await;
        // Not ours: a node of NVIDIA's plugin has no inventory.
        pods::annotate_node(&lab.client, "theirs", json!({"packhorse.dev/inventory": null})).await;
        let namespace = lab.namespace("plugin", json!({})).await;
        let labels = json!({"app": "plugin"});
        let daemon: DaemonSet = serde_json::from_value(json!({
            "metadata": {"name": "nvidia-device-plugin-daemonset"},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
                // The lab has no other scheduler, and a pod without a node is nowhere in the way.
                "schedulerName": "packhorse",
                "containers": [{"name": "plugin", "image": "nvcr.io/nvidia/k8s-device-plugin:v0.20.0"}],
            }}},
        }))
        .expect("a DaemonSet");
        let daemons: Api<DaemonSet> = Api::namespaced(lab.client.clone(), &namespace);
        daemons.create(&PostParams::default(), &daemon).await.expect("created");
        let bound = pods::all_bound(&lab.client, &namespace, 2, 30).await;
        assert!(bound.iter().all(|pod| pod.metadata.owner_references.is_some()));

        let about = |lines: &[String]| -> Vec<String> {
            lines.iter().filter(|line| line.contains("NVIDIA's device plugin")).cloned().collect()
        };
        let (lines, status) = checked(lab, &namespace);
        let found = about(&lines);
        assert_eq!(status, Some(1), "{lines:#?}");
        assert_eq!(found.len(), 2, "{lines:#?}");
        assert!(
            found[0].starts_with("wrong ") && found[0].contains("node sound") && found[0].contains(&namespace),
            "{found:#?}"
        );
        assert!(found[1].starts_with("note ") && found[1].contains("serves theirs"), "{found:#?}");

        daemons.delete("nvidia-device-plugin-daemonset", &DeleteParams::default()).await.expect("deleted");
        wait::until("its pods to be collected", 60, async || {
            let pods = pods::list(&lab.client, &namespace).await;
            for pod in &pods {
                // There is no kubelet that would end them.
                let name = pod.metadata.name.as_deref().expect("a name");
                let now = DeleteParams::default().grace_period(0);
                // Gone already is as good.
                let _ = pods::api(&lab.client, &namespace).delete(name, &now).await;
            }
            pods.is_empty().then_some(())
        })
        .await;
        assert_eq!(about(&checked(lab, &namespace).0), [""; 0]);

        // A pod that merely names an owner which is not there is collected by Kubernetes itself, and is nobody's plugin then.
        let mut orphan = objects::pod("orphan", &json!({}));
        orphan.metadata.owner_references =
            serde_json::from_value(json!([{"apiVersion": "apps/v1", "kind": "DaemonSet",
            "name": "nvidia-device-plugin-daemonset", "uid": "00000000-0000-0000-0000-000000000000"}]))
            .expect("owners");
        pods::create(&lab.client, &namespace, &orphan).await;
        wait::until("the orphan to be collected", 60, async || {
            pods::list(&lab.client, &namespace)
                .await
                .iter()
                .all(|pod| pod.metadata.deletion_timestamp.is_some())
                .then_some(())
        })
        .await;
        assert_eq!(about(&checked(lab, &namespace).0), [""; 0]);
    });
}

#[test]
fn who_may_not_look_learns_so() {
    on_cluster(async |lab| {
        let namespace = lab.namespace("stranger", json!({})).await;
        let kubeconfig = lab.kubeconfig_of(&namespace, "default", None).await;
        for (command, status) in [("check", 2), ("inspect", 1), ("cleanup", 1)] {
            let program = Path::new(env!("CARGO_BIN_EXE_packhorse"));
            let output =
                Command::new(program).arg(command).arg("--kubeconfig").arg(&kubeconfig).output().expect("it runs");
            assert_eq!(output.status.code(), Some(status), "{command}: {}", said(&output));
            assert!(said(&output).contains("allow get and list of nodes"), "{command}: {}", said(&output));
        }
    });
}

#[test]
fn validate_follows_a_job_from_admission_to_its_end() {
    on_cluster(async |lab| {
        GpuNode::new("validated", 1, A100, 81920).create(&lab.client).await;
        let namespace = lab.namespace("validate", json!({})).await;
        let run = |lab: &Lab| {
            let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_packhorse")));
            command.args(["validate", "--image", "registry.example/sample:1", "--timeout", "60", "-n", &namespace]);
            command.arg("--kubeconfig").arg(&lab.kubeconfig);
            tokio::task::spawn_blocking(move || command.output().expect("the binary runs"))
        };
        for (phase, status) in [("Succeeded", 0), ("Failed", 1)] {
            let running = run(lab);
            // There is no kubelet: the test says how the pod ends.
            let pod = pods::all_bound(&lab.client, &namespace, 1, 30).await.remove(0);
            pods::finish(&lab.client, &namespace, pod.metadata.name.as_deref().expect("a name"), phase).await;
            let output = running.await.expect("it ends");
            let told = said(&output);
            assert_eq!(output.status.code(), Some(status), "{told}");
            assert!(
                told.contains("admitted   request")
                    && told.contains("scheduled  node validated: 1024 MiB of GPU-validated-0"),
                "{told}"
            );
            assert_eq!(told.contains("finished"), phase == "Succeeded", "{told}");
            wait::until("the Job and its pod to be gone", 30, async || {
                pods::list(&lab.client, &namespace).await.is_empty().then_some(())
            })
            .await;
        }
        // Nothing fits: the reason is told.
        let nodes: Api<Node> = Api::all(lab.client.clone());
        nodes.delete("validated", &DeleteParams::default()).await.expect("deleted");
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_packhorse")));
        command.args(["validate", "--timeout", "5", "-n", &namespace, "--kubeconfig"]).arg(&lab.kubeconfig);
        let output = command.output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains("not scheduled"), "{}", said(&output));
    });
}

/// What of a node should be as it was.
fn kept(node: &Node) -> Value {
    let node = serde_json::to_value(node).expect("JSON");
    json!({
        "labels": node["metadata"]["labels"],
        "annotations": node["metadata"]["annotations"],
        "spec": node["spec"],
        "capacity": node["status"]["capacity"],
        "allocatable": node["status"]["allocatable"],
    })
}

#[test]
fn cleanup_leaves_no_trace_and_changes_nothing_else() {
    on_cluster(async |lab| {
        let nodes: Api<Node> = Api::all(lab.client.clone());
        let plain = json!({
            "metadata": {
                "name": "left",
                "labels": {"kubernetes.io/hostname": "left", "nvidia.com/gpu.product": "of-another", "team": "x"},
                "annotations": {"team": "x"},
            },
            "spec": {"taints": [{"key": "team", "effect": "NoSchedule"}]},
            "status": {
                "capacity": {"cpu": "8", "memory": "32Gi", "pods": "110", "nvidia.com/gpu": "10"},
                "allocatable": {"cpu": "8", "memory": "32Gi", "pods": "110", "nvidia.com/gpu": "10"},
                "conditions": [{"type": "Ready", "status": "True", "reason": "Lab", "message": "",
                    "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        });
        nodes.create(&PostParams::default(), &serde_json::from_value(plain).expect("a Node")).await.expect("created");
        let before = kept(&nodes.get("left").await.expect("the node"));

        // As the agent writes it, and an administrator.
        let agent = PatchParams { field_manager: Some("packhorse-agent".to_owned()), ..PatchParams::default() };
        let inventory = GpuNode::new("left", 1, A100, 81920).inventory();
        let annotations = json!({"packhorse.dev/inventory": inventory, "packhorse.dev/cordon": "GPU-left-0"});
        let patch = json!({"metadata": {"annotations": annotations}});
        nodes.patch("left", &agent, &Patch::Merge(&patch)).await.expect("annotated");
        let totals = json!({"packhorse.dev/gpu-memory": "81920", "packhorse.dev/gpu-cores": "100"});
        let patch = json!({"status": {"capacity": totals, "allocatable": totals}});
        nodes.patch_status("left", &agent, &Patch::Merge(&patch)).await.expect("totals");
        let labels = PatchParams { field_manager: Some("packhorse-agent-labels".to_owned()), ..PatchParams::default() };
        let patch = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "left", "labels": {"nvidia.com/gpu.present": "true", "nvidia.com/gpu.count": "1"}},
        });
        nodes.patch("left", &labels, &Patch::Apply(&patch)).await.expect("labelled");
        let patch = json!([{"op": "add", "path": "/spec/taints/-", "value": {"key": "packhorse.dev/not-ready", "effect": "NoSchedule"}}]);
        let patch: json_patch::Patch = serde_json::from_value(patch).expect("a patch");
        nodes.patch("left", &PatchParams::default(), &Patch::Json::<()>(patch)).await.expect("tainted");
        let used = kept(&nodes.get("left").await.expect("the node"));
        assert_ne!(before, used);

        let output = packhorse(lab, &["cleanup", "--dry-run"]);
        assert!(
            output.status.success() && said(&output).contains("labels nvidia.com/gpu.count, nvidia.com/gpu.present"),
            "{}",
            said(&output)
        );
        assert_eq!(kept(&nodes.get("left").await.expect("the node")), used, "a dry run changes nothing");
        let output = packhorse(lab, &["cleanup", "--yes", "--node", "left"]);
        assert!(output.status.success(), "{}", said(&output));
        let node = nodes.get("left").await.expect("the node");
        assert_eq!(kept(&node), before);
        let traces = serde_json::to_string(&node).expect("JSON");
        assert!(!traces.contains("packhorse"), "{traces}");
        assert!(said(&packhorse(lab, &["cleanup", "--yes"])).contains("no trace is left"));
    });
}

#[test]
fn cleanup_leaves_a_node_alone_on_which_gpu_pods_run() {
    on_cluster(async |lab| {
        GpuNode::new("busy", 1, A100, 81920).create(&lab.client).await;
        let namespace = lab.namespace("busy", json!({})).await;
        pods::create(&lab.client, &namespace, &objects::pod("runs", &share(4_096))).await;
        pods::bound(&lab.client, &namespace, "runs", 30).await;
        let output = packhorse(lab, &["cleanup", "--yes"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(&format!("pod {namespace}/runs uses GPUs")), "{}", said(&output));
        pods::checked(&lab.client).await;
    });
}
