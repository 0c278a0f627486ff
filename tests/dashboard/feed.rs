use std::time::Duration;

use serde_json::{Value, json};

use super::http::{Events, ask, get};
use super::world::{World, a100s, pending, running, uuid};

/// The pods on the first device of a node of a look.
fn pods(look: &Value, node: &str) -> Option<Vec<String>> {
    let node = look["nodes"].as_array().unwrap().iter().find(|other| other["name"] == node)?;
    let pods = node["devices"][0]["pods"].as_array().unwrap();
    Some(pods.iter().map(|pod| pod["name"].as_str().unwrap().to_owned()).collect())
}

#[tokio::test]
async fn a_feed_tells_everything_once_and_then_only_what_changes() {
    let world = World::start(&[a100s("a", 1), a100s("b", 1)], &[]).await;
    let mut events = Events::open(world.address, "").await;
    let first = events.next().await.unwrap();
    assert_eq!((&first["names"], first["nodes"].as_array().map(Vec::len)), (&json!(["a", "b"]), Some(2)));
    assert_eq!((&first["map"], &first["pending"]["count"]), (&json!("00"), &json!(0)));

    let pod = running("team", "train", "b", &uuid("b", 0), 40_960, 50);
    world.apply(&pod);
    let came = events.until("the pod", |look| pods(look, "b") == Some(vec!["train".to_owned()])).await;
    assert_eq!(came["nodes"].as_array().map(Vec::len), Some(1), "node a has not changed: {came}");
    assert_eq!((&came["totals"]["memoryUsed"], &came["map"]), (&json!(40_960), &json!("05")));
    assert!(came.get("names").is_none() && came.get("pending").is_none(), "{came}");

    let mut leaving = pod.clone();
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:01:00Z");
    world.apply(&leaving);
    let leaves = |look: &Value| look["nodes"][0]["devices"][0]["pods"][0]["state"] == "terminating";
    events.until("that it leaves, which changes no amount", leaves).await;

    world.remove(&pod);
    events.until("that it is gone", |look| pods(look, "b") == Some(Vec::new())).await;

    world.apply(&pending("team", "late", 90_000));
    let waits = events.until("the pod that waits", |look| look["pending"]["count"] == 1).await;
    assert_eq!(
        (waits["nodes"].as_array().map(Vec::len), &waits["pending"]["pods"][0]["name"]),
        (Some(0), &json!("late"))
    );

    world.apply_node(&a100s("c", 1));
    let grown = events.until("the new node", |look| look["names"] == json!(["a", "b", "c"])).await;
    assert_eq!(pods(&grown, "c"), Some(Vec::new()));
    world.ledger.remove_node("a");
    events.until("the node that is gone", |look| look["names"] == json!(["b", "c"])).await;
}

#[tokio::test]
async fn a_burst_is_one_event_and_a_feed_tells_of_the_nodes_that_it_was_asked_for() {
    let nodes: Vec<Value> = (0..30).map(|number| a100s(&format!("node-{number}"), 1)).collect();
    let world = World::start(&nodes, &[]).await;
    let mut events = Events::open(world.address, "?search=node-2&limit=5").await;
    let first = events.next().await.unwrap();
    assert_eq!(first["names"], json!(["node-2", "node-20", "node-21", "node-22", "node-23"]));
    for number in 0..30 {
        let name = format!("node-{number}");
        for pod in 0..9 {
            world.apply(&running("team", &format!("p-{number}-{pod}"), &name, &uuid(&name, 0), 100, 1));
        }
    }
    let mut told = 0;
    loop {
        let look = events.next().await.unwrap();
        told += 1;
        for node in look["nodes"].as_array().unwrap() {
            assert!(first["names"].as_array().unwrap().contains(&node["name"]), "{node}");
        }
        if look["totals"]["slotsUsed"] == 270 {
            break;
        }
    }
    assert!(told <= 4, "{told} events for 270 pods");
}

#[tokio::test]
async fn a_feed_ends_with_the_server_and_one_too_many_is_told_so() {
    let world = World::start(&[a100s("a", 1)], &[]).await;
    let mut feeds = Vec::new();
    for _ in 0..64 {
        feeds.push(Events::open(world.address, "").await);
    }
    let (status, text) = get(world.address, "/api/v1/events").await;
    assert_eq!(status, 503);
    assert!(text.contains("64 pages") && text.contains("/api/v1/cluster"), "{text}");

    // Who leaves makes room.
    let mut kept = feeds.pop().unwrap();
    feeds.clear();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let mut number = 0;
    while ask(world.address, "/api/v1/events").await.status() != 200 {
        assert!(tokio::time::Instant::now() < deadline, "a feed that nobody reads keeps its place");
        number += 1;
        world.apply(&running("team", &format!("p-{number}"), "a", &uuid("a", 0), 1, 0));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    kept.next().await.unwrap();
    let began = std::time::Instant::now();
    world.end().await;
    while kept.next().await.is_some() {}
    assert!(began.elapsed() < Duration::from_secs(10), "an open page holds up the end: {:?}", began.elapsed());
}
