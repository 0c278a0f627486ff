//! GPU packing: cards in use first, then free cards of nodes in use, then nodes nobody uses, the smaller the better. Pods without
//! GPUs go anywhere.

use super::super::trace::{Shape, WHOLE};
use super::super::world::Host;
use super::{Policy, devices};
use crate::gpu::allocation::Holding;
use crate::random::Random;

/// See the module.
#[derive(Debug)]
pub(super) struct GpuPacking;

impl Policy for GpuPacking {
    fn score(&mut self, host: &Host, shape: &Shape) -> Option<f64> {
        if !host.fits(shape) {
            return None;
        }
        if shape.gpus == 0 {
            return Some(0.0);
        }
        let is_free = |at: &usize| host.free[*at] == WHOLE;
        let free = (0..host.free.len()).filter(is_free).count();
        if host.left() == host.gpu {
            return Some(33_usize.saturating_sub(free).max(free) as f64);
        }
        let mut taken = devices::tightest_first(host, shape);
        taken.truncate(shape.gpus as usize);
        let opened = taken.iter().filter(|at| is_free(at)).count();
        if opened > 0 {
            return Some(50_usize.saturating_sub(opened).max(33) as f64);
        }
        let holes: u32 = taken.iter().map(|at| host.free[*at] * 100 / WHOLE).sum();
        Some(f64::from(100_u32.saturating_sub(holes / 10).max(50)))
    }

    fn devices(&mut self, host: &Host, shape: &Shape, _random: &mut Random) -> Option<Vec<Holding>> {
        Some(devices::tightest(host, shape))
    }
}
