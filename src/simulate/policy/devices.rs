//! Which devices the published policies take on the node they chose.

use super::super::trace::Shape;
use super::super::world::Host;
use crate::gpu::allocation::Holding;

/// Positions of the devices that would do, fullest first; equal ones in their order. Where the server decides: those it gives.
pub(super) fn tightest_first(host: &Host, shape: &Shape) -> Vec<usize> {
    if shape.served {
        let served = host.served(shape).unwrap_or_default();
        let position = |holding: &Holding| host.node.devices.iter().position(|device| device.uuid == holding.device);
        return served.iter().filter_map(position).collect();
    }
    let mut devices: Vec<_> = (0..host.free.len()).filter(|at| host.takes(*at, shape)).collect();
    devices.sort_by_key(|at| host.free[*at]);
    devices
}

/// The tightest device; for whole cards the first free ones.
pub(super) fn tightest(host: &Host, shape: &Shape) -> Vec<Holding> {
    if shape.served {
        return host.served(shape).unwrap_or_default();
    }
    if shape.gpus == 0 {
        return Vec::new();
    }
    host.holdings(shape, tightest_first(host, shape).into_iter().take(shape.gpus as usize))
}

/// The emptiest device; for whole cards the first free ones.
pub(super) fn emptiest(host: &Host, shape: &Shape) -> Vec<Holding> {
    if shape.served || shape.gpus == 0 {
        return tightest(host, shape);
    }
    let mut devices = tightest_first(host, shape);
    devices.sort_by_key(|at| u32::MAX - host.free[*at]);
    host.holdings(shape, devices.into_iter().take(shape.gpus as usize))
}
