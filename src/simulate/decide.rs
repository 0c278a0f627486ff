//! What happens when a pod arrives: the step of a replay that can be replaced. [`Direct`] is a policy that sees every pod at once and
//! decides alone; [`super::mirror`] goes the way of kube-scheduler.

use super::choose::Chooser;
use super::policy::{Event, Policy};
use super::scores::Scores;
use super::trace::Shape;
use super::world::{Placed, World};
use crate::random::Random;

/// A pod that waited and then got a node.
#[derive(Debug)]
pub(crate) struct Late {
    /// Which one, by the order of arrival, from 0.
    pub(crate) arrival: usize,
    pub(crate) placed: Placed,
}

/// Decides on pods as they come and go.
pub(crate) trait Decide {
    /// A pod arrives. Books it, and perhaps others that waited; `None` where this one got no node now.
    fn arrive(&mut self, world: &mut World, shape: &Shape) -> Option<Placed>;

    /// A pod ends. Takes it out of the world.
    fn depart(&mut self, world: &mut World, shape: &Shape, placed: &Placed);

    /// Who waited and was booked since the last call. None where nobody waits.
    fn late(&mut self) -> Vec<Late> {
        Vec::new()
    }
}

/// A policy, its scores, and who breaks ties.
pub(crate) struct Direct {
    policy: Box<dyn Policy>,
    scores: Scores,
    chooser: Chooser,
    random: Random,
}

impl Direct {
    pub(crate) fn new(policy: Box<dyn Policy>, chooser: Chooser, random: Random) -> Self {
        Self { policy, scores: Scores::default(), chooser, random }
    }
}

impl Decide for Direct {
    fn arrive(&mut self, world: &mut World, shape: &Shape) -> Option<Placed> {
        self.policy.observe(Event::Arrives(shape));
        let scores = self.scores.of(world, &mut *self.policy, shape);
        let host = self.chooser.choose(scores)?;
        let holdings = self.policy.devices(&world.hosts[host], shape, &mut self.random)?;
        let placed = world.place(host, shape, holdings);
        self.policy.observe(Event::Placed);
        Some(placed)
    }

    fn depart(&mut self, world: &mut World, shape: &Shape, placed: &Placed) {
        world.release(shape, placed);
        self.policy.observe(Event::Departs);
    }
}
