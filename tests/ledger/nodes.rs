//! Nodes: inventories, cordons, host resources, nodes that go and come back.

use packhorse::ledger::NodeState;
use serde_json::json;

use super::build::*;

#[test]
fn each_change_is_a_new_version_and_a_heartbeat_is_none() {
    let ledger = ledger(&[node("n", &[1]), node("m", &[2])]);
    let version = |name: &str| ledger.node(name).unwrap().snapshot().version;
    let before = (version("n"), version("m"));
    assert_ne!(before.0, before.1, "versions are unique in the process");
    let mut beat = node("n", &[1]);
    beat["status"]["conditions"][0]["lastHeartbeatTime"] = json!("2026-01-01T00:00:00Z");
    apply_node(&ledger, &beat);
    assert_eq!(version("n"), before.0);
    book(&ledger, "n", "a", 1).unwrap();
    assert!(version("n") > before.0.max(before.1));
    assert_eq!(version("m"), before.1);
}

#[test]
fn a_device_that_comes_back_still_carries_its_pods() {
    let ledger = ledger(&[node("n", &[1, 2])]);
    apply_pod(&ledger, &bound("a", "n", &share(1)));
    apply_node(&ledger, &node("n", &[2]));
    assert_eq!(usable(&ledger, "n").devices.len(), 1);
    apply_pod(&ledger, &bound("b", "n", &share(1)));
    apply_node(&ledger, &node("n", &[1, 2]));
    assert_eq!(memory(&ledger, "n", 1), 2000);
}

#[test]
fn a_node_that_comes_back_still_carries_its_pods() {
    let ledger = ledger(&[node("n", &[1])]);
    let slot = ledger.node("n").unwrap().slot;
    apply_pod(&ledger, &bound("a", "n", &share(1)));
    ledger.remove_node("n");
    assert!(ledger.node("n").is_none());
    assert!(ledger.nodes().is_empty());
    assert_eq!(ledger.pods_on("n").len(), 1);
    apply_node(&ledger, &node("n", &[1]));
    assert_eq!(memory(&ledger, "n", 1), 1000);
    assert_eq!(ledger.node("n").unwrap().slot, slot);

    ledger.remove_node("n");
    remove_pod(&ledger, &bound("a", "n", &share(1)));
    apply_node(&ledger, &node("other", &[2]));
    assert_eq!(ledger.node("other").unwrap().slot, slot, "the slot of a node of which nothing is left is used again");
}

#[test]
fn pods_seen_before_their_node_count_when_it_appears() {
    let ledger = ledger(&[]);
    apply_pod(&ledger, &bound("a", "n", &share(1)));
    assert!(ledger.node("n").is_none());
    assert!(book(&ledger, "n", "b", 1).is_err());
    apply_node(&ledger, &node("n", &[1]));
    assert_eq!(memory(&ledger, "n", 1), 1000);
}

#[test]
fn cordon_readiness_taints_and_strategy_are_read() {
    let mut changed = node("n", &[1, 2]);
    changed["metadata"]["annotations"]["packhorse.dev/cordon"] = json!(" GPU-2 ,");
    changed["metadata"]["labels"] = json!({"nvidia.com/mig.strategy": "single"});
    changed["spec"] = json!({"unschedulable": true, "taints": [{"key": "k", "effect": "PreferNoSchedule"}]});
    let ledger = ledger(&[changed, json!({"metadata": {"name": "plain"}})]);
    let read = usable(&ledger, "n");
    assert_eq!(read.cordoned, [false, true]);
    assert!(read.mig_single && read.ready);
    let snapshot = ledger.node("n").unwrap().snapshot();
    assert!(snapshot.prefer_no_schedule && !snapshot.schedulable);
    assert!(matches!(ledger.node("plain").unwrap().snapshot().state, NodeState::NoInventory));
}

#[test]
fn a_cordoned_card_takes_its_mig_instances_along() {
    let instance = |number: usize, card: &str| {
        let mut device = device(number);
        device["uuid"] = json!(format!("MIG-{number}"));
        device["parent"] = json!(card);
        device["enforcement"] = json!("mig");
        device["mig"] = json!({"profile": "1g.10gb", "start": 0, "size": 1});
        device
    };
    let devices = [instance(1, "GPU-a"), instance(2, "GPU-a"), instance(3, "GPU-b")];
    for (cordon, expected) in [("GPU-a", [true, true, false]), ("MIG-2,GPU-b", [false, true, true])] {
        let mut changed = node("n", &[]);
        changed["metadata"]["annotations"] = json!({
            "packhorse.dev/inventory": json!({"v": 1, "ready": true, "devices": devices}).to_string(),
            "packhorse.dev/cordon": cordon,
        });
        assert_eq!(usable(&ledger(&[changed]), "n").cordoned, expected, "{cordon}");
    }
}

