//! `kubelet_internal_checkpoint`: the accounts on disk, in the format of pkg/kubelet/cm/devicemanager/checkpoint.
//!
//! Left out: the checksum is a number that nobody computed; the kubelet's own is over Go's printed form of the data.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::accounts::{Entry, Snapshot};
use crate::kubelet_api::device_plugin as api;

const FILE: &str = "kubelet_internal_checkpoint";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    data: Data,
    checksum: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    /// `null` where there are none, as Go prints a nil slice.
    pod_device_entries: Option<Vec<PodDevicesEntry>>,
    registered_devices: BTreeMap<String, Vec<String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PodDevicesEntry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    container_name: String,
    resource_name: String,
    #[serde(rename = "DeviceIDs")]
    device_ids: BTreeMap<i64, Vec<String>>,
    alloc_resp: String,
}

/// Nothing where there is no file.
pub(super) fn read(directory: &Path) -> io::Result<Snapshot> {
    let bytes = match std::fs::read(directory.join(FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Snapshot::default()),
        Err(error) => return Err(error),
    };
    let file: File = serde_json::from_slice(&bytes)?;
    let entry = |entry: PodDevicesEntry| {
        let bytes = STANDARD.decode(&entry.alloc_resp).map_err(io::Error::other)?;
        let answer = api::ContainerAllocateResponse::decode(&*bytes).map_err(io::Error::other)?;
        let key = (entry.pod_uid, entry.container_name, entry.resource_name);
        Ok((key, Entry { slots: entry.device_ids, answer }))
    };
    Ok(Snapshot {
        entries: file.data.pod_device_entries.unwrap_or_default().into_iter().map(entry).collect::<io::Result<_>>()?,
        registered: file.data.registered_devices,
    })
}

/// Into a new file that takes the place of the old one.
pub(super) fn write(directory: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let entry =
        |((pod_uid, container_name, resource_name), entry): &((String, String, String), Entry)| PodDevicesEntry {
            pod_uid: pod_uid.clone(),
            container_name: container_name.clone(),
            resource_name: resource_name.clone(),
            device_ids: entry.slots.clone(),
            alloc_resp: STANDARD.encode(entry.answer.encode_to_vec()),
        };
    let entries: Vec<_> = snapshot.entries.iter().map(entry).collect();
    let data = Data {
        pod_device_entries: (!entries.is_empty()).then_some(entries),
        registered_devices: snapshot.registered.clone(),
    };
    let temporary = directory.join(format!(".{FILE}"));
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(&File { data, checksum: 1 })?)?;
    std::fs::rename(temporary, directory.join(FILE))
}
