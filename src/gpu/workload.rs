//! What kinds of pods a cluster gets, learned from those that come: a decayed histogram, kept small. Written with
//! every arrival, acceptance and departure by whoever sees them (the ledger, the simulator); read when a
//! [`super::target::Target`] is built.
//!
//! Nothing here can fail. What is learned only moves rankings, never verdicts: a wrong histogram packs worse and
//! breaks nothing.

use std::collections::HashMap;

use super::request::{Ask, Phase, PodRequest};

/// After this many arrivals, one counts a third of a new one (1/e).
const MEMORY: f64 = 3000.0;

/// How many kinds are remembered at most; beyond, the rarest are forgotten.
const MOST_KINDS: usize = 512;

/// After how many arrivals the target is built anew, once a cluster has seen that many; before, at each power of two.
const STEP: u64 = 2000;

/// In how many steps the turnover is told.
const TURNS: u8 = 4;

/// What was placed while a cluster filled up stays for long, so the change to a steady state is made early: when one
/// pod leaves for every four that come.
const RAMP: f64 = 4.0;

/// Same devices for one container, or for several alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Part {
    /// How many different devices.
    pub count: u32,
    /// What of each.
    pub ask: Ask,
}

/// What of a pod matters to packing. Pods of one kind may differ in host memory, of which the mean is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    /// Millicores.
    pub cpu: i64,
    /// Per container that runs beside the others, sorted; empty for a pod without GPUs.
    pub parts: Vec<Part>,
    /// Accepted models, any where empty.
    pub model: Vec<String>,
    /// Refused models.
    pub model_exclude: Vec<String>,
}

/// How often pods of a kind came, old ones counting less.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seen {
    weight: f64,
    /// Of host memory, in MiB, times the weight.
    memory: f64,
}

/// The kinds of pods that arrived.
#[derive(Debug, Clone)]
pub struct Workload {
    kinds: HashMap<Kind, Seen>,
    /// What one arrival counts now; grows instead of all others shrinking.
    unit: f64,
    arrivals: u64,
    accepted: f64,
    departed: f64,
    /// The step of [`Workload::turnover`] that was last given out.
    step: u8,
    /// The kinds are known beforehand: arrivals teach nothing more.
    known: bool,
}

impl Kind {
    /// The kind of a pod with this request and `cpu` millicores. Pins to single devices are left out: they are nobody
    /// else's.
    pub fn of(request: &PodRequest, cpu: i64) -> Self {
        // Ordinary init containers run alone and take devices of the others wherever they can.
        let lasting = |phase: Phase| phase != Phase::Init;
        let any = request.containers.iter().any(|container| lasting(container.phase));
        let mut parts: Vec<Part> = request
            .containers
            .iter()
            .filter(|container| lasting(container.phase) == any)
            .map(|container| Part { count: container.count, ask: container.ask.clone() })
            .collect();
        parts.sort_unstable();
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort_unstable();
            names
        };
        let constraints = &request.constraints;
        Self { cpu, parts, model: sorted(&constraints.model), model_exclude: sorted(&constraints.model_exclude) }
    }

    /// The most devices that one container of it wants at once.
    pub fn largest(&self) -> u32 {
        self.parts.iter().map(|part| part.count).max().unwrap_or(0)
    }
}

impl Default for Workload {
    fn default() -> Self {
        Self { kinds: HashMap::new(), unit: 1.0, arrivals: 0, accepted: 0.0, departed: 0.0, step: 0, known: false }
    }
}

