//! The writer of this node's own Node object: inventory, totals, labels, start-up taint. Nobody else in the agent writes to it, and
//! it writes to nothing else.
//!
//! Each is compared with what the node has, by a watch of this node alone, and written only where it differs: an unchanged node gets
//! no write, and what somebody resets is asserted again. While the API server is away everything is tried again at growing intervals,
//! for ever; the newest state wins. Others learn what has arrived: [`Publisher::confirmed`], [`Publisher::totals_written`].

pub mod deploy;
mod follow;
mod inventory;
mod labels;
mod metrics;
mod operator;
mod own_node;
mod pace;
mod publication;
mod taint;
mod totals;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::deploy::Deploy;
pub use self::inventory::Confirmed;
pub use self::metrics::Metrics;
pub use self::operator::{OperatorLabel, OperatorLabels};
pub use self::own_node::{OwnNode, Totals};

use self::write::Writer;
use super::events::Events;
use super::labels::host::Host;
use super::pods::Pods;
use super::standing::StandingSender;
use super::view::ViewReceiver;

/// The field manager of inventory, totals and taint.
pub const MANAGER: &str = "packhorse-agent";
/// The field manager of the labels, by server-side apply.
pub const LABELS_MANAGER: &str = "packhorse-agent-labels";
/// The field manager of the labels for NVIDIA's GPU operator, by server-side apply with force.
pub const OPERATOR_MANAGER: &str = "packhorse-agent-operator";

/// What the publisher is about.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node.
    pub node: Arc<str>,
    /// Where labels about the machine are read.
    pub host: Arc<Host>,
    /// Labels beside those of GPU Feature Discovery.
    pub labels: BTreeMap<String, String>,
    /// What NVIDIA's GPU operator is told.
    pub operator: OperatorLabels,
}

/// What is published.
#[derive(Debug)]
pub struct Sources {
    /// The devices.
    pub view: ViewReceiver,
    /// Who is bound here, for the totals.
    pub pods: Arc<Pods>,
    /// Ready, refused, foreign.
    pub standing: Arc<StandingSender>,
    /// Where it is told what people should know about the node.
    pub events: Events,
}

/// See the module.
pub struct Publisher {
    writer: Writer,
    settings: Settings,
    sources: Sources,
    confirmed: watch::Sender<Option<Confirmed>>,
    totals_written: watch::Sender<bool>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher")
            .field("settings", &self.settings)
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}

impl Publisher {
    /// Does nothing until [`Self::run`].
    pub fn new(client: Client, settings: Settings, sources: Sources, metrics: Metrics) -> Self {
        let (api, name) = (Api::<Node>::all(client), Arc::clone(&settings.node));
        let writer = Writer { api, name, state: Arc::default(), metrics };
        let (confirmed, totals_written) = (watch::Sender::new(None), watch::Sender::new(false));
        Self { writer, settings, sources, confirmed, totals_written }
    }

    /// The inventory that the node is known to have, with the standing it tells of: who has something to wait for waits here
    /// (`wait_for`). `None` before the first, and while
    /// another is on its way.
    pub fn confirmed(&self) -> watch::Receiver<Option<Confirmed>> {
        self.confirmed.subscribe()
    }

    /// Whether the node has the totals of all devices. Slots are registered with the kubelet only after that, else pods could be bound
    /// to cards whose sums Kubernetes does not know yet.
    pub fn totals_written(&self) -> watch::Receiver<bool> {
        self.totals_written.subscribe()
    }

    /// Whether the GPU operator's labels want a device plugin of ours here.
    pub fn deploy(&self) -> watch::Receiver<Deploy> {
        self.writer.state.deploy()
    }

    /// The node as last seen; `None` while it is not known or not there.
    pub fn node(&self) -> watch::Receiver<Option<Arc<OwnNode>>> {
        self.writer.state.subscribe()
    }

    /// Publishes until `stop`. What is on its way then may or may not arrive: who has a last word waits for it to be confirmed first.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let Sources { view, pods, standing, events } = &self.sources;
        let inventory = inventory::Inventory::new(view.clone(), standing.subscribe(), self.confirmed.clone());
        let totals = totals::Totals::new(view.clone(), Arc::clone(pods), self.totals_written.clone());
        let taint = taint::StartTaint { confirmed: self.confirmed(), totals: self.totals_written() };
        let metrics = self.writer.metrics.clone();
        let labels = labels::Labels::new(self.settings.clone(), view.clone(), events.clone(), metrics);
        let (node, operator) = (Arc::clone(&self.settings.node), self.settings.operator.clone());
        let operator = operator::Operator::new(node, operator, view.clone());
        let writer = &self.writer;
        let all = async {
            tokio::join!(
                follow::follow(writer.api.clone(), &writer.name, &writer.state, &writer.metrics),
                writer.keep(inventory),
                writer.keep(totals),
                writer.keep(labels),
                writer.keep(operator),
                writer.keep(taint),
            )
        };
        stop.run_until_cancelled(all).await;
    }
}
