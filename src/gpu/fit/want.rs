//! What one container wants, held against one device: constraints, size, and room beside what is booked and beside the pod's other
//! containers. Used by every way of choosing; the first check that fails is the reason, so that a shortage is only ever told of
//! a device that would do if it were empty.

use std::cell::Cell;

use super::super::device::{Device, Facts};
use super::super::matching::matches_any;
use super::super::node::{Node, Usage};
use super::super::reason::Reason;
use super::super::request::{Ask, Constraints, ContainerRequest};

/// What a container books on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Amount {
    /// MiB.
    pub(super) memory: u32,
    /// Percent.
    pub(super) cores: u16,
    pub(super) exclusive: bool,
}

/// What containers of the pod itself put on a device at one instant of the pod's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Load {
    pub(super) memory: u32,
    pub(super) cores: u32,
    pub(super) slots: u32,
    pub(super) exclusive: u32,
    /// Shares without a core limit, which need cores left.
    pub(super) unlimited: u32,
}

/// One container's request on one node.
#[derive(Debug, Clone)]
pub(super) struct Want<'a> {
    pub(super) node: &'a Node,
    pub(super) container: &'a ContainerRequest,
    constraints: &'a Constraints,
    /// Neither constraint nor pin: nothing to compare.
    plain: bool,
    /// The last model compared (by the first device that has it), and whether it is accepted.
    model: Cell<Option<(u16, bool)>>,
    /// Whether the request goes to MIG instances here.
    instances: bool,
}

/// How many devices of a node fit, and why the others do not.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    fits: u32,
    refused: [u32; Reason::ALL.len()],
}

impl<'a> Want<'a> {
    pub(super) fn new(node: &'a Node, container: &'a ContainerRequest, constraints: &'a Constraints) -> Self {
        let plain = container.index.is_empty()
            && container.uuid.is_empty()
            && constraints.model.is_empty()
            && constraints.model_exclude.is_empty()
            && constraints.uuid.is_empty()
            && constraints.uuid_exclude.is_empty();
        let instances = match container.ask {
            Ask::Mig(_) => true,
            // Strategy `single` on a node whose cards are not partitioned leaves them whole.
            Ask::Exclusive | Ask::Share { .. } => node.mig_single && node.devices.has_instances(),
        };
        Self { node, container, constraints, plain, model: Cell::new(None), instances }
    }

    /// Whether the request goes to MIG instances on this node.
    pub(super) fn is_for_instances(&self) -> bool {
        self.instances
    }

    /// Whether the device is of the kind asked for at all: a card, an instance, an instance of the profile.
    #[inline]
    pub(super) fn is_kind(&self, at: usize, facts: &Facts) -> bool {
        match &self.container.ask {
            Ask::Mig(profile) => self.node.devices[at].mig.as_ref().is_some_and(|mig| mig.profile == *profile),
            Ask::Exclusive | Ask::Share { .. } => facts.instance == self.instances,
        }
    }

    /// What the container would book on a device of these facts.
    #[inline]
    fn amount(&self, facts: &Facts) -> Amount {
        match &self.container.ask {
            Ask::Exclusive | Ask::Mig(_) => Amount { memory: facts.memory, cores: facts.cores, exclusive: true },
            Ask::Share { memory, cores } => {
                Amount { memory: memory.of(facts.memory), cores: u16::from(*cores), exclusive: false }
            }
        }
    }

    /// What the container would book there, unless the device's facts rule it out.
    #[inline]
    pub(super) fn demands(&self, facts: &Facts) -> Option<Amount> {
        let amount = self.amount(facts);
        let kept =
            amount.exclusive | self.constraints.require_enforcement.is_none_or(|level| facts.enforcement >= level);
        (facts.healthy & !facts.foreign & (facts.instance == self.instances) & kept).then_some(amount)
    }

    /// Whether the rest of what [`Want::accepts`] asks holds, which takes a look at the device itself.
    #[inline]
    pub(super) fn admits(&self, at: usize, facts: &Facts) -> bool {
        self.is_kind(at, facts) && (self.plain || self.matches(&self.node.devices[at], facts))
    }

    /// What the container would book there, if the device is acceptable and large enough when empty.
    #[inline]
    pub(super) fn accepts(&self, at: usize, facts: &Facts) -> Result<Amount, Reason> {
        if !self.plain && !self.matches(&self.node.devices[at], facts) {
            return Err(Reason::NoMatchingDevice);
        }
        let amount = self.amount(facts);
        if amount.cores > facts.cores {
            return Err(Reason::NoMatchingDevice);
        }
        if amount.memory > facts.memory {
            return Err(Reason::DeviceTooSmall);
        }
        if let Some(required) = self.constraints.require_enforcement
            && !amount.exclusive
            && facts.enforcement < required
        {
            return Err(Reason::EnforcementTooWeak);
        }
        if facts.foreign {
            return Err(Reason::DeviceForeign);
        }
        if self.node.cordoned[at] {
            return Err(Reason::DeviceCordoned);
        }
        if !facts.healthy {
            return Err(Reason::DeviceUnhealthy);
        }
        Ok(amount)
    }

