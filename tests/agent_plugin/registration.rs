//! Registration in all its breaks: kubelets that restart, sockets that vanish, two processes at once.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_kubelet_knows_every_slot_of_every_resource() {
    let node = Node::new(vec![device("GPU-1", 10), device("GPU-2", 10), instance("MIG-1"), instance("MIG-2")]);
    let agent = node.agent();
    assert!(!*agent.plugins.registered().borrow(), "there is no kubelet yet");
    let kubelet = node.kubelet(1);
    agent.registered().await;
    ready(&kubelet, 20).await;
    let expected = BTreeMap::from([(GPU.to_owned(), all(20)), (MIG.to_owned(), all(2))]);
    eventually("the list that was sent has arrived", || kubelet.counts() == expected).await;
    assert_eq!(node.sockets().len(), 2, "one socket a resource");

    kubelet.admit(one("a")).await.unwrap();
    kubelet.start_container("a", "main").await.unwrap();
    let slots = kubelet.slots("a", "main", GPU);
    assert_eq!(*node.check.seen.lock().unwrap(), [slots.iter().cloned().collect::<BTreeSet<_>>()]);
    agent.stop().await;
    assert!(node.sockets().is_empty());
    eventually("the kubelet notices", || kubelet.counts()[GPU].allocatable == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_are_registered_again_after_every_restart_of_the_kubelet() {
    let node = Node::new(vec![device("GPU-1", 10), device("GPU-2", 10), instance("MIG-1")]);
    let agent = node.agent();
    let (mut pods, mut running) = (Vec::new(), BTreeSet::new());
    let mut longest = Duration::ZERO;
    for restart in 0..20 {
        let kubelet = node.kubelet(restart);
        let failed = kubelet.adopt(pods.clone(), running.clone()).await;
        assert_eq!(failed, [], "running containers stay");
        let start = Instant::now();
        ready(&kubelet, 20).await;
        eventually("instances too", || kubelet.counts().get(MIG) == Some(&all(1)) && kubelet.is_idle()).await;
        longest = longest.max(start.elapsed());
        if pods.len() < 20 {
            let uid = format!("pod{restart}");
            kubelet.admit(one(&uid)).await.unwrap();
            kubelet.start_container(&uid, "main").await.unwrap();
            pods.push(one(&uid));
            running.insert((uid, "main".to_owned()));
        }
        let handed_out: Vec<_> = pods.iter().flat_map(|pod| kubelet.slots(&pod.uid, "main", GPU)).collect();
        assert_eq!(handed_out.len(), pods.len());
        assert_eq!(handed_out.iter().collect::<HashSet<_>>().len(), pods.len(), "no slot twice: {handed_out:?}");
        kubelet.stop().await;
    }
    println!("longest from the kubelet's start to all slots allocatable: {longest:?}");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_a_restarting_kubelet_admits_before_its_plugins_is_failed_by_the_kubelet() {
    let node = Node::new(vec![device("GPU-1", 10)]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 10).await;
    for uid in ["runs", "waits"] {
        kubelet.admit(one(uid)).await.unwrap();
    }
    kubelet.start_container("runs", "main").await.unwrap();
    kubelet.stop().await;
    agent.stop().await;
    let kubelet = node.kubelet(2);
    let failed =
        kubelet.adopt(vec![one("runs"), one("waits")], BTreeSet::from([("runs".to_owned(), "main".to_owned())])).await;
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].0 == "waits" && failed[0].1.contains("no healthy devices present"), "{failed:?}");
    assert_eq!(kubelet.start_container("runs", "main").await.unwrap().envs["NVIDIA_VISIBLE_DEVICES"], "void");
    assert_eq!(node.check.seen.lock().unwrap().len(), 1, "an endpoint that is not back is not asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_socket_is_replaced_and_the_node_keeps_its_slots_meanwhile() {
    let node = Node::new(vec![device("GPU-1", 10)]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 10).await;
    for round in 0..5 {
        let before = node.sockets();
        for socket in &before {
            std::fs::remove_file(socket).unwrap();
        }
        eventually("another socket is there", || {
            assert_eq!(kubelet.counts()[GPU], all(10), "no slot is lost, not for a moment");
            node.sockets().len() == 1 && node.sockets() != before
        })
        .await;
        agent.registered().await;
        let uid = format!("pod{round}");
        kubelet.admit(one(&uid)).await.unwrap();
        kubelet.start_container(&uid, "main").await.unwrap();
    }
    assert_eq!(kubelet.counts()[GPU], all(10));
    // Lists reach the kubelet as before.
    node.view.send_replace(view(vec![Device { health: Health::Unhealthy, ..device("GPU-1", 10) }]));
    eventually("the failed card is told", || kubelet.counts()[GPU].allocatable == 0).await;
    node.view.send_replace(view(vec![device("GPU-1", 10)]));
    ready(&kubelet, 10).await;
    kubelet.stop().await;
    let kubelet = node.kubelet(2);
    ready(&kubelet, 10).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn during_a_rolling_update_the_new_process_ends_up_registered() {
    let node = Node::new(vec![device("GPU-1", 10), instance("MIG-1")]);
    let kubelet = node.kubelet(1);
    let mut agent = node.agent();
    ready(&kubelet, 10).await;
    for round in 0..5 {
        let next = node.agent();
        next.registered().await;
        agent.stop().await;
        agent = next;
        // The kubelet has disconnected the new one together with the old.
        eventually("registered again", || {
            *agent.plugins.registered().borrow() && kubelet.counts().get(GPU) == Some(&all(10))
        })
        .await;
        let uid = format!("pod{round}");
        kubelet.admit(one(&uid)).await.unwrap();
        kubelet.start_container(&uid, "main").await.unwrap();
    }
    assert_eq!(node.sockets().len(), 2, "only the last process' sockets are left");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_leaves_nothing_behind_that_stays() {
    let node = Node::new(vec![device("GPU-1", 10)]);
    let kubelet = node.kubelet(1);
    let plugins = node.directory.path().join("device-plugins");
    let stale = plugins.join("packhorse-gpu-1-00000000.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let aged = std::process::Command::new("touch").args(["-d", "1 minute ago"]).arg(&stale).status().unwrap();
    assert!(aged.success());
    let agent = node.agent();
    ready(&kubelet, 10).await;
    assert!(!stale.exists());
    agent.stop().await;
}
