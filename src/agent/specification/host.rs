//! The host's generated CDI specification (`nvidia-ctk cdi generate`), which knows what a container needs to use a device: nodes,
//! libraries, hooks. Written by NVIDIA's tools, JSON or YAML; read here whenever a file has changed.
//!
//! A file that becomes unreadable is reported once and its last good content kept. A device that is not found, or that was
//! generated when the cards had other numbers, is an error that names the remedy: the wrong device is never handed out.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::SpecificationError;
use super::files;
use crate::agent::backend::Card;
use crate::gpu::device::Device;

/// The kind of the host's specification.
const KIND: &str = "nvidia.com/gpu";

/// CDI's version, by which the runtime judges what fields may be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Version(pub(super) u32, pub(super) u32, pub(super) u32);

/// One file of the host.
#[derive(Debug)]
pub(super) struct HostFile {
    pub(super) path: PathBuf,
    pub(super) version: Version,
    /// What every device needs.
    pub(super) common: Map<String, Value>,
    pub(super) devices: Vec<HostDevice>,
}

/// One device of a file.
#[derive(Debug, Deserialize)]
pub(super) struct HostDevice {
    name: String,
    #[serde(rename = "containerEdits", default, deserialize_with = "null_is_empty")]
    pub(super) edits: Map<String, Value>,
}

/// All files of the host.
#[derive(Debug)]
pub(super) struct HostSpecifications {
    /// The most important first.
    directories: Vec<PathBuf>,
    known: Mutex<HashMap<PathBuf, Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    stamp: Stamp,
    /// `None`: of another kind, or never readable.
    file: Option<Arc<HostFile>>,
    /// Why the newest content cannot be read.
    damage: Option<String>,
}

/// Changes with the content, without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    size: u64,
    inode: u64,
}

/// The fields of a file that we look into.
#[derive(Deserialize)]
struct Document {
    #[serde(rename = "cdiVersion")]
    version: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    devices: Vec<HostDevice>,
    #[serde(rename = "containerEdits", default, deserialize_with = "null_is_empty")]
    common: Map<String, Value>,
}

impl HostSpecifications {
    /// `directories`: later ones overrule; ours is the last unless named.
    pub(super) fn new(directories: &[PathBuf], ours: &Path) -> Self {
        let mut directories = directories.to_vec();
        if !directories.iter().any(|directory| directory == ours) {
            directories.push(ours.to_owned());
        }
        directories.reverse();
        Self { directories, known: Mutex::default() }
    }

    /// Whether any file has devices.
    pub(super) fn present(&self) -> bool {
        self.files().0.iter().any(|file| !file.devices.is_empty())
    }

    /// The file that describes a device, and where in its devices.
    pub(super) fn find(
        &self,
        device: &Device,
        card: &Card,
        mig_minors: &Path,
    ) -> Result<(Arc<HostFile>, usize), SpecificationError> {
        let (files, damage) = self.files();
        let named = |file: &HostFile, name: &str| file.devices.iter().position(|device| device.name == name);
        for file in &files {
            let by_index = || match &device.mig {
                Some(_) => by_capabilities(file, device, card, mig_minors),
                None => Ok([device.index.to_string(), format!("gpu{}", device.index)]
                    .iter()
                    .find_map(|name| named(file, name))),
            };
            let at = match named(file, &device.uuid) {
                Some(at) => Some(at),
                None => by_index()?,
            };
            if let Some(at) = at {
                file.check_minor(at, device, card)?;
                return Ok((Arc::clone(file), at));
            }
        }
        Err(SpecificationError::NoSuchDevice {
            device: device.uuid.to_string(),
            path: files.first().map(|file| file.path.clone()),
            detail: (!damage.is_empty()).then(|| damage.join("; ")),
        })
    }

    /// All files of the kind, the most important first, and what is damaged.
    fn files(&self) -> (Vec<Arc<HostFile>>, Vec<String>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut files, mut damage, mut seen) = (Vec::new(), Vec::new(), HashMap::new());
        for directory in &self.directories {
            let paths = match paths(directory) {
                Ok(paths) => paths,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    damage.push(format!("cannot read {}: {error}", directory.display()));
                    continue;
                }
            };
            for path in paths {
                let now = Known::read(&path, known.remove(&path));
                damage.extend(now.damage.clone());
                files.extend(now.file.clone());
                seen.insert(path, now);
            }
        }
        *known = seen;
        (files, damage)
    }
}

impl Known {
    /// Reads a file again where it has changed.
    fn read(path: &Path, before: Option<Self>) -> Self {
        let stamp = fs::metadata(path).map(|meta| Stamp {
            modified: (meta.mtime(), meta.mtime_nsec()),
            size: meta.len(),
            inode: meta.ino(),
        });
        match (stamp, before) {
            (Ok(stamp), Some(before)) if before.stamp == stamp => before,
            (Ok(stamp), before) => match fs::read_to_string(path)
                .map_err(|error| error.to_string())
                .and_then(|text| HostFile::parse(path, &text))
            {
                Ok(file) => Self { stamp, file: file.map(Arc::new), damage: None },
                Err(reason) => Self::damaged(path, stamp, before, &reason),
            },
            // Its kind cannot be known; without a stamp it is read again next time.
            (Err(error), before) => {
                let stamp = Stamp { modified: (0, 0), size: 0, inode: 0 };
                Self::damaged(path, stamp, before, &error.to_string())
            }
        }
    }

