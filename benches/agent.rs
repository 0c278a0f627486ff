//! `Allocate` as the kubelet calls it: gRPC over the plugin's Unix socket, one call at a time, as its main loop waits for each. No API
//! server exists at all. Prints percentiles. A node has 8 cards of 10 slots; the slots of a call are in use by nobody, and each third
//! call finds a specification of an earlier container to remove.

#![allow(clippy::expect_used, reason = "a benchmark ends where it fails")]

mod figures;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use packhorse::agent::backend::Card;
use packhorse::agent::options::{DeviceIdStrategy, Strategy};
use packhorse::agent::plugin::{Metrics, Plugins, Settings};
use packhorse::agent::slots;
use packhorse::agent::specification::{self, Container, DeviceName, Form, Specifications};
use packhorse::agent::start::{Refusal, Starter};
use packhorse::agent::view::NodeView;
use packhorse::gpu::device::{Device, Enforcement, Health};
use packhorse::kubelet_api::device_plugin::device_plugin_client::DevicePluginClient;
use packhorse::kubelet_api::device_plugin::{AllocateRequest, ContainerAllocateRequest};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const CALLS: usize = 10_000;
const CARDS: usize = 8;
const SLOTS: u16 = 10;

/// Nothing is started here.
#[derive(Debug)]
struct Never;

#[tonic::async_trait]
impl Starter for Never {
    async fn prepare(&self, _: &str, _: &[String]) -> Result<(), Refusal> {
        Ok(())
    }
}

fn uuid(card: usize) -> String {
    format!("GPU-00000000-0000-0000-0000-{card:012}")
}

fn device(index: usize) -> Device {
    Device {
        uuid: uuid(index).into(),
        index: index as u32,
        model: "NVIDIA A100-SXM4-80GB".into(),
        memory: 81920,
        cores: 100,
        slots: SLOTS,
        numa: Some(0),
        pci: format!("0000:{:02x}:00.0", 7 + index).into(),
        health: Health::Healthy,
        enforcement: Enforcement::Advisory,
        links: Vec::new(),
        mig: None,
        parent: None,
        foreign: None,
    }
}

fn view() -> NodeView {
    NodeView { devices: (0..CARDS).map(device).collect(), ..NodeView::default() }
}

async fn socket(folder: &Path) -> PathBuf {
    loop {
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        if let Some(path) = files.filter(|path| path.extension().is_some_and(|it| it == "sock")).last() {
            return path;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn measure(form: Form) {
    let directory = tempfile::tempdir().expect("a folder");
    let folder = directory.path().join("device-plugins");
    std::fs::create_dir(&folder).expect("a folder");
    let specifications = Specifications::new(specification::Settings {
        cdi_dir: directory.path().join("cdi"),
        host_dirs: Vec::new(),
        form,
        strategies: vec![Strategy::Envvar],
        device_ids: DeviceIdStrategy::Uuid,
        pass_device_specs: false,
        dev_root: "/".into(),
        mig_minors: directory.path().join("mig-minors"),
    });
    let specifications = Arc::new(specifications.expect("specifications"));
    let settings = Settings::new(directory.path().to_owned(), Arc::clone(&specifications));
    let view = tokio::sync::watch::Sender::new(Arc::new(view()));
    let metrics = Metrics::new(&mut prometheus_client::registry::Registry::default());
    let plugins = Arc::new(Plugins::new(settings, view.subscribe(), Arc::default(), Arc::new(Never), metrics));
    let stop = CancellationToken::new();
    let serving = tokio::spawn(plugins.run(stop.clone()));
    let address = format!("unix://{}", socket(&folder).await.display());
    let mut plugin = DevicePluginClient::connect(address).await.expect("the plugin listens");
    let mut times = Vec::with_capacity(CALLS);
    for call in 0..CALLS {
        let slot = slots::id(&uuid(call % CARDS), (call / CARDS % usize::from(SLOTS)) as u16);
        if form == Form::Env && call.is_multiple_of(3) {
            write(&specifications, &slot);
        }
        let container_requests = vec![ContainerAllocateRequest { devices_ids: vec![slot] }];
        let began = Instant::now();
        let answer = plugin.allocate(AllocateRequest { container_requests }).await.expect("slots are allocated");
        times.push(began.elapsed());
        assert_eq!(answer.into_inner().container_responses.len(), 1);
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_micros();
    let form = format!("{form:?}").to_lowercase();
    println!("{form:>6}  {:>6}  {:>6}  {:>6}", at(50), at(99), at(100));
    for (figure, percent) in [("allocate_p50_us", 50), ("allocate_p99_us", 99), ("allocate_max_us", 100)] {
        figures::record(figure, at(percent) as f64, "us", &json!({"form": form}));
    }
    stop.cancel();
    serving.await.expect("the plugins end");
}

/// As an earlier container of that slot left it.
fn write(specifications: &Specifications, slot: &str) {
    let index = slots::device(slot).and_then(|uuid| uuid.rsplit('-').next()?.parse().ok()).expect("a slot of ours");
    let card = Card {
        uuid: uuid(index).into(),
        index: index as u32,
        model: "NVIDIA A100-SXM4-80GB".into(),
        memory: 81920,
        pci: format!("0000:{:02x}:00.0", 7 + index).into(),
        numa: Some(0),
        minor: index as u32,
        compute: (8, 0),
        mig_capable: true,
        mig_mode: false,
        instances: Vec::new(),
        links: Vec::new(),
        clique: None,
    };
    let container = Container {
        name: DeviceName::fresh().expect("randomness"),
        pod_uid: "00000000-0000-0000-0000-000000000000".into(),
        container: "main".into(),
        slots: vec![slot.to_owned()],
        devices: vec![(device(index), card)],
    };
    specifications.write(&container).expect("a specification");
}

fn main() {
    if !figures::is_bench() {
        return;
    }
    // As many threads as the agent has.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    println!("Allocate over a Unix socket, us:");
    println!("{:>6}  {:>6}  {:>6}  {:>6}", "form", "p50", "p99", "most");
    for form in [Form::None, Form::Env] {
        runtime.block_on(measure(form));
    }
}
