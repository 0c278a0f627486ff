//! Made-up nodes and pods as kube-apiserver 1.36 sends them: the JSON of a node with eight GPUs after kubelet and agent have
//! written it, and of a GPU pod after admission, its Binding and the kubelet's status; the same bytes, with all `managedFields`.
//! `tests/cluster/generated.rs` creates the same objects on the real one and compares.
//!
//! The text of each kind stands in a file beside this one, with `@field@` where objects differ.

#![allow(missing_docs, dead_code, unreachable_pub, clippy::expect_used, reason = "a measurement ends where it fails")]

use std::fmt::Write as _;

/// GPUs of a node.
pub const CARDS: usize = 8;
/// Namespaces that the pods are spread over.
const TEAMS: usize = 20;
/// Replica sets in a namespace.
const SETS: usize = 10;

/// What the server sets by itself: fed in where the real one has chosen.
#[derive(Debug, Clone)]
pub struct Stamp {
    pub uid: String,
    pub version: String,
    pub created: String,
    /// Of each entry of `managedFields`, in their order.
    pub written: Vec<String>,
    /// When the pod was bound.
    pub scheduled: String,
    /// When it was deleted.
    pub deleted: Option<String>,
}

/// A cluster of which every object is made when it is asked for. The last node is empty.
#[derive(Debug, Clone, Copy)]
pub struct World {
    pub nodes: usize,
    pub pods: usize,
}

/// Text with gaps.
#[derive(Debug)]
pub struct Template(Vec<(&'static str, &'static str)>);

impl Template {
    fn new(text: &'static str) -> Self {
        let mut parts = text.trim_end().split('@');
        let mut gaps = Vec::new();
        // Fixed text and names of fields take turns; `@at@` is the sign itself.
        let mut fixed = parts.next().unwrap_or_default();
        while let Some(field) = parts.next() {
            gaps.push((fixed, field));
            fixed = parts.next().expect("each field ends");
        }
        gaps.push((fixed, ""));
        Self(gaps)
    }

    fn fill(&self, out: &mut String, mut value: impl FnMut(&str, &mut String)) {
        for (fixed, field) in &self.0 {
            out.push_str(fixed);
            if !field.is_empty() {
                if *field == "at" {
                    out.push('@');
                } else {
                    value(field, out);
                }
            }
        }
    }
}

/// Both kinds of objects.
#[derive(Debug)]
pub struct Templates {
    node: Template,
    pod: Template,
}

impl Default for Templates {
    fn default() -> Self {
        Self { node: Template::new(include_str!("node.json")), pod: Template::new(include_str!("pod.json")) }
    }
}

impl World {
    /// The node that no pod of the list is on.
    pub fn spare(self) -> usize {
        self.nodes - 1
    }

    /// Where a pod is. Pods beyond the list come and go.
    pub fn node_of(self, pod: usize) -> usize {
        pod % self.spare().max(1)
    }

    fn card_of(self, pod: usize) -> usize {
        pod / self.spare().max(1) % CARDS
    }

    pub fn namespace(self, pod: usize) -> String {
        let team = if pod < self.pods { pod * TEAMS / self.pods } else { TEAMS };
        format!("team-{team:02}")
    }

    fn set(self, pod: usize) -> usize {
        let first = self.pods.div_ceil(TEAMS).max(1);
        pod % first * SETS / first
    }
}

pub fn node_name(node: usize) -> String {
    format!("gpu-worker-{node:05}.pool-a.cluster.internal")
}

pub fn pod_name(pod: usize) -> String {
    // As the API server lists them: sorted by namespace and name.
    format!("worker-5d9f7b8c4-{pod:06}")
}

/// MiB and percent that a pod asks for; four of the largest share a card.
pub fn amounts(pod: usize) -> (usize, usize) {
    (1024 * (1 + pod * 7 % 20), 5 * (1 + pod % 4))
}

impl Stamp {
    pub fn node(node: usize) -> Self {
        Self::new("6e6f6465", node, 1_000 + node)
    }

    pub fn pod(pod: usize) -> Self {
        Self::new("706f6473", pod, 1_000_000 + pod)
    }

    fn new(kind: &str, serial: usize, version: usize) -> Self {
        // Spread as random ones are: the order of objects must not show in them.
        let mixed = (serial as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let time = "2026-01-01T00:00:00Z".to_owned();
        Self {
            uid: format!(
                "{:08x}-{:04x}-4{:03x}-8{:03x}-{kind}{:04x}",
                mixed >> 32,
                mixed >> 16 & 0xffff,
                mixed >> 4 & 0xfff,
                serial >> 16 & 0xfff,
                serial & 0xffff
            ),
            version: version.to_string(),
            created: time.clone(),
            written: vec![time.clone(); 5],
            scheduled: time,
            deleted: None,
        }
    }
}

/// A device's UUID.
pub fn uuid(node: usize, card: usize) -> String {
    format!("GPU-{node:08x}-5a3c-4d1e-9f20-{card:012x}")
}

/// What a pod holds: `None` is what [`amounts`] says, on one card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    Share,
    /// All cards of a node, each as a whole.
    Node(usize),
}

