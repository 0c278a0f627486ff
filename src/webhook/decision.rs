//! What the rules have found so far about one pod: operations, warnings, denials. Filled by `create` and `ephemeral`, turned
//! into an answer by `review`.

use crate::gpu::parse::{Denial, shown};

use super::metrics::Reason;
use super::patch::Patch;

/// How many warnings, and how many denials, an answer tells: it must stay small whatever the pod.
const MOST: usize = 50;

/// What the rules have found so far about one pod.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// Thrown away where anything was denied.
    pub(super) patch: Patch,
    warnings: Vec<String>,
    denials: Vec<(Reason, Denial)>,
    /// Beyond [`MOST`].
    untold: usize,
}

impl Decision {
    /// Notes a fault.
    pub(super) fn deny(&mut self, reason: Reason, denial: Denial) {
        if self.denials.len() < MOST {
            self.denials.push((reason, denial));
        } else {
            self.untold += 1;
        }
    }

    /// Whether any fault was noted.
    pub(super) fn is_denied(&self) -> bool {
        !self.denials.is_empty()
    }

    /// Notes what the user should know, of one container or of the pod.
    pub(super) fn warn(&mut self, container: Option<&str>, text: impl std::fmt::Display) {
        self.tell(match container {
            Some(container) => format!("container {:?}: {text}", shown(container)),
            None => text.to_string(),
        });
    }

    /// Notes a warning in words of its own.
    pub(super) fn tell(&mut self, warning: String) {
        match self.warnings.len() {
            told if told < MOST => self.warnings.push(warning),
            MOST => self.warnings.push("more warnings are left out".to_owned()),
            _ => {}
        }
    }

    /// All denials in one text, and the HTTP status that fits the first; `None` where there are none.
    pub(super) fn refusal(&self) -> Option<(Reason, u16, String)> {
        let (reason, first) = self.denials.first()?;
        // A request that cannot be read is invalid; the rest is understood and forbidden.
        let code = if *reason == Reason::request { 422 } else { 403 };
        let message = match self.denials.len() + self.untold {
            1 => first.to_string(),
            many => {
                let told =
                    self.denials.iter().enumerate().map(|(index, (_, denial))| format!("({}) {denial}", index + 1));
                format!("{many} faults: {}", told.collect::<Vec<_>>().join("; "))
            }
        };
        Some((*reason, code, message))
    }

    /// The patch and the warnings.
    pub(super) fn into_parts(self) -> (Patch, Vec<String>) {
        (self.patch, self.warnings)
    }
}
