//! Ends of kube-scheduler and of the server, as crashes: nothing is lost, nothing counted twice, pending pods go on.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::lab::{Lab, on_cluster};
use super::objects::{self, GpuNode, node_of};
use super::pods;

/// Room for twenty such pods on the two nodes, by memory of each card.
fn tenth() -> Value {
    json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 4096, "nvidia.com/gpucores": 10})
}

/// A new kube-scheduler waits for the lease of the one that was killed: 15 s. Then back-off, and a busy machine.
const SECONDS: u64 = 60;

#[test]
fn a_restart_of_kube_scheduler_loses_nothing() {
    on_cluster(async |lab| {
        survives(lab, async |lab| {
            lab.kill_scheduler();
            lab.start_scheduler();
        })
        .await;
    });
}

#[test]
fn a_restart_of_the_server_loses_nothing() {
    on_cluster(async |lab| {
        survives(lab, async |lab| {
            lab.kill_server();
            lab.start_server();
            lab.wait_until_ready().await;
        })
        .await;
    });
}

#[test]
fn a_server_that_is_asked_to_end_does_so_and_loses_nothing() {
    on_cluster(async |lab| {
        survives(lab, async |lab| {
            let status = lab.stop_server().await;
            assert!(status.success(), "{status}");
            lab.start_server();
            lab.wait_until_ready().await;
        })
        .await;
    });
}

#[test]
fn a_restart_of_both_loses_nothing() {
    on_cluster(async |lab| {
        survives(lab, async |lab| {
            lab.kill_scheduler();
            lab.kill_server();
            lab.start_server();
            lab.start_scheduler();
            lab.wait_until_ready().await;
        })
        .await;
    });
}

/// Twenty-five pods, room for twenty; a restart; three end. Three more must be bound: fewer, and something was counted twice;
/// more, and something was lost, which the checker sees as well.
async fn survives(lab: &mut Lab, restart: impl AsyncFnOnce(&mut Lab)) {
    for name in ["one", "two"] {
        GpuNode::new(name, 1, "NVIDIA A100-PCIE-40GB", 40960).create(&lab.client).await;
    }
    lab.wait_for_ledger(2).await;
    let namespace = lab.namespace("restart", json!({})).await;
    let all: Vec<Pod> = (0..25).map(|n| objects::pod(&format!("pod-{n:02}"), &tenth())).collect();
    pods::create_all(&lab.client, &namespace, &all).await;
    let before = pods::all_bound(&lab.client, &namespace, 20, SECONDS).await;
    restart(lab).await;
    for pod in before.iter().take(3).filter_map(|pod| pod.metadata.name.as_deref()) {
        pods::finish(&lab.client, &namespace, pod, "Succeeded").await;
    }
    pods::all_bound(&lab.client, &namespace, 23, SECONDS).await;
    // The two that wait have been refused again since, by whoever restarted.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let after = pods::list(&lab.client, &namespace).await;
    assert_eq!(after.iter().filter(|pod| node_of(pod).is_some()).count(), 23);
    pods::checked(&lab.client).await;
}

/// Bindings are on their way when it happens, and their answers are lost.
#[test]
fn a_crash_of_both_in_the_middle_of_a_burst_loses_nothing() {
    on_cluster(async |lab| {
        for n in 0..6 {
            GpuNode::new(&format!("node-{n}"), 2, "NVIDIA A100-PCIE-40GB", 40960).create(&lab.client).await;
        }
        lab.wait_for_ledger(6).await;
        let namespace = lab.namespace("crash", json!({})).await;
        lab.kill_scheduler();
        // Exactly all the room there is: one lost or doubled booking shows.
        let all: Vec<Pod> = (0..120).map(|n| objects::pod(&format!("pod-{n:03}"), &tenth())).collect();
        pods::create_all(&lab.client, &namespace, &all).await;
        lab.start_scheduler();
        let some = super::wait::becomes(SECONDS, async || {
            pods::list(&lab.client, &namespace).await.iter().any(|pod| node_of(pod).is_some())
        });
        assert!(some.await, "no pod was bound before the crash");
        lab.kill_server();
        lab.kill_scheduler();
        let bound = pods::list(&lab.client, &namespace).await.iter().filter(|pod| node_of(pod).is_some()).count();
        assert!(bound < 120, "the crash came after the burst: this shows nothing");
        lab.start_server();
        lab.start_scheduler();
        pods::all_bound(&lab.client, &namespace, 120, SECONDS).await;
        pods::checked(&lab.client).await;
    });
}
