//! The one owner of what is known about this node's devices: asks the backend, keeps the health of each device, and publishes
//! [`NodeView`] whenever it changes, and only then.
//!
//! It never waits for the driver: events come from a thread of their own, discovery and probes run beside it with a deadline, and
//! a card that does not answer by then is ill. So a health event is published in milliseconds, whatever else is under way.
//!
//! What stays listed:
//! - A card that is found no more is unhealthy and stays listed as long as the agent runs, with its MIG instances: pods may hold
//!   it, and the ledger must go on counting them. If it is found again it recovers like any other.
//! - A MIG instance that is found no more on a card that is still there was deleted by somebody: it is gone at once. So is a card
//!   that changed into MIG mode, in favour of its instances, and they when it changes back.
//! - A call that fails, or a topology file that cannot be read, changes nothing: the last good state is kept and asked about again.
//! - A new card is listed when it has answered its first probe.
//!
//! An event that names no device (NVML could not tell, or it is a stranger) is held against none, unlike in NVIDIA's plugin, which
//! takes the whole node out: all cards are probed at once, and those that are not well are marked by their own answer.
//!
//! Where there is no driver or no GPU the view says so in `trouble`, and the backend is asked again and again; with
//! `--fail-on-init-error` the agent does not start at all then.

mod building;
mod driver;
pub mod metrics;
mod roster;
mod settings;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::backend::{Backend, BackendError, Discovery, Event, EventKind, Probe, Subject};
use super::events::{EventKind as Importance, Events};
use super::view::{NodeView, ViewReceiver};
use crate::gpu::device::Health;
use driver::{Answer, Call, Driver};
use metrics::Metrics;
use roster::{Inquiry, Roster};

pub use roster::HealthChange;
pub use settings::{Settings, Slots};

/// How many changes of health a slow follower may be behind before it loses the oldest.
const CHANGES: usize = 256;

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The backend has nothing to offer, and `--fail-on-init-error` is set.
    #[error("{0}; --fail-on-init-error=false makes the agent wait instead")]
    Backend(#[from] BackendError),
    /// Discovery takes too long, and `--fail-on-init-error` is set.
    #[error("the driver does not answer within {0:?}; --fail-on-init-error=false makes the agent wait instead")]
    Late(Duration),
    /// No thread to wait for events.
    #[error("cannot start the thread that waits for events of devices: {0}")]
    Thread(std::io::Error),
}

/// The owner.
#[derive(Debug)]
pub struct Devices {
    settings: Settings,
    roster: Roster,
    driver: Driver,
    answers: mpsc::Receiver<Answer>,
    /// Under way, late ones included.
    calls: HashMap<Call, AbortOnDropHandle<()>>,
    /// Those that missed their deadline and have not ended.
    late: HashSet<Call>,
    /// Those that may have looked before something happened: they are asked again when they have ended, and the answer of a
    /// probe does not count.
    outdated: HashSet<Call>,
    discover_due: Instant,
    probes_due: HashMap<Arc<str>, Instant>,
    /// Why there is nothing, as far as the backend says.
    trouble: Option<String>,
    /// The failure reported last, so that each is reported once.
    failure: Option<String>,
    unreadable: Vec<String>,
    view: watch::Sender<Arc<NodeView>>,
    changes: broadcast::Sender<HealthChange>,
    events: Option<Events>,
    metrics: Metrics,
}

