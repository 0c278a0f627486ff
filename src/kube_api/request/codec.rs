//! The annotation `packhorse.dev/request`, both ways. Written by the webhook or by a user; what cannot be read is an error, what is
//! not known inside a known version is told and left out.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::gpu::parse::{self, Given, GivenRequest};
use crate::gpu::request::{Ask, ContainerRequest, Memory, PodRequest};

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

/// The annotation's value for a request: one line of JSON, containers by name. [`read_pod`](super::read_pod) of a pod that carries it gives the
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
