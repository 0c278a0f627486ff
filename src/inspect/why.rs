//! Why a node does not take a waiting pod. The words about devices are those of the pod's events; what kube-scheduler would say by itself
//! stands beside them. Also what keeps a pod from being scheduled at all, whatever the nodes.

use std::fmt;

use super::cluster::{Cluster, Seen, Waiting};
use super::host::{Demand, obstacles};
use crate::extender::verdict;
use crate::gpu::node::Node;
use crate::gpu::reason::Reason;
use crate::kube_api::names::SCHEDULER;
use crate::ledger::NodeState;

/// One obstacle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// What the extender says.
    Gpu(Reason),
    /// `kubectl cordon`.
    NodeCordoned,
    /// Its kubelet does not report.
    NodeNotReady,
    /// `key=value:effect`, which the pod does not endure.
    Taint(String),
    /// `key=value` of the pod's node selector, which the node does not have.
    Selector(String),
    /// Required node affinity.
    Affinity,
    /// A resource that Kubernetes counts.
    Short {
        /// Its name.
        resource: String,
        /// By the pod; CPU in millicores.
        asked: i64,
        /// On the node.
        left: i64,
    },
}

/// What one node says to one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAnswer<'a> {
    /// The node.
    pub node: &'a str,
    /// Empty: the pod fits.
    pub whys: Vec<Why>,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gpu(reason) => f.write_str(reason.as_str()),
            Self::NodeCordoned => f.write_str("node cordoned"),
            Self::NodeNotReady => f.write_str("node not ready"),
            Self::Taint(taint) => write!(f, "taint {taint} not tolerated"),
            Self::Selector(label) => write!(f, "node selector wants {label}"),
            Self::Affinity => f.write_str("node affinity not met"),
            Self::Short { resource, asked, left } => {
                write!(f, "{resource} short: asks {}, {} left", amount(resource, *asked), amount(resource, *left))
            }
        }
    }
}

/// An amount in the unit that people read.
pub fn amount(resource: &str, amount: i64) -> String {
    match resource {
        "cpu" => format!("{amount}m"),
        "memory" | "ephemeral-storage" => format!("{}Mi", amount >> 20),
        _ => amount.to_string(),
    }
}

/// What the extender says of a node in this state. `node` is the node as it is or would be; `None` where there is no usable inventory.
pub(super) fn of_devices(cluster: &Cluster, name: &str, node: Option<&Node>, waiting: &Waiting) -> Option<Why> {
    let record = waiting.record.as_ref().ok()?;
    let Some(entry) = cluster.ledger.node(name) else { return Some(Why::Gpu(Reason::NoInventory)) };
    let verdict = match (node, &entry.snapshot().state) {
        (Some(node), _) => verdict(&cluster.ledger, &entry, node, record),
        (None, NodeState::Damaged) => Err(Reason::InventoryDamaged),
        (None, _) => Err(Reason::NoInventory),
    };
    verdict.err().map(Why::Gpu)
}

/// The devices of a node as the ledger has them.
pub(super) fn devices(cluster: &Cluster, name: &str) -> Option<Node> {
    let snapshot = cluster.ledger.node(name)?.snapshot();
    match &snapshot.state {
        NodeState::Usable(node) => Some(node.clone()),
        NodeState::NoInventory | NodeState::Damaged => None,
    }
}

/// What each node says to a waiting pod: those that take it first, then the nearest to a fit.
pub fn answers<'a>(cluster: &'a Cluster, pod: &Seen, waiting: &Waiting) -> Vec<NodeAnswer<'a>> {
    let demand = Demand { waiting, requests: &pod.requests };
    let mut answers: Vec<_> = cluster
        .nodes
        .iter()
        .map(|(name, site)| {
            let mut whys = obstacles(&demand, name, site);
            whys.extend(of_devices(cluster, name, devices(cluster, name).as_ref(), waiting));
            NodeAnswer { node: name, whys }
        })
        .collect();
    // A greater reason is nearer to a fit; fewer obstacles are nearer than many.
    let far = |answer: &NodeAnswer<'_>| {
        let gpu = answer.whys.iter().find_map(|why| match why {
            Why::Gpu(reason) => Some(Reason::ALL.len() - *reason as usize),
            _ => None,
        });
        (gpu.unwrap_or(0), answer.whys.len())
    };
    answers.sort_by(|a, b| far(a).cmp(&far(b)).then_with(|| a.node.cmp(b.node)));
    answers
}

/// What keeps the pod from being scheduled whatever the nodes, each with its remedy.
pub fn before_all(waiting: &Waiting) -> Vec<String> {
    let mut found = Vec::new();
    if let Err(problem) = &waiting.record {
        found.push(format!("its request cannot be read: {problem}"));
    }
    if !waiting.gates.is_empty() {
        found.push(format!("scheduling gates: {}; whoever set them removes them", waiting.gates.join(", ")));
    }
    if waiting.scheduler != SCHEDULER {
        found.push(format!(
            "schedulerName is {:?}, hence Packhorse never sees it; create it again in a namespace that the webhook serves",
            waiting.scheduler
        ));
    } else if !waiting.marked {
        found.push(
            "it did not pass the webhook (no annotation packhorse.dev/request); create it again while the webhook answers"
                .to_owned(),
        );
    }
    found
}
