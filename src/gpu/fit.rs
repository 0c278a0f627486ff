//! Whether a pod fits a node, and on which devices.
//!
//! Read by the extender: [`rank`] for every node of a filter call, [`place`] at bind under the node's lock. Both go
//! through the same checks, so the one succeeds exactly where the other does. A pod that does not fit gets the
//! [`Reason`] nearest to a fit: of the devices the one that lacks least, of the containers the one that lacks most.

mod one;
mod outlook;
mod search;
mod set;
#[cfg(test)]
mod tests;
mod want;

use std::sync::Arc;

use super::allocation::{Allocation, ContainerAllocation, Holding, Share};
use super::node::Node;
use super::reason::Reason;
use super::request::{ContainerRequest, GpuPolicy, NodePolicy, PodRequest};
use super::score::{Effect, value};
use super::target::{Aim, Change};
use one::Candidate;
use outlook::Outlooks;
use search::{End, How, search};
use set::{MOST_CANDIDATES, Set, Sets};
use want::{Amount, Load, Want, room};

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
    let chosen = match request.containers.as_slice() {
        [] => Vec::new(),
        [container] => {
            ready(node)?;
            let want = Want::new(node, container, &request.constraints);
            let policy = gpu_policy(request, policies, &want);
            vec![if container.count == 1 {
                let candidate = one::look_ahead(&want, policy)?;
                vec![(candidate.at, candidate.amount)]
            } else {
                several(&want, policy, true)?.0
            }]
        }
        _ => together(node, request, policies, true)?,
    };
    Ok(placement(node, request, &chosen))
}

/// Whether a pod fits a node ([`place`] succeeds exactly when this does), and if so how good that is for the cluster
/// as a whole: finite, greater is better, comparable between nodes. `cpu` in millicores and `memory` in bytes are the
/// pod's host requests; `aim` is what the cluster should keep room for.
///
/// What the devices leave to others does not count here. So of devices that are equal by policy and size (for
/// several: also in how near they are to each other) [`place`] may take others than the ones ranked.
///
/// Allocates nothing for a pod of one container that asks for one GPU.
///
/// # Errors
/// The reason nearest to a fit.
pub fn rank<'a>(
    node: &Node,
    request: &PodRequest,
    cpu: i64,
    memory: i64,
    policies: Policies,
    aim: impl Into<Aim<'a>>,
) -> Result<f64, Reason> {
    let aim = aim.into();
    let weigh = |effect: &Effect<'_>| {
        let policy = request.constraints.node_policy.unwrap_or(policies.node);
        value(node, effect, (cpu, memory), policy, aim)
    };
    match request.containers.as_slice() {
        [] => Ok(weigh(&Effect::default())),
        [container] => {
            ready(node)?;
            let want = Want::new(node, container, &request.constraints);
            let policy = gpu_policy(request, policies, &want);
            if container.count == 1 {
                let candidate = one::quick(&want, policy)?;
                let changes = [change(candidate.at, candidate.amount)];
                return Ok(weigh(&Effect { changes: &changes, breaks_up: candidate.fresh, near: 0, pairs: 0 }));
            }
            let (devices, near) = several(&want, policy, false)?;
            let changes: Vec<_> = devices.iter().map(|(at, amount)| change(*at, *amount)).collect();
            Ok(weigh(&Effect { changes: &changes, near, pairs: pairs(devices.len()), breaks_up: false }))
        }
        _ => {
            let chosen = together(node, request, policies, false)?;
            let changes = changes(node, request, &chosen);
            let mut effect = Effect { changes: &changes, ..Effect::default() };
            for devices in &chosen {
                let set: Vec<_> = devices.iter().map(|(at, _)| *at).collect();
                effect.near += node.devices.topology().within(&set);
                effect.pairs += pairs(set.len());
                effect.breaks_up |= matches!(set.as_slice(), [at] if !node.usage[*at].is_taken());
            }
            Ok(weigh(&effect))
        }
    }
}

/// What a container would hold on the device at this position, if that would do for it and has room now, whatever its other devices.
pub(crate) fn on_device(node: &Node, request: &PodRequest, container: &ContainerRequest, at: usize) -> Option<Holding> {
    let want = Want::new(node, container, &request.constraints);
    let facts = node.devices.facts().get(at)?;
    if !node.ready || !want.is_kind(at, facts) {
        return None;
    }
    let amount = want.accepts(at, facts).ok()?;
    room(facts, node.usage.get(at)?, &Load::default(), amount).ok()?;
    let Amount { memory, cores, exclusive } = amount;
    Some(Holding { device: Arc::clone(&node.devices[at].uuid), memory, cores, slots: 1, exclusive })
}

/// Which device first, for a container of this pod.
fn gpu_policy(request: &PodRequest, policies: Policies, want: &Want<'_>) -> GpuPolicy {
    let default = if want.container.count == 1 { GpuPolicy::Binpack } else { GpuPolicy::Topology };
    match request.constraints.gpu_policy.or(policies.gpu).unwrap_or(default) {
        // MIG instances do not reach each other by links, not even two of one card.
        GpuPolicy::Topology if want.is_for_instances() => GpuPolicy::Binpack,
        policy => policy,
    }
}

fn ready(node: &Node) -> Result<(), Reason> {
    if node.ready { Ok(()) } else { Err(Reason::AgentNotReady) }
}

/// A container's devices by position, and what it books on each.
type Devices = Vec<(usize, Amount)>;

