//! From what a user wrote to a [`PodRequest`]: the one parser that webhook and extender share.
//!
//! Written for by the glue in `kube_api::request`, which takes a pod apart; read by whoever needs to know what a pod asks for. A
//! request that can never run is denied with all reasons at once; what is understood but not fully honoured becomes a warning.
//! The webhook's own output parses to the very request that it was made from.

mod container;
mod findings;
mod given;
pub mod hami;
mod resources;
mod rules;
pub(super) mod visible;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use findings::Denial;
pub(super) use findings::Findings;
pub(crate) use findings::{cut, shown};
pub(crate) use resources::is_mig_profile;
pub use rules::{CountAlone, CountAloneError, Field, Rules};

use super::constraint;
use super::request::{Phase, PodRequest};

/// Where a container's `NVIDIA_VISIBLE_DEVICES` comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VisibleDevices<'a> {
    /// The container does not set it.
    Absent,
    /// A literal value.
    Value(&'a str),
    /// Our own fieldRef to this container's `devices.packhorse.dev/` annotation.
    Ours,
    /// A `ConfigMap`, a Secret or a foreign field: unreadable at admission.
    Indirect,
}

/// One container as the user wrote it (not ephemeral ones, which cannot have resources).
#[derive(Debug, Clone)]
pub struct RawContainer<'a> {
    /// Its name.
    pub name: &'a str,
    /// When it runs.
    pub phase: Phase,
    /// `resources.limits`, name and quantity as written.
    pub limits: Vec<(&'a str, &'a str)>,
    /// `resources.requests`.
    pub requests: Vec<(&'a str, &'a str)>,
    /// Its `NVIDIA_VISIBLE_DEVICES`.
    pub visible_devices: VisibleDevices<'a>,
    /// The rest of its environment, name and value; a value that comes from elsewhere is empty.
    pub env: Vec<(&'a str, &'a str)>,
}

/// One pod as the user wrote it.
#[derive(Debug, Clone, Default)]
pub struct RawPod<'a> {
    /// In the order of the pod: init containers (sidecars among them), then app containers.
    pub containers: Vec<RawContainer<'a>>,
    /// All annotations.
    pub annotations: Vec<(&'a str, &'a str)>,
    /// All labels.
    pub labels: Vec<(&'a str, &'a str)>,
}

/// One entry of the annotation `packhorse.dev/request`, as decoded, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GivenRequest {
    /// Number of devices.
    pub count: Option<i64>,
    /// MiB per GPU.
    pub memory: Option<i64>,
    /// Percent per GPU.
    pub memory_percent: Option<i64>,
    /// Percent per GPU.
    pub cores: Option<i64>,
    /// Whole cards.
    pub exclusive: Option<bool>,
    /// MIG profile.
    pub mig: Option<String>,
    /// Device indices.
    pub index: Vec<u32>,
    /// Device UUIDs.
    pub uuid: Vec<String>,
}

/// The annotation `packhorse.dev/request`, as decoded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Given {
    /// By container name.
    pub containers: BTreeMap<String, GivenRequest>,
    /// Fields that this version does not know, with their path.
    pub unknown: Vec<String>,
}

/// What the parser found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parsed {
    /// The request; empty for a pod that asks for no GPU.
    pub request: PodRequest,
    /// What was understood but cannot be honoured fully; shown to the user as admission warnings.
    pub warnings: Vec<String>,
    /// Containers that ask for no GPU but set `NVIDIA_VISIBLE_DEVICES=all`. Whether that is denied is a matter of configuration,
    /// not of this parser.
    pub visible_all: Vec<Arc<str>>,
    /// Containers that ask for no GPU but take `NVIDIA_VISIBLE_DEVICES` from somewhere unreadable at admission.
    pub visible_indirect: Vec<Arc<str>>,
}

/// Reads what the containers of one pod ask for. `given` is the decoded annotation `packhorse.dev/request`, empty where absent.
///
/// # Errors
/// All denials found, at least one.
pub fn parse(rules: &Rules, pod: &RawPod<'_>, given: &Given) -> Result<Parsed, Vec<Denial>> {
    let mut found = Findings::default();
    let mut parsed = Parsed::default();
    // A set, because neither list has a bound that could be relied on.
    let names: BTreeSet<&str> = match given.containers.len() {
        0 => BTreeSet::new(),
        _ => pod.containers.iter().map(|container| container.name).collect(),
    };
    for name in given.containers.keys().filter(|name| !names.contains(name.as_str())) {
        found.deny(Denial::new(
            None,
            given::FIELD,
            name,
            "the pod has no container of that name",
            "name one of the pod's init or app containers, or remove the entry",
        ));
    }
    for field in &given.unknown {
        found.warn(None, format_args!("{}: unknown field {} has no effect", given::FIELD, shown(field)));
    }
    for raw in &pod.containers {
        let entry = given.containers.get(raw.name);
        if let Some(request) = container::read(rules, raw, entry, &mut parsed, &mut found) {
            parsed.request.containers.push(request);
        }
    }
    let constraints = constraint::read(pod, &parsed.request.containers, &mut found);
    if !parsed.request.is_empty() || found.denied() > 0 {
        parsed.request.constraints = constraints;
        for (key, value) in &pod.labels {
            if let Some(row) = hami::find(hami::Place::Label, key) {
                if key != &"hami.io/webhook" || value == &"ignore" {
                    found.answer(None, row, key, value);
                }
            } else if key.starts_with("hami.io/") {
                found.warn(None, format_args!("label {} is HAMi's and has no meaning here", shown(key)));
            }
        }
    }
    if found.denied() > 0 {
        return Err(found.into_denials());
    }
    parsed.warnings = found.into_warnings();
    Ok(parsed)
}
