//! One container: its resources, its entry in the request annotation and its environment combined into what it asks for.

use super::super::request::{Ask, ContainerRequest, Memory};
use super::resources::{MOST_DEVICES, Wanted};
use super::visible::{Pins, Visible};
use super::{
    CountAlone, Denial, Findings, GivenRequest, Parsed, RawContainer, Rules, given, hami, resources, shown, visible,
};

/// The totals, which only the webhook writes.
const TOTALS: [&str; 2] = ["packhorse.dev/gpu-memory", "packhorse.dev/gpu-cores"];

/// Reads one container: `None` where it asks for no GPU, or where anything was denied (`found` then tells).
pub(super) fn read(
    rules: &Rules,
    raw: &RawContainer<'_>,
    entry: Option<&GivenRequest>,
    parsed: &mut Parsed,
    found: &mut Findings,
) -> Option<ContainerRequest> {
    let before = found.denied();
    let resources = resources::read(rules, raw, found);
    let visible = visible::read(rules, raw, found);
    let mut given_pins = Pins::default();
    let wanted = match entry {
        None => resources,
        Some(entry) => {
            given_pins = entry_pins(raw.name, entry, found);
            let wanted = given::read(raw.name, entry, found);
            match (wanted, resources) {
                (Some(mut wanted), Some(resources)) => {
                    given::agree(&rules.prefix, raw.name, entry, &mut wanted, &resources, found);
                    Some(wanted)
                }
                _ => None,
            }
        }
    };
    let (Some(wanted), Some(visible)) = (wanted, visible) else { return None };
    if found.denied() > before {
        return None;
    }
    let pins = pins(raw, given_pins, &visible, found)?;
    let names = Names { rules, given: entry.is_some() };
    let decided = decide(&names, raw.name, &wanted, &pins, found)?;
    totals(rules, raw, decided.is_some(), found);
    let Some((count, ask)) = decided else {
        match visible {
            Visible::All => parsed.visible_all.push(raw.name.into()),
            Visible::Indirect => parsed.visible_indirect.push(raw.name.into()),
            _ => {}
        }
        return None;
    };
    environment(raw, &visible, found);
    if !pins.is_empty() && usize::try_from(count) != Ok(pins.len()) {
        found.deny(Denial::new(
            Some(raw.name),
            if matches!(visible, Visible::Pinned(_)) { visible::FIELD } else { given::FIELD },
            pins_text(&pins),
            format!("names {} devices, but the container asks for {count}", pins.len()),
            "name exactly as many devices as the container asks for",
        ));
    }
    if let (Ask::Mig(profile), Some(uuid)) = (&ask, pins.uuid.iter().find(|uuid| uuid.starts_with("GPU-"))) {
        found.deny(Denial::new(
            Some(raw.name),
            if matches!(visible, Visible::Pinned(_)) { visible::FIELD } else { given::FIELD },
            uuid,
            format!("the container asks for MIG instances of {profile}, this is a whole GPU"),
            format!("name the UUIDs of MIG instances, or ask for {}", rules.count_name()),
        ));
    }
    (found.denied() == before).then(|| ContainerRequest {
        name: raw.name.into(),
        phase: raw.phase,
        count,
        ask,
        index: pins.index,
        uuid: pins.uuid,
    })
}

/// Under which names a message speaks of an amount.
struct Names<'a> {
    rules: &'a Rules,
    given: bool,
}

impl Names<'_> {
    fn field(&self, resource: &str, entry: &str) -> String {
        if self.given { format!("{} field {entry}", given::FIELD) } else { format!("{}/{resource}", self.rules.prefix) }
    }

    /// The first amount that is asked for, as field and value.
    fn amount(&self, wanted: &Wanted) -> Option<(String, String)> {
        let amounts = [
            (wanted.memory, "gpumem", "memory"),
            (wanted.memory_percent.into(), "gpumem-percentage", "memoryPercent"),
            (wanted.cores.into(), "gpucores", "cores"),
        ];
        let named = amounts.into_iter().find(|(amount, ..)| *amount > 0);
        named
            .map(|(amount, resource, entry)| (self.field(resource, entry), amount.to_string()))
            .or_else(|| wanted.exclusive.then(|| (self.field("gpucores", "exclusive"), "true".to_owned())))
    }
}

