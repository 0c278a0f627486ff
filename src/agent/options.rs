//! NVIDIA's device-plugin flags, environment variables and configuration file, by the same names: who comes from NVIDIA's plugin
//! brings them along. A flag beats a variable, a variable beats the file, the file beats the default.
//!
//! Read once, at the start. A wrong value is an error that names its place, even where another place overrules it. What NVIDIA's
//! plugin knows and Packhorse does not do, and keys that neither knows, are listed in [`Options::not_honoured`], for the agent to
//! report. Rules: `api/config/v1` and `cmd/nvidia-device-plugin` of <https://github.com/NVIDIA/k8s-device-plugin>.

mod file;
mod flags;
pub mod schema;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub use flags::Flags;

use super::view::{GPU, MigStrategy};
use file::File;
use schema::{Fate, KEYS, Key};
use value::Value;

/// Where NVIDIA's charts mount the driver root into the plugin's container.
pub const CONTAINER_DRIVER_ROOT: &str = "/driver-root";

/// How a container is told of its devices; NVIDIA's `--device-list-strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strategy {
    /// The runtime's variable.
    Envvar,
    /// Mounts that name devices.
    VolumeMounts,
    /// CDI names in annotations.
    CdiAnnotations,
    /// CDI names in the field that CRI has for them.
    CdiCri,
}

/// What NVIDIA's runtime is told devices by; NVIDIA's `--device-id-strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceIdStrategy {
    /// By UUID.
    #[default]
    Uuid,
    /// Cards by NVML's index.
    Index,
}

/// What counts, from all places together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What `nvidia.com/gpu` and `nvidia.com/mig-*` mean.
    pub mig_strategy: MigStrategy,
    /// Whether the agent ends where there is no driver; else it waits.
    pub fail_on_init_error: bool,
    /// Where the host's driver is installed, in the host's view.
    pub driver_root: PathBuf,
    /// Where this process sees the driver root; `None`: [`CONTAINER_DRIVER_ROOT`] where that exists, else as the host does.
    pub container_driver_root: Option<PathBuf>,
    /// What holds the host's `dev` with the device nodes, in the host's view; the driver root unless said.
    pub dev_root: PathBuf,
    /// Whether containers get device nodes beside what tells NVIDIA's runtime of devices.
    pub pass_device_specs: bool,
    /// Never empty, each once.
    pub device_list_strategy: Vec<Strategy>,
    /// By what NVIDIA's runtime is told of devices.
    pub device_id_strategy: DeviceIdStrategy,
    /// Beginning of the keys of strategy `cdi-annotations`.
    pub cdi_annotation_prefix: String,
    /// How many containers may share what `nvidia.com/gpu` names, MIG instances under strategy `single`: the file's
    /// `sharing.timeSlicing`.
    pub slots: Option<u16>,
    /// The same for `nvidia.com/mig-<profile>`, by the profile as NVML writes it (`1g.10gb+me`).
    pub mig_slots: BTreeMap<String, u16>,
    /// What was asked for and is not done.
    pub not_honoured: Vec<NotHonoured>,
}

/// Something that was asked for and is not done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NotHonoured {
    /// Where it stands: `--mps-root`, `MPS_ROOT`, `flags.mpsRoot in /config.yaml`.
    pub key: String,
    /// Why it is not done, and what there is instead.
    pub reason: String,
}

/// Why the options cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The configuration file is not to be had.
    #[error("cannot read {}, which {place} names: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// `--config-file` or `CONFIG_FILE`.
        place: &'static str,
        /// The system's words.
        source: io::Error,
    },
    /// It is no YAML.
    #[error("{}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's words, with the line.
        reason: String,
    },
    /// A value that cannot stand where it stands.
    #[error("{place}: {value} is not valid: must be {expected}")]
    Value {
        /// As [`NotHonoured::key`].
        place: String,
        /// What stands there.
        value: String,
        /// What may stand there.
        expected: String,
    },
}

