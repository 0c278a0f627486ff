//! What a container on a real node sees of the devices it was promised: through kube-scheduler, Packhorse's server, a real kubelet,
//! a real containerd and the agent.

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use serde_json::json;

use super::agent::{Agent, cards, uuid};
use super::lab::on_cluster;
use super::node::{Node, Runtime, Sight, workload};
use super::{pods, wait};

/// Waits until a container has started so often; what each start saw.
async fn started(node: &Node, namespace: &str, pod: &str, container: &str, times: usize) -> Vec<Sight> {
    wait::until(&format!("{container} of {pod} to start"), 90, async || {
        let seen = node.output(namespace, pod, container);
        (seen.len() >= times).then_some(seen)
    })
    .await
}

/// The devices of one container by its pod's annotations.
async fn promised(client: &Client, namespace: &str, name: &str, container: &str) -> String {
    let pod: Pod = pods::api(client, namespace).get(name).await.expect("the pod is there");
    let annotations = pod.metadata.annotations.unwrap_or_default();
    annotations.get(&format!("devices.packhorse.dev/{container}")).cloned().unwrap_or_default()
}

/// Four containers with a card each, and one beside each that has none.
fn told(runtime: Runtime) {
    if !runtime.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let node = Node::start(lab, "gpus", runtime, &[]).await;
        let _agent = Agent::start(lab, &node, &cards(4), &[]).await;
        let namespace = lab.namespace("told", json!({})).await;
        for number in 0..4 {
            let name = format!("pod-{number}");
            let main = workload::container("main", &["sleep"], &json!({"nvidia.com/gpu": 1}));
            let beside = workload::container("beside", &["sleep"], &json!({}));
            pods::create(&lab.client, &namespace, &workload::pod(&node, &name, &[], &[main, beside])).await;
        }
        for number in 0..4 {
            let name = format!("pod-{number}");
            let seen = started(&node, &namespace, &name, "main", 1).await;
            let given = promised(&lab.client, &namespace, &name, "main").await;
            assert!((0..4).any(|index| given == uuid(index)), "{given}");
            assert_eq!(seen[0].visible_devices(), Some(&*given));
            let seen = started(&node, &namespace, &name, "beside", 1).await;
            assert_eq!(seen[0].visible_devices(), Some("void"), "its image says all");
        }
    });
}

#[test]
fn a_container_is_told_its_device_by_its_own_variable_where_the_runtime_has_no_cdi() {
    told(Runtime::Containerd16);
}

#[test]
fn a_container_is_told_its_device_by_cdi() {
    told(Runtime::Containerd22);
}
