//! What a single pod of the workload could not use of a node.
//!
//! Asked twice for each node that is ranked in a steady state, so it decides what a changed node costs. Sums go in the order of
//! the groups, however many are looked at together: [`Columns`] change no bit of the result.

use super::super::card::WHOLE;
use super::class::{Class, Group, Need, Want};
use super::profile::Profile;

/// How many groups are looked at together.
const WIDE: usize = 16;

/// A class has no columns where they would have more weights than this.
const MOST_WEIGHTS: usize = 1 << 15;

/// What the groups of a class want, [`WIDE`] of them side by side.
#[derive(Debug)]
pub(super) struct Columns {
    count: Vec<[u16; WIDE]>,
    /// By kind of card: the memory of each device, and the cores, in thousandths; more than there is where none will do.
    needs: Vec<Vec<([u16; WIDE], [u16; WIDE])>>,
    /// All amounts of CPU that kinds ask for, sorted; millicores.
    cpu: Vec<i64>,
    /// For each of those, the groups' weights.
    weights: Vec<Vec<[f64; WIDE]>>,
}

/// The free GPU of the node that a pod of the workload could not use, in thousandths of a card: the mean over the
/// kinds (F of FGD, USENIX ATC'23, with pods without GPUs counting half). A pod that cannot run there at all, or that
/// wants no GPU, can use none of it. Host memory is left out, as there.
pub(super) fn stranded(class: &Class, profile: &Profile) -> f64 {
    if profile.free == 0 {
        return 0.0;
    }
    let quick = class.columns.as_ref().and_then(|columns| columns.used(class, profile));
    f64::from(profile.free) - quick.unwrap_or_else(|| used(class, profile))
}

fn used(class: &Class, profile: &Profile) -> f64 {
    let used = |group: &Group| {
        let weight = group.weight(profile.cpu);
        if weight > 0.0 { weight * f64::from(usable(class, &group.want, profile)) } else { 0.0 }
    };
    class.groups.iter().map(used).sum()
}

/// What of the free GPU a container could use: the devices that would do, if there are enough of them.
fn usable(class: &Class, want: &Want, profile: &Profile) -> u32 {
    let (mut devices, mut worth) = (0, 0);
    for hole in profile.holes() {
        if class.fits(want, *hole).is_some() {
            devices += 1;
            worth += class.worth(*hole);
        }
    }
    if devices >= u32::from(want.count) { worth } else { 0 }
}

impl Columns {
    pub(super) fn new(class: &Class, kinds: usize) -> Option<Self> {
        let groups = &class.groups;
        let mut cpu: Vec<i64> = groups.iter().flat_map(|group| group.cpu.iter().copied()).collect();
        cpu.sort_unstable();
        cpu.dedup();
        if cpu.len() * groups.len() > MOST_WEIGHTS {
            return None;
        }
        let amount = |kind: usize, of: &dyn Fn(&Need) -> u16| {
            wide(groups, u16::MAX, |group| match &class.needs(&group.want)[kind] {
                None => u16::MAX,
                Some(_) if group.want.whole => WHOLE,
                Some(need) => of(need),
            })
        };
        let needs = |kind: usize| {
            let (memory, cores) = (amount(kind, &|need| need.memory), amount(kind, &|need| need.cores.max(1)));
            memory.into_iter().zip(cores).collect()
        };
        Some(Self {
            count: wide(groups, 0, |group| group.want.count),
            needs: (0..kinds).map(needs).collect(),
            weights: cpu.iter().map(|cpu| wide(groups, 0.0, |group| group.weight(*cpu))).collect(),
            cpu,
        })
    }

    /// What pods of the workload could use, as [`used`] finds it; `None` where that is more than can be counted here.
    fn used(&self, class: &Class, profile: &Profile) -> Option<f64> {
        // Then what any of the holes are worth together is in range too.
        u16::try_from(profile.free).ok()?;
        let affordable = self.cpu.partition_point(|wanted| *wanted <= profile.cpu);
        let Some(weights) = affordable.checked_sub(1).and_then(|at| self.weights.get(at)) else { return Some(0.0) };
        let mut sum = 0.0;
        for (at, (weights, count)) in weights.iter().zip(&self.count).enumerate() {
            let (mut devices, mut usable) = ([0_u16; WIDE], [0_u16; WIDE]);
            for hole in profile.holes() {
                let (memory, cores) = self.needs.get(usize::from(hole.kind))?.get(at)?;
                let worth = u16::try_from(class.worth(*hole)).ok()?;
                for group in 0..WIDE {
                    let fits = u16::from(hole.memory >= memory[group]) & u16::from(hole.cores >= cores[group]);
                    devices[group] += fits;
                    usable[group] += fits * worth;
                }
            }
            for group in 0..WIDE {
                let usable = if devices[group] >= count[group] { usable[group] } else { 0 };
                sum += weights[group] * f64::from(usable);
            }
        }
        Some(sum)
    }
}

/// One amount of each group; `rest` fills up the last ones.
fn wide<T: Copy>(groups: &[Group], rest: T, of: impl Fn(&Group) -> T) -> Vec<[T; WIDE]> {
    let some = |groups: &[Group]| std::array::from_fn(|at| groups.get(at).map_or(rest, &of));
    groups.chunks(WIDE).map(some).collect()
}
