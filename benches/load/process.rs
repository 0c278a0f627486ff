//! A server in a process of its own, so that its memory and its processor time are its own. The same binary, told its role by an
//! argument; talks over its standard input and output, a line at a time, and ends with its input.

use std::io::{BufRead, BufReader, Seek, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::case::Case;

/// The argument before the case.
pub const ROLE: &str = "--serve";

/// A second has so many ticks in `/proc`, on every Linux of today (`USER_HZ`).
const TICKS: f64 = 100.0;

/// The first line a server writes, once it is ready.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready {
    pub plain: SocketAddr,
    pub tls: SocketAddr,
    /// PEM.
    pub authority: String,
}

/// What a server says of itself when asked.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    pub holds: usize,
    pub live: usize,
    pub gpus: f64,
    /// Of bind's own part, microseconds: the bound of the histogram's bucket.
    pub bind_own_p50: f64,
    pub bind_own_p99: f64,
    /// Binds that found no room any more.
    pub conflicts: u64,
}

/// What a server is told.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// The watch shows this new pod.
    Announce(String),
    /// Tell the [`State`].
    State,
}

/// A server of ours.
#[derive(Debug)]
pub struct Process {
    pub plain: SocketAddr,
    pub tls: SocketAddr,
    pub authority: String,
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    log: std::fs::File,
}

impl Process {
    /// Waits until it is ready.
    pub fn start(case: &Case) -> Self {
        let log = tempfile::tempfile().expect("a file for the server's log");
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--bench", ROLE, &serde_json::to_string(case).expect("a case")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().expect("a file"))
            .spawn()
            .expect("the server starts");
        let orders = child.stdin.take().expect("its input");
        let answers = BufReader::new(child.stdout.take().expect("its output"));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut process = Self { plain: nowhere, tls: nowhere, authority: String::new(), child, orders, answers, log };
        let ready: Ready = process.read();
        Self { plain: ready.plain, tls: ready.tls, authority: ready.authority, ..process }
    }

    fn read<T: for<'de> Deserialize<'de>>(&mut self) -> T {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the server's output");
        serde_json::from_str(&line).unwrap_or_else(|error| {
            self.log.rewind().expect("its log");
            let log = std::io::read_to_string(&self.log).expect("its log");
            let from = log.char_indices().rev().nth(3_000).map_or(0, |(at, _)| at);
            panic!("the server says {line:?}: {error}; its log ends with\n{}", &log[from..]);
        })
    }

    pub fn order(&mut self, order: &Order) {
        writeln!(self.orders, "{}", serde_json::to_string(order).expect("an order")).expect("the server listens");
    }

    pub fn state(&mut self) -> State {
        self.order(&Order::State);
        self.read()
    }

    /// Seconds of processor time so far, user and system.
    pub fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("a process");
        // The program's name may contain anything; fields 14 and 15 of all.
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<f64>().expect("ticks");
        (ticks(11) + ticks(12)) / TICKS
    }

    /// Resident memory, MB.
    pub fn resident(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024.0 / 1e6
    }

    /// Ends it.
    pub fn stop(self) {
        let Self { mut child, orders, .. } = self;
        drop(orders);
        child.wait().expect("it ends");
    }
}
