//! The webhook as kube-apiserver calls it: reviews of new GPU pods (about 3.5 KB) over TLS, on kept connections, on a new one each
//! time, and as a steady stream of 100 pods a second; beside a server that only receives and answers, which is the floor.
//!
//! The servers run in processes of their own, wired as `packhorse server` wires the webhook; processor time is theirs alone, the
//! latency is the caller's. `--quick` measures a quarter; `--only webhook,http1,kept` what all of these words name, of the server, the
//! protocol and the load, `--calls N` with so many calls on kept connections; `--own` the part without HTTP alone, for a profile.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark ends where it fails"
)]

#[path = "webhook/calls.rs"]
mod calls;
#[path = "webhook/client.rs"]
mod client;
mod figures;
mod protocols;
#[path = "webhook/review.rs"]
mod review;
#[path = "webhook/server.rs"]
mod server;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use client::{Dialer, Protocol};
use packhorse::webhook::{Answer, Metrics, Webhook};
use prometheus_client::registry::Registry;
use serde_json::json;
use server::{Process, Role};

/// How the reviews come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// One after the other on kept connections.
    Kept,
    /// One after the other, each on a new connection, the session negotiated anew as Go's clients do.
    New,
    /// The same with sessions resumed.
    Resumed,
    /// 100 a second on kept connections, whatever the answers do.
    Stream,
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::New => "new",
            Self::Resumed => "resumed",
            Self::Stream => "stream",
        }
    }
}

/// About as long as a server waits for the next of a client's requests.
const PAUSE: Duration = Duration::from_micros(100);

/// How much is measured.
struct Amount {
    calls: usize,
    dials: usize,
    stream: Duration,
    floor_stream: Duration,
}

fn main() {
    if !figures::is_bench() {
        return;
    }
    if let Some(role) = Role::of_this_process() {
        let folder = std::env::args().skip_while(|argument| argument != "--folder").nth(1).expect("--folder");
        return server::serve(role, &PathBuf::from(folder));
    }
    let quick = std::env::args().any(|argument| argument == "--quick");
    let second = Duration::from_secs(1);
    let after = |flag: &str| std::env::args().skip_while(|argument| argument != flag).nth(1);
    let mut amount = if quick {
        Amount { calls: 2_000, dials: 400, stream: 15 * second, floor_stream: 5 * second }
    } else {
        Amount { calls: 20_000, dials: 2_000, stream: 60 * second, floor_stream: 15 * second }
    };
    if let Some(calls) = after("--calls") {
        amount.calls = calls.parse().expect("a number of calls");
    }
    let only = after("--only").unwrap_or_default();
    let wanted = |words: [&str; 3]| only.is_empty() || only.split(',').all(|word| words.contains(&word));
    let own = std::env::args().any(|argument| argument == "--own");
    let bodies = review::bodies();
    let bytes = bodies.iter().map(Bytes::len).sum::<usize>() / bodies.len();
    println!("webhook over TLS, reviews of GPU pods, {bytes} bytes on average");
    own_part(&bodies, if own { 1_000 } else { 20 });
    if own {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let ca = server::certificate(folder.path());
    println!(
        "{:<10} {:<6} {:<8} {:>5} {:>7} {:>7} {:>7} {:>8} {:>9} {:>8} {:>7}",
        "server", "http", "load", "conns", "p50 us", "p90 us", "p99 us", "max us", "calls/s", "CPU us", "MiB"
    );
    for protocol in Protocol::ALL {
        for load in [Load::Kept, Load::New, Load::Resumed, Load::Stream] {
            for connections in [1, 8] {
                for role in Role::ALL {
                    if !wanted([role.name(), protocol.name(), load.name()]) {
                        continue;
                    }
                    let process = Process::start(role, folder.path());
                    measure(&process, role, &ca, (protocol, load, connections), &amount, &bodies);
                }
            }
        }
    }
}

/// Parse, decide, patch, without HTTP: one call after the other, and each after a pause as long as that between two requests, in which
/// the processor sleeps and forgets. Medians.
fn own_part(bodies: &[Bytes], rounds: usize) {
    let webhook = Webhook::new(std::sync::Arc::default(), Box::new(|_| None), Metrics::new(&mut Registry::default()));
    for body in bodies {
        let Answer::Review(answer) = webhook.answer(body) else { panic!("no review") };
        assert!(String::from_utf8_lossy(&answer).contains("\"patch\""));
    }
    let median = |rounds: usize, pause: Duration| {
        let one = |body: &Bytes| {
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            // As it arrives: just copied.
            let body = body.to_vec();
            let start = Instant::now();
            std::hint::black_box(webhook.answer(&body));
            start.elapsed()
        };
        let mut times: Vec<_> = bodies.iter().cycle().take(rounds * bodies.len()).map(one).collect();
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e6
    };
    let hot = median(rounds, Duration::ZERO);
    let paused = median(rounds.min(40), PAUSE);
    println!("its own part without HTTP (parse, decide, patch): {hot:.1} us, after a pause {paused:.1} us");
    figures::record("webhook_own_us", hot, "us", &json!({}));
    figures::record("webhook_own_after_a_pause_us", paused, "us", &json!({}));
}

fn measure(
    process: &Process,
    role: Role,
    ca: &str,
    (protocol, load, connections): (Protocol, Load, usize),
    amount: &Amount,
    bodies: &[Bytes],
) {
    let dialer = Dialer::new(protocol, load == Load::Resumed, ca, process.address);
    calls::in_turn(&dialer, false, connections, 300 * connections, bodies);
    let (cpu, start) = (process.cpu(), Instant::now());
    let mut times = match load {
        Load::Kept => calls::in_turn(&dialer, false, connections, amount.calls, bodies),
        Load::New | Load::Resumed => calls::in_turn(&dialer, true, connections, amount.dials, bodies),
        Load::Stream => {
            let length = if role == Role::Webhook { amount.stream } else { amount.floor_stream };
            calls::at_rate(&dialer, connections, length, bodies)
        }
    };
    let (elapsed, cpu) = (start.elapsed(), process.cpu() - cpu);
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    let count = times.len() as f64;
    let results = [
        ("webhook_p50_us", at(0.5), "us"),
        ("webhook_p90_us", at(0.9), "us"),
        ("webhook_p99_us", at(0.99), "us"),
        ("webhook_max_us", at(1.0), "us"),
        ("webhook_per_second", count / elapsed.as_secs_f64(), "1/s"),
        ("webhook_cpu_us", cpu.as_secs_f64() * 1e6 / count, "us"),
        ("webhook_memory_mib", process.memory(), "MiB"),
    ];
    let case = json!({
        "server": role.name(), "protocol": protocol.name(), "load": load.name(), "connections": connections,
    });
    for (figure, value, unit) in results {
        figures::record(figure, value, unit, &case);
    }
    let [p50, p90, p99, max, rate, cpu, memory] = results.map(|(_, value, _)| value);
    println!(
        "{:<10} {:<6} {:<8} {connections:>5} {p50:>7.0} {p90:>7.0} {p99:>7.0} {max:>8.0} {rate:>9.0} {cpu:>8.1} {memory:>7.1}",
        role.name(),
        protocol.name(),
        load.name(),
    );
}
