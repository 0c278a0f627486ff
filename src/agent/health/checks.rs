//! Which signs of ill health count: NVIDIA's environment variables `DP_DISABLE_HEALTHCHECKS` and `DP_ENABLE_HEALTHCHECKS`, with
//! the meaning they have in NVIDIA's device plugin. Read once, at the agent's start; nonsense in them ends it.

use std::collections::BTreeSet;

use super::Severity;
use super::xid::{self, Class};
use crate::agent::backend::EventKind;

/// The variable that switches checks off.
pub const DISABLE: &str = "DP_DISABLE_HEALTHCHECKS";
/// The variable that switches them on again; stronger than [`DISABLE`].
pub const ENABLE: &str = "DP_ENABLE_HEALTHCHECKS";

/// A value that means nothing.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error(
    "{variable}: {value:?} is neither `all` nor `xids` nor the number of an Xid; write for example `{variable}=13,94`"
)]
pub struct ChecksError {
    variable: &'static str,
    value: String,
}

/// What counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checks {
    /// `all`: nothing counts but what is enabled by number.
    nothing: bool,
    /// `xids`: no Xid counts but what is enabled by number.
    no_xid: bool,
    /// Xids that do not count, beside those of programs.
    disabled: BTreeSet<u64>,
    /// Xids that count whatever else is said, even those of programs.
    enabled: BTreeSet<u64>,
}

/// One of the two variables.
#[derive(Default)]
struct List {
    all: bool,
    xids: bool,
    codes: BTreeSet<u64>,
}

impl Checks {
    /// From the values of the two variables; absent and empty are the same.
    ///
    /// `DP_DISABLE_HEALTHCHECKS`: `all` (nothing is checked), `xids` (no Xid counts; probes and other events do), or Xids that
    /// do not count beside NVIDIA's own list. `DP_ENABLE_HEALTHCHECKS`: Xids that count all the same; `all` or `xids` take back
    /// what the other variable disables as a whole.
    ///
    /// # Errors
    /// An entry that is neither a word nor a number.
    pub fn parse(disable: &str, enable: &str) -> Result<Self, ChecksError> {
        let (off, on) = (List::parse(DISABLE, disable)?, List::parse(ENABLE, enable)?);
        Ok(Self {
            nothing: off.all && !on.all,
            no_xid: (off.all || off.xids) && !(on.all || on.xids),
            disabled: off.codes,
            enabled: on.codes,
        })
    }

    /// From the environment of the process.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn from_env() -> Result<Self, ChecksError> {
        let read = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()).unwrap_or_default();
        Self::parse(&read(DISABLE), &read(ENABLE))
    }

    /// How bad an event is for its card; `None` where it says nothing about its health.
    pub fn severity(&self, kind: EventKind) -> Option<Severity> {
        match kind {
            EventKind::Xid(code) => self.xid(code),
            EventKind::DoubleBitEcc | EventKind::Lost => (!self.nothing).then_some(Severity::Fatal),
            EventKind::Recovered | EventKind::Changed => None,
        }
    }

    /// Whether cards are probed.
    pub fn probes(&self) -> bool {
        !self.nothing
    }

    fn xid(&self, code: u64) -> Option<Severity> {
        match xid::class(code) {
            // Whoever asks for an error of programs to count wants no pods there, not a new card.
            Class::Application => self.enabled.contains(&code).then_some(Severity::Suspect),
            Class::Card(severity) => {
                let counts = self.enabled.contains(&code) || !(self.no_xid || self.disabled.contains(&code));
                counts.then_some(severity)
            }
        }
    }
}

impl List {
    fn parse(variable: &'static str, text: &str) -> Result<Self, ChecksError> {
        let mut list = Self::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word.to_ascii_lowercase().as_str() {
                "all" => list.all = true,
                "xids" => list.xids = true,
                number => match number.parse() {
                    Ok(code) if code > 0 => {
                        list.codes.insert(code);
                    }
                    _ => return Err(ChecksError { variable, value: word.to_owned() }),
                },
            }
        }
        Ok(list)
    }
}
