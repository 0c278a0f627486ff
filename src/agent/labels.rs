//! The labels of a node with GPUs, by the names and rules of NVIDIA's GPU Feature Discovery
//! (<https://github.com/NVIDIA/k8s-device-plugin/blob/main/docs/gpu-feature-discovery/README.md>): pure, from what was discovered and
//! what the host says of itself. `publish` writes them. `docs/labels.md` lists them for users.
//!
//! The same devices always give the same labels: on a node of several models those of the first one by PCI address, and beside them
//! one count per model.

pub mod extra;
pub mod host;

use std::collections::{BTreeMap, BTreeSet};

use self::host::Host;
use super::backend::{Card, Instance};
use super::view::{MigStrategy, NodeView};
use crate::kube_api::names::{DRIVER_LABEL, MIG_STRATEGY_LABEL};

/// Longest value of a label, and longest name part of its key.
const LONGEST: usize = 63;
/// GPU Feature Discovery's prefix of all labels about a node's GPUs.
const GPU: &str = "nvidia.com/gpu";

/// Labels by key.
pub type Labels = BTreeMap<String, String>;

/// All labels of a node; none where there is no card.
pub fn of(view: &NodeView, host: &Host) -> Labels {
    let mut labels = Labels::new();
    let Some(first) = view.cards.first() else { return labels };
    let mut set = |key: &str, text: &str| {
        labels.insert(key.to_owned(), value(text));
    };
    set("nvidia.com/gpu.present", "true");
    set("nvidia.com/gpu.machine", host.machine());
    set("nvidia.com/gpu.mode", host.mode(&view.cards));
    if let Some(place) = view.driver_place {
        set(DRIVER_LABEL, place.as_str());
    }
    set("nvidia.com/mig.capable", if view.cards.iter().any(|card| card.mig_capable) { "true" } else { "false" });
    // Packhorse serves no MPS.
    set("nvidia.com/mps.capable", "false");
    if view.mig_strategy != MigStrategy::None {
        set(MIG_STRATEGY_LABEL, view.mig_strategy.as_str());
    }
    let cliques: BTreeSet<&str> = view.cards.iter().filter_map(|card| card.clique.as_deref()).collect();
    if let (Some(clique), 1) = (cliques.first(), cliques.len()) {
        set("nvidia.com/gpu.clique", clique);
    }
    versions(&mut labels, view);
    cards(&mut labels, view, first);
    match view.mig_strategy {
        MigStrategy::None => {}
        MigStrategy::Single => single(&mut labels, view),
        MigStrategy::Mixed => mixed(&mut labels, view),
    }
    labels
}

/// Of the driver (`X.Y[.Z]`) and of the newest CUDA it supports, by their present and their older names.
fn versions(labels: &mut Labels, view: &NodeView) {
    let mut set = |key: &str, text: &str| {
        labels.insert(format!("nvidia.com/cuda.{key}"), value(text));
    };
    let parts: Vec<&str> = view.driver.split('.').collect();
    if let [major, minor, rest @ ..] = parts.as_slice()
        && rest.len() <= 1
    {
        let revision = rest.first().copied().unwrap_or_default();
        set("driver-version.full", &view.driver);
        set("driver-version.major", major);
        set("driver-version.minor", minor);
        set("driver-version.revision", revision);
        set("driver.major", major);
        set("driver.minor", minor);
        set("driver.rev", revision);
    }
    if let Some((major, minor)) = view.cuda {
        let (major, minor) = (major.to_string(), minor.to_string());
        set("runtime-version.full", &format!("{major}.{minor}"));
        set("runtime-version.major", &major);
        set("runtime-version.minor", &minor);
        set("runtime.major", &major);
        set("runtime.minor", &minor);
    }
}

/// Of the first model, and how many cards each model has.
fn cards(labels: &mut Labels, view: &NodeView, first: &Card) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for card in &view.cards {
        *counts.entry(product(&[&card.model])).or_default() += 1;
    }
    let model = product(&[&first.model]);
    // A card that is not cut into instances tells how it can be shared; one that is has 0 replicas.
    let whole = view.cards.iter().find(|card| product(&[&card.model]) == model && !card.mig_mode);
    let slots = whole.map_or(0, |card| slots(view, &card.uuid));
    resource(labels, GPU, &model, counts.get(&model).copied().unwrap_or_default(), slots);
    if first.memory > 0 {
        labels.insert(format!("{GPU}.memory"), first.memory.to_string());
    }
    let (major, minor) = first.compute;
    if major > 0 {
        labels.insert(format!("{GPU}.family"), family(major, minor).to_owned());
        labels.insert(format!("{GPU}.compute.major"), major.to_string());
        labels.insert(format!("{GPU}.compute.minor"), minor.to_string());
    }
    for (model, count) in counts {
        // `gpu.<model>.count` is the name part of the key.
        let model = cut(&model, LONGEST - "gpu..count".len());
        if !model.is_empty() {
            labels.insert(format!("{GPU}.{model}.count"), count.to_string());
        }
    }
}

