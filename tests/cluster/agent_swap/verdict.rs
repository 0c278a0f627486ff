//! Whether what the containers saw is what they were promised, start by start, and whether one that was promised a card for itself
//! had it for itself.

use std::collections::BTreeMap;

use super::super::node::{Sight, StandIns};
use super::promises::Promises;

/// The judgement over all starts.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Every start that was looked at.
    pub(super) starts: usize,
    /// Those of containers with devices.
    pub(super) with_devices: usize,
    /// Ends that nobody knows, because the container was killed.
    pub(super) killed: usize,
    /// In words.
    pub(super) wrong: Vec<String>,
}

/// While a container had a card for itself or shared it.
struct Tenure<'sight> {
    from: u64,
    until: u64,
    exclusive: bool,
    uid: &'sight str,
    container: &'sight str,
}

/// Judges all starts, oldest first. All pods are gone: what has no end was killed.
pub(super) fn judge(records: &[Sight], promises: &Promises, stand_ins: &StandIns) -> Verdict {
    let mut verdict = Verdict { starts: records.len(), ..Verdict::default() };
    let mut tenures: BTreeMap<String, Vec<Tenure<'_>>> = BTreeMap::new();
    for sight in records {
        let (uid, container) = (sight.pod_uid(), sight.container());
        let who = format!("{container} of {} ({uid})", promises.name(uid));
        let Some(promise) = promises.get(uid, container) else {
            verdict.wrong.push(format!("{who} runs"));
            continue;
        };
        let mut expected: BTreeMap<String, String> =
            promise.devices.iter().map(|device| (stand_ins.path(device), stand_ins.number(device))).collect();
        if !promise.devices.is_empty() {
            verdict.with_devices += 1;
            expected.extend(StandIns::common());
        }
        if sight.devices != expected {
            verdict.wrong.push(format!("{who} saw {:?} and was promised {expected:?}", sight.devices));
        }
        if sight.visible_devices() != Some("void") {
            verdict.wrong.push(format!("{who} saw NVIDIA_VISIBLE_DEVICES={:?}", sight.visible_devices()));
        }
        verdict.killed += usize::from(sight.ended.is_none());
        for device in promise.devices {
            let tenure = Tenure {
                from: sight.at,
                until: sight.ended.unwrap_or(sight.at),
                exclusive: promise.exclusive,
                uid,
                container,
            };
            tenures.entry(device).or_default().push(tenure);
        }
    }
    for (device, tenures) in &tenures {
        for (number, one) in tenures.iter().enumerate() {
            for other in &tenures[number + 1..] {
                if other.from < one.until && (one.exclusive || other.exclusive) {
                    let name = |it: &Tenure<'_>| format!("{} of {} ({})", it.container, promises.name(it.uid), it.uid);
                    verdict.wrong.push(format!("{device}: {} and {} ran at once", name(one), name(other)));
                }
            }
        }
    }
    verdict
}
