//! One initialised library with the cards found through it. A driver that is reloaded ends a session; [`super::Nvml`] opens the
//! next one. Handles never leave their session.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::{BackendError, Card, Discovery, DriverPlace, Probe};
use super::calls::{Device, Library};
use super::error::{CallError, code};
use super::events::Watch;
use super::host::Host;
use super::{Settings, card, links, locate};

/// An initialised library.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) library: Library,
    place: Option<DriverPlace>,
    host: Host,
    /// The cards that the driver had when NVML was initialised.
    driver_cards: Option<BTreeSet<OsString>>,
    roster: Mutex<Roster>,
    /// Held by the one thread that waits for events.
    pub(super) watch: Mutex<Watch>,
}

/// Every card that ever told its UUID in this session, with the handle it last had: a lost card is asked by it, since a search
/// by UUID may fail for the loss of any other card.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// Counts discoveries.
    pub(super) generation: u64,
    pub(super) cards: Vec<Known>,
}

/// One card.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) uuid: Arc<str>,
    pub(super) index: u32,
    pub(super) device: Device,
    /// Reported lost, and not read since.
    pub(super) lost: bool,
}

impl Session {
    /// Loads the library and initialises it.
    ///
    /// # Errors
    /// [`BackendError::Absent`] where library, driver or permission is missing, [`BackendError::Failed`] where the
    /// initialisation fails for another reason.
    pub(super) fn open(settings: &Settings) -> Result<Self, BackendError> {
        let host = Host { sys: settings.sys.clone(), proc: settings.proc.clone() };
        let driver_cards = host.driver_cards();
        let (library, place) = load(settings)?;
        let session = Self { library, place, host, driver_cards, roster: Mutex::default(), watch: Mutex::default() };
        // Before anybody else sees the session: a probe must find its card, and no event be missed.
        for index in 0..session.library.count().map_err(CallError::of_node)? {
            // The discovery that follows says what is wrong with a card.
            let _ = session.identify(index);
        }
        session.refresh_registrations();
        Ok(session)
    }

    /// Whether it is of no use any more: the driver is gone or another, or has other cards than NVML knows of.
    pub(super) fn is_over(&self) -> bool {
        self.library.is_stale() || self.host.driver_cards() != self.driver_cards
    }

    pub(super) fn discover(&self) -> Result<Discovery, CallError> {
        let mut discovery = Discovery {
            driver: self.library.driver_version()?,
            place: self.place,
            // 12040 is CUDA 12.4.
            cuda: self
                .library
                .cuda_version()
                .ok()
                .and_then(|v| u32::try_from(v).ok())
                .map(|v| (v / 1000, v % 1000 / 10)),
            ..Discovery::default()
        };
        let mut cards = Vec::new();
        for index in 0..self.library.count()? {
            match self.read(index, &mut discovery.unreadable) {
                Ok(card) => cards.push(card),
                Err(error) => discovery.unreadable.push(format!("{}: {error}", self.name_of(index))),
            }
        }
        links::fill(&self.library, &mut cards);
        discovery.cards = cards.into_iter().map(|(card, _)| card).collect();
        discovery.cards.sort_by(|a, b| (&a.pci, &a.uuid).cmp(&(&b.pci, &b.uuid)));
        self.refresh_registrations();
        Ok(discovery)
    }

    fn read(&self, index: u32, unreadable: &mut Vec<String>) -> Result<(Card, Device), CallError> {
        let (device, uuid) = self.identify(index)?;
        let card = card::read(&self.library, &self.host, device, index, &uuid, unreadable);
        if card.as_ref().is_err_and(CallError::is_lost) {
            self.mark_lost(&uuid);
        }
        Ok((card?, device))
    }

    /// Takes a card into the roster, as not lost.
    fn identify(&self, index: u32) -> Result<(Device, Arc<str>), CallError> {
        let device = self.library.device(index)?;
        let uuid: Arc<str> = self.library.uuid(device)?.into();
        let mut roster = self.roster();
        roster.cards.retain(|card| card.uuid != uuid);
        roster.cards.push(Known { uuid: Arc::clone(&uuid), index, device, lost: false });
        Ok((device, uuid))
    }

    /// How people call a card that cannot be read.
    fn name_of(&self, index: u32) -> String {
        let roster = self.roster();
        let uuid = roster.cards.iter().find(|card| card.index == index).map(|card| &card.uuid);
        uuid.map_or_else(|| format!("the card with index {index}"), |uuid| format!("{uuid} (index {index})"))
    }

