//! Memory, start, watch, `/metrics` and the page's data of `packhorse server` in clusters of 5,000 nodes with 8 GPUs and more: the
//! real binary against a kube-apiserver on loopback whose objects are made up ([`lists`]; `tests/cluster/generated.rs` compares
//! them with the real one's, byte for byte).
//!
//! `cargo bench --bench scale [-- --quick | --growth | --large] [--rounds N]`; without words: 10,000 and 100,000 pods.

#![allow(clippy::expect_used, reason = "a measurement ends where it fails")]

#[path = "scale/api_server.rs"]
mod api_server;
mod figures;
#[path = "scale/lists.rs"]
mod lists;
#[path = "scale/objects.rs"]
mod objects;
#[path = "scale/product.rs"]
mod product;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use api_server::ApiServer;
use lists::Source;
use objects::World;
use product::Product;

/// Pod events that happen at once.
const EVENTS: usize = 50_000;
const SCRAPES: usize = 10;

fn main() {
    if !figures::is_bench() {
        return;
    }
    let arguments: Vec<String> = std::env::args().collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let rounds = arguments.iter().position(|argument| argument == "--rounds").and_then(|at| arguments.get(at + 1));
    let rounds: usize = rounds.map_or(2, |rounds| rounds.parse().expect("--rounds is followed by a number"));
    let sizes: &[(usize, usize)] = if has("--quick") {
        &[(5_000, 10_000)]
    } else if has("--growth") {
        &[(5_000, 0), (5_000, 10_000), (5_000, 25_000), (5_000, 50_000), (5_000, 100_000)]
    } else if has("--large") {
        &[(20_000, 500_000)]
    } else {
        &[(5_000, 10_000), (5_000, 100_000)]
    };
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    println!(
        "{:>6} {:>7} {:>9} {:>11} {:>11} {:>9} {:>9} {:>9} {:>10} {:>9} {:>9} {:>11}",
        "nodes",
        "pods",
        "start ms",
        "lists ms",
        "start CPU s",
        "MB",
        "anon MB",
        "peak MB",
        "events/s",
        "CPU us",
        "scrape ms",
        "scrape MB",
    );
    for _ in 0..rounds {
        for (nodes, pods) in sizes {
            runtime.block_on(measure(World { nodes: *nodes, pods: *pods }));
        }
    }
}

async fn measure(world: World) {
    let case = json!({"nodes": world.nodes, "pods": world.pods});
    let api = ApiServer::start(Source::new(world)).await;
    let mut product = Product::start(&api);
    let ready = product.ready().await;
    let start = ready - product.started;
    let lists = api.server.lists_sent().map_or(Duration::ZERO, |sent| ready.saturating_duration_since(sent));
    let start_cpu = product.cpu();
    let at_once = product.memory();
    product.settled().await;
    let settled = product.memory();
    // The first look after a change makes what all readers share; the next one finds it.
    let (first_look, look_bytes) = product.look().await;
    let (next_look, _) = product.look().await;
    let mut scrapes = Vec::new();
    let mut bytes = 0;
    for _ in 0..SCRAPES {
        let (time, size) = product.scrape().await;
        scrapes.push(time);
        bytes = size;
    }
    scrapes.sort_unstable();
    let scraped = product.memory();
    let (rate, cpu) = events(&api.server, &product, world).await;
    product.settled().await;
    let after = product.memory();

    let figures: [(&str, f64, &str); 16] = [
        ("scale_start_ms", millis(start), "ms"),
        ("scale_lists_to_ready_ms", millis(lists), "ms"),
        ("scale_start_cpu_s", start_cpu, "s"),
        ("scale_ready_resident_mb", at_once.resident, "MB"),
        ("scale_resident_mb", settled.resident, "MB"),
        ("scale_anonymous_mb", settled.anonymous, "MB"),
        ("scale_peak_mb", settled.peak, "MB"),
        ("scale_scraped_resident_mb", scraped.resident, "MB"),
        ("scale_events_per_second", rate, "1/s"),
        ("scale_event_cpu_us", cpu, "us"),
        ("scale_events_resident_mb", after.resident, "MB"),
        ("scale_metrics_ms", millis(scrapes[SCRAPES / 2]), "ms"),
        ("scale_metrics_mb", bytes as f64 / 1e6, "MB"),
        ("scale_first_look_ms", millis(first_look), "ms"),
        ("scale_next_look_ms", millis(next_look), "ms"),
        ("scale_look_kb", look_bytes as f64 / 1e3, "kB"),
    ];
    for (figure, value, unit) in figures {
        figures::record(figure, value, unit, &case);
    }
    println!(
        "{:>6} {:>7} {:>9.0} {:>11.0} {:>11.2} {:>9.1} {:>9.1} {:>9.1} {:>10.0} {:>9.1} {:>9.1} {:>11.2}",
        world.nodes,
        world.pods,
        millis(start),
        millis(lists),
        start_cpu,
        settled.resident,
        settled.anonymous,
        settled.peak,
        rate,
        cpu,
        millis(scrapes[SCRAPES / 2]),
        bytes as f64 / 1e6,
    );
    println!(
        "{:>14} resident MB: when ready {:.1}, settled {:.1}, after {SCRAPES} scrapes {:.1}, after {EVENTS} events {:.1} (peak {:.1})",
        "", at_once.resident, settled.resident, scraped.resident, after.resident, after.peak,
    );
    println!(
        "{:>14} the page: first look {:.1} ms, next {:.1} ms, {:.0} kB",
        "",
        millis(first_look),
        millis(next_look),
        look_bytes as f64 / 1e3,
    );
    if std::env::var_os("PACKHORSE_LOG").is_some() {
        println!("{}", product.log());
    }
}

/// Pod events a second until the last is seen by a filter, and processor time of one in microseconds.
async fn events(api: &ApiServer, product: &Product, world: World) -> (f64, f64) {
    let node = objects::node_name(world.spare());
    let pod = pending();
    assert!(product.fits(&pod, &node).await, "nobody is on {node} yet");
    let cpu = product.cpu();
    let began = Instant::now();
    api.burst(EVENTS);
    while product.fits(&pod, &node).await {
        assert!(began.elapsed() < Duration::from_secs(120), "the last event is not seen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    (EVENTS as f64 / seconds, (product.cpu() - cpu) * 1e6 / EVENTS as f64)
}

/// A pod that wants a GPU.
fn pending() -> String {
    let limits = json!({"nvidia.com/gpu": "1", "packhorse.dev/gpu-memory": "1024", "packhorse.dev/gpu-cores": "0"});
    let pod: Value = json!({
        "metadata": {"name": "asks", "namespace": "default", "uid": "0d9f1f4e-7b3e-4a53-8d42-57b4f54a3c11", "annotations": {
            "packhorse.dev/request": r#"{"v":1,"containers":{"main":{"count":1,"memory":1024}}}"#,
        }},
        "spec": {"schedulerName": "packhorse", "containers": [{
            "name": "main", "resources": {"limits": limits, "requests": limits},
        }]},
        "status": {"phase": "Pending"},
    });
    pod.to_string()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
