//! Devices for a pod of several containers. Exact: containers in order of difficulty, each on its sets of devices from the best
//! down, going back where a later container finds no room. Sets that differ only in interchangeable devices are tried once.
//!
//! The work is bounded by [`MOST_STEPS`] sets looked at. A pod for which the bound ends the search counts as not fitting
//! together, a shortage, so that it is tried again when the node changes. It is met only by many containers that each have
//! room and together almost have.

use std::ops::Range;

use super::super::node::{Node, Usage};
use super::super::request::{Ask, GpuPolicy, Memory, Phase, PodRequest};
use super::one::{Candidate, compare, left, loss, size};
use super::outlook::Outlooks;
use super::set::{MOST_CANDIDATES, Sets};
use super::want::{Amount, Load, Want, room};
use super::{Policies, gpu_policy};

/// Sets looked at, in all, before a search gives up.
const MOST_STEPS: usize = 20_000;

/// Sets looked at for one container each time it is its turn.
const MOST_SETS: usize = 2_000;

/// How a search ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// Per container of the request: its devices, and what it books on each.
    Found(Vec<Vec<(usize, Amount)>>),
    /// There is no way.
    NoWay,
    /// The bound was met.
    OutOfSteps,
}

/// How to search.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// As if nobody were on the node.
    pub(super) emptied: bool,
    /// Weigh what a choice leaves to others; changes which devices are found, never whether there are any.
    pub(super) thorough: bool,
}

/// Searches all ways to put the pod's containers on the node.
pub(super) fn search(node: &Node, request: &PodRequest, policies: Policies, how: How) -> End {
    let mut search = Search::new(node, request, policies, how, None);
    if !search.go(0) {
        return if search.steps == 0 { End::OutOfSteps } else { End::NoWay };
    }
    // Init containers must take devices of the others wherever they can: seek a way where fewer of them do not.
    let missed = search.missed();
    for missing in 0..missed {
        let mut stricter = Search::new(node, request, policies, how, Some(missing));
        if stricter.go(0) {
            return End::Found(stricter.chosen);
        }
    }
    End::Found(search.chosen)
}

struct Search<'a> {
    node: &'a Node,
    usage: Vec<Usage>,
    wants: Vec<Want<'a>>,
    policies: Vec<GpuPolicy>,
    /// Per container: the instants of the pod's life at which it runs. One for each ordinary init container, then the last one,
    /// when sidecars and app containers run.
    runs: Vec<Range<usize>>,
    instants: usize,
    /// Per container and device: what it would book there; `None` where the device is not acceptable.
    amounts: Vec<Option<Amount>>,
    /// Which container is placed when.
    order: Vec<usize>,
    /// How many devices init containers may still take beside those of the others; `None`: any number.
    missing: Option<usize>,
    numa_bind: bool,
    /// Per device, then instant.
    loads: Vec<Load>,
    chosen: Vec<Vec<(usize, Amount)>>,
    steps: usize,
    /// The turns that have been reached: what a choice leaves to others is only weighed the first time, before any going back.
    reached: usize,
    /// Whether it is weighed at all.
    thorough: bool,
}

impl<'a> Search<'a> {
    fn new(node: &'a Node, request: &'a PodRequest, policies: Policies, how: How, missing: Option<usize>) -> Self {
        let How { emptied, thorough } = how;
        let facts = node.devices.facts();
        let usage = if emptied { vec![Usage::default(); facts.len()] } else { node.usage.clone() };
        let wants: Vec<_> =
            request.containers.iter().map(|container| Want::new(node, container, &request.constraints)).collect();
        let instants = 1 + request.containers.iter().filter(|c| c.phase == Phase::Init).count();
        let mut inits = 0;
        let runs = request.containers.iter().map(|container| match container.phase {
            Phase::Init => {
                inits += 1;
                inits - 1..inits
            }
            Phase::Sidecar => inits..instants,
            Phase::App => instants - 1..instants,
        });
        let mut amounts = Vec::with_capacity(wants.len() * facts.len());
        for want in &wants {
            amounts.extend(
                facts.iter().enumerate().map(
                    |(at, facts)| {
                        if want.is_kind(at, facts) { want.accepts(at, facts).ok() } else { None }
                    },
                ),
            );
        }
        let mut search = Self {
            runs: runs.collect(),
            policies: wants.iter().map(|want| gpu_policy(request, policies, want)).collect(),
            node,
            usage,
            wants,
            instants,
            amounts,
            order: Vec::new(),
            missing,
            numa_bind: request.constraints.numa_bind,
            loads: vec![Load::default(); facts.len() * instants],
            chosen: vec![Vec::new(); request.containers.len()],
            steps: MOST_STEPS,
            reached: 0,
            thorough,
        };
        search.order = search.by_difficulty();
        search
    }

