//! Whether a cluster is fit for Packhorse, and an installation in order: objects in, [`Finding`]s out. Pure; `cli::check` reads the objects.
//!
//! Every finding is one line and, unless all is well, says what to do. What could not be read is a finding of its own and never
//! counts as being in order.

pub mod nodes;
pub mod others;
pub mod permissions;
pub mod quotas;
pub mod runtime;
pub mod scheduler;
pub mod version;
pub mod webhook;

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// In order.
    Ok,
    /// Works, but somebody should know.
    Note,
    /// Could not be looked at.
    Unknown,
    /// GPU pods fail, or are not kept apart.
    Wrong,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at, a few fixed words.
    pub check: &'static str,
    /// What was found.
    pub found: String,
    /// What to do; absent where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Level {
    /// The word of the output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Unknown => "unknown",
            Self::Wrong => "wrong",
        }
    }
}

impl Finding {
    /// In order.
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, check, found: found.into(), remedy: None }
    }

    /// Worth knowing.
    pub fn note(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Note, check, found: found.into(), remedy: Some(remedy.into()) }
    }

    /// Could not be looked at.
    pub fn unknown(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Unknown, check, found: found.into(), remedy: Some(remedy.into()) }
    }

    /// Wrong.
    pub fn wrong(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Wrong, check, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// The exit status: 1 where anything is wrong, else 2 where anything could not be looked at, else 0.
pub fn status(findings: &[Finding]) -> u8 {
    match findings.iter().map(|finding| finding.level).max() {
        Some(Level::Wrong) => 1,
        Some(Level::Unknown) => 2,
        Some(Level::Ok | Level::Note) | None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides_the_exit_status() {
        let (ok, note) = (Finding::ok("a", "b"), Finding::note("a", "b", "c"));
        let (unknown, wrong) = (Finding::unknown("a", "b", "c"), Finding::wrong("a", "b", "c"));
        for (findings, expected) in [
            (vec![], 0),
            (vec![ok.clone(), note.clone()], 0),
            (vec![ok.clone(), unknown.clone(), note], 2),
            (vec![wrong, unknown, ok], 1),
        ] {
            assert_eq!(status(&findings), expected, "{findings:?}");
        }
    }
}