    fn damaged(path: &Path, stamp: Stamp, before: Option<Self>, reason: &str) -> Self {
        let damage = format!("{}: {reason}", path.display());
        if before.as_ref().and_then(|before| before.damage.as_ref()) != Some(&damage) {
            tracing::warn!(path = %path.display(), reason, "cannot read a CDI specification of the host; its last good content counts");
        }
        Self { stamp, file: before.and_then(|before| before.file), damage: Some(damage) }
    }
}

impl HostFile {
    /// `None` for a specification of another kind.
    fn parse(path: &Path, text: &str) -> Result<Option<Self>, String> {
        // JSON is YAML too, but its own parser is faster by far.
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(_) => serde_saphyr::from_str(text).map_err(|error| error.without_snippet().to_string())?,
        };
        // Without a kind it is one that is being written, or was cut: not one of another kind.
        let kind = value.get("kind").and_then(Value::as_str).ok_or("it has no kind, or one that is no string")?;
        if kind != KIND {
            return Ok(None);
        }
        let Document { version, devices, common } = serde_json::from_value(value).map_err(|error| error.to_string())?;
        let version = Version::parse(&version).ok_or_else(|| format!("cdiVersion {version:?} is no version"))?;
        Ok(Some(Self { path: path.to_owned(), version, common, devices }))
    }

    /// Refuses a device that holds the node of another card.
    fn check_minor(&self, at: usize, device: &Device, card: &Card) -> Result<(), SpecificationError> {
        let found = &self.devices[at];
        match found.nodes().find(|node| minor(node).is_some_and(|minor| minor != card.minor)) {
            None => Ok(()),
            Some(node) => Err(SpecificationError::OutOfDate {
                path: self.path.clone(),
                name: found.name.clone(),
                node: node.to_owned(),
                device: device.uuid.to_string(),
                minor: card.minor,
            }),
        }
    }
}

impl HostDevice {
    /// The paths of its device nodes on the host.
    fn nodes(&self) -> impl Iterator<Item = &str> {
        let nodes = self.edits.get("deviceNodes").and_then(Value::as_array).into_iter().flatten();
        nodes.filter_map(|node| node.get("hostPath").or_else(|| node.get("path"))?.as_str())
    }
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim_start_matches('v').splitn(3, '.').map(|part| part.parse().ok());
        Some(Self(parts.next()??, parts.next()??, parts.next()??))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// What to do about a specification that lacks a device.
pub(super) fn remedy(path: Option<&Path>) -> String {
    let path = path.unwrap_or(Path::new("/var/run/cdi/nvidia.yaml"));
    format!("nvidia-ctk cdi generate --output={}", path.display())
}

/// The nodes of a MIG instance's capabilities, GPU instance and compute instance: what nobody else's container may open. `None`
/// where that cannot be known: the driver lists none, or the backend does not tell the instance's numbers.
pub(super) fn capabilities(
    device: &Device,
    card: &Card,
    mig_minors: &Path,
) -> Result<Option<[String; 2]>, SpecificationError> {
    let instance = card.instances.iter().find(|instance| instance.uuid == device.uuid);
    let Some((gpu, compute)) = instance.and_then(|instance| instance.ids) else { return Ok(None) };
    let text = match fs::read_to_string(mig_minors) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(super::error::io_error("read", mig_minors)(error)),
    };
    let node = |entry: String| {
        let minor =
            text.lines().find_map(|line| line.strip_prefix(&*entry)?.strip_prefix(' ')?.trim().parse::<u32>().ok());
        minor.map(|minor| format!("/dev/nvidia-caps/nvidia-cap{minor}")).ok_or_else(|| {
            SpecificationError::NoCapability { path: mig_minors.to_owned(), entry, device: device.uuid.to_string() }
        })
    };
    let minor = card.minor;
    Ok(Some([node(format!("gpu{minor}/gi{gpu}/access"))?, node(format!("gpu{minor}/gi{gpu}/ci{compute}/access"))?]))
}

/// A MIG instance that is named `<card>:<number>`: the number says nothing of which it is, its capabilities do.
fn by_capabilities(
    file: &HostFile,
    device: &Device,
    card: &Card,
    mig_minors: &Path,
) -> Result<Option<usize>, SpecificationError> {
    let Some(wanted) = capabilities(device, card, mig_minors)? else { return Ok(None) };
    let of_the_card = |name: &str| {
        let parts = name.strip_prefix("mig").unwrap_or(name).split_once(':');
        parts.is_some_and(|(index, number)| index.parse() == Ok(device.index) && number.parse::<u32>().is_ok())
    };
    let holds = |found: &HostDevice, capability: &str| found.nodes().any(|node| node.ends_with(capability));
    Ok(file
        .devices
        .iter()
        .position(|found| of_the_card(&found.name) && wanted.iter().all(|capability| holds(found, capability))))
}

/// n of `/dev/nvidia<n>`, under any root.
fn minor(node: &str) -> Option<u32> {
    node.rsplit_once("/dev/nvidia")?.1.parse().ok()
}

/// The specifications of a directory but ours, in the order of their names.
fn paths(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let is_specification = path.extension().is_some_and(|extension| extension == "json" || extension == "yaml");
        if is_specification && !files::is_ours(&path) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// NVIDIA's tools write `null` for an empty list or map.
fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(value: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}
