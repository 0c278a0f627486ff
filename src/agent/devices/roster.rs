//! Every card the agent has seen, with the health of each device. Pure: the owner says what it saw and when, and learns which
//! devices changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::agent::backend::{Card, Discovery, DriverPlace, Event, EventKind, Probe, Subject};
use crate::agent::health::{self, Checks, Condition, xid};
use crate::gpu::device::Health;

/// A device whose health is another than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthChange {
    /// The device's UUID.
    pub device: Arc<str>,
    /// Before.
    pub from: Health,
    /// After; never the same.
    pub to: Health,
    /// What was wrong last, for people; `None` where the device is healthy.
    pub cause: Option<Arc<str>>,
}

/// Whom to ask after something was told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Inquiry {
    /// Discover again.
    pub(super) discover: bool,
    /// Probe these cards at once.
    pub(super) probe: Vec<Arc<str>>,
}

/// One card.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) card: Card,
    /// Not found by the last discovery.
    pub(super) gone: bool,
    /// Whether it was ever asked how it is; before that it is not published.
    probed: bool,
    condition: Condition,
    /// What befell single instances, by UUID; those it never befell anything are absent.
    instances: HashMap<Arc<str>, Condition>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Roster {
    settings: health::Settings,
    checks: Checks,
    /// Sorted by pci, then uuid.
    cards: Vec<Known>,
    pub(super) driver: String,
    pub(super) driver_place: Option<DriverPlace>,
    pub(super) cuda: Option<(u32, u32)>,
}

impl Known {
    /// Whether it can be published: asked at least once.
    pub(super) fn is_listed(&self) -> bool {
        self.probed || self.gone
    }

    /// Its own health.
    pub(super) fn health(&self) -> Health {
        self.condition.health()
    }

    /// The health of one of its instances, never better than its own.
    pub(super) fn instance_health(&self, uuid: &str) -> Health {
        let own = self.instances.get(uuid).map_or(Health::Healthy, Condition::health);
        health::worse(own, self.health())
    }

    /// Whether the card or an instance of it needs to be looked at closely.
    pub(super) fn is_watched(&self) -> bool {
        !self.probed || self.health() != Health::Healthy || !self.instances.is_empty()
    }

    /// Its devices as they are published, with their health and its cause.
    fn devices(&self) -> impl Iterator<Item = (&Arc<str>, Health, Option<&Arc<str>>)> {
        let card = (!self.card.mig_mode).then(|| (&self.card.uuid, self.health(), self.condition.cause()));
        let instances = self.card.instances.iter().filter(|_| self.card.mig_mode).map(|instance| {
            let health = self.instance_health(&instance.uuid);
            let own = self.instances.get(&instance.uuid).filter(|own| own.health() == health);
            (&instance.uuid, health, own.unwrap_or(&self.condition).cause())
        });
        card.into_iter().chain(instances)
    }
}

impl Roster {
    pub(super) fn new(settings: health::Settings, checks: Checks) -> Self {
        Self { settings, checks, cards: Vec::new(), driver: String::new(), driver_place: None, cuda: None }
    }

    /// Sorted by pci, then uuid.
    pub(super) fn cards(&self) -> &[Known] {
        &self.cards
    }

    /// What there is now. A card that is missing stays, unhealthy; an instance that is missing on a card that is not is gone.
    pub(super) fn discovered(&mut self, discovery: Discovery, now: Instant) -> Vec<HealthChange> {
        let Discovery { driver, place, cuda, cards, unreadable } = discovery;
        self.driver = driver;
        self.driver_place = place;
        self.cuda = cuda;
        let reason = match &unreadable[..] {
            [] => "it is not there any more".to_owned(),
            some => format!("it is not there any more; a GPU cannot be read: {}", some.join("; ")),
        };
        self.changing(|roster| {
            for known in &mut roster.cards {
                if !cards.iter().any(|card| card.uuid == known.card.uuid) {
                    known.miss(&reason, now, &roster.settings);
                }
            }
            for card in cards {
                match roster.cards.iter_mut().find(|known| known.card.uuid == card.uuid) {
                    Some(known) => {
                        known.gone = false;
                        known.instances.retain(|uuid, _| card.instances.iter().any(|i| i.uuid == *uuid));
                        known.card = card;
                    }
                    None => roster.cards.push(Known {
                        card,
                        gone: false,
                        probed: false,
                        condition: Condition::default(),
                        instances: HashMap::new(),
                    }),
                }
            }
            roster.cards.sort_by(|a, b| (&a.card.pci, &a.card.uuid).cmp(&(&b.card.pci, &b.card.uuid)));
        })
    }

    /// There is nothing any more: no driver, or no library.
    pub(super) fn absent(&mut self, reason: &str, now: Instant) -> Vec<HealthChange> {
        self.changing(|roster| {
            for known in &mut roster.cards {
                known.miss(reason, now, &roster.settings);
            }
        })
    }

