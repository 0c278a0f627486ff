//! From the roster to the snapshot that everybody reads. Pure; the same roster makes the same snapshot.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::roster::{Known, Roster};
use super::{Settings, Slots};
use crate::agent::backend::{Card, Instance};
use crate::agent::view::{MigStrategy, NodeView};
use crate::gpu::device::{Device, Enforcement, Link, MigInstance};

/// What one card counts, percent; an instance counts the same of itself.
const CORES: u16 = 100;

/// The snapshot. `trouble`: why there may be nothing.
pub(super) fn build(roster: &Roster, settings: &Settings, trouble: Option<&str>) -> NodeView {
    let listed: Vec<&Known> = roster.cards().iter().filter(|known| known.is_listed()).collect();
    let mut devices = Vec::new();
    for known in &listed {
        if known.card.mig_mode {
            devices.extend(known.card.instances.iter().map(|instance| mig(known, instance, &settings.slots)));
        } else {
            devices.push(whole(known, &listed, settings.slots.cards));
        }
    }
    devices.sort_by(|a, b| (&a.pci, &a.uuid).cmp(&(&b.pci, &b.uuid)));
    let mut trouble = trouble.map(str::to_owned);
    let there: Vec<&Card> = roster.cards().iter().filter(|known| !known.gone).map(|known| &known.card).collect();
    if settings.mig_strategy == MigStrategy::Single
        && let Err(reason) = uniform(&there)
    {
        devices.clear();
        trouble = Some(reason);
    }
    NodeView {
        driver: roster.driver.clone(),
        driver_place: roster.driver_place,
        cuda: roster.cuda,
        cards: listed.iter().map(|known| known.card.clone()).collect(),
        devices,
        mig_strategy: settings.mig_strategy,
        trouble,
    }
}

fn whole(known: &Known, listed: &[&Known], slots: u16) -> Device {
    let card = &known.card;
    let is_device = |uuid: &str| listed.iter().any(|other| &*other.card.uuid == uuid && !other.card.mig_mode);
    let links = card.links.iter().filter(|link| is_device(&link.peer));
    Device {
        uuid: Arc::clone(&card.uuid),
        index: card.index,
        model: Arc::clone(&card.model),
        memory: card.memory,
        cores: CORES,
        slots,
        numa: card.numa,
        pci: Arc::clone(&card.pci),
        health: known.health(),
        enforcement: Enforcement::Advisory,
        links: links.map(|l| Link { peer: Arc::clone(&l.peer), nvlink: l.nvlink, pcie: l.pcie }).collect(),
        mig: None,
        parent: None,
        foreign: None,
    }
}

fn mig(known: &Known, instance: &Instance, slots: &Slots) -> Device {
    let card = &known.card;
    let slots = slots.of_instance(instance);
    Device {
        uuid: Arc::clone(&instance.uuid),
        index: card.index,
        model: Arc::clone(&card.model),
        memory: instance.memory,
        cores: CORES,
        slots,
        numa: card.numa,
        pci: Arc::clone(&card.pci),
        health: known.instance_health(&instance.uuid),
        enforcement: instance_enforcement(card, instance, slots),
        links: Vec::new(),
        mig: Some(MigInstance { profile: instance.profile.clone(), start: instance.start, size: instance.size }),
        parent: Some(Arc::clone(&card.uuid)),
        foreign: None,
    }
}

/// The hardware keeps instances apart, not the containers of one instance, nor the compute instances of one GPU instance, which
/// have their memory in common.
fn instance_enforcement(card: &Card, instance: &Instance, slots: u16) -> Enforcement {
    let slices = |i: &Instance| u16::from(i.start)..u16::from(i.start) + u16::from(i.size);
    let own = slices(instance);
    let shared = card.instances.iter().any(|other| {
        let others = slices(other);
        other.uuid != instance.uuid && own.start < others.end && others.start < own.end
    });
    if slots > 1 || shared { Enforcement::Advisory } else { Enforcement::Mig }
}

/// Under strategy `single` a node has either no card in MIG mode, or all of them are, cut to one profile; the words are those of
/// NVIDIA's device plugin.
fn uniform(there: &[&Card]) -> Result<(), String> {
    let mig: Vec<&Card> = there.iter().copied().filter(|card| card.mig_mode).collect();
    if mig.is_empty() {
        return Ok(());
    }
    const REMEDY: &str = "configure them alike, or choose --mig-strategy=mixed";
    if mig.len() < there.len() {
        return Err(format!(
            "all devices on the node must be configured with the same migEnabled value: {} of {} cards have MIG enabled; {REMEDY}",
            mig.len(),
            there.len()
        ));
    }
    if let Some(card) = mig.iter().find(|card| card.instances.is_empty()) {
        return Err(format!(
            "device {} ({}) has an invalid MIG configuration: it has no MIG instance; {REMEDY}",
            card.index, card.uuid
        ));
    }
    let profiles: BTreeSet<&str> = mig.iter().flat_map(|card| &card.instances).map(|i| &*i.profile.0).collect();
    if profiles.len() > 1 {
        let profiles = profiles.into_iter().collect::<Vec<_>>().join(", ");
        return Err(format!("more than one MIG device type present on node: {profiles}; {REMEDY}"));
    }
    Ok(())
}
