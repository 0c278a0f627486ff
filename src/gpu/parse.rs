//! From what a user wrote to a [`PodRequest`]: the one parser that webhook and extender share.

use std::collections::BTreeMap;
use std::fmt;

use super::request::{Phase, PodRequest};

/// What a count alone means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CountAlone {
    /// Whole cards.
    #[default]
    Exclusive,
    /// A share of this many percent of memory, what time-slicing users have.
    Share(u8),
}

/// How requests are read in this cluster, or this namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The resource prefix, `nvidia.com` unless configured.
    pub prefix: String,
    /// What a count alone means.
    pub count_alone: CountAlone,
}

impl Default for Rules {
    fn default() -> Self {
        Self { prefix: "nvidia.com".to_owned(), count_alone: CountAlone::Exclusive }
    }
}

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

/// A request that can never run, in words a user can act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The container, where one is to blame.
    pub container: Option<String>,
    /// The field: a resource name, an annotation key, a variable.
    pub field: String,
    /// Its value as written.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(container) = &self.container {
            write!(f, "container {container:?}: ")?;
        }
        write!(f, "{}: {:?}: {}; {}", self.field, self.value, self.problem, self.remedy)
    }
}

/// What the parser found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parsed {
    /// The request; empty for a pod that asks for no GPU.
    pub request: PodRequest,
    /// What was understood but cannot be honoured fully; shown to the user as admission warnings.
    pub warnings: Vec<String>,
}

/// Reads what the containers of one pod ask for. `given` is the decoded annotation `packhorse.dev/request`, empty where absent;
/// `annotation` looks up any other pod annotation.
///
/// # Errors
/// All denials found, at least one.
pub fn parse(
    rules: &Rules,
    containers: &[RawContainer<'_>],
    given: &BTreeMap<String, GivenRequest>,
    annotation: &dyn Fn(&str) -> Option<String>,
) -> Result<Parsed, Vec<Denial>> {
    let _ = (rules, containers, given, annotation);
    unimplemented!("skeleton")
}