/// Strategy `single`: `nvidia.com/gpu` means instances, so its labels describe them, if all are of one profile.
fn single(labels: &mut Labels, view: &NodeView) {
    let Some(first) = view.cards.iter().find(|card| card.mig_mode) else {
        // No card in MIG mode: as strategy `none`.
        return;
    };
    let profiles: BTreeSet<&str> =
        view.cards.iter().flat_map(|card| &card.instances).map(|instance| &*instance.profile.0).collect();
    let valid = view.cards.iter().all(|card| card.mig_mode && !card.instances.is_empty()) && profiles.len() == 1;
    match first.instances.first() {
        Some(instance) if valid => {
            let count = view.cards.iter().map(|card| card.instances.len()).sum();
            instances(labels, GPU, view, (first, instance), count);
        }
        _ => {
            labels.insert(format!("{GPU}.product"), product(&[&first.model, "MIG", "INVALID"]));
            for suffix in ["count", "replicas", "memory"] {
                labels.insert(format!("{GPU}.{suffix}"), "0".to_owned());
            }
        }
    }
}

/// Strategy `mixed`: each profile is a resource and has its labels.
fn mixed(labels: &mut Labels, view: &NodeView) {
    let mut profiles: BTreeMap<&str, ((&Card, &Instance), usize)> = BTreeMap::new();
    for card in &view.cards {
        for instance in &card.instances {
            profiles.entry(&instance.profile.0).or_insert(((card, instance), 0)).1 += 1;
        }
    }
    for (profile, (first, count)) in profiles {
        let resource = format!("nvidia.com/mig-{}", profile.replace('+', "."));
        instances(labels, &resource, view, first, count);
    }
}

fn instances(labels: &mut Labels, name: &str, view: &NodeView, first: (&Card, &Instance), count: usize) {
    let (card, instance) = first;
    let product = product(&[&card.model, "MIG", &instance.profile.0]);
    resource(labels, name, &product, count, slots(view, &instance.uuid));
    labels.insert(format!("{name}.memory"), instance.memory.to_string());
    let Some(attributes) = instance.attributes else { return };
    for (suffix, amount) in [
        ("multiprocessors", attributes.multiprocessors),
        ("slices.gi", attributes.gpu_slices),
        ("slices.ci", attributes.compute_slices),
        ("engines.copy", attributes.copy_engines),
        ("engines.decoder", attributes.decoders),
        ("engines.encoder", attributes.encoders),
        ("engines.jpeg", attributes.jpegs),
        ("engines.ofa", attributes.ofas),
    ] {
        labels.insert(format!("{name}.{suffix}"), amount.to_string());
    }
}

/// What every resource has. The product is plain, without `-SHARED`: that suffix tells of a smaller share behind the same name,
/// while here a count alone still is a whole card.
fn resource(labels: &mut Labels, name: &str, product: &str, count: usize, slots: u16) {
    labels.insert(format!("{name}.product"), product.to_owned());
    labels.insert(format!("{name}.count"), count.to_string());
    labels.insert(format!("{name}.replicas"), slots.to_string());
    let sharing = if slots > 1 { "time-slicing" } else { "none" };
    labels.insert(format!("{name}.sharing-strategy"), sharing.to_owned());
}

fn slots(view: &NodeView, uuid: &str) -> u16 {
    view.device(uuid).map_or(1, |device| device.slots)
}

/// NVIDIA's names of the architectures (CUDA programming guide, compute capabilities).
fn family(major: u32, minor: u32) -> &'static str {
    match (major, minor) {
        (1, _) => "tesla",
        (2, _) => "fermi",
        (3, _) => "kepler",
        (5, _) => "maxwell",
        (6, _) => "pascal",
        (7, 0..5) => "volta",
        (7, _) => "turing",
        (8, 0..9) => "ampere",
        (8, _) => "ada-lovelace",
        (9, _) => "hopper",
        (10 | 12, _) => "blackwell",
        (13, _) => "rubin",
        _ => "undefined",
    }
}

/// Parts of a name, joined by dashes.
fn product(parts: &[&str]) -> String {
    value(&parts.iter().map(|part| value(part)).collect::<Vec<_>>().join("-"))
}

/// A valid value of a label: letters, digits, `-_.`, blanks as dashes, everything else left out, at most 63 characters.
fn value(text: &str) -> String {
    let kept = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ');
    let text: String = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).filter(kept).collect();
    cut(&text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-"), LONGEST).to_owned()
}

/// At most `longest` characters of an ASCII text, beginning and ending with a letter or digit.
fn cut(text: &str, longest: usize) -> &str {
    let bare = |c: char| !c.is_ascii_alphanumeric();
    let text = text.trim_start_matches(bare);
    text.get(..longest).unwrap_or(text).trim_end_matches(bare)
}

#[cfg(test)]
#[path = "labels/tests.rs"]
mod tests;