    fn matches(&self, device: &Device, facts: &Facts) -> bool {
        let Constraints { uuid, uuid_exclude, .. } = self.constraints;
        let pins = &self.container.uuid;
        self.accepts_model(device, facts)
            && (uuid.is_empty() || uuid.iter().any(|name| is_named(device, name)))
            && !uuid_exclude.iter().any(|name| is_named(device, name))
            && (pins.is_empty() || pins.iter().any(|name| is_named(device, name)))
            && (self.container.index.is_empty() || self.container.index.contains(&device.index))
    }

    fn accepts_model(&self, device: &Device, facts: &Facts) -> bool {
        if let Some((model, accepted)) = self.model.get()
            && model == facts.model
        {
            return accepted;
        }
        let Constraints { model, model_exclude, .. } = self.constraints;
        let accepted =
            (model.is_empty() || matches_any(model, &device.model)) && !matches_any(model_exclude, &device.model);
        self.model.set(Some((facts.model, accepted)));
        accepted
    }

    /// Counts the devices that have room, whatever the pod's other containers do. `usage` is the node's, or an empty node's.
    pub(super) fn tally(&self, mut belongs: impl FnMut(usize) -> bool) -> Tally {
        let mut tally = Tally::default();
        for (at, (facts, usage)) in self.node.devices.facts().iter().zip(&self.node.usage).enumerate() {
            if self.is_kind(at, facts) && belongs(at) {
                match self.accepts(at, facts).and_then(|amount| room(facts, usage, &Load::default(), amount)) {
                    Ok(()) => tally.fits += 1,
                    Err(reason) => tally.refused[reason as usize] += 1,
                }
            }
        }
        tally
    }

    /// Why the container does not fit on the node, alone.
    pub(super) fn alone(&self) -> Result<(), Reason> {
        let all = self.tally(|_| true).verdict(self);
        if !self.is_bound() || matches!(all, Err(reason) if !reason.is_shortage()) {
            return all;
        }
        // Enough devices on the node; what of one NUMA node?
        let mut nearest = Err(Reason::NumaSplit);
        for numa in self.numa_nodes() {
            match self.tally(|at| self.node.devices[at].numa == numa).verdict(self) {
                Ok(()) => return Ok(()),
                Err(reason) if reason.is_shortage() => nearest = nearest.max(Err(reason)),
                Err(_) => {}
            }
        }
        nearest
    }

    /// Whether its devices must share a NUMA node.
    pub(super) fn is_bound(&self) -> bool {
        self.constraints.numa_bind && self.container.count > 1
    }

    /// The NUMA nodes to try, in order. A node none of whose devices knows its NUMA node has just one; where some know, a device
    /// that does not can be trusted to be beside none.
    pub(super) fn numa_nodes(&self) -> Vec<Option<u16>> {
        let mut numas: Vec<_> = self.node.devices.iter().map(|device| device.numa).collect();
        numas.sort_unstable();
        numas.dedup();
        if numas.len() > 1 {
            numas.retain(Option::is_some);
        }
        numas
    }
}

impl Tally {
    fn verdict(&self, want: &Want<'_>) -> Result<(), Reason> {
        let count = want.container.count;
        let mut found = self.fits;
        if found >= count {
            return Ok(());
        }
        // The count-th nearest device is the one that stands in the way.
        for reason in Reason::ALL.into_iter().rev() {
            let better = found;
            found = found.saturating_add(self.refused[reason as usize]);
            if found >= count {
                let too_few = reason == Reason::NoMatchingDevice && better > 0;
                return Err(if too_few { Reason::TooFewDevices } else { reason });
            }
        }
        Err(if found > self.refused[Reason::NoMatchingDevice as usize] {
            Reason::TooFewDevices
        } else if found == 0 && matches!(want.container.ask, Ask::Mig(_)) {
            Reason::NoMigProfile
        } else {
            Reason::NoMatchingDevice
        })
    }
}

/// Whether there is room for `amount` beside what is booked (`usage`) and beside the pod's own containers (`load`).
#[inline]
pub(super) fn room(facts: &Facts, usage: &Usage, load: &Load, amount: Amount) -> Result<(), Reason> {
    if amount.exclusive {
        if usage.is_taken() || load.slots > 0 {
            return Err(Reason::DeviceExclusive);
        }
    } else if usage.exclusive > 0 || load.exclusive > 0 {
        return Err(Reason::DeviceExclusive);
    }
    if usage.slots.saturating_add(load.slots) >= facts.slots.into() {
        return Err(Reason::SlotsExhausted);
    }
    let cores = usage.cores.saturating_add(load.cores).saturating_add(amount.cores.into());
    let unlimited = load.unlimited > 0 || amount.cores == 0;
    if cores.saturating_add(unlimited.into()) > facts.cores.into() {
        return Err(Reason::CoresExhausted);
    }
    let memory = usage.memory.saturating_add(load.memory).saturating_add(amount.memory);
    if memory > facts.memory { Err(Reason::MemoryExhausted) } else { Ok(()) }
}

/// Whether a UUID names the device: its own, or the card's of a MIG instance.
fn is_named(device: &Device, name: &str) -> bool {
    *device.uuid == *name || device.parent.as_deref() == Some(name)
}
