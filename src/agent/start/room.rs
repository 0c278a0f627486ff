//! Whether a pod's devices have room for it beside the pods that were verified before. Pure.

use std::sync::Arc;

use crate::agent::pins::Pin;
use crate::agent::view::NodeView;
use crate::gpu::allocation::Holding;

/// No room on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Full {
    /// The UUID.
    pub(super) device: Arc<str>,
    /// What would be too much.
    pub(super) what: &'static str,
    /// Who is on it; empty where the pod is too much by itself.
    pub(super) holders: Vec<Arc<Pin>>,
}

/// Checks each device that `pin` holds: memory, cores and slots within the device, and nobody beside an exclusive holder. A device
/// that is not in the view is left to others to refuse.
pub(super) fn check(view: &NodeView, pin: &Pin, others: &[Arc<Pin>]) -> Result<(), Full> {
    for holding in pin.holdings() {
        let Some(device) = view.device(&holding.device) else { continue };
        let mut holders = Vec::new();
        let mut held: Vec<Holding> = Vec::new();
        for other in others {
            let on_it = other.holdings().into_iter().filter(|other| other.device == holding.device);
            let before = held.len();
            held.extend(on_it);
            if held.len() > before {
                holders.push(Arc::clone(other));
            }
        }
        let all = || held.iter().chain([&holding]);
        let memory: u64 = all().map(|holding| u64::from(holding.memory)).sum();
        let cores: u64 = all().map(|holding| u64::from(holding.cores)).sum();
        let slots: u64 = all().map(|holding| u64::from(holding.slots)).sum();
        let what = if all().any(|holding| holding.exclusive) && (!held.is_empty() || holding.slots > 1) {
            "an exclusive device"
        } else if memory > device.memory.into() {
            "memory"
        } else if cores > device.cores.into() {
            "cores"
        } else if slots > device.slots.into() {
            "slots"
        } else {
            continue;
        };
        return Err(Full { device: holding.device, what, holders });
    }
    Ok(())
}
