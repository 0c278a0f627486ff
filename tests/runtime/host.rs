//! A host for the program: its files are in a folder of the test, and the programs that it asks (`containerd`, `dockerd`, `crio`) are
//! stand-ins, so that a machine's own play no part.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A `daemon.json` that has nothing to do with GPUs.
pub(super) const DAEMON: &str = "{\n  \"log-driver\": \"journald\"\n}\n";

/// A host's files and programs.
pub(super) struct Host {
    pub(super) folder: tempfile::TempDir,
}

impl Host {
    pub(super) fn new() -> Self {
        let host = Self { folder: tempfile::tempdir().unwrap() };
        host.program("usr/bin/nvidia-container-runtime", "");
        host.program("usr/bin/containerd", "case $1 in --version) echo containerd x v2.2.1 y;; *) exit 9;; esac");
        for judge in ["dockerd", "crio"] {
            host.program(&format!("usr/bin/{judge}"), "exit 9");
        }
        host
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub(super) fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    pub(super) fn program(&self, path: &str, script: &str) {
        let path = self.write(path, &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(super) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(super) fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_packhorse"));
        let path = std::env::var("PATH").unwrap_or_default();
        command.env_clear().env("PATH", format!("{}:{path}", self.path("usr/bin").display()));
        command.args(["runtime", "configure"]);
        command
    }

    /// Runs with the host's NVIDIA runtime.
    pub(super) fn run(&self, arguments: &[&str]) -> Output {
        let program = self.path("usr/bin/nvidia-container-runtime");
        self.command().arg("--nvidia-runtime-path").arg(program).args(arguments).output().unwrap()
    }
}

pub(super) fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(super) fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(super) fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}{}", out(output), err(output));
    out(output)
}

pub(super) fn failed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}{}", out(output), err(output));
    err(output)
}
