//! Whether a pod fits a node, and on which devices.

use super::allocation::{Allocation, Holding};
use super::node::Node;
use super::reason::Reason;
use super::request::{GpuPolicy, NodePolicy, PodRequest};

/// The cluster's defaults, where a pod says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policies {
    /// Which node first.
    pub node: NodePolicy,
    /// Which device first; `None`: binpack for one GPU, topology for more.
    pub gpu: Option<GpuPolicy>,
}

/// Where the containers of a pod would go on one node.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// Per container.
    pub allocation: Allocation,
    /// Per device, sorted by UUID.
    pub holdings: Vec<Holding>,
}

/// Chooses devices for all containers of a pod on one node, or says why there are none. Deterministic.
///
/// # Errors
/// The reason nearest to a fit.
pub fn place(node: &Node, request: &PodRequest, policies: Policies) -> Result<Placement, Reason> {
    let _ = (node, request, policies);
    unimplemented!("skeleton")
}

/// How good `placement` is on `node` for the cluster as a whole: finite, greater is better, comparable between nodes. `cpu` in
/// millicores and `memory` in bytes are the pod's host requests.
pub fn score(
    node: &Node,
    request: &PodRequest,
    placement: &Placement,
    cpu: i64,
    memory: i64,
    policies: Policies,
) -> f64 {
    let _ = (node, request, placement, cpu, memory, policies);
    unimplemented!("skeleton")
}
