//! What the ledger learns of the pods that come: each counts once, on GPU nodes or asking for GPUs only.

use packhorse::ledger::Ledger;
use serde_json::{Value, json};

use super::build::*;

/// CPU (millicores) and number of devices of every kind learned so far, the commonest first, with its part of all arrivals.
fn kinds(ledger: &Ledger) -> Vec<(i64, u32, f64)> {
    let workload = ledger.workload();
    workload.shares().into_iter().map(|(kind, share, _)| (kind.cpu, kind.largest(), (share * 100.0).round())).collect()
}

/// A pod without GPUs on a node.
fn ordinary(uid: &str, node: &str) -> Value {
    json!({"metadata": {"name": uid, "namespace": "ns", "uid": uid},
        "spec": {"nodeName": node, "containers": [{"name": "main", "resources": {"requests": {"cpu": "2"}}}]},
        "status": {"phase": "Running"}})
}

fn ready_ledger() -> Ledger {
    let ledger = ledger(&[]);
    replace_nodes(&ledger, &[node("gpus", &[1]), json!({"metadata": {"name": "none", "uid": "u"}})]);
    replace_pods(&ledger, &[]);
    ledger
}

#[test]
fn a_pod_counts_once_however_often_it_is_seen() {
    let ledger = ready_ledger();
    for _ in 0..3 {
        apply_pod(&ledger, &pending("a"));
    }
    book(&ledger, "gpus", "a", 1).unwrap();
    apply_pod(&ledger, &pending("a"));
    for _ in 0..3 {
        apply_pod(&ledger, &bound("a", "gpus", &share(1)));
    }
    apply_pod(&ledger, &bound("b", "gpus", &share(1)));
    assert_eq!(ledger.workload().arrivals(), 2);
    assert_eq!(kinds(&ledger), [(1000, 1, 100.0)]);
    assert_eq!(ledger.workload().turnover(), 0.0);
}

#[test]
fn pods_without_gpus_count_on_gpu_nodes_only() {
    let ledger = ready_ledger();
    apply_pod(&ledger, &ordinary("a", "gpus"));
    apply_pod(&ledger, &ordinary("a", "gpus"));
    apply_pod(&ledger, &ordinary("b", "none"));
    apply_pod(&ledger, &bound("c", "gpus", &share(1)));
    assert_eq!(ledger.workload().arrivals(), 2);
    let mut kinds = kinds(&ledger);
    kinds.sort_by_key(|(cpu, ..)| *cpu);
    assert_eq!(kinds, [(1000, 1, 50.0), (2000, 0, 50.0)]);
}

#[test]
fn pods_that_leave_are_told_from_pods_that_stay() {
    let ledger = ready_ledger();
    for at in 0..64 {
        apply_pod(&ledger, &bound(&format!("stays-{at}"), "gpus", &share(1)));
    }
    assert_eq!(ledger.workload().turnover(), 0.0);
    for at in 0..64 {
        let pod = bound(&format!("goes-{at}"), "gpus", &share(1));
        apply_pod(&ledger, &pod);
        remove_pod(&ledger, &pod);
    }
    assert_eq!(ledger.workload().turnover(), 1.0);
}

#[test]
fn after_a_restart_the_pods_that_are_there_are_the_workload() {
    let pods = [bound("a", "gpus", &share(1)), ordinary("b", "gpus"), ordinary("c", "none"), pending("d")];
    let nodes = [node("gpus", &[1]), json!({"metadata": {"name": "none", "uid": "u"}})];
    // Either list may come first.
    for nodes_first in [true, false] {
        let ledger = ledger(&[]);
        let mut due = ledger.learned();
        if nodes_first {
            replace_nodes(&ledger, &nodes);
            replace_pods(&ledger, &pods);
        } else {
            replace_pods(&ledger, &pods);
            replace_nodes(&ledger, &nodes);
        }
        assert_eq!(ledger.workload().arrivals(), 3, "nodes first: {nodes_first}");
        assert_eq!(ledger.workload().turnover(), 1.0, "as many are taken to leave as come");
        assert!(due.has_changed().unwrap(), "a target is wanted at once");
        due.mark_unchanged();
        assert!(ledger.target().is_empty());
        assert!(!ledger.aim().is_empty());
        assert!(!ledger.target().is_empty());
    }
}

#[test]
fn a_target_is_wanted_in_steps() {
    let ledger = ready_ledger();
    let mut due = ledger.learned();
    let mut wanted = Vec::new();
    for at in 1..=40 {
        apply_pod(&ledger, &pending(&format!("p{at}")));
        if due.has_changed().unwrap() {
            due.mark_unchanged();
            wanted.push(at);
        }
    }
    assert_eq!(wanted, [1, 2, 4, 8, 16, 32]);
}

#[test]
fn pods_that_are_there_for_the_nodes_sake_teach_nothing() {
    let ledger = ready_ledger();
    let mut daemon = ordinary("a", "gpus");
    daemon["metadata"]["ownerReferences"] = json!([{"kind": "DaemonSet", "name": "d", "controller": true}]);
    apply_pod(&ledger, &daemon);
    remove_pod(&ledger, &daemon);
    assert_eq!(ledger.workload().arrivals(), 0);
    for at in 0..64 {
        apply_pod(&ledger, &bound(&format!("stays-{at}"), "gpus", &share(1)));
        remove_pod(&ledger, &daemon);
    }
    assert_eq!(ledger.workload().turnover(), 0.0);
}

#[test]
fn a_node_that_gets_gpus_brings_its_pods_along_and_a_new_target() {
    let ledger = ready_ledger();
    let mut due = ledger.learned();
    apply_pod(&ledger, &ordinary("a", "none"));
    assert_eq!(ledger.workload().arrivals(), 0);
    assert!(!due.has_changed().unwrap());
    apply_node(&ledger, &node("none", &[7]));
    assert_eq!(ledger.workload().arrivals(), 1);
    assert!(due.has_changed().unwrap());
    due.mark_unchanged();
    apply_node(&ledger, &node("none", &[7, 8]));
    assert!(due.has_changed().unwrap(), "more cards");
}
