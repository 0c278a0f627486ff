//! The extender's own part of each call, without HTTP: JSON in, JSON out.

#![allow(missing_docs, clippy::expect_used, reason = "criterion's macros, and a benchmark ends where it fails")]

mod cluster;

use std::hint::black_box;

use cluster::{Cluster, SHAPES};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use serde_json::{Value, json};

const SIZES: [usize; 3] = [100, 1_000, 5_000];

fn extender(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    for size in SIZES {
        let cluster = Cluster::new(size);
        let requests: Vec<Vec<u8>> = (0..SHAPES).map(|shape| cluster.request(&format!("p{shape}"), shape)).collect();
        for request in &requests {
            cluster.extender.filter(request).expect("an answer");
        }

        let mut group = criterion.benchmark_group("filter");
        let mut n = 0;
        // Shapes seen before, one node changed since the last call.
        group.bench_with_input(BenchmarkId::new("known shape", size), &size, |bencher, _| {
            bencher.iter_batched(
                || {
                    n += 1;
                    cluster.event(n);
                    n % SHAPES
                },
                |shape| black_box(cluster.extender.filter(&requests[shape])),
                BatchSize::PerIteration,
            );
        });
        let mut cpu = 0;
        // A shape never seen: every node is judged.
        group.bench_with_input(BenchmarkId::new("new shape", size), &size, |bencher, _| {
            bencher.iter_batched(
                || {
                    cpu += 1;
                    let mut pod = cluster::pending("new", 7);
                    pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!(format!("{cpu}m"));
                    cluster::request_of(&pod, &cluster.names)
                },
                |request| black_box(cluster.extender.filter(&request)),
                BatchSize::PerIteration,
            );
        });
        group.finish();

        let mut group = criterion.benchmark_group("prioritize");
        let best = cluster::request("p7", 7, &cluster.names[..16]);
        group.bench_with_input(BenchmarkId::new("16 names", size), &size, |bencher, _| {
            bencher.iter(|| black_box(cluster.extender.prioritize(&best)));
        });
        group.bench_with_input(BenchmarkId::new("all names", size), &size, |bencher, _| {
            bencher.iter(|| black_box(cluster.extender.prioritize(&requests[7])));
        });
        group.finish();

        let mut group = criterion.benchmark_group("bind");
        let mut uid = String::new();
        let mut number = 0_usize;
        group.bench_with_input(BenchmarkId::new("without the network", size), &size, |bencher, _| {
            bencher.iter_batched(
                || {
                    // The last one makes room for the next.
                    cluster.ledger.unbook(&uid);
                    loop {
                        number += 1;
                        uid = format!("b{number}");
                        let answer =
                            cluster.extender.filter(&cluster.request(&uid, number % SHAPES)).expect("an answer");
                        let answer: Value = serde_json::from_slice(&answer).expect("JSON");
                        if let Some(best) = answer["NodeNames"][0].as_str() {
                            return cluster::binding(&uid, best);
                        }
                    }
                },
                |body| {
                    let answer = runtime.block_on(cluster.extender.bind(&body)).expect("an answer");
                    assert_eq!(answer, br#"{"Error":""}"#);
                },
                BatchSize::PerIteration,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, extender);
criterion_main!(benches);
