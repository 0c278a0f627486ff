//! The configuration of a node's container runtime: registering NVIDIA's runtime in it, and nothing else.
//!
//! Three steps that know nothing of each other, wired by [`crate::cli::runtime`]:
//!
//! | module | owns |
//! |---|---|
//! | [`containerd`], [`docker`], [`crio`], [`rancher`] | what to change: text in, text out, no I/O |
//! | [`toml`], [`template`] | reading and editing the two formats without touching what is not meant |
//! | [`files`], [`imports`] | reading, atomic writing, backups, and taking all of it back |
//! | [`check`], [`restart`], [`socket`] | asking the runtime whether it understands the result, and restarting it |
//!
//! Everything that is not about NVIDIA's runtime stays as it was: settings, comments, order, line ends. What is not understood is
//! refused with its place; nothing is written then. Who writes these files: the administrator, the distribution, NVIDIA's toolkit,
//! and this module. Who reads them: containerd, dockerd, CRI-O, k3s.

pub mod check;
pub mod containerd;
pub mod crio;
pub mod docker;
pub mod files;
pub mod imports;
pub mod rancher;
pub mod restart;
pub mod socket;
pub mod template;
pub mod toml;

use std::fmt;
use std::path::PathBuf;

use similar::TextDiff;

/// Where NVIDIA's packages install their runtime.
pub const USUAL_PROGRAM: &str = "/usr/bin/nvidia-container-runtime";

/// What is to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The name of the runtime, which a `RuntimeClass` names as its handler.
    pub name: String,
    /// The program. None keeps the one that is registered by this name, else takes [`Self::usual`].
    pub program: Option<String>,
    /// The program where none was named and none is registered.
    pub usual: String,
    /// Whether containers that name no runtime get this one. False leaves the default runtime as it is.
    pub default: bool,
    /// Whether to let the runtime read CDI files. False leaves that as it is.
    pub cdi: bool,
}

impl Default for Registration {
    fn default() -> Self {
        Self { name: "nvidia".to_owned(), program: None, usual: USUAL_PROGRAM.to_owned(), default: false, cdi: true }
    }
}

impl Registration {
    /// The program to register where `registered` is what stands there by this name.
    fn program_over(&self, registered: Option<&str>) -> String {
        self.program.as_deref().or(registered.filter(|old| !old.is_empty())).unwrap_or(&self.usual).to_owned()
    }
}

/// A configuration file as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Where it is, as messages name it.
    pub path: PathBuf,
    /// None where there is none.
    pub text: Option<String>,
}

impl File {
    /// A file that is there.
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: Some(text.into()) }
    }

    /// A file that is not there.
    pub fn absent(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), text: None }
    }
}

/// A file that is to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The file.
    pub path: PathBuf,
    /// What it held. None where there was none.
    pub before: Option<String>,
    /// What it shall hold.
    pub after: String,
}

impl Edit {
    /// The change as `diff -u` shows it.
    pub fn diff(&self) -> String {
        let before = self.before.as_deref().unwrap_or_default();
        let path = self.path.display().to_string();
        let old = if self.before.is_some() { path.as_str() } else { "/dev/null" };
        TextDiff::from_lines(before, &self.after).unified_diff().context_radius(3).header(old, &path).to_string()
    }
}

/// What there is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The files that change, in the order in which to write them. Empty where all is as it shall be.
    pub edits: Vec<Edit>,
    /// What the administrator should know beside it, one sentence each.
    pub notes: Vec<String>,
    /// The program that is registered once the plan is carried out.
    pub program: String,
}

/// Why a configuration is left as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The file is not in its format.
    #[error("{}: line {}, column {}: {message}; nothing was changed: repair the file first", file.display(), place.line, place.column)]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Where in it.
        place: Place,
        /// What is wrong, without an end mark.
        message: String,
    },
    /// A key holds something else than the runtime reads there.
    #[error("{}: {key} is {found}, and must be {expected}; nothing was changed: repair the file first", file.display())]
    Shape {
        /// The file.
        file: PathBuf,
        /// The key with those above it.
        key: String,
        /// What is there.
        found: String,
        /// What the runtime reads there.
        expected: &'static str,
    },
    /// The file is in order, and still what is asked for cannot be had, or not safely.
    #[error("{}: {message}", file.display())]
    Conflict {
        /// The file.
        file: PathBuf,
        /// What is in the way, and the remedy.
        message: String,
    },
}

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl Place {
    /// The place of a byte offset; the end of the text where it is beyond it.
    pub fn of(text: &str, offset: usize) -> Self {
        let mut offset = offset.min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &text[..offset];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        let text = "a = 1\nbé = [\n";
        for (offset, line, column) in [(0, 1, 1), (4, 1, 5), (6, 2, 1), (9, 2, 3), (13, 2, 7), (99, 3, 1)] {
            assert_eq!(Place::of(text, offset), Place { line, column }, "offset {offset}");
        }
    }

    #[test]
    fn a_diff_shows_a_new_file_against_nothing() {
        let edit = Edit { path: "/etc/a".into(), before: None, after: "x\n".to_owned() };
        assert_eq!(edit.diff(), "--- /dev/null\n+++ /etc/a\n@@ -0,0 +1 @@\n+x\n");
    }
}