    /// The containers with the least choice first, then the largest, then in the order of the pod.
    fn by_difficulty(&self) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.wants.len()).collect();
        order.sort_by_key(|container| {
            let wanted = self.wants[*container].container;
            let init_last = self.missing.is_some() && wanted.phase == Phase::Init;
            let count = usize::try_from(wanted.count).unwrap_or(usize::MAX);
            let slack = self.fitting(*container).count().saturating_sub(count);
            let (exclusive, memory) = match &wanted.ask {
                Ask::Exclusive | Ask::Mig(_) => (true, u32::MAX),
                Ask::Share { memory: Memory::Mib(mib), .. } => (false, *mib),
                // Of the largest card: good enough for an order.
                Ask::Share { .. } => {
                    (false, self.amounts(*container).iter().flatten().map(|amount| amount.memory).max().unwrap_or(0))
                }
            };
            (init_last, slack, !exclusive, u32::MAX - wanted.count, u32::MAX - memory)
        });
        order
    }

    /// Places the containers from the `turn`-th on.
    fn go(&mut self, turn: usize) -> bool {
        let Some(&container) = self.order.get(turn) else { return true };
        let wanted = &self.wants[container];
        let Ok(size) = usize::try_from(wanted.container.count) else { return false };
        let numas = if wanted.is_bound() { wanted.numa_nodes().into_iter().map(Some).collect() } else { vec![None] };
        let first_time = turn >= self.reached;
        self.reached = self.reached.max(turn + 1);
        for numa in numas {
            // Kinds are numbered among these candidates, so what was tried on another NUMA node says nothing.
            let mut tried: Vec<Vec<usize>> = Vec::new();
            let mut candidates = self.candidates(container, first_time);
            if let Some(numa) = numa {
                candidates.retain(|candidate| self.node.devices[candidate.at].numa == numa);
            }
            if candidates.len() > MOST_CANDIDATES {
                candidates.sort_by(|a, b| compare(self.policies[container], a, b));
                candidates.truncate(MOST_CANDIDATES);
                candidates.sort_by_key(|candidate| candidate.at);
            }
            let alike = self.alike(&candidates, turn);
            let needed = if self.must_reuse(container) { self.reusable(size) } else { 0 };
            let sets = Sets::new(self.node, &candidates, size, self.policies[container]);
            let outlooks = (first_time && self.thorough)
                .then(|| Outlooks::new(&self.wants[container], size, &|at| self.is_free(at)));
            let sets = if size == 1 {
                sets.singles(outlooks.as_ref())
            } else {
                sets.sorted(MOST_SETS.min(self.steps), outlooks.as_ref())
            };
            self.steps = self.steps.saturating_sub(sets.len());
            for set in sets {
                let missed = needed.saturating_sub(usize::try_from(set.covered).unwrap_or(usize::MAX));
                if self.missing.is_some_and(|missing| missing < missed) {
                    // Sets come by this first.
                    break;
                }
                let members = (0..candidates.len()).filter(|bit| set.members >> bit & 1 == 1);
                let mut kinds: Vec<_> = members.clone().map(|member| alike[member]).collect();
                kinds.sort_unstable();
                if tried.contains(&kinds) {
                    continue;
                }
                tried.push(kinds);
                let devices: Vec<_> =
                    members.map(|member| (candidates[member].at, candidates[member].amount)).collect();
                self.put(container, &devices);
                self.chosen[container].clone_from(&devices);
                let missing = self.missing;
                self.missing = missing.map(|missing| missing - missed);
                if self.go(turn + 1) {
                    return true;
                }
                self.missing = missing;
                self.take(container, &devices);
                if self.steps == 0 {
                    return false;
                }
            }
        }
        false
    }

    /// Beside the devices.
    fn amounts(&self, container: usize) -> &[Option<Amount>] {
        let devices = self.usage.len();
        &self.amounts[container * devices..][..devices]
    }

    fn load(&self, device: usize) -> &[Load] {
        &self.loads[device * self.instants..][..self.instants]
    }

    /// The devices with room for a container, with what it would book.
    fn fitting(&self, container: usize) -> impl Iterator<Item = (usize, Amount)> {
        let facts = self.node.devices.facts();
        self.amounts(container).iter().enumerate().filter_map(move |(at, amount)| {
            let amount = (*amount)?;
            let loads = &self.load(at)[self.runs[container].clone()];
            loads.iter().all(|load| room(&facts[at], &self.usage[at], load, amount).is_ok()).then_some((at, amount))
        })
    }

    fn candidates(&self, container: usize, first_time: bool) -> Vec<Candidate> {
        let reuses = self.must_reuse(container);
        let partners = first_time && (self.thorough || self.policies[container] == GpuPolicy::Topology);
        self.fitting(container)
            .map(|(at, amount)| {
                let (before, after) = (self.peak(at, None), self.peak(at, Some((container, amount))));
                Candidate {
                    at,
                    amount,
                    covered: if reuses {
                        self.is_used(at)
                    } else {
                        before.slots > 0 && after.memory == before.memory && after.cores == before.cores
                    },
                    fresh: self.is_free(at),
                    left: left(&self.node.devices.facts()[at], &self.usage[at], &after),
                    whole: size(&self.node.devices.facts()[at]),
                    loss: if partners { loss(self.node, at, |at| self.is_free(at)) } else { (0, 0) },
                }
            })
            .collect()
    }

    /// What the pod holds of a device, with `more` or without.
    fn peak(&self, device: usize, more: Option<(usize, Amount)>) -> Load {
        let mut peak = Load::default();
        for (instant, load) in self.load(device).iter().enumerate() {
            let (mut memory, mut cores) = (load.memory, load.cores);
            if let Some((container, amount)) = more
                && self.runs[container].contains(&instant)
            {
                memory += amount.memory;
                cores += u32::from(amount.cores);
            }
            peak.memory = peak.memory.max(memory);
            peak.cores = peak.cores.max(cores);
            peak.slots = peak.slots.max(load.slots);
        }
        peak
    }

    fn is_free(&self, device: usize) -> bool {
        !self.usage[device].is_taken() && self.load(device).iter().all(|load| load.slots == 0)
    }

    /// Whether sidecars or app containers of the pod are on the device.
    fn is_used(&self, device: usize) -> bool {
        self.load(device).last().is_some_and(|load| load.slots > 0)
    }

    fn must_reuse(&self, container: usize) -> bool {
        self.missing.is_some() && self.wants[container].container.phase == Phase::Init
    }

    /// How many devices of the others a container that wants `size` could take at best.
    fn reusable(&self, size: usize) -> usize {
        (0..self.usage.len()).filter(|at| self.is_used(*at)).count().min(size)
    }

    /// How many devices init containers took beside those of the others, though there were enough of these.
    fn missed(&self) -> usize {
        let inits = self.wants.iter().enumerate().filter(|(_, want)| want.container.phase == Phase::Init);
        inits
            .map(|(container, _)| {
                let devices = &self.chosen[container];
                let shared = devices.iter().filter(|(at, _)| self.is_used(*at)).count();
                self.reusable(devices.len()) - shared
            })
            .sum()
    }

    /// For each candidate the first one that is the same in every way that decides whether the containers from `turn` on fit.
    fn alike(&self, candidates: &[Candidate], turn: usize) -> Vec<usize> {
        let facts = self.node.devices.facts();
        let same = |a: usize, b: usize| {
            let (x, y) = (&facts[a], &facts[b]);
            (x.memory, x.cores, x.slots) == (y.memory, y.cores, y.slots)
                && self.usage[a] == self.usage[b]
                && self.load(a) == self.load(b)
                && self.order[turn..].iter().all(|container| {
                    let amounts = self.amounts(*container);
                    amounts[a] == amounts[b]
                })
                && (!self.numa_bind || self.node.devices[a].numa == self.node.devices[b].numa)
        };
        (0..candidates.len())
            .map(|at| (0..at).find(|earlier| same(candidates[*earlier].at, candidates[at].at)).unwrap_or(at))
            .collect()
    }

    fn put(&mut self, container: usize, devices: &[(usize, Amount)]) {
        for (device, amount) in devices {
            for instant in self.runs[container].clone() {
                let load = &mut self.loads[device * self.instants + instant];
                load.memory += amount.memory;
                load.cores += u32::from(amount.cores);
                load.slots += 1;
                load.exclusive += u32::from(amount.exclusive);
                load.unlimited += u32::from(amount.cores == 0);
            }
        }
    }

    fn take(&mut self, container: usize, devices: &[(usize, Amount)]) {
        for (device, amount) in devices {
            for instant in self.runs[container].clone() {
                let load = &mut self.loads[device * self.instants + instant];
                load.memory -= amount.memory;
                load.cores -= u32::from(amount.cores);
                load.slots -= 1;
                load.exclusive -= u32::from(amount.exclusive);
                load.unlimited -= u32::from(amount.cores == 0);
            }
        }
    }
}
