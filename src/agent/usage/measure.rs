//! One measurement: what the backend read, put together with the devices, the pods and what their containers were given. Made at a scrape,
//! immutable then. It holds sums only, so its size is that of the node's devices and containers, whatever runs on them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::owner::{ContainerName, Owner, Owners};
use crate::agent::backend::{CardUsage, Process, Reading, Usage};
use crate::agent::view::NodeView;
use crate::gpu::device::Enforcement;

/// Everything that is exposed.
#[derive(Debug, Clone, Default)]
pub(super) struct Measured {
    /// The driver's version.
    pub(super) driver: String,
    /// Cards and MIG instances.
    pub(super) devices: Vec<DeviceRow>,
    /// By container and device.
    pub(super) containers: BTreeMap<(ContainerName, Arc<str>), ContainerRow>,
}

/// One device.
#[derive(Debug, Clone)]
pub(super) struct DeviceRow {
    pub(super) uuid: Arc<str>,
    pub(super) model: Arc<str>,
    /// NVML's index of the card.
    pub(super) index: u32,
    /// n of `/dev/nvidia<n>`.
    pub(super) minor: u32,
    pub(super) pci: Arc<str>,
    /// The card's UUID.
    pub(super) card: Arc<str>,
    pub(super) kind: DeviceKind,
    /// MiB; `None` where pods are given its instances and not the card.
    pub(super) memory: Option<u32>,
    /// Of the card; of a MIG instance its own memory and nothing else.
    pub(super) reading: Reading,
    /// MiB by processes of no container of ours; `None` where it is not known.
    pub(super) unattributed: [Option<u64>; 3],
}

/// What kind of device it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DeviceKind {
    /// A card that is given to pods.
    Card,
    /// A card in MIG mode, which is not.
    CutCard,
    /// A part of one: its profile, and NVML's number of the GPU instance.
    Instance(Arc<str>, Option<u32>),
}

/// To whom memory belongs that no container of ours uses; the place in [`DeviceRow::unattributed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Host = 0,
    Pod = 1,
    Unknown = 2,
}

impl Kind {
    pub(super) const ALL: [(Self, &'static str); 3] =
        [(Self::Host, "host"), (Self::Pod, "pod"), (Self::Unknown, "unknown")];
}

/// One container on one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ContainerRow {
    /// What it was given; `None` where it uses a device that it was not given.
    pub(super) given: Option<Given>,
    /// What its processes do; `None` where they could not be looked at.
    pub(super) doing: Option<Doing>,
}

/// What a container was given of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Given {
    /// MiB.
    pub(super) memory: u32,
    /// Percent, 0 for no limit.
    pub(super) cores: u16,
    pub(super) enforcement: Enforcement,
}

/// What the processes of a container do on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doing {
    pub(super) processes: u32,
    /// MiB; `None` where the driver does not tell it of one of them.
    pub(super) memory: Option<u64>,
    /// Percent of the card's time; `None` where the card does not tell it.
    pub(super) utilization: Option<u32>,
}

/// A call that failed while measuring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) call: &'static str,
    pub(super) reason: String,
}

impl Measured {
    /// What is known without the driver: the devices, and what containers were given of them.
    pub(super) fn without_usage(view: &NodeView, owners: &Owners) -> Self {
        let mut containers = BTreeMap::new();
        for pin in owners.pins.list() {
            let Some(pod) = owners.pods.get(&pin.uid).filter(|pod| !pod.ended) else { continue };
            for container in &pin.allocation.containers {
                if !pod.running.iter().any(|running| running.name == container.name) {
                    continue;
                }
                for share in &container.shares {
                    let name = ContainerName {
                        namespace: Arc::clone(&pin.namespace),
                        pod: Arc::clone(&pin.name),
                        container: Arc::clone(&container.name),
                    };
                    let (memory, cores, enforcement) = (share.memory, share.cores, share.enforcement);
                    let row = ContainerRow { given: Some(Given { memory, cores, enforcement }), doing: None };
                    containers.insert((name, Arc::clone(&share.device)), row);
                }
            }
        }
        Self { driver: view.driver.clone(), devices: devices(view), containers }
    }

    /// All of it. Blocks: reads `/proc` of every process.
    pub(super) fn new(view: &NodeView, owners: &Owners, usage: &Usage) -> (Self, Vec<Failure>) {
        let mut measured = Self::without_usage(view, owners);
        let mut failures: Vec<Failure> =
            usage.unread.iter().map(|unread| Failure { call: unread.call, reason: unread.reason.clone() }).collect();
        let blindness = owners.blindness();
        if let Some(reason) = &blindness {
            failures.push(Failure { call: "processes", reason: reason.clone() });
        }
        for card in &usage.cards {
            measured.read(card);
            if let Some(processes) = card.processes.as_ref().filter(|_| blindness.is_none()) {
                failures.extend(measured.attribute(card, processes, owners));
            }
        }
        (measured, failures)
    }

