//! `packhorse agent`: the devices of one node.
//!
//! Owns the order in which things start and end. Flags, NVIDIA's options and listeners are checked first: any mistake ends the process
//! there. Then the lock of the node is waited for, the devices are found, and everything runs at once; what needs the API server waits
//! for it by itself. At SIGTERM or SIGINT the node is left in order ([`Lifecycle`]); a second signal ends that at once. A
//! background task that ends by itself is a fault: the process ends with 1 and is started again.

pub mod backend;
pub mod form;
pub mod health;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use self::backend::Choice;
use self::health::Health;
use super::logs::{self, Logs};
use super::process::{self, Servers, Signals, Tasks};
use super::{admin, api_client};
use crate::agent::devices::{self, Devices};
use crate::agent::events::{Events, report_failures};
use crate::agent::foreign::Policy;
use crate::agent::health::Checks;
use crate::agent::identity::Identity;
use crate::agent::labels::extra::{self, Label};
use crate::agent::labels::host::Host;
use crate::agent::lifecycle::Lifecycle;
use crate::agent::lock::NodeLock;
use crate::agent::options::{Flags, Options};
use crate::agent::pins::Pins;
use crate::agent::plugin::{self, Plugins};
use crate::agent::pods::{Pods, Source};
use crate::agent::publish::{self, Publisher};
use crate::agent::specification::{self, Form, Specifications};
use crate::agent::standing::{Standing, StandingSender};
use crate::agent::start::{self, Start};
use crate::agent::view::MigStrategy;
use crate::kube_api::calls::{CallMetrics, Calls};
use crate::metrics::api_requests::ApiRequests;
use crate::serve::Limits;

/// One call to the API server; several fit into the kubelet's 30 s for a container start.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the kubelet's `PodResources` may take to answer.
const POD_RESOURCES_PATIENCE: Duration = Duration::from_secs(5);
/// Enough for a few containers that start at once; more threads would only cost memory.
const THREADS: usize = 2;

/// Flags of `packhorse agent`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node this agent runs on
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: String,
    /// Kubeconfig of the API server [default: the service account of this pod]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Where devices come from: nvml, or fake:FILE with a topology file (docs/topology.yaml)
    #[arg(long, value_name = "nvml|fake:FILE", default_value = "nvml")]
    gpu_backend: Choice,
    /// The library libnvidia-ml.so.1, where it is not found by itself
    #[arg(long, value_name = "FILE")]
    nvml_library: Option<PathBuf>,
    /// The kubelet's directory, with device-plugins/ and pod-resources/
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet")]
    kubelet_dir: PathBuf,
    /// Where CDI specifications are written; the container runtime must read it
    #[arg(long, value_name = "DIR", default_value = "/var/run/cdi")]
    cdi_dir: PathBuf,
    /// Where verified allocations are kept; must outlive this process
    #[arg(long, value_name = "DIR", default_value = "/var/lib/packhorse")]
    state_dir: PathBuf,
    /// Where /metrics, /healthz, /readyz and /log are served
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:9482")]
    metrics_listen: SocketAddr,
    /// Containers that may share one card [default: 10, or the configuration file's sharing.timeSlicing]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    slots: Option<u16>,
    /// What CDI specifications hold [default: by the node's container runtime]
    #[arg(long, value_enum)]
    specification_form: Option<Form>,
    /// containerd's configuration, which tells whether containerd 1.7 reads CDI
    #[arg(long, value_name = "FILE", default_value = "/etc/containerd/config.toml")]
    containerd_config: PathBuf,
    /// What becomes of GPU pods that came around Packhorse: refuse them, or serve them whole free GPUs
    #[arg(long, value_enum, default_value_t)]
    foreign_pods: Policy,
    /// Another label of the node; may be given often
    #[arg(long, value_name = "KEY=VALUE")]
    node_label: Vec<Label>,
    /// How long bound pods are waited for at the end, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    drain_timeout: u16,
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    log_format: logs::Format,
    /// Log level
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
    /// NVIDIA's own.
    #[command(flatten)]
    nvidia: Flags,
}

