//! How devices are looked after: what flags, environment and configuration file come to, read once at the agent's start.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::agent::backend::Instance;
use crate::agent::health::{self, Checks};
use crate::agent::view::MigStrategy;

/// How many containers may share a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {
    /// A card.
    pub cards: u16,
    /// A MIG instance, unless its profile is named below.
    pub instances: u16,
    /// By MIG profile.
    pub profiles: BTreeMap<String, u16>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { cards: 10, instances: 1, profiles: BTreeMap::new() }
    }
}

impl Slots {
    pub(super) fn of_instance(&self, instance: &Instance) -> u16 {
        self.profiles.get(&*instance.profile.0).copied().unwrap_or(self.instances)
    }
}

/// How devices are looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How many containers may share a device.
    pub slots: Slots,
    /// What the resource names mean.
    pub mig_strategy: MigStrategy,
    /// Which signs of ill health count.
    pub checks: Checks,
    /// How patient health is.
    pub health: health::Settings,
    /// How often a healthy card is probed.
    pub probe_every: Duration,
    /// How often a card is probed that is not healthy.
    pub probe_watched_every: Duration,
    /// How long a probe may take; discovery six times as long.
    pub probe_limit: Duration,
    /// How often the devices are looked for again.
    pub discover_every: Duration,
    /// How long after a failure.
    pub retry_every: Duration,
    /// NVIDIA's `--fail-on-init-error`: without usable GPU at its start the agent ends.
    pub fail_on_init_error: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            slots: Slots::default(),
            mig_strategy: MigStrategy::default(),
            checks: Checks::default(),
            health: health::Settings::default(),
            probe_every: Duration::from_secs(10),
            probe_watched_every: Duration::from_secs(1),
            probe_limit: Duration::from_secs(10),
            discover_every: Duration::from_secs(30),
            retry_every: Duration::from_secs(5),
            fail_on_init_error: true,
        }
    }
}
