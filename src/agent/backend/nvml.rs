//! Devices from NVIDIA's driver, through its management library (NVML), which is loaded at run time: a node without driver or
//! GPU runs the same agent, and finds them when they come.
//!
//! | module | owns |
//! |---|---|
//! | `calls` | the library's functions, made safe; the one place with foreign code |
//! | `error` | what a failed call means |
//! | `locate`, `host` | where the library is, and what the kernel tells |
//! | `session` | one initialised library: discovery and probes |
//! | `card`, `mig`, `links` | reading one card, its MIG instances, the ways between cards |
//! | `usage` | how busy and full cards are, and by which processes |
//! | `events` | waiting for Xid and memory errors |
//!
//! Created by the agent's start, driven by the owner of the devices. One bad card, instance or call never fails the rest. When
//! the driver goes or changes, the session ends: events tell `Changed`, and the next discovery loads the library again.

mod calls;
mod card;
mod error;
mod events;
mod host;
mod links;
mod locate;
mod mig;
mod session;
mod usage;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use self::error::CallError;
use self::session::Session;
use super::{Backend, BackendError, Discovery, Event, EventKind, Probe, Subject, Usage};

/// Where things are. The default is a driver on the node itself.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The library's file; nothing else is tried then.
    pub library: Option<PathBuf>,
    /// Where the driver's files are, as this process sees them: `/`, or a directory with the driver of a container.
    pub driver_root: PathBuf,
    /// The same directory as the host sees it.
    pub host_root: PathBuf,
    /// `/sys` but in tests.
    pub sys: PathBuf,
    /// `/proc` but in tests.
    pub proc: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self { library: None, driver_root: "/".into(), host_root: "/".into(), sys: "/sys".into(), proc: "/proc".into() }
    }
}

/// The backend.
#[derive(Debug)]
pub struct Nvml {
    settings: Settings,
    /// Read while it is used, also by the thread that waits for events; written while NVML is loaded again.
    session: RwLock<Option<Session>>,
    /// That the session is over was told, and nobody has discovered since.
    told: AtomicBool,
}

/// How long a wait keeps a new session from being opened.
const SLICE: Duration = Duration::from_millis(500);

impl Nvml {
    /// Nothing is loaded before the first discovery.
    pub fn new(settings: Settings) -> Self {
        Self { settings, session: RwLock::default(), told: AtomicBool::new(false) }
    }

    /// Opens a session where there is none or the old one is over.
    fn ensure_session(&self) -> Result<(), BackendError> {
        if self.session().as_ref().is_some_and(|session| !session.is_over()) {
            return Ok(());
        }
        let mut session = self.session.write().unwrap_or_else(PoisonError::into_inner);
        // The old library must be unloaded first, or the linker would hand out the old file again.
        *session = None;
        *session = Some(Session::open(&self.settings)?);
        self.told.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn discover_once(&self) -> Result<Discovery, BackendError> {
        self.ensure_session()?;
        match self.session().as_ref() {
            Some(session) => session.discover().map_err(CallError::of_node),
            None => Err(not_loaded()),
        }
    }

    fn session(&self) -> RwLockReadGuard<'_, Option<Session>> {
        // It is replaced whole.
        self.session.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Nvml {
    fn discover(&self) -> Result<Discovery, BackendError> {
        let mut discovery = self.discover_once();
        if self.session().as_ref().is_some_and(Session::is_over) {
            // The driver went away or was exchanged under our feet: what was read is of no use.
            discovery = self.discover_once();
        }
        let discovery = discovery?;
        if discovery.cards.is_empty() && discovery.unreadable.is_empty() {
            return Err(BackendError::Absent {
                reason: "the driver lists no GPU".to_owned(),
                remedy: error::NO_GPU_REMEDY.to_owned(),
            });
        }
        Ok(discovery)
    }

    fn next_event(&self, timeout: Duration) -> Result<Option<Event>, BackendError> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            {
                let session = self.session();
                let Some(session) = session.as_ref() else { return Err(not_loaded()) };
                match session.wait(left.min(SLICE)) {
                    Ok(Some(event)) => return Ok(Some(event)),
                    Ok(None) => {}
                    // Once: whoever does not discover must not be kept busy.
                    Err(_) if session.library.is_stale() && !self.told.swap(true, Ordering::Relaxed) => {
                        return Ok(Some(Event { subject: Subject::Node, kind: EventKind::Changed }));
                    }
                    Err(error) => return Err(error.of(None)),
                }
            }
            if left.is_zero() {
                return Ok(None);
            }
        }
    }

    fn probe(&self, card: &str) -> Probe {
        self.session().as_ref().map_or_else(
            || Probe::Lost("NVML is not loaded: the driver is missing".to_owned()),
            |session| session.probe(card),
        )
    }

    fn usage(&self) -> Result<Usage, BackendError> {
        // Whether there is a session is for discovery to see to.
        self.session().as_ref().map_or_else(|| Err(not_loaded()), |session| Ok(session.usage()))
    }
}

fn not_loaded() -> BackendError {
    BackendError::Absent {
        reason: "NVML is not loaded".to_owned(),
        remedy: "the next discovery tries it and says what is missing".to_owned(),
    }
}
