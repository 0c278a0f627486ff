//! Pods made to hurt: as large as an API server lets through, or larger. They are answered in no time, and in few words.

use std::time::{Duration, Instant};

use super::*;

/// Denies or reads `pod`, quickly, in messages that fit an admission response.
fn answered(what: &str, pod: &Value) {
    let start = Instant::now();
    let messages = match read(pod) {
        Ok(parsed) => parsed.warnings,
        Err(denials) => denials.iter().map(Denial::to_string).collect(),
    };
    // What grows with the square of these sizes takes minutes.
    assert!(start.elapsed() < Duration::from_secs(10), "{what} took {:?}", start.elapsed());
    assert!(messages.len() <= 51, "{what}: {} messages", messages.len());
    assert!(
        messages.iter().all(|message| message.len() < 1_000),
        "{what}: {:?}",
        messages.iter().map(String::len).max()
    );
}

#[test]
fn huge_pods_are_answered_quickly_and_briefly() {
    const MANY: usize = 30_000;
    let long = "x".repeat(MANY);
    let list = |item: &dyn Fn(usize) -> String| (0..MANY).map(item).collect::<Vec<_>>().join(",");
    let gpu = || limits(&json!({"gpu": "1"}));
    let many =
        |item: &dyn Fn(usize) -> String| (0..MANY).map(|i| (item(i), json!("1"))).collect::<Map<String, Value>>();

    answered("a long list of indices", &with_env(gpu(), &[("NVIDIA_VISIBLE_DEVICES", &list(&|i| i.to_string()))]));
    answered("a long list of UUIDs", &with_env(gpu(), &[("NVIDIA_VISIBLE_DEVICES", &list(&|i| format!("GPU-{i}")))]));
    answered("a long value", &with_env(gpu(), &[("NVIDIA_VISIBLE_DEVICES", &long)]));
    for key in ["gpu-model", "gpu-uuid", "gpu-policy", "request"] {
        let key = format!("packhorse.dev/{key}");
        answered("a long annotation", &with_annotation(gpu(), &key, &long));
        answered("a long list of UUIDs", &with_annotation(gpu(), &key, &list(&|i| format!("GPU-{i}"))));
    }
    answered("a long chain", &with_annotation(gpu(), "hami.io/gpu-scheduler-policy", &list(&|_| "binpack".to_owned())));
    answered("long quantities", &limits(&json!({"gpu": long, "gpumem": long, "gpucores": format!("{:0>9999}", 1)})));
    answered("a long resource", &limits(&json!({(format!("gpu{long}")): "1", (format!("mig-{long}")): "1"})));

    let mut resources = gpu();
    resources["spec"]["containers"][0]["resources"] = json!({"limits": many(&|i| format!("nvidia.com/gpu{i}")), "requests": many(&|i| format!("nvidia.com/mig-{i}g.1gb"))});
    answered("many resources", &resources);

    let mut annotations = gpu();
    annotations["metadata"]["annotations"] = Value::Object(many(&|i| format!("hami.io/{i}")));
    annotations["metadata"]["labels"] = Value::Object(many(&|i| format!("hami.io/{i}")));
    answered("many annotations and labels", &annotations);
    let warnings = read(&annotations).unwrap().warnings;
    assert_eq!(warnings.last().unwrap(), &format!("{} more warnings are left out", 2 * MANY - 50));

    let containers = |resources: Value| {
        let container = |i: usize| json!({"name": format!("c{i}"), "resources": {"limits": resources}});
        json!({"spec": {"containers": (0..MANY).map(container).collect::<Vec<_>>()}})
    };
    answered("many bad containers", &containers(json!({"nvidia.com/gpu": "-1"})));
    answered("many strange containers", &containers(json!({"nvidia.com/gpus": "1"})));
    let entries = |entry: Value| Value::Object((0..MANY).map(|i| (format!("c{i}"), entry.clone())).collect());
    answered("many entries", &with_request(containers(json!({})), &entries(json!({"count": 1}))));
    answered("many unknown containers", &with_request(gpu(), &entries(json!({}))));
    answered("many unknown fields", &with_request(gpu(), &json!({"main": entries(json!(1))})));
    let numbers: Vec<usize> = (0..MANY).collect();
    answered("a long index", &with_request(gpu(), &json!({"main": {"index": numbers}})));
    answered(
        "a container with a long name",
        &json!({"spec": {"containers": [{"name": long, "env": [
        {"name": "NVIDIA_VISIBLE_DEVICES", "value": "x"}], "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}}),
    );
}
