//! The owner against a driver that answers late, never, or not what was hoped for.

mod published;

use std::sync::Mutex;
use std::sync::mpsc as blocking;

use prometheus_client::registry::Registry;

use super::*;
use crate::agent::backend::{Card, Instance, Usage};
use crate::agent::health::{self, Checks};
use crate::agent::view::MigStrategy;
use crate::gpu::request::MigProfile;

/// Long enough for a busy machine, short enough to fail in.
const PATIENCE: Duration = Duration::from_secs(20);

/// An Xid at which the stub panics.
const PANIC: u64 = 666;

#[derive(Debug)]
struct Stub {
    found: Mutex<Result<Discovery, BackendError>>,
    probes: Mutex<HashMap<String, Probe>>,
    /// Calls that return when the test's end of the channel is dropped.
    hung: Mutex<HashMap<Call, Arc<Mutex<blocking::Receiver<()>>>>>,
    events: Mutex<blocking::Receiver<Event>>,
}

impl Backend for Stub {
    fn discover(&self) -> Result<Discovery, BackendError> {
        self.wait(&Call::Discover);
        self.found.lock().unwrap().clone()
    }

    fn next_event(&self, timeout: Duration) -> Result<Option<Event>, BackendError> {
        let event = self.events.lock().unwrap().recv_timeout(timeout).ok();
        assert!(event.as_ref().is_none_or(|event| event.kind != EventKind::Xid(PANIC)), "as the test wants it");
        Ok(event)
    }

    fn probe(&self, card: &str) -> Probe {
        let answer = self.probes.lock().unwrap().get(card).cloned().unwrap_or(Probe::Well);
        self.wait(&Call::Probe(card.into()));
        answer
    }

    fn usage(&self) -> Result<Usage, BackendError> {
        Ok(Usage::default())
    }
}

impl Stub {
    fn wait(&self, call: &Call) {
        let gate = self.hung.lock().unwrap().get(call).cloned();
        if let Some(gate) = gate {
            gate.lock().unwrap().recv().unwrap_err();
        }
    }
}

struct World {
    stub: Arc<Stub>,
    events: blocking::Sender<Event>,
    registry: Registry,
    metrics: Metrics,
    settings: Settings,
}

struct Running {
    view: ViewReceiver,
    changes: broadcast::Receiver<HealthChange>,
    stop: tokio_util::sync::DropGuard,
}

impl World {
    fn new(cards: Vec<Card>) -> Self {
        let (events, receiver) = blocking::channel();
        let found = Discovery { driver: "580.95.05".to_owned(), cuda: Some((13, 0)), cards, ..Discovery::default() };
        let stub = Arc::new(Stub {
            found: Mutex::new(Ok(found)),
            probes: Mutex::default(),
            hung: Mutex::default(),
            events: Mutex::new(receiver),
        });
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let settings = Settings {
            probe_every: Duration::from_millis(40),
            probe_watched_every: Duration::from_millis(20),
            probe_limit: Duration::from_millis(150),
            discover_every: Duration::from_secs(600),
            retry_every: Duration::from_millis(50),
            health: health::Settings {
                quiet: Duration::from_millis(100),
                quiet_after_fatal: Duration::from_millis(300),
                observation: Duration::from_millis(50),
                ..health::Settings::default()
            },
            ..Settings::default()
        };
        Self { stub, events, registry, metrics, settings }
    }

    async fn devices(&self) -> Result<Devices, StartError> {
        let backend: Arc<dyn Backend> = Arc::<Stub>::clone(&self.stub);
        Devices::start(backend, self.settings.clone(), None, self.metrics.clone()).await
    }

    async fn run(&self) -> Running {
        let devices = self.devices().await.unwrap();
        let stop = CancellationToken::new();
        let (view, changes) = (devices.view(), devices.changes());
        tokio::spawn(devices.run(stop.clone()));
        Running { view, changes, stop: stop.drop_guard() }
    }

