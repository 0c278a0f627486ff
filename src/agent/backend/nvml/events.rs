//! Waits for NVML's events and says what each is about. One thread waits; a card that is lost is taken out of the set, since NVML
//! would report nothing but its loss from then on.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, PoisonError, TryLockError};
use std::time::Duration;

use nvml_wrapper_sys::bindings::{
    nvmlEventMigConfigChange, nvmlEventTypeDoubleBitEccError, nvmlEventTypeXidCriticalError,
};

use super::super::{Event, EventKind, Subject};
use super::calls::{Device, EventSet, Happening, Library};
use super::error::CallError;
use super::mig;
use super::session::{Known, Session};

const XID: u64 = nvmlEventTypeXidCriticalError as u64;
const DOUBLE_BIT_ECC: u64 = nvmlEventTypeDoubleBitEccError as u64;
const MIG_CHANGED: u64 = nvmlEventMigConfigChange as u64;

/// What is waited for.
#[derive(Debug, Default)]
pub(super) struct Watch {
    set: Option<EventSet>,
    registered: Vec<(Device, Arc<str>)>,
    /// Cards that send no events, reported once; the probes watch them alone.
    silent: BTreeSet<Arc<str>>,
    /// Of the roster, when registrations were last brought up to date.
    generation: u64,
    /// Found at once and told one by one.
    pending: VecDeque<Event>,
}

impl Watch {
    pub(super) fn take_set(&mut self) -> Option<EventSet> {
        self.registered.clear();
        self.set.take()
    }

    fn set(&mut self, library: &Library) -> Result<&EventSet, CallError> {
        match &mut self.set {
            Some(set) => Ok(set),
            none => Ok(none.insert(library.event_set()?)),
        }
    }
}

impl Session {
    /// The next event, `None` after `timeout` without one.
    pub(super) fn wait(&self, timeout: Duration) -> Result<Option<Event>, CallError> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        self.register(&mut watch)?;
        if let Some(event) = watch.pending.pop_front() {
            return Ok(Some(event));
        }
        if watch.registered.is_empty() {
            // Nothing can happen to an empty set, and not every driver waits on one.
            drop(watch);
            std::thread::sleep(timeout);
            return Ok(None);
        }
        let happening = self.library.wait(watch.set(&self.library)?, timeout);
        match happening {
            Ok(Some(happening)) => Ok(self.event(&watch, happening)),
            Ok(None) => Ok(None),
            Err(error) if error.is_lost() => {
                self.part_with_lost_cards(&mut watch)?;
                watch.pending.pop_front().map(Some).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Cards are registered as soon as they are known, so that nothing is missed before the first wait.
    pub(super) fn register_if_nobody_waits(&self) {
        let mut watch = match self.watch.try_lock() {
            Ok(watch) => watch,
            Err(TryLockError::Poisoned(watch)) => watch.into_inner(),
            // Who waits does it before the next slice.
            Err(TryLockError::WouldBlock) => return,
        };
        if let Err(error) = self.register(&mut watch) {
            tracing::warn!(%error, "NVML's events are not waited for yet");
        }
    }

    /// Brings the set up to date with the cards of the last discovery.
    fn register(&self, watch: &mut Watch) -> Result<(), CallError> {
        let generation = self.generation();
        if watch.generation == generation {
            return Ok(());
        }
        for card in self.known() {
            let known = watch.registered.iter().any(|(device, uuid)| *device == card.device && *uuid == card.uuid);
            if !known && !card.lost {
                self.register_card(watch, &card)?;
            }
        }
        watch.generation = generation;
        Ok(())
    }

    /// One card without events does not fail the others.
    fn register_card(&self, watch: &mut Watch, card: &Known) -> Result<(), CallError> {
        let registration = match self.library.supported_events(card.device) {
            Ok(kinds) if kinds & XID == 0 => Err("it reports no Xid errors".to_owned()),
            Ok(kinds) => {
                let set = watch.set(&self.library)?;
                let kinds = kinds & (XID | DOUBLE_BIT_ECC | MIG_CHANGED);
                self.library.register(card.device, kinds, set).map_err(|error| self.note(watch, card, &error))
            }
            Err(error) => Err(self.note(watch, card, &error)),
        };
        match registration {
            Ok(()) => {
                watch.silent.remove(&card.uuid);
                watch.registered.retain(|(_, uuid)| *uuid != card.uuid);
                watch.registered.push((card.device, Arc::clone(&card.uuid)));
            }
            Err(reason) => {
                if watch.silent.insert(Arc::clone(&card.uuid)) {
                    tracing::warn!(card = %card.uuid, %reason, "this card sends no events: only probes watch its health");
                }
            }
        }
        Ok(())
    }

    /// A card found lost on the way is an event of its own.
    fn note(&self, watch: &mut Watch, card: &Known, error: &CallError) -> String {
        if error.is_lost() {
            self.mark_lost(&card.uuid);
            watch.pending.push_back(lost(&card.uuid));
        }
        error.to_string()
    }

    /// NVML says that some card is lost, and not which.
    fn part_with_lost_cards(&self, watch: &mut Watch) -> Result<(), CallError> {
        let registered = watch.registered.clone();
        let (gone, left): (Vec<_>, Vec<_>) = registered
            .into_iter()
            .partition(|(device, _)| self.library.memory(*device).is_err_and(|error| error.is_lost()));
        if gone.is_empty() {
            return Ok(());
        }
        // NVML cannot take one card out of a set.
        if let Some(set) = watch.take_set() {
            self.library.free_event_set(set)?;
        }
        for (_, uuid) in &gone {
            self.mark_lost(uuid);
            watch.pending.push_back(lost(uuid));
        }
        let known = self.known();
        for card in known.iter().filter(|card| left.iter().any(|(_, uuid)| *uuid == card.uuid)) {
            self.register_card(watch, card)?;
        }
        Ok(())
    }

    /// `None` for a kind that nobody asked for.
    fn event(&self, watch: &Watch, happening: Happening) -> Option<Event> {
        let card = self.card_of(watch, happening.device);
        let kind = match happening.kind {
            XID => EventKind::Xid(happening.data),
            DOUBLE_BIT_ECC => EventKind::DoubleBitEcc,
            MIG_CHANGED => EventKind::Changed,
            _ => return None,
        };
        let subject = match (card, happening.gpu_instance) {
            (None, _) => Subject::Node,
            (Some(card), Some(gpu_instance)) if kind != EventKind::Changed => {
                match mig::find(&self.library, happening.device, gpu_instance, happening.compute_instance) {
                    Ok(Some(instance)) => Subject::Instance(instance),
                    // An instance that cannot be told may be any of them.
                    Ok(None) | Err(_) => Subject::Card(card),
                }
            }
            (Some(card), _) => Subject::Card(card),
        };
        Some(Event { subject, kind })
    }

    /// By handle first: a card that has fallen off the bus may not tell its UUID any more.
    fn card_of(&self, watch: &Watch, device: Device) -> Option<Arc<str>> {
        let registered = watch.registered.iter().find(|(known, _)| *known == device).map(|(_, uuid)| Arc::clone(uuid));
        registered.or_else(|| self.library.uuid(device).ok().map(Into::into))
    }
}

fn lost(uuid: &Arc<str>) -> Event {
    Event { subject: Subject::Card(Arc::clone(uuid)), kind: EventKind::Lost }
}
