//! The labels of NVIDIA's GPU operator on the real API server: what the agent takes over, what it leaves alone, and that the operator finds
//! its own defaults again after a clean-up. In the operator's place stands what it is documented to do: `true` where there is no value.

use std::path::Path;
use std::process::Command;

use k8s_openapi::api::apps::v1::DaemonSet;
use packhorse::agent::backend::DriverPlace;

use super::*;

const PLUGIN: &str = "nvidia.com/gpu.deploy.device-plugin";
const DISCOVERY: &str = "nvidia.com/gpu.deploy.gpu-feature-discovery";
const DRIVER: &str = "nvidia.com/gpu.deploy.driver";

/// Sets labels as this field manager.
async fn label(lab: &Lab, name: &str, manager: &str, labels: Value) {
    let params = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
    let patch = json!({"metadata": {"labels": labels}});
    nodes(lab).patch(name, &params, &Patch::Merge(patch)).await.expect("labels");
}

/// What the operator does with every GPU node it finds.
async fn operate(lab: &Lab, name: &str) {
    let there = node(lab, name).await["metadata"]["labels"].clone();
    let empty = |key: &&str| there[*key].as_str().unwrap_or_default().is_empty();
    let labels: serde_json::Map<String, Value> = [PLUGIN, DISCOVERY, DRIVER]
        .iter()
        .filter(|key| empty(key))
        .map(|key| ((*key).to_owned(), json!("true")))
        .collect();
    label(lab, name, "gpu-operator", json!(labels)).await;
}

async fn values(lab: &Lab, name: &str) -> [Option<String>; 3] {
    let labels = node(lab, name).await["metadata"]["labels"].clone();
    [PLUGIN, DISCOVERY, DRIVER].map(|key| labels[key].as_str().map(str::to_owned))
}

async fn until(lab: &Lab, name: &str, expected: [Option<&str>; 3]) {
    let began = Instant::now();
    while values(lab, name).await.each_ref().map(Option::as_deref) != expected {
        if began.elapsed() > Duration::from_secs(20) {
            let node = node(lab, name).await;
            panic!("{name} has not {expected:?} after 20 s: {:#}", node["metadata"]);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// NVIDIA's device plugin as the operator runs it.
fn plugin() -> DaemonSet {
    let labels = json!({"app": "nvidia-device-plugin-daemonset"});
    serde_json::from_value(json!({
        "metadata": {"name": "nvidia-device-plugin-daemonset"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "nodeSelector": {PLUGIN: "true"},
                    // The lab has no other, and the controller looks after pods that have a node.
                    "schedulerName": "packhorse",
                    // There is no kubelet that would end them.
                    "terminationGracePeriodSeconds": 0,
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{"name": "plugin", "image": "nvcr.io/nvidia/k8s-device-plugin:v0.20.0"}],
                },
            },
        },
    }))
    .expect("a DaemonSet")
}

