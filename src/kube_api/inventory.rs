//! The node annotations: inventory, written by the node's agent, and cordon, written by an administrator.
//!
//! Read by the ledger and by the extender where kube-scheduler sends whole nodes. What cannot be read makes the node unusable:
//! the error names the field. Unknown fields of a known version are noted and skipped.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::fields::{Damaged, Decoded, Field, parse};
use super::names::INVENTORY;
use crate::gpu::device::{Device, Enforcement, ForeignPod, Health, Inventory, Link, MigInstance, Pcie, Refused};
use crate::gpu::request::MigProfile;

const HEALTH: [(Health, &str); 4] = [
    (Health::Healthy, "healthy"),
    (Health::Suspect, "suspect"),
    (Health::Unhealthy, "unhealthy"),
    (Health::Recovering, "recovering"),
];

const PCIE: [(Pcie, &str); 6] = [
    (Pcie::SameBoard, "same-board"),
    (Pcie::SingleSwitch, "single-switch"),
    (Pcie::MultiSwitch, "multi-switch"),
    (Pcie::HostBridge, "host-bridge"),
    (Pcie::SameCpu, "same-cpu"),
    (Pcie::CrossCpu, "cross-cpu"),
];

/// Reads the annotation `packhorse.dev/inventory`.
///
/// # Errors
/// The first field that cannot be read.
pub fn decode(text: &str) -> Result<Decoded<Inventory>, Damaged> {
    decode_with(text, &|text| Arc::from(text))
}

/// Like [`decode`]; `intern` makes the strings that many nodes have in common.
///
/// # Errors
/// The first field that cannot be read.
pub fn decode_with(text: &str, intern: &dyn Fn(&str) -> Arc<str>) -> Result<Decoded<Inventory>, Damaged> {
    let value = parse(INVENTORY, text)?;
    let root = Field::root(INVENTORY, &value);
    root.version_one()?;
    let mut unknown = Vec::new();
    root.note_unknown(&["v", "ready", "driver", "devices", "refused"], &mut unknown)?;

    let mut devices = Vec::new();
    let mut uuids = HashSet::new();
    for item in root.need("devices")?.items()? {
        let device = read_device(&item, intern, &mut unknown)?;
        if !uuids.insert(Arc::clone(&device.uuid)) {
            return Err(item.need("uuid")?.error("is listed twice"));
        }
        devices.push(device);
    }
    for item in root.need("devices")?.items()? {
        // A card listed beside its own instances would be given out twice.
        if let Some(parent) = item.get("parent")?
            && uuids.contains(parent.text()?)
        {
            return Err(parent.error("is listed itself: a card in MIG mode is listed by its instances only"));
        }
    }
    devices.sort_by(|a, b| (&a.pci, &a.uuid).cmp(&(&b.pci, &b.uuid)));

    let mut refused = Vec::new();
    if let Some(list) = root.get("refused")? {
        for item in list.items()? {
            item.note_unknown(&["pod", "uid", "reason"], &mut unknown)?;
            refused.push(Refused {
                pod: item.need("pod")?.word()?.to_owned(),
                uid: item.need("uid")?.word()?.to_owned(),
                reason: item.need("reason")?.text()?.to_owned(),
            });
        }
    }
    let ready = root.need("ready")?.flag()?;
    let driver = root.get("driver")?.map(|driver| driver.text()).transpose()?.unwrap_or_default().to_owned();
    Ok(Decoded { value: Inventory { ready, driver, devices, refused }, unknown })
}

/// Writes the annotation: one line, sorted by pci, then uuid, so that an unchanged inventory is an unchanged text.
pub fn encode(inventory: &Inventory) -> String {
    let mut devices: Vec<&Device> = inventory.devices.iter().collect();
    devices.sort_by(|a, b| (&a.pci, &a.uuid).cmp(&(&b.pci, &b.uuid)));
    let mut root = Map::new();
    root.insert("v".to_owned(), json!(1));
    root.insert("ready".to_owned(), json!(inventory.ready));
    if !inventory.driver.is_empty() {
        root.insert("driver".to_owned(), json!(inventory.driver));
    }
    root.insert("devices".to_owned(), devices.into_iter().map(write_device).collect());
    if !inventory.refused.is_empty() {
        let refused = inventory.refused.iter().map(|r| json!({"pod": r.pod, "uid": r.uid, "reason": r.reason}));
        root.insert("refused".to_owned(), refused.collect());
    }
    Value::Object(root).to_string()
}

/// Reads the annotation `packhorse.dev/cordon`: UUIDs, comma-separated, spaces allowed, empty entries meaningless.
pub fn cordon(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|uuid| !uuid.is_empty())
}

