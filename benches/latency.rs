//! `/filter` as kube-scheduler meets it: HTTP on loopback over one kept connection, 150 shapes in turn, pods coming and going
//! between the calls, and while the target of the rankings is built anew. Prints percentiles, which a benchmark of means does not
//! show.

#![allow(clippy::expect_used, reason = "a benchmark ends where it fails")]

mod cluster;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Cluster, SHAPES};

const CALLS: usize = 3_000;

fn call(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> Duration {
    let start = Instant::now();
    stream.write_all(request).expect("sent");
    buffer.clear();
    let mut chunk = [0; 64 * 1024];
    loop {
        let n = stream.read(&mut chunk).expect("received");
        assert!(n > 0, "the server hung up");
        buffer.extend_from_slice(&chunk[..n]);
        let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&buffer[..end]).expect("text").to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        if buffer.len() == end + 4 + length.parse::<usize>().expect("a number") {
            return start.elapsed();
        }
    }
}

fn over_http(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /filter HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn percentile(times: &mut [Duration], percent: usize) -> u128 {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100].as_micros()
}

/// Without HTTP: every call beside pods that come and go, with and without the task that learns from them. With it the target
/// is built several times on the way.
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
    println!("/filter over HTTP on loopback, us:");
    println!("{:>6}  {:>22}  {:>22}", "nodes", "known shape p50 / p99", "new shape p50 / p99");
    for size in [100, 500, 1_000, 5_000] {
        let cluster = Cluster::new(size);
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0))).expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = packhorse::extender::router(Arc::clone(&cluster.extender));
        runtime.spawn(async move { axum::serve(listener, router).await });
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.set_nodelay(true).expect("set");
        let mut buffer = Vec::new();
        let requests: Vec<Vec<u8>> =
            (0..SHAPES).map(|shape| over_http(&cluster.request(&format!("p{shape}"), shape))).collect();
        let mut cold: Vec<Duration> = requests.iter().map(|request| call(&mut stream, request, &mut buffer)).collect();
        let mut warm: Vec<Duration> = (0..CALLS)
            .map(|n| {
                // About 100 events a second at 5 ms a scheduling cycle.
                if n.is_multiple_of(2) {
                    cluster.event(n / 2);
                }
                call(&mut stream, &requests[n % SHAPES], &mut buffer)
            })
            .collect();
        println!(
            "{size:>6}  {:>12} / {:>7}  {:>12} / {:>7}",
            percentile(&mut warm, 50),
            percentile(&mut warm, 99),
            percentile(&mut cold, 50),
            percentile(&mut cold, 99)
        );
    }
    while_learning(&runtime);
}
