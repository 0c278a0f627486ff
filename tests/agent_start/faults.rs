//! What goes wrong around the check: the API server, the kubelet's records, restarts, names that come back.

use std::sync::Arc;

use packhorse::agent::start::Reason;
use serde_json::json;

use super::bench::*;

#[tokio::test]
async fn a_pod_that_the_watch_does_not_know_yet_is_asked_for() {
    let mut node = Node::new(2).await;
    // The watch never gets through.
    node.api.faults().hold_watches(true);
    node.boot().await;
    for (name, containers, slot) in [
        ("named", main("GPU-1::0", 1), "GPU-1::0"),
        // PodResources does not show it: nothing on the node tells its name.
        (
            "unnamed",
            vec![container("init", "init", &["GPU-1::1"], &[2]), container("main", "app", &["GPU-1::2"], &[2])],
            "GPU-1::1",
        ),
    ] {
        let uid = node.create(pod(name, &containers));
        let named = node.admit(&uid, name, &containers);
        node.kubelet.live(name);
        assert!(node.agent().pods.get(&uid).is_none(), "{name}: the watch is held");
        node.prepare(&[slot]).await.expect(name);
        assert_eq!(node.gets(&named[0]), Some(uuid(containers[0].devices[0])), "{name}");
    }
}

#[tokio::test]
async fn a_pinned_container_starts_again_without_the_api_server_and_whatever_became_of_its_annotations() {
    let mut node = Node::ready().await;
    let (uid, named) = node.bind("p", &main("GPU-2::0", 1)).await;
    let (stranger, _) = node.bind("q", &main("GPU-2::1", 2)).await;
    node.prepare(&["GPU-2::0"]).await.unwrap();
    let forged = pod("p", &main("GPU-2::0", 2))["metadata"]["annotations"].clone();
    node.api.objects().patch("pods", "ns", "p", &json!({"metadata": {"annotations": forged}})).unwrap();
    node.until("the edit", |agent| {
        let pod = agent.pods.get(&uid).unwrap();
        let given = pod.allocation.as_ref().unwrap().as_ref().unwrap();
        &*given.containers[0].shares[0].device == "GPU-2"
    })
    .await;
    std::fs::remove_dir_all(node.directory.path().join("cdi")).unwrap();
    node.lose_api_server();
    node.boot_blind();
    node.prepare(&["GPU-2::0"]).await.unwrap();
    assert_eq!(node.gets(&named[0]), Some(uuid(1)));
    // One that was never verified has to wait, and is not blamed.
    let message = node.prepare(&["GPU-2::1"]).await.unwrap_err();
    assert!(message.contains("the API server did not answer"), "{message}");
    assert_eq!((node.count(Reason::ApiServer), node.refused(&stranger)), (1, None));
}

#[tokio::test]
async fn an_agent_that_is_replaced_between_allocate_and_start_knows_all_it_needs() {
    let mut node = Node::ready().await;
    let (_, named) = node.bind("p", &main("GPU-2::0", 1)).await;
    node.boot().await;
    node.prepare(&["GPU-2::0"]).await.unwrap();
    assert_eq!(node.gets(&named[0]), Some(uuid(1)));
}

