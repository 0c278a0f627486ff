//! How busy and full the cards of a session are, and which processes use them. What a card does not have stays empty; what it has and
//! does not tell is reported; a card that is lost is not asked further.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::{CardUsage, InstanceUsage, Memory, Process, Reading, Unread, Usage};
use super::calls::{Clock, Device, Library, Listed, Listing};
use super::error::CallError;
use super::mig;
use super::session::{Known, Session};

/// How far back samples of processes count; cards take one to six a second.
const RECENT: Duration = Duration::from_secs(2);

/// Asks one card.
struct Reader<'a> {
    library: &'a Library,
    card: &'a Known,
    unread: &'a mut Vec<Unread>,
    lost: bool,
}

impl Session {
    /// See [`super::super::Backend::usage`].
    pub(super) fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for card in self.known() {
            let mut reader = Reader { library: &self.library, card: &card, unread: &mut usage.unread, lost: false };
            let card = reader.card();
            usage.cards.push(card);
        }
        usage
    }
}

impl Reader<'_> {
    fn card(&mut self) -> CardUsage {
        let device = self.card.device;
        let memory = self.memory(device);
        let rates = self.ask(|library| library.utilization(device));
        let reading = Reading {
            memory,
            utilization: rates.map(|(kernels, _)| kernels),
            memory_utilization: rates.map(|(_, memory)| memory),
            temperature: self.ask(|library| library.temperature(device)),
            power: self.ask(|library| library.power(device)),
            power_limit: self.ask(|library| library.power_limit(device)),
            sm_clock: self.ask(|library| library.clock(device, Clock::Multiprocessors)),
            memory_clock: self.ask(|library| library.clock(device, Clock::Memory)),
            energy: self.ask(|library| library.energy(device)),
        };
        let in_mig_mode = self.ask(|library| library.mig_mode(device)) == Some(true);
        let instances = if in_mig_mode { self.instances() } else { Vec::new() };
        let samples = if in_mig_mode { None } else { self.ask(|library| library.samples(device, recently())) };
        // Several samples of a process: their mean. NVML is known to answer numbers that are no percentages.
        let mut busy: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        for sample in samples.iter().flatten().filter(|sample| sample.multiprocessors <= 100) {
            let (sum, count) = busy.entry(sample.pid).or_default();
            (*sum, *count) = (*sum + sample.multiprocessors, *count + 1);
        }
        let busy = |pid: u32| busy.get(&pid).map_or(0, |(sum, count)| sum / count);
        let listed = self.listed();
        let processes = listed.map(|listed| {
            let process = |listed: Listed| Process {
                pid: listed.pid,
                instance: instance_of(&instances, &listed),
                memory: listed.memory.map(mebibytes),
                utilization: samples.as_ref().map(|_| busy(listed.pid)),
            };
            listed.into_iter().map(process).collect()
        });
        CardUsage {
            uuid: Arc::clone(&self.card.uuid),
            reading,
            instances: instances.into_iter().map(|(_, instance)| instance).collect(),
            processes,
            tells_by_process: samples.is_some(),
        }
    }

    /// All processes, each once for an instance: one may compute and draw, with the same memory.
    fn listed(&mut self) -> Option<Vec<Listed>> {
        if self.lost {
            return None;
        }
        let device = self.card.device;
        let mut all: BTreeMap<(u32, Option<u32>, Option<u32>), Listed> = BTreeMap::new();
        for listing in [Listing::Compute, Listing::Graphics, Listing::Mps] {
            let listed = match self.library.processes(device, listing) {
                Ok(listed) => listed,
                // What a card has no such processes of, but those that compute are on every card.
                Err(error) if error.is_unsupported() && !matches!(listing, Listing::Compute) => continue,
                Err(error) => {
                    self.failed(&error);
                    return None;
                }
            };
            for process in listed {
                let same = all.entry((process.pid, process.gpu_instance, process.compute_instance)).or_insert(process);
                same.memory = same.memory.max(process.memory);
            }
        }
        Some(all.into_values().collect())
    }

    /// With the number of each one's compute instance.
    fn instances(&mut self) -> Vec<(Option<u32>, InstanceUsage)> {
        let device = self.card.device;
        let handles = self.ask(|library| mig::handles(library, device)).unwrap_or_default();
        let mut instances = Vec::new();
        for (_, handle) in handles {
            let Some(handle) = self.ask(|_| handle) else { continue };
            let Some(uuid) = self.ask(|library| library.uuid(handle)) else { continue };
            let memory = self.memory(handle);
            let gpu_instance = self.ask(|library| library.gpu_instance(handle));
            let compute_instance = self.ask(|library| library.compute_instance(handle));
            instances.push((compute_instance, InstanceUsage { uuid: uuid.into(), gpu_instance, memory }));
        }
        instances
    }

    fn memory(&mut self, device: Device) -> Option<Memory> {
        let memory = self.ask(|library| library.memory_in_use(device))?;
        Some(Memory { used: mebibytes(memory.used), free: mebibytes(memory.free) })
    }

    /// What a call tells; nothing of a card that is lost.
    fn ask<T>(&mut self, call: impl FnOnce(&Library) -> Result<T, CallError>) -> Option<T> {
        if self.lost {
            return None;
        }
        match call(self.library) {
            Ok(value) => Some(value),
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    fn failed(&mut self, error: &CallError) {
        self.lost |= error.is_lost();
        if !error.is_unsupported() {
            let reason = format!("{}: {}", self.card.uuid, error.reason);
            self.unread.push(Unread { call: error.call, reason });
        }
    }
}

/// The instance on which a process runs. Not all drivers tell the compute instance.
fn instance_of(instances: &[(Option<u32>, InstanceUsage)], process: &Listed) -> Option<Arc<str>> {
    process.gpu_instance?;
    let found = instances.iter().find(|(compute_instance, instance)| {
        instance.gpu_instance == process.gpu_instance
            && (process.compute_instance.is_none() || *compute_instance == process.compute_instance)
    })?;
    Some(Arc::clone(&found.1.uuid))
}

/// Since when samples count, microseconds of Unix time.
fn recently() -> u64 {
    let since = SystemTime::now().checked_sub(RECENT).and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

fn mebibytes(bytes: u64) -> u64 {
    bytes >> 20
}
