//! One run: all pods are there, kube-scheduler starts, and the moments at which they are bound are noted. Afterwards the books are
//! checked where Packhorse bound them, and everything that the run started is ended.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, Config};
use serde_json::{Value, json};

use super::bound::Bound;
use super::plane::Plane;
use super::process::Component;
use super::settings::{Asked, Case, Sampling, Settings};
use super::told::{CpuTimes, Exposition};
use super::{checker, http, identity, manifests, noop, objects, wait};

const EXTENDER_PORT: u16 = 9480;
const METRICS_PORT: u16 = 9481;
const WEBHOOK_PORT: u16 = 9443;
const SCHEDULER_PORT: u16 = 10259;
/// Between two readings of the CPU times.
const TICK: Duration = Duration::from_millis(100);
/// Seconds of kube-scheduler's CPU profile.
const PROFILE: u64 = 10;

/// What one run showed.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Between the first tenth and the last tenth of those that were bound.
    pub(crate) pods_per_second: f64,
    /// From the first to the last bind.
    pub(crate) seconds: f64,
    pub(crate) bound: usize,
    /// Of one CPU, by process, in the same time as the rate.
    pub(crate) cpu: Vec<(&'static str, f64)>,
    pub(crate) scheduler: Exposition,
    pub(crate) packhorse: Option<Exposition>,
    /// What the API server was asked while kube-scheduler ran: `verb resource/subresource` and how often.
    pub(crate) api_writes: Vec<(String, f64)>,
    /// Pods with a GPU and an allocation, where it was checked.
    pub(crate) allocated: Option<usize>,
}

/// The extender of a run.
struct Extender {
    name: &'static str,
    process: Component,
    has_metrics: bool,
}

/// Makes one run.
pub(crate) async fn run(plane: &Plane, settings: &Settings, case: &Case, pods: &[Pod]) -> Outcome {
    let mut extender = start_extender(plane, settings, case).await;
    plane.create_pods(pods).await;
    let bound = Bound::watch(&plane.client).await;
    let before = Exposition(plane.metrics().await);

    let mut scheduler = start_scheduler(plane, case);
    let mut processes = vec![
        ("kube-scheduler", scheduler.id()),
        ("kube-apiserver", plane.api_server.id()),
        ("etcd", plane.etcd.id()),
        ("bench", std::process::id()),
    ];
    processes.extend(extender.as_ref().map(|extender| (extender.name, extender.process.id())));
    let mut cpu = CpuTimes::of(processes);
    let started = Instant::now();
    let mut profile = None;
    while bound.count() < pods.len() && started.elapsed() < settings.limit {
        cpu.read();
        scheduler.must_run();
        if let Some(extender) = &mut extender {
            extender.process.must_run();
        }
        if bound.count() > pods.len() / 10 && profile.is_none() {
            profile = settings.profiles.as_ref().map(|folder| tokio::spawn(take_profile(plane, folder, case)));
        }
        tokio::time::sleep(TICK).await;
    }
    cpu.read();
    if let Some(profile) = profile {
        profile.await.expect("the profile is taken");
    }
    let moments = bound.moments();
    let told = scheduler_client(plane).request_text(get("/metrics")).await;
    let told = Exposition(told.expect("kube-scheduler tells its metrics"));
    scheduler.kill();
    let packhorse = match &extender {
        Some(extender) if extender.has_metrics => {
            let (_, text) = http::get(plane.at(METRICS_PORT), "/metrics").await.expect("packhorse tells its metrics");
            Some(Exposition(text))
        }
        _ => None,
    };
    let api_writes = writes(&before, &Exposition(plane.metrics().await));
    let allocated = match case.asked {
        Asked::Packhorse { .. } => Some(check(plane, moments.len()).await),
        _ => None,
    };
    if let Some(extender) = &mut extender {
        extender.process.kill();
    }
    drop(bound);
    plane.delete_pods().await;

    assert!(
        moments.len() >= 20,
        "{} pods are bound after {:?}; {}",
        moments.len(),
        settings.limit,
        scheduler.log_tail(20)
    );
    let (first, tenth, ninth, last) =
        (moments[0], moments[moments.len() / 10], moments[moments.len() * 9 / 10], moments[moments.len() - 1]);
    let between = (moments.len() * 9 / 10 - moments.len() / 10) as f64;
    Outcome {
        pods_per_second: between / ninth.duration_since(tenth).as_secs_f64(),
        seconds: last.duration_since(first).as_secs_f64(),
        bound: moments.len(),
        cpu: cpu.shares(tenth, ninth),
        scheduler: told,
        packhorse,
        api_writes,
        allocated,
    }
}

async fn start_extender(plane: &Plane, settings: &Settings, case: &Case) -> Option<Extender> {
    let noop = |one_name: bool| {
        let dump = settings
            .names
            .as_ref()
            .filter(|_| case.asked == Asked::AllNames)
            .map(|prefix| PathBuf::from(format!("{}-{}", prefix.display(), case.sampling.name())));
        let listen = plane.at(EXTENDER_PORT);
        let arguments = noop::arguments(listen, &plane.server_kubeconfig, one_name, dump.as_deref());
        let program = std::env::current_exe().expect("this program has a file");
        let process = Component::start("noop-extender", &plane.directory, &program, &arguments);
        Extender { name: "extender", process, has_metrics: false }
    };
    let mut extender = match case.asked {
        Asked::Nobody => return None,
        Asked::OneName => noop(true),
        Asked::AllNames => noop(false),
        Asked::Packhorse { best_nodes } => {
            let config = plane.directory.join("server.yaml");
            identity::write(&config, &format!("extender:\n  bestNodes: {best_nodes}\n"));
            let process = start_packhorse(plane, &settings.packhorse, WEBHOOK_PORT, Some(&config));
            Extender { name: "extender", process, has_metrics: true }
        }
    };
    let (port, path) =
        if extender.has_metrics { (METRICS_PORT, "/readyz/extender") } else { (EXTENDER_PORT, "/healthz") };
    wait::until("the extender to be ready", 120, async || {
        extender.process.must_run();
        http::get(plane.at(port), path).await.filter(|(status, _)| *status == 200)
    })
    .await;
    Some(extender)
}

