use packhorse::gpu::reason::Reason;
use serde_json::{Value, json};

use super::http::{ask, get, look};
use super::world::{World, a100s, card, node, pending, running, uuid};

#[tokio::test]
async fn a_look_says_of_each_device_what_it_is_and_who_holds_how_much_of_it() {
    let mut pod = running("team", "train", "a", &uuid("a", 0), 4096, 30);
    let share = |memory: u32, cores: u32| json!({"device": uuid("a", 0), "memory": memory, "cores": cores, "enforcement": "advisory"});
    let allocation = json!({"v": 1, "containers": {"main": [share(4096, 30)], "side": [share(1024, 0)]}});
    pod["metadata"]["annotations"]["packhorse.dev/allocation"] = json!(allocation.to_string());
    pod["metadata"]["annotations"]["devices.packhorse.dev/side"] = json!(uuid("a", 0));
    let mut instance = card("a", 1, "NVIDIA A100-SXM4-80GB", 9728);
    instance["uuid"] = json!("MIG-1");
    instance["slots"] = json!(1);
    instance["enforcement"] = json!("mig");
    instance["parent"] = json!("GPU-parent");
    instance["mig"] = json!({"profile": "1g.10gb", "start": 0, "size": 1});
    let mut sick = card("a", 2, "NVIDIA L4", 23_034);
    sick["health"] = json!("unhealthy");
    let mut a = node("a", &[card("a", 0, "NVIDIA A100-SXM4-80GB", 81_920), instance, sick]);
    a["metadata"]["annotations"]["packhorse.dev/cordon"] = json!("MIG-1");
    let plain = json!({"metadata": {"name": "without-gpus"}});
    let world = World::start(&[a, plain], &[pod]).await;

    let look = look(world.address, "").await;
    assert_eq!(
        (look["v"].as_u64(), look["ready"].as_bool(), look["matching"].as_u64()),
        (Some(1), Some(true), Some(1))
    );
    assert_eq!(look["names"], json!(["a"]));
    assert_eq!(look["map"], "!");
    assert_eq!(
        look["totals"],
        json!({"nodes": 1, "notReady": 0, "devices": 3, "unhealthy": 1, "cordoned": 1,
        "memory": 81_920 + 9728 + 23_034, "memoryUsed": 5120, "cores": 200, "coresUsed": 30, "slots": 21, "slotsUsed": 2})
    );
    let devices = &look["nodes"][0]["devices"];
    assert_eq!(
        devices[0],
        json!({
            "uuid": "GPU-a-0", "index": 0, "model": "NVIDIA A100-SXM4-80GB", "memory": 81_920, "memoryUsed": 5120, "cores": 100,
            "coresUsed": 30, "slots": 10, "slotsUsed": 2, "health": "healthy", "enforcement": "advisory", "pci": "0000:00:00.0", "numa": 0,
            "pods": [{"uid": "uid-team-train", "namespace": "team", "name": "train", "memory": 5120, "cores": 30, "state": "running",
                "containers": [{"name": "main", "memory": 4096, "cores": 30}, {"name": "side", "memory": 1024, "cores": 0}]}],
        })
    );
    assert_eq!(
        (&devices[1]["mig"], &devices[1]["parent"], &devices[1]["cordoned"]),
        (&json!("1g.10gb"), &json!("GPU-parent"), &json!(true))
    );
    assert_eq!((&devices[1]["enforcement"], &devices[1]["pods"]), (&json!("mig"), &json!([])));
    assert_eq!(devices[2]["health"], "unhealthy");
}

#[tokio::test]
async fn a_pending_pod_is_told_with_its_request_the_schedulers_words_and_what_filter_found() {
    let mut pod = pending("team", "large", 70_000);
    let words = "0/2 nodes are available: 2 GPU memory exhausted.";
    pod["status"]["conditions"] =
        json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}]);
    let mut plain = pending("team", "plain", 1);
    plain["spec"]["containers"][0]["resources"] = json!({});
    let world = World::start(&[a100s("a", 1), a100s("b", 1)], &[pod.clone(), plain]).await;
    let reasons = [Some(Reason::MemoryExhausted), Some(Reason::MemoryExhausted), None];
    world.dashboard.note_refusal("uid-team-large", reasons.into_iter());

    let told = look(world.address, "").await["pending"].clone();
    assert_eq!(
        told,
        json!({"count": 1, "matching": 1, "pods": [{
            "uid": "uid-team-large", "namespace": "team", "name": "large", "created": "2026-01-01T00:00:00Z",
            "asks": [{"container": "main", "count": 1, "memory": 70_000}], "condition": "Unschedulable", "message": words,
            "reasons": [{"reason": "GPU memory exhausted", "nodes": 2}, {"reason": "node not known to Packhorse", "nodes": 1}],
        }]})
    );
    assert_eq!(look(world.address, "?search=team/lar").await["pending"]["matching"], 1);
    assert_eq!(look(world.address, "?search=elsewhere").await["pending"]["matching"], 0);

    // Bound, it waits no more.
    world.apply(&running("team", "large", "a", &uuid("a", 0), 70_000, 0));
    assert_eq!(look(world.address, "").await["pending"]["count"], 0);
    // Nor does one whose deletion no watch has shown.
    world.apply(&pending("team", "other", 1000));
    assert_eq!(look(world.address, "").await["pending"]["count"], 1);
    world.replace_pods(&[]);
    assert_eq!(look(world.address, "").await["pending"]["count"], 0);
}

