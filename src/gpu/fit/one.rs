//! One device for one container: the ordinary pod. This runs for every node of a filter call, hence allocates nothing.

use std::cmp::Ordering;

use super::super::device::Facts;
use super::super::node::{Node, Usage};
use super::super::reason::Reason;
use super::super::request::GpuPolicy;
use super::outlook::Outlooks;
use super::want::{Amount, Load, Want, room};

/// A device that a container could have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Its position on the node.
    pub(super) at: usize,
    pub(super) amount: Amount,
    /// The pod holds so much there already that this container adds nothing.
    pub(super) covered: bool,
    /// Nobody is on it yet.
    pub(super) fresh: bool,
    /// What would remain of it, 0..=1: mean of memory and cores.
    pub(super) left: f32,
    /// See [`size`].
    pub(super) whole: u32,
    pub(super) loss: Loss,
}

/// What others lose by a device, first things first. A card: how near it is to the other free ones. A MIG instance, which is near to
/// nothing: how many of its profile are left beside it on its NUMA node, then how few on its card. So one NUMA node is used up before
/// pods that are bound to one find too few on any; and on that NUMA node every card keeps some as long as it can, for pods that name
/// a card.
pub(super) type Loss = (u32, u32);

/// The best device for a container that wants one and is the only one of its pod; of equal ones the first.
pub(super) fn choose(want: &Want<'_>, policy: GpuPolicy) -> Result<Candidate, Reason> {
    let node = want.node;
    let mut best: Option<Candidate> = None;
    let mut nearest: Option<Reason> = None;
    for (at, (facts, usage)) in node.devices.facts().iter().zip(&node.usage).enumerate() {
        if !want.is_kind(at, facts) {
            continue;
        }
        let fits =
            want.accepts(at, facts).and_then(|amount| room(facts, usage, &Load::default(), amount).map(|()| amount));
        match fits {
            Err(reason) => nearest = nearest.max(Some(reason)),
            Ok(amount) => {
                let candidate = Candidate::new(node, at, amount);
                if best.is_none_or(|best| compare(policy, &candidate, &best).is_lt()) {
                    best = Some(candidate);
                }
            }
        }
    }
    // Only where no device is of the kind asked for is there no reason yet.
    best.ok_or_else(|| nearest.unwrap_or_else(|| want.alone().err().unwrap_or(Reason::NoMatchingDevice)))
}

/// What [`choose`] finds, and of devices that are equal in everything it compares the one that leaves the best to others.
pub(super) fn look_ahead(want: &Want<'_>, policy: GpuPolicy) -> Result<Candidate, Reason> {
    let node = want.node;
    let first = choose(want, policy)?;
    if !first.fresh {
        // Nobody can have it whole anyway.
        return Ok(first);
    }
    let is_tied = |at: usize| {
        let (facts, usage) = (&node.devices.facts()[at], &node.usage[at]);
        let amount = want.accepts(at, facts).ok()?;
        room(facts, usage, &Load::default(), amount).ok()?;
        Some(Candidate::new(node, at, amount)).filter(|other| compare(policy, other, &first).is_eq())
    };
    let facts = node.devices.facts().iter().enumerate();
    let ties: Vec<_> = facts.filter(|(at, facts)| want.is_kind(*at, facts)).filter_map(|(at, _)| is_tied(at)).collect();
    if ties.len() < 2 {
        return Ok(first);
    }
    let outlooks = Outlooks::new(want, 1, &|at| !node.usage[at].is_taken());
    // The first of the best.
    let best = ties.into_iter().map(|tie| (outlooks.of(&[tie.at]), tie)).reduce(|a, b| if b.0 > a.0 { b } else { a });
    Ok(best.map_or(first, |(_, tie)| tie))
}

