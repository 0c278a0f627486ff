//! `/preempt`: victims that really make room.

use serde_json::{Value, json};

use super::world::{GIB, World, bound, node, share, with_priority};

fn meta(uids: &[&str]) -> Value {
    let pods: Vec<Value> = uids.iter().map(|uid| json!({"UID": uid})).collect();
    json!({"Pods": pods, "NumPDBViolations": 0})
}

async fn preempt(world: &World, pod: &Value, proposals: Value) -> Value {
    let body = json!({"Pod": pod, "NodeNameToVictims": null, "NodeNameToMetaVictims": proposals});
    world.post("/preempt", &body).await["NodeNameToMetaVictims"].clone()
}

fn uids(answer: &Value, node: &str) -> Vec<String> {
    let pods = answer[node]["Pods"].as_array().unwrap_or_else(|| panic!("{node} in {answer}"));
    pods.iter().map(|pod| pod["UID"].as_str().unwrap().to_owned()).collect()
}

/// Two cards, each with 50 GiB taken by `a*` (priority 1) and 20 by `b*` (priority 2).
fn world() -> World {
    let world = World::new(&[node("n1", 2), node("n2", 1)]);
    for card in 0..2 {
        world.apply_pod(&bound(&format!("a{card}"), 1, "n1", card, 50 * GIB));
        world.apply_pod(&bound(&format!("b{card}"), 2, "n1", card, 20 * GIB));
    }
    world
}

#[tokio::test]
async fn victims_that_make_room_are_left_as_they_are() {
    let world = world();
    let pod = with_priority(share("p", 60 * GIB), 10);
    let answer = preempt(&world, &pod, json!({"n1": {"Pods": [{"UID": "a1"}], "NumPDBViolations": 3}})).await;
    assert_eq!(answer, json!({"n1": {"Pods": [{"UID": "a1"}], "NumPDBViolations": 3}}));
}

#[tokio::test]
async fn victims_on_two_cards_do_not_room_one_container() {
    let world = world();
    // 20 + 20 + 10 + 10 GiB free in sum, but no card with 60.
    let pod = with_priority(share("p", 60 * GIB), 10);
    let answer = preempt(&world, &pod, json!({"n1": meta(&["b0", "b1"])})).await;
    assert_eq!(uids(&answer, "n1"), ["a0"], "one added; the proposed ones are not needed any more");
}

#[tokio::test]
async fn empty_lists_are_filled_with_the_lowest_priorities() {
    let world = world();
    let pod = with_priority(share("p", 25 * GIB), 10);
    assert_eq!(uids(&preempt(&world, &pod, json!({"n1": meta(&[])})).await, "n1"), ["a0"]);
    let pod = with_priority(share("p", 75 * GIB), 10);
    assert_eq!(uids(&preempt(&world, &pod, json!({"n1": meta(&[])})).await, "n1"), ["a0", "b0"]);
    let both = super::world::pod("p", &json!({"nvidia.com/gpu": "2", "nvidia.com/gpumem": "30720"}));
    let answer = preempt(&world, &with_priority(both, 10), json!({"n1": meta(&[])})).await;
    assert_eq!(uids(&answer, "n1"), ["a0", "a1"], "one on each card");
}

#[tokio::test]
async fn equal_and_higher_priorities_are_never_victims() {
    let world = world();
    let pod = with_priority(share("p", 75 * GIB), 2);
    for proposal in [meta(&[]), meta(&["a0", "b0"]), meta(&["b0"])] {
        assert_eq!(preempt(&world, &pod, json!({"n1": proposal})).await, json!({}), "{proposal}");
    }
    let pod = with_priority(share("p", 40 * GIB), 2);
    assert_eq!(uids(&preempt(&world, &pod, json!({"n1": meta(&["a0", "b0"])})).await, "n1"), ["a0"]);
}

#[tokio::test]
async fn nodes_where_it_cannot_help_are_dropped() {
    let world = world();
    let pod = with_priority(share("p", 81 * GIB), 10);
    let nodes = json!({"n1": meta(&["a0", "b0"]), "n2": meta(&[]), "unknown": meta(&["x"])});
    assert_eq!(preempt(&world, &pod, nodes).await, json!({}));
    // It fits on n2 as it is: nobody has to go, and kube-scheduler takes a node without victims for a mistake.
    let pod = with_priority(share("p", 60 * GIB), 10);
    assert_eq!(preempt(&world, &pod, json!({"n2": meta(&[])})).await, json!({}));
}

#[tokio::test]
async fn both_forms_are_read_and_the_short_one_is_written() {
    let world = world();
    let pod = with_priority(share("p", 60 * GIB), 10);
    let victims = json!({"n1": {"Pods": [bound("a0", 1, "n1", 0, 50 * GIB)], "NumPDBViolations": 1}});
    let body = json!({"Pod": pod, "NodeNameToVictims": victims, "NodeNameToMetaVictims": null});
    let answer = world.post("/preempt", &body).await;
    assert_eq!(answer, json!({"NodeNameToMetaVictims": {"n1": {"Pods": [{"UID": "a0"}], "NumPDBViolations": 1}}}));
}

#[tokio::test]
async fn victims_of_other_resources_stay_and_pods_of_other_nodes_do_not() {
    let world = world();
    world.apply_pod(&bound("far", 0, "n2", 0, GIB));
    let pod = with_priority(share("p", 60 * GIB), 10);
    let answer = preempt(&world, &pod, json!({"n1": meta(&["a0", "cpu-only", "far"])})).await;
    assert_eq!(uids(&answer, "n1"), ["a0", "cpu-only"]);
    // A pod without GPUs preempts without us.
    let plain = with_priority(super::world::pod("p", &json!({"cpu": "1"})), 10);
    assert_eq!(uids(&preempt(&world, &plain, json!({"n1": meta(&["x"])})).await, "n1"), ["x"]);
}
