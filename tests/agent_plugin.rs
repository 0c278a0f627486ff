//! The device plugins against a kubelet's device manager over real sockets: registration in all its breaks, lists, answers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::needless_pass_by_value,
    reason = "helpers of tests panic as the tests do, and take values written in place"
)]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

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
        let metrics = Metrics::new(&mut prometheus_client::registry::Registry::default());
        let starter: Arc<dyn Starter> = Arc::clone(&self.check) as _;
        let plugins = Plugins::new(settings, self.view.subscribe(), Arc::clone(&self.pods), starter, metrics);
        let (plugins, stop) = (Arc::new(plugins), CancellationToken::new());
        let task = tokio::spawn(Arc::clone(&plugins).run(stop.clone()));
        Agent { plugins, stop, task }
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

#[tokio::test(flavor = "multi_thread")]
async fn the_kubelet_knows_every_slot_of_every_resource() {
    let node = Node::new(vec![device("GPU-1", 10), device("GPU-2", 10), instance("MIG-1"), instance("MIG-2")]);
    let agent = node.agent();
    assert!(!*agent.plugins.registered().borrow(), "there is no kubelet yet");
    let kubelet = node.kubelet(1);
    agent.registered().await;
    ready(&kubelet, 20).await;
    assert_eq!(kubelet.counts(), BTreeMap::from([(GPU.to_owned(), all(20)), (MIG.to_owned(), all(2))]));
    assert_eq!(node.sockets().len(), 2, "one socket a resource");

    kubelet.admit(one("a")).await.unwrap();
    kubelet.start_container("a", "main").await.unwrap();
    let slots = kubelet.slots("a", "main", GPU);
    assert_eq!(*node.check.seen.lock().unwrap(), [slots.iter().cloned().collect::<BTreeSet<_>>()]);
    agent.stop().await;
    assert!(node.sockets().is_empty());
    eventually("the kubelet notices", || kubelet.counts()[GPU].allocatable == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_are_registered_again_after_every_restart_of_the_kubelet() {
    let node = Node::new(vec![device("GPU-1", 10), device("GPU-2", 10), instance("MIG-1")]);
    let agent = node.agent();
    let (mut pods, mut running) = (Vec::new(), BTreeSet::new());
    let mut longest = Duration::ZERO;
    for restart in 0..20 {
        let kubelet = node.kubelet(restart);
        let failed = kubelet.adopt(pods.clone(), running.clone()).await;
        assert_eq!(failed, [], "running containers stay");
        let start = Instant::now();
        ready(&kubelet, 20).await;
        eventually("instances too", || kubelet.counts().get(MIG) == Some(&all(1)) && kubelet.is_idle()).await;
        longest = longest.max(start.elapsed());
        if pods.len() < 20 {
            let uid = format!("pod{restart}");
            kubelet.admit(one(&uid)).await.unwrap();
            kubelet.start_container(&uid, "main").await.unwrap();
            pods.push(one(&uid));
            running.insert((uid, "main".to_owned()));
        }
        let handed_out: Vec<_> = pods.iter().flat_map(|pod| kubelet.slots(&pod.uid, "main", GPU)).collect();
        assert_eq!(handed_out.len(), pods.len());
        assert_eq!(handed_out.iter().collect::<HashSet<_>>().len(), pods.len(), "no slot twice: {handed_out:?}");
        kubelet.stop().await;
    }
    println!("longest from the kubelet's start to all slots allocatable: {longest:?}");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_a_restarting_kubelet_admits_before_its_plugins_is_failed_by_the_kubelet() {
    let node = Node::new(vec![device("GPU-1", 10)]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 10).await;
    for uid in ["runs", "waits"] {
        kubelet.admit(one(uid)).await.unwrap();
    }
    kubelet.start_container("runs", "main").await.unwrap();
    kubelet.stop().await;
    agent.stop().await;
    let kubelet = node.kubelet(2);
    let failed =
        kubelet.adopt(vec![one("runs"), one("waits")], BTreeSet::from([("runs".to_owned(), "main".to_owned())])).await;
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].0 == "waits" && failed[0].1.contains("no healthy devices present"), "{failed:?}");
    assert_eq!(kubelet.start_container("runs", "main").await.unwrap().envs["NVIDIA_VISIBLE_DEVICES"], "void");
    assert_eq!(node.check.seen.lock().unwrap().len(), 1, "an endpoint that is not back is not asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_socket_is_replaced_and_the_node_keeps_its_slots_meanwhile() {
    let node = Node::new(vec![device("GPU-1", 10)]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 10).await;
    for round in 0..5 {
        let before = node.sockets();
        for socket in &before {
            std::fs::remove_file(socket).unwrap();
        }
        eventually("another socket is there", || {
            assert_eq!(kubelet.counts()[GPU], all(10), "no slot is lost, not for a moment");
            node.sockets().len() == 1 && node.sockets() != before
        })
        .await;
        agent.registered().await;
        let uid = format!("pod{round}");
        kubelet.admit(one(&uid)).await.unwrap();
        kubelet.start_container(&uid, "main").await.unwrap();
    }
    assert_eq!(kubelet.counts()[GPU], all(10));
    // Lists reach the kubelet as before.
    node.view.send_replace(view(vec![Device { health: Health::Unhealthy, ..device("GPU-1", 10) }]));
    eventually("the failed card is told", || kubelet.counts()[GPU].allocatable == 0).await;
    node.view.send_replace(view(vec![device("GPU-1", 10)]));
    ready(&kubelet, 10).await;
    kubelet.stop().await;
    let kubelet = node.kubelet(2);
    ready(&kubelet, 10).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn during_a_rolling_update_the_new_process_ends_up_registered() {
    let node = Node::new(vec![device("GPU-1", 10), instance("MIG-1")]);
    let kubelet = node.kubelet(1);
    let mut agent = node.agent();
    ready(&kubelet, 10).await;
    for round in 0..5 {
        let next = node.agent();
        next.registered().await;
        agent.stop().await;
        agent = next;
        // The kubelet has disconnected the new one together with the old.
        eventually("registered again", || {
            *agent.plugins.registered().borrow() && kubelet.counts().get(GPU) == Some(&all(10))
        })
        .await;
        let uid = format!("pod{round}");
        kubelet.admit(one(&uid)).await.unwrap();
        kubelet.start_container(&uid, "main").await.unwrap();
    }
    assert_eq!(node.sockets().len(), 2, "only the last process' sockets are left");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_leaves_nothing_behind_that_stays() {
    let node = Node::new(vec![device("GPU-1", 10)]);
    let kubelet = node.kubelet(1);
    let plugins = node.directory.path().join("device-plugins");
    let stale = plugins.join("packhorse-gpu-1-00000000.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let aged = std::process::Command::new("touch").args(["-d", "1 minute ago"]).arg(&stale).status().unwrap();
    assert!(aged.success());
    let agent = node.agent();
    ready(&kubelet, 10).await;
    assert!(!stale.exists());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_device_takes_all_its_slots_along_and_brings_them_back() {
    let node = Node::new(vec![device("GPU-1", 10), device("GPU-2", 10)]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 20).await;
    for health in [Health::Unhealthy, Health::Suspect, Health::Recovering] {
        let start = Instant::now();
        node.view.send_replace(view(vec![Device { health, ..device("GPU-1", 10) }, device("GPU-2", 10)]));
        let expected = Count { capacity: 20, allocatable: 10 };
        eventually("only the healthy card takes pods", || kubelet.counts()[GPU] == expected).await;
        println!("from the view to the kubelet: {:?}", start.elapsed());
        for number in 0..3 {
            let uid = format!("{health:?}{number}");
            kubelet.admit(one(&uid)).await.unwrap();
            assert_eq!(slots::device(&kubelet.slots(&uid, "main", GPU)[0]), Some("GPU-2"));
        }
    }
    node.view.send_replace(view(vec![device("GPU-1", 10), device("GPU-2", 10)]));
    ready(&kubelet, 20).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_go_are_unhealthy_before_they_are_withdrawn_and_new_resources_appear() {
    let node = Node::new(vec![device("GPU-1", 2), device("GPU-2", 2)]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 4).await;
    node.view.send_replace(view(vec![device("GPU-1", 2), instance("MIG-1"), instance("MIG-2")]));
    let expected = BTreeMap::from([(GPU.to_owned(), Count { capacity: 4, allocatable: 2 }), (MIG.to_owned(), all(2))]);
    eventually("the instances are there", || kubelet.counts() == expected).await;
    agent.registered().await;
    // Slots of the device that is going, given out to an init container, may still be taken over by its pod.
    assert_eq!(kubelet.crash(), None);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_strategy_s_answer_reaches_the_runtime() {
    let dev = tempfile::tempdir().unwrap();
    std::fs::create_dir(dev.path().join("dev")).unwrap();
    std::fs::write(dev.path().join("dev/nvidiactl"), "").unwrap();
    for (strategy, form, by_field, by_annotation) in [
        (Strategy::Envvar, Form::Full, 1, 0),
        (Strategy::Envvar, Form::Env, 1, 0),
        (Strategy::Envvar, Form::None, 0, 0),
        (Strategy::VolumeMounts, Form::Full, 1, 0),
        (Strategy::CdiCri, Form::Full, 1, 0),
        (Strategy::CdiAnnotations, Form::Full, 0, 1),
    ] {
        let node = Node::new(vec![device("GPU-1", 4), device("GPU-2", 4)]);
        node.specifications.set_form(form);
        let kubelet = node.kubelet(1);
        let agent = node.agent_that(|settings| {
            settings.reply = ReplySettings {
                strategies: vec![strategy],
                pass_device_specs: true,
                own_dev_root: dev.path().to_owned(),
                ..ReplySettings::default()
            };
        });
        ready(&kubelet, 8).await;
        kubelet.admit(pod("a", &[("one", Phase::App, 1), ("two", Phase::App, 2)])).await.unwrap();
        let mut names = HashSet::new();
        for container in ["one", "two"] {
            let options = kubelet.start_container("a", container).await.unwrap();
            assert_eq!(options.envs, BTreeMap::from([("NVIDIA_VISIBLE_DEVICES".to_owned(), "void".to_owned())]));
            assert_eq!(options.cdi_devices.len(), by_field, "{strategy:?} {form:?}");
            assert_eq!(options.annotations.len(), by_annotation, "{strategy:?} {form:?}");
            assert!(options.annotations.keys().all(|key| key.starts_with("cdi.k8s.io/packhorse_")));
            assert_eq!(options.devices.len(), 1);
            assert_eq!(options.devices[0].host_path, "/dev/nvidiactl");
            assert_eq!(kubelet.start_container("a", container).await.unwrap(), options, "the same at every start");
            names.extend(options.cdi_devices.into_iter().chain(options.annotations.into_values()));
        }
        assert!(names.iter().all(|name| DeviceName::from_qualified(name).is_some()));
        assert_eq!(names.len(), if form == Form::None { 0 } else { 2 }, "one name a container");
        agent.stop().await;
        kubelet.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn init_and_app_containers_that_share_slots_have_names_of_their_own() {
    let node = Node::new(vec![device("GPU-1", 4)]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 4).await;
    let phases =
        [("init", Phase::Init, 1), ("side", Phase::Sidecar, 1), ("late", Phase::Init, 2), ("main", Phase::App, 1)];
    kubelet.admit(pod("a", &phases)).await.unwrap();
    let slots = |container| kubelet.slots("a", container, GPU);
    assert_eq!(slots("init"), slots("side"), "the sidecar takes over what the init container had");
    assert!(!slots("late").contains(&slots("side")[0]));
    assert!(slots("late").contains(&slots("main")[0]));
    let mut names = HashSet::new();
    for (container, ..) in phases {
        names.extend(kubelet.start_container("a", container).await.unwrap().cdi_devices);
    }
    assert_eq!(names.len(), 4);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_what_the_pod_s_event_says_and_the_next_try_may_succeed() {
    let node = Node::new(vec![device("GPU-1", 4)]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 4).await;
    kubelet.admit(one("a")).await.unwrap();
    let record = node.directory.path().join("device-plugins/kubelet_internal_checkpoint");
    std::fs::remove_file(&record).unwrap();
    *node.check.refusal.lock().unwrap() = Some("packhorse: pod team/pod-a has no allocation".to_owned());
    let error = kubelet.start_container("a", "main").await.unwrap_err();
    assert_eq!(
        error,
        "device plugin PreStartContainer rpc failed with err: rpc error: code = FailedPrecondition desc = \
         packhorse: pod team/pod-a has no allocation"
    );
    eventually("the kubelet writes its checkpoint anew, for it may be what the check stumbled over", || {
        std::fs::read_to_string(&record).is_ok_and(|text| text.contains(r#""PodUID":"a""#))
    })
    .await;
    *node.check.refusal.lock().unwrap() = None;
    kubelet.start_container("a", "main").await.unwrap();

    *node.check.gate.lock().unwrap() = Some(Arc::default());
    let error = kubelet.start_container("a", "main").await.unwrap_err();
    assert!(error.contains("could not be verified within 2 s"), "{error}");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_in_flight_is_answered_before_the_plugin_goes() {
    let node = Node::new(vec![device("GPU-1", 4)]);
    let kubelet = Arc::new(node.kubelet(1));
    let agent = node.agent();
    ready(&kubelet, 4).await;
    kubelet.admit(one("a")).await.unwrap();
    let gate = Arc::new(Notify::new());
    *node.check.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let starting = tokio::spawn({
        let kubelet = Arc::clone(&kubelet);
        async move { kubelet.start_container("a", "main").await }
    });
    eventually("the check has begun", || node.check.begun.load(Ordering::SeqCst) == 1).await;
    let stopping = tokio::spawn(agent.stop());
    tokio::task::yield_now().await;
    assert_eq!(node.sockets().len(), 1, "the socket goes last");
    gate.notify_one();
    starting.await.unwrap().unwrap();
    stopping.await.unwrap();
    assert!(node.sockets().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_plugin_of_another_vendor_s_slots_is_refused_by_name() {
    let node = Node::new(vec![device("GPU-1", 4)]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 4).await;
    let error = allocate(&node, &["GPU-1"]).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    assert!(error.message().contains("\"GPU-1\" is not a slot of Packhorse"), "{error}");
    assert_eq!(allocate(&node, &["GPU-gone::3"]).await.unwrap(), 1, "a slot of a device that is gone");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_handed_out_again_has_lost_its_old_specification() {
    let node = Node::new(vec![device("GPU-1", 1)]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 1).await;
    kubelet.admit(one("a")).await.unwrap();
    let old = kubelet.start_container("a", "main").await.unwrap().cdi_devices;
    let written = specification::Container {
        name: DeviceName::from_qualified(&old[0]).unwrap(),
        pod_uid: "a".into(),
        container: "main".into(),
        slots: kubelet.slots("a", "main", GPU),
        devices: Vec::new(),
    };
    node.specifications.write(&written).unwrap();
    assert_eq!(node.specifications.on_disk().unwrap().len(), 1);
    kubelet.remove("a");
    kubelet.admit(one("b")).await.unwrap();
    assert!(node.specifications.on_disk().unwrap().is_empty());
    assert_ne!(kubelet.start_container("b", "main").await.unwrap().cdi_devices, old);
    agent.stop().await;
}

/// Past the kubelet; the number of containers answered.
async fn allocate(node: &Node, slots: &[&str]) -> Result<usize, tonic::Status> {
    use packhorse::kubelet_api::device_plugin as api;
    let path = node.sockets().into_iter().next().unwrap();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    let mut client = api::device_plugin_client::DevicePluginClient::new(channel);
    let devices_ids = slots.iter().map(|slot| (*slot).to_owned()).collect();
    let request = api::AllocateRequest { container_requests: vec![api::ContainerAllocateRequest { devices_ids }] };
    client.allocate(request).await.map(|answer| answer.into_inner().container_responses.len())
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
        origin: Origin::Packhorse,
        request: Ok(PodRequest::default()),
        allocation: Some(Ok(Allocation { containers: devices.iter().map(container).collect() })),
        totals: (0, 0),
        slots: pod.containers.iter().map(slots).collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_ordinary_case_slots_name_the_devices_of_the_allocation() {
    let cards = ["GPU-1", "GPU-2", "GPU-3", "GPU-4"];
    let node = Node::new(cards.iter().map(|uuid| device(uuid, 10)).collect());
    node.pods.replace([]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 40).await;
    let mut expected = Vec::new();
    for number in 0..12 {
        let uid = format!("pod{number}");
        let (one, two) = (cards[number % 4], cards[(number * 3 + 1) % 4]);
        let pod = pod(&uid, &[("init", Phase::Init, 1), ("side", Phase::Sidecar, 1), ("main", Phase::App, 1)]);
        node.pods.apply(bound(&pod, &[("init", &[one]), ("side", &[one]), ("main", &[two])]));
        expected.push((pod, one, two));
    }
    for (pod, one, two) in &expected {
        kubelet.admit(pod.clone()).await.unwrap();
        for (container, device) in [("init", one), ("side", one), ("main", two)] {
            let slots = kubelet.slots(&pod.uid, container, GPU);
            assert_eq!(slots::device(&slots[0]), Some(*device), "{} {container}", pod.uid);
        }
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_come_and_go_side_by_side_and_no_slot_is_ever_in_two() {
    let node = Node::new(vec![device("GPU-1", 10), device("GPU-2", 10)]);
    let kubelet = Arc::new(node.kubelet(7));
    let agent = node.agent();
    ready(&kubelet, 20).await;
    let in_use: Arc<Mutex<HashSet<String>>> = Arc::default();
    let room = Arc::new(tokio::sync::Semaphore::new(9));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..300 {
        let (kubelet, in_use, room) = (Arc::clone(&kubelet), Arc::clone(&in_use), Arc::clone(&room));
        tasks.spawn(async move {
            let _room = room.acquire_owned().await.unwrap();
            let uid = format!("pod{number}");
            let phases = [("init", Phase::Init, 1), ("main", Phase::App, 2)];
            kubelet.admit(pod(&uid, &phases)).await.unwrap();
            let slots: HashSet<String> =
                phases.iter().flat_map(|(container, ..)| kubelet.slots(&uid, container, GPU)).collect();
            assert_eq!(slots.len(), 2, "the init container's slot is one of the app's");
            for slot in &slots {
                assert!(in_use.lock().unwrap().insert(slot.clone()), "{slot} is in use");
            }
            for (container, ..) in phases {
                kubelet.start_container(&uid, container).await.unwrap();
            }
            in_use.lock().unwrap().retain(|slot| !slots.contains(slot));
            kubelet.remove(&uid);
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    assert_eq!(node.check.seen.lock().unwrap().len(), 600);
    for method in ["GetPreferredAllocation", "Allocate", "PreStartContainer"] {
        let calls = kubelet.calls();
        let mut took: Vec<_> = calls.iter().filter(|call| call.method == method).map(|call| call.took).collect();
        took.sort();
        println!(
            "{method}: {} calls, p50 {:?}, p99 {:?}",
            took.len(),
            took[took.len() / 2],
            took[took.len() * 99 / 100]
        );
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubelet_s_own_record_has_every_container_and_its_answer() {
    let node = Node::new(vec![device("GPU-1", 4)]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 4).await;
    kubelet.admit(pod("a", &[("init", Phase::Init, 1), ("main", Phase::App, 2)])).await.unwrap();
    let record = read(&node.directory.path().join("device-plugins/kubelet_internal_checkpoint"));
    let entries = record["Data"]["PodDeviceEntries"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    for entry in entries {
        assert_eq!(entry["PodUID"], "a");
        assert_eq!(entry["ResourceName"], GPU);
        let slots = entry["DeviceIDs"]["-1"].as_array().unwrap().len();
        assert_eq!(slots, if entry["ContainerName"] == "init" { 1 } else { 2 });
        assert!(entry["AllocResp"].as_str().is_some_and(|answer| !answer.is_empty()));
    }
    assert_eq!(record["Data"]["RegisteredDevices"][GPU].as_array().unwrap().len(), 4);
    assert!(record["Checksum"].is_u64());
    agent.stop().await;
}

fn read(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
