//! The file's part `usage`: what cards and their processes use, as a backend reads it.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{Once, at, known, line};
use crate::agent::backend::{Card, CardUsage, InstanceUsage, Memory, Process, Reading};
use crate::yaml::Mistake;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Entry {
    device: Spanned<usize>,
    /// MiB.
    memory_used: Option<Spanned<u32>>,
    utilization: Option<Spanned<u32>>,
    memory_utilization: Option<Spanned<u32>>,
    temperature: Option<u32>,
    /// Watts.
    power: Option<u16>,
    power_limit: Option<u16>,
    sm_clock: Option<u32>,
    memory_clock: Option<u32>,
    /// Millijoules.
    energy: Option<u64>,
    #[serde(default)]
    instances: Vec<InstanceEntry>,
    processes: Option<Vec<ProcessEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct InstanceEntry {
    uuid: Spanned<String>,
    memory_used: Spanned<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ProcessEntry {
    pid: u32,
    instance: Option<Spanned<String>>,
    memory: Option<u32>,
    utilization: Option<Spanned<u32>>,
}

/// Every card there is, those that the file does not speak of without a reading.
pub(super) fn usage(cards: &[Card], entries: &[Spanned<Entry>]) -> Result<Vec<CardUsage>, Mistake> {
    let mut spoken_of = Once::default();
    let mut all: Vec<CardUsage> = cards.iter().map(unknown).collect();
    for entry in entries {
        let device = &entry.value.device;
        known(cards, device, "device")?;
        spoken_of.check(&device.value, line(device), "device")?;
        // Looked up just now; both lists are in the same order.
        if let (Some(card), Some(place)) = (cards.get(device.value), all.get_mut(device.value)) {
            *place = read(card, &entry.value)?;
        }
    }
    Ok(all)
}

fn unknown(card: &Card) -> CardUsage {
    CardUsage {
        uuid: Arc::clone(&card.uuid),
        reading: Reading::default(),
        instances: Vec::new(),
        processes: None,
        tells_by_process: !card.mig_mode,
    }
}

fn read(card: &Card, entry: &Entry) -> Result<CardUsage, Mistake> {
    let reading = Reading {
        memory: entry.memory_used.as_ref().map(|used| memory(used, card.memory)).transpose()?,
        utilization: percent(entry.utilization.as_ref(), "utilization")?,
        memory_utilization: percent(entry.memory_utilization.as_ref(), "memoryUtilization")?,
        temperature: entry.temperature,
        power: entry.power.map(|watts| u32::from(watts) * 1000),
        power_limit: entry.power_limit.map(|watts| u32::from(watts) * 1000),
        sm_clock: entry.sm_clock,
        memory_clock: entry.memory_clock,
        energy: entry.energy,
    };
    let mut instances = Vec::new();
    for InstanceEntry { uuid, memory_used } in &entry.instances {
        let (uuid, size) = instance(card, uuid, "uuid")?;
        instances.push(InstanceUsage { uuid, gpu_instance: None, memory: Some(memory(memory_used, size)?) });
    }
    let processes = entry.processes.as_ref().map(|processes| processes.iter().map(|it| process(card, it)).collect());
    let processes: Option<Vec<Process>> = processes.transpose()?;
    Ok(CardUsage { uuid: Arc::clone(&card.uuid), reading, instances, processes, tells_by_process: !card.mig_mode })
}

fn process(card: &Card, entry: &ProcessEntry) -> Result<Process, Mistake> {
    let instance = entry.instance.as_ref().map(|uuid| instance(card, uuid, "instance")).transpose()?;
    let utilization = percent(entry.utilization.as_ref(), "utilization")?;
    Ok(Process {
        pid: entry.pid,
        instance: instance.map(|(uuid, _)| uuid),
        memory: entry.memory.map(u64::from),
        utilization: if card.mig_mode { None } else { utilization },
    })
}

fn instance(card: &Card, uuid: &Spanned<String>, key: &str) -> Result<(Arc<str>, u32), Mistake> {
    let found = card.instances.iter().find(|instance| *instance.uuid == uuid.value);
    found.map(|instance| (Arc::clone(&instance.uuid), instance.memory)).ok_or_else(|| {
        let there: HashSet<&str> = card.instances.iter().map(|instance| &*instance.uuid).collect();
        at(uuid, format!("{key}: {} is no MIG instance of {}; there are {there:?}", uuid.value, card.uuid))
    })
}

fn memory(used: &Spanned<u32>, total: u32) -> Result<Memory, Mistake> {
    let free = total.checked_sub(used.value).ok_or_else(|| {
        at(used, format!("memoryUsed: {} MiB are more than the device has, which are {total}", used.value))
    })?;
    Ok(Memory { used: used.value.into(), free: free.into() })
}

fn percent(value: Option<&Spanned<u32>>, key: &str) -> Result<Option<u32>, Mistake> {
    match value {
        Some(value) if value.value > 100 => Err(at(value, format!("{key}: {}: write a percentage", value.value))),
        value => Ok(value.map(|value| value.value)),
    }
}
