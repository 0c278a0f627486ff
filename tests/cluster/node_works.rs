//! The real node of the tests itself, with both versions of containerd: pods run on it, say what they see, and outlive their kubelet.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::Client;
use serde_json::json;

use super::lab::on_cluster;
use super::node::{Node, Runtime, Sight, workload};
use super::{pods, wait};

const BOTH: [Runtime; 2] = [Runtime::Containerd16, Runtime::Containerd22];

fn status_of<'pod>(pod: &'pod Pod, container: &str) -> Option<&'pod ContainerStatus> {
    let all = pod.status.as_ref()?.container_statuses.as_ref()?;
    all.iter().find(|status| status.name == container)
}

/// Waits until a container runs that has been restarted exactly so often; its ID.
async fn running(client: &Client, namespace: &str, pod: &str, container: &str, restarts: i32) -> String {
    let api = pods::api(client, namespace);
    wait::until(&format!("{container} of {pod} to run"), 60, async || {
        let pod = api.get(pod).await.ok()?;
        let status = status_of(&pod, container)?;
        let runs = status.state.as_ref()?.running.is_some() && status.restart_count == restarts;
        runs.then(|| status.container_id.clone()).flatten()
    })
    .await
}

#[test]
fn a_pod_runs_says_what_it_sees_and_outlives_the_kubelet() {
    on_cluster(async |lab| {
        for runtime in BOTH {
            if !runtime.is_here() {
                continue;
            }
            let mut node = Node::start(lab, "real", runtime, &[]).await;
            let namespace = lab.namespace("plain", json!({})).await;
            let main = workload::container("main", &["sleep"], &json!({}));
            pods::create(&lab.client, &namespace, &workload::pod(&node, "plain", &[], &[main])).await;
            let id = running(&lab.client, &namespace, "plain", "main", 0).await;

            let seen = node.output(&namespace, "plain", "main");
            assert_eq!(seen.len(), 1);
            assert_eq!(seen[0].container(), "main");
            assert_eq!(seen[0].visible_devices(), Some("all"), "what the image says");
            assert!(seen[0].devices.is_empty(), "{:?}", seen[0].devices);
            assert!(seen[0].mounts.is_empty());

            node.restart_kubelet().await;
            node.stop_kubelet().await;
            let pods_seen = node.kubelet_log().matches("SyncLoop ADD").count();
            node.start_kubelet().await;
            wait::until("the kubelet to look at its pods", 30, async || {
                (node.kubelet_log().matches("SyncLoop ADD").count() > pods_seen).then_some(())
            })
            .await;
            assert_eq!(running(&lab.client, &namespace, "plain", "main", 0).await, id);
            assert_eq!(node.records().len(), 1);

            node.power_off().await;
            node.power_on().await;
            assert_ne!(running(&lab.client, &namespace, "plain", "main", 1).await, id);
            assert_eq!(node.records().len(), 2, "{}", node.kubelet_log());
        }
    });
}

#[test]
fn init_containers_sidecars_and_crashes_leave_a_record_each() {
    on_cluster(async |lab| {
        if !Runtime::Containerd16.is_here() {
            return;
        }
        let node = Node::start(lab, "real", Runtime::Containerd16, &[]).await;
        let namespace = lab.namespace("kinds", json!({})).await;
        let none = json!({});
        let init = [
            workload::container("first", &["exit", "0"], &none),
            workload::sidecar("beside", &none),
            workload::container("second", &["exit", "0"], &none),
        ];
        let main = workload::container("main", &["after", "100", "3"], &none);
        let pod = pods::create(&lab.client, &namespace, &workload::pod(&node, "kinds", &init, &[main])).await;
        running(&lab.client, &namespace, "kinds", "main", 2).await;

        let records = node.records();
        let order: Vec<&str> = records.iter().map(Sight::container).collect();
        assert_eq!(order[..3], ["first", "beside", "second"]);
        assert!(order.len() >= 6 && order[3..].iter().all(|&name| name == "main"), "{order:?}");
        assert!(records.iter().all(|sight| Some(sight.pod_uid()) == pod.metadata.uid.as_deref()));
        assert!(node.output(&namespace, "kinds", "main").len() >= 3, "the logs of crashed containers are kept");
    });
}
