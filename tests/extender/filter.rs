//! Verdicts: who fits, who does not and why, and which of those that fit are returned.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::world::{GIB, World, bound, device, names, node, node_with, pod, share, with_priority};

fn many(count: usize) -> (Vec<Value>, Vec<String>) {
    let names: Vec<String> = (0..count).map(|i| format!("gpu-node-{i:05}.pool-a.example.internal.net")).collect();
    (names.iter().map(|name| node(name, 8)).collect(), names)
}

#[tokio::test]
async fn returns_fitting_names_and_no_failures() {
    let world = World::new(&[node_with("small", 1, 10 * GIB), node("large", 1)]);
    let answer = world.filter(&share("p", 20 * GIB), &["small", "unknown", "large"]).await;
    assert_eq!(
        answer,
        json!({"Nodes": null, "NodeNames": ["large"], "FailedNodes": {}, "FailedAndUnresolvableNodes": {}, "Error": ""})
    );
}

#[tokio::test]
async fn each_node_gets_its_fixed_reason_where_none_fits() {
    let mut bare = node("bare", 1);
    bare["metadata"]["annotations"] = json!({});
    let mut damaged = node("damaged", 1);
    damaged["metadata"]["annotations"]["packhorse.dev/inventory"] = json!("{");
    let nodes = [node_with("small", 1, 10 * GIB), node("full", 1), bare, damaged];
    let all = ["small", "full", "bare", "damaged", "unknown"];
    let hopeless = [
        ("small", "GPU memory smaller than requested"),
        ("bare", "no GPU inventory published"),
        ("damaged", "GPU inventory cannot be read"),
        ("unknown", "node not known to Packhorse"),
    ];
    let shortage = ("full", "GPU memory exhausted");
    for (version, in_failed) in
        [(None, false), (Some("v1.36.3"), false), (Some("1.37"), false), (Some("v1.38.0"), true)]
    {
        let world = World::with(&nodes, None, version, None);
        world.apply_pod(&bound("other", 0, "full", 0, 70 * GIB));
        let answer = world.filter(&share("p", 20 * GIB), &all).await;
        assert_eq!(answer["NodeNames"], json!([]), "an empty list, never null");
        for (name, reason) in hopeless {
            assert_eq!(answer["FailedAndUnresolvableNodes"][name], reason, "{version:?}");
            assert!(answer["FailedNodes"].get(name).is_none());
        }
        let (there, elsewhere) = if in_failed {
            ("FailedNodes", "FailedAndUnresolvableNodes")
        } else {
            ("FailedAndUnresolvableNodes", "FailedNodes")
        };
        assert_eq!(answer[there][shortage.0], shortage.1, "{version:?}");
        assert!(answer[elsewhere].get(shortage.0).is_none());
        for map in ["FailedNodes", "FailedAndUnresolvableNodes"] {
            for reason in answer[map].as_object().unwrap().values() {
                assert!(!reason.as_str().unwrap().contains(|c: char| c.is_ascii_digit()), "no numbers: {reason}");
            }
        }
    }
    // What the operator says wins over the API server.
    let world = World::with(&nodes, None, Some("1.36"), None);
    world.apply_pod(&bound("other", 0, "full", 0, 70 * GIB));
    world.set(|settings| settings.scheduler_version = Some("1.38".parse().unwrap()));
    let answer = world.filter(&share("p", 20 * GIB), &all).await;
    assert_eq!(answer["FailedNodes"]["full"], shortage.1);
}

#[tokio::test]
async fn a_verdict_has_no_side_effect() {
    let (nodes, names) = many(5);
    let world = World::new(&nodes);
    world.apply_pod(&bound("other", 0, &names[0], 0, 70 * GIB));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let versions = |world: &World| -> Vec<u64> {
        names.iter().map(|name| world.ledger.node(name).unwrap().snapshot().version).collect()
    };
    let before = versions(&world);
    for i in 0..50 {
        let fits: BTreeSet<String> =
            super::world::names(&world.filter(&share(&format!("p{i}"), 20 * GIB), &names).await).into_iter().collect();
        assert_eq!(fits.len(), 5, "50 pods were filtered and none is bound: all nodes still fit");
    }
    assert_eq!(versions(&world), before);
    assert_eq!(world.api_calls.load(Ordering::SeqCst), 0, "no API call");
    assert!(world.ledger.pods().iter().all(|pod| *pod.uid == *"other"));
}

