use serde_json::{Value, json};

use super::super::cluster::Builder;
use super::super::why::answers;
use super::*;

/// A node of so many cards of 80 GiB.
pub(crate) fn node(name: &str, cards: usize) -> Value {
    let card = |at: usize| {
        json!({
            "uuid": format!("GPU-{name}-{at}"), "index": at, "model": "NVIDIA A100-SXM4-80GB", "memory": 81_920, "cores": 100,
            "slots": 10, "pci": format!("0000:{at:02x}:00.0"), "health": "healthy", "enforcement": "advisory",
        })
    };
    let inventory = json!({"v": 1, "ready": true, "devices": (0..cards).map(card).collect::<Vec<_>>()});
    json!({
        "metadata": {"name": name, "annotations": {"packhorse.dev/inventory": inventory.to_string()}},
        "status": {
            "allocatable": {
                "cpu": "16", "memory": "64Gi", "pods": "110", "nvidia.com/gpu": (10 * cards).to_string(),
                "packhorse.dev/gpu-memory": (81_920 * cards).to_string(), "packhorse.dev/gpu-cores": (100 * cards).to_string(),
            },
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// A pod that waits, after admission.
pub(crate) fn pending(name: &str, request: &Value) -> Value {
    let request = json!({"v": 1, "containers": {"main": request}});
    let limits =
        json!({"nvidia.com/gpu": request["containers"]["main"]["count"].to_string(), "packhorse.dev/gpu-cores": "0"});
    json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "annotations": {"packhorse.dev/request": request.to_string()}},
        "spec": {"schedulerName": "packhorse", "containers": [{"name": "main", "image": "i", "resources": {"limits": limits}}]},
    })
}

/// A pod that holds so many MiB of a card; 0: all of it.
pub(crate) fn holder(name: &str, node: &str, card: usize, memory: u32) -> Value {
    let mut pod = pending(name, &json!({"count": 1, "memory": memory.max(1)}));
    let share = json!({
        "device": format!("GPU-{node}-{card}"), "memory": if memory == 0 { 81_920 } else { memory }, "exclusive": memory == 0,
        "cores": if memory == 0 { 100 } else { 0 }, "enforcement": "advisory",
    });
    pod["metadata"]["annotations"]["packhorse.dev/allocation"] =
        json!({"v": 1, "containers": {"main": [share]}}).to_string().into();
    pod["spec"]["nodeName"] = node.into();
    pod
}

fn cluster(nodes: &[Value], pods: &[Value]) -> Cluster {
    let mut builder = Builder::new("nvidia.com");
    nodes.iter().for_each(|node| builder.node(&node.to_string()));
    pods.iter().for_each(|pod| builder.pod(&pod.to_string()));
    let cluster = builder.finish();
    assert!(cluster.warnings.is_empty(), "{:?}", cluster.warnings);
    cluster
}

/// What helps the one pod that waits, in words, smallest first.
fn helps(cluster: &Cluster) -> Vec<String> {
    let (pod, waiting) = cluster.waiting().next().expect("a pod waits");
    smallest(cluster, pod, waiting).iter().map(ToString::to_string).collect()
}

fn share(memory: u32) -> Value {
    json!({"count": 1, "memory": memory})
}

#[test]
fn a_pod_that_fits_needs_no_change() {
    let cluster = cluster(&[node("a", 1)], &[holder("h", "a", 0, 40_000), pending("w", &share(41_920))]);
    assert_eq!(helps(&cluster), Vec::<String>::new());
    let (pod, waiting) = cluster.waiting().next().unwrap();
    assert!(answers(&cluster, pod, waiting)[0].whys.is_empty());
}

#[test]
fn the_limit_is_lowered_to_the_very_most_that_fits() {
    let cluster = cluster(&[node("a", 1)], &[holder("h", "a", 0, 40_000), pending("w", &share(42_000))]);
    let found = helps(&cluster);
    assert_eq!(found[0], "lower nvidia.com/gpumem of container main from 42000 to 41920: it then fits node a");
    assert_eq!(found[1], "remove pod ns/h from node a");
}

#[test]
fn the_pod_that_holds_least_is_the_one_to_remove() {
    let pods = [
        holder("large", "a", 0, 60_000),
        holder("small", "a", 0, 20_000),
        holder("full", "b", 0, 0),
        pending("w", &share(20_000)),
    ];
    let found = helps(&cluster(&[node("a", 1), node("b", 1)], &pods));
    // 18,080 MiB less is less than the 20,000 that `small` holds.
    assert!(found[0].starts_with("lower nvidia.com/gpumem of container main from 20000 to 1920:"), "{found:?}");
    assert_eq!(found[1], "remove pod ns/small from node a");
}

#[test]
fn a_cordon_costs_nobody_anything() {
    let mut device = node("a", 2);
    device["metadata"]["annotations"]["packhorse.dev/cordon"] = "GPU-a-1".into();
    let mut whole = node("b", 1);
    whole["spec"] = json!({"unschedulable": true});
    let pods = [holder("h", "a", 0, 80_000), pending("w", &share(30_000))];
    let found = helps(&cluster(&[device, node("c", 0), whole.clone()], &pods));
    assert!(found[0].starts_with("lift the cordon of GPU-a-1 on node a"), "{found:?}");
    let found = helps(&cluster(&[whole], &pods[1..]));
    assert_eq!(found, ["lift the cordon of node b: kubectl uncordon b"]);
}

#[test]
fn a_whole_card_may_become_a_share_and_two_cards_one() {
    let pods = [holder("h", "a", 0, 8_192), pending("w", &json!({"count": 1, "exclusive": true}))];
    let found = helps(&cluster(&[node("a", 1)], &pods));
    assert_eq!(
        found[0],
        "lower nvidia.com/gpumem-percentage of container main from a whole GPU to 90: it then fits node a"
    );
    assert_eq!(found[1], "remove pod ns/h from node a");
    let pods = [holder("h", "a", 0, 0), pending("w", &json!({"count": 2, "exclusive": true}))];
    let found = helps(&cluster(&[node("a", 2)], &pods));
    assert!(found[0].starts_with("lower nvidia.com/gpu of container main from 2 to 1:"), "{found:?}");
}

#[test]
fn what_a_daemon_set_owns_is_not_removed_and_who_leaves_costs_nothing() {
    let mut daemon = holder("d", "a", 0, 40_000);
    daemon["metadata"]["ownerReferences"] = json!([{"kind": "DaemonSet", "name": "d", "controller": true}]);
    let mut leaving = holder("z", "a", 0, 40_000);
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let pods = [daemon, leaving, pending("w", &share(30_000))];
    let found = helps(&cluster(&[node("a", 1)], &pods));
    assert_eq!(found[0], "wait for pod ns/z, which is being deleted on node a");
    assert!(!found.iter().any(|change| change.contains("ns/d")), "{found:?}");
}

#[test]
fn one_change_must_be_enough_for_kube_scheduler_too() {
    let mut tainted = node("a", 1);
    tainted["spec"] = json!({"taints": [{"key": "team", "value": "x", "effect": "NoSchedule"}]});
    let pods = [holder("h", "a", 0, 80_000), pending("w", &share(30_000))];
    let cluster = cluster(&[tainted], &pods);
    assert_eq!(helps(&cluster), Vec::<String>::new());
    let (pod, waiting) = cluster.waiting().next().unwrap();
    let whys: Vec<String> = answers(&cluster, pod, waiting)[0].whys.iter().map(ToString::to_string).collect();
    assert_eq!(whys, ["taint team=x:NoSchedule not tolerated", "GPU memory exhausted"]);
}

#[test]
fn a_shortage_of_cpu_names_the_request_to_lower() {
    let mut pod = pending("w", &share(1_000));
    pod["spec"]["containers"][0]["resources"]["requests"] = json!({"cpu": "20", "memory": "1Gi"});
    let found = helps(&cluster(&[node("a", 1)], &[pod]));
    assert_eq!(found, ["lower the cpu request of the pod from 20000m to 16000m: it then fits node a"]);
}

#[test]
fn every_change_that_is_named_makes_the_pod_fit() {
    // Each named removal is made, and the pod fits.
    let pods = [
        holder("a0", "a", 0, 50_000),
        holder("a1", "a", 1, 0),
        holder("b0", "b", 0, 30_000),
        holder("b0b", "b", 0, 30_000),
        pending("w", &share(81_000)),
    ];
    let nodes = [node("a", 2), node("b", 1)];
    let before = cluster(&nodes, &pods);
    let (pod, waiting) = before.waiting().next().unwrap();
    let removal =
        smallest(&before, pod, waiting).into_iter().find(|change| change.what.kind() == "pod").expect("a pod");
    let What::Remove { pod, .. } = &removal.what else { panic!("{removal:?}") };
    assert_eq!(pod, "ns/a0");
    let left: Vec<Value> = pods.iter().filter(|pod| pod["metadata"]["name"] != "a0").cloned().collect();
    assert_eq!(helps(&cluster(&nodes, &left)), Vec::<String>::new(), "it fits now");
}
