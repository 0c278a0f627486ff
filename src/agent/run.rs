//! The agent's parts, wired: what reads from whom, in which order they start, and how they end. Used by `packhorse agent` and, once per
//! simulated node, by the demo; whoever starts it holds the lock of the node and decides when to leave.
//!
//! Flags, listeners and signals are not known here. What needs the API server waits for it by itself; only the container runtime's
//! version is waited for, and not for long. A background task that ends by itself is a fault: [`Running::fault`].

mod runtime;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::backend::Backend;
use super::devices::{self, Devices};
use super::events::{Events, Writer as EventWriter, report_failures};
use super::foreign::Policy;
use super::identity::Identity;
use super::labels::host::Host;
use super::lifecycle::Lifecycle;
use super::options::Options;
use super::pins::Pins;
use super::plugin::{self, Plugins};
use super::pods::{Pods, Source};
use super::publish::{self, Publisher};
use super::specification::form::{Conflict, check};
use super::specification::{self, Detection, Form, SpecificationError, Specifications};
use super::standing::{Standing, StandingSender};
use super::start::{self, Start, Starter};
use super::usage::{self, Exporter};
use super::view::ViewReceiver;
use crate::kube_api::calls::{CallMetrics, Calls};

/// One call to the API server; several fit into the kubelet's 30 s for a container start.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the kubelet's `PodResources` may take to answer.
const POD_RESOURCES_PATIENCE: Duration = Duration::from_secs(5);

/// The directories that the agent shares with the rest of its node.
#[derive(Debug, Clone)]
pub struct Directories {
    /// The kubelet's, with `device-plugins` and `pod-resources`.
    pub kubelet: PathBuf,
    /// Where CDI specifications are written.
    pub cdi: PathBuf,
    /// Where the host's generated specification is looked for, the last first.
    pub host_cdi: Vec<PathBuf>,
    /// Where verified allocations are kept.
    pub state: PathBuf,
    /// Usually `/sys`.
    pub sys: PathBuf,
    /// Usually `/proc`, of the host's processes.
    pub proc: PathBuf,
}

/// What the agent of one node is told.
pub struct Settings {
    /// Where devices come from.
    pub backend: Arc<dyn Backend>,
    /// How they are looked after.
    pub devices: devices::Settings,
    /// Where things lie.
    pub directories: Directories,
    /// NVIDIA's options.
    pub options: Options,
    /// `--specification-form`; `None`: by the node's container runtime.
    pub form: Option<Form>,
    /// Read where containerd 1.7 leaves the form open.
    pub containerd_config: PathBuf,
    /// What becomes of pods that came around Packhorse.
    pub foreign: Policy,
    /// Whether `/metrics` has dcgm-exporter's names too.
    pub dcgm: bool,
    /// Further labels of the node.
    pub labels: BTreeMap<String, String>,
    /// What NVIDIA's GPU operator is told of the node.
    pub operator: publish::OperatorLabels,
    /// How long bound pods are waited for at the end.
    pub drain_timeout: Duration,
    /// Puts something else in the place of the check at container start; `None` but where the demo shows what happens then.
    pub replace_check: Option<ReplaceCheck>,
}

