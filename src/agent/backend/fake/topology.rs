//! The topology file: what it may say, and how each mistake in it is told, with line and key. Pure: text in, a [`Topology`] or the
//! first mistake out.

mod usage;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::agent::backend::{Card, CardLink, CardUsage, Discovery, EventKind, Instance};
use crate::gpu::device::Pcie;
use crate::gpu::parse::is_mig_profile;
use crate::gpu::request::MigProfile;
use crate::kube_api::inventory::is_pci;
use crate::yaml::Mistake;

/// Memory slices of the largest card that can be cut.
const SLICES: u8 = 8;

/// What a file says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Topology {
    /// The devices as the backend reports them.
    pub(super) discovery: Discovery,
    /// Of every card.
    pub(super) usage: Vec<CardUsage>,
    /// Sorted by time.
    pub(super) script: Vec<Scripted>,
}

/// What is to happen, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scripted {
    /// Since the agent's start.
    pub(super) after: Duration,
    /// The card's UUID: positions change with the file.
    pub(super) card: Arc<str>,
    pub(super) kind: EventKind,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    v: Spanned<u64>,
    #[serde(default)]
    driver: String,
    devices: Vec<Spanned<Entry>>,
    #[serde(default)]
    links: Vec<Spanned<LinkEntry>>,
    #[serde(default)]
    events: Vec<Spanned<EventEntry>>,
    #[serde(default)]
    usage: Vec<Spanned<usage::Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    uuid: Spanned<String>,
    model: Spanned<String>,
    memory: Spanned<u32>,
    pci: Spanned<String>,
    numa: Option<Spanned<i64>>,
    minor: Option<Spanned<u32>>,
    compute: Option<Spanned<String>>,
    mig: Option<Vec<Spanned<InstanceEntry>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstanceEntry {
    uuid: Spanned<String>,
    profile: Spanned<String>,
    memory: Spanned<u32>,
    start: Spanned<u8>,
    size: Spanned<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkEntry {
    a: Spanned<usize>,
    b: Spanned<usize>,
    #[serde(default)]
    nvlink: u8,
    pcie: Option<PcieName>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventEntry {
    after: After,
    device: Spanned<usize>,
    kind: KindName,
    code: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct After(#[serde(with = "duration")] Duration);

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum PcieName {
    SameBoard,
    SingleSwitch,
    MultiSwitch,
    HostBridge,
    SameCpu,
    CrossCpu,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum KindName {
    Xid,
    Ecc,
    Lost,
    Recovered,
}

impl From<PcieName> for Pcie {
    fn from(name: PcieName) -> Self {
        match name {
            PcieName::SameBoard => Self::SameBoard,
            PcieName::SingleSwitch => Self::SingleSwitch,
            PcieName::MultiSwitch => Self::MultiSwitch,
            PcieName::HostBridge => Self::HostBridge,
            PcieName::SameCpu => Self::SameCpu,
            PcieName::CrossCpu => Self::CrossCpu,
        }
    }
}

/// Values that may occur once only, with the line where each did.
#[derive(Default)]
struct Once {
    seen: HashMap<String, u64>,
}

impl Once {
    fn check<T: std::fmt::Display>(&mut self, value: &T, line: u64, key: &str) -> Result<(), Mistake> {
        match self.seen.insert(value.to_string(), line) {
            None => Ok(()),
            Some(first) => Err(mistake(line, format!("{key}: {value} is already in line {first}; each is unique"))),
        }
    }
}

impl Topology {
    /// Reads the text of a file.
    pub(super) fn parse(text: &str) -> Result<Self, Mistake> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| Mistake::new(&error, text))?;
        if file.v.value != 1 {
            return Err(at(&file.v, format!("v: {} is unknown; write v: 1", file.v.value)));
        }
        let mut entries = file.devices;
        for entry in &entries {
            let pci = &entry.value.pci;
            if !is_pci(&pci.value) {
                let problem = format!("pci: {:?} is not a PCI address like \"0000:07:00.0\", lower case", pci.value);
                return Err(at(pci, problem));
            }
        }
        entries.sort_by(|a, b| a.value.pci.value.cmp(&b.value.pci.value));
        let (mut uuids, mut pcis, mut minors) = (Once::default(), Once::default(), Once::default());
        let mut cards = Vec::with_capacity(entries.len());
        for (index, entry) in (0..).zip(&entries) {
            let card = card(index, &entry.value, &mut uuids)?;
            pcis.check(&card.pci, line(&entry.value.pci), "pci")?;
            minors.check(&card.minor, entry.value.minor.as_ref().map_or_else(|| line(entry), line), "minor")?;
            cards.push(card);
        }
        link(&mut cards, &file.links)?;
        let script = script(&cards, &file.events)?;
        let usage = usage::usage(&cards, &file.usage)?;
        let discovery = Discovery { driver: file.driver, cards, ..Discovery::default() };
        Ok(Self { discovery, usage, script })
    }
}

fn card(index: u32, entry: &Entry, uuids: &mut Once) -> Result<Card, Mistake> {
    uuid(&entry.uuid, "GPU-", uuids)?;
    filled(&entry.memory, entry.memory.value > 0, "memory", "MiB, at least 1")?;
    filled(&entry.model, !entry.model.value.trim().is_empty(), "model", "NVML's name of the product")?;
    let numa = match &entry.numa {
        None => None,
        Some(numa) if numa.value == -1 => None,
        Some(numa) => Some(u16::try_from(numa.value).map_err(|_| {
            at(numa, format!("numa: {} is no NUMA node; write 0 to 65535, or -1 where unknown", numa.value))
        })?),
    };
    let compute = match &entry.compute {
        None => (0, 0),
        Some(text) => compute(&text.value).ok_or_else(|| {
            at(text, format!("compute: {:?} is no compute capability; write for example \"8.0\"", text.value))
        })?,
    };
    let mut instances = Vec::new();
    for item in entry.mig.iter().flatten() {
        instances.push(instance(&item.value, uuids)?);
    }
    slices(entry)?;
    instances.sort_by(|a, b| a.uuid.cmp(&b.uuid));
    Ok(Card {
        uuid: entry.uuid.value.as_str().into(),
        index,
        model: entry.model.value.as_str().into(),
        memory: entry.memory.value,
        pci: entry.pci.value.as_str().into(),
        numa,
        minor: entry.minor.as_ref().map_or(index, |minor| minor.value),
        compute,
        mig_capable: entry.mig.is_some(),
        mig_mode: entry.mig.is_some(),
        instances,
        links: Vec::new(),
        clique: None,
    })
}

fn instance(entry: &InstanceEntry, uuids: &mut Once) -> Result<Instance, Mistake> {
    uuid(&entry.uuid, "MIG-", uuids)?;
    filled(&entry.memory, entry.memory.value > 0, "memory", "MiB, at least 1")?;
    filled(&entry.size, entry.size.value > 0, "size", "memory slices, at least 1")?;
    let profile = &entry.profile;
    filled(profile, is_mig_profile(&profile.value), "profile", "a MIG profile such as 1g.10gb or 1g.10gb.me")?;
    if entry.start.value.saturating_add(entry.size.value) > SLICES {
        let problem =
            format!("start: {} with size {} passes the last of {SLICES} slices", entry.start.value, entry.size.value);
        return Err(at(&entry.start, problem));
    }
    Ok(Instance {
        uuid: entry.uuid.value.as_str().into(),
        profile: MigProfile(profile.value.as_str().into()),
        memory: entry.memory.value,
        start: entry.start.value,
        size: entry.size.value,
        ids: None,
        attributes: None,
    })
}

/// No slice is given twice, and no more memory than there is.
fn slices(entry: &Entry) -> Result<(), Mistake> {
    let mut taken: BTreeMap<u8, &str> = BTreeMap::new();
    let mut memory = 0_u64;
    for item in entry.mig.iter().flatten() {
        let Spanned { value: instance, .. } = item;
        for slice in instance.start.value..instance.start.value.saturating_add(instance.size.value) {
            if let Some(other) = taken.insert(slice, &instance.uuid.value) {
                return Err(at(&instance.start, format!("start: slice {slice} belongs to {other} already")));
            }
        }
        memory += u64::from(instance.memory.value);
        if memory > u64::from(entry.memory.value) {
            let problem = format!("memory: the instances together have {memory} MiB, the card {}", entry.memory.value);
            return Err(at(&instance.memory, problem));
        }
    }
    Ok(())
}

fn link(cards: &mut [Card], entries: &[Spanned<LinkEntry>]) -> Result<(), Mistake> {
    let mut pairs = Once::default();
    for entry in entries {
        let LinkEntry { a, b, nvlink, pcie } = &entry.value;
        let first = known(cards, a, "a")?;
        let second = known(cards, b, "b")?;
        if a.value == b.value {
            return Err(at(b, format!("b: {} is the same device as a", b.value)));
        }
        let pair = format!("{}-{}", a.value.min(b.value), a.value.max(b.value));
        pairs.check(&pair, line(entry), "links")?;
        let pcie = pcie.map(Pcie::from);
        for (from, peer) in [(a.value, second), (b.value, first)] {
            // Both positions were looked up just now.
            if let Some(card) = cards.get_mut(from) {
                card.links.push(CardLink { peer, nvlink: *nvlink, pcie });
            }
        }
    }
    Ok(())
}

fn script(cards: &[Card], entries: &[Spanned<EventEntry>]) -> Result<Vec<Scripted>, Mistake> {
    let mut script = Vec::with_capacity(entries.len());
    for entry in entries {
        let EventEntry { after, device, kind, code } = &entry.value;
        let card = known(cards, device, "device")?;
        let kind = match (kind, code) {
            (KindName::Xid, Some(code)) => {
                filled(code, code.value > 0, "code", "an Xid, at least 1")?;
                EventKind::Xid(code.value)
            }
            (KindName::Xid, None) => return Err(at(entry, "code: missing; an event of kind xid has one".to_owned())),
            (_, Some(code)) => return Err(at(code, "code: only an event of kind xid has one; remove it".to_owned())),
            (KindName::Ecc, None) => EventKind::DoubleBitEcc,
            (KindName::Lost, None) => EventKind::Lost,
            (KindName::Recovered, None) => EventKind::Recovered,
        };
        script.push(Scripted { after: after.0, card, kind });
    }
    script.sort_by_key(|event| event.after);
    Ok(script)
}

fn known(cards: &[Card], index: &Spanned<usize>, key: &str) -> Result<Arc<str>, Mistake> {
    cards.get(index.value).map(|card| Arc::clone(&card.uuid)).ok_or_else(|| {
        let problem = match cards.len().checked_sub(1) {
            None => format!("{key}: {}: there are no devices", index.value),
            Some(last) => {
                format!("{key}: {}: there is no such device; 0 to {last} are, in the order of pci", index.value)
            }
        };
        at(index, problem)
    })
}

/// A UUID goes into lists, file names and CDI names: nothing else may stand in it.
fn uuid(uuid: &Spanned<String>, prefix: &str, uuids: &mut Once) -> Result<(), Mistake> {
    let fine = |rest: &str| {
        (1..=60).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'/'))
    };
    if !uuid.value.strip_prefix(prefix).is_some_and(fine) {
        let problem = format!("uuid: {:?} is none; write {prefix} and letters, digits and hyphens", uuid.value);
        return Err(at(uuid, problem));
    }
    uuids.check(&uuid.value, line(uuid), "uuid")
}

fn compute(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn filled<T: std::fmt::Debug>(value: &Spanned<T>, fine: bool, key: &str, wanted: &str) -> Result<(), Mistake> {
    if fine { Ok(()) } else { Err(at(value, format!("{key}: {:?}: write {wanted}", value.value))) }
}

fn line<T>(value: &Spanned<T>) -> u64 {
    value.referenced.line()
}

fn at<T>(value: &Spanned<T>, message: String) -> Mistake {
    mistake(line(value), message)
}

fn mistake(line: u64, message: String) -> Mistake {
    Mistake { line: Some(line), message }
}
