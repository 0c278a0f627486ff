//! The device plugins against a kubelet's device manager over real sockets: registration in all its breaks, lists, answers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::needless_pass_by_value,
    reason = "helpers of tests panic as the tests do, and take values written in place"
)]

mod admission;
mod answers;
mod lists;
mod registration;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use packhorse::agent::identity::Identity;
use packhorse::agent::options::{DeviceIdStrategy, Strategy};
use packhorse::agent::plugin::{Metrics, Plugins, ReplySettings, Settings, Timing};
use packhorse::agent::pods::{NodePod, Origin, Pods};
use packhorse::agent::slots;
use packhorse::agent::specification::{self, DeviceName, Form, Specifications};
use packhorse::agent::start::{Refusal, Starter};
use packhorse::agent::view::{GPU, MigStrategy, NodeView};
use packhorse::demo::node_kubelet::{Container, Count, NodeKubelet, Pod};
use packhorse::gpu::allocation::{Allocation, ContainerAllocation, Share};
use packhorse::gpu::device::{Device, Enforcement, Health, MigInstance};
use packhorse::gpu::request::{MigProfile, Phase, PodRequest};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

const MIG: &str = "nvidia.com/mig-1g.10gb";

/// A node: a kubelet's directory, a view, and what the check at container start says.
struct Node {
    directory: tempfile::TempDir,
    view: watch::Sender<Arc<NodeView>>,
    pods: Arc<Pods>,
    check: Arc<Check>,
    specifications: Arc<Specifications>,
}

/// One agent's plugins.
struct Agent {
    plugins: Arc<Plugins>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    registry: prometheus_client::registry::Registry,
}

#[derive(Debug, Default)]
struct Check {
    refusal: Mutex<Option<String>>,
    /// The check waits for it where set.
    gate: Mutex<Option<Arc<Notify>>>,
    begun: AtomicUsize,
    seen: Mutex<Vec<BTreeSet<String>>>,
}

#[tonic::async_trait]
impl Starter for Check {
    async fn prepare(&self, resource: &str, slots: &[String]) -> Result<(), Refusal> {
        assert!(resource == GPU || resource == MIG, "{resource}");
        self.begun.fetch_add(1, Ordering::SeqCst);
        let gate = self.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.notified().await;
        }
        self.seen.lock().unwrap().push(slots.iter().cloned().collect());
        match &*self.refusal.lock().unwrap() {
            Some(reason) => Err(Refusal(reason.clone())),
            None => Ok(()),
        }
    }
}

fn device(uuid: &str, slots: u16) -> Device {
    Device {
        uuid: uuid.into(),
        index: 0,
        model: "NVIDIA A100-SXM4-80GB".into(),
        memory: 81920,
        cores: 100,
        slots,
        numa: Some(0),
        pci: "0000:07:00.0".into(),
        health: Health::Healthy,
        enforcement: Enforcement::Advisory,
        links: Vec::new(),
        mig: None,
        parent: None,
        foreign: None,
    }
}

fn instance(uuid: &str) -> Device {
    let mig = MigInstance { profile: MigProfile("1g.10gb".into()), start: 0, size: 1 };
    Device { mig: Some(mig), parent: Some("GPU-9".into()), ..device(uuid, 1) }
}

const QUICK: Timing = Timing {
    poll: Duration::from_millis(20),
    retry_first: Duration::from_millis(20),
    retry_longest: Duration::from_millis(300),
    register: Duration::from_secs(5),
    first_list: Duration::from_secs(3),
    pre_start: Duration::from_secs(2),
    shutdown: Duration::from_secs(3),
};

impl Node {
    fn new(devices: Vec<Device>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let settings = specification::Settings {
            cdi_dir: directory.path().join("cdi"),
            host_dirs: Vec::new(),
            form: Form::Env,
            strategies: vec![Strategy::Envvar],
            device_ids: DeviceIdStrategy::Uuid,
            pass_device_specs: false,
            dev_root: "/".into(),
            mig_minors: directory.path().join("mig-minors"),
        };
        Self {
            specifications: Arc::new(Specifications::new(settings).unwrap()),
            directory,
            view: watch::Sender::new(view(devices)),
            pods: Arc::default(),
            check: Arc::default(),
        }
    }

