//! `packhorse agent`: the devices of one node.
//!
//! Owns the order in which things start and end. Flags, NVIDIA's options and listeners are checked first: any mistake ends the process
//! there. Then the lock of the node is waited for, the devices are found, and everything runs at once; what needs the API server waits
//! for it by itself. At SIGTERM or SIGINT the node is left in order ([`run::Running::leave`]); a second signal ends that at once. A
//! background task that ends by itself is a fault: the process ends with 1 and is started again.

pub mod backend;
pub mod health;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use prometheus_client::registry::Registry;

use self::backend::Choice;
use self::health::Health;
use super::logs::{self, Logs};
use super::process::{self, Servers, Signals};
use super::{admin, api_client};
use crate::agent::devices;
use crate::agent::events::EventKind;
use crate::agent::foreign::Policy;
use crate::agent::health::Checks;
use crate::agent::labels::extra::{self, Label};
use crate::agent::lock::NodeLock;
use crate::agent::options::{Flags, Options};
use crate::agent::publish::OperatorLabels;
use crate::agent::run::{self, Agent, Directories};
use crate::agent::specification::Form;
use crate::agent::view::MigStrategy;
use crate::metrics::api_requests::ApiRequests;
use crate::metrics::exposition::Exposition;
use crate::serve::Limits;

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
    /// Serve /metrics under dcgm-exporter's names too, for dashboards made for it (docs/metrics.md)
    #[arg(long)]
    metrics_dcgm: bool,
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
    /// Labels nvidia.com/gpu.deploy.* by which NVIDIA's GPU operator is told what it need not run on the node: device-plugin,
    /// gpu-feature-discovery, driver (where the host has one), or none
    #[arg(long, value_name = "LABEL,...", default_value_t)]
    operator_labels: OperatorLabels,
    /// How long bound pods are waited for at the end, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    drain_timeout: u16,
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    log_format: logs::Format,
    /// What is logged: error, warn, info, debug, or a filter such as packhorse=debug
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
        metrics_dcgm,
        slots,
        specification_form,
        containerd_config,
        foreign_pods,
        node_label,
        operator_labels,
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
    let slots = device_slots(slots, &options);

    let mut registry = Registry::default();
    crate::metrics::register(&mut registry);
    let client = api_client::connect(kubeconfig.as_deref(), &ApiRequests::new(&mut registry)).await?;
    let agent = Agent::new(client, node, &mut registry);
    for unheard in &options.not_honoured {
        tracing::warn!(option = unheard.key, reason = unheard.reason, "an option is not honoured");
        let note = format!("{} is not honoured: {}", unheard.key, unheard.reason);
        agent.events().node(EventKind::Warning, "OptionNotHonoured", &note);
    }

    let alone = Arc::new(AtomicBool::new(false));
    let health = Health { standing: Arc::clone(agent.standing()), alone: Arc::clone(&alone) };
    let mut servers = Servers::new(Limits::default());
    let bound = process::bind("--metrics-listen", metrics_listen).await?;
    servers.start(
        "metrics",
        bound,
        None,
        admin::router(Arc::new(Exposition::new(registry).with(agent.exporter())), logs).merge(health.router()),
    );

    let mut signals = Signals::new()?;
    let _lock = tokio::select! {
        lock = NodeLock::acquire(&state_dir) => lock.with_context(|| format!("--state-dir {}", state_dir.display()))?,
        () = signals.received() => return Ok(()),
    };
    alone.store(true, Ordering::Relaxed);

    let settings = run::Settings {
        backend: gpu_backend.open(nvml_library, &options),
        devices: devices::Settings {
            slots,
            mig_strategy: options.mig_strategy,
            checks,
            fail_on_init_error: options.fail_on_init_error,
            ..devices::Settings::default()
        },
        directories: Directories {
            kubelet: kubelet_dir,
            host_cdi: host_directories(cdi_dir.clone()),
            cdi: cdi_dir,
            state: state_dir,
            sys: PathBuf::from("/sys"),
            proc: PathBuf::from("/proc"),
        },
        options,
        form: specification_form,
        containerd_config,
        foreign: foreign_pods,
        dcgm: metrics_dcgm,
        labels,
        operator: operator_labels,
        drain_timeout: Duration::from_secs(drain_timeout.into()),
        replace_check: None,
    };
    let mut running = tokio::select! {
        started = agent.start(settings) => started?,
        () = signals.received() => return Ok(()),
    };
    tokio::select! {
        () = signals.received() => {}
        task = running.fault() => bail!("background task {task:?} ended; see the log above"),
    }
    tracing::info!("stopping: the node takes no new pods, those bound to it are waited for");
    tokio::select! {
        left = running.leave() => left.context("the node was not left in order")?,
        () = signals.received() => tracing::warn!("told twice to stop: not waiting any longer"),
    }
    drop(running);
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