#[tokio::test]
async fn what_the_kubelet_does_not_answer_now_is_asked_again() {
    let node = Node::ready().await;
    let (uid, named) = node.bind("p", &main("GPU-1::0", 1)).await;
    node.kubelet.exhaust(3);
    node.prepare(&["GPU-1::0"]).await.unwrap();
    assert_eq!(node.gets(&named[0]), Some(uuid(1)));
    // But not for ever, and nobody is blamed.
    node.kubelet.set_broken(true);
    assert!(node.prepare(&["GPU-1::0"]).await.unwrap_err().contains("out of order"));
    node.kubelet.set_broken(false);
    node.kubelet.exhaust(usize::MAX);
    assert!(node.prepare(&["GPU-1::0"]).await.unwrap_err().contains("rejected by rate limit"));
    assert_eq!((node.count(Reason::Unreadable), node.refused(&uid)), (2, None));
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_understood_refuses_everybody_until_it_can() {
    let node = Node::ready().await;
    let (uid, _) = node.bind("p", &main("GPU-1::0", 1)).await;
    let whole = std::fs::read(node.kubelet.checkpoint()).unwrap();
    for broken in [&whole[..whole.len() / 2], b"", br#"{"Data":{"PodDeviceEntries":"v2"}}"#] {
        std::fs::write(node.kubelet.checkpoint(), broken).unwrap();
        let message = node.prepare(&["GPU-1::0"]).await.unwrap_err();
        assert!(message.contains("kubelet_internal_checkpoint"), "{message}");
    }
    std::fs::remove_file(node.kubelet.checkpoint()).unwrap();
    node.prepare(&["GPU-1::0"]).await.unwrap_err();
    assert_eq!((node.count(Reason::Unreadable), node.refused(&uid)), (4, None));
    std::fs::write(node.kubelet.checkpoint(), whole).unwrap();
    node.prepare(&["GPU-1::0"]).await.unwrap();
}

#[tokio::test]
async fn records_that_disagree_are_not_believed() {
    let node = Node::ready().await;
    node.bind("p", &main("GPU-1::0", 1)).await;
    node.bind("q", &main("GPU-1::1", 2)).await;
    node.kubelet.list(|listed| listed[0].pod = "q".to_owned());
    let message = node.prepare(&["GPU-1::0"]).await.unwrap_err();
    assert!(message.contains("checkpoint gives these slots to pod ns/p, its PodResources to ns/q"), "{message}");
    let message = node.prepare(&["GPU-9::0"]).await.unwrap_err();
    assert!(message.contains("names no live pod"), "{message}");
    assert_eq!((node.count(Reason::Disagreement), node.count(Reason::Unclaimed)), (1, 1));
    assert!(node.prepare(&[]).await.is_err());
}

#[tokio::test]
async fn slots_that_a_dead_pod_left_in_the_checkpoint_are_the_living_ones() {
    let node = Node::ready().await;
    let (dead, old) = node.bind("dead", &main("GPU-1::0", 1)).await;
    node.prepare(&["GPU-1::0"]).await.unwrap();
    node.delete("dead", &dead);
    let (_, named) = node.bind("alive", &main("GPU-1::0", 2)).await;
    node.prepare(&["GPU-1::0"]).await.unwrap();
    assert_eq!(node.gets(&named[0]), Some(uuid(2)));
    // Asked for by UID where nothing tells the name.
    let init = [container("init", "init", &["GPU-2::0"], &[2]), container("main", "app", &["GPU-2::1"], &[2])];
    node.kubelet.admit("never-seen", "gone", "init", true, &["GPU-2::0"]);
    node.kubelet.end("never-seen");
    let (_, named) = node.bind("init", &init).await;
    node.prepare(&["GPU-2::0"]).await.unwrap();
    assert_eq!(node.gets(&named[0]), Some(uuid(2)));
    node.until("the dead one is swept away", |_| node.gets(&old[0]).is_none()).await;
}

#[tokio::test]
async fn a_recreated_pod_of_the_same_name_is_another_pod() {
    let node = Node::ready().await;
    let whole = |device: usize| vec![container("main", "app", &["GPU-1::0"], &[device]).whole()];
    let (first, old) = node.bind("web-0", &whole(1)).await;
    node.prepare(&["GPU-1::0"]).await.unwrap();
    // The watch lags: the agent still believes in the first.
    node.api.faults().hold_watches(true);
    node.delete("web-0", &first);
    let second = node.create(pod("web-0", &whole(1)));
    let named = node.admit(&second, "web-0", &whole(1));
    assert!(node.agent().pods.get(&first).is_some() && node.agent().pods.get(&second).is_none());
    node.prepare(&["GPU-1::0"]).await.unwrap();
    assert_eq!(node.gets(&named[0]), Some(uuid(1)), "its predecessor's pin does not stand in its way");
    assert!(node.agent().pins.get(&first).is_none() && node.agent().pins.get(&second).is_some());
    assert_eq!(node.gets(&old[0]), None, "what was written for the first is gone");
}

#[tokio::test]
async fn a_checkpoint_that_names_only_the_predecessor_starts_nobody() {
    let node = Node::ready().await;
    node.api.faults().hold_watches(true);
    let containers = main("GPU-1::0", 1);
    node.create(pod("web-0", &containers));
    node.admit("00000000-dead", "web-0", &containers);
    let message = node.prepare(&["GPU-1::0"]).await.unwrap_err();
    assert!(message.contains("00000000-dead") && message.contains("is gone"), "{message}");
    assert_eq!(node.count(Reason::Gone), 1);
}

#[tokio::test]
async fn with_the_api_server_away_the_kubelet_says_who_holds_a_share() {
    let node = Node::ready().await;
    let whole = |slot: &'static str| vec![container("main", "app", &[slot], &[1]).whole()];
    let (first, _) = node.bind("first", &whole("GPU-1::0")).await;
    let (second, named) = node.bind("second", &whole("GPU-1::1")).await;
    node.prepare(&["GPU-1::0"]).await.unwrap();
    node.lose_api_server();
    assert!(node.prepare(&["GPU-1::1"]).await.unwrap_err().contains("it is held by ns/first"));
    assert!(node.refused(&second).is_some());
    node.kubelet.end(&first);
    node.prepare(&["GPU-1::1"]).await.unwrap();
    assert_eq!(node.gets(&named[0]), Some(uuid(1)));
}

#[tokio::test]
async fn of_many_pods_that_start_at_once_on_one_share_one_starts() {
    let node = Node::ready().await;
    let slots: Vec<&'static str> = vec!["GPU-1::0", "GPU-1::1", "GPU-1::2", "GPU-1::3", "GPU-1::4", "GPU-1::5"];
    let mut named = Vec::new();
    for slot in &slots {
        let containers = vec![container("main", "app", &[*slot], &[1]).whole()];
        named.extend(node.bind(&format!("p{}", named.len()), &containers).await.1);
    }
    let starts = slots.iter().map(|slot| node.prepare(std::slice::from_ref(slot)));
    let started: Vec<bool> = futures::future::join_all(starts).await.iter().map(Result::is_ok).collect();
    let written: Vec<bool> = named.iter().map(|cdi| node.gets(cdi).is_some()).collect();
    assert_eq!(started.iter().filter(|started| **started).count(), 1);
    assert_eq!(written, started);
    assert_eq!(node.agent().pins.list().len(), 1);
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_written_starts_nobody() {
    let node = Node::ready().await;
    let (uid, named) = node.bind("p", &main("GPU-1::0", 1)).await;
    let pins = node.directory.path().join("state/pods");
    std::fs::remove_dir_all(&pins).unwrap();
    assert!(node.prepare(&["GPU-1::0"]).await.unwrap_err().contains("state directory"));
    assert!(node.gets(&named[0]).is_none() && node.refused(&uid).unwrap().contains("state directory"));
    std::fs::create_dir(&pins).unwrap();
    node.prepare(&["GPU-1::0"]).await.unwrap();
    assert_eq!(node.gets(&named[0]), Some(uuid(1)));
    assert_eq!(node.refused(&uid), None);
    assert!(Arc::ptr_eq(&node.agent().pins.get(&uid).unwrap(), &node.agent().pins.list()[0]));
}
