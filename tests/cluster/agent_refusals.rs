//! Pods that the agent must not start, on real nodes: what their authors read, that nobody beside them notices, and where those go that
//! have a controller. And those that it serves although they came around Packhorse.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, Node as NodeObject, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::agent::{Agent, cards, uuid};
use super::agent_containers::{self, OUTSIDE, first_start, host_devices, promised, refusal, stranger};
use super::lab::{Lab, on_cluster};
use super::node::{Node, Runtime, StandIns, workload};
use super::{objects, pods, wait};

/// A pod with one container.
fn single(node: &Node, name: &str, limits: &Value, annotations: &Value) -> Pod {
    let mut pod = workload::pod(node, name, &[], &[workload::container("main", &["sleep"], limits)]);
    pod.metadata.annotations = serde_json::from_value(annotations.clone()).expect("annotations");
    pod
}

/// Says that a pod is on a node, without a scheduler.
async fn bind(client: &Client, namespace: &str, pod: &str, node: &str, annotations: Value) {
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod, "annotations": annotations},
        "target": {"kind": "Node", "name": node}});
    let request = axum::http::Request::post(format!("/api/v1/namespaces/{namespace}/pods/{pod}/binding"))
        .header("content-type", "application/json")
        .body(binding.to_string().into_bytes())
        .expect("a request");
    client.request::<Value>(request).await.unwrap_or_else(|error| panic!("{pod} is not bound: {error}"));
}

/// ID and restarts of a container that runs.
async fn running(client: &Client, namespace: &str, pod: &str) -> Option<(String, i32)> {
    let pod = pods::api(client, namespace).get(pod).await.ok()?;
    let status = pod.status?.container_statuses?.into_iter().find(|status| status.name == "main")?;
    status.state?.running?;
    Some((status.container_id?, status.restart_count))
}

/// The pods that the node's inventory lists under `refused`, with the reason.
async fn refused(client: &Client, node: &str) -> Vec<(String, String)> {
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let inventory = inventory(client, node).await;
    let all = inventory["refused"].as_array().cloned().unwrap_or_default();
    all.iter().map(|entry| (text(entry, "pod"), text(entry, "reason"))).collect()
}

async fn inventory(client: &Client, node: &str) -> Value {
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let annotations = nodes.get(node).await.expect("the node is there").metadata.annotations.unwrap_or_default();
    serde_json::from_str(&annotations["packhorse.dev/inventory"]).expect("an inventory")
}

/// Waits until the author of the pod can read these words where a waiting pod is looked into: its status and its events.
async fn is_told(client: &Client, namespace: &str, pod: &str, words: &str) {
    let message = refusal(client, namespace, pod).await;
    assert!(message.contains(words), "{pod}: {message}");
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let of_pod = ListParams::default().fields(&format!("involvedObject.name={pod}"));
    wait::until(&format!("an event of {pod} that says {words:?}"), 30, async || {
        let events = events.list(&of_pod).await.ok()?.items;
        events.iter().any(|event| event.message.as_ref().is_some_and(|it| it.contains(words))).then_some(())
    })
    .await;
}

