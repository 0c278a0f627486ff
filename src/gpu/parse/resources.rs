//! A container's limits and requests, read into numbers.

use super::super::quantity::{Quantity, QuantityError};
use super::super::request::MigProfile;
use super::{Denial, Field, Findings, RawContainer, Rules, hami, shown};

/// No node has as many devices; keeps sums far from overflow.
pub(super) const MOST_DEVICES: u32 = 1_024;
/// Far more than there are names; keeps what follows from growing with the square of them.
const MOST_NAMES: usize = 64;
/// From here on a decimal was meant as bytes.
pub(super) const TOO_MANY_MIB: u64 = 1_000_000;

/// What one container asks for, in numbers, before the rules combine them. 0 means not asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Wanted {
    /// GPUs; `None` where not named.
    pub(super) count: Option<u32>,
    /// MiB.
    pub(super) memory: u32,
    pub(super) memory_percent: u8,
    pub(super) cores: u8,
    /// Said in so many words, only possible in the request annotation.
    pub(super) exclusive: bool,
    /// Profiles with their counts, those with count 0 left out.
    pub(super) mig: Vec<(MigProfile, u32)>,
    /// Whether any per-GPU name is there at all, be it 0.
    pub(super) named: bool,
}

impl Wanted {
    /// Whether it asks for memory or cores.
    pub(super) fn amounts(&self) -> bool {
        self.memory > 0 || self.memory_percent > 0 || self.cores > 0 || self.exclusive
    }
}

/// Reads the resources of one container. `None` where anything in them was denied.
pub(super) fn read(rules: &Rules, raw: &RawContainer<'_>, found: &mut Findings) -> Option<Wanted> {
    let before = found.denied();
    let mut wanted = Wanted::default();
    let names = raw.limits.len() + raw.requests.len();
    if names > MOST_NAMES {
        let problem = format!("more than {MOST_NAMES} GPU resources in one container");
        let field = format!("{}/*", rules.prefix);
        found.deny(Denial::new(Some(raw.name), field, names.to_string(), problem, meant(rules)));
        return None;
    }
    for (name, text) in &raw.limits {
        let Some(field) = rules.field(name) else { continue };
        if let Some(value) = checked(raw.name, field, name, text, found) {
            // An unequal request is told below; an equal one adds nothing.
            take(&mut wanted, field, value);
        }
    }
    for (name, text) in &raw.requests {
        let Some(field) = rules.field(name) else { continue };
        match raw.limits.iter().find(|(limit, _)| limit == name) {
            None => {
                if let Some(value) = checked(raw.name, field, name, text, found) {
                    take(&mut wanted, field, value);
                }
            }
            Some((_, limit)) if limit != text => {
                // Different spellings of one amount are no difference.
                let same = value(field, limit).is_ok_and(|limit| value(field, text) == Ok(limit));
                if !same && !matches!(field, Field::Unknown(_)) {
                    found.deny(Denial::new(
                        Some(raw.name),
                        *name,
                        text,
                        format!("requests differ from limits, which say {:?}", shown(limit)),
                        "write the same amount in both, or only the limit",
                    ));
                }
            }
            Some(_) => {}
        }
    }
    for (name, _) in raw.limits.iter().chain(raw.requests.iter().filter(|(name, _)| !has(&raw.limits, name))) {
        match rules.field(name) {
            Some(Field::Unknown(_)) => {
                let name = shown(name);
                found.warn(Some(raw.name), format_args!("{name} is not a resource of Packhorse; {}", meant(rules)));
            }
            Some(Field::Priority) => {
                if let Some(row) = hami::find(hami::Place::Resource, "priority") {
                    found.answer(Some(raw.name), row, name, "");
                }
            }
            _ => {}
        }
    }
    (found.denied() == before).then_some(wanted)
}

fn has(list: &[(&str, &str)], name: &str) -> bool {
    list.iter().any(|(other, _)| *other == name)
}

fn meant(rules: &Rules) -> String {
    let prefix = &rules.prefix;
    format!(
        "known are {prefix}/gpu, {prefix}/gpumem, {prefix}/gpumem-percentage, {prefix}/gpucores and {prefix}/mig-<profile>"
    )
}