    fn kubelet(&self, seed: u64) -> NodeKubelet {
        NodeKubelet::start(self.directory.path(), seed).unwrap()
    }

    fn agent(&self) -> Agent {
        self.agent_that(|_| {})
    }

    fn agent_that(&self, change: impl FnOnce(&mut Settings)) -> Agent {
        let mut settings = Settings::new(self.directory.path().to_owned(), Arc::clone(&self.specifications));
        settings.timing = QUICK;
        change(&mut settings);
        let mut registry = prometheus_client::registry::Registry::default();
        let metrics = Metrics::new(&mut registry);
        let starter: Arc<dyn Starter> = Arc::clone(&self.check) as _;
        let plugins = Plugins::new(settings, self.view.subscribe(), Arc::clone(&self.pods), starter, metrics);
        let (plugins, stop) = (Arc::new(plugins), CancellationToken::new());
        let task = tokio::spawn(Arc::clone(&plugins).run(stop.clone()));
        Agent { plugins, stop, task, registry }
    }

    fn sockets(&self) -> BTreeSet<PathBuf> {
        let entries = std::fs::read_dir(self.directory.path().join("device-plugins")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("packhorse-")).collect()
    }
}

impl Agent {
    async fn registered(&self) {
        let mut registered = self.plugins.registered();
        let wait = registered.wait_for(|registered| *registered);
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("registered in time").unwrap();
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn view(devices: Vec<Device>) -> Arc<NodeView> {
    Arc::new(NodeView { devices, mig_strategy: MigStrategy::Mixed, ..NodeView::default() })
}

fn pod(uid: &str, containers: &[(&str, Phase, u32)]) -> Pod {
    let container = |(name, phase, count): &(&str, Phase, u32)| Container {
        name: (*name).to_owned(),
        phase: *phase,
        limits: BTreeMap::from([(GPU.to_owned(), *count), ("packhorse.dev/gpu-cores".to_owned(), 10)]),
    };
    Pod {
        uid: uid.to_owned(),
        namespace: "team".to_owned(),
        name: format!("pod-{uid}"),
        containers: containers.iter().map(container).collect(),
    }
}

fn one(uid: &str) -> Pod {
    pod(uid, &[("main", Phase::App, 1)])
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn all(number: usize) -> Count {
    Count { capacity: number, allocatable: number }
}

async fn ready(kubelet: &NodeKubelet, number: usize) {
    eventually("all slots are allocatable", || kubelet.counts().get(GPU) == Some(&all(number)) && kubelet.is_idle())
        .await;
}
/// The same pod as the agent's watch has it, with its devices by container.
fn bound(pod: &Pod, devices: &[(&str, &[&str])]) -> NodePod {
    let share = |device: &&str| Share {
        device: (*device).into(),
        memory: 1000,
        cores: 0,
        exclusive: false,
        enforcement: Enforcement::Advisory,
    };
    let container = |(name, devices): &(&str, &[&str])| ContainerAllocation {
        name: (*name).into(),
        shares: devices.iter().map(share).collect(),
    };
    let slots = |container: &Container| {
        let limits = container.limits.iter().filter(|(name, _)| name.starts_with("nvidia.com/"));
        (container.name.as_str().into(), limits.map(|(name, amount)| (name.clone(), *amount)).collect())
    };
    NodePod {
        uid: pod.uid.as_str().into(),
        namespace: pod.namespace.as_str().into(),
        name: pod.name.as_str().into(),
        node: "node".into(),
        ended: false,
        deleting: false,
        created: "2026-01-01T00:00:00Z".to_owned(),
        containers: pod.containers.iter().map(|c| (c.name.as_str().into(), c.phase)).collect(),
        running: Vec::new(),
        origin: Origin::Packhorse,
        request: Ok(PodRequest::default()),
        allocation: Some(Ok(Allocation { containers: devices.iter().map(container).collect() })),
        totals: (0, 0),
        slots: pod.containers.iter().map(slots).collect(),
    }
}