impl Options {
    /// Reads the environment of this process and the configuration file, if one is named.
    ///
    /// # Errors
    /// [`OptionsError`]; the agent must not start.
    pub fn load(flags: &Flags) -> Result<Self, OptionsError> {
        Self::resolve(flags, &|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// The same with another environment. A variable that is empty counts as not set.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn resolve(flags: &Flags, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, OptionsError> {
        let environment = |name: &str| environment(name).filter(|value| !value.is_empty());
        let path = match flags.given(schema::CONFIG_FILE.flags[0]).last() {
            Some(path) => Some(("--config-file", path.clone())),
            None => environment(schema::CONFIG_FILE.environment[0]).map(|path| ("CONFIG_FILE", path)),
        };
        let file = match path {
            Some((place, path)) => File::read(Path::new(&path), place)?,
            None => File::default(),
        };
        let mut options = Self { slots: file.slots.get(GPU).copied(), ..Self::default() };
        options.mig_slots = file.slots.iter().filter_map(|(name, slots)| Some((profile(name)?, *slots))).collect();
        let mut dev_root = None;
        for key in KEYS {
            let Some((place, value)) = effective(key, flags, &environment, &file)? else { continue };
            match key.fate {
                Fate::Honoured => options.honour(key, value, &mut dev_root),
                Fate::Reported { unless, .. } if unless.iter().any(|harmless| value.is(harmless)) => {}
                Fate::Reported { reason, .. } => {
                    options.not_honoured.push(NotHonoured { key: place, reason: reason.to_owned() });
                }
            }
        }
        options.dev_root = dev_root.unwrap_or_else(|| options.driver_root.clone());
        options.not_honoured.extend(file.not_honoured);
        Ok(options)
    }

    /// The driver root as this process sees it.
    pub fn own_driver_root(&self) -> PathBuf {
        let mounted = || Some(PathBuf::from(CONTAINER_DRIVER_ROOT)).filter(|path| path.is_dir());
        self.container_driver_root.clone().or_else(mounted).unwrap_or_else(|| self.driver_root.clone())
    }

    /// Takes a value that the schema has judged.
    fn honour(&mut self, key: &Key, value: Value, dev_root: &mut Option<PathBuf>) {
        match (key.flags.first().copied().unwrap_or_default(), value) {
            ("mig-strategy", Value::Text(name)) => {
                let all = [MigStrategy::None, MigStrategy::Single, MigStrategy::Mixed];
                self.mig_strategy = all.into_iter().find(|one| one.as_str() == name).unwrap_or_default();
            }
            ("fail-on-init-error", Value::Bool(value)) => self.fail_on_init_error = value,
            ("nvidia-driver-root", Value::Text(path)) => self.driver_root = PathBuf::from(path),
            ("driver-root-ctr-path", Value::Text(path)) => self.container_driver_root = Some(PathBuf::from(path)),
            ("nvidia-dev-root", Value::Text(path)) => *dev_root = Some(PathBuf::from(path)),
            ("pass-device-specs", Value::Bool(value)) => self.pass_device_specs = value,
            ("device-list-strategy", Value::List(names)) => {
                self.device_list_strategy.clear();
                for (strategy, name) in Strategy::ALL {
                    if names.iter().any(|given| given == name) {
                        self.device_list_strategy.push(strategy);
                    }
                }
            }
            ("device-id-strategy", Value::Text(name)) => {
                self.device_id_strategy =
                    if name == "index" { DeviceIdStrategy::Index } else { DeviceIdStrategy::Uuid };
            }
            ("cdi-annotation-prefix", Value::Text(prefix)) => self.cdi_annotation_prefix = prefix,
            // The schema gives each key its kind; a new one that is missing here fails the test over all of them.
            (_, _) => {}
        }
    }
}

impl Default for Options {
    /// NVIDIA's defaults.
    fn default() -> Self {
        Self {
            mig_strategy: MigStrategy::None,
            fail_on_init_error: true,
            driver_root: PathBuf::from("/"),
            container_driver_root: None,
            dev_root: PathBuf::from("/"),
            pass_device_specs: false,
            device_list_strategy: vec![Strategy::Envvar],
            device_id_strategy: DeviceIdStrategy::Uuid,
            cdi_annotation_prefix: "cdi.k8s.io/".to_owned(),
            slots: None,
            mig_slots: BTreeMap::new(),
            not_honoured: Vec::new(),
        }
    }
}

impl Strategy {
    /// Every one with NVIDIA's name of it.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Envvar, "envvar"),
        (Self::VolumeMounts, "volume-mounts"),
        (Self::CdiAnnotations, "cdi-annotations"),
        (Self::CdiCri, "cdi-cri"),
    ];

    /// NVIDIA's name of it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Envvar => "envvar",
            Self::VolumeMounts => "volume-mounts",
            Self::CdiAnnotations => "cdi-annotations",
            Self::CdiCri => "cdi-cri",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for NotHonoured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.reason)
    }
}

/// The MIG profile that a resource is named after: in the name a `.` stands for the profile's `+`.
fn profile(resource: &str) -> Option<String> {
    Some(resource.strip_prefix("nvidia.com/mig-")?.replacen("gb.", "gb+", 1))
}

/// The value of the strongest place, and the place. Every place is judged.
fn effective(
    key: &Key,
    flags: &Flags,
    environment: &dyn Fn(&str) -> Option<String>,
    file: &File,
) -> Result<Option<(String, Value)>, OptionsError> {
    let mut given = Vec::new();
    if let Some(flag) = key.flags.first() {
        let texts = flags.given(flag);
        if !texts.is_empty() {
            given.push((format!("--{flag}"), key.kind.read_texts(texts)));
        }
    }
    for name in key.environment {
        if let Some(text) = environment(name) {
            given.push(((*name).to_owned(), key.kind.read_texts(&[text])));
        }
    }
    if let Some((place, value)) = key.file.and_then(|path| file.given.get(path)) {
        given.push((place.clone(), key.kind.read_json(value)));
    }
    let mut strongest = None;
    for (place, value) in given {
        let value = value.map_err(|value| OptionsError::Value {
            place: place.clone(),
            value,
            expected: key.kind.to_string(),
        })?;
        strongest.get_or_insert((place, value));
    }
    Ok(strongest)
}
