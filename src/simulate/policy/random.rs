//! Any node that fits, any device of it that does.

use super::super::choose::Ties;
use super::super::trace::Shape;
use super::super::world::Host;
use super::{Policy, devices};
use crate::gpu::allocation::Holding;
use crate::random::Random;

/// See the module.
#[derive(Debug)]
pub(super) struct AnyDevice;

impl Policy for AnyDevice {
    fn score(&mut self, host: &Host, shape: &Shape) -> Option<f64> {
        host.fits(shape).then_some(0.0)
    }

    fn devices(&mut self, host: &Host, shape: &Shape, random: &mut Random) -> Option<Vec<Holding>> {
        if shape.gpus != 1 || shape.served {
            return Some(devices::tightest(host, shape));
        }
        let fitting = devices::tightest_first(host, shape);
        fitting.get(random.below(fitting.len())).map(|at| host.holdings(shape, [*at]))
    }

    fn ties(&self, _asked: Ties) -> Ties {
        Ties::Random
    }
}
