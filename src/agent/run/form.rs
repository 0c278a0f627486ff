//! Which form specifications have on this node: told by the Node's container runtime and the host's generated specification, looked at
//! again while the agent runs. The runtime is remembered on disk, so that an agent that starts while the API server is away
//! does not have to guess.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::publish::OwnNode;
use crate::agent::specification::form::{self, Detected};
use crate::agent::specification::{Form, Specifications};

/// How long the Node is waited for at the start.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the host's specification is looked for.
const LOOK: Duration = Duration::from_secs(10);
/// The last runtime known, in the state directory.
const REMEMBERED: &str = "container-runtime";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    form: &'static str,
    why: &'static str,
}

/// What is told of the form.
#[derive(Debug, Clone)]
pub struct Metrics(Family<Labels, Gauge>);

impl Metrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let form = Family::default();
        registry.register(
            "packhorse_agent_specification_form",
            "What CDI specifications hold on this node, and why",
            form.clone(),
        );
        Self(form)
    }
}

/// Looks.
#[derive(Debug)]
pub struct Detector {
    /// `--specification-form`.
    pub configured: Option<Form>,
    /// Read where containerd 1.7 leaves it open.
    pub containerd_config: PathBuf,
    /// Where the runtime is remembered.
    pub state_dir: PathBuf,
    /// This node.
    pub node: watch::Receiver<Option<Arc<OwnNode>>>,
    /// What is told the form.
    pub specifications: Arc<Specifications>,
    /// Counts.
    pub metrics: Metrics,
}

impl Detector {
    /// The form to start with. Waits a moment for the Node.
    pub async fn first(&self) -> Detected {
        let mut node = self.node.clone();
        let known = node.wait_for(|node| node.as_ref().is_some_and(|node| !node.container_runtime.is_empty()));
        if self.configured.is_none() && tokio::time::timeout(PATIENCE, known).await.is_err() {
            tracing::warn!("the Node does not tell its container runtime: taking the last known one");
        }
        let detected = self.detect();
        tracing::info!(form = %detected.form, reason = detected.reason, "form of CDI specifications");
        self.adopt(&detected);
        detected
    }

    /// Looks again until stopped: a host's specification may be generated later, or go.
    pub async fn follow(self, stop: CancellationToken) {
        let mut last = self.detect();
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            let now = self.detect();
            // Between `none` and the others lies the runtime, which is another one only after a restart of it, and of the agent.
            if now.form != last.form && now.form != Form::None && last.form != Form::None {
                tracing::info!(form = %now.form, reason = now.reason, "another form of CDI specifications from now on");
                self.adopt(&now);
                last = now;
            }
        }
    }

    fn adopt(&self, detected: &Detected) {
        self.specifications.set_form(detected.form);
        self.metrics.0.clear();
        self.metrics.0.get_or_create(&Labels { form: detected.form.as_str(), why: detected.why.as_str() }).set(1);
    }

    fn detect(&self) -> Detected {
        let runtime = self.runtime();
        let config = std::fs::read_to_string(&self.containerd_config).ok();
        let node = form::Node {
            runtime: &runtime,
            host_specification: self.specifications.host_specification(),
            containerd_config: config.as_deref(),
        };
        form::detect(node, self.configured)
    }

    /// Empty where nobody knows it.
    fn runtime(&self) -> String {
        let told = self.node.borrow().as_ref().map(|node| node.container_runtime.clone()).unwrap_or_default();
        let path = self.state_dir.join(REMEMBERED);
        let remembered = std::fs::read_to_string(&path).unwrap_or_default();
        if told.is_empty() {
            return remembered.trim().to_owned();
        }
        if told != remembered
            && let Err(error) = std::fs::write(&path, &told)
        {
            tracing::warn!(path = %path.display(), %error, "the container runtime cannot be remembered");
        }
        told
    }
}
