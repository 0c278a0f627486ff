//! A cluster in one process, to see what Packhorse does without owning a GPU: the real webhook, ledger and extender over real HTTP, and
//! for each node the real agent over a topology file, behind real Unix sockets; around them an API server, kubelets, container
//! runtimes, users and a scheduling loop that are stand-ins.
//!
//! Called by `packhorse demo` and by tests. Listens on 127.0.0.1 and on sockets in a temporary directory, and needs no rights. Whatever goes wrong on purpose (cut
//! watches, lost answers, failing GPUs) must not show in the result: a checker judges every state from the API objects alone, and every
//! container by what its runtime was told.
//!
//! By seed are determined: which pods are offered and when, which GPUs fail or are cordoned and when. Not determined: what the
//! parts, which run side by side in real time, make of it.

pub mod api_server;
mod board;
pub mod checker;
mod fleet;
mod frame;
mod http_client;
mod incidents;
mod intro;
mod kubelet;
mod latency;
mod machine;
mod news;
pub mod node_kubelet;
mod observer;
mod parts;
mod report;
mod runtime;
mod sabotage;
mod scheduler;
mod scratch;
mod terminal;
mod users;
pub mod workload;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

pub use latency::Percentiles;
pub use report::{Report, Shares};
pub use sabotage::Sabotage;
pub use terminal::Display;

use api_server::{ApiServer, Match, Rates};
use board::Board;
use fleet::SimNode;
use http_client::HttpClient;
use kubelet::Machines;
use machine::Machine;
use news::News;
use observer::Observer;
use parts::Parts;
use scheduler::{Scheduler, Wiring};
use scratch::Scratch;
use terminal::Terminal;
use users::Offers;
use workload::Workload;

/// What to show.
#[derive(Debug, Clone)]
pub struct Options {
    /// Simulated nodes, at least 1; from 3 on the last is in MIG mode.
    pub nodes: usize,
    /// Cards per node, at least 1.
    pub gpus_per_node: usize,
    /// `None`: until stopped.
    pub duration: Option<Duration>,
    /// For everything random.
    pub seed: u64,
    /// What goes wrong in the API server.
    pub faults: Rates,
    /// Bindings that take effect without an answer, 0 to 1.
    pub lost_bindings: f64,
    /// Where it is shown.
    pub display: Display,
    /// What is broken on purpose: the checker must say so.
    pub sabotage: Option<Sabotage>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 6,
            gpus_per_node: 4,
            duration: None,
            seed: 1,
            faults: mild_faults(),
            lost_bindings: 0.01,
            display: Display::Auto,
            sabotage: None,
        }
    }
}

/// What the demo does to its own watches and answers unless told otherwise.
fn mild_faults() -> Rates {
    Rates {
        cut_watch: 0.003,
        delay_event: 0.02,
        event_delay: Duration::from_millis(60),
        expire_resume: 0.05,
        slow_answer: 0.01,
        answer_delay: Duration::from_millis(40),
        ..Rates::default()
    }
}

/// Why the demo cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A part does not start.
    #[error("the demo cannot start: {0}")]
    Start(String),
    /// A task that must not end did: a defect.
    #[error("a part of the demo ended: {0}")]
    Ended(String),
    /// Standard output is closed.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] std::io::Error),
}

/// How often the table is redrawn.
const FRAME: Duration = Duration::from_millis(150);
/// How long binds in flight may take to end once the demo stops.
const SETTLE: Duration = Duration::from_millis(400);
/// How long the nodes may take until they are ready for pods.
const READY: Duration = Duration::from_secs(60);

