//! The HTTP contract: what is answered to whom, whatever the cluster.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::world::{World, names, node, pod, share};

const PATHS: [&str; 4] = ["/filter", "/prioritize", "/bind", "/preempt"];

#[tokio::test]
async fn an_empty_body_is_a_bad_request() {
    let world = World::new(&[node("n1", 1)]);
    for path in PATHS {
        assert_eq!(world.post_text(path, "").await.0, StatusCode::BAD_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn malformed_json_is_named_where_kube_scheduler_reads_it() {
    let world = World::new(&[node("n1", 1)]);
    for (path, body, expected) in [
        ("/filter", "{", "EOF"),
        ("/filter", "[]", "expected an object"),
        ("/filter", r#"{"Pod":{"metadata":{"name":"p"}},"NodeNames":"n1"}"#, "NodeNames"),
        ("/filter", r#"{"Pod":{"spec":{"containers":7}},"NodeNames":[]}"#, "Pod"),
        ("/filter", r#"{"Pod":{},"Nodes":{"items":[{"metadata":{"name":1}}]}}"#, "Nodes.items[0]"),
        ("/bind", "nonsense", "ExtenderBindingArgs"),
        ("/bind", r#"{"PodName":"p","PodNamespace":"ns","Node":"n1"}"#, "PodUID is missing"),
        ("/bind", r#"{"PodName":"p","PodNamespace":"ns","PodUID":"u","Node":null}"#, "Node is missing"),
        ("/bind", r#"{"PodName":"p","PodNamespace":"ns","PodUID":{},"Node":"n1"}"#, "PodUID"),
    ] {
        let (status, text) = world.post_text(path, body).await;
        assert_eq!(status, StatusCode::OK, "{path} {body}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        let error = answer["Error"].as_str().unwrap();
        assert!(error.contains(expected), "{path} {body}: {error}");
    }
    // These two have no place for an error text.
    for path in ["/prioritize", "/preempt"] {
        let (status, text) = world.post_text(path, "{").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(text.contains("EOF"), "{text}");
    }
}

#[tokio::test]
async fn a_missing_pod_is_an_error() {
    let world = World::new(&[node("n1", 1)]);
    for body in [json!({"NodeNames": ["n1"]}), json!({"Pod": null, "Nodes": null, "NodeNames": ["n1"]})] {
        let answer = world.post("/filter", &body).await;
        assert!(answer["Error"].as_str().unwrap().contains("no Pod"), "{answer}");
        assert_eq!(names(&answer), [""; 0]);
    }
}

#[tokio::test]
async fn a_pod_without_gpus_is_echoed_unchanged() {
    let world = World::new(&[node("n1", 1)]);
    let plain = pod("p", &json!({"cpu": "1"}));
    let answer = world.filter(&plain, &["x", "n1", "y"]).await;
    assert_eq!(
        answer,
        json!({"Nodes": null, "NodeNames": ["x", "n1", "y"], "FailedNodes": {}, "FailedAndUnresolvableNodes": {}, "Error": ""})
    );
    let scores = world.prioritize(&plain, &["x", "n1"]).await;
    assert_eq!(scores, json!([{"Host": "x", "Score": 0}, {"Host": "n1", "Score": 0}]));
    let given =
        json!({"Pod": plain, "Nodes": {"items": [{"metadata": {"name": "x"}, "strange": [1]}]}, "NodeNames": null});
    let answer = world.post("/filter", &given).await;
    assert_eq!(answer["Nodes"]["items"], given["Nodes"]["items"]);
    assert_eq!(names(&answer), ["x"]);
}

#[tokio::test]
async fn names_are_read_in_any_case_and_null_anywhere() {
    let world = World::new(&[node("n1", 1)]);
    let pod = share("p", 1000);
    for body in [
        json!({"pod": pod, "nodes": null, "nodenames": ["n1", "n2"]}),
        json!({"POD": pod, "nodeNames": ["n1", "n2"], "future": {"a": [null]}}),
    ] {
        assert_eq!(names(&world.post("/filter", &body).await), ["n1"]);
    }
    let nothing = json!({"Pod": pod, "Nodes": null, "NodeNames": null});
    assert_eq!(world.post("/filter", &nothing).await["NodeNames"], json!([]), "never null");
    assert_eq!(world.post("/prioritize", &nothing).await, json!([]));
    let none = json!({"Pod": pod, "NodeNameToVictims": null, "NodeNameToMetaVictims": null});
    assert_eq!(world.post("/preempt", &none).await, json!({"NodeNameToMetaVictims": {}}));
    let bind = json!({"podname": "p", "podnamespace": "ns", "poduid": "p", "node": "nowhere"});
    assert!(world.post("/bind", &bind).await["Error"].as_str().unwrap().contains("nowhere"));
}

#[tokio::test]
async fn nothing_is_answered_before_the_ledger_is_complete() {
    let world = World::before_lists(None, None, None);
    for path in PATHS {
        let (status, text) = world.post_text(path, "{}").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(text.contains("not ready"), "{text}");
    }
    world.ledger.replace_nodes([]);
    assert_eq!(world.post_text("/filter", "{}").await.0, StatusCode::SERVICE_UNAVAILABLE, "pods are still missing");
    world.ledger.replace_pods([]);
    assert_eq!(world.post_text("/filter", "{}").await.0, StatusCode::OK);
}

#[tokio::test]
async fn bodies_have_a_limit_that_can_be_set() {
    let world = World::new(&[node("n1", 1)]);
    let mut large = share("p", 1000);
    large["metadata"]["annotations"] = json!({"x": "y".repeat(10 << 20)});
    assert_eq!(names(&world.filter(&large, &["n1"]).await), ["n1"], "10 MB are nothing special");
    world.set(|settings| settings.max_body_mib = 1);
    let body = super::world::args(&large, &["n1"]).to_string();
    let (status, text) = world.post_text("/filter", body).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(text.contains("maxBodyMib"), "{text}");
}

#[tokio::test]
async fn only_post_is_served() {
    let world = World::new(&[]);
    let request = axum::http::Request::get("/filter").body(axum::body::Body::empty()).unwrap();
    let router = packhorse::extender::router(std::sync::Arc::clone(&world.extender));
    let answer = tower::ServiceExt::oneshot(router, request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
}
