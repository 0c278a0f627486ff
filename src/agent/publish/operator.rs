//! The labels by which this node's agent tells NVIDIA's GPU operator what it stands in for: `nvidia.com/gpu.deploy.device-plugin=false`,
//! on demand the same for GPU Feature Discovery, and `nvidia.com/gpu.deploy.driver=pre-installed` where the driver is the host's own.
//!
//! As the operator itself does, a value that stands there is left alone. One is no decision of anybody: `true` for an operand, which the
//! operator writes on every GPU node it finds. Server-side apply with force takes that over, by a field manager of its own, so that
//! giving a label back takes it away and the operator writes `true` again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::json;

use super::deploy::Deploy;
use super::inventory::is_known;
use super::own_node::OwnNode;
use super::write::{Part, Write, next};
use crate::agent::backend::DriverPlace;
use crate::agent::view::{NodeView, ViewReceiver};

/// One label that the agent sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OperatorLabel {
    /// NVIDIA's device plugin stays away: two would hand out one card twice.
    DevicePlugin,
    /// GPU Feature Discovery stays away: the agent writes its labels.
    FeatureDiscovery,
    /// The operator's driver container stays away where the host has a driver.
    Driver,
}

/// Which labels are set; `device-plugin,driver` unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorLabels(pub BTreeSet<OperatorLabel>);

/// What may be named.
const NAMES: &str = "write some of device-plugin, gpu-feature-discovery, driver, separated by commas, or none";

/// A name that is none of a label.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("operator labels: {0:?}; {NAMES}")]
pub struct Unknown(String);

impl OperatorLabel {
    const ALL: [Self; 3] = [Self::DevicePlugin, Self::FeatureDiscovery, Self::Driver];

    /// As the operator calls it behind `nvidia.com/gpu.deploy.`.
    fn name(self) -> &'static str {
        match self {
            Self::DevicePlugin => "device-plugin",
            Self::FeatureDiscovery => "gpu-feature-discovery",
            Self::Driver => "driver",
        }
    }

    /// The label.
    pub fn key(self) -> &'static str {
        match self {
            Self::DevicePlugin => "nvidia.com/gpu.deploy.device-plugin",
            Self::FeatureDiscovery => "nvidia.com/gpu.deploy.gpu-feature-discovery",
            Self::Driver => "nvidia.com/gpu.deploy.driver",
        }
    }

    fn value(self) -> &'static str {
        match self {
            Self::DevicePlugin | Self::FeatureDiscovery => "false",
            Self::Driver => "pre-installed",
        }
    }

    /// Whether nobody has decided otherwise.
    fn is_free(self, there: Option<&str>) -> bool {
        match there {
            None | Some("") => true,
            // The operator's own manager of drivers looks at the host itself, and corrects a `true` of that.
            Some("true") => self != Self::Driver,
            Some(_) => false,
        }
    }

    /// Whether the node calls for it. A driver that is away for a moment, for a newer one say, is no reason to let the operator install
    /// its own: what is ours stays until a driver is found elsewhere.
    fn is_due(self, view: &NodeView, ours: bool) -> bool {
        match self {
            Self::DevicePlugin | Self::FeatureDiscovery => true,
            Self::Driver => match view.driver_place {
                Some(place) => place == DriverPlace::Host,
                None => ours,
            },
        }
    }
}

impl Default for OperatorLabels {
    fn default() -> Self {
        Self([OperatorLabel::DevicePlugin, OperatorLabel::Driver].into())
    }
}

impl FromStr for OperatorLabels {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        if text == "none" {
            return Ok(Self(BTreeSet::new()));
        }
        let one = |name: &str| OperatorLabel::ALL.into_iter().find(|label| label.name() == name);
        text.split(',')
            .map(|name| one(name.trim()).ok_or_else(|| Unknown(name.to_owned())))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for OperatorLabels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&self.0.iter().map(|label| label.name()).collect::<Vec<_>>().join(","))
    }
}

#[derive(Debug)]
pub(super) struct Operator {
    node: Arc<str>,
    labels: OperatorLabels,
    view: ViewReceiver,
    /// What is to be written.
    due: Option<BTreeMap<&'static str, &'static str>>,
    /// What was last written: an API server that keeps no managed fields would be asked for ever.
    sent: Option<BTreeMap<&'static str, &'static str>>,
}

impl Operator {
    pub(super) fn new(node: Arc<str>, labels: OperatorLabels, view: ViewReceiver) -> Self {
        Self { node, labels, view, due: None, sent: None }
    }

    fn wanted(&mut self, node: &OwnNode) -> Option<BTreeMap<&'static str, &'static str>> {
        let view = Arc::clone(&self.view.borrow_and_update());
        if Deploy::of(&node.labels) == Deploy::Nothing {
            return Some(BTreeMap::new());
        }
        if !is_known(&view) {
            return None;
        }
        if view.cards.is_empty() {
            // Without a card there is nothing to stand in for; one that is lost for a moment stays in the view.
            return view.trouble.is_none().then(BTreeMap::new);
        }
        let mut wanted = BTreeMap::new();
        for label in &self.labels.0 {
            let there = node.labels.get(label.key()).map(String::as_str);
            let ours = node.own_operator_labels.contains(label.key()) && there == Some(label.value());
            if label.is_due(&view, ours) && (ours || label.is_free(there)) {
                wanted.insert(label.key(), label.value());
            }
        }
        Some(wanted)
    }
}

impl Part for Operator {
    const KIND: &'static str = "operator";

    async fn changed(&mut self) {
        next(&mut self.view).await;
    }

    fn due(&mut self, node: &OwnNode) -> Option<Write> {
        let wanted = self.wanted(node)?;
        let in_place = wanted.iter().all(|(key, value)| node.labels.get(*key).is_some_and(|there| there == value));
        let ours = &node.own_operator_labels;
        let owned = ours.len() == wanted.len() && wanted.keys().all(|key| ours.contains(*key));
        if in_place && (owned || self.sent.as_ref() == Some(&wanted)) {
            return None;
        }
        tracing::info!(node = %self.node, labels = ?wanted, "telling the GPU operator what it need not run here");
        let patch = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": &*self.node, "labels": wanted}});
        self.due = Some(wanted);
        Some(Write::Operator(patch))
    }

    fn wrote(&mut self) {
        self.sent = self.due.take();
    }
}

#[cfg(test)]
#[path = "operator/tests.rs"]
mod tests;
