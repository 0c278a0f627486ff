//! The pods and nodes of the measurement: the mixes of the openb trace, as the webhook leaves them, and nodes of eight cards.

use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use packhorse::webhook::{Answer, Metrics, Webhook};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::objects::{self, GpuNode};

const MODEL: &str = "NVIDIA A100-SXM4-80GB";
/// MiB of one card.
const MEMORY: u64 = 81_920;
const CARDS: usize = 8;
/// Steps through the trace; prime, so that neighbours of the list, which resemble each other, come apart.
const STRIDE: usize = 5003;

/// A node of 8 cards with a name of 40 characters, as clouds give them.
pub(crate) fn node(number: usize) -> GpuNode {
    let name = format!("gpu-worker-{number:05}.pool-a.cluster.internal");
    let mut node = GpuNode::new(&name, CARDS, MODEL, MEMORY);
    node.cpu = 128_000;
    let uuids: Vec<String> =
        node.devices.iter().map(|device| device["uuid"].as_str().unwrap_or_default().to_owned()).collect();
    for (at, device) in node.devices.iter_mut().enumerate() {
        device["numa"] = json!(at / 4);
        let peers = uuids.iter().enumerate().filter(|(peer, _)| *peer != at);
        device["links"] = peers.map(|(_, uuid)| (uuid.clone(), json!({"nvlink": 12, "pcie": "same-cpu"}))).collect();
    }
    node
}

/// `count` pods of one of the trace's lists as their authors write them. Where the list is shorter it begins anew.
///
/// A row's `gpu_milli` is its share of a card's memory and cores; 1000 is a card of its own. Its model is left out: all cards are alike.
pub(crate) fn written(mix: &str, count: usize) -> Vec<Pod> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/openb/openb_pod_list_{mix}.csv"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut lines = text.lines();
    let columns: Vec<&str> = lines.next().expect("a header").split(',').collect();
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    let column = |name: &str| columns.iter().position(|column| *column == name).expect("a column of the trace");
    let (cpu, gpus, milli) = (column("cpu_milli"), column("num_gpu"), column("gpu_milli"));
    let memory = columns.iter().position(|column| *column == "memory_mib");
    (0..count)
        .map(|at| {
            let row = &rows[at * STRIDE % rows.len()];
            let number = |column: usize| row[column].parse::<u64>().expect("a number of the trace");
            let mut limits = json!({"cpu": format!("{}m", number(cpu))});
            if let Some(memory) = memory {
                limits["memory"] = json!(format!("{}Mi", number(memory)));
            }
            if number(gpus) > 0 {
                limits["nvidia.com/gpu"] = json!(number(gpus).to_string());
                if number(milli) < 1000 {
                    limits["nvidia.com/gpumem"] = json!((MEMORY * number(milli) / 1000).to_string());
                    limits["nvidia.com/gpucores"] = json!((number(milli) / 10).to_string());
                }
            }
            let mut pod = objects::pod(&format!("p-{at:06}"), &limits);
            let spec = pod.spec.as_mut().expect("a spec");
            spec.automount_service_account_token = Some(false);
            if number(gpus) == 0 {
                // None of Packhorse's business; it takes part for the CPU and memory that it uses up.
                spec.scheduler_name = Some("packhorse".to_owned());
            }
            pod
        })
        .collect()
}

/// The same pods as the webhook hands them on.
pub(crate) fn admitted(written: &[Pod]) -> Vec<Pod> {
    let webhook = Webhook::new(Arc::default(), Box::new(|_| None), Metrics::new(&mut Registry::default()));
    written.iter().map(|pod| admit(&webhook, pod)).collect()
}

fn admit(webhook: &Webhook, pod: &Pod) -> Pod {
    let mut object = serde_json::to_value(pod).expect("JSON");
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "operation": "CREATE", "namespace": "default", "dryRun": false,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "userInfo": {"username": "lab"},
            "object": object,
        },
    });
    let Answer::Review(answer) = webhook.answer(review.to_string().as_bytes()) else { panic!("no review of a pod") };
    let answer: Value = serde_json::from_slice(&answer).expect("a review");
    assert_eq!(answer["response"]["allowed"], true, "{answer}");
    if let Some(patch) = answer["response"]["patch"].as_str() {
        let patch = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, patch).expect("base64");
        let patch: json_patch::Patch = serde_json::from_slice(&patch).expect("a patch");
        json_patch::patch(&mut object, &patch).expect("the patch applies");
    }
    serde_json::from_value(object).expect("a Pod")
}
