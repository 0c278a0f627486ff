//! Follows the form while the agent runs. NVIDIA's tools may write the host's specification long after the agent's start (a driver
//! that is installed as a container, `/var/run/cdi` after a reboot), and until then form `full` is not to be had.
//!
//! Changes between `full` and `env` alone: what `Allocate` answers is the same in both. A runtime that learns CDI needs a restart of
//! the agent, which is said.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::form::{self, Detected, Node};
use super::host::HostSpecifications;
use super::{Form, Specifications};

/// Nobody waits for it: containers that start meanwhile are written in the other form, as at the start.
const EVERY: Duration = Duration::from_secs(10);

/// What the form of this node goes by, beside the host's specification.
#[derive(Debug, Clone, Default)]
pub struct Detection {
    /// The Node's `status.nodeInfo.containerRuntimeVersion`, empty where unknown.
    pub runtime: String,
    /// containerd's configuration file, where the agent may see it.
    pub containerd_config: Option<PathBuf>,
    /// `--specification-form`.
    pub configured: Option<Form>,
}

/// The form as a metric. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    form: Family<[(&'static str, &'static str); 2], Gauge>,
}

impl Metrics {
    /// Registers the gauge.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "packhorse_agent_specification_form",
            "1 for the form of CDI specifications that is written on this node, with the reason",
            metrics.form.clone(),
        );
        metrics
    }

    /// Shows a form and no other.
    pub fn show(&self, detected: &Detected) {
        self.form.clear();
        self.form.get_or_create(&[("form", detected.form.as_str()), ("reason", detected.why.as_str())]).set(1);
    }
}

impl Detection {
    /// The form for a node whose specifications lie in these directories, as in [`super::Settings`].
    pub fn detect(&self, host_dirs: &[PathBuf], cdi_dir: &Path) -> Detected {
        self.with(HostSpecifications::new(host_dirs, cdi_dir).present())
    }

    fn with(&self, host_specification: bool) -> Detected {
        let config = self.containerd_config.as_ref().and_then(|path| match std::fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "containerd's configuration cannot be read");
                None
            }
        });
        let node = Node { runtime: &self.runtime, host_specification, containerd_config: config.as_deref() };
        form::detect(node, self.configured)
    }
}

impl Specifications {
    /// Looks again at what the form goes by, and changes it where that is possible. `None`: as before.
    pub fn look(&self, detection: &Detection) -> Option<Detected> {
        let detected = detection.with(self.host_specification());
        let before = self.form();
        if detected.form == before || before == Form::None || detected.form == Form::None {
            return None;
        }
        self.set_form(detected.form);
        Some(detected)
    }

    /// Looks again and again until `stop`.
    pub async fn follow_form(self: Arc<Self>, detection: Detection, metrics: Metrics, stop: CancellationToken) {
        let detection = Arc::new(detection);
        while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            let (specifications, detection) = (Arc::clone(&self), Arc::clone(&detection));
            match tokio::task::spawn_blocking(move || specifications.look(&detection)).await {
                Ok(None) => {}
                Ok(Some(detected)) => {
                    tracing::info!(form = %detected.form, reason = detected.reason, "specifications have another form from now on");
                    metrics.show(&detected);
                }
                Err(error) => tracing::error!(%error, "the form of specifications could not be looked at"),
            }
        }
    }
}