#[test]
fn what_was_not_given_by_packhorse_is_refused_and_runs_elsewhere_where_it_has_a_controller() {
    if !Runtime::Containerd22.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let here = Node::start(lab, "here", Runtime::Containerd22, &[]).await;
        let there = Node::start(lab, "there", Runtime::Containerd22, &[]).await;
        let _agents = (
            Agent::start(lab, &here, &cards(2), &[]).await,
            Agent::start(lab, &there, &cards(1).replace("GPU-0000", "GPU-1111"), &[]).await,
        );
        let elsewhere = uuid(0).replace("GPU-0000", "GPU-1111");
        lab.kubectl(&["cordon", "there"]);
        let namespace = lab.namespace("refusals", json!({})).await;
        let (client, ours) = (&lab.client, &*namespace);
        let server = lab.client_of("packhorse-system", "packhorse-server", None).await;

        // Who must notice nothing.
        let whole = json!({"nvidia.com/gpu": 1});
        let first = json!({"packhorse.dev/gpu-uuid": uuid(0)});
        let neighbour = single(&here, "neighbour", &whole, &first);
        let neighbour = pods::create(client, ours, &neighbour).await;
        first_start(&here, &neighbour, "main").await;
        let undisturbed =
            wait::until("the neighbour to run", 30, async || running(client, ours, "neighbour").await).await;

        // With spec.nodeName: refused at creation, and where nobody polices creation by the agent.
        let named = stranger(&here, "named");
        let denied = pods::api(client, ours).create(&PostParams::default(), &named).await;
        let denied = denied.expect_err("refused at creation").to_string();
        assert!(denied.contains("spec.nodeName") && denied.contains("nodeSelector"), "{denied}");
        pods::create(client, OUTSIDE, &named).await;

        // The mark of a pod that was admitted, written by hand.
        let mut marked = stranger(&here, "marked");
        let request = json!({"v": 1, "containers": {"main": {"count": 1, "memory": 1000}}}).to_string();
        marked.metadata.annotations = Some([("packhorse.dev/request".to_owned(), request)].into());
        let marked_spec = marked.spec.as_mut().expect("a spec");
        marked_spec.scheduler_name = Some("packhorse".to_owned());
        let totals =
            json!({"limits": {"nvidia.com/gpu": 1, "packhorse.dev/gpu-memory": 1000, "packhorse.dev/gpu-cores": 0}});
        marked_spec.containers[0].resources = Some(serde_json::from_value(totals).expect("resources"));
        pods::create(client, OUTSIDE, &marked).await;

        // An allocation that names the neighbour's card, by somebody who may do what the server may.
        let share = json!({"nvidia.com/gpumem": 1000});
        pods::create(client, ours, &single(&here, "forged", &share, &first)).await;
        pods::refused(client, ours, "forged", 30).await;
        let given = json!([{"device": uuid(0), "memory": 1000, "cores": 0, "enforcement": "advisory"}]);
        let forged = json!({"v": 1, "containers": {"main": given}}).to_string();
        let forged = json!({"packhorse.dev/allocation": forged, "devices.packhorse.dev/main": uuid(0)});
        bind(&server, ours, "forged", "here", forged).await;

        // An allocation that is taken away before the container starts: its image comes late.
        let mut robbed = single(&here, "robbed", &share, &json!({}));
        robbed.spec.as_mut().expect("a spec").containers[0].image = Some("registry.example/late:1".to_owned());
        pods::create(client, ours, &robbed).await;
        pods::bound(client, ours, "robbed", 30).await;
        assert_eq!(promised(client, ours, "robbed", "main").await, uuid(1));
        let gone = json!({"metadata": {"annotations": {"packhorse.dev/allocation": null, "devices.packhorse.dev/main": null}}});
        let taken =
            pods::api(&server, ours).patch_status("robbed", &PatchParams::default(), &Patch::Merge(&gone)).await;
        assert_eq!(objects::annotation(&taken.expect("patched"), "packhorse.dev/allocation"), None);
        let image = json!({"spec": {"containers": [{"name": "main", "image": "registry.example/probe:1"}]}});
        let late = pods::api(client, ours).patch("robbed", &PatchParams::default(), &Patch::Strategic(&image)).await;
        late.expect("the image is there now");

        // Bound by hand, without an allocation, and with a controller. It may run on either node.
        let either = json!({"packhorse.dev/gpu-uuid": format!("{},{elsewhere}", uuid(0))});
        let template = serde_json::to_value(single(&there, "", &share, &json!({})).spec).expect("a spec");
        let mut deployment = objects::deployment("moved", 1, &template);
        let template = &mut deployment.spec.as_mut().expect("a spec").template;
        template.metadata.as_mut().expect("metadata").annotations =
            serde_json::from_value(either).expect("annotations");
        template.spec.as_mut().expect("a spec").node_selector = None;
        let deployments: Api<_> = Api::namespaced(client.clone(), ours);
        deployments.create(&PostParams::default(), &deployment).await.expect("a Deployment");
        let of_deployment = async || {
            let all = pods::list(client, ours).await;
            all.into_iter().find(|pod| {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                name.starts_with("moved-") && pod.metadata.deletion_timestamp.is_none()
            })
        };
        let moved = wait::until("the Deployment's pod", 30, of_deployment).await;
        let moved = moved.metadata.name.expect("a name");
        pods::refused(client, ours, &moved, 30).await;
        bind(client, ours, &moved, "here", json!({})).await;

        let no_allocation = "has no annotation packhorse.dev/allocation";
        is_told(client, ours, &moved, no_allocation).await;
        let since = Instant::now();
        lab.kubectl(&["uncordon", "there"]);
        let held = format!(
            "device {} has no room for pod {ours}/forged (an exclusive device): it is held by {ours}/neighbour",
            uuid(0)
        );
        let table = [
            (OUTSIDE, "named", "asks for GPUs and did not come through Packhorse"),
            (OUTSIDE, "marked", no_allocation),
            (ours, "forged", &held),
            (ours, "robbed", no_allocation),
            (ours, &moved, no_allocation),
        ];
        for (namespace, pod, words) in table {
            is_told(client, namespace, pod, words).await;
            let name = format!("{namespace}/{pod}");
            wait::until(&format!("{name} to be listed as refused"), 20, async || {
                let listed = refused(client, "here").await;
                listed.iter().any(|(pod, reason)| *pod == name && reason.contains(words)).then_some(())
            })
            .await;
        }

        let next = wait::until("the Deployment's pod to run elsewhere", 120, async || {
            let pod = of_deployment().await.filter(|pod| objects::node_of(pod) == Some("there"))?;
            let name = pod.metadata.name.clone().expect("a name");
            running(client, ours, &name).await.map(|_| pod)
        })
        .await;
        let took = since.elapsed();
        assert!(took < Duration::from_secs(90), "the pod ran elsewhere {took:?} after it was refused");
        assert_eq!(objects::annotation(&next, "devices.packhorse.dev/main"), Some(&*elsewhere));
        // The old one leaves the list with its object; bare pods stay where they are.
        wait::until("only the bare pods to be refused", 30, async || {
            let mut left: Vec<String> = refused(client, "here").await.into_iter().map(|(pod, _)| pod).collect();
            left.sort();
            let mut bare = ["forged", "robbed"].map(|name| format!("{ours}/{name}")).to_vec();
            bare.extend(["marked", "named"].map(|name| format!("{OUTSIDE}/{name}")));
            bare.sort();
            (left == bare).then_some(())
        })
        .await;
        assert_eq!(running(client, ours, "neighbour").await, Some(undisturbed));
        let started = here.records().iter().chain(&there.records()).filter(|sight| sight.container() == "main").count();
        assert_eq!(started, 2, "the neighbour and the pod that moved");
    });
}

