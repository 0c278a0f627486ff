//! The extender as kube-scheduler meets it: its wire format over kept connections, plain and TLS, HTTP/1.1 and HTTP/2, before a
//! made-up cluster in which pods come and go meanwhile. The server has a process of its own. A reference server, which only receives
//! and answers with one name, runs beside each case: what transport alone costs on this machine in this minute.
//!
//! `--quick` measures the base cases only; `--only NAME` one case, again and again where it is followed by `--forever`.

#![allow(missing_docs, unreachable_pub, clippy::expect_used, reason = "a measurement ends where it fails")]

#[path = "load/case.rs"]
mod case;
#[path = "load/client.rs"]
mod client;
mod cluster;
#[path = "load/drive.rs"]
mod drive;
mod figures;
#[path = "load/process.rs"]
mod process;
mod protocols;
#[path = "load/request.rs"]
mod request;
#[path = "load/serve.rs"]
mod serve;
#[path = "load/world.rs"]
mod world;

use std::time::{Duration, Instant};

use case::{Case, QUICK, Server, all};
use drive::{Driver, Times};
use figures::record;
use process::Process;
use request::Names;

/// Enough for a 99th percentile.
const CALLS: usize = 1_000;
/// At least so long, so that pods come and go and processor time can be told.
const LEAST: Duration = Duration::from_millis(2_000);
/// kube-scheduler's own part of a cycle, where shapes are new.
const PAUSE: Duration = Duration::from_millis(5);
/// From a new pod in the watch to its filter call.
const LEAD: Duration = Duration::from_millis(20);

/// All calls of one kind in one case.
struct Measured {
    times: Times,
    /// Filter calls, each with what follows it, a second.
    rate: f64,
    /// Seconds of processor time for 1,000 of them.
    cpu: f64,
}

