//! Pods that are admitted: which slots they get, and what the kubelet writes down about it.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn in_the_ordinary_case_slots_name_the_devices_of_the_allocation() {
    let cards = ["GPU-1", "GPU-2", "GPU-3", "GPU-4"];
    let node = Node::new(cards.iter().map(|uuid| device(uuid, 10)).collect());
    node.pods.replace([]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 40).await;
    let mut expected = Vec::new();
    for number in 0..12 {
        let uid = format!("pod{number}");
        let (one, two) = (cards[number % 4], cards[(number * 3 + 1) % 4]);
        let pod = pod(&uid, &[("init", Phase::Init, 1), ("side", Phase::Sidecar, 1), ("main", Phase::App, 1)]);
        node.pods.apply(bound(&pod, &[("init", &[one]), ("side", &[one]), ("main", &[two])]));
        expected.push((pod, one, two));
    }
    for (pod, one, two) in &expected {
        kubelet.admit(pod.clone()).await.unwrap();
        for (container, device) in [("init", one), ("side", one), ("main", two)] {
            let slots = kubelet.slots(&pod.uid, container, GPU);
            assert_eq!(slots::device(&slots[0]), Some(*device), "{} {container}", pod.uid);
        }
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_come_and_go_side_by_side_and_no_slot_is_ever_in_two() {
    let node = Node::new(vec![device("GPU-1", 10), device("GPU-2", 10)]);
    let kubelet = Arc::new(node.kubelet(7));
    let agent = node.agent();
    ready(&kubelet, 20).await;
    let in_use: Arc<Mutex<HashSet<String>>> = Arc::default();
    let room = Arc::new(tokio::sync::Semaphore::new(9));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..300 {
        let (kubelet, in_use, room) = (Arc::clone(&kubelet), Arc::clone(&in_use), Arc::clone(&room));
        tasks.spawn(async move {
            let _room = room.acquire_owned().await.unwrap();
            let uid = format!("pod{number}");
            let phases = [("init", Phase::Init, 1), ("main", Phase::App, 2)];
            kubelet.admit(pod(&uid, &phases)).await.unwrap();
            let slots: HashSet<String> =
                phases.iter().flat_map(|(container, ..)| kubelet.slots(&uid, container, GPU)).collect();
            assert_eq!(slots.len(), 2, "the init container's slot is one of the app's");
            for slot in &slots {
                assert!(in_use.lock().unwrap().insert(slot.clone()), "{slot} is in use");
            }
            for (container, ..) in phases {
                kubelet.start_container(&uid, container).await.unwrap();
            }
            in_use.lock().unwrap().retain(|slot| !slots.contains(slot));
            kubelet.remove(&uid);
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    assert_eq!(node.check.seen.lock().unwrap().len(), 600);
    for method in ["GetPreferredAllocation", "Allocate", "PreStartContainer"] {
        let calls = kubelet.calls();
        let mut took: Vec<_> = calls.iter().filter(|call| call.method == method).map(|call| call.took).collect();
        took.sort();
        println!(
            "{method}: {} calls, p50 {:?}, p99 {:?}",
            took.len(),
            took[took.len() / 2],
            took[took.len() * 99 / 100]
        );
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubelet_s_own_record_has_every_container_and_its_answer() {
    let node = Node::new(vec![device("GPU-1", 4)]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 4).await;
    kubelet.admit(pod("a", &[("init", Phase::Init, 1), ("main", Phase::App, 2)])).await.unwrap();
    let record = read(&node.directory.path().join("device-plugins/kubelet_internal_checkpoint"));
    let entries = record["Data"]["PodDeviceEntries"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    for entry in entries {
        assert_eq!(entry["PodUID"], "a");
        assert_eq!(entry["ResourceName"], GPU);
        let slots = entry["DeviceIDs"]["-1"].as_array().unwrap().len();
        assert_eq!(slots, if entry["ContainerName"] == "init" { 1 } else { 2 });
        assert!(entry["AllocResp"].as_str().is_some_and(|answer| !answer.is_empty()));
    }
    assert_eq!(record["Data"]["RegisteredDevices"][GPU].as_array().unwrap().len(), 4);
    assert!(record["Checksum"].is_u64());
    agent.stop().await;
}

fn read(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_records_of_the_kubelet_name_the_owner_of_every_slot() {
    let node = Node::new(vec![device("GPU-1", 10), device("GPU-2", 10)]);
    let kubelet = node.kubelet(3);
    let agent = node.agent();
    ready(&kubelet, 20).await;
    let phases =
        [("init", Phase::Init, 1), ("side", Phase::Sidecar, 2), ("late", Phase::Init, 1), ("main", Phase::App, 1)];
    for uid in ["a", "b", "c"] {
        kubelet.admit(pod(uid, &phases)).await.unwrap();
    }
    let identity = Identity::new(node.directory.path(), Duration::from_secs(5));
    for uid in ["a", "b", "c"] {
        for (container, phase, _) in phases {
            let slots: BTreeSet<String> = kubelet.slots(uid, container, GPU).into_iter().collect();
            let evidence = identity.evidence(GPU, &slots).await.unwrap();
            assert_eq!(evidence.candidates.len(), 1, "{evidence:?}");
            let candidate = &evidence.candidates[0];
            assert_eq!(&*candidate.uid, uid);
            let claimant = candidate.claimants.iter().find(|claimant| *claimant.container == *container).unwrap();
            let options = kubelet.start_container(uid, container).await.unwrap();
            assert_eq!(claimant.device.as_ref().map(DeviceName::qualified), options.cdi_devices.first().cloned());
            let name = format!("pod-{uid}");
            let phases: Vec<_> = phases.iter().map(|(name, phase, _)| (Arc::from(*name), *phase)).collect();
            evidence.confirm(candidate, ("team", &name), &phases).unwrap();
            if phase != Phase::Init {
                assert_eq!(evidence.holder().unwrap(), Some(("team", &*name)));
            }
        }
    }
    kubelet.remove("b");
    kubelet.admit(one("d")).await.unwrap();
    assert!(!identity.known().await.unwrap().has("b", "team", "pod-b"));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kubelet_asks_is_measured() {
    let node = Node::new(vec![device("GPU-1", 10), device("GPU-2", 10)]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 20).await;
    agent.registered().await;
    kubelet.admit(one("a")).await.unwrap();
    *node.check.refusal.lock().unwrap() = Some("no".to_owned());
    kubelet.start_container("a", "main").await.unwrap_err();
    let text = packhorse::metrics::exposition(&agent.registry).unwrap();
    for line in [
        "packhorse_agent_allocate_seconds_count 1",
        "packhorse_agent_preferred_allocation_seconds_count 1",
        "packhorse_agent_pre_start_seconds_count 1",
        r#"packhorse_agent_plugin_refusals_total{call="PreStartContainer"} 1"#,
        r#"packhorse_agent_registrations_total{resource="nvidia.com/gpu",result="registered"} 1"#,
        r#"packhorse_agent_registered{resource="nvidia.com/gpu"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    agent.stop().await;
}