/// Makes another check of the real one.
pub type ReplaceCheck = fn(Arc<Start>, Arc<Specifications>, ViewReceiver) -> Arc<dyn Starter>;

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No devices, where `--fail-on-init-error` wants some.
    #[error(transparent)]
    Devices(#[from] devices::StartError),
    /// The directory for CDI specifications.
    #[error("--cdi-dir")]
    Specifications(#[source] SpecificationError),
    /// An option that the runtime cannot do.
    #[error(transparent)]
    Form(#[from] Conflict),
    /// The state directory.
    #[error("--state-dir {}", path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
}

/// An agent that has not started: it counts, and knows how it stands.
#[derive(Debug)]
pub struct Agent {
    node: Arc<str>,
    calls: Calls,
    events: Events,
    event_writer: EventWriter,
    standing: Arc<StandingSender>,
    device_metrics: devices::metrics::Metrics,
    publish_metrics: publish::Metrics,
    plugin_metrics: plugin::Metrics,
    start_metrics: start::Metrics,
    form_metrics: specification::Metrics,
    exporter: Arc<Exporter>,
    client: Hidden<kube::Client>,
}

/// One that runs. Dropping it ends at once what is left.
#[derive(Debug)]
pub struct Running {
    tasks: Background,
    serving: JoinHandle<()>,
    leave: CancellationToken,
    stop: CancellationToken,
}

/// A client says nothing of itself.
struct Hidden<T>(T);

/// Tasks that run as long as the agent does.
#[derive(Debug, Default)]
struct Background(JoinSet<&'static str>);

impl Agent {
    /// Registers everything that it will count.
    pub fn new(client: kube::Client, node: Arc<str>, registry: &mut Registry) -> Self {
        let calls = Calls::new(client.clone(), CALL_TIMEOUT, CallMetrics::new(registry)).of_agent(&node);
        let device_metrics = devices::metrics::Metrics::new(registry);
        let publish_metrics = publish::Metrics::new(registry);
        let plugin_metrics = plugin::Metrics::new(registry);
        let start_metrics = start::Metrics::new(registry);
        let form_metrics = specification::Metrics::new(registry);
        let exporter = Arc::new(Exporter::new(Arc::clone(&node), registry));
        let (events, event_writer) = Events::new(&calls, Arc::clone(&node), registry);
        let standing = Arc::new(StandingSender::new(Standing::default()));
        Self {
            node,
            calls,
            events,
            event_writer,
            standing,
            device_metrics,
            publish_metrics,
            plugin_metrics,
            start_metrics,
            form_metrics,
            exporter,
            client: Hidden(client),
        }
    }

    /// What devices and containers use, for `/metrics`.
    pub fn exporter(&self) -> Arc<Exporter> {
        Arc::clone(&self.exporter)
    }

    /// Where the node's Events are told.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Whether the kubelet is served, and who was refused.
    pub fn standing(&self) -> &Arc<StandingSender> {
        &self.standing
    }

    /// Finds the devices, then lets everything run. Dropped before its end it leaves nothing running.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(self, settings: Settings) -> Result<Running, StartError> {
        let Self { node, calls, events, event_writer, standing, client: Hidden(client), .. } = self;
        let Settings { backend, directories, options, labels, operator, .. } = settings;
        let mut tasks = Background::default();
        let stop = CancellationToken::new();
        tasks.spawn("events", event_writer.run(stop.clone()));
        let device_metrics = self.device_metrics.clone();
        let watched = Arc::clone(&backend);
        let devices = Devices::start(watched, settings.devices, Some(events.clone()), self.device_metrics).await?;
        let view = devices.view();
        let changes = devices.changes();
        tasks.spawn("devices", devices.run(stop.clone()));
        let pods = Arc::new(Pods::default());
        tasks.spawn("pods of this node", Arc::clone(&pods).run(client.clone(), Arc::clone(&node), stop.clone()));
        tasks
            .spawn("pods on failed devices", report_failures(changes, Arc::clone(&pods), events.clone(), stop.clone()));
        let publisher = Arc::new(Publisher::new(
            client,
            publish::Settings {
                node: Arc::clone(&node),
                host: Arc::new(Host::new(&directories.sys)),
                labels,
                operator,
            },
            publish::Sources { view: view.clone(), pods: Arc::clone(&pods), standing: Arc::clone(&standing), events },
            self.publish_metrics,
        ));
        tasks.spawn("publisher", Arc::clone(&publisher).run(stop.clone()));

        let runtime = match settings.form {
            Some(_) => String::new(),
            None => runtime::container_runtime(publisher.node(), &directories.state, runtime::PATIENCE).await,
        };
        let containerd_config = Some(settings.containerd_config);
        let detection = Detection { runtime, containerd_config, configured: settings.form };
        let detected = detection.detect(&directories.host_cdi, &directories.cdi);
        tracing::info!(form = %detected.form, reason = detected.reason, "form of CDI specifications");
        check(&detected, &options.device_list_strategy, options.pass_device_specs)?;
        self.form_metrics.show(&detected);
        let specifications = specification::Settings {
            cdi_dir: directories.cdi,
            host_dirs: directories.host_cdi,
            form: detected.form,
            strategies: options.device_list_strategy.clone(),
            device_ids: options.device_id_strategy,
            pass_device_specs: options.pass_device_specs,
            dev_root: options.dev_root.clone(),
            mig_minors: PathBuf::from("/proc/driver/nvidia-caps/mig-minors"),
        };
        let specifications = Arc::new(Specifications::new(specifications).map_err(StartError::Specifications)?);
        let following = Arc::clone(&specifications).follow_form(detection, self.form_metrics, stop.clone());
        tasks.spawn("form of specifications", following);

        let identity = Identity::new(&directories.kubelet, POD_RESOURCES_PATIENCE);
        let pins = Arc::new(open_pins(&directories.state)?);
        self.exporter.begin(usage::Parts {
            backend,
            view: view.clone(),
            pods: Arc::clone(&pods),
            pins: Arc::clone(&pins),
            devices: device_metrics,
            proc: directories.proc,
            dcgm: settings.dcgm,
        });
        let starter = Arc::new(Start::new(start::Parts {
            node: Arc::clone(&node),
            view: view.clone(),
            pods: Arc::clone(&pods),
            source: Source::new(calls, node),
            identity: identity.clone(),
            pins,
            specifications: Arc::clone(&specifications),
            standing: Arc::clone(&standing),
            foreign: settings.foreign,
            publication: Arc::clone(&publisher) as Arc<_>,
            metrics: self.start_metrics,
        }));
        tasks.spawn("pods that are gone", Arc::clone(&starter).run(stop.clone()));
        let check: Arc<dyn Starter> = match settings.replace_check {
            None => starter,
            Some(replace) => replace(starter, Arc::clone(&specifications), view.clone()),
        };
        let settings_of_plugins = plugin::Settings {
            reply: reply(&options),
            ..plugin::Settings::new(directories.kubelet, Arc::clone(&specifications))
        };
        let plugins = Plugins::new(settings_of_plugins, view, Arc::clone(&pods), check, self.plugin_metrics);
        let lifecycle = Lifecycle {
            standing,
            confirmed: publisher.confirmed(),
            totals_written: publisher.totals_written(),
            deploy: publisher.deploy(),
            pods,
            identity,
            plugins: Arc::new(plugins),
            drain_timeout: settings.drain_timeout,
        };
        let leave = CancellationToken::new();
        let serving = tokio::spawn(lifecycle.run(leave.clone()));
        Ok(Running { tasks, serving, leave, stop })
    }
}

impl Running {
    /// Waits for a task to end, which none should; says which.
    pub async fn fault(&mut self) -> String {
        tokio::select! {
            ended = self.tasks.next() => ended,
            ended = &mut self.serving => format!("serving the kubelet: {ended:?}"),
        }
    }

    /// Leaves the node in order ([`Lifecycle`]); until then everything goes on.
    ///
    /// # Errors
    /// It ended by a panic.
    pub async fn leave(&mut self) -> Result<(), JoinError> {
        self.leave.cancel();
        (&mut self.serving).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        self.serving.abort();
    }
}

impl Background {
    /// Its name is what is told if it ends.
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            task.await;
            name
        });
    }

    async fn next(&mut self) -> String {
        match self.0.join_next().await {
            Some(Ok(name)) => name.to_owned(),
            // A panic: its message stands on stderr already.
            Some(Err(error)) => error.to_string(),
            None => std::future::pending().await,
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("backend", &self.backend)
            .field("directories", &self.directories)
            .field("form", &self.form)
            .finish_non_exhaustive()
    }
}

impl<T> std::fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("..")
    }
}

fn reply(options: &Options) -> plugin::ReplySettings {
    plugin::ReplySettings {
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
    }
}

fn open_pins(directory: &Path) -> Result<Pins, StartError> {
    Pins::open(directory).map_err(|source| StartError::State { path: directory.to_owned(), source })
}