/// Shows the demo until its duration is over or `stop` is cancelled, then prints the summary.
///
/// # Errors
/// Where a part does not start, or nobody reads the output any more.
pub async fn run(options: Options, stop: CancellationToken) -> Result<Report, Error> {
    let mut terminal = Terminal::new(options.display);
    let settings =
        api_server::Settings { seed: options.seed, faults: options.faults, ..api_server::Settings::default() };
    let api = ApiServer::start(settings).await.map_err(|error| Error::Start(error.to_string()))?;
    api.faults().lose_often(options.lost_bindings, Match::of("create", "pods/binding"));
    let began = Instant::now();
    let (news, mut items) = News::new(began);
    let observer = Observer::default();
    let mut tasks = Tasks::default();
    tasks.spawn("observer", observer.clone().run(api.objects().observe(), news.clone()));
    let fleet = fleet::fleet(options.nodes, options.gpus_per_node);
    populate(&api, &fleet)?;
    let parts = Parts::start(&api).await?;
    let scratch = Scratch::new().map_err(|error| Error::Start(error.to_string()))?;
    let machines = start_machines(fleet, &api, &scratch, options.sabotage, &mut tasks).await?;
    wait_until_ready(&api).await?;
    let began = Instant::now();
    terminal.print(&intro::text(
        options.nodes,
        options.nodes * options.gpus_per_node,
        options.seed,
        &api.url(),
        &parts,
    ))?;

    let wiring = Wiring {
        client: api.client_as("demo-scheduler").map_err(|error| Error::Start(error.to_string()))?,
        http: HttpClient::new("demo-scheduler"),
        api_url: api.url(),
        extender_url: parts.extender_url.clone(),
    };
    let scheduler = Scheduler::new(wiring, options.seed);
    tasks.spawn("scheduler", Arc::clone(&scheduler).run());
    tasks.spawn("kubelets", kubelet::run(api.objects(), Arc::clone(&machines), observer.clone(), news.clone()));
    let stage = incidents::Stage {
        objects: api.objects(),
        machines: Arc::clone(&machines),
        observer: observer.clone(),
        news: news.clone(),
    };
    tasks.spawn("incidents", incidents::run(stage, options.seed, options.duration));
    if options.sabotage == Some(Sabotage::Oversubscription) {
        tasks.spawn("sabotage", sabotage::oversubscribe(api.objects()));
    }
    let offers = Arc::new(Mutex::new(Offers::default()));
    let workload = Workload::new(options.seed, options.nodes, options.gpus_per_node);
    let mut users = JoinSet::new();
    users.spawn(users::run(workload, HttpClient::new("demo-user"), api.url(), began, Arc::clone(&offers), news));

    let look = || {
        let seen = observer.seen();
        let offers = offers.lock().unwrap_or_else(PoisonError::into_inner);
        let nodes = board::nodes(&seen.checker);
        Board {
            elapsed: began.elapsed(),
            duration: options.duration,
            seed: options.seed,
            offered: offers.offered,
            refused: offers.refused.values().sum(),
            placed: seen.placed + seen.placed_plain,
            running: seen.checker.holders.len(),
            waiting: seen.waiting.len(),
            started: seen.checker.started().with_devices,
            wrong: seen.checker.started().wrong,
            use_now: board::in_use(&nodes),
            nodes,
        }
    };
    let mut usage = Usage::default();
    let mut ticks = tokio::time::interval(FRAME);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut resizes = Resizes::new();
    let end = options.duration.map(|duration| tokio::time::Instant::from_std(began + duration));
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = async { match end { Some(end) => tokio::time::sleep_until(end).await, None => std::future::pending().await } } => break,
            ended = tasks.next() => return Err(Error::Ended(ended)),
            Some(item) = items.recv() => terminal.tell(item)?,
            () = resizes.next() => terminal.resized(),
            _ = ticks.tick() => {
                let board = look();
                usage.add(board.use_now);
                terminal.show(&board)?;
            }
        }
    }
    usage.elapsed = began.elapsed();
    // No new pods; binds in flight end, and the checker sees them.
    users.shutdown().await;
    tokio::time::sleep(SETTLE).await;
    while let Ok(item) = items.try_recv() {
        terminal.tell(item)?;
    }
    terminal.show(&look())?;
    let report = conclude(&options, &api, &observer, &scheduler, &offers, &usage, &machines);
    terminal.print(&report.text(terminal.width().min(160)))?;
    tasks.0.shutdown().await;
    parts.stop().await;
    for machine in Arc::into_inner(machines).into_iter().flatten().filter_map(|(_, machine)| Arc::into_inner(machine)) {
        machine.stop().await;
    }
    Ok(report)
}

