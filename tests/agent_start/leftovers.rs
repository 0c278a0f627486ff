//! What pods leave behind goes when they are gone, and not before.

use packhorse::agent::pins::Pins;
use serde_json::json;

use super::bench::*;

#[tokio::test]
async fn a_pod_that_is_gone_leaves_nothing_behind() {
    let node = Node::ready().await;
    let (deleted, one) = node.bind("deleted", &main("GPU-1::0", 1)).await;
    let (ended, two) = node.bind("ended", &main("GPU-1::1", 1)).await;
    let (alive, three) = node.bind("alive", &main("GPU-1::2", 1)).await;
    for slot in ["GPU-1::0", "GPU-1::1", "GPU-1::2"] {
        node.prepare(&[slot]).await.unwrap();
    }
    node.delete("deleted", &deleted);
    node.api.objects().patch_status("pods", "ns", "ended", &json!({"status": {"phase": "Succeeded"}})).unwrap();
    node.until("both are forgotten", |agent| {
        let pinned = [&deleted, &ended].map(|uid| agent.pins.get(uid).is_some());
        pinned == [false; 2] && [&one, &two].map(|named| node.gets(&named[0])) == [None, None]
    })
    .await;
    assert_eq!([&one, &two, &three].map(|named| node.gets(&named[0])), [None, None, Some(uuid(1))]);
    let stored = Pins::open(&node.directory.path().join("state")).unwrap();
    assert_eq!(stored.list().iter().map(|pin| &*pin.uid).collect::<Vec<_>>(), [&*alive]);
}

#[tokio::test]
async fn a_pod_that_the_kubelet_still_runs_keeps_its_devices() {
    let node = Node::ready().await;
    let (uid, named) = node.bind("p", &main("GPU-1::0", 1)).await;
    node.prepare(&["GPU-1::0"]).await.unwrap();
    // Deleted by force: the API server has forgotten it, the kubelet has not.
    node.api.objects().delete("pods", "ns", "p", Some(0)).unwrap();
    node.until("the watch has told", |agent| agent.pods.get(&uid).is_none()).await;
    node.agent().start.sweep().await;
    assert!(node.agent().pins.get(&uid).is_some() && node.gets(&named[0]).is_some());
    // A kubelet that does not answer frees nothing.
    node.kubelet.end(&uid);
    node.kubelet.set_broken(true);
    node.agent().start.sweep().await;
    assert!(node.agent().pins.get(&uid).is_some());
    node.kubelet.set_broken(false);
    node.agent().start.sweep().await;
    assert!(node.agent().pins.get(&uid).is_none() && node.gets(&named[0]).is_none());
}

#[tokio::test]
async fn an_agent_that_has_not_seen_the_pods_forgets_nobody() {
    let mut node = Node::ready().await;
    let (uid, named) = node.bind("p", &main("GPU-1::0", 1)).await;
    node.prepare(&["GPU-1::0"]).await.unwrap();
    node.lose_api_server();
    node.kubelet.end(&uid);
    node.boot_blind();
    node.agent().start.sweep().await;
    assert!(node.agent().pins.get(&uid).is_some() && node.gets(&named[0]).is_some());
}

#[tokio::test]
async fn a_specification_without_a_pin_is_removed_at_the_start() {
    let mut node = Node::ready().await;
    let (uid, named) = node.bind("p", &main("GPU-1::0", 1)).await;
    let (_, kept) = node.bind("q", &main("GPU-1::1", 1)).await;
    node.prepare(&["GPU-1::0"]).await.unwrap();
    node.prepare(&["GPU-1::1"]).await.unwrap();
    std::fs::write(node.directory.path().join(format!("state/pods/{uid}.json")), "{").unwrap();
    node.boot().await;
    node.until("it is removed", |_| node.gets(&named[0]).is_none()).await;
    assert_eq!(node.gets(&kept[0]), Some(uuid(1)));
    // What it holds is still its own.
    node.bind("whole", &[container("main", "app", &["GPU-1::2"], &[1]).share(9000, 0)]).await;
    assert!(node.prepare(&["GPU-1::2"]).await.unwrap_err().contains("it is held by ns/p, ns/q"));
    // Its pod lives on and is verified anew when it starts again.
    node.prepare(&["GPU-1::0"]).await.unwrap();
    assert_eq!(node.gets(&named[0]), Some(uuid(1)));
}

#[tokio::test]
async fn a_refused_pod_that_the_watch_does_not_know_yet_stays_reported() {
    let mut node = Node::new(2).await;
    node.api.faults().hold_watches(true);
    node.boot().await;
    let containers = main("GPU-1::0", 9);
    let uid = node.create(pod("p", &containers));
    node.admit(&uid, "p", &containers);
    node.prepare(&["GPU-1::0"]).await.unwrap_err();
    node.agent().start.sweep().await;
    assert!(node.refused(&uid).is_some());
    node.kubelet.end(&uid);
    node.agent().start.sweep().await;
    assert!(node.refused(&uid).is_none());
}

#[tokio::test]
async fn a_refused_pod_that_is_gone_is_no_longer_reported() {
    let node = Node::ready().await;
    let containers = main("GPU-1::0", 9);
    let (uid, _) = node.bind("p", &containers).await;
    node.prepare(&["GPU-1::0"]).await.unwrap_err();
    assert!(node.refused(&uid).is_some());
    node.delete("p", &uid);
    node.until("it is gone", |agent| !agent.standing.borrow().refused.contains_key(uid.as_str())).await;
}