/// Starts `packhorse server`; does not wait.
pub(crate) fn start_packhorse(plane: &Plane, program: &Path, webhook_port: u16, config: Option<&Path>) -> Component {
    let mut arguments =
        vec!["server".to_owned(), "--kubeconfig".to_owned(), plane.server_kubeconfig.display().to_string()];
    for (flag, port) in
        [("--extender-listen", EXTENDER_PORT), ("--webhook-listen", webhook_port), ("--metrics-listen", METRICS_PORT)]
    {
        arguments.extend([flag.to_owned(), plane.at(port).to_string()]);
    }
    if let Some(config) = config {
        arguments.extend(["--config".to_owned(), config.display().to_string()]);
    }
    Component::start("packhorse-server", &plane.directory, program, &arguments)
}

/// The shipped profile, but for what only this measurement needs.
fn start_scheduler(plane: &Plane, case: &Case) -> Component {
    let url = format!("http://{}", plane.at(EXTENDER_PORT));
    let path = manifests::scheduler_config(&plane.directory, &plane.server_kubeconfig, &url);
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(&path).expect("the configuration was just written")).expect("JSON");
    if case.asked == Asked::Nobody {
        config.as_object_mut().expect("an object").remove("extenders");
    }
    if case.sampling == Sampling::All {
        config["percentageOfNodesToScore"] = json!(100);
    }
    // The lease of the run before would have to end first.
    config["leaderElection"] = json!({"leaderElect": false});
    // Without an extender kube-scheduler binds by itself, and by default at most 50 times a second.
    config["clientConnection"]["qps"] = json!(5000);
    config["clientConnection"]["burst"] = json!(5000);
    identity::write(&path, &config.to_string());
    let arguments = [
        "kube-scheduler".to_owned(),
        format!("--config={}", path.display()),
        format!("--bind-address={}", plane.at(0).ip()),
        format!("--secure-port={SCHEDULER_PORT}"),
        format!("--authentication-kubeconfig={}", plane.server_kubeconfig.display()),
        format!("--authorization-kubeconfig={}", plane.server_kubeconfig.display()),
        "--authorization-always-allow-paths=/healthz,/readyz,/livez,/metrics,/debug/pprof/*".to_owned(),
    ];
    Component::start("kube-scheduler", &plane.directory, plane.kubelab, &arguments)
}

/// kube-scheduler makes its certificate itself, at each start.
fn scheduler_client(plane: &Plane) -> Client {
    let url = format!("https://{}", plane.at(SCHEDULER_PORT));
    let mut config = Config::new(url.parse().expect("a URL"));
    config.accept_invalid_certs = true;
    Client::try_from(config).expect("a client")
}

fn take_profile(plane: &Plane, folder: &Path, case: &Case) -> impl Future<Output = ()> + Send + use<> {
    let client = scheduler_client(plane);
    let file = folder.join(format!(
        "kube-scheduler-{}-{}-{}-{}.pprof",
        case.mix,
        case.asked.title().replace(' ', "_"),
        case.sampling.name(),
        case.round
    ));
    async move {
        let request = axum::http::Request::get(format!("/debug/pprof/profile?seconds={PROFILE}"));
        let body = kube::client::Body::empty();
        let answer = client.send(request.body(body).expect("a request")).await.expect("kube-scheduler answers");
        let bytes = http_body_util::BodyExt::collect(answer.into_body()).await.expect("a profile").to_bytes();
        std::fs::write(&file, bytes).unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
    }
}

fn get(path: &str) -> axum::http::Request<Vec<u8>> {
    axum::http::Request::get(path).body(Vec::new()).expect("a request")
}

/// No device is beyond its means, and every pod with a node has an allocation. How many pods with GPUs there were.
async fn check(plane: &Plane, bound: usize) -> usize {
    let api: Api<Pod> = Api::namespaced(plane.client.clone(), "default");
    let pods = api.list(&ListParams::default()).await.expect("pods are listed").items;
    let books = checker::count(&plane.nodes, &pods);
    assert!(books.violations.is_empty(), "{:#?}", books.violations);
    let with_node: Vec<&Pod> = pods.iter().filter(|pod| objects::node_of(pod).is_some()).collect();
    assert!(with_node.len() >= bound, "{} pods have a node, {bound} were seen to be bound", with_node.len());
    let expected = with_node.iter().filter(|pod| !checker::gpu_containers(pod).is_empty()).count();
    assert_eq!(books.placed, expected);
    expected
}

fn writes(before: &Exposition, after: &Exposition) -> Vec<(String, f64)> {
    const NAME: &str = "apiserver_request_total";
    let mut writes = Vec::new();
    for verb in ["POST", "PUT", "PATCH"] {
        for resource in after.values(NAME, "resource") {
            for subresource in after.values(NAME, "subresource") {
                let (verb_label, resource_label, subresource_label) = (
                    format!("verb=\"{verb}\""),
                    format!(",resource=\"{resource}\""),
                    format!("subresource=\"{subresource}\""),
                );
                let labels = [verb_label.as_str(), &resource_label, &subresource_label];
                let count = after.sum(NAME, &labels) - before.sum(NAME, &labels);
                if count > 0.0 {
                    writes.push((format!("{verb} {resource}/{subresource}").trim_end_matches('/').to_owned(), count));
                }
            }
        }
    }
    writes
}
