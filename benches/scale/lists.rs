//! Pages of lists and lines of watches, as kube-apiserver writes them for a client that wants JSON.

#![allow(missing_docs, dead_code, unreachable_pub, clippy::expect_used, reason = "a measurement ends where it fails")]

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::objects::{Hold, Stamp, Templates, World, node_name, pod_name};

/// The version of everything that is listed. Event `n`, counted from 1, has this and `n`.
pub const LISTED: usize = 5_000_000;
/// Of the pods that come while events flow, so many are there at a time.
const PRESENT: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Node,
    Pod,
}

/// The cluster as text.
#[derive(Debug)]
pub struct Source {
    pub world: World,
    pub templates: Templates,
    /// In place of what is made up.
    pub stamps: Option<Stamps>,
}

/// What a real API server chose.
#[derive(Debug)]
pub struct Stamps {
    /// Of the lists.
    pub version: String,
    pub nodes: Vec<Stamp>,
    pub pods: Vec<Stamp>,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Pod => "Pod",
        }
    }
}

impl Source {
    pub fn new(world: World) -> Self {
        Self { world, templates: Templates::default(), stamps: None }
    }

    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Node => self.world.nodes,
            Kind::Pod => self.world.pods,
        }
    }

    fn version(&self) -> String {
        self.stamps.as_ref().map_or_else(|| LISTED.to_string(), |stamps| stamps.version.clone())
    }

    /// An object as it stands in a list.
    pub fn object(&self, out: &mut String, kind: Kind, serial: usize) {
        let given = self.stamps.as_ref().map(|stamps| match kind {
            Kind::Node => &stamps.nodes[serial],
            Kind::Pod => &stamps.pods[serial],
        });
        match kind {
            Kind::Node => {
                let stamp = given.cloned().unwrap_or_else(|| Stamp::node(serial));
                self.templates.node(out, serial, &stamp);
            }
            Kind::Pod => {
                let stamp = given.cloned().unwrap_or_else(|| Stamp::pod(serial));
                self.templates.pod(out, self.world, serial, Hold::Share, &stamp);
            }
        }
    }

    /// One page; `limit` 0 means all.
    pub fn page(&self, kind: Kind, limit: usize, next: Option<&str>) -> String {
        let total = self.count(kind);
        let first = next.map_or(0, |next| position(kind, next));
        let end = if limit == 0 { total } else { total.min(first + limit) };
        let following = (end < total).then(|| (self.continuing(kind, end - 1), total - end));
        let mut out = String::with_capacity(24_000 * (end - first) / if kind == Kind::Pod { 3 } else { 1 } + 500);
        head(&mut out, kind, &self.version(), following.as_ref().map(|(next, left)| (next.as_str(), *left)));
        for serial in first..end {
            if serial > first {
                out.push(',');
            }
            self.object(&mut out, kind, serial);
        }
        out.push_str("]}\n");
        out
    }

    /// Where a list goes on after the object at `last`.
    fn continuing(&self, kind: Kind, last: usize) -> String {
        let start = match kind {
            Kind::Node => format!("/{}", node_name(last)),
            Kind::Pod => format!("/{}/{}", self.world.namespace(last), pod_name(last)),
        };
        token(&self.version(), &start)
    }

    /// Event `number` (from 1) of `events`: pods come, and those that came a while before go. The last takes all of the spare node.
    pub fn event(&self, out: &mut String, number: usize, events: usize) {
        let pair = (number - 1) / 2;
        let (kind, pod, hold) = if number == events {
            ("ADDED", self.world.pods + events, Hold::Node(self.world.spare()))
        } else if number % 2 == 1 {
            ("ADDED", self.world.pods + pair, Hold::Share)
        } else if pair >= PRESENT {
            ("DELETED", self.world.pods + pair - PRESENT, Hold::Share)
        } else {
            ("MODIFIED", self.world.pods + pair, Hold::Share)
        };
        let mut stamp = Stamp::pod(pod);
        stamp.version = (LISTED + number).to_string();
        stamp.deleted = (kind == "DELETED").then(|| stamp.created.clone());
        let mut object = String::with_capacity(8_192);
        self.templates.pod(&mut object, self.world, pod, hold, &stamp);
        line(out, kind, Kind::Pod, &object);
    }
}

/// The first object of a page.
fn position(kind: Kind, next: &str) -> usize {
    let text = URL_SAFE_NO_PAD.decode(next).expect("our own token");
    let text = String::from_utf8(text).expect("our own token");
    let serial = text.split("\\u0000").next().expect("a name");
    let name = serial.rsplit('/').next().expect("a name");
    let digits = match kind {
        Kind::Node => name.split(['-', '.']).nth(2),
        Kind::Pod => name.rsplit('-').next(),
    };
    digits.and_then(|digits| digits.parse::<usize>().ok()).expect("our own name") + 1
}

/// The beginning of a list, up to the bracket before the first object.
pub fn head(out: &mut String, kind: Kind, version: &str, following: Option<(&str, usize)>) {
    let name = kind.name();
    write!(out, r#"{{"kind":"{name}List","apiVersion":"v1","metadata":{{"resourceVersion":"{version}""#)
        .expect("a String");
    if let Some((next, left)) = following {
        write!(out, r#","continue":"{next}","remainingItemCount":{left}"#).expect("a String");
    }
    out.push_str(r#"},"items":["#);
}

/// The token of a list that goes on after `start`.
pub fn token(version: &str, start: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!(r#"{{"v":"meta.k8s.io/v1","rv":{version},"start":"{start}\u0000"}}"#))
}

/// An event about an object as it stands in a list.
pub fn line(out: &mut String, event: &str, kind: Kind, object: &str) {
    let name = kind.name();
    let rest = object.strip_prefix('{').expect("an object");
    writeln!(out, r#"{{"type":"{event}","object":{{"kind":"{name}","apiVersion":"v1",{rest}}}"#).expect("a String");
}

/// An event that only tells how far the watch is.
pub fn bookmark(kind: Kind, version: &str) -> String {
    let rest = match kind {
        Kind::Node => {
            r#""spec":{},"status":{"daemonEndpoints":{"kubeletEndpoint":{"Port":0}},"nodeInfo":{"machineID":"","systemUUID":"","bootID":"","kernelVersion":"","osImage":"","containerRuntimeVersion":"","kubeletVersion":"","kubeProxyVersion":"","operatingSystem":"","architecture":""}}"#
        }
        Kind::Pod => r#""spec":{"containers":null},"status":{}"#,
    };
    let mut out = String::new();
    line(&mut out, "BOOKMARK", kind, &format!(r#"{{"metadata":{{"resourceVersion":"{version}"}},{rest}}}"#));
    out
}