    /// See [`super::super::Backend::probe`].
    pub(super) fn probe(&self, uuid: &str) -> Probe {
        let Some(device) = self.known().into_iter().find(|card| &*card.uuid == uuid).map(|card| card.device) else {
            return Probe::Lost("NVML does not list it".to_owned());
        };
        match self.ailment(device) {
            Ok(None) => Probe::Well,
            Ok(Some(reason)) => Probe::Ill(reason),
            Err(error) if error.is_lost() || self.library.is_stale() => Probe::Lost(error.to_string()),
            Err(error) => Probe::Ill(error.to_string()),
        }
    }

    /// What is wrong with a card that answers.
    ///
    /// On cards that replace rows, a replacement that waits for a reset does not hinder work
    /// (<https://docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt/>): the driver's own word on what must be done decides. Drivers that
    /// cannot say it are judged by what is pending.
    fn ailment(&self, device: Device) -> Result<Option<String>, CallError> {
        // Name and UUID are answered from NVML's memory even when the card is gone; this one asks the card.
        self.library.memory(device)?;
        let rows = supported(self.library.remapped_rows(device))?;
        if rows.is_some_and(|rows| rows.failed) {
            return Ok(Some("a defective memory row could not be replaced: the card must be exchanged".to_owned()));
        }
        match self.library.recovery_action(device) {
            Ok(action) => return Ok(recovery(action)),
            // Old drivers do not know the field's number.
            Err(error) if error.is_unsupported() || error.is(code::INVALID_ARGUMENT) => {}
            Err(error) => return Err(error),
        }
        let retirement = supported(self.library.retirement_is_pending(device))?;
        if rows.is_some_and(|rows| rows.pending) || retirement == Some(true) {
            return Ok(Some("defective memory waits to be replaced: the card must be reset".to_owned()));
        }
        Ok(None)
    }

    pub(super) fn known(&self) -> Vec<Known> {
        self.roster().cards.clone()
    }

    /// The cards may be others now: whose events are waited for follows at once, or before the next wait.
    fn refresh_registrations(&self) {
        self.roster().generation += 1;
        self.register_if_nobody_waits();
    }

    pub(super) fn generation(&self) -> u64 {
        self.roster().generation
    }

    pub(super) fn mark_lost(&self, uuid: &str) {
        self.roster().cards.iter_mut().filter(|card| &*card.uuid == uuid).for_each(|card| card.lost = true);
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        // Each change leaves it whole.
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let watch = self.watch.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(set) = watch.take_set()
            && let Err(error) = self.library.free_event_set(set)
        {
            tracing::debug!(%error, "NVML's event set was not freed");
        }
    }
}

/// The first library that works with the kernel's module: one that a driver left behind when it went loads, and does not.
fn load(settings: &Settings) -> Result<(Library, Option<DriverPlace>), BackendError> {
    let mut reasons = Vec::new();
    let mut refused = None;
    for locate::Candidate { file, place } in locate::candidates(settings) {
        let mut library = match Library::load(&file) {
            Ok(library) => library,
            Err(reason) => {
                reasons.push(reason);
                continue;
            }
        };
        match library.initialise() {
            Ok(()) => {
                let place_name = place.map_or("unknown", DriverPlace::as_str);
                tracing::info!(file = %file.to_string_lossy(), driver_of = place_name, "NVIDIA's management library");
                return Ok((library, place));
            }
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    if let Some(error) = refused {
        return Err(error.of_node());
    }
    Err(BackendError::Absent {
        reason: format!("NVIDIA's management library cannot be loaded ({})", reasons.join("; ")),
        remedy: "install NVIDIA's driver, or say where it is by NVIDIA_DRIVER_ROOT or --nvml-library; the agent looks again by itself"
            .to_owned(),
    })
}

/// `None` where the card or the driver has no such thing.
fn supported<T>(answer: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_unsupported() => Ok(None),
        Err(error) => Err(error),
    }
}

/// NVML's `nvmlDeviceGpuRecoveryAction_t`; later drivers may know more.
fn recovery(action: u32) -> Option<String> {
    let what = match action {
        0 => return None,
        1 => "reset the card",
        2 => "reboot the node",
        3 => "end what uses direct access between cards",
        4 => "end what uses direct access between cards, then reset the card",
        5 => "recover the IMEX domain",
        6 => "reset the card's PCIe bus",
        7 => "reboot the whole system",
        _ => "see the driver's documentation",
    };
    Some(format!("the driver asks to recover the card (action {action}): {what}"))
}
