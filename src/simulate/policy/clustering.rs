//! GPU clustering: pods of one kind (parts of a card, or the same number of cards) keep together; among such nodes the fuller.
//! Pods without GPUs go anywhere.

use super::super::trace::Shape;
use super::super::world::{Host, tag};
use super::{Policy, devices};
use crate::gpu::allocation::Holding;
use crate::random::Random;

/// Milli of GPU of the largest node.
const LARGEST: u32 = 8_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Clustering;

impl Policy for Clustering {
    fn score(&mut self, host: &Host, shape: &Shape) -> Option<f64> {
        if !host.fits(shape) {
            return None;
        }
        if shape.gpus == 0 {
            return Some(0.0);
        }
        let base = 25 * LARGEST.saturating_sub(host.left()) / LARGEST;
        let tag = tag(shape);
        let bonus = match host.tags.as_slice() {
            [] => 25,
            [(only, _)] if *only == tag => 75,
            several if several.iter().any(|(known, _)| *known == tag) => 50,
            _ => 0,
        };
        Some(f64::from(base + bonus))
    }

    fn devices(&mut self, host: &Host, shape: &Shape, _random: &mut Random) -> Option<Vec<Holding>> {
        Some(devices::tightest(host, shape))
    }
}