#[tokio::test]
async fn only_the_best_are_returned_whatever_the_order_of_names() {
    let (nodes, names) = many(50);
    let world = World::new(&nodes);
    // Binpack: the five nodes in use come first.
    for i in [7, 13, 22, 31, 49] {
        world.apply_pod(&bound(&format!("u{i}"), 0, &names[i], 0, 10 * GIB));
    }
    world.set(|settings| settings.holds = false);
    let forward: Vec<&str> = names.iter().map(String::as_str).collect();
    let backward: Vec<&str> = names.iter().rev().map(String::as_str).collect();
    let first = self::names(&world.filter(&share("p", 10 * GIB), &forward).await);
    assert_eq!(first.len(), 16);
    let best: BTreeSet<&str> = first[..5].iter().map(String::as_str).collect();
    assert_eq!(best, [7, 13, 22, 31, 49].iter().map(|i| names[*i].as_str()).collect());
    assert_eq!(self::names(&world.filter(&share("p", 10 * GIB), &backward).await), first);
    world.set(|settings| settings.best_nodes = 3.try_into().unwrap());
    assert_eq!(self::names(&world.filter(&share("p", 10 * GIB), &forward).await), first[..3]);
}

#[tokio::test]
async fn two_hundred_repeats_give_one_answer() {
    let (nodes, names) = many(40);
    let world = World::new(&nodes);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let pod = share("p", 10 * GIB);
    let filtered = world.filter(&pod, &names).await;
    let ranked = world.prioritize(&pod, &names).await;
    for _ in 0..200 {
        assert_eq!(world.filter(&pod, &names).await, filtered);
        assert_eq!(world.prioritize(&pod, &names).await, ranked);
    }
    // A fresh process says the same.
    let other = World::new(&nodes);
    assert_eq!(other.filter(&pod, &names).await, filtered);
}

#[tokio::test]
async fn all_are_returned_where_a_preference_has_to_be_weighed() {
    let (nodes, names) = many(30);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let preferred = json!([{"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}]);
    for spec in [
        json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}}),
        json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}}}),
        json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}}}),
        json!({"topologySpreadConstraints": [{"maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"}]}),
    ] {
        let world = World::new(&nodes);
        let mut pod = share("p", 10 * GIB);
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        assert_eq!(self::names(&world.filter(&pod, &names).await), names, "{spec}");
        let scores = super::world::scores(&world.prioritize(&pod, &names).await);
        assert_eq!(scores[0].0, 10, "{spec}");
        assert!(scores[1..].iter().all(|(score, _)| *score == 9), "{spec}");
    }
}

#[tokio::test]
async fn all_are_returned_where_a_node_would_rather_not_be_chosen() {
    let (mut nodes, names) = many(30);
    nodes[3]["spec"] = json!({"taints": [{"key": "maintenance", "effect": "PreferNoSchedule"}]});
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = World::new(&nodes);
    let pod = share("p", 10 * GIB);
    assert_eq!(self::names(&world.filter(&pod, &names).await), names);
    let scores = super::world::scores(&world.prioritize(&pod, &names).await);
    assert!(scores[1..].iter().all(|(score, _)| *score == 9));
    // It is not among the candidates: nothing to weigh.
    assert_eq!(self::names(&world.filter(&pod, &names[4..]).await).len(), 16);
}

#[tokio::test]
async fn by_default_the_best_node_comes_back_alone() {
    let (nodes, names) = many(30);
    let world = World::new(&nodes);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let first = self::names(&world.filter(&share("p", 10 * GIB), &names).await);
    world.set(|settings| settings.best_nodes = packhorse::extender::Settings::default().best_nodes);
    assert_eq!(self::names(&world.filter(&share("p", 10 * GIB), &names).await), first[..1]);
}

#[tokio::test]
async fn five_thousand_names_are_answered() {
    let (nodes, names) = many(5000);
    let world = World::new(&nodes);
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(self::names(&world.filter(&share("p", 10 * GIB), &all).await).len(), 16);
    let answer = world.filter(&share("q", 81 * GIB), &all).await;
    assert_eq!(answer["NodeNames"], json!([]));
    assert_eq!(answer["FailedAndUnresolvableNodes"].as_object().unwrap().len(), 5000);
}

