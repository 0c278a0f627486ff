//! Scores and holds: which of the fitting nodes comes first.

use std::time::Duration;

use serde_json::json;

use super::world::{GIB, World, bound, names, node, scores, share};

#[tokio::test]
async fn exactly_one_node_gets_ten() {
    let world = World::new(&[node("a", 8), node("b", 8), node("c", 8), node("d", 8)]);
    world.apply_pod(&bound("u", 0, "c", 0, 10 * GIB));
    let all = ["a", "b", "c", "d"];
    let scores = scores(&world.prioritize(&share("p", 10 * GIB), &all).await);
    assert_eq!(scores[0], (10, "c".to_owned()), "binpack: the node in use");
    assert!(scores[1..].iter().all(|(score, _)| *score <= 9));
    assert_eq!(scores[1].1, "a", "equals by name");
}

#[tokio::test]
async fn spread_prefers_the_empty_node() {
    let world = World::new(&[node("a", 8), node("b", 8)]);
    world.apply_pod(&bound("u", 0, "a", 0, 10 * GIB));
    let mut pod = share("p", 10 * GIB);
    assert_eq!(names(&world.filter(&pod, &["a", "b"]).await)[0], "a");
    pod["metadata"]["annotations"] = json!({"packhorse.dev/node-policy": "spread"});
    assert_eq!(names(&world.filter(&pod, &["a", "b"]).await)[0], "b");
}

#[tokio::test]
async fn a_hold_moves_the_next_pod_where_there_is_room_after_the_last() {
    // Two nodes with room for one such pod each.
    let world = World::new(&[node("a", 1), node("b", 1)]);
    let both = ["a", "b"];
    assert_eq!(names(&world.filter(&share("p1", 50 * GIB), &both).await), ["a", "b"]);
    assert_eq!(names(&world.filter(&share("p2", 50 * GIB), &both).await), ["b", "a"], "p1 will probably go to a");
    assert_eq!(names(&world.filter(&share("p3", 50 * GIB), &both).await).len(), 2, "a verdict never counts holds");
    assert_eq!(names(&world.filter(&share("p1", 50 * GIB), &both).await)[0], "a", "unseen by the pod itself");
    assert_eq!(scores(&world.prioritize(&share("p2", 50 * GIB), &both).await)[0].1, "b");
    assert_eq!(world.extender.holds(), 3);

    // Filtered again with one node only: the hold moves there.
    world.remove_pod(&share("p2", 50 * GIB));
    world.remove_pod(&share("p3", 50 * GIB));
    assert_eq!(world.extender.holds(), 1, "deleted pods hold nothing");
    world.filter(&share("p1", 50 * GIB), &["b"]).await;
    assert_eq!(names(&world.filter(&share("p4", 50 * GIB), &both).await), ["a", "b"]);
}

#[tokio::test]
async fn a_hold_ends_after_five_seconds_unless_the_pod_waits_for_a_volume() {
    let both = ["a", "b"];
    for (volumes, after, first) in [
        (json!([]), 4, "b"),
        (json!([]), 5, "a"),
        (json!([{"persistentVolumeClaim": {"claimName": "data"}}]), 5, "b"),
        (json!([{"ephemeral": {"volumeClaimTemplate": {}}}]), 500, "b"),
        (json!([{"persistentVolumeClaim": {"claimName": "data"}}]), 600, "a"),
    ] {
        let world = World::new(&[node("a", 1), node("b", 1)]);
        let mut pod = share("p1", 50 * GIB);
        pod["spec"]["volumes"] = volumes.clone();
        world.filter(&pod, &both).await;
        world.pass(Duration::from_secs(after));
        let next = names(&world.filter(&share("p2", 50 * GIB), &both).await);
        assert_eq!(next[0], first, "{volumes} after {after} s");
    }
}

#[tokio::test]
async fn a_hold_is_gone_when_the_pod_is_bound_deleted_or_refused() {
    let both = ["a", "b"];
    let world = World::new(&[node("a", 1), node("b", 1)]);
    world.filter(&share("p1", 50 * GIB), &both).await;
    // Somebody else bound it to b: the ledger counts it there, and soon no hold on a is left.
    world.pass(Duration::from_secs(1));
    world.apply_pod(&bound("p1", 0, "b", 0, 50 * GIB));
    assert_eq!(names(&world.filter(&share("p2", 50 * GIB), &both).await), ["a"]);
    assert_eq!(world.extender.holds(), 1);
    world.remove_pod(&share("p2", 50 * GIB));
    assert_eq!(world.extender.holds(), 0);
    world.filter(&share("p3", 50 * GIB), &both).await;
    world.filter(&share("p3", 90 * GIB), &both).await;
    assert_eq!(world.extender.holds(), 0, "it now fits nowhere");
}

#[tokio::test]
async fn holds_can_be_switched_off() {
    let world = World::new(&[node("a", 1), node("b", 1)]);
    world.set(|settings| settings.holds = false);
    for i in 0..3 {
        assert_eq!(names(&world.filter(&share(&format!("p{i}"), 50 * GIB), &["a", "b"]).await)[0], "a");
    }
    assert_eq!(world.extender.holds(), 0);
}
