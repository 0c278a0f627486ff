//! Whatever the order of events, the same objects make the same ledger; so does a restart.

use packhorse::gpu::node::Usage;
use packhorse::ledger::{Ledger, NodeState};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::build::*;

const NODES: [&str; 3] = ["n0", "n1", "n2"];

/// What readers see of the whole cluster.
fn view(ledger: &Ledger) -> Vec<(String, Vec<Usage>, Option<i64>)> {
    let mut nodes: Vec<_> = ledger
        .nodes()
        .into_iter()
        .map(|entry| match &entry.snapshot().state {
            NodeState::Usable(node) => (entry.name.to_string(), node.usage.clone(), node.cpu_left),
            _ => (entry.name.to_string(), Vec::new(), None),
        })
        .collect();
    nodes.sort_by(|a, b| a.0.cmp(&b.0));
    nodes
}

/// The final state of one pod: none, pending, bound somewhere (a device of any node), ended, damaged.
fn pod(uid: usize) -> impl Strategy<Value = Value> {
    (0..6_usize, 0..NODES.len(), 0..5_usize, any::<bool>()).prop_map(move |(state, at, device, terminating)| {
        let uid = format!("u{uid}");
        let mut pod = if state == 0 { pending(&uid) } else { bound(&uid, NODES[at], &share(device)) };
        match state {
            1 => pod["status"]["phase"] = json!("Succeeded"),
            2 => pod["metadata"]["annotations"]["packhorse.dev/allocation"] = json!("{"),
            3 => pod["metadata"]["annotations"] = json!({}),
            _ => {}
        }
        if terminating {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        pod
    })
}

fn pods() -> impl Strategy<Value = Vec<Value>> {
    (0..12_usize).prop_flat_map(|count| (0..count).map(pod).collect::<Vec<_>>())
}

/// The nodes at the end: the third has lost a device that pods may still hold.
fn nodes() -> [Value; 3] {
    [node("n0", &[0, 1, 2]), node("n1", &[2, 3]), node("n2", &[4])]
}

proptest! {
    #[test]
    fn the_same_objects_make_the_same_ledger_in_any_order(
        (pods, shuffled) in pods().prop_flat_map(|pods| (Just(pods.clone()), Just(pods).prop_shuffle())),
        first in 0..3_usize,
        stale in proptest::collection::vec((0..12_usize, 0..3_usize), 0..6),
        seed: u64,
    ) {
        let nodes = nodes();
        let straight = ledger(&nodes);
        replace_nodes(&straight, &nodes);
        replace_pods(&straight, &pods);

        // Another life of the same cluster: nodes in between, pods pending or booked before, some on nodes they then left.
        let crooked = ledger(&nodes[..first]);
        for (index, node) in &stale {
            let Some(pod) = shuffled.get(*index) else { continue };
            let uid = pod["metadata"]["uid"].as_str().unwrap();
            apply_pod(&crooked, &pending(uid));
            if pod["spec"]["nodeName"].is_string() && seed.is_multiple_of(2) {
                // A node not yet known refuses the booking: no less a life.
                let _ = book(&crooked, NODES[*node], uid, 0);
            }
        }
        for (index, pod) in shuffled.iter().enumerate() {
            if pod["spec"]["nodeName"].is_string() {
                apply_pod(&crooked, pod);
            }
            if index == 3 {
                nodes.iter().for_each(|node| apply_node(&crooked, node));
            }
        }
        nodes.iter().rev().for_each(|node| apply_node(&crooked, node));
        replace_pods(&crooked, &pods);
        prop_assert_eq!(view(&straight), view(&crooked));

        // A restart is a new ledger and the same lists.
        let restarted = Ledger::default();
        replace_pods(&restarted, &shuffled);
        replace_nodes(&restarted, &nodes);
        prop_assert_eq!(view(&straight), view(&restarted));

        // And when every pod is gone, nothing is left.
        for pod in &shuffled {
            remove_pod(&crooked, pod);
        }
        let empty = ledger(&nodes);
        prop_assert_eq!(view(&empty), view(&crooked));
    }
}