#[test]
fn a_foreign_pod_gets_a_whole_free_device_that_nobody_else_is_given() {
    if !Runtime::Containerd22.is_here() {
        return;
    }
    on_cluster(async |lab| foreign(lab).await);
}

async fn foreign(lab: &Lab) {
    let node = Node::start(lab, "gpus", Runtime::Containerd22, &[]).await;
    let stand_ins = host_devices(&node, 3);
    let _agent = Agent::start(lab, &node, &cards(3), &["--foreign-pods", "serve"]).await;
    let namespace = lab.namespace("foreign", json!({})).await;
    let (client, ours) = (&lab.client, &*namespace);
    let share = json!({"nvidia.com/gpumem": 1000});
    let first = pods::create(client, ours, &single(&node, "first", &share, &json!({}))).await;
    first_start(&node, &first, "main").await;
    let shared = promised(client, ours, "first", "main").await;

    let stranger = pods::create(client, OUTSIDE, &stranger(&node, "stranger")).await;
    let seen = first_start(&node, &stranger, "main").await;
    assert_eq!(seen.visible_devices(), Some("void"));
    let uid = stranger.metadata.uid.as_deref().expect("created");
    let expected = json!({"pod": format!("{OUTSIDE}/stranger"), "uid": uid});
    let of_stranger = async || {
        let inventory = inventory(client, "gpus").await;
        let devices = inventory["devices"].as_array().expect("devices").clone();
        let marked: Vec<Value> = devices.into_iter().filter(|device| device.get("foreign").is_some()).collect();
        assert!(marked.iter().all(|device| device["foreign"] == expected), "{marked:?}");
        marked.iter().map(|device| device["uuid"].as_str().expect("a UUID").to_owned()).collect::<Vec<_>>()
    };
    // Published before the container started.
    let devices = of_stranger().await;
    assert_eq!(devices.len(), 1, "one whole device");
    assert_ne!(devices[0], shared, "that nobody held");
    assert_eq!(seen.devices.get(&stand_ins.path(&devices[0])), Some(&stand_ins.number(&devices[0])));
    assert_eq!(seen.devices.len(), 1 + StandIns::common().count(), "{:?}", seen.devices);

    // One card is left for whole devices.
    let whole = json!({"nvidia.com/gpu": 1});
    for name in ["second", "third"] {
        pods::create(client, ours, &single(&node, name, &whole, &json!({}))).await;
    }
    let fits = wait::until("one of two to be bound", 60, async || {
        let all = pods::list(client, ours).await;
        all.into_iter().find(|pod| pod.metadata.name.as_deref() != Some("first") && objects::node_of(pod).is_some())
    })
    .await;
    first_start(&node, &fits, "main").await;
    let fits = fits.metadata.name.as_deref().expect("a name");
    let waits = if fits == "second" { "third" } else { "second" };
    pods::refused(client, ours, waits, 30).await;
    let given = promised(client, ours, fits, "main").await;
    assert!(given != shared && given != devices[0], "{given}");
    // Shares are not put beside it either.
    let mut beside = single(&node, "beside", &share, &json!({"packhorse.dev/gpu-uuid": devices[0]}));
    beside.spec.as_mut().expect("a spec").node_selector = None;
    pods::create(client, ours, &beside).await;
    pods::refused(client, ours, "beside", 30).await;

    // A second one finds no free device.
    let late = agent_containers::stranger(&node, "late");
    pods::create(client, OUTSIDE, &late).await;
    is_told(client, OUTSIDE, "late", "there is no free device for it").await;

    // It goes, and its device is free again.
    for name in ["late", "stranger"] {
        pods::api(client, OUTSIDE).delete(name, &DeleteParams::default().grace_period(1)).await.expect("deleted");
    }
    wait::until("the mark to go", 30, async || of_stranger().await.is_empty().then_some(())).await;
    let freed = wait::until("its device to be given to one that waits", 60, async || {
        let all = pods::list(client, ours).await;
        let mut waiting = all.into_iter().filter(|pod| {
            let name = pod.metadata.name.as_deref();
            name == Some(waits) || name == Some("beside")
        });
        waiting.find(|pod| objects::node_of(pod).is_some())
    })
    .await;
    assert_eq!(objects::annotation(&freed, "devices.packhorse.dev/main"), Some(&*devices[0]));
    first_start(&node, &freed, "main").await;
}