/// What [`choose`] finds, up to devices that differ only in their links, without the reasons and comparisons that a filter does
/// not need: one pass of plain arithmetic.
#[inline]
pub(super) fn quick(want: &Want<'_>, policy: GpuPolicy) -> Result<Candidate, Reason> {
    if policy == GpuPolicy::Topology {
        return choose(want, policy);
    }
    let node = want.node;
    // From the top: fresh ones above, then what is left, then the whole: smaller is tighter. Never met: no card is that large.
    let mut best = (u64::MAX, usize::MAX);
    let turn = if policy == GpuPolicy::Spread { u64::MAX << 32 } else { 0 };
    let each = node.devices.facts().iter().zip(&node.usage).zip(&node.cordoned).enumerate();
    for (at, ((facts, usage), cordoned)) in each {
        let fresh = !usage.is_taken();
        let Some(amount) = want.demands(facts) else { continue };
        let room = (facts.memory.saturating_sub(usage.memory) >= amount.memory)
            & (u32::from(facts.cores).saturating_sub(usage.cores) >= u32::from(amount.cores.max(1)))
            & (usage.slots < facts.slots.into())
            & (usage.exclusive == 0)
            & (fresh | !amount.exclusive)
            & !cordoned;
        if !room {
            continue;
        }
        let load = Load { memory: amount.memory, cores: amount.cores.into(), ..Load::default() };
        // Not negative, hence ordered as its bits are, and the sign's place is free.
        let left = u64::from(left(facts, usage, &load).to_bits());
        let key = (u64::from(fresh) << 63 | left << 32 | u64::from(size(facts))) ^ turn;
        if key < best.0 && want.admits(at, facts) {
            best = (key, at);
        }
    }
    let at = best.1;
    let Some((facts, usage)) = node.devices.facts().get(at).zip(node.usage.get(at)) else {
        // Nothing fits. Say why; and be right where the shortcut was not.
        return choose(want, policy);
    };
    let amount = want.accepts(at, facts)?;
    let load = Load { memory: amount.memory, cores: amount.cores.into(), ..Load::default() };
    Ok(Candidate {
        at,
        amount,
        covered: false,
        fresh: !usage.is_taken(),
        left: left(facts, usage, &load),
        whole: size(facts),
        loss: (0, 0),
    })
}

impl Candidate {
    /// For the only container of a pod.
    fn new(node: &Node, at: usize, amount: Amount) -> Self {
        let (facts, usage) = (&node.devices.facts()[at], &node.usage[at]);
        let load = Load { memory: amount.memory, cores: amount.cores.into(), ..Load::default() };
        Self {
            at,
            amount,
            covered: false,
            fresh: !usage.is_taken(),
            left: left(facts, usage, &load),
            whole: size(facts),
            loss: loss(node, at, |at| !node.usage[at].is_taken()),
        }
    }
}

/// Better first. Equal ones stay in the order of the inventory.
pub(super) fn compare(policy: GpuPolicy, a: &Candidate, b: &Candidate) -> Ordering {
    let covered = b.covered.cmp(&a.covered);
    let packed = || a.fresh.cmp(&b.fresh).then_with(|| a.left.total_cmp(&b.left));
    let small = || a.whole.cmp(&b.whole);
    let loose = || a.loss.cmp(&b.loss);
    match policy {
        GpuPolicy::Binpack => covered.then_with(packed).then_with(small).then_with(loose),
        GpuPolicy::Spread => covered.then_with(|| packed().reverse()).then_with(small).then_with(loose),
        GpuPolicy::Topology => covered.then_with(loose).then_with(packed).then_with(small),
    }
}

/// What remains of a device beside `usage` and `load`, 0..=1: mean of memory and cores.
#[inline]
pub(super) fn left(facts: &Facts, usage: &Usage, load: &Load) -> f32 {
    let memory = facts.memory.saturating_sub(usage.memory).saturating_sub(load.memory);
    let cores = u32::from(facts.cores).saturating_sub(usage.cores).saturating_sub(load.cores);
    (to_f32(memory) * facts.per_mib + to_f32(cores) * facts.per_core) * 0.5
}

/// The memory of a MIG instance, MiB: of two that are left alike the larger one serves more others. Cards of one node that differ do
/// so in model, and which model is asked for more is not known here.
#[inline]
pub(super) fn size(facts: &Facts) -> u32 {
    if facts.instance { facts.memory } else { 0 }
}

/// What others lose by a device. They are the devices of its kind that are free and in use at all.
pub(super) fn loss(node: &Node, at: usize, is_free: impl Fn(usize) -> bool) -> Loss {
    let others = free(node, at, is_free).filter(|other| *other != at);
    let device = &node.devices[at];
    let Some(mig) = &device.mig else {
        return (others.map(|other| node.devices.topology().near(at, other)).sum(), 0);
    };
    let mut left = (0, u32::MAX);
    for other in others.map(|other| &node.devices[other]).filter(|other| other.numa == device.numa) {
        if other.mig.as_ref().is_some_and(|other| other.profile == mig.profile) {
            left.0 += 1;
            left.1 -= u32::from(other.parent == device.parent);
        }
    }
    left
}

/// The devices of the kind of `like` that could go to somebody whole.
pub(super) fn free(node: &Node, like: usize, is_free: impl Fn(usize) -> bool) -> impl Iterator<Item = usize> {
    let facts = node.devices.facts();
    (0..facts.len()).filter(move |at| {
        let facts_at = &facts[*at];
        facts_at.instance == facts[like].instance
            && facts_at.healthy
            && !facts_at.foreign
            && !node.cordoned[*at]
            && is_free(*at)
    })
}

/// For ratios: exact for every amount a card has.
pub(super) fn to_f32(amount: u32) -> f32 {
    amount as f32
}
