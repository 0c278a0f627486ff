//! The kubelet's own record of which container holds which device IDs, `device-plugins/kubelet_internal_checkpoint`: written before
//! any container of a pod starts, with pod UIDs, ordinary init containers, and the reply that `Allocate` gave
//! (<https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/cm/devicemanager/checkpoint/checkpoint.go>).
//!
//! An internal format: unknown fields are skipped, both known shapes of `DeviceIDs` are read, everything else is an error, for whoever
//! cannot read it must not guess. Entries of dead pods stay until the kubelet next allocates.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::agent::specification::DeviceName;
use crate::kubelet_api::device_plugin::ContainerAllocateResponse;

/// The file's name in the device-plugin directory.
pub const FILE: &str = "kubelet_internal_checkpoint";

/// All that the kubelet has recorded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// In the file's order.
    pub entries: Vec<Entry>,
}

/// What one container got of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The pod's UID.
    pub pod_uid: String,
    /// The container's name, init containers included.
    pub container: String,
    /// The extended resource.
    pub resource: String,
    /// Device IDs: our slots.
    pub ids: BTreeSet<String>,
    /// The CDI device that `Allocate` named for it, if any.
    pub device: Option<DeviceName>,
}

/// Why the record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Not there, or no permission.
    #[error("{path} cannot be read: {source}")]
    Io {
        /// The file.
        path: String,
        /// The system's words.
        source: std::io::Error,
    },
    /// Not what any known kubelet writes.
    #[error("{path} is not a checkpoint that is understood: {problem}")]
    Format {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
    },
}

impl Checkpoint {
    /// Reads the file. Blocks.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        let shown = || path.display().to_string();
        let text = std::fs::read(path).map_err(|source| CheckpointError::Io { path: shown(), source })?;
        Self::parse(&text).map_err(|problem| CheckpointError::Format { path: shown(), problem })
    }

    /// Reads the text of the file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let file: File<'_> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let entries = file.data.entries.unwrap_or_default();
        Ok(Self { entries: entries.into_iter().map(Entry::read).collect::<Result<_, _>>()? })
    }
}

impl Entry {
    fn read(wire: WireEntry<'_>) -> Result<Self, String> {
        let reply = wire.reply.as_deref().unwrap_or_default();
        let named =
            |problem: String| format!("AllocResp of container {} of pod {}: {problem}", wire.container, wire.pod_uid);
        let reply = STANDARD.decode(reply).map_err(|error| named(error.to_string()))?;
        // Only replies of ours are looked into; another plugin's is not ours to judge.
        let device = match ContainerAllocateResponse::decode(&*reply) {
            Ok(reply) => device_in(&reply).map_err(named)?,
            Err(_) => None,
        };
        Ok(Self {
            pod_uid: wire.pod_uid.into_owned(),
            container: wire.container.into_owned(),
            resource: wire.resource.into_owned(),
            ids: wire.ids.0,
            device,
        })
    }
}

/// The one CDI device of ours that a reply names, as a device or, for runtimes that read those, in an annotation.
fn device_in(reply: &ContainerAllocateResponse) -> Result<Option<DeviceName>, String> {
    let devices = reply.cdi_devices.iter().map(|device| device.name.as_str());
    let annotations = reply.annotations.values().flat_map(|value| value.split(','));
    let mut names = devices.chain(annotations).filter_map(|name| DeviceName::from_qualified(name.trim()));
    let first = names.next();
    match names.find(|name| Some(name) != first.as_ref()) {
        None => Ok(first),
        Some(other) => Err(format!("names another CDI device beside {other}")),
    }
}

#[derive(serde::Deserialize)]
struct File<'a> {
    #[serde(rename = "Data", borrow)]
    data: Data<'a>,
}

#[derive(serde::Deserialize)]
struct Data<'a> {
    /// `null` where nothing was ever allocated.
    #[serde(rename = "PodDeviceEntries", borrow)]
    entries: Option<Vec<WireEntry<'a>>>,
}

#[derive(serde::Deserialize)]
struct WireEntry<'a> {
    #[serde(rename = "PodUID", borrow)]
    pod_uid: Cow<'a, str>,
    #[serde(rename = "ContainerName", borrow)]
    container: Cow<'a, str>,
    #[serde(rename = "ResourceName", borrow)]
    resource: Cow<'a, str>,
    #[serde(rename = "DeviceIDs")]
    ids: Ids,
    #[serde(rename = "AllocResp", borrow, default)]
    reply: Option<Cow<'a, str>>,
}

/// IDs by NUMA node, or before Kubernetes 1.20 as a list.
#[derive(Default)]
struct Ids(BTreeSet<String>);

impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdsVisitor;
        impl<'de> Visitor<'de> for IdsVisitor {
            type Value = Ids;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("device IDs by NUMA node, or a list of them")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ids, A::Error> {
                let mut all = Ids::default();
                while let Some((_, ids)) = map.next_entry::<IgnoredAny, Option<Vec<String>>>()? {
                    all.0.extend(ids.into_iter().flatten());
                }
                Ok(all)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Ids, A::Error> {
                let mut all = Ids::default();
                while let Some(id) = list.next_element()? {
                    all.0.insert(id);
                }
                Ok(all)
            }

            fn visit_unit<E>(self) -> Result<Ids, E> {
                Ok(Ids::default())
            }
        }
        deserializer.deserialize_any(IdsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::kubelet_api::device_plugin::CdiDevice;

    fn reply(devices: &[&str], annotations: &[(&str, &str)]) -> String {
        let reply = ContainerAllocateResponse {
            cdi_devices: devices.iter().map(|name| CdiDevice { name: (*name).to_owned() }).collect(),
            annotations: annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            envs: BTreeMap::from([("A".to_owned(), "b".to_owned())]),
            ..Default::default()
        };
        STANDARD.encode(reply.encode_to_vec())
    }

    fn read(entry: &serde_json::Value) -> Result<Entry, String> {
        let file =
            json!({"Data": {"PodDeviceEntries": [entry], "RegisteredDevices": {"x": ["y"]}, "New": 1}, "Checksum": 1});
        Checkpoint::parse(file.to_string().as_bytes()).map(|mut checkpoint| checkpoint.entries.remove(0))
    }

    #[test]
    fn reads_every_shape_that_a_kubelet_has_written() {
        for (ids, expected) in [
            (json!({"0": ["a"], "1": ["b", "c"]}), vec!["a", "b", "c"]),
            (json!({"-1": ["a"], "0": null}), vec!["a"]),
            (json!(["b", "a"]), vec!["a", "b"]),
            (json!(null), vec![]),
        ] {
            let entry = json!({"PodUID": "u", "ContainerName": "c", "ResourceName": "r", "DeviceIDs": ids, "AllocResp": null, "More": {}});
            let entry = read(&entry).unwrap();
            assert_eq!((&*entry.pod_uid, &*entry.container, &*entry.resource), ("u", "c", "r"));
            assert_eq!(entry.ids.iter().collect::<Vec<_>>(), expected);
        }
        let empty = Checkpoint::parse(br#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{}},"Checksum":0}"#);
        assert_eq!(empty, Ok(Checkpoint::default()));
    }

    #[test]
    fn finds_the_cdi_device_that_allocate_named() {
        let of = |reply: String| {
            let entry =
                json!({"PodUID": "u", "ContainerName": "c", "ResourceName": "r", "DeviceIDs": {}, "AllocResp": reply});
            read(&entry).map(|entry| entry.device.map(|name| name.to_string()))
        };
        for (case, reply, expected) in [
            ("by name", reply(&["nvidia.com/gpu=all", "packhorse.dev/gpu=abc"], &[]), Some("abc")),
            ("by annotation", reply(&[], &[("cdi.k8s.io/x", "vendor.com/a=b,packhorse.dev/gpu=abc")]), Some("abc")),
            ("by both", reply(&["packhorse.dev/gpu=abc"], &[("k", "packhorse.dev/gpu=abc")]), Some("abc")),
            ("none", reply(&[], &[("k", "v")]), None),
            ("not a reply", STANDARD.encode(b"\xff\xff\xff"), None),
            ("empty", String::new(), None),
        ] {
            assert_eq!(of(reply).unwrap().as_deref(), expected, "{case}");
        }
        assert!(of(reply(&["packhorse.dev/gpu=abc", "packhorse.dev/gpu=def"], &[])).is_err(), "two names of ours");
        assert!(of("no base64!".to_owned()).is_err());
    }

    #[test]
    fn refuses_to_guess() {
        for text in [
            "",
            "{}",
            r#"{"Data":{}"#,
            r#"{"Data":{"PodDeviceEntries":[{}]}}"#,
            r#"{"Data":{"PodDeviceEntries":[{"PodUID":"u","ContainerName":"c","ResourceName":"r","DeviceIDs":"a"}]}}"#,
        ] {
            assert!(Checkpoint::parse(text.as_bytes()).is_err(), "{text}");
        }
        let error = Checkpoint::read(Path::new("/nonexistent/checkpoint")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/checkpoint"), "{error}");
    }
}