fn take(wanted: &mut Wanted, field: Field<'_>, value: u64) {
    // `checked` has bounded every value, so nothing saturates here.
    let small = u8::try_from(value).unwrap_or(u8::MAX);
    let large = u32::try_from(value).unwrap_or(u32::MAX);
    match field {
        Field::Count => wanted.count = Some(large),
        Field::Memory => wanted.memory = large,
        Field::MemoryPercent => wanted.memory_percent = small,
        Field::Cores => wanted.cores = small,
        Field::Mig(profile) if large > 0 => wanted.mig.push((MigProfile(profile.into()), large)),
        Field::Mig(_) | Field::Priority | Field::Unknown(_) => {}
    }
    wanted.named |= matches!(field, Field::Memory | Field::MemoryPercent | Field::Cores);
}

fn value(field: Field<'_>, text: &str) -> Result<u64, QuantityError> {
    let quantity = Quantity::parse(text)?;
    if field == Field::Memory { quantity.gpu_mib() } else { quantity.integer() }
}

/// Reads one amount and checks its range.
fn checked(container: &str, field: Field<'_>, name: &str, text: &str, found: &mut Findings) -> Option<u64> {
    let deny = |found: &mut Findings, problem: String, remedy: &str| {
        found.deny(Denial::new(Some(container), name, text, problem, remedy));
        None
    };
    let remedy = match field {
        Field::Priority | Field::Unknown(_) => return Some(0),
        Field::Mig(profile) if !is_mig_profile(profile) => {
            return deny(
                found,
                format!("{:?} is not the name of a MIG profile", shown(profile)),
                "write a profile such as mig-1g.10gb, mig-3g.40gb or mig-1g.10gb.me",
            );
        }
        Field::Count | Field::Mig(_) => "write a whole number of devices, for example 1",
        Field::Memory => "write whole MiB such as 4000, or bytes with a binary suffix such as 16Gi",
        Field::MemoryPercent => "write a whole number from 1 to 100",
        Field::Cores => "write a whole number from 0 to 100; 100 is a whole GPU",
    };
    match value(field, text) {
        Err(QuantityError::Overflow) if field == Field::Memory => deny(found, too_large(), TOO_LARGE_REMEDY),
        Err(error) => deny(found, error.to_string(), remedy),
        Ok(value) => match field {
            Field::Count | Field::Mig(_) if value > MOST_DEVICES.into() => {
                deny(found, "more devices than any node has".to_owned(), remedy)
            }
            Field::Memory if value >= TOO_MANY_MIB => deny(found, too_large(), TOO_LARGE_REMEDY),
            Field::MemoryPercent | Field::Cores if value > 100 => {
                deny(found, "more than 100 percent".to_owned(), remedy)
            }
            _ => Some(value),
        },
    }
}

pub(super) const TOO_LARGE_REMEDY: &str = "write bytes with a binary suffix, for example `1Gi`";

pub(super) fn too_large() -> String {
    format!("{TOO_MANY_MIB} MiB or more fits no card; a number without a binary suffix is MiB")
}

/// Whether `name` is a MIG profile as the device plugin names its resources: `[<c>c.]<g>g.<n>gb[.<attribute>…]`.
pub(crate) fn is_mig_profile(name: &str) -> bool {
    if name.len() > 40 {
        return false;
    }
    let number = |part: &str, unit: &str| {
        part.strip_suffix(unit).is_some_and(|digits| {
            (1..=3).contains(&digits.len()) && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
        })
    };
    let mut parts = name.split('.').peekable();
    // The compute part is optional; `3g` does not end in `c`.
    if parts.peek().is_some_and(|part| number(part, "c")) {
        parts.next();
    }
    parts.next().is_some_and(|part| number(part, "g"))
        && parts.next().is_some_and(|part| number(part, "gb"))
        && parts.all(|part| {
            (1..=16).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_names_of_mig_profiles() {
        for name in
            ["1g.5gb", "1g.10gb", "7g.80gb", "1g.10gb.me", "1c.3g.20gb", "2c.7g.141gb", "1g.24gb.gfx", "1g.12gb.me.all"]
        {
            assert!(is_mig_profile(name), "{name}");
        }
        for name in [
            "",
            "1g",
            "10gb",
            "1g.10",
            "1g.10GB",
            "1G.10gb",
            "g.10gb",
            "0g.10gb",
            "1g.0gb",
            "1g.10gb.",
            "1g.10gb.+me",
            "c.1g.5gb",
            "1c.5gb",
        ] {
            assert!(!is_mig_profile(name), "{name}");
        }
    }
}