    fn happens(&self, subject: Subject, kind: EventKind) {
        self.events.send(Event { subject, kind }).unwrap();
    }

    fn answers(&self, card: &str, probe: Probe) {
        self.stub.probes.lock().unwrap().insert(card.to_owned(), probe);
    }

    fn finds(&self, found: Result<Vec<Card>, BackendError>) {
        let mut state = self.stub.found.lock().unwrap();
        *state = found.map(|cards| Discovery { cards, ..Discovery::default() });
    }

    /// Calls hang until what is returned is dropped.
    fn hang(&self, call: Call) -> blocking::Sender<()> {
        let (held, gate) = blocking::channel();
        self.stub.hung.lock().unwrap().insert(call, Arc::new(Mutex::new(gate)));
        held
    }

    fn series(&self, name: &str) -> String {
        let text = crate::metrics::exposition(&self.registry).unwrap();
        text.lines().filter(|line| line.starts_with(name)).collect::<Vec<_>>().join("\n")
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

    fn health(&self, device: &str) -> Health {
        self.view.borrow().device(device).unwrap().health
    }
}

fn card(index: u32) -> Card {
    Card {
        uuid: format!("GPU-{index}").into(),
        index,
        model: "NVIDIA A100-SXM4-80GB".into(),
        memory: 81920,
        pci: format!("0000:{index:02x}:00.0").into(),
        numa: None,
        minor: index,
        compute: (8, 0),
        mig_capable: true,
        mig_mode: false,
        instances: Vec::new(),
        links: Vec::new(),
        clique: None,
    }
}

fn instance(uuid: &str, profile: &str, start: u8, size: u8) -> Instance {
    Instance {
        uuid: uuid.into(),
        profile: MigProfile(profile.into()),
        memory: 9728,
        start,
        size,
        ids: None,
        attributes: None,
    }
}

fn cut(index: u32, instances: Vec<Instance>) -> Card {
    Card { mig_mode: true, instances, ..card(index) }
}

fn on(card: &str) -> Subject {
    Subject::Card(card.into())
}

fn lost() -> Probe {
    Probe::Lost("GPU is lost".to_owned())
}

#[tokio::test]
async fn a_failed_card_is_published_and_told_and_comes_back() {
    let world = World::new(vec![card(0), card(1)]);
    let mut running = world.run().await;
    world.answers("GPU-0", lost());
    world.happens(on("GPU-0"), EventKind::Xid(79));
    running.until_health("GPU-0", Health::Unhealthy).await;
    assert_eq!(running.health("GPU-1"), Health::Healthy);
    let change = running.changes.recv().await.unwrap();
    assert_eq!((&*change.device, change.from, change.to), ("GPU-0", Health::Healthy, Health::Unhealthy));
    assert!(change.cause.unwrap().contains("Xid 79"));
    let series = world.series("packhorse_agent_device_health");
    assert!(series.contains("{device=\"GPU-0\",health=\"unhealthy\"} 1"), "{series}");
    assert!(series.contains("{device=\"GPU-0\",health=\"healthy\"} 0"), "{series}");
    let xids = world.series("packhorse_agent_xid_events_total");
    assert_eq!(xids, "packhorse_agent_xid_events_total{device=\"GPU-0\",xid=\"79\"} 1");

    world.answers("GPU-0", Probe::Well);
    running.until_health("GPU-0", Health::Recovering).await;
    running.until_health("GPU-0", Health::Healthy).await;
}

#[tokio::test]
async fn an_error_of_a_program_is_counted_and_changes_nothing() {
    let world = World::new(vec![card(0)]);
    let mut running = world.run().await;
    running.view.mark_unchanged();
    for xid in [13, 31, 43, 45, 68, 109] {
        world.happens(on("GPU-0"), EventKind::Xid(xid));
    }
    // Events are heard in order: when this one shows, the others did not.
    world.happens(on("GPU-0"), EventKind::Xid(94));
    running.view.changed().await.unwrap();
    assert_eq!(running.health("GPU-0"), Health::Suspect);
    assert_eq!(running.changes.recv().await.unwrap().to, Health::Suspect);
    assert!(world.series("packhorse_agent_xid_events_total").contains("xid=\"13\"} 1"));
}

#[tokio::test]
async fn a_card_that_sends_no_event_is_found_by_its_probes() {
    let world = World::new(vec![card(0), card(1)]);
    let mut running = world.run().await;
    world.answers("GPU-1", Probe::Ill("a row remapping is pending".to_owned()));
    running.until_health("GPU-1", Health::Suspect).await;
    running.until_health("GPU-1", Health::Unhealthy).await;
    assert_eq!(running.health("GPU-0"), Health::Healthy);
}

#[tokio::test]
async fn a_broken_card_is_never_published_as_healthy() {
    let world = World::new(vec![card(0), card(1)]);
    world.answers("GPU-1", lost());
    let devices = world.devices().await.unwrap();
    let view = Arc::clone(&devices.view().borrow());
    assert_eq!(view.device("GPU-0").unwrap().health, Health::Healthy);
    assert_eq!(view.device("GPU-1").unwrap().health, Health::Unhealthy);
}

#[tokio::test]
async fn a_card_fails_with_all_its_instances_and_an_instance_alone() {
    let world = World::new(vec![cut(0, vec![instance("MIG-a", "1g.10gb", 0, 1), instance("MIG-b", "1g.10gb", 1, 1)])]);
    let mut running = world.run().await;
    world.happens(Subject::Instance("MIG-b".into()), EventKind::Xid(95));
    running.until_health("MIG-b", Health::Unhealthy).await;
    assert_eq!(running.health("MIG-a"), Health::Healthy);
    running.until_health("MIG-b", Health::Healthy).await;

    world.happens(on("GPU-0"), EventKind::DoubleBitEcc);
    let both = |view: &NodeView| view.devices.iter().all(|device| device.health == Health::Unhealthy);
    running.until("both unhealthy", both).await;
    world.happens(on("GPU-0"), EventKind::Recovered);
    running.until("both healthy", |view| view.devices.iter().all(|device| device.health == Health::Healthy)).await;
}

#[tokio::test]
async fn an_event_of_no_card_takes_out_only_those_that_are_not_well() {
    let mut world = World::new(vec![card(0), card(1), card(2)]);
    // Nothing but the event makes anybody look.
    world.settings.probe_every = Duration::from_secs(600);
    let mut running = world.run().await;
    world.answers("GPU-1", lost());
    world.happens(Subject::Node, EventKind::Xid(79));
    running.until_health("GPU-1", Health::Unhealthy).await;
    assert_eq!((running.health("GPU-0"), running.health("GPU-2")), (Health::Healthy, Health::Healthy));

    world.answers("GPU-2", lost());
    world.happens(on("GPU-9"), EventKind::Lost);
    running.until_health("GPU-2", Health::Unhealthy).await;
    assert_eq!(running.health("GPU-0"), Health::Healthy, "a stranger's fault is held against nobody");
}

#[tokio::test]
async fn a_card_whose_probe_hangs_is_ill_and_holds_up_no_other() {
    let world = World::new(vec![card(0), card(1)]);
    let mut running = world.run().await;
    let held = world.hang(Call::Probe("GPU-0".into()));
    running.until_health("GPU-0", Health::Unhealthy).await;
    world.happens(on("GPU-1"), EventKind::Lost);
    running.until_health("GPU-1", Health::Unhealthy).await;
    running.until_health("GPU-1", Health::Healthy).await;
    assert_eq!(running.health("GPU-0"), Health::Unhealthy);
    assert!(world.series("packhorse_agent_backend_failures_total").contains("{reason=\"probe\"} "));
    drop(held);
    running.until_health("GPU-0", Health::Healthy).await;
}

#[tokio::test]
async fn a_discovery_that_hangs_keeps_no_event_waiting() {
    let world = World::new(vec![card(0)]);
    let mut running = world.run().await;
    let held = world.hang(Call::Discover);
    world.happens(Subject::Node, EventKind::Changed);
    world.happens(on("GPU-0"), EventKind::Lost);
    running.until_health("GPU-0", Health::Unhealthy).await;
    world.finds(Ok(vec![card(0), card(1)]));
    drop(held);
    running.until("the new card", |view| view.device("GPU-1").is_some()).await;
}

#[tokio::test]
async fn what_a_probe_saw_before_the_recovery_does_not_count() {
    let mut world = World::new(vec![card(0)]);
    world.settings.probe_limit = PATIENCE;
    // No other way back within the test.
    world.settings.health.quiet = Duration::from_secs(600);
    let mut running = world.run().await;
    world.answers("GPU-0", lost());
    let held = world.hang(Call::Probe("GPU-0".into()));
    // The probe under way has the old answer; it is given after the event.
    world.happens(on("GPU-0"), EventKind::Lost);
    running.until_health("GPU-0", Health::Unhealthy).await;
    world.happens(on("GPU-0"), EventKind::Recovered);
    running.until_health("GPU-0", Health::Recovering).await;
    world.answers("GPU-0", Probe::Well);
    drop(held);
    running.until_health("GPU-0", Health::Healthy).await;
}

#[tokio::test]
async fn a_card_that_went_stays_listed_and_an_instance_does_not() {
    let all = || vec![card(0), cut(1, vec![instance("MIG-a", "1g.10gb", 0, 1), instance("MIG-b", "1g.10gb", 1, 1)])];
    let world = World::new(all());
    let mut running = world.run().await;
    world.finds(Ok(vec![cut(1, vec![instance("MIG-a", "1g.10gb", 0, 1)])]));
    world.happens(Subject::Node, EventKind::Changed);
    let view = running.until("MIG-b gone", |view| view.device("MIG-b").is_none()).await;
    assert_eq!(view.device("GPU-0").unwrap().health, Health::Unhealthy);
    assert_eq!(view.device("MIG-a").unwrap().health, Health::Healthy);
    assert!(!world.series("packhorse_agent_device_health").contains("MIG-b"));

    world.finds(Ok(Vec::new()));
    world.happens(Subject::Node, EventKind::Changed);
    let view = running.until("trouble", |view| view.trouble.is_some()).await;
    assert_eq!(view.device("MIG-a").unwrap().health, Health::Unhealthy, "it goes with its card, and stays with it");

    world.finds(Ok(all()));
    world.happens(Subject::Node, EventKind::Changed);
    let well = |view: &NodeView| view.devices.len() == 3 && view.devices.iter().all(|d| d.health == Health::Healthy);
    assert_eq!(running.until("all well", well).await.trouble, None);
}

#[tokio::test]
async fn a_card_changes_into_mig_mode_and_back() {
    let world = World::new(vec![card(0)]);
    let mut running = world.run().await;
    world.finds(Ok(vec![cut(0, vec![instance("MIG-a", "1g.10gb", 0, 1)])]));
    world.happens(Subject::Node, EventKind::Changed);
    running.until("the instance alone", |view| view.device("MIG-a").is_some() && view.devices.len() == 1).await;
    world.finds(Ok(vec![card(0)]));
    world.happens(Subject::Node, EventKind::Changed);
    running.until("the card alone", |view| view.device("GPU-0").is_some() && view.devices.len() == 1).await;
}

#[tokio::test]
async fn a_failed_discovery_keeps_what_was_known_and_is_repeated() {
    let world = World::new(vec![card(0)]);
    let mut running = world.run().await;
    let failed = |reason: &str| BackendError::Failed {
        call: "nvmlDeviceGetCount_v2".to_owned(),
        device: None,
        reason: reason.to_owned(),
    };
    world.finds(Err(failed("Unknown Error")));
    world.happens(Subject::Node, EventKind::Changed);
    world.happens(on("GPU-0"), EventKind::Lost);
    running.until_health("GPU-0", Health::Unhealthy).await;
    running.until_health("GPU-0", Health::Healthy).await;
    assert_eq!(running.view.borrow().trouble, None);
    world.finds(Ok(vec![card(0), card(1)]));
    running.until("asked again without being told", |view| view.devices.len() == 2).await;
    assert!(world.series("packhorse_agent_backend_failures_total").contains("{reason=\"discovery\"}"));
}

fn absent() -> BackendError {
    BackendError::Absent { reason: "libnvidia-ml.so.1 is missing".to_owned(), remedy: "install the driver".to_owned() }
}

#[tokio::test]
async fn without_a_driver_the_agent_ends_or_waits_for_one() {
    let mut world = World::new(Vec::new());
    world.finds(Err(absent()));
    let error = world.devices().await.unwrap_err().to_string();
    for part in ["libnvidia-ml.so.1", "install the driver", "--fail-on-init-error=false"] {
        assert!(error.contains(part), "{error}");
    }

    world.settings.fail_on_init_error = false;
    let mut running = world.run().await;
    let trouble = running.view.borrow().trouble.clone().unwrap();
    assert!(trouble.contains("libnvidia-ml.so.1"), "{trouble}");
    world.finds(Ok(vec![card(0)]));
    let view = running.until("the card", |view| !view.devices.is_empty()).await;
    assert_eq!(view.trouble, None);

    world.finds(Err(absent()));
    world.happens(Subject::Node, EventKind::Changed);
    let view = running.until("the driver gone", |view| view.trouble.is_some()).await;
    assert_eq!(view.device("GPU-0").unwrap().health, Health::Unhealthy);
}

#[tokio::test]
async fn a_driver_that_does_not_answer_at_the_start_is_no_deadlock() {
    let mut world = World::new(vec![card(0)]);
    let held = world.hang(Call::Discover);
    assert!(matches!(world.devices().await, Err(StartError::Late(_))));
    world.settings.fail_on_init_error = false;
    let mut running = world.run().await;
    drop(held);
    running.until("the card", |view| view.device("GPU-0").is_some()).await;
}

#[tokio::test]
async fn nothing_is_published_while_nothing_changes() {
    let world = World::new(vec![card(0)]);
    let mut running = world.run().await;
    running.view.mark_unchanged();
    for _ in 0..3 {
        world.happens(Subject::Node, EventKind::Changed);
        world.happens(on("GPU-0"), EventKind::Xid(13));
    }
    let quiet = tokio::time::timeout(Duration::from_millis(300), running.view.changed()).await;
    assert!(quiet.is_err(), "{:?}", running.view.borrow());
    assert_eq!(world.series("packhorse_agent_xid_events_total").lines().count(), 1, "all of that was heard");
}

#[tokio::test]
async fn with_all_checks_disabled_devices_are_healthy_without_being_asked() {
    let mut world = World::new(vec![card(0)]);
    world.settings.checks = Checks::parse("all", "").unwrap();
    world.answers("GPU-0", lost());
    let running = world.run().await;
    assert_eq!(running.health("GPU-0"), Health::Healthy);
}

#[tokio::test]
async fn the_thread_of_events_ends_with_the_owner() {
    let world = World::new(vec![card(0)]);
    let running = world.run().await;
    drop(running.stop);
    let deadline = Instant::now() + PATIENCE;
    // The world's handle, and one more as long as somebody asks.
    while Arc::strong_count(&world.stub) > 1 {
        assert!(Instant::now() < deadline, "{}", Arc::strong_count(&world.stub));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_panic_in_the_wait_for_events_is_a_failure_like_another() {
    let world = World::new(vec![card(0)]);
    let mut running = world.run().await;
    world.happens(Subject::Node, EventKind::Xid(PANIC));
    world.happens(on("GPU-0"), EventKind::Lost);
    running.until_health("GPU-0", Health::Unhealthy).await;
    assert!(world.series("packhorse_agent_backend_failures_total").contains("{reason=\"event\"} 1"));
}