#[tokio::test]
async fn nothing_of_a_pods_environment_or_commands_is_told() {
    let secret = "hunter2";
    let spoil = |mut pod: Value| {
        let container = &mut pod["spec"]["containers"][0];
        container["env"] =
            json!([{"name": "PASSWORD", "value": secret}, {"name": "NVIDIA_VISIBLE_DEVICES", "value": secret}]);
        container["args"] = json!([secret]);
        pod["metadata"]["labels"] = json!({"token": secret});
        pod["metadata"]["annotations"]["note"] = json!(secret);
        pod
    };
    let pods = [spoil(running("team", "on", "a", &uuid("a", 0), 1000, 0)), spoil(pending("team", "off", 1000))];
    let world = World::start(&[a100s("a", 1)], &pods).await;
    let (_, text) = get(world.address, "/api/v1/cluster").await;
    assert!(text.contains("team") && text.contains("\"on\"") && text.contains("\"off\""), "{text}");
    assert!(!text.contains(secret), "{text}");
}

#[tokio::test]
async fn a_search_finds_nodes_by_name_state_model_health_and_pod() {
    let mut sick = card("l4-2", 0, "NVIDIA L4", 23_034);
    sick["health"] = json!("unhealthy");
    let nodes = [a100s("gpu-10", 1), a100s("gpu-2", 1), node("l4-2", &[sick])];
    let world = World::start(&nodes, &[running("vision", "train-7", "gpu-2", &uuid("gpu-2", 0), 1000, 0)]).await;
    for (query, expected) in [
        ("", &["gpu-2", "gpu-10", "l4-2"][..]),
        ("?search=GPU-", &["gpu-2", "gpu-10", "l4-2"]),
        ("?search=a100", &["gpu-2", "gpu-10"]),
        ("?search=vision/train", &["gpu-2"]),
        ("?search=unhealthy", &["l4-2"]),
        ("?search=l4%20unhealthy", &["l4-2"]),
        ("?search=a100%20unhealthy", &[]),
        ("?limit=1", &["gpu-2"]),
        ("?first=1&limit=1", &["gpu-10"]),
        // Past the end: the last page.
        ("?first=999&limit=2", &["l4-2"]),
    ] {
        assert_eq!(look(world.address, query).await["names"], json!(expected), "{query}");
    }
}

#[tokio::test]
async fn a_bad_query_is_answered_with_400_and_the_remedy() {
    let world = World::start(&[], &[]).await;
    for path in ["/api/v1/cluster", "/api/v1/events"] {
        for (query, parts) in [
            ("limit=0", &["limit", "\"0\"", "1 to 200"][..]),
            ("first=x", &["first", "\"x\"", "number"]),
            ("nodes=a", &["\"nodes\"", "first, limit or search"]),
        ] {
            let (status, text) = get(world.address, &format!("{path}?{query}")).await;
            assert_eq!(status, 400, "{path}?{query}: {text}");
            for part in parts {
                assert!(text.contains(part), "{path}?{query}: {text:?} lacks {part:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_page_lets_only_its_own_script_run_and_nobody_frame_or_keep_it() {
    let world = World::start(&[], &[]).await;
    let mut nonces = Vec::new();
    for _ in 0..2 {
        let answer = ask(world.address, "/").await;
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        let policy = header("content-security-policy");
        for part in [
            "default-src 'none'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        for (name, value) in [
            ("content-type", "text/html; charset=utf-8"),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
        ] {
            assert_eq!(header(name), value, "{name}");
        }
        let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned();
        assert!(nonce.len() >= 32, "{nonce}");
        nonces.push(nonce);
    }
    assert_ne!(nonces[0], nonces[1]);
    let (_, page) = get(world.address, "/").await;
    assert!(!page.contains("{{nonce}}") && page.matches("nonce=\"").count() == 2);
    for path in ["/api/v1/cluster", "/api/v1/events", "/api/v1/cluster?limit=0"] {
        let answer = ask(world.address, path).await;
        for (name, value) in [("cache-control", "no-store"), ("x-content-type-options", "nosniff")] {
            assert_eq!(answer.headers()[name], value, "{path}: {name}");
        }
        assert!(!answer.headers().contains_key("access-control-allow-origin"), "no other site may read it");
    }
}

#[tokio::test]
async fn five_thousand_nodes_make_no_larger_answer_than_one_page_of_them() {
    let nodes: Vec<Value> = (0..5_000).map(|number| a100s(&format!("node-{number}"), 8)).collect();
    let pods: Vec<Value> = (0..400)
        .map(|number| running("team", &format!("pod-{number}"), "node-0", &uuid("node-0", number % 8), 1000, 1))
        .collect();
    let world = World::start(&nodes, &pods).await;
    let (status, text) = get(world.address, "/api/v1/cluster").await;
    assert_eq!(status, 200);
    assert!(text.len() < 400_000, "{} bytes", text.len());
    let look: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((look["matching"].as_u64(), look["nodes"].as_array().map(Vec::len)), (Some(5_000), Some(48)));
    assert_eq!(look["totals"]["devices"], 40_000);
    assert_eq!(look["map"].as_str().map(str::len), Some(5_000));
    let last = super::http::look(world.address, "?first=4992&limit=200").await;
    assert_eq!(last["names"].as_array().map(Vec::len), Some(200), "the last page is whole");
    let found = super::http::look(world.address, "?search=node-4321").await;
    assert_eq!(found["names"], json!(["node-4321"]));
}
