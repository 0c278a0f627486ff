//! Devices out of a topology file (`--gpu-backend fake:FILE`), to use Packhorse on machines without GPUs and to test it.
//!
//! The file is owned by its user, who may change it at any time; it is looked at four times a second, and every change is an event
//! like one of the hardware. A file that cannot be read is an error that names file, line and key; what the last good file said
//! stays. Scripted events change what probes answer: a lost card, or one with Xid 79, does not answer until it has recovered, one
//! with a memory error is not fit for work. `docs/topology.yaml` shows every key.

mod topology;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Backend, BackendError, CardUsage, Discovery, Event, EventKind, Probe, Subject, Usage};
use topology::{Scripted, Topology};

/// How often the file is looked at while somebody waits for an event.
const LOOK: Duration = Duration::from_millis(250);

/// The longest file that is read, bytes; a node has a few devices.
const LONGEST: u64 = 1 << 20;

/// Xid of a card that has fallen off the bus.
const OFF_THE_BUS: u64 = 79;

/// The devices of a topology file.
#[derive(Debug)]
pub struct Fake {
    path: PathBuf,
    /// The agent's start, from which events are counted.
    start: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Of the content last looked at, or of the error; `None` before the first look.
    hash: Option<u64>,
    /// What the last good file said.
    discovery: Option<Discovery>,
    usage: Vec<CardUsage>,
    /// Why the file as it is now cannot be used.
    error: Option<BackendError>,
    /// The file changed, which nobody was told yet.
    news: bool,
    /// Scripted events that happened and still stand in the file: a changed file does not repeat them.
    past: Vec<Scripted>,
    /// Those still to come, the next one first.
    coming: VecDeque<Scripted>,
    /// Cards that are not in order, with what a probe answers.
    faults: HashMap<Arc<str>, Probe>,
    looked: Option<Instant>,
}

impl Fake {
    /// Devices as `path` says; the file is first read when they are asked for. Times of events count from now.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), start: Instant::now(), state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of the state is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Fake {
    fn discover(&self) -> Result<Discovery, BackendError> {
        let mut state = self.lock();
        state.look(&self.path);
        match (&state.error, &state.discovery) {
            (None, Some(discovery)) => {
                let discovery = discovery.clone();
                // Whoever discovers knows of the change.
                state.news = false;
                Ok(discovery)
            }
            (Some(error), _) => Err(error.clone()),
            (None, None) => Err(failed(&self.path, None, "not read yet".to_owned())),
        }
    }

    fn next_event(&self, timeout: Duration) -> Result<Option<Event>, BackendError> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let now = Instant::now();
            let mut state = self.lock();
            if state.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK) {
                state.look(&self.path);
            }
            if std::mem::take(&mut state.news) {
                return match &state.error {
                    Some(error) => Err(error.clone()),
                    None => Ok(Some(Event { subject: Subject::Node, kind: EventKind::Changed })),
                };
            }
            let elapsed = now.saturating_duration_since(self.start);
            if let Some(event) = state.happen(elapsed) {
                return Ok(Some(event));
            }
            let next = state.coming.front().and_then(|event| self.start.checked_add(event.after));
            drop(state);
            let wake = [deadline, next, now.checked_add(LOOK)].into_iter().flatten().min();
            let pause = wake.map_or(LOOK, |wake| wake.saturating_duration_since(now));
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(None);
            }
            std::thread::sleep(pause);
        }
    }

    fn probe(&self, card: &str) -> Probe {
        let state = self.lock();
        let there = state.discovery.as_ref().is_some_and(|discovery| discovery.cards.iter().any(|c| &*c.uuid == card));
        match state.faults.get(card) {
            _ if !there => Probe::Lost("not in the topology file".to_owned()),
            Some(fault) => fault.clone(),
            None => Probe::Well,
        }
    }

    fn usage(&self) -> Result<Usage, BackendError> {
        let mut state = self.lock();
        state.look(&self.path);
        // What the last good file said stays, as devices do. A card that does not answer tells nothing.
        let State { usage, faults, .. } = &*state;
        let lost = |card: &CardUsage| matches!(faults.get(&card.uuid), Some(Probe::Lost(_)));
        Ok(Usage { cards: usage.iter().filter(|card| !lost(card)).cloned().collect(), unread: Vec::new() })
    }
}

impl State {
    /// Reads the file, and judges it if it is another than before.
    fn look(&mut self, path: &Path) {
        self.looked = Some(Instant::now());
        let read = read(path);
        let mut hasher = DefaultHasher::new();
        match &read {
            Ok(text) => text.hash(&mut hasher),
            Err(error) => error.to_string().hash(&mut hasher),
        }
        let hash = hasher.finish();
        if self.hash.replace(hash) == Some(hash) {
            return;
        }
        let topology = match read {
            Ok(text) => Topology::parse(&text).map_err(|mistake| failed(path, mistake.line, mistake.message)),
            Err(error) => Err(failed(path, None, error.to_string())),
        };
        match topology {
            Ok(topology) => self.take(topology),
            Err(error) => {
                self.error = Some(error);
                self.news = true;
            }
        }
    }

    fn take(&mut self, topology: Topology) {
        let Topology { discovery, usage, script } = topology;
        // A card that was taken out and put in again is as good as new.
        self.faults.retain(|fault, _| discovery.cards.iter().any(|card| card.uuid == *fault));
        // What is in use changes all the time, and is asked for: that alone is no event.
        let only_usage = self.usage != usage && self.discovery.as_ref() == Some(&discovery);
        self.news |= self.error.take().is_some() || !only_usage;
        self.discovery = Some(discovery);
        self.usage = usage;
        let mut past = std::mem::take(&mut self.past);
        self.coming.clear();
        for event in script {
            // One that stands in the file twice happens twice.
            match past.iter().position(|happened| *happened == event) {
                Some(at) => self.past.push(past.swap_remove(at)),
                None => self.coming.push_back(event),
            }
        }
    }

    /// The next event, if its time has come.
    fn happen(&mut self, elapsed: Duration) -> Option<Event> {
        let event = self.coming.pop_front_if(|event| event.after <= elapsed)?;
        let card = Arc::clone(&event.card);
        let fault = match event.kind {
            EventKind::Lost => Some(Probe::Lost("the topology file says that it is lost".to_owned())),
            EventKind::Xid(OFF_THE_BUS) => Some(Probe::Lost("it has fallen off the bus".to_owned())),
            EventKind::DoubleBitEcc => Some(Probe::Ill("an uncorrectable memory error; reset the card".to_owned())),
            EventKind::Recovered => {
                self.faults.remove(&card);
                None
            }
            EventKind::Xid(_) | EventKind::Changed => None,
        };
        if let Some(fault) = fault {
            self.faults.insert(Arc::clone(&card), fault);
        }
        let happened = Event { subject: Subject::Card(card), kind: event.kind };
        self.past.push(event);
        Some(happened)
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let size = std::fs::File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)?;
    if size as u64 > LONGEST {
        return Err(std::io::Error::other(format!("longer than {LONGEST} bytes")));
    }
    Ok(text)
}

fn failed(path: &Path, line: Option<u64>, reason: String) -> BackendError {
    let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
    BackendError::Failed { call: format!("topology file {}{line}", path.display()), device: None, reason }
}
