//! The health of one device, as a state machine without a clock: `devices` tells it what it saw and when, and publishes what
//! comes of it. Nothing here can fail.
//!
//! ```text
//!            bad probe, lesser Xid             again, or too often
//! healthy ──────────────────────────> suspect ─────────────────────> unhealthy
//!    ^                                   │   fatal Xid, ECC, lost:       │
//!    │ good probe after `observation`    │   from every state ────────>  │
//!    │                                   v                               │
//!    └──────────────────────────────  recovering <───────────────────────┘
//!                                         good probe after a quiet time
//! ```
//!
//! Every fault is answered by a way back: once the last bad sign is old enough and the card answers well, the device recovers by
//! itself. A bad probe on that way starts it again. How long is quiet enough depends on who saw the fault: what a probe sees, a
//! probe will also see end; what only an event told of is believed longer. Only `healthy` takes new pods (design.md section 8).

pub mod checks;
pub mod xid;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::Probe;
use crate::gpu::device::Health;

pub use checks::{Checks, ChecksError};

/// How patient the machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Bad probes in a row until a device is given up; 0 counts as 1.
    pub probes: u32,
    /// Lesser faults until a device is given up, counted since it was last healthy; 0 counts as 1.
    pub strikes: u32,
    /// How old the last bad sign must be before a device recovers.
    pub quiet: Duration,
    /// The same after an error that needs a reset of the card, as long as no probe has seen the fault: nothing tells that the
    /// reset was made.
    pub quiet_after_fatal: Duration,
    /// How long a recovering device is watched before it is healthy.
    pub observation: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            probes: 3,
            strikes: 3,
            quiet: Duration::from_secs(30),
            quiet_after_fatal: Duration::from_secs(300),
            observation: Duration::from_secs(10),
        }
    }
}

/// How bad what an event tells is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The card goes on working, or nobody knows.
    Suspect,
    /// The card must be reset or replaced.
    Fatal,
}

/// A step of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// Before.
    pub from: Health,
    /// After; never the same.
    pub to: Health,
}

/// The state of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    health: Health,
    /// What was wrong last, for people; `None` while healthy.
    cause: Option<Arc<str>>,
    /// The last bad sign; `None` while healthy.
    trouble: Option<Instant>,
    /// How old it must become.
    quiet: Duration,
    /// Bad probes in a row.
    bad: u32,
    /// Lesser faults since it was healthy.
    strikes: u32,
    /// When a recovering device is healthy again, if its probes stay good.
    due: Option<Instant>,
}

impl Default for Condition {
    fn default() -> Self {
        Self {
            health: Health::Healthy,
            cause: None,
            trouble: None,
            quiet: Duration::ZERO,
            bad: 0,
            strikes: 0,
            due: None,
        }
    }
}

impl Condition {
    /// The state.
    pub fn health(&self) -> Health {
        self.health
    }

    /// What was wrong last, for people; `None` while healthy.
    pub fn cause(&self) -> Option<&Arc<str>> {
        self.cause.as_ref()
    }

    /// An event told of a fault.
    pub fn fault(&mut self, severity: Severity, cause: &str, now: Instant, settings: &Settings) -> Option<Transition> {
        let quiet = match severity {
            Severity::Suspect => settings.quiet.max(self.quiet),
            Severity::Fatal => settings.quiet_after_fatal.max(settings.quiet),
        };
        self.strikes = self.strikes.saturating_add(1);
        let given_up =
            severity == Severity::Fatal || self.health == Health::Unhealthy || self.strikes >= settings.strikes.max(1);
        self.worse(given_up, cause, quiet, now)
    }

    /// The card answered a probe, or did not.
    pub fn probed(&mut self, probe: &Probe, now: Instant, settings: &Settings) -> Option<Transition> {
        let (given_up, reason) = match probe {
            Probe::Well => return self.well(now, settings),
            Probe::Ill(reason) => {
                self.bad = self.bad.saturating_add(1);
                (self.health == Health::Unhealthy || self.bad >= settings.probes.max(1), reason)
            }
            Probe::Lost(reason) => (true, reason),
        };
        // A probe sees this fault and will see its end.
        self.worse(given_up, reason, settings.quiet, now)
    }

    /// The card is said to be in order again: one good probe, and it is healthy.
    pub fn recovered(&mut self, now: Instant) -> Option<Transition> {
        if self.health == Health::Healthy {
            return None;
        }
        self.strikes = 0;
        self.bad = 0;
        self.quiet = Duration::ZERO;
        self.due = Some(now);
        self.turn(Health::Recovering)
    }

    fn worse(&mut self, given_up: bool, cause: &str, quiet: Duration, now: Instant) -> Option<Transition> {
        self.trouble = Some(now);
        self.quiet = quiet;
        self.due = None;
        if self.cause.as_deref() != Some(cause) {
            self.cause = Some(cause.into());
        }
        self.turn(if given_up { Health::Unhealthy } else { Health::Suspect })
    }

    fn well(&mut self, now: Instant, settings: &Settings) -> Option<Transition> {
        self.bad = 0;
        match self.health {
            Health::Healthy => None,
            Health::Suspect | Health::Unhealthy => {
                let quiet = self.trouble.is_none_or(|trouble| now.saturating_duration_since(trouble) >= self.quiet);
                if !quiet {
                    return None;
                }
                self.due = now.checked_add(settings.observation);
                self.turn(Health::Recovering)
            }
            Health::Recovering => {
                if self.due.is_some_and(|due| now < due) {
                    return None;
                }
                let turned = self.turn(Health::Healthy);
                *self = Self::default();
                turned
            }
        }
    }

    fn turn(&mut self, to: Health) -> Option<Transition> {
        let from = std::mem::replace(&mut self.health, to);
        (from != to).then_some(Transition { from, to })
    }
}

/// The worse of two states: a MIG instance is no better than its card.
pub fn worse(a: Health, b: Health) -> Health {
    let rank = |health| match health {
        Health::Healthy => 0,
        Health::Recovering => 1,
        Health::Suspect => 2,
        Health::Unhealthy => 3,
    };
    if rank(b) > rank(a) { b } else { a }
}
