//! The policies that can be compared: how good it is that a pod goes to a node, and which devices it gets there. One file each;
//! definitions are those of the published experiments ("Beware of Fragmentation", USENIX ATC 2023), which `docs/simulate.md` states.
//! A policy sees one host at a time, so that its scores can be kept until that host changes.

mod bestfit;
mod clustering;
mod devices;
mod dotproduct;
mod even;
mod fgd;
mod gpu_packing;
mod packhorse;
mod random;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use super::Workload;
use super::choose::Ties;
use super::trace::{Shape, Trace};
use super::world::{Host, World};
use crate::gpu::allocation::Holding;
use crate::random::Random;

/// Which policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyName {
    /// The placement of the server.
    Packhorse,
    /// Fragmentation gradient descent, integer scores.
    Fgd,
    /// The same, continuous, less 40 x best-fit.
    FgdBestfit,
    /// The fullest node, as kube-scheduler's `MostAllocated`.
    Binpack,
    /// The emptiest node, as kube-scheduler's `LeastAllocated`.
    Spread,
    /// The node with least left.
    Bestfit,
    /// The node whose room is least like the pod.
    Dotproduct,
    /// Cards in use, then nodes in use, then others.
    GpuPacking,
    /// Nodes with pods of the same kind.
    GpuClustering,
    /// Any node, any device.
    Random,
}

/// What a policy may learn from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event<'a> {
    /// A pod comes; the decision is next.
    Arrives(&'a Shape),
    /// It got a node.
    Placed,
    /// It is gone again.
    Departs,
}

/// How nodes and devices are chosen.
pub(crate) trait Policy {
    /// Tells what happened. Scores of unchanged hosts stay as they are unless [`Policy::epoch`] changes.
    fn observe(&mut self, _event: Event<'_>) {}

    /// Another number whenever scores given before no longer hold, whatever the host's version.
    fn epoch(&self) -> u64 {
        0
    }

    /// How good it is that a pod of this shape goes to this host: finite, greater is better. `None` where it does not fit.
    fn score(&mut self, host: &Host, shape: &Shape) -> Option<f64>;

    /// The devices that it gets on a host where it fits. `None` only where the placement code finds none after all.
    fn devices(&mut self, host: &Host, shape: &Shape, random: &mut Random) -> Option<Vec<Holding>>;

    /// Who breaks ties, where the run asks for `asked`.
    fn ties(&self, asked: Ties) -> Ties {
        asked
    }
}

impl PolicyName {
    /// Every policy with its name on the command line.
    pub const ALL: [(Self, &'static str); 10] = [
        (Self::Packhorse, "packhorse"),
        (Self::Fgd, "fgd"),
        (Self::FgdBestfit, "fgd-bestfit"),
        (Self::Binpack, "binpack"),
        (Self::Spread, "spread"),
        (Self::Bestfit, "bestfit"),
        (Self::Dotproduct, "dotproduct"),
        (Self::GpuPacking, "gpu-packing"),
        (Self::GpuClustering, "gpu-clustering"),
        (Self::Random, "random"),
    ];

    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(policy, _)| *policy == self).map_or("", |(_, name)| name)
    }

    /// Where the policy has its target workload from: FGD is defined by the distribution of the whole trace, however the run is set.
    pub(crate) fn workload(self, asked: Workload) -> Workload {
        if matches!(self, Self::Fgd | Self::FgdBestfit) { Workload::Oracle } else { asked }
    }

    /// The policy at the start of a run.
    pub(crate) fn build(self, world: &World, trace: &Trace, workload: Workload) -> Box<dyn Policy> {
        match self {
            Self::Packhorse => Box::new(packhorse::Packhorse::new(world, trace, workload)),
            Self::Fgd => Box::new(fgd::Fgd::new(world, trace, fgd::Scale::Integer)),
            Self::FgdBestfit => Box::new(fgd::Fgd::new(world, trace, fgd::Scale::LessBestfit)),
            Self::Binpack => Box::new(even::Even { spread: false }),
            Self::Spread => Box::new(even::Even { spread: true }),
            Self::Bestfit => Box::new(bestfit::Bestfit),
            Self::Dotproduct => Box::new(dotproduct::Dotproduct),
            Self::GpuPacking => Box::new(gpu_packing::GpuPacking),
            Self::GpuClustering => Box::new(clustering::Clustering),
            Self::Random => Box::new(random::AnyDevice),
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PolicyName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(policy, _)| *policy).ok_or(())
    }
}