impl Workload {
    /// A workload that is known beforehand, each pod counting alike: what learning is measured against. Host memory
    /// in bytes.
    pub fn known<'a>(pods: impl IntoIterator<Item = (&'a Kind, i64)>) -> Self {
        let mut workload = Self::default();
        for (kind, memory) in pods {
            workload.count(kind, memory);
        }
        Self { known: true, ..workload }
    }

    /// A pod that was there before anybody counted: each of these counts alike.
    pub fn find(&mut self, kind: &Kind, memory: i64, accepted: bool) {
        self.count(kind, memory);
        self.arrivals += 1;
        if accepted {
            self.accepted += self.unit;
        }
    }

    /// A pod came, whatever becomes of it. `memory` is the host memory it asks for, in bytes. True where the target
    /// should be built anew.
    pub fn arrive(&mut self, kind: &Kind, memory: i64) -> bool {
        if !self.known {
            self.count(kind, memory);
        }
        self.unit /= 1.0 - 1.0 / MEMORY;
        self.arrivals += 1;
        if self.unit > 1e9 {
            self.rescale();
        }
        if !self.known && self.kinds.len() > MOST_KINDS {
            self.forget();
        }
        let due = self.arrivals.is_multiple_of(STEP) || (self.arrivals < STEP && self.arrivals.is_power_of_two());
        (due && !self.known) | self.has_turned()
    }

    /// A pod that came got a node.
    pub fn accept(&mut self) {
        self.accepted += self.unit;
    }

    /// A pod left its node.
    pub fn depart(&mut self) {
        self.departed += self.unit;
    }

    /// All that were there have been found. Together they count no more than what is remembered of arrivals, and as
    /// many leave as come: what is assumed of pods whose past nobody has seen.
    pub fn settle(&mut self) {
        let all: f64 = self.kinds.values().map(|seen| seen.weight).sum();
        if all > MEMORY * self.unit {
            self.scale(MEMORY * self.unit / all);
        }
        while self.kinds.len() > MOST_KINDS {
            self.forget();
        }
        self.departed = self.accepted;
        self.step = self.turnover_step();
    }

    /// How many arrived since the start.
    pub fn arrivals(&self) -> u64 {
        self.arrivals
    }

    /// How far the cluster is from only filling up, 0..=1 in quarters: 1 where at least one pod leaves for every four
    /// that get a node.
    pub fn turnover(&self) -> f64 {
        f64::from(self.step) / f64::from(TURNS)
    }

    /// Every kind with its share of the arrivals (sums to 1) and its mean host memory in MiB; the commonest first.
    pub fn shares(&self) -> Vec<(&Kind, f64, f64)> {
        let all: f64 = self.kinds.values().map(|seen| seen.weight).sum();
        let mut shares: Vec<_> =
            self.kinds.iter().map(|(kind, seen)| (kind, seen.weight / all, seen.memory / seen.weight)).collect();
        // Of equals any fixed order will do.
        shares.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        shares
    }

    fn count(&mut self, kind: &Kind, memory: i64) {
        let (weight, memory) = (self.unit, self.unit * (memory.max(0) >> 20) as f64);
        match self.kinds.get_mut(kind) {
            Some(seen) => {
                seen.weight += weight;
                seen.memory += memory;
            }
            None => {
                self.kinds.insert(kind.clone(), Seen { weight, memory });
            }
        }
    }

    fn turnover_step(&self) -> u8 {
        if self.accepted <= 0.0 {
            return 0;
        }
        (f64::from(TURNS) * (RAMP * self.departed / self.accepted).clamp(0.0, 1.0)).round() as u8
    }

    fn has_turned(&mut self) -> bool {
        // Looked at now and then only: near the edge of a step the ratio goes to and fro.
        if !self.arrivals.is_multiple_of(64) || self.turnover_step() == self.step {
            return false;
        }
        self.step = self.turnover_step();
        true
    }

    fn rescale(&mut self) {
        self.scale(1.0 / self.unit);
        self.unit = 1.0;
    }

    fn scale(&mut self, factor: f64) {
        for seen in self.kinds.values_mut() {
            seen.weight *= factor;
            seen.memory *= factor;
        }
        self.accepted *= factor;
        self.departed *= factor;
    }

    fn forget(&mut self) {
        let mut weights: Vec<f64> = self.kinds.values().map(|seen| seen.weight).collect();
        weights.sort_unstable_by(f64::total_cmp);
        // An eighth at once, so that this is rare; of equals any.
        let (limit, mut surplus) = (weights[MOST_KINDS / 8], weights.len() - MOST_KINDS * 7 / 8);
        self.kinds.retain(|_, seen| {
            let stays = seen.weight > limit || surplus == 0;
            surplus -= usize::from(!stays);
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(cpu: i64) -> Kind {
        Kind::of(&PodRequest::default(), cpu)
    }

    #[test]
    fn what_came_long_ago_counts_less() {
        let mut workload = Workload::default();
        for _ in 0..3000 {
            workload.arrive(&kind(1), 1 << 30);
        }
        for _ in 0..3000 {
            workload.arrive(&kind(2), 3 << 30);
        }
        let shares = workload.shares();
        assert_eq!((shares[0].0.cpu, shares[1].0.cpu), (2, 1));
        let ratio = shares[1].1 / shares[0].1;
        assert!((ratio - (-1.0_f64).exp()).abs() < 1e-3, "{ratio}");
        assert!((shares[0].1 + shares[1].1 - 1.0).abs() < 1e-9);
        assert!((shares[0].2 - 3072.0).abs() < 1e-6 && (shares[1].2 - 1024.0).abs() < 1e-6);
    }

    #[test]
    fn stays_small_and_exact_for_ever() {
        let mut workload = Workload::default();
        for at in 0..200_000 {
            workload.arrive(&kind(1_000_000 + at), 0);
            workload.arrive(&kind(at % 3), 0);
        }
        assert!(workload.kinds.len() <= MOST_KINDS);
        assert!(workload.unit.is_finite() && workload.shares().iter().all(|share| share.1.is_finite()));
        assert!(workload.shares()[..3].iter().all(|share| share.0.cpu < 3), "the common ones are not forgotten");
    }

    #[test]
    fn turnover_tells_filling_from_a_steady_state() {
        let mut workload = Workload::default();
        for _ in 0..5000 {
            workload.arrive(&kind(1), 0);
            workload.accept();
        }
        assert_eq!(workload.turnover(), 0.0);
        for _ in 0..20_000 {
            workload.arrive(&kind(1), 0);
            workload.accept();
            workload.depart();
        }
        assert_eq!(workload.turnover(), 1.0);
    }

    #[test]
    fn pods_found_at_the_start_count_alike() {
        let mut workload = Workload::default();
        for at in 0..20_000 {
            workload.find(&kind(i64::from(at >= 5_000)), 0, true);
        }
        workload.settle();
        assert_eq!(workload.turnover(), 1.0);
        assert!((workload.shares()[1].1 - 0.25).abs() < 1e-9, "however many there are and whoever was found first");
        // And they are forgotten like others.
        for _ in 0..3000 {
            workload.arrive(&kind(2), 0);
        }
        let new = workload.shares().iter().find(|share| share.0.cpu == 2).map(|share| share.1);
        assert!(new.is_some_and(|new| new > 0.6), "{new:?}");
    }

    #[test]
    fn is_rebuilt_in_steps() {
        let mut workload = Workload::default();
        let due: Vec<u64> = (1..=6000).filter(|_| workload.arrive(&kind(1), 0)).collect();
        assert_eq!(due, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2000, 4000, 6000]);
    }
}
