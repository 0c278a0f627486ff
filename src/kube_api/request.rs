//! From a pod to its request, and the codec of the annotation `packhorse.dev/request`.
//!
//! The webhook writes the annotation at admission; webhook, extender and ledger read pods by [`read_pod`] alone, so that all of
//! them see one request, before mutation and after it. A damaged annotation is a [`Denial`], never a guess.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::names;
use super::pod::{ContainerView, PodView, RawQuantity, ResourcesView, Text};
use crate::gpu::parse::{self, Denial, Given, GivenRequest, Parsed, RawContainer, RawPod, Rules, VisibleDevices};
use crate::gpu::quantity;
use crate::gpu::request::{Ask, ContainerRequest, Memory, Phase, PodRequest};

const VERSION: u64 = 1;

/// Why the annotation cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by another version of Packhorse, or by hand without one.
    #[error("version {0} is not known")]
    Version(String),
    /// Damaged.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// Reads what a pod asks for, by the rules that hold where it lives.
///
/// # Errors
/// All denials found, at least one.
pub fn read_pod(rules: &Rules, pod: &PodView<'_>) -> Result<Parsed, Vec<Denial>> {
    let given = match pod.metadata.annotations.get(names::REQUEST) {
        None => Given::default(),
        Some(text) => decode(text).map_err(|error| {
            let remedy =
                r#"write {"v":1,"containers":{"<container>":{"count":1,"memory":4096}}}, or remove the annotation"#;
            vec![Denial::new(None, names::REQUEST, text.as_ref(), parse::cut(&error.to_string(), 300), remedy)]
        })?,
    };
    parse::parse(rules, &raw_pod(pod, &rules.prefix), &given)
}

/// A pod as the parser reads it. Of resources only those under `prefix` and our own.
pub fn raw_pod<'a>(pod: &'a PodView<'_>, prefix: &str) -> RawPod<'a> {
    let pairs = |map: &'a BTreeMap<Text<'_>, Text<'_>>| map.iter().map(|(k, v)| (k.as_ref(), v.as_ref())).collect();
    RawPod {
        containers: raw_containers(pod, prefix),
        annotations: pairs(&pod.metadata.annotations),
        labels: pairs(&pod.metadata.labels),
    }
}

/// The containers of a pod as the parser reads them, init containers first; ephemeral ones, which cannot have resources, left out.
pub fn raw_containers<'a>(pod: &'a PodView<'_>, prefix: &str) -> Vec<RawContainer<'a>> {
    containers(pod)
        .map(|(container, phase)| {
            let mut visible_devices = VisibleDevices::Absent;
            let mut env = Vec::new();
            for variable in container.env.iter().flatten() {
                let name = variable.name.as_ref();
                if name != names::VISIBLE_DEVICES {
                    env.push((name, variable.value.as_deref().unwrap_or_default()));
                    continue;
                }
                // The last one wins, as the kubelet has it.
                visible_devices = match (&variable.value_from, &variable.value) {
                    (Some(source), _) => match &source.field_ref {
                        Some(field) if is_own_devices(&field.field_path, &container.name) => VisibleDevices::Ours,
                        _ => VisibleDevices::Indirect,
                    },
                    (None, value) => VisibleDevices::Value(value.as_deref().unwrap_or_default()),
                };
            }
            RawContainer {
                name: &container.name,
                phase,
                limits: raw_resources(container.resources.limits.as_ref(), prefix),
                requests: raw_resources(container.resources.requests.as_ref(), prefix),
                visible_devices,
                env,
            }
        })
        .collect()
}

/// The field path by which a container learns its own devices from the pod's annotations.
pub fn devices_field_path(container: &str) -> String {
    format!("metadata.annotations['{}{container}']", names::DEVICES_PREFIX)
}

fn is_own_devices(path: &str, container: &str) -> bool {
    path.strip_prefix("metadata.annotations['")
        .and_then(|path| path.strip_prefix(names::DEVICES_PREFIX))
        .and_then(|path| path.strip_suffix("']"))
        == Some(container)
}

