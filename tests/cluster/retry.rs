//! Pending pods: tried again as soon as something changes for them, and left alone while nothing does.

use serde_json::{Value, json};

use super::lab::{Lab, on_cluster};
use super::objects::{self, GpuNode};
use super::{pods, wait};

/// Scheduling, the back-off of kube-scheduler (1 s after a first failure) and a busy machine.
const SECONDS: u64 = 8;

fn whole() -> Value {
    json!({"nvidia.com/gpu": 1})
}

#[test]
fn a_pending_pod_is_bound_within_seconds_after_capacity_frees() {
    on_cluster(async |lab| {
        GpuNode::new("full", 1, "NVIDIA T4", 16384).create(&lab.client).await;
        let namespace = lab.namespace("freed", json!({})).await;
        // By totals there is room, on no device.
        let most = json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem-percentage": 70});
        for (first, second, end) in [("a", "b", "deleted"), ("c", "d", "Succeeded"), ("e", "f", "Failed")] {
            pods::create(&lab.client, &namespace, &objects::pod(first, &most)).await;
            pods::bound(&lab.client, &namespace, first, 20).await;
            pods::create(&lab.client, &namespace, &objects::pod(second, &most)).await;
            let message = pods::refused(&lab.client, &namespace, second, 20).await;
            assert!(message.contains("GPU memory exhausted"), "{message}");
            if end == "deleted" {
                delete(lab, &namespace, first).await;
            } else {
                pods::finish(&lab.client, &namespace, first, end).await;
            }
            pods::bound(&lab.client, &namespace, second, SECONDS).await;
            pods::checked(&lab.client).await;
            delete(lab, &namespace, second).await;
        }
    });
}

#[test]
fn a_pending_pod_is_bound_within_seconds_after_a_cordon_is_lifted() {
    on_cluster(async |lab| {
        let mut node = GpuNode::new("cordoned", 1, "NVIDIA T4", 16384);
        node.annotations.insert("packhorse.dev/cordon".to_owned(), json!("GPU-cordoned-0"));
        node.create(&lab.client).await;
        let namespace = lab.namespace("cordon", json!({})).await;
        pods::create(&lab.client, &namespace, &objects::pod("waiting", &whole())).await;
        let message = pods::refused(&lab.client, &namespace, "waiting", 20).await;
        assert!(message.contains("GPU cordoned"), "{message}");
        pods::annotate_node(&lab.client, "cordoned", json!({"packhorse.dev/cordon": null})).await;
        pods::bound(&lab.client, &namespace, "waiting", SECONDS).await;
    });
}

#[test]
fn a_pending_pod_is_bound_within_seconds_after_a_gpu_recovers() {
    on_cluster(async |lab| {
        let mut node = GpuNode::new("sick", 1, "NVIDIA T4", 16384);
        node.devices[0]["health"] = json!("unhealthy");
        node.create(&lab.client).await;
        let namespace = lab.namespace("recovery", json!({})).await;
        pods::create(&lab.client, &namespace, &objects::pod("waiting", &whole())).await;
        let message = pods::refused(&lab.client, &namespace, "waiting", 20).await;
        assert!(message.contains("GPU unhealthy"), "{message}");
        node.devices[0]["health"] = json!("healthy");
        pods::annotate_node(&lab.client, "sick", json!({"packhorse.dev/inventory": node.inventory()})).await;
        pods::bound(&lab.client, &namespace, "waiting", SECONDS).await;
    });
}

/// Each retry that ended in another message would be another write of the pod, and each write another retry.
#[test]
fn an_unschedulable_pod_is_not_retried_in_a_loop() {
    on_cluster(async |lab| {
        // Nodes that refuse for different reasons: too small, full by device, unhealthy, of another model.
        GpuNode::new("small", 1, "NVIDIA T4", 16384).create(&lab.client).await;
        let mut sick = GpuNode::new("sick", 1, "NVIDIA A100-SXM4-80GB", 81920);
        sick.devices[0]["health"] = json!("unhealthy");
        sick.create(&lab.client).await;
        GpuNode::new("full", 2, "NVIDIA A100-SXM4-80GB", 81920).create(&lab.client).await;
        let namespace = lab.namespace("patience", json!({})).await;
        for name in ["a", "b"] {
            let most = json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem-percentage": 70});
            let mut pod = objects::pod(name, &most);
            objects::pin(&mut pod, "full");
            pods::create(&lab.client, &namespace, &pod).await;
        }
        pods::all_bound(&lab.client, &namespace, 2, 20).await;
        let versions = pods::Versions::watch(&lab.client, &namespace).await;
        let filtered = lab.extender_calls("filter").await;
        let large = json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 40960});
        pods::create(&lab.client, &namespace, &objects::pod("patient", &large)).await;
        pods::refused(&lab.client, &namespace, "patient", 20).await;
        wait::throughout("the unschedulable pod is left alone", 25, async || versions.of("patient").len() <= 4).await;
        let calls = lab.extender_calls("filter").await - filtered;
        assert!((1.0..=4.0).contains(&calls), "{calls} filter calls for a pod that nothing changed for");
    });
}

async fn delete(lab: &Lab, namespace: &str, name: &str) {
    let deleted = pods::api(&lab.client, namespace).delete(name, &Default::default()).await;
    deleted.unwrap_or_else(|error| panic!("{name} is not deleted: {error}"));
}