/// Runs the agent until a signal.
///
/// # Errors
/// What keeps it from starting, or a background task that ended.
pub fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let done = runtime.block_on(serve(args));
    // A call that the driver never answers sits on a thread of its own; it must not keep the process from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let Args {
        node_name,
        kubeconfig,
        gpu_backend,
        nvml_library,
        kubelet_dir,
        cdi_dir,
        state_dir,
        metrics_listen,
        slots,
        specification_form,
        containerd_config,
        foreign_pods,
        node_label,
        drain_timeout,
        log_format,
        log_level,
        nvidia,
    } = args;
    if node_name.is_empty() {
        bail!("--node-name is empty; give the name of this node's Node object");
    }
    let logs = Logs::start(log_format, &log_level).context("--log-level")?;
    let node: Arc<str> = node_name.into();
    let labels = extra::collect(&node_label).context("--node-label")?;
    let options = Options::load(&nvidia)?;
    let checks = Checks::from_env()?;

    let mut registry = Registry::default();
    crate::metrics::register(&mut registry);
    let client = api_client::connect(kubeconfig.as_deref(), &ApiRequests::new(&mut registry)).await?;
    let calls = Calls::new(client.clone(), CALL_TIMEOUT, CallMetrics::new(&mut registry)).of_agent(&node);
    let device_metrics = devices::metrics::Metrics::new(&mut registry);
    let publish_metrics = publish::Metrics::new(&mut registry);
    let plugin_metrics = plugin::Metrics::new(&mut registry);
    let start_metrics = start::Metrics::new(&mut registry);
    let form_metrics = form::Metrics::new(&mut registry);
    let (events, event_writer) = Events::new(&calls, Arc::clone(&node), &mut registry);
    for unheard in &options.not_honoured {
        tracing::warn!(option = unheard.key, reason = unheard.reason, "an option is not honoured");
        let note = format!("{} is not honoured: {}", unheard.key, unheard.reason);
        events.node(crate::agent::events::EventKind::Warning, "OptionNotHonoured", &note);
    }

    let standing: Arc<StandingSender> = Arc::new(StandingSender::new(Standing::default()));
    let alone = Arc::new(AtomicBool::new(false));
    let health = Health { standing: Arc::clone(&standing), alone: Arc::clone(&alone) };
    let mut servers = Servers::new(Limits::default());
    let bound = process::bind("--metrics-listen", metrics_listen).await?;
    servers.start("metrics", bound, None, admin::router(Arc::new(registry), logs).merge(health.router()));

    let mut signals = Signals::new()?;
    let _lock = tokio::select! {
        lock = NodeLock::acquire(&state_dir) => lock.with_context(|| format!("--state-dir {}", state_dir.display()))?,
        () = signals.received() => return Ok(()),
    };
    alone.store(true, Ordering::Relaxed);

    let mut tasks = Tasks::default();
    let stop = CancellationToken::new();
    tasks.spawn("events", event_writer.run(stop.clone()));
    let slots = device_slots(slots, &options);
    let devices = Devices::start(
        gpu_backend.open(nvml_library, &options),
        devices::Settings {
            slots,
            mig_strategy: options.mig_strategy,
            checks,
            fail_on_init_error: options.fail_on_init_error,
            ..devices::Settings::default()
        },
        Some(events.clone()),
        device_metrics,
    )
    .await?;
    let view = devices.view();
    let changes = devices.changes();
    tasks.spawn("devices", devices.run(stop.clone()));
    let pods = Arc::new(Pods::default());
    tasks.spawn("pods of this node", Arc::clone(&pods).run(client.clone(), Arc::clone(&node), stop.clone()));
    tasks.spawn("pods on failed devices", report_failures(changes, Arc::clone(&pods), events, stop.clone()));
    let publisher = Arc::new(Publisher::new(
        client,
        publish::Settings { node: Arc::clone(&node), host: Arc::new(Host::new(Path::new("/sys"))), labels },
        publish::Sources { view: view.clone(), pods: Arc::clone(&pods), standing: Arc::clone(&standing) },
        publish_metrics,
    ));
    tasks.spawn("publisher", Arc::clone(&publisher).run(stop.clone()));

    let specifications = specification::Settings {
        cdi_dir: cdi_dir.clone(),
        host_dirs: host_directories(cdi_dir),
        form: specification_form.unwrap_or(Form::None),
        strategies: options.device_list_strategy.clone(),
        device_ids: options.device_id_strategy,
        pass_device_specs: options.pass_device_specs,
        dev_root: options.dev_root.clone(),
        mig_minors: PathBuf::from("/proc/driver/nvidia-caps/mig-minors"),
    };
    let specifications = Arc::new(Specifications::new(specifications).context("--cdi-dir")?);
    let detector = form::Detector {
        configured: specification_form,
        containerd_config,
        state_dir: state_dir.clone(),
        node: publisher.node(),
        specifications: Arc::clone(&specifications),
        metrics: form_metrics,
    };
    let detected = tokio::select! {
        detected = detector.first() => detected,
        () = signals.received() => return Ok(()),
    };
    specification::form::check(&detected, &options.device_list_strategy, options.pass_device_specs)?;
    let reply = plugin::ReplySettings {
        strategies: options.device_list_strategy.clone(),
        annotation_prefix: options.cdi_annotation_prefix.clone(),
        pass_device_specs: options.pass_device_specs,
        dev_root: options.dev_root.clone(),
        own_dev_root: if options.dev_root == options.driver_root {
            options.own_driver_root()
        } else {
            options.dev_root.clone()
        },
        features: BTreeMap::new(),
    };
    tasks.spawn("form of specifications", detector.follow(stop.clone()));

    let identity = Identity::new(&kubelet_dir, POD_RESOURCES_PATIENCE);
    let pins = Pins::open(&state_dir).with_context(|| format!("--state-dir {}", state_dir.display()))?;
    let starter = Arc::new(Start::new(start::Parts {
        node: Arc::clone(&node),
        view: view.clone(),
        pods: Arc::clone(&pods),
        source: Source::new(calls, node),
        identity: identity.clone(),
        pins: Arc::new(pins),
        specifications: Arc::clone(&specifications),
        standing: Arc::clone(&standing),
        foreign: foreign_pods,
        publication: Arc::clone(&publisher) as Arc<_>,
        metrics: start_metrics,
    }));
    tasks.spawn("pods that are gone", Arc::clone(&starter).run(stop.clone()));
    let settings = plugin::Settings { reply, ..plugin::Settings::new(kubelet_dir, Arc::clone(&specifications)) };
    let plugins = Arc::new(Plugins::new(settings, view, Arc::clone(&pods), starter, plugin_metrics));
    let lifecycle = Lifecycle {
        standing,
        confirmed: publisher.confirmed(),
        totals_written: publisher.totals_written(),
        deploy: publisher.deploy(),
        pods,
        identity,
        plugins,
        drain_timeout: Duration::from_secs(drain_timeout.into()),
    };
    let leave = CancellationToken::new();
    let mut serving = tokio::spawn(lifecycle.run(leave.clone()));

    let fault = tokio::select! {
        () = signals.received() => None,
        ended = tasks.next() => Some(ended),
        ended = &mut serving => Some(format!("serving the kubelet: {ended:?}")),
    };
    if let Some(task) = fault {
        bail!("background task {task:?} ended; see the log above");
    }
    tracing::info!("stopping: the node takes no new pods, those bound to it are waited for");
    leave.cancel();
    tokio::select! {
        _ = serving => {}
        () = signals.received() => tracing::warn!("told twice to stop: not waiting any longer"),
    }
    stop.cancel();
    servers.finish().await;
    tracing::info!("stopped");
    Ok(())
}

/// The flag beats NVIDIA's file. MIG instances are not shared unless the file says so.
fn device_slots(flag: Option<u16>, options: &Options) -> devices::Slots {
    let defaults = devices::Slots::default();
    // Under strategy `single` the file's `nvidia.com/gpu` means instances.
    let single = options.slots.filter(|_| options.mig_strategy == MigStrategy::Single);
    devices::Slots {
        cards: flag.or(options.slots).unwrap_or(defaults.cards),
        instances: single.unwrap_or(defaults.instances),
        profiles: options.mig_slots.clone(),
    }
}

/// Where the host's generated specification may lie; ours as well, since a runtime may read no other.
fn host_directories(cdi_dir: PathBuf) -> Vec<PathBuf> {
    let mut directories = vec![PathBuf::from("/etc/cdi"), PathBuf::from("/var/run/cdi")];
    if !directories.contains(&cdi_dir) {
        directories.push(cdi_dir);
    }
    directories
}
