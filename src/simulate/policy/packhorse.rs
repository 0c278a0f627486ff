//! The placement of the server, called as the extender calls it: [`rank`] for every node, [`place`] for the devices.

use super::super::Workload;
use super::super::trace::{Shape, Trace};
use super::super::world::{Host, World};
use super::{Event, Policy};
use crate::gpu::allocation::Holding;
use crate::gpu::fit::{Policies, place, rank};
use crate::random::Random;

/// See the module.
#[derive(Debug)]
pub(super) struct Packhorse {
    policies: Policies,
}

impl Packhorse {
    pub(super) fn new(_world: &World, _trace: &Trace, _workload: Workload) -> Self {
        Self { policies: Policies::default() }
    }
}

impl Policy for Packhorse {
    // The score does not look at what came before.
    fn observe(&mut self, _event: Event<'_>) {}

    fn score(&mut self, host: &Host, shape: &Shape) -> Option<f64> {
        if !host.has_host_room(shape) {
            return None;
        }
        rank(&host.node, &shape.request, shape.cpu, shape.memory, self.policies).ok()
    }

    fn devices(&mut self, host: &Host, shape: &Shape, _random: &mut Random) -> Option<Vec<Holding>> {
        place(&host.node, &shape.request, self.policies).ok().map(|placement| placement.holdings)
    }
}
