//! Filling a node in thought, run by run. The dearest computation of a ranking (tens of microseconds), hence done
//! once for each state of a node.

use super::super::card::WHOLE;
use super::class::{Class, List, Need, Plain, Token, Want};
use super::profile::{Hole, MOST, Profile};

/// What the pods of the workload would get of the node, in thousandths of a card: the mean over the runs.
pub(super) fn fill(class: &Class, profile: &Profile) -> f64 {
    if class.lists.is_empty() || profile.free == 0 {
        return 0.0;
    }
    let placed: u64 = match &class.plain {
        Some(plain) => {
            let start = Holes::of(profile);
            let worth = class.worth(Hole { kind: 0, memory: WHOLE, cores: WHOLE });
            plain.iter().map(|list| u64::from(run_plain(list, profile, &start, worth))).sum()
        }
        None => class.lists.iter().map(|list| u64::from(run(class, list, profile))).sum(),
    };
    placed as f64 / class.lists.len() as f64
}

/// The holes of a node with one kind of cards. Whole ones are alike, hence only counted.
#[derive(Debug, Clone)]
struct Holes {
    whole: u16,
    partly: [(u16, u16); MOST],
    len: usize,
}

impl Holes {
    fn of(profile: &Profile) -> Self {
        let mut holes = Self { whole: 0, partly: [(0, 0); MOST], len: 0 };
        for hole in profile.holes() {
            if hole.is_whole() {
                holes.whole += 1;
            } else {
                holes.partly[holes.len] = (hole.memory, hole.cores);
                holes.len += 1;
            }
        }
        holes
    }

    /// Puts a share on the tightest hole: by how much the holes shrank, in thousandths of a device; `None` where
    /// there is no room.
    #[inline]
    fn put(&mut self, need: &Need) -> Option<u16> {
        let (mut best, mut at) = ((u16::MAX, u16::MAX), usize::MAX);
        for (position, (memory, cores)) in self.partly[..self.len].iter().enumerate() {
            let size = (*memory.min(cores), *memory);
            if (*memory >= need.memory) & (*cores >= need.cores.max(1)) & (size < best) {
                (best, at) = (size, position);
            }
        }
        if at == usize::MAX {
            if self.whole == 0 {
                return None;
            }
            self.whole -= 1;
            (best.0, at) = (WHOLE, self.len);
            self.partly[at] = (WHOLE, WHOLE);
            self.len += 1;
        }
        let (memory, cores) = &mut self.partly[at];
        *memory -= need.memory;
        *cores -= need.cores;
        let size = (*memory).min(*cores);
        if size == 0 {
            self.len -= 1;
            self.partly[at] = self.partly[self.len];
        }
        Some(best.0 - size)
    }
}

/// What the pods of one run get, where all of them are plain.
fn run_plain(list: &[Plain], profile: &Profile, start: &Holes, worth: u32) -> u32 {
    let mut holes = Holes { whole: start.whole, partly: [(0, 0); MOST], len: start.len };
    holes.partly[..start.len].copy_from_slice(&start.partly[..start.len]);
    let short = |n: i64| i32::try_from(n).unwrap_or(i32::MAX);
    let (mut cpu, mut memory, mut left) = (short(profile.cpu), short(profile.memory), profile.free);
    let mut placed = 0;
    for pod in list {
        // Nobody who is still to come can get anything.
        if (cpu < pod.least_cpu) | (left < u32::from(pod.least_worth)) {
            break;
        }
        if (cpu < pod.cpu) | (memory < pod.memory) {
            continue;
        }
        if pod.whole {
            if holes.whole < u16::from(pod.count) {
                continue;
            }
            holes.whole -= u16::from(pod.count);
            let got = u32::from(pod.count) * worth;
            placed += got;
            left = left.saturating_sub(got);
        } else if pod.count > 0 {
            let Some(shrunk) = holes.put(&pod.need) else { continue };
            placed += u32::from(pod.need.worth);
            left = left.saturating_sub(u32::from(shrunk) * worth / u32::from(WHOLE));
        }
        cpu -= pod.cpu;
        memory -= pod.memory;
    }
    placed
}

