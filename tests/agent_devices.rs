//! Devices out of a topology file, as everybody but their owner sees them: files are written, views are read.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; the lint spares only the test functions themselves"
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use packhorse::agent::backend::fake::Fake;
use packhorse::agent::devices::metrics::Metrics;
use packhorse::agent::devices::{Devices, Settings};
use packhorse::agent::health;
use packhorse::agent::view::{MigStrategy, NodeView, ViewReceiver};
use packhorse::gpu::device::{Enforcement, Health, Inventory};
use packhorse::kube_api::inventory;
use prometheus_client::registry::Registry;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Long enough for a busy machine, short enough to fail in.
const PATIENCE: Duration = Duration::from_secs(20);

const NODE: &str = "v: 1
driver: \"580.95.05\"
devices:
- uuid: GPU-2
  model: NVIDIA A100-SXM4-80GB
  memory: 81920
  pci: \"0000:0a:00.0\"
  numa: 1
  mig:
  - {uuid: MIG-1, profile: 1g.10gb, memory: 9728, start: 0, size: 1}
  - {uuid: MIG-2, profile: 1g.10gb, memory: 9728, start: 1, size: 1}
- {uuid: GPU-1, model: NVIDIA A100-SXM4-80GB, memory: 81920, pci: \"0000:07:00.0\", numa: 0}
- {uuid: GPU-3, model: NVIDIA A100-SXM4-80GB, memory: 81920, pci: \"0000:44:00.0\", numa: 1}
links: [{a: 0, b: 2, nvlink: 12, pcie: same-cpu}]
";

struct World {
    dir: tempfile::TempDir,
    registry: Registry,
    settings: Settings,
}

struct Running {
    view: ViewReceiver,
    _stop: DropGuard,
}

impl World {
    fn new(topology: &str) -> Self {
        let settings = Settings {
            mig_strategy: MigStrategy::Mixed,
            probe_every: Duration::from_millis(100),
            probe_watched_every: Duration::from_millis(50),
            health: health::Settings {
                quiet: Duration::from_millis(200),
                quiet_after_fatal: Duration::from_secs(600),
                observation: Duration::from_millis(50),
                ..health::Settings::default()
            },
            ..Settings::default()
        };
        let world = Self { dir: tempfile::tempdir().unwrap(), registry: Registry::default(), settings };
        world.write(topology);
        world
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("topology.yaml")
    }

    /// As an editor does it: nobody reads half of it.
    fn write(&self, topology: &str) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, topology).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    async fn devices(&mut self) -> Result<Devices, packhorse::agent::devices::StartError> {
        let metrics = Metrics::new(&mut self.registry);
        Devices::start(Arc::new(Fake::new(self.path())), self.settings.clone(), None, metrics).await
    }

    async fn run(&mut self) -> Running {
        let devices = self.devices().await.unwrap();
        let stop = CancellationToken::new();
        let view = devices.view();
        tokio::spawn(devices.run(stop.clone()));
        Running { view, _stop: stop.drop_guard() }
    }
}

impl Running {
    async fn until(&mut self, what: &str, fine: impl Fn(&NodeView) -> bool) -> Arc<NodeView> {
        let waiting = self.view.wait_for(|view| fine(view));
        let found = tokio::time::timeout(PATIENCE, waiting).await.map(|view| Arc::clone(&view.unwrap()));
        found.unwrap_or_else(|_| panic!("not seen: {what}; {:#?}", self.view.borrow()))
    }

    async fn until_health(&mut self, device: &str, health: Health) {
        self.until(&format!("{device} {health:?}"), |view| view.device(device).is_some_and(|d| d.health == health))
            .await;
    }

    fn healths(&self) -> Vec<Health> {
        self.view.borrow().devices.iter().map(|device| device.health).collect()
    }
}

#[tokio::test]
async fn a_topology_file_becomes_the_inventory_it_describes() {
    let mut world = World::new(NODE);
    let running = world.run().await;
    let view = Arc::clone(&running.view.borrow());
    let rows: Vec<_> = view
        .devices
        .iter()
        .map(|d| (&*d.uuid, d.index, &*d.pci, d.numa, d.memory, d.slots, d.enforcement, d.parent.as_deref()))
        .collect();
    let expected = [
        ("GPU-1", 0, "0000:07:00.0", Some(0), 81920, 10, Enforcement::Advisory, None),
        ("MIG-1", 1, "0000:0a:00.0", Some(1), 9728, 1, Enforcement::Mig, Some("GPU-2")),
        ("MIG-2", 1, "0000:0a:00.0", Some(1), 9728, 1, Enforcement::Mig, Some("GPU-2")),
        ("GPU-3", 2, "0000:44:00.0", Some(1), 81920, 10, Enforcement::Advisory, None),
    ];
    assert_eq!(rows, expected);
    assert_eq!(view.resources().keys().collect::<Vec<_>>(), ["nvidia.com/gpu", "nvidia.com/mig-1g.10gb"]);

    // What the ledger reads of it is what was meant.
    let inventory =
        Inventory { ready: true, driver: view.driver.clone(), devices: view.devices.clone(), refused: vec![] };
    let read = inventory::decode(&inventory::encode(&inventory)).unwrap();
    assert_eq!(read.value, inventory);
    assert!(read.unknown.is_empty(), "{:?}", read.unknown);
}

#[tokio::test]
async fn a_card_is_unhealthy_well_within_a_second_of_its_event_and_healthy_as_soon_as_it_recovers() {
    let mut world = World::new(NODE);
    // The day's settings: nothing may depend on a short probe interval.
    world.settings = Settings { mig_strategy: MigStrategy::Mixed, ..Settings::default() };
    let mut running = world.run().await;
    let started = Instant::now();
    world.write(&format!("{NODE}events: [{{after: 0s, device: 1, kind: xid, code: 79}}]\n"));
    running.until_health("MIG-1", Health::Unhealthy).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    use Health::{Healthy, Unhealthy};
    assert_eq!(running.healths(), [Healthy, Unhealthy, Unhealthy, Healthy]);

    let started = Instant::now();
    world.write(&format!(
        "{NODE}events: [{{after: 0s, device: 1, kind: xid, code: 79}}, {{after: 0s, device: 1, kind: recovered}}]\n"
    ));
    running.until("all healthy", |view| view.devices.iter().all(|device| device.health == Healthy)).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn each_kind_of_fault_lasts_until_the_card_has_recovered() {
    for kind in ["lost", "ecc", "xid, code: 79", "xid, code: 48"] {
        let mut world = World::new(&format!("{NODE}events: [{{after: 0s, device: 0, kind: {kind}}}]\n"));
        let mut running = world.run().await;
        running.until_health("GPU-1", Health::Unhealthy).await;
        // Longer than it would take to recover from what a probe sees no more.
        let healed = running.view.wait_for(|view| view.devices[0].health != Health::Unhealthy);
        assert!(tokio::time::timeout(Duration::from_millis(600), healed).await.is_err(), "{kind}");
        world.write(&format!("{NODE}events: [{{after: 0s, device: 0, kind: recovered}}]\n"));
        running.until_health("GPU-1", Health::Healthy).await;
    }
}

#[tokio::test]
async fn an_application_error_leaves_the_card_alone() {
    let mut world = World::new(NODE);
    let mut running = world.run().await;
    running.view.mark_unchanged();
    world.write(&format!(
        "{NODE}events: [{{after: 0s, device: 0, kind: xid, code: 31}}, {{after: 0s, device: 2, kind: xid, code: 94}}]\n"
    ));
    running.until_health("GPU-3", Health::Suspect).await;
    assert_eq!(running.view.borrow().device("GPU-1").unwrap().health, Health::Healthy);
    let text = packhorse::metrics::exposition(&world.registry).unwrap();
    assert!(text.contains("packhorse_agent_xid_events_total{device=\"GPU-1\",xid=\"31\"} 1"), "{text}");
    assert!(text.contains("packhorse_agent_devices{enforcement=\"mig\"} 2"), "{text}");
    assert!(text.contains("packhorse_agent_devices{enforcement=\"cgroup\"} 0"), "{text}");
    running.until_health("GPU-3", Health::Healthy).await;
}

#[tokio::test]
async fn devices_come_and_go_with_the_file() {
    let mut world = World::new(NODE);
    let mut running = world.run().await;
    let without =
        |part: &str| -> String { NODE.lines().filter(|l| !l.contains(part)).map(|l| format!("{l}\n")).collect() };
    world.write(&without("MIG-2"));
    let view = running.until("MIG-2 gone", |view| view.device("MIG-2").is_none()).await;
    assert_eq!(view.devices.len(), 3);

    world.write(&without("GPU-3").replace("b: 2", "b: 1"));
    running.until_health("GPU-3", Health::Unhealthy).await;
    assert_eq!(running.view.borrow().devices.len(), 4, "a card that is gone stays listed");

    world.write(NODE);
    running.until_health("GPU-3", Health::Healthy).await;
    let more = NODE.replace(
        "links:",
        "- {uuid: GPU-0, model: NVIDIA A100-SXM4-80GB, memory: 81920, pci: \"0000:01:00.0\", minor: 7}\nlinks:",
    );
    world.write(&more);
    let view = running.until("the new card", |view| view.device("GPU-0").is_some()).await;
    let order: Vec<_> = view.devices.iter().map(|device| (&*device.uuid, device.index)).collect();
    assert_eq!(order, [("GPU-0", 0), ("GPU-1", 1), ("MIG-1", 2), ("MIG-2", 2), ("GPU-3", 3)]);
}

#[tokio::test]
async fn a_damaged_file_leaves_the_last_good_state() {
    let mut world = World::new(NODE);
    let mut running = world.run().await;
    running.view.mark_unchanged();
    world.write(&NODE.replace("numa: 0", "nuna: 0").replace("GPU-3", "GPU-4"));
    let deadline = Instant::now() + PATIENCE;
    while !packhorse::metrics::exposition(&world.registry).unwrap().contains("failures_total{reason=\"event\"} 1") {
        assert!(Instant::now() < deadline, "nobody noticed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!running.view.has_changed().unwrap());
    // Health goes on meanwhile, and the file is taken as soon as it is in order.
    world.write(&format!("{NODE}events: [{{after: 0s, device: 2, kind: lost}}]\n"));
    running.until_health("GPU-3", Health::Unhealthy).await;
}

#[tokio::test]
async fn a_missing_file_ends_the_start_or_is_waited_for() {
    let mut world = World::new(NODE);
    std::fs::remove_file(world.path()).unwrap();
    let error = world.devices().await.unwrap_err().to_string();
    assert!(error.contains(world.path().to_str().unwrap()) && error.contains("--fail-on-init-error=false"), "{error}");

    let mut world = World::new("v: 2\ndevices: []\n");
    world.settings.fail_on_init_error = false;
    let mut running = world.run().await;
    let trouble = running.view.borrow().trouble.clone().expect("a reason why there is nothing");
    assert!(trouble.contains("line 1") && trouble.contains("v: 2"), "{trouble}");
    world.write(NODE);
    let view = running.until("the devices", |view| view.devices.len() == 4).await;
    assert_eq!(view.trouble, None);
}
