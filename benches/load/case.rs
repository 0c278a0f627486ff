//! What is measured: one base case, which is the line of the goals, and each of its dimensions varied.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cluster::{Fill, Options};

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Server {
    /// The extender, served as `packhorse server` does.
    Packhorse,
    /// Receives and answers with the first name: what transport alone costs.
    Reference,
}

/// How kube-scheduler connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// HTTP/1.1 with keep-alive.
    Http1,
    /// HTTP/2.
    Http2,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    pub server: Server,
    pub cluster: Options,
    pub protocol: Protocol,
    pub tls: bool,
    pub connections: usize,
    /// Pods that come or go each second, beside those that are bound.
    pub events: u32,
    /// From the beginning of one pod's calls to that of the next; 0: one follows the other.
    pub cycle_ms: u64,
    /// Whether each filter call is followed by `/prioritize` and `/bind`; else `/filter` alone is called, and holds gather.
    pub binds: bool,
    /// Whether the server learns what kinds of pods come, as it always does outside of measurements.
    pub learns: bool,
}

impl Case {
    /// 5,000 long names, half full, 150 shapes, 100 pod events a second, plain HTTP/1.1.
    pub const BASE: Self = Self {
        server: Server::Packhorse,
        cluster: Options { nodes: 5_000, long_names: true, fill: Fill::Half, shapes: 150 },
        protocol: Protocol::Http1,
        tls: false,
        connections: 1,
        events: 100,
        cycle_ms: 0,
        binds: true,
        learns: true,
    };

    /// The same transport with nothing behind it.
    pub fn reference(self) -> Self {
        let Self { cluster, protocol, tls, connections, cycle_ms, .. } = self;
        let cluster = Options { nodes: cluster.nodes, long_names: cluster.long_names, ..Options::default() };
        Self { server: Server::Reference, cluster, protocol, tls, connections, cycle_ms, events: 0, ..Self::BASE }
    }

    /// For the file of figures; `kind` tells whether the shape was known before.
    pub fn figure(&self, kind: &str) -> Value {
        let Self { server, cluster, protocol, tls, connections, events, cycle_ms, binds, learns } = self;
        json!({
            "server": server, "names": cluster.nodes, "name_length": if cluster.long_names { 40 } else { 14 },
            "fill": cluster.fill, "shapes": cluster.shapes, "kind": kind, "events": events, "protocol": protocol, "tls": tls,
            "connections": connections, "cycle_ms": cycle_ms, "binds": binds, "learns": learns,
        })
    }
}

/// All cases, each with a name; those of `--quick` first.
pub fn all() -> Vec<(&'static str, Case)> {
    let base = Case::BASE;
    let with = |change: &dyn Fn(&mut Case)| {
        let mut case = base;
        change(&mut case);
        case
    };
    let nodes = |nodes: usize| with(&|case| case.cluster.nodes = nodes);
    vec![
        ("base", base),
        ("base, 5 ms a cycle", with(&|case| case.cycle_ms = 5)),
        ("TLS", with(&|case| case.tls = true)),
        ("100 names", nodes(100)),
        ("500 names", nodes(500)),
        ("1,000 names", nodes(1_000)),
        ("10,000 names", nodes(10_000)),
        ("short names", with(&|case| case.cluster.long_names = false)),
        ("empty nodes", with(&|case| case.cluster.fill = Fill::Empty)),
        ("nearly full nodes", with(&|case| case.cluster.fill = Fill::NearlyFull)),
        ("1 shape", with(&|case| case.cluster.shapes = 1)),
        ("10 shapes", with(&|case| case.cluster.shapes = 10)),
        ("no events", with(&|case| case.events = 0)),
        ("1,000 events/s", with(&|case| case.events = 1_000)),
        ("nothing is bound", with(&|case| case.binds = false)),
        ("nothing is learned", with(&|case| case.learns = false)),
        ("HTTP/2", with(&|case| case.protocol = Protocol::Http2)),
        (
            "HTTP/2, TLS",
            with(&|case| {
                case.protocol = Protocol::Http2;
                case.tls = true;
            }),
        ),
        ("8 connections", with(&|case| case.connections = 8)),
        (
            "8 connections, TLS",
            with(&|case| {
                case.connections = 8;
                case.tls = true;
            }),
        ),
    ]
}

/// How many of [`all`] are enough for a quick look.
pub const QUICK: usize = 3;
