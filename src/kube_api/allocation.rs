//! The pod annotations that carry an allocation: `packhorse.dev/allocation` and `devices.packhorse.dev/<container>`.
//!
//! Written by the extender in the Binding and by nobody else; read by the ledger and the agent. An allocation that cannot be
//! read is never taken for none: [`salvage`] finds every UUID that can still be made out of its text.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::fields::{Damaged, Decoded, Field, parse, shorten};
use super::inventory::read_name;
use super::names::{ALLOCATION, DEVICES_PREFIX};
use super::pod::PodView;
use crate::gpu::allocation::{Allocation, ContainerAllocation, Share};
use crate::gpu::device::Enforcement;

/// Reads the annotation `packhorse.dev/allocation`. Containers come sorted by name.
///
/// # Errors
/// The first field that cannot be read.
pub fn decode(text: &str) -> Result<Decoded<Allocation>, Damaged> {
    decode_with(text, &|text| Arc::from(text))
}

/// Like [`decode`]; `intern` makes the strings that many pods have in common.
///
/// # Errors
/// The first field that cannot be read.
pub fn decode_with(text: &str, intern: &dyn Fn(&str) -> Arc<str>) -> Result<Decoded<Allocation>, Damaged> {
    let value = parse(ALLOCATION, text)?;
    let root = Field::root(ALLOCATION, &value);
    root.version_one()?;
    let mut unknown = Vec::new();
    root.note_unknown(&["v", "containers"], &mut unknown)?;
    let mut containers = Vec::new();
    for (name, list) in root.need("containers")?.entries()? {
        let mut shares: Vec<Share> = Vec::new();
        for item in list.items()? {
            let share = read_share(&item, intern, &mut unknown)?;
            if shares.iter().any(|other| other.device == share.device) {
                return Err(item.need("device")?.error("is given to this container twice"));
            }
            shares.push(share);
        }
        shares.shrink_to_fit();
        containers.push(ContainerAllocation { name: intern(name), shares });
    }
    containers.sort_by(|a, b| a.name.cmp(&b.name));
    containers.shrink_to_fit();
    Ok(Decoded { value: Allocation { containers }, unknown })
}

fn read_share(
    item: &Field<'_, '_>,
    intern: &dyn Fn(&str) -> Arc<str>,
    unknown: &mut Vec<String>,
) -> Result<Share, Damaged> {
    item.note_unknown(&["device", "memory", "cores", "exclusive", "enforcement"], unknown)?;
    Ok(Share {
        device: intern(item.need("device")?.word()?),
        memory: item.need("memory")?.number(0..=i64::from(u32::MAX))?,
        cores: item.need("cores")?.number(0..=100)?,
        exclusive: item.get("exclusive")?.map(|exclusive| exclusive.flag()).transpose()?.unwrap_or(false),
        enforcement: read_name(&item.need("enforcement")?, &Enforcement::ALL)?,
    })
}

/// Writes the annotation `packhorse.dev/allocation`.
pub fn encode(allocation: &Allocation) -> String {
    let containers: Map<String, Value> = allocation
        .containers
        .iter()
        .map(|container| {
            let shares = container.shares.iter().map(|share| {
                let mut written = json!({
                    "device": &*share.device,
                    "memory": share.memory,
                    "cores": share.cores,
                    "enforcement": share.enforcement.as_str(),
                });
                if share.exclusive {
                    written["exclusive"] = json!(true);
                }
                written
            });
            (container.name.as_ref().to_owned(), shares.collect())
        })
        .collect();
    json!({"v": 1, "containers": containers}).to_string()
}

/// Every annotation of the Binding: the allocation and one `devices.packhorse.dev/<container>` per container, each with the
/// same UUIDs in the same order.
pub fn annotations(allocation: &Allocation) -> Vec<(String, String)> {
    let mut annotations = vec![(ALLOCATION.to_owned(), encode(allocation))];
    let lists = allocation.containers.iter();
    annotations.extend(lists.map(|container| (format!("{DEVICES_PREFIX}{}", container.name), write_list(container))));
    annotations
}

fn write_list(container: &ContainerAllocation) -> String {
    let devices: Vec<&str> = container.shares.iter().map(|share| &*share.device).collect();
    devices.join(",")
}

/// A pod's annotations `devices.packhorse.dev/<container>`: container and text.
pub fn device_lists<'a>(pod: &'a PodView<'_>) -> impl Iterator<Item = (&'a str, &'a str)> {
    let annotations = pod.metadata.annotations.iter();
    annotations.filter_map(|(key, value)| key.strip_prefix(DEVICES_PREFIX).map(|container| (container, &**value)))
}

/// Whether the lists that a pod has are, to the letter, those of its allocation: where no specification is written, a container sees
/// what the text of its list says. A list that is missing shows no device.
///
/// # Errors
/// The first container whose list is another.
pub fn check_lists<'a>(
    allocation: &Allocation,
    lists: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<(), Damaged> {
    for (name, list) in lists {
        let given = allocation.containers.iter().find(|container| *container.name == *name).map(write_list);
        if given.as_deref().unwrap_or_default() != list {
            return Err(Damaged {
                key: ALLOCATION,
                field: format!("containers.{name}"),
                value: given.as_deref().map_or_else(|| "absent".to_owned(), shorten),
                problem: format!("must name the devices of annotation {DEVICES_PREFIX}{name}: {:?}", shorten(list)),
            });
        }
    }
    Ok(())
}

/// Reads one `devices.packhorse.dev/<container>`.
pub fn device_list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|uuid| !uuid.is_empty())
}

/// What can still be read of a damaged allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvage<'a> {
    /// Every device named anywhere, sorted.
    pub devices: BTreeSet<&'a str>,
    /// Whether every device that the pod was given is among them. Where not, it may be using any device of its node.
    pub complete: bool,
}

/// Finds every device that the texts of one pod can still be read to name: whatever looks like a UUID anywhere in the
/// allocation, and every entry of `lists`, its `devices.packhorse.dev/` annotations by container. `asked` is the number of
/// devices each container asks for.
pub fn salvage<'a>(
    allocation: Option<&'a str>,
    lists: &BTreeMap<&'a str, &'a str>,
    asked: &[(String, usize)],
) -> Salvage<'a> {
    let mut devices: BTreeSet<&str> = lists.values().copied().flat_map(device_list).collect();
    devices.extend(allocation.into_iter().flat_map(uuids_in));
    let json: Option<Value> = allocation.and_then(|text| serde_json::from_str(text).ok());
    let complete = asked.iter().all(|(container, count)| {
        let listed = lists.get(container.as_str()).map_or(0, |list| device_list(list).count());
        let entries = json.as_ref().and_then(|json| json["containers"][container.as_str()].as_array());
        // Whatever else is damaged in an entry, its device must be among those found above.
        let named = entries.into_iter().flatten().filter(|e| e["device"].as_str().is_some_and(|d| devices.contains(d)));
        listed.max(named.count()) >= *count
    });
    Salvage { devices, complete }
}

/// Whatever looks like a GPU's or MIG instance's UUID in damaged text.
fn uuids_in(text: &str) -> impl Iterator<Item = &str> {
    // `/` belongs to the older form MIG-GPU-…/1/0.
    text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'))).filter_map(|word| {
        let start = [word.find("GPU-"), word.find("MIG-")].into_iter().flatten().min()?;
        (word.len() > start + 4).then(|| &word[start..])
    })
}

#[cfg(test)]
#[path = "allocation/tests.rs"]
mod tests;
