//! What the container runtime reads next: one CDI specification per container that has GPUs, written when it is about to start
//! and its devices are known (<https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>).
//!
//! `Allocate` names a CDI device that does not exist yet, by a name that is never used twice; the check at container start writes
//! its content. So the runtime can never read what was written for another container: a name whose content is missing fails
//! the container's creation, which the kubelet repeats.
//!
//! The files are the only store: each carries its pod's UID, its container and its slots as annotations, from which the index in
//! memory is made at the start. A file of ours that cannot be read is reported and removed. A failed write is an error, and the
//! container does not start.

mod edits;
mod error;
mod files;
mod follow;
pub mod form;
mod host;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use error::SpecificationError;
pub use follow::{Detection, Metrics};
use serde_json::{Value, json};

use super::backend::Card;
use super::options::{DeviceIdStrategy, Strategy};
use crate::gpu::device::Device;
use edits::Edits;
use files::Files;
use host::{HostSpecifications, Version};

/// Whether a path in a CDI directory is a file of ours, finished or not.
pub fn is_own_file(path: &Path) -> bool {
    files::is_ours(path) || files::is_unfinished(path)
}

/// The name of one CDI device, for one container, for good: unique over all time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName(String);

/// `vendor/class` of our CDI devices.
pub const KIND: &str = "packhorse.dev/gpu";

/// The variable by which NVIDIA's runtime is told what a container gets.
pub const VISIBLE_DEVICES: &str = "NVIDIA_VISIBLE_DEVICES";

/// Where NVIDIA's runtime looks for devices that are named by mounts.
pub const VOLUME_MOUNTS: &str = "/var/run/nvidia-container-devices";

/// The first version of CDI with annotations.
const ANNOTATIONS_SINCE: Version = Version(0, 6, 0);

/// What a specification holds, by what the node's runtime can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// Plain runc: device nodes, libraries and hooks from the host's generated specification; the NVIDIA runtime's variable is `void`.
    Full,
    /// NVIDIA's runtime: UUIDs in its variable.
    Env,
    /// A runtime without CDI: nothing is written; the pod's own variable names the device.
    None,
}

/// Where specifications are written and what goes into them.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory our files are written to; the runtime must read it.
    pub cdi_dir: PathBuf,
    /// Where the host's generated specification is looked for, the last first: as CDI's rule of precedence says, a later directory
    /// overrules an earlier one. Usually `/etc/cdi`, `/var/run/cdi`.
    pub host_dirs: Vec<PathBuf>,
    /// What is written.
    pub form: Form,
    /// NVIDIA's `--device-list-strategy`: `volume-mounts` adds mounts.
    pub strategies: Vec<Strategy>,
    /// NVIDIA's `--device-id-strategy`: how form `env` names devices. MIG instances are always named by UUID.
    pub device_ids: DeviceIdStrategy,
    /// NVIDIA's `--pass-device-specs`: form `env` adds the device nodes.
    pub pass_device_specs: bool,
    /// NVIDIA's `--nvidia-dev-root`: the host's directory that holds `dev`, usually `/`.
    pub dev_root: PathBuf,
    /// The driver's list of MIG capabilities, `/proc/driver/nvidia-caps/mig-minors`.
    pub mig_minors: PathBuf,
}

/// One container, ready to be written.
#[derive(Debug, Clone)]
pub struct Container {
    /// What `Allocate` named.
    pub name: DeviceName,
    /// The UID of its pod.
    pub pod_uid: Arc<str>,
    /// Its name in the pod.
    pub container: Arc<str>,
    /// The slots that the kubelet gave it.
    pub slots: Vec<String>,
    /// What it gets, in the order of its allocation; each with its card.
    pub devices: Vec<(Device, Card)>,
}

/// A specification on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The name of its device.
    pub name: DeviceName,
    /// The UID of the pod it was written for.
    pub pod_uid: Arc<str>,
    /// The container it was written for.
    pub container: Arc<str>,
    /// The slots of that container.
    pub slots: Vec<String>,
}

/// All specifications of this node. Calls are short and block: a few small files, no network.
#[derive(Debug)]
pub struct Specifications {
    settings: Settings,
    form: Mutex<Form>,
    host: HostSpecifications,
    files: Files,
}