    /// An event. Where it names no device of ours, nothing is held against any: all are asked how they are.
    pub(super) fn told(&mut self, event: &Event, now: Instant) -> (Vec<HealthChange>, Inquiry) {
        let everybody = |roster: &Self, discover| Inquiry {
            discover,
            probe: roster.cards.iter().filter(|known| !known.gone).map(|known| Arc::clone(&known.card.uuid)).collect(),
        };
        let severity = self.checks.severity(event.kind);
        if event.kind == EventKind::Changed {
            return (Vec::new(), Inquiry { discover: true, probe: Vec::new() });
        }
        if severity.is_none() && event.kind != EventKind::Recovered {
            return (Vec::new(), Inquiry::default());
        }
        let Some(at) = self.find(&event.subject) else {
            let stranger = event.subject != Subject::Node;
            return (Vec::new(), everybody(self, stranger));
        };
        if self.cards[at].gone {
            // Only discovery can say more of it.
            return (Vec::new(), Inquiry { discover: true, probe: Vec::new() });
        }
        let changes = self.changing(|roster| {
            let (settings, known) = (roster.settings, &mut roster.cards[at]);
            match (severity, &event.subject) {
                (Some(severity), Subject::Instance(uuid)) if event.kind != EventKind::Lost => {
                    known.instances.entry(Arc::clone(uuid)).or_default().fault(
                        severity,
                        &describe(event.kind),
                        now,
                        &settings,
                    );
                }
                (Some(severity), _) => {
                    known.condition.fault(severity, &describe(event.kind), now, &settings);
                }
                (None, Subject::Instance(uuid)) => {
                    if let Some(own) = known.instances.get_mut(uuid) {
                        own.recovered(now);
                    }
                }
                // What is said of a card is said of all that is on it.
                (None, _) => {
                    known.condition.recovered(now);
                    known.instances.values_mut().for_each(|own| {
                        own.recovered(now);
                    });
                }
            }
        });
        let probe = vec![Arc::clone(&self.cards[at].card.uuid)];
        (changes, Inquiry { discover: event.kind == EventKind::Lost, probe })
    }

    /// A card's answer.
    pub(super) fn probed(&mut self, card: &str, probe: &Probe, now: Instant) -> Vec<HealthChange> {
        let Some(at) = self.cards.iter().position(|known| &*known.card.uuid == card) else { return Vec::new() };
        self.changing(|roster| {
            let (settings, known) = (roster.settings, &mut roster.cards[at]);
            // An answer that was under way when the card went is none.
            if known.gone {
                return;
            }
            known.probed = true;
            known.condition.probed(probe, now, &settings);
            if *probe == Probe::Well {
                known.instances.values_mut().for_each(|own| {
                    own.probed(probe, now, &settings);
                });
                known.instances.retain(|_, own| own.health() != Health::Healthy);
            }
        })
    }

    /// The card that an event is about.
    fn find(&self, subject: &Subject) -> Option<usize> {
        self.cards.iter().position(|known| match subject {
            Subject::Node => false,
            Subject::Card(uuid) => known.card.uuid == *uuid,
            Subject::Instance(uuid) => known.card.instances.iter().any(|instance| instance.uuid == *uuid),
        })
    }

    /// Which published devices `change` made better or worse.
    fn changing(&mut self, change: impl FnOnce(&mut Self)) -> Vec<HealthChange> {
        let before: HashMap<Arc<str>, Health> = self
            .cards
            .iter()
            .filter(|known| known.is_listed())
            .flat_map(|known| known.devices().map(|(uuid, health, _)| (Arc::clone(uuid), health)))
            .collect();
        change(self);
        self.cards
            .iter()
            .filter(|known| known.is_listed())
            .flat_map(Known::devices)
            .filter_map(|(uuid, to, cause)| {
                // Nobody thought ill of a device that is new.
                let from = before.get(uuid).copied().unwrap_or(Health::Healthy);
                let cause = if to == Health::Healthy { None } else { cause.cloned() };
                (from != to).then(|| HealthChange { device: Arc::clone(uuid), from, to, cause })
            })
            .collect()
    }
}

impl Known {
    fn miss(&mut self, reason: &str, now: Instant, settings: &health::Settings) {
        self.gone = true;
        self.condition.probed(&Probe::Lost(reason.to_owned()), now, settings);
    }
}

/// What happened, for people.
pub(super) fn describe(kind: EventKind) -> String {
    match kind {
        EventKind::Xid(code) => xid::describe(code),
        EventKind::DoubleBitEcc => "an uncorrectable memory error".to_owned(),
        EventKind::Lost => "it is lost".to_owned(),
        EventKind::Recovered => "it has recovered".to_owned(),
        EventKind::Changed => "the devices changed".to_owned(),
    }
}