    /// Sensors and counters of a card and its instances.
    fn read(&mut self, card: &CardUsage) {
        for row in self.devices.iter_mut().filter(|row| row.card == card.uuid) {
            if row.uuid == card.uuid {
                row.reading = card.reading;
                continue;
            }
            // Heat, power and clocks are the card's.
            let own = card.instances.iter().find(|instance| instance.uuid == row.uuid);
            row.reading = Reading { memory: own.and_then(|instance| instance.memory), ..Reading::default() };
            if let (DeviceKind::Instance(_, number), Some(instance)) = (&mut row.kind, own) {
                *number = number.or(instance.gpu_instance);
            }
        }
    }

    /// Adds up the processes of a card by whom they belong to.
    fn attribute(&mut self, card: &CardUsage, processes: &[Process], owners: &Owners) -> Vec<Failure> {
        // Of everything on this card it is known now what runs there: nothing, unless it is found below.
        let mut looked_at: Vec<Arc<str>> = Vec::new();
        for row in self.devices.iter_mut().filter(|row| row.card == card.uuid) {
            row.unattributed = [Some(0); 3];
            looked_at.push(Arc::clone(&row.uuid));
        }
        let idle = Doing { processes: 0, memory: Some(0), utilization: card.tells_by_process.then_some(0) };
        for ((_, device), row) in &mut self.containers {
            if looked_at.contains(device) {
                row.doing = Some(idle);
            }
        }
        let mut failures = Vec::new();
        let mut unreadable: Vec<Arc<str>> = Vec::new();
        for process in processes {
            let device = process.instance.as_ref().unwrap_or(&card.uuid);
            let kind = match owners.of(process.pid) {
                Owner::Container(name) => {
                    let row = self.containers.entry((name, Arc::clone(device))).or_default();
                    let doing = row.doing.get_or_insert(idle);
                    doing.processes += 1;
                    doing.memory = sum(doing.memory, process.memory);
                    doing.utilization = sum(doing.utilization, process.utilization);
                    continue;
                }
                Owner::Pod => Kind::Pod,
                Owner::Host => Kind::Host,
                Owner::Vanished => Kind::Unknown,
                Owner::Unreadable(reason) => {
                    failures.push(Failure { call: "cgroup", reason });
                    unreadable.push(Arc::clone(device));
                    Kind::Unknown
                }
            };
            if let Some(row) = self.devices.iter_mut().find(|row| row.uuid == *device) {
                let known = &mut row.unattributed[kind as usize];
                *known = sum(*known, process.memory);
            }
        }
        // It may be any container's.
        for ((_, device), row) in &mut self.containers {
            if unreadable.contains(device) {
                row.doing = None;
            }
        }
        failures
    }

    /// The container that has a device to itself, where there is one.
    pub(super) fn sole_holder(&self, device: &str) -> Option<&ContainerName> {
        let mut holders = self.containers.iter().filter(|((_, held), row)| **held == *device && row.given.is_some());
        let ((holder, _), _) = holders.next()?;
        holders.next().is_none().then_some(holder)
    }
}

/// Unknown where one of both is.
fn sum<T: std::ops::Add<Output = T>>(one: Option<T>, other: Option<T>) -> Option<T> {
    Some(one? + other?)
}

/// Every device that pods are given, and every card that they are given parts of.
fn devices(view: &NodeView) -> Vec<DeviceRow> {
    let mut rows = Vec::new();
    for card in &view.cards {
        let row = |uuid: &Arc<str>, kind: DeviceKind, memory: Option<u32>| DeviceRow {
            uuid: Arc::clone(uuid),
            model: Arc::clone(&card.model),
            index: card.index,
            minor: card.minor,
            pci: Arc::clone(&card.pci),
            card: Arc::clone(&card.uuid),
            kind,
            memory,
            reading: Reading::default(),
            unattributed: [None; 3],
        };
        if card.mig_mode {
            rows.push(row(&card.uuid, DeviceKind::CutCard, None));
            for instance in &card.instances {
                let kind = DeviceKind::Instance(Arc::clone(&instance.profile.0), instance.ids.map(|(id, _)| id));
                rows.push(row(&instance.uuid, kind, Some(instance.memory)));
            }
        } else {
            rows.push(row(&card.uuid, DeviceKind::Card, Some(card.memory)));
        }
    }
    rows
}
