//! The mutating admission webhook: reads what a pod asks of GPUs, denies what can never run, and patches the rest so that the
//! scheduler, the extender and the agent find what they need.
//!
//! It is stateless: the answer follows from the review and the settings alone, its own output given back yields no patch, and
//! nothing is written anywhere. Asked by the API server for the pods that the registration in `deployments/webhook` selects;
//! knows neither ledger nor extender. A pod that has nothing to do with GPUs gets no patch. Whatever is wrong with a review
//! becomes an answer that says so; the API server refuses the pod where it gets none.

mod create;
mod decision;
mod deny;
mod environment;
mod ephemeral;
mod metrics;
mod outsider;
mod patch;
mod resources;
mod review;
mod router;
mod settings;
mod subject;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::gpu::parse::CountAlone;

pub use metrics::Metrics;
pub use review::Answer;
pub use router::router;
pub use settings::{
    CountAloneText, ForeignScheduler, NodeName, Privileged, Settings, SettingsError, Toleration, VisibleAction,
    VisibleDevicesAll,
};

/// The name of the `MutatingWebhookConfiguration`, into which certificates are patched.
pub const CONFIGURATION: &str = "packhorse";

/// What a namespace's label `packhorse.dev/count-alone` says; `None` where it says nothing.
pub type CountAloneOf = dyn Fn(&str) -> Option<CountAlone> + Send + Sync;

/// One webhook; shared by all connections.
pub struct Webhook {
    settings: Arc<ArcSwap<Settings>>,
    count_alone: Box<CountAloneOf>,
    metrics: Metrics,
}

impl Webhook {
    /// A webhook that follows `settings` as they change and asks `count_alone` about namespaces.
    pub fn new(settings: Arc<ArcSwap<Settings>>, count_alone: Box<CountAloneOf>, metrics: Metrics) -> Self {
        Self { settings, count_alone, metrics }
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("settings", &self.settings).finish_non_exhaustive()
    }
}
