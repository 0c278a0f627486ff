//! An entry of the annotation `packhorse.dev/request`: checked, and compared with the resources of its container.

use super::super::request::MigProfile;
use super::resources::{MOST_DEVICES, TOO_MANY_MIB, Wanted, is_mig_profile, too_large};
use super::{Denial, Findings, GivenRequest};

/// The annotation's key.
pub(super) const FIELD: &str = "packhorse.dev/request";

/// Reads one entry. `None` where anything in it was denied.
pub(super) fn read(container: &str, entry: &GivenRequest, found: &mut Findings) -> Option<Wanted> {
    let before = found.denied();
    let mut number = |field: &str, value: Option<i64>, most: u32, remedy: &str| -> Option<u32> {
        let value = value?;
        match u32::try_from(value) {
            Ok(value) if value <= most => Some(value),
            _ => {
                let problem = if value < 0 {
                    "negative".to_owned()
                } else if field == "memory" {
                    too_large()
                } else {
                    format!("more than {most}")
                };
                let name = format!("{FIELD} field {field}");
                found.deny(Denial::new(Some(container), name, value.to_string(), problem, remedy));
                None
            }
        }
    };
    let percent = "write a whole number from 1 to 100";
    let most_mib = u32::try_from(TOO_MANY_MIB - 1).unwrap_or(u32::MAX);
    let count = number("count", entry.count, MOST_DEVICES, "write a whole number of devices, for example 1");
    let memory = number("memory", entry.memory, most_mib, TOO_LARGE_MIB_REMEDY);
    let memory_percent = number("memoryPercent", entry.memory_percent, 100, percent);
    let cores = number("cores", entry.cores, 100, percent);
    let small = |value: Option<u32>| u8::try_from(value.unwrap_or(0)).unwrap_or(u8::MAX);
    let mut wanted = Wanted {
        count,
        memory: memory.unwrap_or(0),
        memory_percent: small(memory_percent),
        cores: small(cores),
        exclusive: entry.exclusive == Some(true),
        mig: Vec::new(),
        named: false,
    };
    if wanted.exclusive && !matches!(wanted.cores, 0 | 100) {
        found.deny(Denial::new(
            Some(container),
            format!("{FIELD} field cores"),
            wanted.cores.to_string(),
            "a part of the cores of whole GPUs",
            "remove cores, or exclusive",
        ));
    }
    if let Some(profile) = &entry.mig {
        if is_mig_profile(profile) {
            match wanted.count {
                // Kept as the count: it is what contradicts an amount of memory.
                Some(0) => {}
                count => wanted.mig.push((MigProfile(profile.as_str().into()), count.unwrap_or(1))),
            }
            wanted.count = wanted.count.filter(|count| *count == 0);
        } else {
            found.deny(Denial::new(
                Some(container),
                format!("{FIELD} field mig"),
                profile,
                "not the name of a MIG profile",
                "write a profile such as 1g.10gb, 3g.40gb or 1g.10gb.me",
            ));
        }
    }
    (found.denied() == before).then_some(wanted)
}

const TOO_LARGE_MIB_REMEDY: &str = "write MiB per GPU, for example 16384 for `16Gi`";

/// Denies where the entry and what is still in the resources contradict each other. `wanted` takes its count from the resources
/// where the entry names none.
pub(super) fn agree(
    prefix: &str,
    container: &str,
    entry: &GivenRequest,
    wanted: &mut Wanted,
    resources: &Wanted,
    found: &mut Findings,
) {
    let mut differ = |name: &str, value: String, entry: String| {
        found.deny(Denial::new(
            Some(container),
            format!("{prefix}/{name}"),
            value,
            format!("the annotation {FIELD} says {entry} for this container"),
            "make both say the same, or remove one",
        ));
    };
    if wanted.mig.is_empty() {
        if let Some((profile, count)) = resources.mig.first() {
            differ(&format!("mig-{profile}"), count.to_string(), "no MIG profile".to_owned());
        }
        match (wanted.count, resources.count) {
            (Some(entry), Some(count)) if entry != count => differ("gpu", count.to_string(), format!("count {entry}")),
            (None, count) => wanted.count = count,
            _ => {}
        }
    }
    if let ([asked], [(profile, count)], None) = (&mut wanted.mig[..], &resources.mig[..], entry.count)
        && asked.0 == *profile
    {
        asked.1 = *count;
    }
    for (profile, entry) in &wanted.mig {
        if let Some(count) = resources.count.filter(|count| *count > 0) {
            differ("gpu", count.to_string(), format!("MIG profile {profile}"));
        }
        for (other, count) in resources.mig.iter().filter(|mig| mig.0 != *profile || mig.1 != *entry) {
            differ(&format!("mig-{other}"), count.to_string(), format!("count {entry} of MIG profile {profile}"));
        }
    }
    let said = |amount: u32, name: &str| if amount == 0 { format!("no {name}") } else { format!("{name} {amount}") };
    if resources.memory > 0 && resources.memory != wanted.memory {
        differ("gpumem", resources.memory.to_string(), said(wanted.memory, "memory"));
    }
    if resources.memory_percent > 0 && resources.memory_percent != wanted.memory_percent {
        let entry = said(wanted.memory_percent.into(), "memoryPercent");
        differ("gpumem-percentage", resources.memory_percent.to_string(), entry);
    }
    let cores = if wanted.exclusive { 100 } else { wanted.cores };
    if resources.cores > 0 && resources.cores != cores {
        differ("gpucores", resources.cores.to_string(), said(cores.into(), "cores"));
    }
}
