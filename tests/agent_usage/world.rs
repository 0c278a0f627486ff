//! A node whose metrics are asked: a topology file says what runs, a directory stands for `/proc`.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use packhorse::agent::backend::fake::Fake;
use packhorse::agent::backend::{Backend, BackendError, Discovery, Event, Probe, Usage};
use packhorse::agent::devices::metrics::Metrics;
use packhorse::agent::devices::{Devices, Settings};
use packhorse::agent::pins::{Pin, Pins};
use packhorse::agent::pods::{NodePod, Pods};
use packhorse::agent::usage::{Exporter, Parts};
use packhorse::agent::view::MigStrategy;
use packhorse::metrics::exposition::Exposition;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(super) const CARD: &str = "GPU-1";

const NODE: &str = "v: 1
driver: \"580.95.05\"
devices:
- {uuid: GPU-1, model: NVIDIA A100-SXM4-80GB, memory: 81920, pci: \"0000:07:00.0\", minor: 3}
- {uuid: GPU-2, model: NVIDIA A100-SXM4-80GB, memory: 81920, pci: \"0000:0a:00.0\", minor: 4}
- uuid: GPU-3
  model: NVIDIA A100-SXM4-80GB
  memory: 81920
  pci: \"0000:44:00.0\"
  minor: 5
  mig:
  - {uuid: MIG-1, profile: 3g.40gb, memory: 40192, start: 0, size: 4}
  - {uuid: MIG-2, profile: 1g.10gb, memory: 9728, start: 4, size: 1}
";

/// The fake, counted and held up.
#[derive(Debug)]
pub(super) struct Watched {
    fake: Fake,
    pub(super) asked: AtomicUsize,
    pub(super) gate: Mutex<Option<Receiver<()>>>,
}

impl Backend for Watched {
    fn discover(&self) -> Result<Discovery, BackendError> {
        self.fake.discover()
    }

    fn next_event(&self, timeout: Duration) -> Result<Option<Event>, BackendError> {
        self.fake.next_event(timeout)
    }

    fn probe(&self, card: &str) -> Probe {
        self.fake.probe(card)
    }

    fn usage(&self) -> Result<Usage, BackendError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if let Some(gate) = &*self.gate.lock().unwrap() {
            let _ = gate.recv();
        }
        self.fake.usage()
    }
}

/// A node whose metrics are asked.
pub(super) struct World {
    directory: tempfile::TempDir,
    pub(super) backend: Arc<Watched>,
    pods: Arc<Pods>,
    pins: Arc<Pins>,
    exposition: Exposition,
    _stop: DropGuard,
}

impl World {
    pub(super) async fn new(usage: &str) -> Self {
        Self::with(usage, false).await
    }

    pub(super) async fn with(usage: &str, dcgm: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("topology.yaml"), format!("{NODE}{usage}")).unwrap();
        let fake = Fake::new(directory.path().join("topology.yaml"));
        let backend = Arc::new(Watched { fake, asked: AtomicUsize::new(0), gate: Mutex::default() });
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let settings = Settings { mig_strategy: MigStrategy::Mixed, ..Settings::default() };
        let driver = Arc::<Watched>::clone(&backend);
        let devices = Devices::start(driver, settings, None, metrics.clone()).await.unwrap();
        let view = devices.view();
        let stop = CancellationToken::new();
        tokio::spawn(devices.run(stop.clone()));
        let pods = Arc::new(Pods::default());
        let pins = Arc::new(Pins::open(directory.path()).unwrap());
        let exporter = Exporter::new("n1".into(), &mut registry).with_limit(Duration::from_millis(300));
        let parts = Parts {
            backend: Arc::<Watched>::clone(&backend),
            view,
            pods: Arc::clone(&pods),
            pins: Arc::clone(&pins),
            devices: metrics,
            proc: directory.path().join("proc"),
            dcgm,
        };
        exporter.begin(parts);
        let exposition = Exposition::new(registry).with(Arc::new(exporter));
        let world = Self { directory, backend, pods, pins, exposition, _stop: stop.drop_guard() };
        world.process(1, "0::/init.scope\n");
        world
    }

    pub(super) fn process(&self, pid: u32, cgroup: &str) -> PathBuf {
        let folder = self.directory.path().join(format!("proc/{pid}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cgroup"), cgroup).unwrap();
        folder.join("cgroup")
    }

    /// A process of that container.
    pub(super) fn process_of(&self, pid: u32, uid: &str, container: &str) {
        self.process(pid, &format!("0::/kubepods/burstable/pod{uid}/{container}\n"));
    }

    /// A pod with containers that run, as the watch tells.
    pub(super) fn pod(&self, uid: &str, name: &str, containers: &[(&str, &str)]) {
        let statuses: Vec<Value> = containers
            .iter()
            .map(|(name, id)| json!({"name": name, "containerID": format!("containerd://{id}"), "state": {"running": {}}}))
            .collect();
        let names: Vec<Value> = containers.iter().map(|(name, _)| json!({"name": name})).collect();
        let pod = json!({
            "metadata": {"uid": uid, "namespace": "ns", "name": name},
            "spec": {"containers": names},
            "status": {"phase": "Running", "containerStatuses": statuses},
        });
        self.pods.apply(NodePod::read(&serde_json::from_str(&pod.to_string()).unwrap()).unwrap());
    }

    /// Container `main` of a pod was given so much of a device, and it was verified.
    pub(super) fn given(&self, uid: &str, name: &str, device: &str, memory: u32, cores: u16) {
        use packhorse::gpu::allocation::{Allocation, ContainerAllocation, Share};
        use packhorse::gpu::device::Enforcement;
        let share =
            Share { device: device.into(), memory, cores, exclusive: false, enforcement: Enforcement::Advisory };
        let pin = Pin {
            uid: uid.into(),
            namespace: "ns".into(),
            name: name.into(),
            phases: Vec::new(),
            allocation: Allocation {
                containers: vec![ContainerAllocation { name: "main".into(), shares: vec![share] }],
            },
            foreign: None,
        };
        self.pins.reserve(pin, |_| Ok::<_, ()>(())).unwrap();
    }

    /// What Prometheus gets.
    pub(super) async fn scrape(&self) -> Series {
        self.exposition.refresh().await;
        Series(self.exposition.pieces().unwrap().collect())
    }
}

