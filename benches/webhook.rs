//! The webhook's own part of one admission review, without HTTP: parse, decide, patch.

#![allow(missing_docs, clippy::expect_used, reason = "criterion's macros, and a benchmark ends where it fails")]

mod cluster;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use packhorse::webhook::{Answer, Metrics, Webhook};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

fn review(pod: &Value) -> Vec<u8> {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "operation": "CREATE", "namespace": "team-a", "dryRun": false,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "object": pod,
        },
    })
    .to_string()
    .into_bytes()
}

fn webhook(criterion: &mut Criterion) {
    let webhook = Webhook::new(Arc::default(), Box::new(|_| None), Metrics::new(&mut Registry::default()));
    let mut pod = cluster::pending("p", 7);
    pod["spec"]["schedulerName"] = json!("default-scheduler");
    pod["metadata"]["annotations"] = json!({});
    pod["spec"]["containers"][0]["env"] = json!([{"name": "MODE", "value": "production"}]);
    let resources = json!({"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1", "nvidia.com/gpumem": "8192", "nvidia.com/gpucores": "30"});
    pod["spec"]["containers"][0]["resources"] = json!({"limits": resources, "requests": resources});
    let gpu = review(&pod);
    let Answer::Review(answer) = webhook.answer(&gpu) else { panic!("no review") };
    assert!(String::from_utf8_lossy(&answer).contains("\"patch\""));
    let mut group = criterion.benchmark_group("webhook");
    group.bench_function("GPU pod, parse and patch", |bencher| bencher.iter(|| black_box(webhook.answer(&gpu))));
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "4"}});
    let plain = review(&pod);
    group.bench_function("other pod", |bencher| bencher.iter(|| black_box(webhook.answer(&plain))));
    group.finish();
}

criterion_group!(benches, webhook);
criterion_main!(benches);