/// Combines the amounts by the rules. The outer `None`: denied; the inner: no GPU.
#[expect(clippy::option_option, reason = "denied, no GPU and a request are three different outcomes")]
fn decide(
    names: &Names<'_>,
    container: &str,
    wanted: &Wanted,
    pins: &Pins,
    found: &mut Findings,
) -> Option<Option<(u32, Ask)>> {
    if let Some((profile, count)) = wanted.mig.first() {
        let field = names.field(&format!("mig-{profile}"), "mig");
        let denial = if let Some(gpus) = wanted.count.filter(|gpus| *gpus > 0) {
            let field = names.field("gpu", "count");
            let problem = format!("GPUs and MIG instances (mig-{profile}) in one container");
            Some(Denial::new(Some(container), field, gpus.to_string(), problem, "ask for them in two containers"))
        } else if let Some((other, _)) = wanted.mig.get(1) {
            let problem = format!("two MIG profiles in one container, the other is {other}");
            Some(Denial::new(Some(container), field, count.to_string(), problem, "ask for one profile per container"))
        } else {
            names.amount(wanted).map(|(field, value)| {
                let problem = format!("a MIG profile (mig-{profile}) fixes memory and cores already");
                Denial::new(Some(container), field, value, problem, "remove it, or choose a larger profile")
            })
        };
        return if let Some(denial) = denial {
            found.deny(denial);
            None
        } else {
            Some(Some((*count, Ask::Mig(profile.clone()))))
        };
    }
    let pinned = u32::try_from(pins.len()).unwrap_or(u32::MAX);
    let count = match wanted.count {
        Some(0) => {
            let field = names.field("gpu", "count");
            let remedy = "write a count of 1 or more, or remove the rest";
            if let Some((other, amount)) = names.amount(wanted) {
                found.deny(Denial::new(
                    Some(container),
                    field,
                    "0",
                    format!("no GPU, but {other} is {amount}"),
                    remedy,
                ));
                return None;
            }
            if pinned > 0 {
                let problem = format!("no GPU, but the container names devices: {}", shown(&pins_text(pins)));
                found.deny(Denial::new(Some(container), field, "0", problem, remedy));
                return None;
            }
            return Some(None);
        }
        Some(count) => count,
        None if wanted.amounts() => 1,
        None if pinned > 0 => pinned,
        None => {
            if wanted.named {
                found.warn(
                    Some(container),
                    format_args!("amounts of 0 ask for no GPU; write {} to ask for one", names.rules.count_name()),
                );
            }
            return Some(None);
        }
    };
    if wanted.memory > 0 && wanted.memory_percent > 0 {
        let (memory, percent) = (names.field("gpumem", "memory"), names.field("gpumem-percentage", "memoryPercent"));
        found.warn(Some(container), format_args!("{percent} has no effect beside {memory}"));
    }
    let memory = match (wanted.memory, wanted.memory_percent) {
        (0, 0) => Memory::All,
        (0, percent) => Memory::Percent(percent),
        (mib, _) => Memory::Mib(mib),
    };
    let ask = if wanted.exclusive || wanted.cores == 100 {
        if memory != Memory::All {
            found.warn(
                Some(container),
                "the amount of memory has no effect: all cores mean whole GPUs with all their memory",
            );
        }
        Ask::Exclusive
    } else if memory == Memory::All && wanted.cores == 0 {
        match names.rules.count_alone {
            CountAlone::Exclusive => Ask::Exclusive,
            CountAlone::Share(percent) => Ask::Share { memory: Memory::Percent(percent.clamp(1, 100)), cores: 0 },
        }
    } else {
        Ask::Share { memory, cores: wanted.cores }
    };
    Some(Some((count, ask)))
}