impl DeviceName {
    /// A name that nobody can guess and that is never made again: 128 random bits.
    ///
    /// # Errors
    /// [`SpecificationError::Randomness`].
    pub fn fresh() -> Result<Self, SpecificationError> {
        Ok(Self(format!("{:032x}", u128::from_ne_bytes(random()?))))
    }

    /// Reads `packhorse.dev/gpu=<name>`; `None` for a device of another kind, and for a name that cannot be one of ours.
    pub fn from_qualified(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once('=')?;
        (kind == KIND).then(|| Self::new(name)).flatten()
    }

    /// `packhorse.dev/gpu=<name>`, as the kubelet hands it to the runtime.
    pub fn qualified(&self) -> String {
        format!("{KIND}={}", self.0)
    }

    /// The bare name, which is a part of a file's name, hence no dots and slashes.
    fn new(name: &str) -> Option<Self> {
        let valid = (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        valid.then(|| Self(name.to_owned()))
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Form {
    /// The name on the command line and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Env => "env",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Specifications {
    /// Takes over what is on disk; creates the directory unless nothing will be written.
    ///
    /// # Errors
    /// [`SpecificationError::Io`] where the directory cannot be created or read.
    pub fn new(settings: Settings) -> Result<Self, SpecificationError> {
        let host = HostSpecifications::new(&settings.host_dirs, &settings.cdi_dir);
        let files = Files::open(settings.cdi_dir.clone(), settings.form != Form::None)?;
        Ok(Self { form: Mutex::new(settings.form), settings, host, files })
    }

    /// What is written now.
    pub fn form(&self) -> Form {
        *self.form.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes another form from now on: the host's specification came or went.
    pub fn set_form(&self, form: Form) {
        *self.form.lock().unwrap_or_else(PoisonError::into_inner) = form;
    }

    /// Whether the host has a generated specification with devices. Reads the files where they have changed.
    pub fn host_specification(&self) -> bool {
        self.host.present()
    }

    /// Writes what the runtime reads when it creates that container, whole or not at all; nothing in form `none`. Writing again
    /// replaces.
    ///
    /// # Errors
    /// The container must not start: the host's specification lacks a device, or the file cannot be written.
    pub fn write(&self, container: &Container) -> Result<(), SpecificationError> {
        let (version, edits) = match self.form() {
            Form::None => return Ok(()),
            Form::Full => self.full(container)?,
            Form::Env => (ANNOTATIONS_SINCE, self.env(container)?),
        };
        let recorded = Recorded {
            name: container.name.clone(),
            pod_uid: Arc::clone(&container.pod_uid),
            container: Arc::clone(&container.container),
            slots: container.slots.clone(),
        };
        let content = document(&recorded, version.max(ANNOTATIONS_SINCE), edits);
        self.files.write(recorded, &content)
    }

    /// Removes one; no error where there is none.
    ///
    /// # Errors
    /// [`SpecificationError::Io`].
    pub fn remove(&self, name: &DeviceName) -> Result<(), SpecificationError> {
        self.files.remove(name)
    }

    /// Removes whatever is there for any of these slots: they go to a new container. From memory but for the removals.
    ///
    /// # Errors
    /// [`SpecificationError::Io`] of the first that could not be removed; the others are.
    pub fn forget_slots(&self, slots: &[String]) -> Result<(), SpecificationError> {
        self.files.forget_slots(slots)
    }

    /// Removes whatever is there for a pod: it is gone.
    ///
    /// # Errors
    /// As [`Self::forget_slots`].
    pub fn forget_pod(&self, uid: &str) -> Result<(), SpecificationError> {
        self.files.forget_pod(uid)
    }

    /// Everything on disk, sorted by name. Reads the directory, so that what another agent wrote meanwhile (a rolling update) is
    /// known as well; what cannot be read is removed.
    ///
    /// # Errors
    /// [`SpecificationError::Io`] where the directory cannot be read.
    pub fn on_disk(&self) -> Result<Vec<Recorded>, SpecificationError> {
        self.files.scan()
    }

    /// The devices as the host's specification describes them.
    fn full(&self, container: &Container) -> Result<(Version, Edits), SpecificationError> {
        let (mut version, mut edits) = (Version::default(), Edits::default());
        let found = container
            .devices
            .iter()
            .map(|(device, card)| self.host.find(device, card, &self.settings.mig_minors))
            .collect::<Result<Vec<_>, _>>()?;
        for (file, _) in &found {
            version = version.max(file.version);
            edits.add(&file.common);
        }
        for (file, at) in &found {
            edits.add(&file.devices[*at].edits);
        }
        if self.settings.strategies.contains(&Strategy::VolumeMounts) {
            self.add_volume_mounts(container, &mut edits);
        }
        edits.set_env(VISIBLE_DEVICES, "void");
        Ok((version, edits))
    }

    /// The devices as NVIDIA's runtime is told of them.
    fn env(&self, container: &Container) -> Result<Edits, SpecificationError> {
        let mut edits = Edits::default();
        if self.settings.pass_device_specs {
            for (device, card) in &container.devices {
                for node in self.device_nodes(device, card)? {
                    edits.add_node(&node, &edits::under(&self.settings.dev_root, &node));
                }
            }
        }
        if self.settings.strategies.contains(&Strategy::VolumeMounts) {
            self.add_volume_mounts(container, &mut edits);
            edits.set_env(VISIBLE_DEVICES, VOLUME_MOUNTS);
        } else if container.devices.is_empty() {
            edits.set_env(VISIBLE_DEVICES, "void");
        } else {
            let ids: Vec<String> = container.devices.iter().map(|(device, _)| self.runtime_id(device)).collect();
            edits.set_env(VISIBLE_DEVICES, &ids.join(","));
        }
        Ok(edits)
    }

    fn add_volume_mounts(&self, container: &Container, edits: &mut Edits) {
        for (device, _) in &container.devices {
            edits.add_mount("/dev/null", &format!("{VOLUME_MOUNTS}/{}", self.runtime_id(device)));
        }
    }

    /// How NVIDIA's runtime is to be told of a device. A MIG instance's index changes with the instances beside it, its UUID does not.
    fn runtime_id(&self, device: &Device) -> String {
        match self.settings.device_ids {
            DeviceIdStrategy::Index if device.mig.is_none() => device.index.to_string(),
            DeviceIdStrategy::Index | DeviceIdStrategy::Uuid => device.uuid.to_string(),
        }
    }

    /// The nodes of a device, the card's first. A machine without the driver's list of capabilities has the card's alone.
    fn device_nodes(&self, device: &Device, card: &Card) -> Result<Vec<String>, SpecificationError> {
        let mut nodes = vec![format!("/dev/nvidia{}", card.minor)];
        if device.mig.is_some() {
            nodes.extend(host::capabilities(device, card, &self.settings.mig_minors)?.into_iter().flatten());
        }
        Ok(nodes)
    }
}

/// The text of a file.
fn document(recorded: &Recorded, version: Version, edits: Edits) -> String {
    let document = json!({
        "cdiVersion": version.to_string(),
        "kind": KIND,
        "annotations": {
            files::POD_UID: &*recorded.pod_uid,
            files::CONTAINER: &*recorded.container,
            files::SLOTS: recorded.slots.join(","),
        },
        "devices": [{"name": recorded.name.to_string(), "containerEdits": Value::Object(edits.into_inner())}],
    });
    format!("{document:#}\n")
}

/// Bits from the system's random source.
fn random<const N: usize>() -> Result<[u8; N], SpecificationError> {
    let mut bytes = [0; N];
    let source = rustls::crypto::ring::default_provider().secure_random;
    source.fill(&mut bytes).map_err(|_| SpecificationError::Randomness)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_long_and_never_repeat() {
        let names: HashSet<String> = (0..10_000).map(|_| DeviceName::fresh().unwrap().to_string()).collect();
        assert_eq!(names.len(), 10_000);
        assert!(names.iter().all(|name| name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit())));
    }

    #[test]
    fn a_name_is_read_back_from_what_the_kubelet_hands_on() {
        let name = DeviceName::fresh().unwrap();
        assert_eq!(DeviceName::from_qualified(&name.qualified()), Some(name));
        for other in
            ["nvidia.com/gpu=0", "packhorse.dev/gpu=", "packhorse.dev/gpu=../../etc/x", "packhorse.dev/gpu", "x"]
        {
            assert_eq!(DeviceName::from_qualified(other), None, "{other}");
        }
    }
}
