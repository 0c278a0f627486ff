//! What people have today: kube-scheduler's `NodeResourcesFit` with `MostAllocated` (binpack) or `LeastAllocated` (spread) over CPU,
//! memory and GPU, weight 1 each, whole numbers 0..=100. A pod without GPUs is weighed by CPU and memory, as there.

use super::super::trace::Shape;
use super::super::world::Host;
use super::{Policy, devices};
use crate::gpu::allocation::Holding;
use crate::random::Random;

/// See the module.
#[derive(Debug)]
pub(super) struct Even {
    /// The emptiest node and device first, not the fullest.
    pub(super) spread: bool,
}

impl Even {
    /// What `left` of `whole` counts.
    fn part(&self, left: i64, whole: i64) -> i64 {
        if whole <= 0 {
            return 0;
        }
        100 * if self.spread { left } else { whole - left } / whole
    }
}

impl Policy for Even {
    fn score(&mut self, host: &Host, shape: &Shape) -> Option<f64> {
        if !host.fits(shape) {
            return None;
        }
        let mut sum = self.part(host.cpu_left - shape.cpu, host.node.cpu)
            + self.part(host.memory_left - shape.memory, host.node.memory);
        let mut count = 2;
        if shape.gpus > 0 {
            let left = i64::from(host.left()) - i64::from(shape.gpus * host.milli(shape));
            sum += self.part(left, host.gpu.into());
            count += 1;
        }
        Some((sum / count) as f64)
    }

    fn devices(&mut self, host: &Host, shape: &Shape, _random: &mut Random) -> Option<Vec<Holding>> {
        Some(if self.spread { devices::emptiest(host, shape) } else { devices::tightest(host, shape) })
    }
}