/// The devices that an entry of the request annotation names.
fn entry_pins(container: &str, entry: &GivenRequest, found: &mut Findings) -> Pins {
    let pins = Pins { index: entry.index.clone(), uuid: entry.uuid.iter().map(|uuid| uuid.as_str().into()).collect() };
    let mut deny = |field: &str, problem: &str, remedy: &str| {
        let field = format!("{} field {field}", given::FIELD);
        found.deny(Denial::new(Some(container), field, pins_text(&pins), problem, remedy));
    };
    if pins.len() > MOST_DEVICES as usize {
        deny("index", "more devices than any node has", "name as many devices as the container asks for");
        return Pins::default();
    }
    let double = |i: usize| pins.index[i + 1..].contains(&pins.index[i]);
    if (0..pins.index.len()).any(double) {
        deny("index", "a device is named twice", "name each device once");
    }
    let double = |i: usize| pins.uuid[i + 1..].contains(&pins.uuid[i]);
    if (0..pins.uuid.len()).any(double) {
        deny("uuid", "a device is named twice", "name each device once");
    }
    if pins.uuid.iter().any(|uuid| !visible::is_uuid(uuid)) {
        deny("uuid", "not the UUID of a GPU or MIG instance", "write UUIDs such as GPU-… or MIG-…");
    }
    if !pins.index.is_empty() && !pins.uuid.is_empty() {
        deny("index", "indices and UUIDs are mixed", "name devices by one of the two");
    }
    pins
}

/// The devices a container names, in its environment or in the request annotation; both must name the same.
fn pins(raw: &RawContainer<'_>, given: Pins, visible: &Visible, found: &mut Findings) -> Option<Pins> {
    let Visible::Pinned(env) = visible else { return Some(given) };
    if given.is_empty() || given == *env {
        return Some(env.clone());
    }
    found.deny(Denial::new(
        Some(raw.name),
        visible::FIELD,
        pins_text(env),
        format!("the annotation {} names {} for this container", given::FIELD, shown(&pins_text(&given))),
        "make both name the same devices, or remove the variable",
    ));
    None
}

fn pins_text(pins: &Pins) -> String {
    let index = pins.index.iter().map(u32::to_string);
    index.chain(pins.uuid.iter().map(|uuid| uuid.to_string())).collect::<Vec<_>>().join(",")
}

/// The totals belong to GPU containers: on another one they would take room from the node that no device stands for.
fn totals(rules: &Rules, raw: &RawContainer<'_>, gpu: bool, found: &mut Findings) {
    for (name, value) in raw.limits.iter().chain(&raw.requests) {
        if !name.starts_with("packhorse.dev/") {
            continue;
        }
        if !TOTALS.contains(name) {
            found.warn(
                Some(raw.name),
                format_args!("{} is not a resource of Packhorse; no node offers it", shown(name)),
            );
        } else if !gpu {
            let problem = "a total without a GPU; only Packhorse writes totals";
            let prefix = &rules.prefix;
            let remedy = format!("remove it; ask for GPU memory by {prefix}/gpumem, for cores by {prefix}/gpucores");
            found.deny(Denial::new(Some(raw.name), *name, value, problem, remedy));
            return;
        }
    }
}

/// What a GPU container's environment says besides.
fn environment(raw: &RawContainer<'_>, visible: &Visible, found: &mut Findings) {
    match visible {
        Visible::Indirect => found.deny(Denial::new(
            Some(raw.name),
            visible::FIELD,
            "valueFrom",
            "comes from somewhere that cannot be read at admission",
            "remove the variable: Packhorse sets it for containers that ask for GPUs",
        )),
        Visible::Nothing => {
            found.warn(Some(raw.name), format_args!("{} is overwritten: the container asks for GPUs", visible::FIELD))
        }
        Visible::Unset | Visible::All | Visible::Pinned(_) => {}
    }
    for (name, value) in &raw.env {
        if let Some(row) = hami::find(hami::Place::Env, name) {
            found.answer(Some(raw.name), row, name, value);
        } else if name.starts_with("NVIDIA_GPU_MEMORY_") || name.starts_with("CUDA_MPS_") {
            found.warn(
                Some(raw.name),
                format_args!(
                    "{} changes no limit: limits come from the resources, not from the environment",
                    shown(name)
                ),
            );
        }
    }
}