fn raw_resources<'a>(list: Option<&'a BTreeMap<Text<'_>, RawQuantity<'_>>>, prefix: &str) -> Vec<(&'a str, &'a str)> {
    let ours = |name: &str| {
        name.starts_with(names::PREFIX) || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
    };
    list.into_iter().flatten().map(|(k, v)| (k.as_ref(), v.as_ref())).filter(|(name, _)| ours(name)).collect()
}

fn phase(container: &ContainerView<'_>) -> Phase {
    if container.restart_policy.as_deref() == Some("Always") { Phase::Sidecar } else { Phase::Init }
}

/// Init containers with their phases, then app containers.
fn containers<'a, 'p>(pod: &'a PodView<'p>) -> impl Iterator<Item = (&'a ContainerView<'p>, Phase)> {
    let init = pod.spec.init_containers.iter().map(|container| (container, phase(container)));
    init.chain(pod.spec.containers.iter().map(|container| (container, Phase::App)))
}

/// Every container of a pod with its phase, in the order of the pod: init containers first.
pub fn phases(pod: &PodView<'_>) -> Vec<(Arc<str>, Phase)> {
    containers(pod).map(|(container, phase)| (container.name.as_ref().into(), phase)).collect()
}

/// What a pod requests of its host, in millicores and bytes, as Kubernetes computes it: the larger of the running phase (app
/// containers and sidecars) and of each init container beside the sidecars before it; what the pod as a whole requests instead,
/// where it does; plus its overhead. A limit without a request counts as the request.
///
/// An API server accepts no unreadable quantity; should one come nevertheless, it counts as nothing.
pub fn host_requests(pod: &PodView<'_>) -> (i64, i64) {
    (host_request(pod, "cpu", quantity::millicores), host_request(pod, "memory", quantity::bytes))
}

fn host_request(pod: &PodView<'_>, name: &str, read: fn(&str) -> Result<u64, quantity::QuantityError>) -> i64 {
    let value = |list: Option<&BTreeMap<Text<'_>, RawQuantity<'_>>>| -> Option<i64> {
        let quantity = read(list?.get(name)?.as_ref()).unwrap_or(0);
        Some(i64::try_from(quantity).unwrap_or(i64::MAX))
    };
    let of =
        |resources: &ResourcesView<'_>| value(resources.requests.as_ref()).or_else(|| value(resources.limits.as_ref()));
    let (mut running, mut peak, mut any) = (0_i64, 0_i64, false);
    for (container, phase) in containers(pod) {
        let Some(amount) = of(&container.resources) else { continue };
        any = true;
        if phase == Phase::Init {
            peak = peak.max(running.saturating_add(amount));
        } else {
            running = running.saturating_add(amount);
        }
    }
    let mut total = running.max(peak);
    if let Some(resources) = &pod.spec.resources {
        // A pod-level limit is the request only where no container requests anything of it.
        let limit = || value(resources.limits.as_ref()).filter(|_| !any);
        total = value(resources.requests.as_ref()).or_else(limit).unwrap_or(total);
    }
    total.saturating_add(value(Some(&pod.spec.overhead)).unwrap_or(0))
}

#[derive(Serialize)]
struct Wire<'a> {
    v: u64,
    containers: BTreeMap<&'a str, WireRequest<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireRequest<'a> {
    count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_percent: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cores: Option<u8>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    exclusive: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    mig: Option<&'a str>,
    #[serde(skip_serializing_if = "<[u32]>::is_empty")]
    index: &'a [u32],
    #[serde(skip_serializing_if = "<[Arc<str>]>::is_empty")]
    uuid: &'a [Arc<str>],
}

/// The annotation's value for a request: one line of JSON, containers by name. [`read_pod`] of a pod that carries it gives the
/// same containers again, whatever the rules say then.
pub fn encode(request: &PodRequest) -> String {
    let containers = request.containers.iter().map(|container| (container.name.as_ref(), wire(container))).collect();
    // Strings, integers and string keys: nothing in it can fail to serialise.
    serde_json::to_string(&Wire { v: VERSION, containers }).unwrap_or_default()
}

