//! The orders of nodes and devices, by annotation and as the cluster's default, as far as the devices that a pod ends up with.

use packhorse::extender::{DeviceOrder, NodeOrder};
use serde_json::{Value, json};

use super::bind::Bench;
use super::world::{GIB, World, bound, device, names, node, pod, scores, share};

const NODE: &str = "packhorse.dev/node-policy";
const NODE_OF_HAMI: &str = "hami.io/node-scheduler-policy";
const GPU: &str = "packhorse.dev/gpu-policy";
const GPU_OF_HAMI: &str = "hami.io/gpu-scheduler-policy";

fn annotated(mut pod: Value, annotations: &[(&str, &str)]) -> Value {
    for (key, value) in annotations {
        pod["metadata"]["annotations"][*key] = json!(value);
    }
    pod
}

/// Adds NVLink connections to the inventory of a node.
fn linked(mut node: Value, links: &[(usize, usize, u8)]) -> Value {
    let text = node["metadata"]["annotations"]["packhorse.dev/inventory"].as_str().unwrap();
    let mut inventory: Value = serde_json::from_str(text).unwrap();
    for (a, b, nvlink) in links {
        for (from, to) in [(*a, *b), (*b, *a)] {
            let peer = inventory["devices"][to]["uuid"].as_str().unwrap().to_owned();
            inventory["devices"][from]["links"][peer] = json!({"nvlink": nvlink});
        }
    }
    node["metadata"]["annotations"]["packhorse.dev/inventory"] = json!(inventory.to_string());
    node
}

#[tokio::test]
async fn nodes_come_in_the_order_that_the_pod_or_else_the_cluster_says() {
    use NodeOrder::{Binpack, Spread};
    for (default, annotations, expected) in [
        (Binpack, &[][..], ["full", "half", "empty"]),
        (Binpack, &[(NODE, "spread")], ["empty", "half", "full"]),
        (Binpack, &[(NODE_OF_HAMI, "spread")], ["empty", "half", "full"]),
        (Spread, &[], ["empty", "half", "full"]),
        (Spread, &[(NODE, "binpack")], ["full", "half", "empty"]),
        (Spread, &[(NODE_OF_HAMI, "binpack")], ["full", "half", "empty"]),
        // Where both are written and agree.
        (Binpack, &[(NODE, "spread"), (NODE_OF_HAMI, "spread")], ["empty", "half", "full"]),
    ] {
        let world = World::new(&[node("full", 2), node("half", 2), node("empty", 2)]);
        world.set(|settings| (settings.node_policy, settings.holds) = (default, false));
        world.apply_pod(&bound("a", 0, "full", 0, 60 * GIB));
        world.apply_pod(&bound("b", 0, "full", 1, 40 * GIB));
        world.apply_pod(&bound("c", 0, "half", 0, 30 * GIB));
        let pod = annotated(share("p", 10 * GIB), annotations);
        let all = ["empty", "full", "half"];
        let case = format!("{default:?} with {annotations:?}");
        assert_eq!(names(&world.filter(&pod, &all).await), expected, "{case}");
        let scores = scores(&world.prioritize(&pod, &all).await);
        let order: Vec<&str> = scores.iter().map(|(_, host)| host.as_str()).collect();
        assert_eq!((scores[0].0, order[0]), (10, expected[0]), "{case}");
        assert!(scores[1].0 < 10 && scores[1].0 >= scores[2].0, "{case}: {scores:?}");
    }
}

#[tokio::test]
async fn spread_pods_go_round_all_nodes() {
    let nodes = ["n0", "n1", "n2"];
    let pods: Vec<Value> = (0..6).map(|i| annotated(share(&format!("p{i}"), 10 * GIB), &[(NODE, "spread")])).collect();
    let bench = Bench::new(&nodes.map(|name| node(name, 2)), &pods).await;
    for i in 0..6 {
        let name = format!("p{i}");
        let first = bench.filter(&name, &nodes).await.remove(0);
        assert_eq!(bench.bind(&name, &first).await, "");
    }
    for name in nodes {
        assert_eq!(bench.world.booked(name).iter().sum::<u32>(), 2 * 10 * GIB, "{name}");
    }
}

/// Five cards. 1 is fullest, then 3, then 0; 2 and 4 are empty and linked; the best link of all is 0 to 3; 3 has none to an empty
/// card.
fn five() -> Value {
    linked(node("n", 5), &[(0, 3, 4), (2, 4, 2), (0, 2, 1), (1, 2, 1)])
}

async fn devices(default: Option<DeviceOrder>, annotations: &[(&str, &str)], count: u32) -> Vec<usize> {
    let limits =
        json!({"nvidia.com/gpu": count.to_string(), "nvidia.com/gpumem": "10Gi", "packhorse.dev/gpu-cores": "0"});
    let bench = Bench::new(&[five()], &[annotated(pod("p", &limits), annotations)]).await;
    bench.world.set(|settings| settings.gpu_policy = default);
    for (index, memory) in [(0, 10), (1, 40), (3, 20)] {
        bench.world.apply_pod(&bound(&format!("u{index}"), 0, "n", index, memory * GIB));
    }
    assert_eq!(bench.filter("p", &["n"]).await, ["n"]);
    assert_eq!(bench.bind("p", "n").await, "");
    let pod = bench.pod("p");
    let given = pod["metadata"]["annotations"]["devices.packhorse.dev/main"].as_str().unwrap().to_owned();
    (0..5).filter(|index| given.split(',').any(|uuid| uuid == device("n", *index))).collect()
}

#[tokio::test]
async fn devices_come_in_the_order_that_the_pod_or_else_the_cluster_says() {
    use DeviceOrder::{Binpack, Spread, Topology};
    let (fullest, emptiest, by_links) = ((vec![1], vec![1, 3]), (vec![2], vec![2, 4]), (vec![3], vec![0, 3]));
    for (default, annotations, (one, two)) in [
        (None, &[][..], &(fullest.0.clone(), by_links.1.clone())),
        (Some(Binpack), &[], &fullest),
        (Some(Spread), &[], &emptiest),
        (Some(Topology), &[], &by_links),
        (None, &[(GPU, "binpack")], &fullest),
        (None, &[(GPU, "spread")], &emptiest),
        (None, &[(GPU, "topology")], &by_links),
        (Some(Topology), &[(GPU, "binpack")], &fullest),
        (Some(Binpack), &[(GPU, "spread")], &emptiest),
        (Some(Spread), &[(GPU, "topology")], &by_links),
        (Some(Spread), &[(GPU_OF_HAMI, "binpack")], &fullest),
        (None, &[(GPU_OF_HAMI, "spread")], &emptiest),
        (Some(Spread), &[(GPU_OF_HAMI, "topology-aware")], &by_links),
        (Some(Spread), &[(GPU_OF_HAMI, "numa")], &by_links),
        (None, &[(GPU_OF_HAMI, "binpack,topology-aware")], &by_links),
        (None, &[(GPU_OF_HAMI, "mutex")], &emptiest),
    ] {
        assert_eq!(&devices(default, annotations, 1).await, one, "one GPU: {default:?} with {annotations:?}");
        assert_eq!(&devices(default, annotations, 2).await, two, "two GPUs: {default:?} with {annotations:?}");
    }
}