impl Devices {
    /// Finds the devices, asks each how it is, and publishes the first view.
    ///
    /// `events`: where the node's Events are written; `None` writes none.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        backend: Arc<dyn Backend>,
        settings: Settings,
        events: Option<Events>,
        metrics: Metrics,
    ) -> Result<Self, StartError> {
        let (driver, answers) = Driver::new(backend, settings.probe_limit);
        let now = Instant::now();
        let mut devices = Self {
            roster: Roster::new(settings.health, settings.checks.clone()),
            settings,
            driver,
            answers,
            calls: HashMap::new(),
            late: HashSet::new(),
            outdated: HashSet::new(),
            discover_due: now,
            probes_due: HashMap::new(),
            trouble: None,
            failure: None,
            unreadable: Vec::new(),
            view: watch::Sender::new(Arc::default()),
            changes: broadcast::Sender::new(CHANGES),
            events,
            metrics,
        };
        devices.look_around().await?;
        devices.publish();
        devices.driver.listen().map_err(StartError::Thread)?;
        Ok(devices)
    }

    /// Where the newest view is read.
    pub fn view(&self) -> ViewReceiver {
        self.view.subscribe()
    }

    /// Every change of a device's health from now on; the view that shows it is published before.
    pub fn changes(&self) -> broadcast::Receiver<HealthChange> {
        self.changes.subscribe()
    }

    /// Looks after the devices until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(self.settings.probe_watched_every.max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                answer = self.answers.recv() => match answer {
                    Some(answer) => self.heard(answer),
                    // The owner holds a sender itself.
                    None => return,
                },
                _ = tick.tick() => self.tick(),
            }
        }
    }

    /// The first discovery, and the first probe of every card.
    async fn look_around(&mut self) -> Result<(), StartError> {
        self.ask(Call::Discover);
        while !self.calls.is_empty() && self.calls.keys().any(|call| !self.late.contains(call)) {
            let Some(answer) = self.answers.recv().await else { break };
            let fatal = self.settings.fail_on_init_error;
            match &answer {
                Answer::Discovered(Err(error)) if fatal => return Err(error.clone().into()),
                Answer::Late(Call::Discover) if fatal => {
                    return Err(StartError::Late(self.driver.limit(&Call::Discover)));
                }
                _ => self.take(answer),
            }
        }
        Ok(())
    }

    fn heard(&mut self, answer: Answer) {
        self.take(answer);
        self.publish();
    }

    fn take(&mut self, answer: Answer) {
        let now = Instant::now();
        let changes = match answer {
            Answer::Event(event) => self.event(&event, now),
            Answer::NoEvents(error) => {
                self.metrics.failed("event");
                self.report_failure(&error.to_string());
                Vec::new()
            }
            Answer::Discovered(result) => {
                self.calls.remove(&Call::Discover);
                self.discovered(result, now)
            }
            Answer::Probed(card, probe) => {
                let call = Call::Probe(Arc::clone(&card));
                self.calls.remove(&call);
                if self.outdated.remove(&call) {
                    self.ask(call);
                    Vec::new()
                } else {
                    self.probed(&card, &probe, now)
                }
            }
            Answer::Late(call) => {
                let limit = self.driver.limit(&call);
                self.late.insert(call.clone());
                match call {
                    Call::Discover => {
                        self.metrics.failed("discovery");
                        self.report_failure(&format!("the driver does not tell its devices within {limit:?}"));
                        Vec::new()
                    }
                    Call::Probe(card) => {
                        self.metrics.failed("probe");
                        self.probed(&card, &self.no_answer(), now)
                    }
                }
            }
            Answer::Ended(call) => {
                self.late.remove(&call);
                self.calls.remove(&call);
                self.outdated.remove(&call);
                Vec::new()
            }
        };
        self.publish_changes(&changes);
    }

    fn event(&mut self, event: &Event, now: Instant) -> Vec<HealthChange> {
        let subject = match &event.subject {
            Subject::Node => None,
            Subject::Card(uuid) | Subject::Instance(uuid) => Some(&**uuid),
        };
        let what = roster::describe(event.kind);
        if let EventKind::Xid(xid) = event.kind {
            let subject = subject.unwrap_or_default();
            let view = self.view.borrow();
            let card = view.card_of(subject).map_or(subject, |card| &*card.uuid);
            self.metrics.xid(subject, card, xid);
        }
        let (changes, Inquiry { discover, probe }) = self.roster.told(event, now);
        match subject {
            Some(device) => info!(device, "device event: {what}"),
            None if event.kind == EventKind::Changed => info!("{what}"),
            None => {
                warn!("an event that names no device: {what}; all cards are probed");
                if let Some(events) = self.events.as_ref().filter(|_| !probe.is_empty()) {
                    let note = format!("{what}, of a GPU that the driver did not name; all GPUs are probed");
                    events.node(Importance::Warning, "GPUEvent", &note);
                }
            }
        }
        if discover {
            if self.calls.contains_key(&Call::Discover) {
                self.outdated.insert(Call::Discover);
            }
            self.ask(Call::Discover);
        }
        for card in probe {
            let call = Call::Probe(Arc::clone(&card));
            if self.calls.contains_key(&call) && !self.late.contains(&call) {
                self.outdated.insert(call);
            } else {
                self.probe(&card, now);
            }
        }
        changes
    }

    fn discovered(&mut self, result: Result<Discovery, BackendError>, now: Instant) -> Vec<HealthChange> {
        let retry = result.is_err();
        let changes = match result {
            Ok(discovery) => {
                if self.failure.take().is_some() {
                    info!("devices can be discovered again");
                }
                self.trouble = discovery.cards.is_empty().then(|| match &discovery.unreadable[..] {
                    [] => "the driver reports no GPU".to_owned(),
                    some => format!("no GPU can be read: {}", some.join("; ")),
                });
                if self.unreadable != discovery.unreadable {
                    for card in &discovery.unreadable {
                        error!("a GPU cannot be read and is not published: {card}");
                    }
                    self.unreadable.clone_from(&discovery.unreadable);
                }
                self.metrics.unreadable(discovery.unreadable.len());
                self.roster.discovered(discovery, now)
            }
            Err(error) => {
                self.metrics.failed("discovery");
                let text = error.to_string();
                self.report_failure(&text);
                let absent = matches!(error, BackendError::Absent { .. });
                if absent || self.roster.cards().is_empty() {
                    self.trouble = Some(text.clone());
                }
                if absent { self.roster.absent(&text, now) } else { Vec::new() }
            }
        };
        let pause = if retry { self.settings.retry_every } else { self.settings.discover_every };
        self.discover_due = now + pause;
        if self.outdated.remove(&Call::Discover) {
            self.ask(Call::Discover);
        }
        // New cards are listed when they have answered; those that changed are asked at their time.
        let there: HashSet<_> = self.roster.cards().iter().map(|known| Arc::clone(&known.card.uuid)).collect();
        self.probes_due.retain(|card, _| there.contains(card));
        for card in there {
            if !self.probes_due.contains_key(&card) {
                self.probe(&card, now);
            }
        }
        changes
    }

    fn probed(&mut self, card: &str, probe: &Probe, now: Instant) -> Vec<HealthChange> {
        let changes = self.roster.probed(card, probe, now);
        if let Some(known) = self.roster.cards().iter().find(|known| &*known.card.uuid == card) {
            let watched = known.is_watched();
            let pause = if watched { self.settings.probe_watched_every } else { self.settings.probe_every };
            self.probes_due.insert(Arc::clone(&known.card.uuid), now + pause);
        }
        changes
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if self.discover_due <= now {
            self.ask(Call::Discover);
        }
        let present = self.roster.cards().iter().filter(|known| !known.gone).map(|known| &known.card.uuid);
        let due: Vec<_> = present.filter(|c| self.probes_due.get(*c).is_none_or(|due| *due <= now)).cloned().collect();
        for card in due {
            self.probe(&card, now);
        }
        self.publish();
    }

    /// Asks a card how it is.
    fn probe(&mut self, card: &Arc<str>, now: Instant) {
        let call = Call::Probe(Arc::clone(card));
        if !self.settings.checks.probes() {
            // Nobody wants to know: what is there is well.
            let changes = self.probed(card, &Probe::Well, now);
            self.publish_changes(&changes);
        } else if self.late.contains(&call) {
            let changes = self.probed(card, &self.no_answer(), now);
            self.publish_changes(&changes);
        } else {
            self.ask(call);
        }
    }

    fn no_answer(&self) -> Probe {
        Probe::Ill(format!("the driver does not answer within {:?} when asked about it", self.settings.probe_limit))
    }

    /// Unless it is under way.
    fn ask(&mut self, call: Call) {
        if !self.calls.contains_key(&call) {
            let task = self.driver.ask(call.clone());
            self.calls.insert(call, task);
        }
    }

    fn report_failure(&mut self, text: &str) {
        if self.failure.as_deref() != Some(text) {
            error!("devices: {text}; what was known stays");
            self.failure = Some(text.to_owned());
        }
    }

    fn publish(&self) {
        let view = building::build(&self.roster, &self.settings, self.trouble.as_deref());
        let before = Arc::clone(&self.view.borrow());
        if *before == view {
            return;
        }
        self.metrics.publish(&before, &view);
        if let Some(trouble) = view.trouble.as_ref().filter(|trouble| before.trouble.as_ref() != Some(*trouble)) {
            error!("no devices are published, or not all: {trouble}");
            if let Some(events) = &self.events {
                events.node(Importance::Warning, "NoGPU", trouble);
            }
        }
        self.view.send_replace(Arc::new(view));
    }

    /// Tells of changes, after the view that shows them.
    fn publish_changes(&self, changes: &[HealthChange]) {
        if changes.is_empty() {
            return;
        }
        self.publish();
        let mut sentences: BTreeMap<(&'static str, Option<&str>), Vec<&str>> = BTreeMap::new();
        for change in changes {
            let HealthChange { device, from, to, cause } = change;
            match to {
                Health::Healthy | Health::Recovering => info!(%device, ?from, ?to, "device health"),
                Health::Suspect | Health::Unhealthy => warn!(%device, ?from, ?to, ?cause, "device health"),
            }
            let reason = match to {
                Health::Healthy => "GPUHealthy",
                Health::Suspect => "GPUSuspect",
                Health::Unhealthy => "GPUUnhealthy",
                // The way back is long; its end is told.
                Health::Recovering => continue,
            };
            sentences.entry((reason, cause.as_deref())).or_default().push(device);
        }
        if let Some(events) = &self.events {
            for ((reason, cause), devices) in sentences {
                let importance = if reason == "GPUHealthy" { Importance::Normal } else { Importance::Warning };
                let devices = devices.join(", ");
                let note = match cause {
                    Some(cause) => format!("{devices}: {cause}"),
                    None => format!("{devices}: in order again"),
                };
                events.node(importance, reason, &note);
            }
        }
        for change in changes {
            // Nobody has to follow.
            drop(self.changes.send(change.clone()));
        }
    }
}