impl Templates {
    /// Appends a node.
    pub fn node(&self, out: &mut String, node: usize, stamp: &Stamp) {
        let mut written = stamp.written.iter();
        self.node.fill(out, |field, out| match field {
            "name" => out.push_str(&node_name(node)),
            "uid" => out.push_str(&stamp.uid),
            "version" => out.push_str(&stamp.version),
            "created" => out.push_str(&stamp.created),
            "written" => out.push_str(written.next().expect("a time")),
            "inventory" => escaped(out, &inventory(node)),
            "ip" => address(out, "10.128", node),
            "serial" => write!(out, "{node:016x}").expect("a String"),
            other => panic!("node.json: @{other}@"),
        });
    }

    /// Appends a pod.
    pub fn pod(&self, out: &mut String, world: World, pod: usize, hold: Hold, stamp: &Stamp) {
        let (memory, cores) = amounts(pod);
        let node = match hold {
            Hold::Share => world.node_of(pod),
            Hold::Node(node) => node,
        };
        let mut written = stamp.written.iter();
        self.pod.fill(out, |field, out| match field {
            "name" => out.push_str(&pod_name(pod)),
            "namespace" => out.push_str(&world.namespace(pod)),
            "set" => out.push_str("worker-5d9f7b8c4"),
            "owner" => write!(out, "6c7b4a1e-0d3c-4a57-9f3d-{:012x}", world.set(pod)).expect("a String"),
            "uid" => out.push_str(&stamp.uid),
            "version" => out.push_str(&stamp.version),
            "generation" => out.push_str(if stamp.deleted.is_some() { "2" } else { "1" }),
            "created" => out.push_str(&stamp.created),
            "deletion" => {
                if let Some(time) = &stamp.deleted {
                    write!(out, r#","deletionTimestamp":"{time}","deletionGracePeriodSeconds":0"#).expect("a String");
                }
            }
            "written" => out.push_str(written.next().expect("a time")),
            "scheduled" => out.push_str(&stamp.scheduled),
            "node" => out.push_str(&node_name(node)),
            "allocation" => escaped(out, &allocation(world, pod, hold)),
            "devices" => out.push_str(&devices(world, pod, hold)),
            "memory" => write!(out, "{memory}").expect("a String"),
            "cores" => write!(out, "{cores}").expect("a String"),
            "hostIp" => address(out, "10.128", node),
            "podIp" => address(out, "10.64", pod),
            "container" => write!(out, "{:064x}", pod + 1).expect("a String"),
            other => panic!("pod.json: @{other}@"),
        });
    }
}

/// The annotation that the agent writes.
pub fn inventory(node: usize) -> String {
    let mut text = String::from(r#"{"devices":["#);
    for card in 0..CARDS {
        let comma = if card > 0 { "," } else { "" };
        write!(text, r#"{comma}{{"cores":100,"enforcement":"advisory","health":"healthy","index":{card},"links":{{"#)
            .expect("a String");
        for (n, peer) in (0..CARDS).filter(|peer| *peer != card).enumerate() {
            let comma = if n > 0 { "," } else { "" };
            let path = if peer / 4 == card / 4 { "same-cpu" } else { "cross-cpu" };
            write!(text, r#"{comma}"{}":{{"nvlink":12,"pcie":"{path}"}}"#, uuid(node, peer)).expect("a String");
        }
        write!(
            text,
            r#"}},"memory":81920,"model":"NVIDIA A100-SXM4-80GB","numa":{},"pci":"0000:{:02x}:00.0","slots":10,"uuid":"{}"}}"#,
            card / 4,
            7 + 8 * card,
            uuid(node, card),
        )
        .expect("a String");
    }
    text.push_str(r#"],"driver":"580.95.05","ready":true,"v":1}"#);
    text
}

/// The annotation that the Binding brings.
pub fn allocation(world: World, pod: usize, hold: Hold) -> String {
    let shares: Vec<String> = match hold {
        Hold::Share => {
            let (memory, cores) = amounts(pod);
            let device = uuid(world.node_of(pod), world.card_of(pod));
            vec![format!(r#"{{"cores":{cores},"device":"{device}","enforcement":"advisory","memory":{memory}}}"#)]
        }
        Hold::Node(node) => (0..CARDS)
            .map(|card| {
                let device = uuid(node, card);
                format!(
                    r#"{{"cores":100,"device":"{device}","enforcement":"advisory","exclusive":true,"memory":81920}}"#
                )
            })
            .collect(),
    };
    format!(r#"{{"containers":{{"main":[{}]}},"v":1}}"#, shares.join(","))
}

/// The other annotation that the Binding brings.
pub fn devices(world: World, pod: usize, hold: Hold) -> String {
    match hold {
        Hold::Share => uuid(world.node_of(pod), world.card_of(pod)),
        Hold::Node(node) => (0..CARDS).map(|card| uuid(node, card)).collect::<Vec<_>>().join(","),
    }
}

fn address(out: &mut String, network: &str, serial: usize) {
    write!(out, "{network}.{}.{}", serial >> 8 & 0xff, serial & 0xff).expect("a String");
}

/// Inside of a JSON string.
fn escaped(out: &mut String, text: &str) {
    for part in text.split_inclusive('"') {
        match part.strip_suffix('"') {
            Some(before) => {
                out.push_str(before);
                out.push_str("\\\"");
            }
            None => out.push_str(part),
        }
    }
}