/// Several devices for the only container of a pod, and how near they are to each other. `thorough`: of equal sets
/// the one that leaves the best ones to others.
fn several(want: &Want<'_>, policy: GpuPolicy, thorough: bool) -> Result<(Devices, u32), Reason> {
    want.alone()?;
    let node = want.node;
    let size = usize::try_from(want.container.count).map_err(|_| Reason::TooFewDevices)?;
    let mut candidates = Vec::with_capacity(node.devices.len());
    for (at, (facts, usage)) in node.devices.facts().iter().zip(&node.usage).enumerate() {
        if !want.is_kind(at, facts) {
            continue;
        }
        let Ok(amount) = want.accepts(at, facts) else { continue };
        if room(facts, usage, &Load::default(), amount).is_ok() {
            let load = Load { memory: amount.memory, cores: amount.cores.into(), ..Load::default() };
            let left = one::left(facts, usage, &load);
            let fresh = !usage.is_taken();
            candidates.push(Candidate {
                at,
                amount,
                covered: false,
                fresh,
                left,
                whole: one::size(facts),
                loss: (0, 0),
            });
        }
    }
    let numas = if want.is_bound() { want.numa_nodes().into_iter().map(Some).collect() } else { vec![None] };
    let is_free = |at: usize| !node.usage[at].is_taken();
    let outlooks = thorough.then(|| Outlooks::new(want, size, &is_free));
    let mut best: Option<(Devices, Set, usize)> = None;
    for numa in numas {
        let mut group = candidates.clone();
        if let Some(numa) = numa {
            group.retain(|candidate| node.devices[candidate.at].numa == numa);
        }
        if group.len() > MOST_CANDIDATES {
            group.sort_by(|a, b| one::compare(policy, a, b));
            group.truncate(MOST_CANDIDATES);
            group.sort_by_key(|candidate| candidate.at);
        }
        let sets = Sets::new(node, &group, size, policy);
        let found = if want.is_for_instances() {
            sets.one_by_one(if thorough { Some(&is_free) } else { None })
        } else {
            sets.best(outlooks.as_ref())
        };
        let among = group.len();
        if let Some(set) = found
            // Of equal ones the NUMA node with the fewest.
            && best.as_ref().is_none_or(|(_, best, most)| sets.prefer(&set, best).then(among.cmp(most)).is_lt())
        {
            let devices = sets.devices(&set).filter_map(|at| group.iter().find(|candidate| candidate.at == at));
            best = Some((devices.map(|candidate| (candidate.at, candidate.amount)).collect(), set, among));
        }
    }
    best.map(|(devices, set, _)| (devices, set.near)).ok_or(Reason::TooFewDevices)
}

/// Devices for several containers.
fn together(node: &Node, request: &PodRequest, policies: Policies, thorough: bool) -> Result<Vec<Devices>, Reason> {
    ready(node)?;
    let alone = request.containers.iter().filter_map(|c| Want::new(node, c, &request.constraints).alone().err()).min();
    let reason = match alone {
        Some(reason) if !reason.is_shortage() => return Err(reason),
        Some(shortage) => shortage,
        // The verdict comes from the same search for filter and bind; only then is a better choice sought.
        None => match search(node, request, policies, How { emptied: false, thorough: false }) {
            End::Found(chosen) if thorough => {
                let better = search(node, request, policies, How { emptied: false, thorough });
                return Ok(if let End::Found(better) = better { better } else { chosen });
            }
            End::Found(chosen) => return Ok(chosen),
            End::NoWay => Reason::PodTogether,
            End::OutOfSteps => return Err(Reason::PodTogether),
        },
    };
    // Would they fit if everybody else went? If not, no preemption helps.
    Err(if search(node, request, policies, How { emptied: true, thorough: false }) == End::NoWay {
        Reason::TooFewDevices
    } else {
        reason
    })
}

fn placement(node: &Node, request: &PodRequest, chosen: &[Devices]) -> Placement {
    let share = |(at, amount): &(usize, Amount)| Share {
        device: Arc::clone(&node.devices[*at].uuid),
        memory: amount.memory,
        cores: amount.cores,
        exclusive: amount.exclusive,
        enforcement: node.devices.facts()[*at].enforcement,
    };
    let container = |(container, devices): (&ContainerRequest, &Devices)| ContainerAllocation {
        name: Arc::clone(&container.name),
        shares: devices.iter().map(share).collect(),
    };
    let allocation = Allocation { containers: request.containers.iter().zip(chosen).map(container).collect() };
    let phases: Vec<_> = request.containers.iter().map(|c| (Arc::clone(&c.name), c.phase)).collect();
    let holdings = allocation.holdings(&phases);
    Placement { allocation, holdings }
}

/// What a choice for several containers takes of the node.
fn changes(node: &Node, request: &PodRequest, chosen: &[Devices]) -> Vec<Change> {
    let holdings = placement(node, request, chosen).holdings;
    let position = |holding: &Holding| node.devices.iter().position(|device| device.uuid == holding.device);
    let change = |holding: &Holding| {
        let Holding { memory, cores, exclusive, .. } = *holding;
        Some(Change { at: position(holding)?, memory, cores, exclusive })
    };
    holdings.iter().filter_map(change).collect()
}

fn change(at: usize, amount: Amount) -> Change {
    Change { at, memory: amount.memory, cores: amount.cores, exclusive: amount.exclusive }
}

fn pairs(devices: usize) -> u32 {
    u32::try_from(devices * devices.saturating_sub(1) / 2).unwrap_or(u32::MAX)
}