/// What the kinds that want several cards and could start now would get, in thousandths of a card.
pub(super) fn several(class: &Class, profile: &Profile) -> f64 {
    let starts = |token: &Token| {
        let enough = |want: &Want| {
            profile.holes().iter().filter(|hole| class.fits(want, **hole).is_some()).count() >= usize::from(want.count)
        };
        profile.cpu >= token.cpu && profile.memory >= token.memory && class.wants(token).iter().all(enough)
    };
    class.several.iter().filter(|(_, token)| starts(token)).map(|(weight, _)| weight).sum()
}

/// What the pods of one run get.
fn run(class: &Class, list: &List, profile: &Profile) -> u32 {
    let (mut scratch, len) = profile.scratch();
    let holes = &mut scratch[..len];
    let (mut cpu, mut memory, mut left) = (profile.cpu, profile.memory, profile.free);
    let mut placed = 0;
    for (token, (least_cpu, least_worth)) in list.tokens.iter().zip(&list.least) {
        // Nobody who is still to come can get anything.
        if cpu < *least_cpu || left < *least_worth {
            break;
        }
        if cpu < token.cpu || memory < token.memory {
            continue;
        }
        if !token.is_without() {
            let Some((worth, free)) = put(class, token, holes) else { continue };
            placed += worth;
            left = left.saturating_sub(free);
        }
        cpu -= token.cpu;
        memory -= token.memory;
    }
    placed
}

/// Puts a pod on the tightest holes: what it got, and by how much the holes shrank; `None`, and nothing changed,
/// where it does not fit.
fn put(class: &Class, token: &Token, holes: &mut [Hole]) -> Option<(u32, u32)> {
    let wants = class.wants(token);
    if let [want] = wants {
        return put_one(class, want, holes);
    }
    let mut after: Vec<Hole> = holes.to_vec();
    let (mut worth, mut free) = (0, 0);
    for want in wants {
        let got = put_one(class, want, &mut after)?;
        worth += got.0;
        free += got.1;
    }
    holes.copy_from_slice(&after);
    Some((worth, free))
}

fn put_one(class: &Class, want: &Want, holes: &mut [Hole]) -> Option<(u32, u32)> {
    if want.count == 1 && !want.whole {
        let (at, need) = holes
            .iter()
            .enumerate()
            .filter_map(|(at, hole)| class.fits(want, *hole).map(|need| (at, need)))
            .min_by_key(|(at, _)| (holes[*at].size(), holes[*at].memory))?;
        let before = class.worth(holes[at]);
        holes[at] = holes[at].minus(need.memory, need.cores);
        return Some((need.worth.into(), before - class.worth(holes[at])));
    }
    let count = usize::from(want.count);
    if holes.iter().filter(|hole| class.fits(want, **hole).is_some()).count() < count {
        return None;
    }
    let (mut worth, mut free) = (0, 0);
    if want.whole {
        for hole in holes.iter_mut().filter(|hole| class.fits(want, **hole).is_some()).take(count) {
            free += class.worth(*hole);
            worth += class.worth(*hole);
            *hole = Hole { memory: 0, cores: 0, ..*hole };
        }
        return Some((worth, free));
    }
    let mut fitting: Vec<usize> = (0..holes.len()).filter(|at| class.fits(want, holes[*at]).is_some()).collect();
    fitting.sort_by_key(|at| holes[*at].size());
    for at in fitting.into_iter().take(count) {
        let Some(need) = class.fits(want, holes[at]) else { continue };
        let before = class.worth(holes[at]);
        holes[at] = holes[at].minus(need.memory, need.cores);
        worth += u32::from(need.worth);
        free += before - class.worth(holes[at]);
    }
    Some((worth, free))
}
