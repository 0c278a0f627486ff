//! The placement of the server, called as the extender calls it: [`rank`] for every node, [`place`] for the devices,
//! and a target that is learned as the server learns it.

use std::collections::HashMap;

use super::super::Workload as Source;
use super::super::trace::{Shape, Trace};
use super::super::world::{Host, World};
use super::{Event, Policy};
use crate::gpu::allocation::Holding;
use crate::gpu::card::CardKind;
use crate::gpu::fit::{Policies, place, rank};
use crate::gpu::target::Target;
use crate::gpu::workload::{Kind, Workload};
use crate::random::Random;

/// See the module.
#[derive(Debug)]
pub(super) struct Packhorse {
    policies: Policies,
    workload: Workload,
    target: Target,
    epoch: u64,
    /// By shape.
    kinds: Vec<Kind>,
    /// How many there are of each.
    cards: HashMap<CardKind, u64>,
}

impl Packhorse {
    pub(super) fn new(world: &World, trace: &Trace, source: Source) -> Self {
        let kinds: Vec<Kind> = trace.shapes.iter().map(|shape| Kind::of(&shape.request, shape.cpu)).collect();
        let workload = match source {
            Source::Learned => Workload::default(),
            Source::Oracle => {
                Workload::known(trace.pods.iter().map(|pod| (&kinds[pod.shape], trace.shapes[pod.shape].memory)))
            }
        };
        let mut cards = HashMap::new();
        for host in &world.hosts {
            for (kind, count) in host.node.devices.cards().counts() {
                *cards.entry(kind.clone()).or_default() += count;
            }
        }
        let target = Target::new(&workload, &cards);
        Self { policies: Policies::default(), workload, target, epoch: 0, kinds, cards }
    }
}

impl Policy for Packhorse {
    fn observe(&mut self, event: Event<'_>) {
        match event {
            Event::Arrives(shape) => {
                if self.workload.arrive(&self.kinds[shape.id], shape.memory) {
                    self.target = Target::new(&self.workload, &self.cards);
                    self.epoch += 1;
                }
            }
            Event::Placed => self.workload.accept(),
            Event::Departs => self.workload.depart(),
        }
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn score(&mut self, host: &Host, shape: &Shape) -> Option<f64> {
        if !host.has_host_room(shape) {
            return None;
        }
        rank(&host.node, &shape.request, shape.cpu, shape.memory, self.policies, &self.target).ok()
    }

    fn devices(&mut self, host: &Host, shape: &Shape, _random: &mut Random) -> Option<Vec<Holding>> {
        place(&host.node, &shape.request, self.policies).ok().map(|placement| placement.holdings)
    }
}
