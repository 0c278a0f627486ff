//! Filling a node in thought, run by run. The dearest computation of a ranking (tens of microseconds), hence done once for each
//! state of a node.

use super::class::{Class, List, Token, Want};
use super::profile::{Hole, Profile};

/// What the pods of the workload would get of the node, in thousandths of a card: the mean over the runs.
pub(super) fn fill(class: &Class, profile: &Profile) -> f64 {
    if class.lists.is_empty() || profile.free == 0 {
        return 0.0;
    }
    let placed: u64 = class.lists.iter().map(|list| u64::from(run(class, list, profile))).sum();
    placed as f64 / class.lists.len() as f64
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

/// Puts a pod on the tightest holes: what it got, and by how much the holes shrank; `None`, and nothing changed, where it does not fit.
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