fn main() {
    if !figures::is_bench() {
        return;
    }
    let arguments: Vec<String> = std::env::args().collect();
    let after = |flag: &str| arguments.iter().skip_while(|argument| *argument != flag).nth(1);
    if let Some(case) = after(process::ROLE) {
        return serve::run(&serde_json::from_str(case).expect("a case"));
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let mut cases = all();
    if has("--quick") {
        cases.truncate(QUICK);
    }
    if let Some(only) = after("--only") {
        cases.retain(|(name, _)| name == only);
        let known: Vec<&str> = all().iter().map(|(name, _)| *name).collect();
        assert!(!cases.is_empty(), "no case {only:?}; there are {known:?}");
    }
    println!(
        "Calls as kube-scheduler makes them: filter, prioritize, bind; us; filter calls a second; CPU s per 1,000 of them; resident MB"
    );
    println!(
        "{:22} {:>10} {:>6}  {:>6} {:>6} {:>6} {:>7}  {:>6} {:>6}  {:>6} {:>6}  {:>7} {:>6} {:>6}",
        "case",
        "shapes",
        "calls",
        "p50",
        "p90",
        "p99",
        "max",
        "prio50",
        "prio99",
        "bind50",
        "bind99",
        "calls/s",
        "cpu",
        "memory"
    );
    let mut references: Vec<Case> = Vec::new();
    for (name, case) in cases {
        loop {
            let reference = case.reference();
            if !references.contains(&reference) {
                references.push(reference);
                measure(&format!("  transport: {name}"), &reference);
            }
            measure(name, &case);
            if !has("--forever") {
                break;
            }
        }
    }
}

fn measure(label: &str, case: &Case) {
    let mut server = Process::start(case);
    let names = Names::new(&case.cluster.names());
    let shapes = case.cluster.shapes;
    let mut driver = Driver::new(case, &server, names.clone(), 1);
    if case.server == Server::Packhorse {
        let new = driver.once(0..shapes, PAUSE);
        report(label, case, "new", &new, None);
        let announced = driver.announced(shapes..2 * shapes, &mut server, 2 * PAUSE, LEAD);
        report(label, case, "announced", &announced, None);
    }
    // Known from here on, whatever else was asked meanwhile.
    driver.once(0..shapes, Duration::ZERO);
    let cpu = server.cpu();
    let start = Instant::now();
    let times = if case.connections == 1 { driver.steady(CALLS, LEAST) } else { together(case, &server, &names) };
    let took = start.elapsed().as_secs_f64();
    let calls = times.filters() as f64;
    let measured = Measured { rate: calls / took, cpu: (server.cpu() - cpu) / calls * 1e3, times };
    let resident = server.resident();
    report(label, case, "known", &measured.times, Some((&measured, resident)));
    if case.server == Server::Packhorse {
        let state = server.state();
        println!(
            "{:33} {} pods with {:.0} GPUs, {} holds; bind's own part p50 <= {:.0}, p99 <= {:.0} us; {} conflicts",
            "", state.live, state.gpus, state.holds, state.bind_own_p50, state.bind_own_p99, state.conflicts
        );
        if case.binds {
            record("bind_own_p50_us", state.bind_own_p50, "us", &case.figure("known"));
            record("bind_own_p99_us", state.bind_own_p99, "us", &case.figure("known"));
        }
    }
    server.stop();
}

/// Several connections at once.
fn together(case: &Case, server: &Process, names: &Names) -> Times {
    let mut all = Times::default();
    std::thread::scope(|scope| {
        let calls = CALLS.div_ceil(case.connections);
        let threads: Vec<_> = (0..case.connections)
            .map(|at| {
                let mut driver = Driver::new(case, server, names.clone(), 2 + at);
                scope.spawn(move || driver.steady(calls, LEAST))
            })
            .collect();
        for thread in threads {
            all.add(thread.join().expect("a driver"));
        }
    });
    all
}

/// Prints one line, and another for calls that found no node; notes the figures.
fn report(label: &str, case: &Case, kind: &str, times: &Times, steady: Option<(&Measured, f64)>) {
    for (kind, filter) in [(kind.to_owned(), &times.filter), (format!("{kind}, unfit"), &times.unfit)] {
        if filter.is_empty() {
            continue;
        }
        let fits = !kind.ends_with("unfit");
        let figure = case.figure(&kind);
        let mut filter = filter.clone();
        filter.sort_unstable();
        let mut line = format!("{label:22} {kind:>10} {:>6} ", filter.len());
        for (name, permille) in [("p50", 500), ("p90", 900), ("p99", 990), ("max", 1_000)] {
            let value = percentile(&filter, permille);
            record(&format!("filter_{name}_us"), value, "us", &figure);
            line.push_str(&format!(" {value:>6.0}"));
        }
        record("filter_calls", filter.len() as f64, "calls", &figure);
        if fits {
            for (name, times) in [("prioritize", &times.prioritize), ("bind", &times.bind)] {
                let mut times = times.clone();
                times.sort_unstable();
                line.push(' ');
                for (part, permille) in [("p50", 500), ("p99", 990)] {
                    if times.is_empty() {
                        line.push_str("      -");
                        continue;
                    }
                    let value = percentile(&times, permille);
                    record(&format!("{name}_{part}_us"), value, "us", &figure);
                    line.push_str(&format!(" {value:>6.0}"));
                }
            }
            if let Some((measured, resident)) = steady {
                record("filter_calls_per_second", measured.rate, "1/s", &figure);
                record("cpu_seconds_per_1000_calls", measured.cpu, "s", &figure);
                record("resident_mb", resident, "MB", &figure);
                line.push_str(&format!("  {:>7.0} {:>6.3} {resident:>6.1}", measured.rate, measured.cpu));
            }
        }
        println!("{line}");
    }
}

/// Microseconds; of sorted times.
fn percentile(times: &[Duration], permille: usize) -> f64 {
    times[(times.len() - 1) * permille / 1_000].as_secs_f64() * 1e6
}
