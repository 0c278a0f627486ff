//! What a single pod of the workload could use of a node.

use super::class::{Class, Token, Want};
use super::profile::Profile;

/// The free GPU of the node that a pod of the workload could not use, in thousandths of a card: the mean over the kinds (F of FGD,
/// USENIX ATC'23). A pod that cannot run there at all, or that wants no GPU, can use none of it.
pub(super) fn stranded(class: &Class, profile: &Profile) -> f64 {
    if profile.free == 0 {
        return 0.0;
    }
    let all = f64::from(profile.free);
    let mut stranded = class.without * all;
    for (share, token) in &class.typical {
        let unusable = token.as_ref().and_then(|token| unusable(class, token, profile));
        stranded += share * unusable.map_or(all, f64::from);
    }
    stranded
}

/// What the kinds that want several cards and could start now would get, in thousandths of a card.
pub(super) fn several(class: &Class, profile: &Profile) -> f64 {
    let fitting = class.several.iter().filter(|(_, token)| unusable(class, token, profile).is_some());
    fitting.map(|(weight, _)| weight).sum()
}

/// What of the free GPU is of no use to the pod; `None` where it cannot run there.
fn unusable(class: &Class, token: &Token, profile: &Profile) -> Option<u32> {
    if profile.cpu < token.cpu || profile.memory < token.memory {
        return None;
    }
    // Of several containers the one that finds least.
    class
        .wants(token)
        .iter()
        .map(|want| unusable_to(class, want, profile))
        .try_fold(0, |most, one| Some(one?.max(most)))
}

fn unusable_to(class: &Class, want: &Want, profile: &Profile) -> Option<u32> {
    let (mut usable, mut unusable) = (0, 0);
    for hole in profile.holes() {
        if class.fits(want, *hole).is_some() {
            usable += 1;
        } else {
            unusable += class.worth(*hole);
        }
    }
    (usable >= u32::from(want.count)).then_some(unusable)
}