#[test]
fn cpu_and_memory_of_every_pod_count_on_a_gpu_node() {
    let ledger = ledger(&[node("n", &[1])]);
    let mut plain = bound("plain", "n", &share(1));
    plain["metadata"].as_object_mut().unwrap().remove("annotations");
    plain["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "2500m", "memory": "2Gi"}});
    apply_pod(&ledger, &plain);
    apply_pod(&ledger, &plain);
    apply_pod(&ledger, &bound("a", "n", &share(1)));
    book(&ledger, "n", "b", 1).unwrap();
    let left = |ledger| {
        let node = usable(ledger, "n");
        (node.cpu_left.unwrap(), node.memory_left.unwrap() >> 30)
    };
    assert_eq!((usable(&ledger, "n").cpu, usable(&ledger, "n").memory >> 30), (8000, 64));
    assert_eq!(left(&ledger), (8000 - 2500 - 1000 - 1000, 64 - 2 - 1 - 1));

    // Neither a finished pod nor one missing from a list is counted on.
    replace_pods(&ledger, &[bound("a", "n", &share(1))]);
    assert_eq!(left(&ledger).0, 8000 - 1000 - 1000);
    let mut done = bound("a", "n", &share(1));
    done["status"]["phase"] = json!("Succeeded");
    apply_pod(&ledger, &done);
    assert_eq!(left(&ledger).0, 8000 - 1000);
}

#[test]
fn room_that_may_have_become_free_is_told() {
    let ledger = ledger(&[node("n", &[1])]);
    let mut changes = ledger.changes();
    let mut told = move |what: &str, expected: bool| {
        assert_eq!(changes.has_changed().unwrap(), expected, "{what}");
        changes.mark_unchanged();
    };
    apply_node(&ledger, &node("n", &[1]));
    book(&ledger, "n", "a", 1).unwrap();
    apply_pod(&ledger, &bound("b", "n", &share(1)));
    told("pods that come", false);
    ledger.unbook("a");
    told("a booking taken back", true);
    remove_pod(&ledger, &bound("b", "n", &share(1)));
    told("a pod that is gone", true);
    let mut cordoned = node("n", &[1]);
    cordoned["metadata"]["annotations"]["packhorse.dev/cordon"] = json!("GPU-1");
    apply_node(&ledger, &cordoned);
    told("a cordon", false);
    apply_node(&ledger, &node("n", &[1]));
    told("a cordon lifted", true);
    apply_node(&ledger, &node("n", &[1, 2]));
    told("a device more", true);
    apply_node(&ledger, &node("n", &[2]));
    told("a device less", false);
    apply_node(&ledger, &node("m", &[3]));
    told("a node more", true);
}

#[test]
fn is_ready_only_after_both_first_lists() {
    let ledger = ledger(&[node("n", &[1])]);
    apply_pod(&ledger, &bound("a", "n", &share(1)));
    assert!(!ledger.is_ready());
    replace_pods(&ledger, &[bound("a", "n", &share(1))]);
    assert!(!ledger.is_ready());
    replace_nodes(&ledger, &[node("m", &[1])]);
    assert!(ledger.is_ready());
    assert!(ledger.node("n").is_none(), "a node missing from the list is gone");
}

#[test]
fn a_nominated_pod_is_known_until_it_is_booked_or_gone() {
    let ledger = ledger(&[node("n", &[1]), node("m", &[2])]);
    let nominated = |name: &str| -> Vec<String> {
        ledger.node(name).unwrap().snapshot().nominated.iter().map(|n| n.uid.to_string()).collect()
    };
    let mut pod = pending("a");
    pod["status"]["nominatedNodeName"] = json!("n");
    pod["spec"]["priority"] = json!(5);
    let mut higher = pending("b");
    higher["status"]["nominatedNodeName"] = json!("n");
    higher["spec"]["priority"] = json!(9);
    apply_pod(&ledger, &pod);
    apply_pod(&ledger, &higher);
    assert_eq!(nominated("n"), ["b", "a"], "the highest priority first");
    pod["status"]["nominatedNodeName"] = json!("m");
    apply_pod(&ledger, &pod);
    assert_eq!((nominated("n"), nominated("m")), (vec!["b".to_owned()], vec!["a".to_owned()]));
    book(&ledger, "m", "a", 2).unwrap();
    remove_pod(&ledger, &higher);
    assert!(nominated("n").is_empty() && nominated("m").is_empty());
    assert_eq!(ledger.pod("a").unwrap().priority, 5);
}

#[test]
fn refused_pods_and_the_time_of_binding_are_told() {
    let mut refusing = node("n", &[1]);
    let text = refusing["metadata"]["annotations"]["packhorse.dev/inventory"].as_str().unwrap();
    let text = text.replacen('{', r#"{"refused":[{"pod":"ns/pod-a","uid":"a","reason":"other devices"}],"#, 1);
    refusing["metadata"]["annotations"]["packhorse.dev/inventory"] = json!(text);
    let ledger = ledger(&[refusing]);
    assert_eq!(&*ledger.node("n").unwrap().snapshot().refused[0].uid, "a");

    book(&ledger, "n", "a", 1).unwrap();
    assert_eq!(ledger.pod("a").unwrap().bound_at, 0, "not seen bound yet");
    let mut pod = bound("a", "n", &share(1));
    pod["status"]["conditions"] =
        json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"}]);
    apply_pod(&ledger, &pod);
    assert_eq!(ledger.pod("a").unwrap().bound_at, 1_767_225_610);
}
