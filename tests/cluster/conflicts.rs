//! Pods that are bound but can never start: two on one device's room, or refused by the node's agent. A bound pod is never
//! rescheduled by Kubernetes, so the server evicts the later one, where a controller will replace it, and reports the others.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};

use super::lab::{Lab, on_cluster};
use super::objects::{self, GpuNode, node_of};
use super::{pods, wait};

/// From the conflict to the bound replacement; the server waits 60 s of it before it believes.
const SECONDS: u64 = 90;

const CARD: &str = "NVIDIA T4";

/// All at once, for each takes more than a minute: two Deployments' pods on one device, a Deployment's and a bare pod on another,
/// and a pod that the inventory lists as refused.
#[test]
fn what_was_bound_but_cannot_start_is_replaced_elsewhere_or_reported() {
    on_cluster(async |lab| {
        for name in ["shared", "mixed", "refusing", "spare-1", "spare-2"] {
            GpuNode::new(name, 1, CARD, 15360).create(&lab.client).await;
        }
        lab.wait_for_ledger(5).await;
        let namespace = lab.namespace("conflicts", json!({})).await;
        // Bound by hand, as the server would, before kube-scheduler sees them.
        lab.kill_scheduler();
        let hand = lab.client_of("packhorse-system", "packhorse-server", None).await;
        for name in ["earlier", "later", "beside-bare", "refused"] {
            deploy(lab, &namespace, name).await;
        }
        let bare = objects::pod("bare", &whole());
        pods::create(&lab.client, &namespace, &bare).await;
        let mut replaced = Vec::new();
        for (app, node) in
            [("earlier", "shared"), ("later", "shared"), ("beside-bare", "mixed"), ("refused", "refusing")]
        {
            let pod = pod_of(&lab.client, &namespace, app).await;
            bind_by_hand(&hand, &pod, node).await;
            replaced.push((app, pod.metadata.uid.expect("a UID")));
            // Their times of binding are told apart by the second.
            tokio::time::sleep(Duration::from_millis(1100)).await;
        }
        let bare = pods::api(&lab.client, &namespace).get("bare").await.expect("the bare pod");
        bind_by_hand(&hand, &bare, "mixed").await;
        // What an agent writes that found something wrong at container start; and nobody else shall go there.
        let (_, uid) = &replaced[3];
        let name = pod_of(&lab.client, &namespace, "refused").await.metadata.name.expect("a name");
        let mut node = GpuNode::new("refusing", 1, CARD, 15360);
        node.refused.push(json!({"pod": format!("{namespace}/{name}"), "uid": uid, "reason": "device in use"}));
        let annotations = json!({
            "packhorse.dev/inventory": node.inventory(), "packhorse.dev/cordon": "GPU-refusing-0",
        });
        pods::annotate_node(&lab.client, "refusing", annotations).await;
        let started = std::time::Instant::now();
        lab.start_scheduler();

        for (app, uid) in [&replaced[1], &replaced[3]] {
            let left = SECONDS.saturating_sub(started.elapsed().as_secs());
            let replacement = wait::until(&format!("the pod of {app} to be replaced and bound"), left, async || {
                let pod = find(&lab.client, &namespace, app).await?;
                (pod.metadata.uid.as_ref() != Some(uid) && node_of(&pod).is_some()).then_some(pod)
            })
            .await;
            let node = node_of(&replacement).expect("a node");
            assert!(node.starts_with("spare-"), "the replacement of {app} is on {node}");
        }
        for (app, uid) in [&replaced[0], &replaced[2]] {
            let pod = pod_of(&lab.client, &namespace, app).await;
            assert_eq!(pod.metadata.uid.as_ref(), Some(uid), "{app} was bound first and stays");
        }
        let events: Api<Event> = Api::namespaced(lab.client.clone(), &namespace);
        let reported = wait::until("an Event that reports the bare pod", 30, async || {
            let about = ListParams::default().fields("involvedObject.name=bare");
            let listed = events.list(&about).await.ok()?.items;
            listed.into_iter().find(|event| event.type_.as_deref() == Some("Warning") && is_ours(event))
        })
        .await;
        assert!(reported.message.is_some_and(|message| message.contains("GPU-mixed-0")), "names the device");
        let still = pods::api(&lab.client, &namespace).get("bare").await.expect("a bare pod is never evicted");
        assert_eq!(still.metadata.uid, bare.metadata.uid);
    });
}

fn is_ours(event: &Event) -> bool {
    let component =
        event.reporting_component.as_deref().or(event.source.as_ref().and_then(|source| source.component.as_deref()));
    component.is_some_and(|component| component.contains("packhorse"))
        && !event.message.as_deref().unwrap_or_default().contains("nodes are available")
}

fn whole() -> Value {
    json!({"nvidia.com/gpu": 1})
}

async fn deploy(lab: &Lab, namespace: &str, name: &str) {
    let deployments: Api<Deployment> = Api::namespaced(lab.client.clone(), namespace);
    let deployment = objects::deployment(name, 1, &objects::pod_spec(&whole()));
    deployments.create(&PostParams::default(), &deployment).await.expect("a Deployment");
}

/// The one pod of a Deployment that is not on its way out.
async fn find(client: &Client, namespace: &str, app: &str) -> Option<Pod> {
    let labelled = ListParams::default().labels(&format!("app={app}"));
    let listed = pods::api(client, namespace).list(&labelled).await.ok()?.items;
    listed.into_iter().find(|pod| pod.metadata.deletion_timestamp.is_none())
}

async fn pod_of(client: &Client, namespace: &str, app: &str) -> Pod {
    wait::until(&format!("a pod of {app}"), 30, async || find(client, namespace, app).await).await
}

/// The server's own call, with the whole of the node's first card.
async fn bind_by_hand(server: &Client, pod: &Pod, node: &str) {
    let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
    let (namespace, name) = (namespace.expect("a namespace"), name.expect("a name"));
    let device = format!("GPU-{node}-0");
    let entry = json!({"device": device, "memory": 15360, "cores": 100, "exclusive": true, "enforcement": "advisory"});
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": name, "namespace": namespace, "uid": pod.metadata.uid, "annotations": {
            "packhorse.dev/allocation": json!({"v": 1, "containers": {"main": [entry]}}).to_string(),
            "devices.packhorse.dev/main": device,
        }},
        "target": {"kind": "Node", "name": node},
    });
    let bound = pods::api(server, namespace)
        .create_subresource::<Value, Value>("binding", name, &PostParams::default(), &binding)
        .await;
    bound.unwrap_or_else(|error| panic!("{name} cannot be bound to {node} by hand: {error}"));
}