fn read_device(
    item: &Field<'_, '_>,
    intern: &dyn Fn(&str) -> Arc<str>,
    unknown: &mut Vec<String>,
) -> Result<Device, Damaged> {
    const KNOWN: [&str; 14] = [
        "uuid",
        "index",
        "model",
        "memory",
        "cores",
        "slots",
        "numa",
        "pci",
        "health",
        "enforcement",
        "links",
        "mig",
        "parent",
        "foreign",
    ];
    item.note_unknown(&KNOWN, unknown)?;

    let pci = item.need("pci")?;
    if !is_pci(pci.text()?) {
        return Err(pci.error("must be a PCI address like 0000:07:00.0, lower case"));
    }
    let enforcement = item.need("enforcement")?;
    let mig = item.get("mig")?.map(|mig| read_mig(&mig, unknown)).transpose()?;
    let parent = match (&mig, item.get("parent")?) {
        (Some(_), None) => Some(item.need("parent")?.word()?),
        (None, Some(parent)) => return Err(parent.error("only a MIG instance has a parent; `mig` is absent")),
        (_, parent) => parent.map(|parent| parent.word()).transpose()?,
    };
    Ok(Device {
        uuid: intern(item.need("uuid")?.word()?),
        index: item.need("index")?.number(0..=i64::from(u32::MAX))?,
        model: intern(item.need("model")?.text()?),
        memory: item.need("memory")?.number(1..=i64::from(u32::MAX))?,
        cores: item.need("cores")?.number(1..=100)?,
        slots: item.need("slots")?.number(1..=i64::from(u16::MAX))?,
        // -1, unknown, becomes None: it does not fit u16.
        numa: match item.get("numa")? {
            Some(numa) => u16::try_from(numa.number::<i64>(-1..=i64::from(u16::MAX))?).ok(),
            None => None,
        },
        pci: intern(pci.text()?),
        health: read_name(&item.need("health")?, &HEALTH)?,
        enforcement: read_name(&enforcement, &Enforcement::ALL)?,
        links: read_links(item, intern, unknown)?,
        mig,
        parent: parent.map(intern),
        foreign: item.get("foreign")?.map(|foreign| read_foreign(&foreign, unknown)).transpose()?,
    })
}

fn read_links(
    item: &Field<'_, '_>,
    intern: &dyn Fn(&str) -> Arc<str>,
    unknown: &mut Vec<String>,
) -> Result<Vec<Link>, Damaged> {
    let Some(links) = item.get("links")? else { return Ok(Vec::new()) };
    let mut read = Vec::new();
    for (peer, link) in links.entries()? {
        link.note_unknown(&["nvlink", "pcie"], unknown)?;
        read.push(Link {
            peer: intern(peer),
            nvlink: link.get("nvlink")?.map(|n| n.number(0..=i64::from(u8::MAX))).transpose()?.unwrap_or(0),
            pcie: link.get("pcie")?.map(|pcie| read_name(&pcie, &PCIE)).transpose()?,
        });
    }
    // The annotation's own order says nothing; equal inventories are to be equal.
    read.sort_by(|a, b| a.peer.cmp(&b.peer));
    read.shrink_to_fit();
    Ok(read)
}

fn read_mig(mig: &Field<'_, '_>, unknown: &mut Vec<String>) -> Result<MigInstance, Damaged> {
    mig.note_unknown(&["profile", "start", "size"], unknown)?;
    Ok(MigInstance {
        profile: MigProfile(Arc::from(mig.need("profile")?.word()?)),
        start: mig.need("start")?.number(0..=i64::from(u8::MAX))?,
        size: mig.need("size")?.number(1..=i64::from(u8::MAX))?,
    })
}

fn read_foreign(foreign: &Field<'_, '_>, unknown: &mut Vec<String>) -> Result<ForeignPod, Damaged> {
    foreign.note_unknown(&["pod", "uid"], unknown)?;
    // A foreign pod that the agent cannot name still keeps the device.
    let text = |name| Ok(foreign.get(name)?.map(|f| f.text()).transpose()?.unwrap_or_default().to_owned());
    Ok(ForeignPod { pod: text("pod")?, uid: text("uid")? })
}

/// One of a fixed set of names.
pub(super) fn read_name<T: Copy>(field: &Field<'_, '_>, names: &[(T, &str)]) -> Result<T, Damaged> {
    let text = field.text()?;
    names.iter().find(|(_, name)| *name == text).map(|(value, _)| *value).ok_or_else(|| {
        let names: Vec<&str> = names.iter().map(|(_, name)| *name).collect();
        field.error(format!("must be one of {}", names.join(", ")))
    })
}

/// `dddd:bb:dd.f`, lower case; domains beyond four digits exist on large hosts.
pub(crate) fn is_pci(text: &str) -> bool {
    let hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let mut parts = text.split(':');
    let (Some(domain), Some(bus), Some(rest), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let Some((device, function)) = rest.split_once('.') else { return false };
    (4..=8).contains(&domain.len())
        && bus.len() == 2
        && device.len() == 2
        && function.len() == 1
        && [domain, bus, device, function].into_iter().all(hex)
}

fn name_of<T: PartialEq>(value: &T, names: &[(T, &'static str)]) -> &'static str {
    // Every table lists every variant; an empty name would be refused by any reader.
    names.iter().find(|(known, _)| known == value).map_or("", |(_, name)| *name)
}

fn write_device(device: &Device) -> Value {
    let mut object = json!({
        "uuid": &*device.uuid,
        "index": device.index,
        "model": &*device.model,
        "memory": device.memory,
        "cores": device.cores,
        "slots": device.slots,
        "numa": device.numa.map_or(-1, i32::from),
        "pci": &*device.pci,
        "health": name_of(&device.health, &HEALTH),
        "enforcement": device.enforcement.as_str(),
    });
    if !device.links.is_empty() {
        let links: Map<String, Value> = device
            .links
            .iter()
            .map(|link| {
                let mut written = Map::new();
                if link.nvlink > 0 {
                    written.insert("nvlink".to_owned(), json!(link.nvlink));
                }
                if let Some(pcie) = link.pcie {
                    written.insert("pcie".to_owned(), json!(name_of(&pcie, &PCIE)));
                }
                (link.peer.as_ref().to_owned(), Value::Object(written))
            })
            .collect();
        object["links"] = Value::Object(links);
    }
    if let Some(mig) = &device.mig {
        object["mig"] = json!({"profile": &*mig.profile.0, "start": mig.start, "size": mig.size});
    }
    if let Some(parent) = &device.parent {
        object["parent"] = json!(&**parent);
    }
    if let Some(foreign) = &device.foreign {
        object["foreign"] = json!({"pod": foreign.pod, "uid": foreign.uid});
    }
    object
}

#[cfg(test)]
#[path = "inventory/tests.rs"]
mod tests;
