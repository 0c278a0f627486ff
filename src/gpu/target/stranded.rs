//! What a single pod of the workload could not use of a node.

use super::class::{Class, Want};
use super::profile::Profile;

/// The free GPU of the node that a pod of the workload could not use, in thousandths of a card: the mean over the
/// kinds (F of FGD, USENIX ATC'23, with pods without GPUs counting half). A pod that cannot run there at all, or that
/// wants no GPU, can use none of it. Host memory is left out, as there.
pub(super) fn stranded(class: &Class, profile: &Profile) -> f64 {
    if profile.free == 0 {
        return 0.0;
    }
    let used = |group: &super::class::Group| {
        let weight = group.weight(profile.cpu);
        if weight > 0.0 { weight * f64::from(usable(class, &group.want, profile)) } else { 0.0 }
    };
    f64::from(profile.free) - class.groups.iter().map(used).sum::<f64>()
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
