//! From what a user wrote to a [`PodRequest`]: the one parser that webhook and extender share.
//!
//! Written for by the glue in `kube_api::request`, which takes a pod apart; read by whoever needs to know what a pod asks for. A
//! request that can never run is denied with all reasons at once; what is understood but not fully honoured becomes a warning.
//! The webhook's own output parses to the very request that it was made from.

mod container;
mod given;
pub mod hami;
mod resources;
pub(super) mod visible;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::constraint;
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

/// A text that is neither `exclusive` nor `share-1` to `share-100`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected exclusive, or share-<percent> with a percent of 1 to 100")]
pub struct CountAloneError;

impl std::str::FromStr for CountAlone {
    type Err = CountAloneError;

    /// `exclusive` or `share-<percent>`, as the namespace label and the configuration have it.
    fn from_str(text: &str) -> Result<Self, CountAloneError> {
        if text == "exclusive" {
            return Ok(Self::Exclusive);
        }
        let percent = text.strip_prefix("share-").filter(|p| p.bytes().all(|b| b.is_ascii_digit()));
        match percent.and_then(|p| p.parse().ok()) {
            Some(percent @ 1..=100) => Ok(Self::Share(percent)),
            _ => Err(CountAloneError),
        }
    }
}

impl fmt::Display for CountAlone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exclusive => f.write_str("exclusive"),
            Self::Share(percent) => write!(f, "share-{percent}"),
        }
    }
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

/// What a resource under the prefix stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    /// `gpu`: how many.
    Count,
    /// `gpumem`: memory per GPU.
    Memory,
    /// `gpumem-percentage`: the same as a share of the card.
    MemoryPercent,
    /// `gpucores`: compute per GPU.
    Cores,
    /// `priority`: HAMi's, not supported.
    Priority,
    /// `mig-<profile>`: how many instances of that profile.
    Mig(&'a str),
    /// Begins like a name of ours but is none.
    Unknown(&'a str),
}

impl Rules {
    /// What the resource `name` stands for, `None` where it is not ours to read.
    pub fn field<'a>(&self, name: &'a str) -> Option<Field<'a>> {
        let name = name.strip_prefix(self.prefix.as_str())?.strip_prefix('/')?;
        Some(match name {
            "gpu" => Field::Count,
            "gpumem" => Field::Memory,
            "gpumem-percentage" => Field::MemoryPercent,
            "gpucores" => Field::Cores,
            "priority" => Field::Priority,
            _ => match name.strip_prefix("mig-") {
                Some(profile) => Field::Mig(profile),
                None if name.starts_with("gpu") => Field::Unknown(name),
                None => return None,
            },
        })
    }

    /// Whether no node advertises the resource `name`, so that the webhook removes it from a GPU container once it is written
    /// into the request annotation.
    pub fn is_removed(&self, name: &str) -> bool {
        matches!(self.field(name), Some(Field::Memory | Field::MemoryPercent | Field::Cores | Field::Priority))
    }

    /// The resource that counts GPUs.
    pub fn count_name(&self) -> String {
        format!("{}/gpu", self.prefix)
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

/// A request that can never run, in words a user can act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The container, where one is to blame.
    pub container: Option<String>,
    /// The field: a resource name, an annotation key, a variable.
    pub field: String,
    /// Its value as written, cut where it is very long.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

impl Denial {
    /// A denial. What a user wrote is cut to what fits a message; `problem` quotes it by [`shown`] alone.
    pub fn new(
        container: Option<&str>,
        field: impl Into<String>,
        value: impl AsRef<str>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            container: container.map(shown),
            field: shown(&field.into()),
            value: shown(value.as_ref()),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
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
    /// Containers that ask for no GPU but set `NVIDIA_VISIBLE_DEVICES=all`. Whether that is denied is a matter of configuration,
    /// not of this parser.
    pub visible_all: Vec<Arc<str>>,
    /// Containers that ask for no GPU but take `NVIDIA_VISIBLE_DEVICES` from somewhere unreadable at admission.
    pub visible_indirect: Vec<Arc<str>>,
}

/// What was found wrong or noteworthy so far. Of each kind the first [`Findings::MOST`] are told: an answer to an admission
/// request must stay small whatever the pod.
#[derive(Debug, Default)]
pub(super) struct Findings {
    denials: Vec<Denial>,
    denied: usize,
    warnings: Vec<String>,
    warned: usize,
}

impl Findings {
    const MOST: usize = 50;

    pub(super) fn deny(&mut self, denial: Denial) {
        self.denied += 1;
        if self.denied <= Self::MOST {
            self.denials.push(denial);
        }
    }

    /// How many denials so far, told or not.
    pub(super) fn denied(&self) -> usize {
        self.denied
    }

    pub(super) fn warn(&mut self, container: Option<&str>, text: impl fmt::Display) {
        self.warned += 1;
        if self.warned <= Self::MOST {
            self.warnings.push(match container {
                Some(container) => format!("container {:?}: {text}", shown(container)),
                None => text.to_string(),
            });
        }
    }

    fn into_warnings(mut self) -> Vec<String> {
        if self.warned > self.warnings.len() {
            self.warnings.push(format!("{} more warnings are left out", self.warned - self.warnings.len()));
        }
        self.warnings
    }

    /// Answers a name of HAMi's that nothing else reads.
    pub(super) fn answer(&mut self, container: Option<&str>, row: &hami::Row, name: &str, value: &str) {
        match row.answer {
            hami::Answer::Honoured => {}
            hami::Answer::Warned => self.warn(container, format_args!("{}: {}", shown(name), row.note)),
            hami::Answer::Refused => {
                self.deny(Denial::new(container, name, value, "not accepted on a pod that asks for GPUs", row.note));
            }
        }
    }
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
        return Err(found.denials);
    }
    parsed.warnings = found.into_warnings();
    Ok(parsed)
}

/// What a user wrote, as a message shows it.
pub(crate) fn shown(value: &str) -> String {
    cut(value, 120)
}

/// The first `longest` bytes or a little less, between characters.
pub(crate) fn cut(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let mut end = longest;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_alone_reads_what_it_writes() {
        for text in ["exclusive", "share-1", "share-50", "share-100"] {
            assert_eq!(text.parse::<CountAlone>().map(|c| c.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "share", "share-", "share-0", "share-101", "share-+5", "share-5%", "Exclusive"] {
            assert_eq!(text.parse::<CountAlone>(), Err(CountAloneError), "{text}");
        }
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        assert_eq!(shown("short"), "short");
        let long = "ä".repeat(1_000);
        assert!(shown(&long).len() < 130, "{}", shown(&long));
    }
}