fn wire(request: &ContainerRequest) -> WireRequest<'_> {
    let mut wire = WireRequest {
        count: request.count,
        memory: None,
        memory_percent: None,
        cores: None,
        exclusive: false,
        mig: None,
        index: &request.index,
        uuid: &request.uuid,
    };
    match &request.ask {
        Ask::Exclusive => wire.exclusive = true,
        Ask::Mig(profile) => wire.mig = Some(&profile.0),
        Ask::Share { memory, cores } => {
            wire.cores = Some(*cores).filter(|cores| *cores > 0);
            match memory {
                Memory::Mib(mib) => wire.memory = Some(*mib),
                Memory::Percent(percent) => wire.memory_percent = Some(*percent),
                // The parser makes no share of all memory without cores. Written as a count alone it would read as whole GPUs.
                Memory::All if *cores == 0 => wire.memory_percent = Some(100),
                Memory::All => {}
            }
        }
    }
    wire
}

/// Reads the annotation's value. Ranges and agreement with the pod are the parser's to check.
///
/// # Errors
/// Where the version is unknown or the JSON damaged.
pub fn decode(text: &str) -> Result<Given, DecodeError> {
    match serde_json::from_str::<Document>(text) {
        Ok(Document { version: Some(VERSION), given }) => Ok(given),
        Ok(Document { version, .. }) => {
            Err(DecodeError::Version(version.map_or_else(|| "(none)".to_owned(), |v| v.to_string())))
        }
        Err(error) => {
            // Another version may have another form: say that, not where the form differs.
            #[derive(serde::Deserialize)]
            struct Version {
                v: serde_json::Value,
            }
            match serde_json::from_str::<Version>(text) {
                Ok(Version { v }) if v != VERSION => Err(DecodeError::Version(v.to_string())),
                _ => Err(error.into()),
            }
        }
    }
}

#[derive(Default)]
struct Document {
    version: Option<u64>,
    given: Given,
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DocumentVisitor;
        impl<'de> Visitor<'de> for DocumentVisitor {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with v and containers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut document = Document::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "v" => document.version = Some(map.next_value()?),
                        "containers" => {
                            let Containers(containers, unknown) = map.next_value()?;
                            document.given.containers = containers;
                            document.given.unknown.extend(unknown);
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            document.given.unknown.push(parse::shown(&key));
                        }
                    }
                }
                Ok(document)
            }
        }
        deserializer.deserialize_map(DocumentVisitor)
    }
}

#[derive(Default)]
struct Containers(BTreeMap<String, GivenRequest>, Vec<String>);

impl<'de> Deserialize<'de> for Containers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContainersVisitor;
        impl<'de> Visitor<'de> for ContainersVisitor {
            type Value = Containers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of containers by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Containers, A::Error> {
                let mut containers = Containers::default();
                while let Some(name) = map.next_key::<String>()? {
                    let Entry(request, unknown) = map.next_value()?;
                    containers.1.extend(unknown.iter().map(|field| parse::shown(&format!("{name}.{field}"))));
                    if containers.0.insert(name.clone(), request).is_some() {
                        let message = format_args!("container {:?} is named twice", parse::shown(&name)).to_string();
                        return Err(serde::de::Error::custom(message));
                    }
                }
                Ok(containers)
            }
        }
        deserializer.deserialize_map(ContainersVisitor)
    }
}

struct Entry(GivenRequest, Vec<String>);

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntryVisitor;
        impl<'de> Visitor<'de> for EntryVisitor {
            type Value = Entry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a container's request")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
                let mut request = GivenRequest::default();
                let mut unknown = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "count" => request.count = map.next_value()?,
                        "memory" => request.memory = map.next_value()?,
                        "memoryPercent" => request.memory_percent = map.next_value()?,
                        "cores" => request.cores = map.next_value()?,
                        "exclusive" => request.exclusive = map.next_value()?,
                        "mig" => request.mig = map.next_value()?,
                        "index" => request.index = map.next_value()?,
                        "uuid" => request.uuid = map.next_value()?,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            unknown.push(key);
                        }
                    }
                }
                Ok(Entry(request, unknown))
            }
        }
        deserializer.deserialize_map(EntryVisitor)
    }
}
