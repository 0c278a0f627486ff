//! The demo as a library call and as a command: whatever goes wrong in it on purpose must not show in the result.

#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "helpers of tests panic as the tests do, and take values written in place"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use packhorse::demo::api_server::{ApiServer, Rates, Settings};
use packhorse::demo::checker::Checker;
use packhorse::demo::workload::Workload;
use packhorse::demo::{self, Display, Options, Report};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

async fn run(options: Options) -> Report {
    packhorse::serve::tls::install_provider();
    demo::run(options, CancellationToken::new()).await.unwrap()
}

/// A busy machine gets less done: runs longer and longer until there was enough to see.
async fn run_until(options: Options, enough: impl Fn(&Report) -> bool) -> Report {
    let mut seconds = 4;
    loop {
        let report = run(Options { duration: Some(Duration::from_secs(seconds)), ..options.clone() }).await;
        if enough(&report) || !report.is_clean() || seconds > 60 {
            return report;
        }
        seconds *= 3;
    }
}

fn options(seed: u64) -> Options {
    Options { seed, duration: Some(Duration::from_secs(4)), display: Display::Silent, ..Options::default() }
}

/// Far more goes wrong than in the demo that people see.
fn wild() -> Rates {
    Rates {
        cut_watch: 0.05,
        delay_event: 0.2,
        event_delay: Duration::from_millis(80),
        expire_resume: 0.3,
        slow_answer: 0.1,
        answer_delay: Duration::from_millis(80),
        ..Rates::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_oversubscribed_whatever_the_seed_and_the_faults() {
    for (seed, faults) in [(1, Rates::default()), (2, wild()), (3, wild())] {
        let lost_bindings = if faults == Rates::default() { 0.0 } else { 0.1 };
        let enough =
            |report: &Report| report.placed >= 10 && report.started.with_devices >= 5 && report.noticed.is_some();
        let report = run_until(Options { faults, lost_bindings, ..options(seed) }, enough).await;
        assert_eq!(report.violations, Vec::<String>::new(), "seed {seed}");
        assert_eq!(report.surprises, Vec::<String>::new(), "seed {seed}");
        assert!(report.placed >= 10, "seed {seed}: {} placed", report.placed);
        assert!(report.placed_plain > 0 && !report.refused.is_empty(), "seed {seed}: {report:?}");
        assert!(report.states > 100, "seed {seed}: {} states", report.states);
        assert_eq!(report.started.wrong, 0, "seed {seed}");
        assert!(report.started.with_devices >= 5, "seed {seed}: {:?}", report.started);
        assert!(report.allocate.count >= 5 && report.pre_start.count >= 5, "seed {seed}: {report:?}");
        assert!(
            report.noticed.is_some_and(|noticed| noticed <= Duration::from_secs(5)),
            "seed {seed}: {:?}",
            report.noticed
        );
        assert_eq!(report.faults > 0, faults != Rates::default(), "seed {seed}: {} faults", report.faults);
        // Bound once each: one write per pod, no matter how often an answer was lost.
        let bindings: usize =
            report.writes.iter().filter(|(what, _)| what == "create pods/binding").map(|(_, count)| count).sum();
        assert_eq!(bindings, report.placed, "seed {seed}: {:?}", report.writes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_oversubscription_is_found() {
    let report = run(Options { sabotage: Some(demo::Sabotage::Oversubscription), ..options(4) }).await;
    assert!(!report.is_clean());
    assert!(
        report.violations.iter().any(|what| what.contains("default/intruder") && what.contains(" MiB")),
        "{:?}",
        report.violations
    );
    let text = report.text(100);
    assert!(text.trim_end().lines().last().unwrap().starts_with("FAILED: "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_with_devices_of_another_is_found() {
    let report = run(Options { sabotage: Some(demo::Sabotage::StartCheck), ..options(5) }).await;
    assert!(!report.is_clean());
    assert!(report.started.wrong > 0, "{:?}", report.started);
    let told = report.violations.iter().filter(|what| what.contains("and its allocation gives it")).count();
    assert_eq!(told as u64, report.started.wrong, "{:?}", report.violations);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_of_one_gpu_works_and_ends_when_stopped() {
    packhorse::serve::tls::install_provider();
    let stop = CancellationToken::new();
    let options =
        Options { nodes: 1, gpus_per_node: 1, duration: None, display: Display::Silent, ..Options::default() };
    let stopped = stop.clone();
    let demo = tokio::spawn(demo::run(options, stop));
    tokio::time::sleep(Duration::from_secs(2)).await;
    stopped.cancel();
    let report = tokio::time::timeout(Duration::from_secs(10), demo).await.unwrap().unwrap().unwrap();
    assert!(report.is_clean(), "{}", report.text(100));
    assert!(report.placed > 0, "{}", report.text(100));
}

#[test]
fn the_same_seed_offers_the_same_pods() {
    let offers = |seed| Workload::new(seed, 6, 4).take(300).collect::<Vec<_>>();
    assert_eq!(offers(5), offers(5));
    assert_ne!(offers(5), offers(6));
}

/// A fleet of one GPU, and the checker that judges it.
async fn judge(events: impl FnOnce(&ApiServer)) -> Vec<String> {
    let api = ApiServer::start(Settings::default()).await.unwrap();
    let mut changes = api.objects().observe();
    let device = json!({"uuid": "GPU-1", "index": 0, "model": "NVIDIA L4", "memory": 23034, "cores": 100, "slots": 2, "numa": 0,
        "pci": "0000:07:00.0", "health": "healthy", "enforcement": "advisory"});
    let inventory = json!({"v": 1, "ready": true, "driver": "1", "devices": [device]}).to_string();
    let node = json!({"metadata": {"name": "n", "annotations": {"packhorse.dev/inventory": inventory}}});
    api.objects().create("nodes", node).unwrap();
    events(&api);
    let mut checker = Checker::default();
    while let Ok(change) = changes.try_recv() {
        checker.apply(&change);
    }
    checker.violations().to_vec()
}

fn bind(api: &ApiServer, name: &str, request: Value, share: Value) {
    let request = json!({"v": 1, "containers": {"main": request}}).to_string();
    let pod = json!({"metadata": {"name": name, "annotations": {"packhorse.dev/request": request}},
        "spec": {"containers": [{"name": "main", "image": "i"}]}});
    api.objects().create("pods", pod).unwrap();
    let device = share["device"].as_str().unwrap_or_default().to_owned();
    let allocation = json!({"v": 1, "containers": {"main": [share]}}).to_string();
    let annotations = json!({"packhorse.dev/allocation": allocation, "devices.packhorse.dev/main": device});
    api.objects().bind("default", name, "", "n", &annotations).unwrap();
}

#[tokio::test]
async fn the_checker_sees_each_kind_of_oversubscription() {
    let share = |memory: u32, cores: u32| json!({"device": "GPU-1", "memory": memory, "cores": cores});
    let asks = |memory: u32, cores: u32| json!({"count": 1, "memory": memory, "cores": cores});
    let small = |api: &ApiServer, name: &str| bind(api, name, asks(8000, 30), share(8000, 30));
    let whole = json!({"device": "GPU-1", "memory": 23034, "cores": 100, "exclusive": true});
    let whole_ask = json!({"count": 1, "exclusive": true});

    type Events<'a> = Box<dyn FnOnce(&ApiServer) + 'a>;
    let cases: Vec<(&str, Events<'_>)> = vec![
        ("", Box::new(|api| small(api, "a"))),
        (
            "",
            Box::new(|api| {
                for name in ["a", "b", "c", "d"] {
                    small(api, name);
                    api.objects()
                        .patch_status("pods", "default", name, &json!({"status": {"phase": "Succeeded"}}))
                        .unwrap();
                }
            }),
        ),
        (
            "24000 of 23034 MiB",
            Box::new(|api| {
                bind(api, "a", asks(12000, 30), share(12000, 30));
                bind(api, "b", asks(12000, 30), share(12000, 30));
            }),
        ),
        (
            "120 of 100 percent of cores",
            Box::new(|api| {
                bind(api, "a", asks(1000, 60), share(1000, 60));
                bind(api, "b", asks(1000, 60), share(1000, 60));
            }),
        ),
        (
            "3 of 2 slots",
            Box::new(|api| ["a", "b", "c"].iter().for_each(|name| bind(api, name, asks(1, 1), share(1, 1)))),
        ),
        (
            "an exclusive pod is not alone",
            Box::new(|api| {
                bind(api, "a", whole_ask.clone(), whole.clone());
                bind(api, "b", json!({"count": 1, "memory": 0}), share(0, 0));
            }),
        ),
        // A pod that is being deleted still runs.
        (
            "24000 of 23034 MiB",
            Box::new(|api| {
                bind(api, "a", asks(12000, 30), share(12000, 30));
                api.objects().delete("pods", "default", "a", Some(30)).unwrap();
                bind(api, "b", asks(12000, 30), share(12000, 30));
            }),
        ),
        (
            "no such device",
            Box::new(|api| bind(api, "a", asks(1, 1), json!({"device": "GPU-9", "memory": 1, "cores": 1}))),
        ),
        ("8000 MiB booked where 9000 were asked", Box::new(|api| bind(api, "a", asks(9000, 30), share(8000, 30)))),
        (
            "asked for 2 different devices",
            Box::new(|api| {
                bind(api, "a", json!({"count": 2, "memory": 100, "cores": 1}), share(100, 1));
            }),
        ),
        (
            "asked for MIG profile",
            Box::new(|api| bind(api, "a", json!({"count": 1, "mig": "1g.10gb"}), share(9728, 100))),
        ),
    ];
    for (number, (expected, events)) in cases.into_iter().enumerate() {
        let found = judge(events).await;
        if expected.is_empty() {
            assert_eq!(found, Vec::<String>::new(), "case {number}");
        } else {
            assert!(found.iter().any(|what| what.contains(expected)), "case {number}: {expected:?} in {found:?}");
        }
    }
}

#[test]
fn the_checker_compares_what_a_container_has_with_its_allocation() {
    let allocation = json!({"v": 1, "containers": {"main": [{"device": "GPU-1"}, {"device": "GPU-2"}]}}).to_string();
    let pod =
        json!({"metadata": {"namespace": "ns", "name": "p", "annotations": {"packhorse.dev/allocation": allocation}}});
    for (container, devices, right) in [
        ("main", &["GPU-2", "GPU-1"][..], true),
        ("side", &[], true),
        ("main", &["GPU-1"], false),
        ("main", &["GPU-1", "GPU-3"], false),
        ("main", &["GPU-1", "GPU-2", "GPU-3"], false),
        ("main", &[], false),
        ("side", &["GPU-1"], false),
    ] {
        let mut checker = Checker::default();
        let devices = devices.iter().map(|device| (*device).to_owned()).collect();
        checker.container_started(&pod, container, &devices);
        assert_eq!(checker.violations().is_empty(), right, "{container} {devices:?}: {:?}", checker.violations());
        assert_eq!(checker.started().wrong, u64::from(!right), "{container} {devices:?}");
    }
}

fn packhorse(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_packhorse")).args(arguments).output().unwrap()
}

#[test]
fn the_command_ends_by_itself_and_its_last_lines_say_so() {
    let scratch = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_packhorse"))
        .args(["demo", "--nodes", "3", "--gpus-per-node", "2", "--duration", "8s", "--seed", "9"])
        .env("TMPDIR", scratch.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.last().unwrap().starts_with("OK: no GPU was oversubscribed"), "{text}");
    assert!(lines[lines.len() - 2].ends_with(" containers started, each with its own devices; 0 wrong."), "{text}");
    assert!(lines[lines.len() - 3].starts_with("Judged "), "{text}");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "files stay behind");
    for expected in ["curl -s ", "  placed   ", "pods offered", "PreStartContainer", "webhook, TLS", "seed 9"] {
        assert!(text.contains(expected), "{expected:?} in {text}");
    }
    assert!(!text.contains('\x1b'), "colours are for terminals");
}

#[test]
fn a_broken_start_check_fails_the_command() {
    let arguments = ["demo", "--nodes", "1", "--gpus-per-node", "3", "--duration", "4s", "--sabotage", "start-check"];
    let output = packhorse(&arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.last().unwrap().starts_with("FAILED: "), "{text}");
    assert!(lines[lines.len() - 2].ends_with(" wrong, with devices that are not theirs."), "{text}");
}

#[test]
fn ctrl_c_ends_it_with_the_summary() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_packhorse"))
        .args(["demo", "--nodes", "2", "--gpus-per-node", "2"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map(Result::unwrap);
    let page = lines.find_map(|line| Some(line.strip_prefix("Open http://")?.split_once("/ ")?.0.to_owned()));
    let page = page.expect("the address of the page");
    assert!(lines.any(|line| line.contains("  placed   ")), "nothing was placed");
    for (path, part) in [("/", "<title>Packhorse</title>"), ("/api/v1/cluster", r#""names":["node-1","node-2"]"#)] {
        let mut stream = TcpStream::connect(&page).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {page}\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(part), "{path}: {answer}");
    }
    let killed = Command::new("kill").args(["-INT", &demo.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let rest: Vec<String> = lines.collect();
    assert_eq!(demo.wait().unwrap().code(), Some(0), "{rest:?}");
    assert!(rest.iter().any(|line| line.starts_with("Summary after")), "{rest:?}");
    assert!(rest.last().unwrap().starts_with("OK: no GPU was oversubscribed"), "{rest:?}");
}

#[test]
fn wrong_flags_are_explained() {
    for (arguments, expected) in [
        (["--nodes", "0"], "0 is not in 1..=500"),
        (["--gpus-per-node", "99"], "99 is not in 1..=16"),
        (["--duration", "20"], "write 20s for seconds"),
        (["--seed", "x"], "invalid digit"),
        (["--node", "3"], "unexpected argument"),
    ] {
        let output = packhorse(&["demo", arguments[0], arguments[1]]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
}