fn populate(api: &ApiServer, fleet: &[SimNode]) -> Result<(), Error> {
    let failed = |refusal: api_server::Refusal| Error::Start(refusal.to_string());
    for namespace in workload::NAMESPACES {
        api.objects().create("namespaces", json!({"metadata": {"name": namespace}})).map_err(failed)?;
    }
    for node in fleet {
        api.objects().create("nodes", node.object()).map_err(failed)?;
    }
    Ok(())
}

/// Runs a kubelet and an agent for every node.
async fn start_machines(
    fleet: Vec<SimNode>,
    api: &ApiServer,
    scratch: &Scratch,
    sabotage: Option<Sabotage>,
    tasks: &mut Tasks,
) -> Result<Machines, Error> {
    let client = api.client_as(machine::USER_AGENT).map_err(|error| Error::Start(error.to_string()))?;
    let replace_check = (sabotage == Some(Sabotage::StartCheck)).then_some(sabotage::guess as _);
    let mut starts = JoinSet::new();
    for (number, sim) in fleet.into_iter().enumerate() {
        let root = scratch.path().join((number + 1).to_string());
        starts.spawn(Machine::start(sim, root, client.clone(), api.objects(), replace_check));
    }
    let mut machines = BTreeMap::new();
    while let Some(started) = starts.join_next().await {
        let (machine, mut agent) = started.map_err(|error| Error::Start(error.to_string()))??;
        let name = machine.sim.name.clone();
        tasks.0.spawn(async move { format!("the agent of {name}: {}", agent.fault().await) });
        machines.insert(machine.sim.name.clone(), Arc::new(machine));
    }
    Ok(Arc::new(machines))
}

/// Until every agent serves its kubelet and says so, and the kubelet counts its slots.
async fn wait_until_ready(api: &ApiServer) -> Result<(), Error> {
    let deadline = tokio::time::Instant::now() + READY;
    let is_ready = |node: &Value| {
        let inventory = node["metadata"]["annotations"]["packhorse.dev/inventory"].as_str().unwrap_or_default();
        let mut allocatable = node["status"]["allocatable"].as_object().into_iter().flatten();
        inventory.contains("\"ready\":true") && allocatable.any(|(name, _)| name.starts_with("nvidia.com/"))
    };
    loop {
        let nodes = api.objects().list("nodes", "");
        let Some(late) = nodes.iter().find(|node| !is_ready(node)) else { return Ok(()) };
        if tokio::time::Instant::now() > deadline {
            let name = late["metadata"]["name"].as_str().unwrap_or_default();
            return Err(Error::Start(format!("the agent of {name} is not ready after {READY:?}")));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What runs until the end of the demo.
#[derive(Debug, Default)]
struct Tasks(JoinSet<String>);

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            task.await;
            name.to_owned()
        });
    }

    /// Waits for one to end, which none should; says which.
    async fn next(&mut self) -> String {
        match self.0.join_next().await {
            Some(ended) => ended.unwrap_or_else(|error| error.to_string()),
            None => std::future::pending().await,
        }
    }
}

/// The fleet's use over time.
#[derive(Debug, Default)]
struct Usage {
    sum: Shares,
    peak: Shares,
    samples: usize,
    /// How long it was looked at.
    elapsed: Duration,
}

