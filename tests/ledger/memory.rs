//! How much memory a large cluster takes. A measurement: run alone, with
//! `cargo test --release --test packhorse ledger::memory -- --ignored --nocapture`.

use std::time::Instant;

use packhorse::gpu::allocation::{Allocation, ContainerAllocation, Share};
use packhorse::gpu::device::Enforcement;
use packhorse::ledger::Ledger;
use packhorse::metrics::exposition::Exposition;
use serde_json::{Value, json};

use super::build::{apply_node, apply_pod, bound, replace_pods};

const NODES: usize = 5000;
const GPUS: usize = 8;

/// Resident memory in MB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1000.0
}

fn uuid(node: usize, gpu: usize) -> String {
    format!("GPU-{node:08x}-0000-4000-8000-{gpu:012x}")
}

fn full_node(number: usize) -> Value {
    let devices: Vec<Value> = (0..GPUS)
        .map(|gpu| {
            let links: serde_json::Map<String, Value> = (0..GPUS)
                .filter(|peer| *peer != gpu)
                .map(|peer| (uuid(number, peer), json!({"nvlink": 12, "pcie": "same-cpu"})))
                .collect();
            json!({"uuid": uuid(number, gpu), "index": gpu, "model": "NVIDIA A100-SXM4-80GB", "memory": 81920, "cores": 100,
                "slots": 10, "numa": gpu / 4, "pci": format!("0000:{gpu:02x}:00.0"), "health": "healthy",
                "enforcement": "advisory", "links": links})
        })
        .collect();
    json!({"metadata": {"name": format!("gpu-node-{number:05}.cluster.example"), "annotations": {
        "packhorse.dev/inventory": json!({"v": 1, "ready": true, "devices": devices}).to_string()}},
        "status": {"allocatable": {"cpu": "96", "memory": "1000Gi"}}})
}

fn full_pod(number: usize) -> Value {
    let (node, gpu) = (number % NODES, number / NODES % GPUS);
    let share = Share {
        device: uuid(node, gpu).into(),
        memory: 8000,
        cores: 10,
        exclusive: false,
        enforcement: Enforcement::Advisory,
    };
    let allocation = Allocation { containers: vec![ContainerAllocation { name: "main".into(), shares: vec![share] }] };
    let uid = format!("{number:08x}-0000-4000-8000-000000000000");
    let mut pod = bound(&uid, &format!("gpu-node-{node:05}.cluster.example"), &allocation);
    pod["metadata"]["name"] = json!(format!("inference-service-7d9c6b5f4-{number:05}"));
    pod["metadata"]["namespace"] = json!(format!("team-{}", number % 50));
    pod
}

#[test]
#[ignore = "measures memory: run alone"]
fn a_large_cluster_is_small_in_memory() {
    let ledger = Ledger::default();
    let empty = resident();
    let began = Instant::now();
    for number in 0..NODES {
        apply_node(&ledger, &full_node(number));
    }
    println!("{NODES} nodes with {GPUS} GPUs: {:.1} MB, {:?}", resident() - empty, began.elapsed());
    for number in 0..10_000 {
        apply_pod(&ledger, &full_pod(number));
    }
    let small = resident() - empty;
    println!("and 10,000 GPU pods: {small:.1} MB, {:?}", began.elapsed());
    for number in 10_000..100_000 {
        apply_pod(&ledger, &full_pod(number));
    }
    let large = resident() - empty;
    println!("and 100,000 GPU pods: {large:.1} MB, {:?}", began.elapsed());
    let mut registry = prometheus_client::registry::Registry::default();
    let ledger = std::sync::Arc::new(ledger);
    ledger.register_totals(&mut registry);
    let began = Instant::now();
    let exposition = Exposition::new(registry).with(ledger.device_series());
    let bytes: usize = exposition.pieces().unwrap().map(|piece| piece.len()).sum();
    println!("a scrape: {:.1} MB in {:?}", bytes as f64 / 1e6, began.elapsed());
    replace_pods(&ledger, &[]);
    println!("all pods in doubt: {:.1} MB", resident() - empty);
    assert!(small <= 60.0 && large <= 150.0, "{small:.1} MB and {large:.1} MB");
}