#[tokio::test]
async fn nodes_come_go_and_change_places() {
    let (nodes, names) = many(60);
    let world = World::new(&nodes[..50]);
    world.set(|settings| settings.best_nodes = 100.try_into().unwrap());
    let pod = share("p", 10 * GIB);
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    let known: BTreeSet<String> = names[..50].iter().cloned().collect();
    let fitting = |answer: &Value| -> BTreeSet<String> { self::names(answer).into_iter().collect() };
    assert_eq!(fitting(&world.filter(&pod, &all).await), known);
    // In every other order, often enough that a new order is learned.
    for round in 0..100 {
        all.rotate_left(7);
        all.swap(round % 60, (round * 17) % 60);
        assert_eq!(fitting(&world.filter(&pod, &all).await), known);
        assert_eq!(
            fitting(&world.filter(&pod, &all[10..20]).await).len(),
            all[10..20].iter().filter(|n| known.contains(**n)).count()
        );
    }
    world.ledger.remove_node(&names[0]);
    let left: BTreeSet<String> = names[1..50].iter().cloned().collect();
    assert_eq!(fitting(&world.filter(&pod, &all).await), left);
    for node in [&nodes[0], &nodes[55]] {
        world.apply_node(node);
    }
    let back = known.iter().cloned().chain([names[55].clone()]).collect();
    assert_eq!(fitting(&world.filter(&pod, &all).await), back);
    // The same node again under its name, full.
    world.ledger.remove_node(&names[1]);
    world.apply_node(&node_with(&names[1], 1, GIB));
    assert!(!fitting(&world.filter(&pod, &all).await).contains(&names[1]));
    // A name twice is answered twice, a strange one not at all.
    let odd = [&*names[2], &*names[2], "a\"b", ""];
    assert_eq!(self::names(&world.filter(&pod, &odd).await), [&*names[2], &*names[2]]);
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_an_error_that_names_it() {
    let world = World::new(&[node("n1", 1)]);
    let pod = pod("p", &json!({"nvidia.com/gpu": "1", "nvidia.com/gpumem": "-5"}));
    let answer = world.post("/filter", &super::world::args(&pod, &["n1"])).await;
    let error = answer["Error"].as_str().unwrap();
    for part in ["main", "nvidia.com/gpumem", "-5"] {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[tokio::test]
async fn changes_of_a_node_change_the_verdict_at_once() {
    let world = World::new(&[node("n1", 1)]);
    let pod = share("p", 50 * GIB);
    assert_eq!(names(&world.filter(&pod, &["n1"]).await), ["n1"]);
    let other = bound("other", 0, "n1", 0, 50 * GIB);
    world.apply_pod(&other);
    assert_eq!(names(&world.filter(&pod, &["n1"]).await), [""; 0]);
    world.remove_pod(&other);
    assert_eq!(names(&world.filter(&pod, &["n1"]).await), ["n1"]);
    let mut cordoned = node("n1", 1);
    cordoned["metadata"]["annotations"]["packhorse.dev/cordon"] = json!(device("n1", 0));
    world.apply_node(&cordoned);
    assert_eq!(world.filter(&pod, &["n1"]).await["FailedAndUnresolvableNodes"]["n1"], "GPU cordoned");
}

#[tokio::test]
async fn room_of_a_nominated_pod_is_refused_to_lower_priorities() {
    let world = World::new(&[node("n1", 1)]);
    let victim = bound("victim", 1, "n1", 0, 40 * GIB);
    world.apply_pod(&victim);
    let mut preemptor = with_priority(share("preemptor", 60 * GIB), 100);
    preemptor["status"]["nominatedNodeName"] = json!("n1");
    world.apply_pod(&preemptor);
    let mut leaving = victim.clone();
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    world.apply_pod(&leaving);

    // 40 GiB are free now, and 60 are promised as soon as the victim is gone.
    let low = with_priority(share("low", 30 * GIB), 5);
    let answer = world.filter(&low, &["n1"]).await;
    assert_eq!(answer["FailedAndUnresolvableNodes"]["n1"], "room promised to a pod of higher priority");
    let high = with_priority(share("high", 30 * GIB), 1000);
    assert_eq!(names(&world.filter(&high, &["n1"]).await), ["n1"]);
    let answer = world.filter(&preemptor, &["n1"]).await;
    assert_eq!(answer["FailedAndUnresolvableNodes"]["n1"], "GPU memory exhausted", "its own promise is no obstacle");
    world.remove_pod(&leaving);
    assert_eq!(names(&world.filter(&preemptor, &["n1"]).await), ["n1"]);
    let small = with_priority(share("small", 15 * GIB), 5);
    assert_eq!(names(&world.filter(&small, &["n1"]).await), ["n1"], "what is left beside the promise");
    assert_eq!(names(&world.filter(&low, &["n1"]).await), [""; 0]);
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_is_noted_once_a_call() {
    let noted = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&noted);
    let world = World::with(
        &[node("n1", 1), node("n2", 1)],
        None,
        None,
        Some(Arc::new(move |unfit| {
            sink.lock().unwrap().push((unfit.record.uid.as_ref().to_owned(), unfit.asked.len()));
        })),
    );
    world.filter(&share("fits", GIB), &["n1", "n2"]).await;
    world.filter(&share("large", 81 * GIB), &["n1", "n2"]).await;
    let noted = noted.lock().unwrap();
    assert_eq!(noted[0], ("large".to_owned(), 2));
    assert_eq!(noted.len(), 2, "once by each of two calls");
}
