//! `packhorse simulate`: what it reads, what it says, and that the published policies leave what was published.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as the tests do")]

mod files;
mod from_cluster;
mod output;
mod packing;
mod published;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A file of the trace that comes with the tests.
fn openb(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openb").join(file)
}

/// Runs the command on these files.
fn simulate(nodes: &Path, pods: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_packhorse"));
    command.arg("simulate").arg("--nodes").arg(nodes).arg("--pods").arg(pods).args(more).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A directory with these files; it goes when the value does.
struct Files(tempfile::TempDir);

impl Files {
    fn new(nodes: &str, pods: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("nodes.csv"), nodes).unwrap();
        std::fs::write(directory.path().join("pods.csv"), pods).unwrap();
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn simulate(&self, more: &[&str]) -> Output {
        simulate(&self.path("nodes.csv"), &self.path("pods.csv"), more)
    }
}
