//! Dot product: room and pod as vectors of CPU and GPU; the node where they align least.

use super::super::trace::Shape;
use super::super::world::Host;
use super::bestfit::{LARGEST_CPU, LARGEST_GPU};
use super::{Policy, devices};
use crate::gpu::allocation::Holding;
use crate::random::Random;

/// See the module.
#[derive(Debug)]
pub(super) struct Dotproduct;

impl Policy for Dotproduct {
    fn score(&mut self, host: &Host, shape: &Shape) -> Option<f64> {
        if !host.fits(shape) {
            return None;
        }
        let cpu = (host.cpu_left as f64 / LARGEST_CPU) * (shape.cpu as f64 / LARGEST_CPU);
        let gpu = (f64::from(host.left()) / LARGEST_GPU) * (host.demand(shape) as f64 / LARGEST_GPU);
        Some((100.0 * (1.0 - f64::midpoint(cpu, gpu))).trunc())
    }

    fn devices(&mut self, host: &Host, shape: &Shape, _random: &mut Random) -> Option<Vec<Holding>> {
        Some(devices::tightest(host, shape))
    }
}
