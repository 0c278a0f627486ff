//! Pods that came around Packhorse, where the policy is to serve them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use packhorse::agent::foreign::Policy;
use packhorse::agent::specification::Form;
use packhorse::agent::start::Reason;
use packhorse::agent::view::NodeView;
use packhorse::gpu::device::Health;
use serde_json::{Value, json};

use super::bench::*;

async fn serving(cards: usize) -> Node {
    let mut node = Node::new(cards).await;
    node.policy = Policy::Serve;
    node.boot().await;
    node
}

/// As another scheduler binds it: no annotation of ours.
fn foreign(name: &str, containers: &[Spec]) -> Value {
    let mut object = pod(name, containers);
    object["metadata"]["annotations"] = json!({});
    object["spec"]["schedulerName"] = "default-scheduler".into();
    object
}

async fn bind(node: &Node, name: &str, containers: &[Spec]) -> (String, Vec<String>) {
    node.bind_object(name, foreign(name, containers), containers).await
}

fn published(node: &Node) -> BTreeMap<String, String> {
    let standing = node.agent().standing.borrow();
    standing.foreign.iter().map(|(device, foreign)| (device.to_string(), foreign.pod.clone())).collect()
}

fn list(entries: &[(usize, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(device, pod)| (uuid(*device), (*pod).to_owned())).collect()
}

#[tokio::test]
async fn a_foreign_pod_gets_a_device_that_nobody_holds_once_the_world_knows() {
    let node = serving(2).await;
    node.bind("ours", &main("GPU-2::0", 1)).await;
    // Not started yet: what was promised counts.
    let (uid, named) = bind(&node, "theirs", &main("GPU-1::0", 1)).await;
    node.publisher.away.store(true, Ordering::SeqCst);
    let message = node.prepare(&["GPU-1::0"]).await.unwrap_err();
    assert!(message.contains("could not be published: no answer"), "{message}");
    assert_eq!((node.gets(&named[0]), node.refused(&uid)), (None, None));
    node.publisher.away.store(false, Ordering::SeqCst);
    node.prepare(&["GPU-1::0"]).await.unwrap();
    assert_eq!(node.gets(&named[0]), Some(uuid(2)));
    assert_eq!(published(&node), list(&[(2, "ns/theirs")]));
    let calls = node.publisher.calls.load(Ordering::SeqCst);
    node.prepare(&["GPU-1::0"]).await.unwrap();
    assert_eq!(node.publisher.calls.load(Ordering::SeqCst), calls, "a restart needs nobody");
    // The next finds nothing free, and a pod of ours that was bound there meanwhile is refused.
    let (uid, _) = bind(&node, "more", &main("GPU-1::1", 1)).await;
    assert!(node.prepare(&["GPU-1::1"]).await.unwrap_err().contains("no free device"));
    assert!(node.refused(&uid).is_some());
    node.bind("late", &main("GPU-1::2", 2)).await;
    assert!(node.prepare(&["GPU-1::2"]).await.unwrap_err().contains("it is held by ns/theirs"));
}

#[tokio::test]
async fn a_foreign_pod_is_known_after_a_restart_and_its_device_is_free_when_it_is_gone() {
    let mut node = serving(1).await;
    let (uid, named) = bind(&node, "theirs", &main("GPU-1::0", 1)).await;
    node.prepare(&["GPU-1::0"]).await.unwrap();
    node.publisher.away.store(true, Ordering::SeqCst);
    node.boot().await;
    assert_eq!(published(&node), list(&[(1, "ns/theirs")]));
    node.prepare(&["GPU-1::0"]).await.expect("it was published before");
    node.delete("theirs", &uid);
    node.until("it is forgotten", |agent| agent.standing.borrow().foreign.is_empty()).await;
    node.until("its specification too", |_| node.gets(&named[0]).is_none()).await;
}

#[tokio::test]
async fn devices_that_are_out_of_order_or_cordoned_are_not_given_away() {
    let node = serving(3).await;
    node.view.send_modify(|view| {
        let mut next = NodeView::clone(view);
        next.devices[0].health = Health::Recovering;
        *view = Arc::new(next);
    });
    node.publisher.cordoned.lock().unwrap().insert(uuid(2).into());
    let (_, named) = bind(&node, "theirs", &main("GPU-1::0", 1)).await;
    node.prepare(&["GPU-1::0"]).await.unwrap();
    assert_eq!(node.gets(&named[0]), Some(uuid(3)));
}

#[tokio::test]
async fn containers_get_devices_of_their_own_and_an_init_container_those_of_the_apps() {
    let node = serving(3).await;
    let containers = [
        container("init", "init", &["GPU-1::0", "GPU-1::1"], &[1, 2]),
        container("side", "sidecar", &["GPU-1::2"], &[1]),
        container("main", "app", &["GPU-1::0"], &[1]),
        container("more", "app", &["GPU-1::1"], &[1]),
    ];
    let (_, named) = bind(&node, "theirs", &containers).await;
    for slots in [&["GPU-1::0", "GPU-1::1"][..], &["GPU-1::2"], &["GPU-1::0"], &["GPU-1::1"]] {
        node.prepare(slots).await.unwrap();
    }
    let got: Vec<_> = named.iter().map(|cdi| node.gets(cdi).unwrap()).collect();
    assert_eq!(got, ["GPU-2,GPU-3", "GPU-1", "GPU-2", "GPU-3"]);
}

#[tokio::test]
async fn a_runtime_without_cdi_cannot_be_told() {
    let mut node = Node::new(2).await;
    (node.policy, node.form) = (Policy::Serve, Form::None);
    node.boot().await;
    let (uid, _) = bind(&node, "theirs", &main("GPU-1::0", 1)).await;
    assert!(node.prepare(&["GPU-1::0"]).await.unwrap_err().contains("has no CDI"));
    assert_eq!(node.count(Reason::NoCdi), 1);
    assert!(node.refused(&uid).is_some());
}

#[tokio::test]
async fn a_pod_of_ours_without_its_allocation_is_not_foreign() {
    let node = serving(2).await;
    let containers = main("GPU-1::0", 1);
    let mut object = pod("p", &containers);
    object["metadata"]["annotations"].as_object_mut().unwrap().remove("packhorse.dev/allocation");
    node.bind_object("p", object, &containers).await;
    node.prepare(&["GPU-1::0"]).await.unwrap_err();
    assert_eq!(node.count(Reason::NoAllocation), 1);
    assert_eq!(published(&node), list(&[]));
}

#[tokio::test]
async fn while_nobody_knows_what_a_foreign_pod_holds_nobody_gets_a_whole_device() {
    let mut node = serving(2).await;
    let (uid, _) = bind(&node, "theirs", &main("GPU-1::0", 1)).await;
    node.prepare(&["GPU-1::0"]).await.unwrap();
    std::fs::write(node.directory.path().join(format!("state/pods/{uid}.json")), "{").unwrap();
    node.boot().await;
    node.boot().await;
    node.bind("whole", &[container("main", "app", &["GPU-2::0"], &[2]).whole()]).await;
    let message = node.prepare(&["GPU-2::0"]).await.unwrap_err();
    assert!(message.contains("pod ns/theirs was damaged on disk"), "{message}");
    node.delete("theirs", &uid);
    node.until("it is gone", |agent| agent.pods.get(&uid).is_none()).await;
    node.prepare(&["GPU-2::0"]).await.unwrap();
}
