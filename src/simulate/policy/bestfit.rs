//! Best fit: the node that has least CPU and GPU left with the pod there.
//!
//! The published plugin stretches the scores of the fitting nodes to 0..=100 afterwards. They are whole numbers in 0..=100 before,
//! so that keeps their order and their ties, and is left out.

use super::super::trace::Shape;
use super::super::world::Host;
use super::{Policy, devices};
use crate::gpu::allocation::Holding;
use crate::random::Random;

/// What the published policies count as the largest node: millicores.
pub(super) const LARGEST_CPU: f64 = 128_000.0;
/// And milli of GPU.
pub(super) const LARGEST_GPU: f64 = 8_000.0;

/// See the module.
#[derive(Debug)]
pub(super) struct Bestfit;

impl Policy for Bestfit {
    fn score(&mut self, host: &Host, shape: &Shape) -> Option<f64> {
        let rest = |part: f64| (100.0 * (1.0 - part)).trunc();
        host.fits(shape).then(|| {
            rest(leftover(host.cpu_left - shape.cpu, u64::from(host.left()).saturating_sub(host.demand(shape))))
        })
    }

    fn devices(&mut self, host: &Host, shape: &Shape, _random: &mut Random) -> Option<Vec<Holding>> {
        Some(devices::tightest(host, shape))
    }
}

/// What part of the largest node is left, 0..=1: millicores and milli of GPU.
pub(super) fn leftover(cpu: i64, gpu: u64) -> f64 {
    0.5 * cpu as f64 / LARGEST_CPU + 0.5 * gpu as f64 / LARGEST_GPU
}
