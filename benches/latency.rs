//! `/filter` without HTTP while the target of the rankings is built anew: every call beside pods that come and go, with and
//! without the task that learns from them. Prints percentiles, which a benchmark of means does not show. Over HTTP: `load`.

#![allow(clippy::expect_used, reason = "a benchmark ends where it fails")]

mod cluster;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Cluster, SHAPES};

const CALLS: usize = 3_000;

fn percentile(times: &mut [Duration], percent: usize) -> u128 {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100].as_micros()
}

/// With the task the target is built several times on the way.
fn while_learning(runtime: &tokio::runtime::Runtime) {
    println!("filter without HTTP at 5,000 nodes, a pod coming or going and 5 ms between two calls, us:");
    println!("{:>24}  {:>6}  {:>6}  {:>6}  {:>8}", "", "p50", "p99", "worst", "targets");
    for learns in [false, true] {
        let cluster = Cluster::new(5_000);
        let bodies: Vec<Vec<u8>> = (0..SHAPES).map(|shape| cluster.request(&format!("p{shape}"), shape)).collect();
        for body in &bodies {
            cluster.extender.filter(body).expect("an answer");
        }
        let task = learns.then(|| runtime.spawn(Arc::clone(&cluster.extender).keep_learning()));
        let mut times = Vec::with_capacity(CALLS);
        let (mut targets, mut last) = (0, cluster.ledger.target());
        for n in 0..CALLS {
            cluster.event(n);
            // The rest of a scheduling cycle.
            std::thread::sleep(Duration::from_millis(5));
            let start = Instant::now();
            cluster.extender.filter(&bodies[n % SHAPES]).expect("an answer");
            times.push(start.elapsed());
            let target = cluster.ledger.target();
            targets += usize::from(!Arc::ptr_eq(&target, &last));
            last = target;
        }
        if let Some(task) = task {
            task.abort();
        }
        println!(
            "{:>24}  {:>6}  {:>6}  {:>6}  {targets:>8}",
            if learns { "with the learning task" } else { "without" },
            percentile(&mut times, 50),
            percentile(&mut times, 99),
            percentile(&mut times, 100),
        );
    }
}

fn main() {
    // Cargo passes `--bench`; run as a test it has nothing to prove.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    while_learning(&runtime);
}