impl Usage {
    fn add(&mut self, now: Shares) {
        self.sum.memory += now.memory;
        self.sum.cores += now.cores;
        self.peak.memory = self.peak.memory.max(now.memory);
        self.peak.cores = self.peak.cores.max(now.cores);
        self.sum.gpus += now.gpus;
        self.peak.gpus = self.peak.gpus.max(now.gpus);
        self.samples += 1;
    }

    fn mean(&self) -> Shares {
        let samples = self.samples.max(1) as f64;
        Shares { memory: self.sum.memory / samples, cores: self.sum.cores / samples, gpus: self.sum.gpus / samples }
    }
}

fn conclude(
    options: &Options,
    api: &ApiServer,
    observer: &Observer,
    scheduler: &Scheduler,
    offers: &Mutex<Offers>,
    usage: &Usage,
    machines: &Machines,
) -> Report {
    let seen = observer.seen().clone();
    let offers = offers.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let calls = scheduler.calls();
    let mut waiting: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    for (name, message) in seen.waiting.values() {
        for reason in observer::reasons(message) {
            waiting.entry(reason).or_insert_with(|| (0, name.clone())).0 += 1;
        }
    }
    let (mut writes, mut agent_writes) = (BTreeMap::new(), BTreeMap::new());
    for entry in api.requests() {
        let writes = match &*entry.user_agent {
            parts::USER_AGENT => &mut writes,
            machine::USER_AGENT => &mut agent_writes,
            _ => continue,
        };
        if entry.is_write() && (200..300).contains(&entry.code) {
            *writes.entry(format!("{} {}", entry.verb, entry.resource)).or_default() += 1;
        }
    }
    let (mut allocate, mut pre_start) = (Vec::new(), Vec::new());
    for machine in machines.values() {
        let times = machine.times();
        allocate.extend(&times.allocate);
        pre_start.extend(&times.pre_start);
    }
    let most_first = |counts: BTreeMap<String, usize>| {
        let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts
    };
    let mut waiting: Vec<(String, usize, String)> =
        waiting.into_iter().map(|(reason, (count, example))| (reason.to_owned(), count, example)).collect();
    waiting.sort_by_key(|(_, count, _)| std::cmp::Reverse(*count));
    let mut errors = calls.errors;
    for (error, count) in offers.failed {
        *errors.entry(format!("creating a pod: {error}")).or_default() += count;
    }
    Report {
        elapsed: usage.elapsed,
        seed: options.seed,
        nodes: options.nodes,
        gpus: options.nodes * options.gpus_per_node,
        offered: offers.offered,
        admitted: offers.admitted,
        refused: most_first(offers.refused),
        placed: seen.placed,
        placed_plain: seen.placed_plain,
        ended: seen.ended,
        started: seen.checker.started(),
        not_admitted: seen.not_admitted,
        refused_starts: seen.refused_starts,
        noticed: seen.noticed.iter().max().copied(),
        given_up: seen.given_up,
        waiting_pods: seen.waiting.len(),
        waiting,
        mean_use: usage.mean(),
        peak_use: usage.peak,
        webhook: Percentiles::of(api.webhook_times()),
        filter: Percentiles::of(calls.filter),
        prioritize: Percentiles::of(calls.prioritize),
        bind: Percentiles::of(calls.bind),
        waits: Percentiles::of(seen.waits),
        allocate: Percentiles::of(allocate),
        pre_start: Percentiles::of(pre_start),
        writes: most_first(writes),
        agent_writes: most_first(agent_writes),
        errors: most_first(errors),
        faults: api.faults().injected(),
        states: seen.checker.states(),
        violations: seen.checker.violations().to_vec(),
        surprises: offers.surprises,
    }
}

/// The window's size changes; never where there is no such signal.
#[derive(Debug)]
struct Resizes(Option<tokio::signal::unix::Signal>);

impl Resizes {
    fn new() -> Self {
        Self(tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change()).ok())
    }

    async fn next(&mut self) {
        if let Some(signal) = &mut self.0
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
}