#[test]
fn the_operators_plugin_leaves_a_served_node_and_is_back_after_cleanup() {
    on_cluster(async |lab| {
        register(lab, "own").await;
        operate(lab, "own").await;
        let namespace = lab.namespace("gpu-operator", json!({})).await;
        let daemons: Api<DaemonSet> = Api::namespaced(lab.client.clone(), &namespace);
        daemons.create(&PostParams::default(), &plugin()).await.expect("NVIDIA's plugin");
        let plugins = async |count: usize| {
            wait::until(&format!("{count} pods of NVIDIA's plugin"), 30, async || {
                let pods = pods::list(&lab.client, &namespace).await;
                (pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).count() == count).then_some(())
            })
            .await;
        };
        plugins(1).await;

        let client = agent_client(lab, "own").await;
        let agent = Agent::telling(client.clone(), "own", &[], "device-plugin,gpu-feature-discovery,driver");
        let (no, yes) = (Some("false"), Some("true"));
        until(lab, "own", [no, no, yes]).await;
        plugins(0).await;
        published(lab, "own").await;
        assert!(agent.publisher.deploy().borrow().takes_pods(), "our own label does not keep us away");
        // The operator looks again, and leaves what is there.
        operate(lab, "own").await;
        assert_eq!(values(lab, "own").await.each_ref().map(Option::as_deref), [no, no, yes]);

        // Its manager of drivers pauses what runs, and lets it go on.
        label(lab, "own", "gpu-operator", json!({DISCOVERY: "paused-for-driver-upgrade"})).await;
        agent.view.send_modify(|view| Arc::make_mut(view).driver = "590.1".to_owned());
        wait::until("the agent to have looked", 20, async || {
            (node(lab, "own").await["metadata"]["labels"]["nvidia.com/cuda.driver.major"] == "590").then_some(())
        })
        .await;
        until(lab, "own", [no, Some("paused-for-driver-upgrade"), yes]).await;
        label(lab, "own", "gpu-operator", json!({DISCOVERY: "true"})).await;
        until(lab, "own", [no, no, yes]).await;

        // An upgrade that is under way takes the node out, and only for as long as it is.
        let ready = async |wanted: bool| {
            let mut deploy = agent.publisher.deploy();
            let told = deploy.wait_for(|deploy| deploy.takes_pods() == wanted);
            tokio::time::timeout(Duration::from_secs(10), told).await.expect("in time").expect("told");
        };
        label(lab, "own", "gpu-operator", json!({"nvidia.com/gpu-driver-upgrade-state": "drain-required"})).await;
        ready(false).await;
        label(lab, "own", "gpu-operator", json!({"nvidia.com/gpu-driver-upgrade-state": "upgrade-done"})).await;
        ready(true).await;

        // No operands: every word of ours goes.
        label(lab, "own", "kubectl", json!({"nvidia.com/gpu.deploy.operands": "false"})).await;
        until(lab, "own", [None, None, yes]).await;
        label(lab, "own", "kubectl", json!({"nvidia.com/gpu.deploy.operands": null})).await;
        until(lab, "own", [no, no, yes]).await;

        drop(agent);
        let cleaned = Command::new(Path::new(env!("CARGO_BIN_EXE_packhorse")))
            .args(["cleanup", "--yes", "--node", "own", "--kubeconfig"])
            .arg(&lab.kubeconfig)
            .output()
            .expect("it runs");
        assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
        let left = node(lab, "own").await;
        assert_eq!(values(lab, "own").await, [None, None, Some("true".to_owned())]);
        assert!(!left["metadata"]["managedFields"].to_string().contains("packhorse-agent-"), "{left:#}");
        operate(lab, "own").await;
        plugins(1).await;
    });
}

#[test]
fn a_driver_of_the_host_is_told_to_the_operator_once_and_a_decision_is_left_alone() {
    on_cluster(async |lab| {
        for (name, given, expected) in [
            ("new", None, Some("pre-installed")),
            ("empty", Some(""), Some("pre-installed")),
            ("refused", Some("false"), Some("false")),
            ("operated", Some("true"), Some("true")),
        ] {
            register(lab, name).await;
            if let Some(given) = given {
                label(lab, name, "kubectl", json!({DRIVER: given})).await;
            }
            let agent = Agent::telling(agent_client(lab, name).await, name, &[], "driver");
            agent.view.send_modify(|view| Arc::make_mut(view).driver_place = Some(DriverPlace::Host));
            wait::until("the place of the driver", 20, async || {
                (node(lab, name).await["metadata"]["labels"]["packhorse.dev/driver"] == "host").then_some(())
            })
            .await;
            until(lab, name, [None, None, expected]).await;
            // The driver container has taken over: what is ours goes, what is not stays.
            agent.view.send_modify(|view| Arc::make_mut(view).driver_place = Some(DriverPlace::Container));
            wait::until("the other place", 20, async || {
                (node(lab, name).await["metadata"]["labels"]["packhorse.dev/driver"] == "container").then_some(())
            })
            .await;
            until(lab, name, [None, None, expected.filter(|value| *value != "pre-installed")]).await;
        }
    });
}