pub(super) struct Series(pub(super) String);

impl Series {
    /// The one series of that name with all these labels; `None` where there is none.
    pub(super) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let lines =
            self.0.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        let found: Vec<&str> = lines.filter(|line| wanted.iter().all(|label| line.contains(label))).collect();
        assert!(found.len() < 2, "several: {found:#?}");
        found.first().map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
    }

    pub(super) fn of_device(&self, what: &str, device: &str) -> Option<f64> {
        self.value(&format!("packhorse_agent_device_{what}"), &[("device", device)])
    }

    pub(super) fn of_container(&self, what: &str, pod: &str, device: &str) -> Option<f64> {
        let labels = [("node", "n1"), ("namespace", "ns"), ("pod", pod), ("container", "main"), ("device", device)];
        self.value(&format!("packhorse_agent_container_{what}"), &labels)
    }

    pub(super) fn unattributed(&self, device: &str) -> [Option<f64>; 3] {
        ["host", "pod", "unknown"].map(|kind| {
            self.value("packhorse_agent_unattributed_memory_mebibytes", &[("device", device), ("kind", kind)])
        })
    }

    pub(super) fn failures(&self, call: &str) -> f64 {
        self.value("packhorse_agent_usage_failures_total", &[("call", call)]).unwrap_or(0.0)
    }
}

pub(super) const UID: &str = "8dbc5577-d0e2-4706-8787-57d52c03ddf2";
pub(super) const OTHER: &str = "11111111-d0e2-4706-8787-57d52c03ddf2";

pub(super) fn id(digit: char) -> String {
    std::iter::repeat_n(digit, 64).collect()
}
