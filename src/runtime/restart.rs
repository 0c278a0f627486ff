//! Restarting a container runtime, and waiting until it serves again. Containers keep running meanwhile: their shims are processes of
//! their own.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::check::find_program;
use super::socket::{self, Answer};

/// Time between two looks at the socket.
const STEP: Duration = Duration::from_millis(250);

/// How a runtime is restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restart {
    /// Not at all: it takes the change when it starts next.
    Leave,
    /// `systemctl restart` of the first of these units that is active.
    Systemd(Vec<String>),
    /// SIGHUP to the process behind the socket. dockerd and CRI-O read their configuration again; containerd ends, and its
    /// supervisor starts it again.
    Signal {
        /// Whether the process ends.
        ends: bool,
    },
    /// A shell command.
    Command(String),
}

/// Why a runtime is not back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command failed.
    #[error("`{command}` failed: {reason}")]
    Command {
        /// The command.
        command: String,
        /// Its status and its last line on stderr.
        reason: String,
    },
    /// No unit is active.
    #[error("none of the units {} is active; name the command with --restart-command", .0.join(", "))]
    NoUnit(Vec<String>),
    /// Nobody to send a signal to.
    #[error(
        "no process is visible behind {}; in a pod this needs `hostPID: true`, or use --restart systemd", .0.display()
    )]
    NoProcess(PathBuf),
    /// The socket does not answer.
    #[error("{} does not answer {} s after the restart{detail}", socket.display(), waited.as_secs())]
    Silent {
        /// The socket.
        socket: PathBuf,
        /// How long was waited.
        waited: Duration,
        /// What answers instead; begins with `: ` where it is not empty.
        detail: &'static str,
    },
    /// This process cannot look.
    #[error("cannot ask {}: {source}", socket.display())]
    Io {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Restarts and waits until the socket answers as it did before: if it spoke CRI then, it must again.
///
/// # Errors
/// [`Error`]; the runtime may be down then.
pub fn restart(how: &Restart, path: &Path, before: &Answer, patience: Duration) -> Result<(), Error> {
    let mut old = None;
    match how {
        Restart::Leave => return Ok(()),
        Restart::Systemd(units) => {
            let active = units.iter().find(|unit| run("systemctl", &["is-active", "--quiet", unit]).is_ok());
            let unit = active.ok_or_else(|| Error::NoUnit(units.clone()))?;
            run("systemctl", &["restart", unit])?;
        }
        Restart::Signal { ends } => {
            let now = socket::ask(path).map_err(|source| Error::Io { socket: path.to_owned(), source })?;
            let pid = now.pid.ok_or_else(|| Error::NoProcess(path.to_owned()))?;
            run("sh", &["-c", &format!("kill -HUP {pid}")])?;
            old = ends.then_some(pid);
        }
        Restart::Command(command) => run("sh", &["-c", command])?,
    }
    wait(path, before, old, patience)
}

/// Waits until two looks in a row find the runtime as it was.
fn wait(path: &Path, before: &Answer, old: Option<i32>, patience: Duration) -> Result<(), Error> {
    let begin = Instant::now();
    let mut good = 0;
    loop {
        let now = socket::ask(path).map_err(|source| Error::Io { socket: path.to_owned(), source })?;
        let gone = old.is_some() && now.pid == old;
        let back = now.open && !gone && (before.cri.is_none() || now.cri.is_some());
        good = if back { good + 1 } else { 0 };
        if good == 2 {
            return Ok(());
        }
        if begin.elapsed() >= patience {
            let detail = match (now.open, gone) {
                (false, _) => "",
                (true, true) => ": the process did not end",
                (true, false) => ": somebody is there, but does not serve Kubernetes' runtime interface as before",
            };
            return Err(Error::Silent { socket: path.to_owned(), waited: begin.elapsed(), detail });
        }
        std::thread::sleep(STEP);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), Error> {
    let command = || std::iter::once(program).chain(arguments.iter().copied()).collect::<Vec<_>>().join(" ");
    let fail = |reason: String| Error::Command { command: command(), reason };
    let found = find_program(program).ok_or_else(|| fail("there is no such program".to_owned()))?;
    let output = Command::new(found)
        .args(arguments)
        // In a pod that has changed its root to the host's, systemctl would take itself to be in an installation and do nothing.
        .env("SYSTEMD_IGNORE_CHROOT", "1")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| fail(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    let last = told.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(fail(if last.is_empty() { output.status.to_string() } else { format!("{}: {last}", output.status) }))
}
