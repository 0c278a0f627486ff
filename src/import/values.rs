//! Values of our chart, those of them that NVIDIA's configuration has a say in. `values.schema.json` is their authority.

use serde::Serialize;

/// All of them; what is not set is left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Values {
    /// `agent`.
    #[serde(skip_serializing_if = "is_default")]
    pub agent: Agent,
    /// `config`.
    #[serde(skip_serializing_if = "is_default")]
    pub config: Config,
}

/// `agent`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Where the host's driver is.
    #[serde(skip_serializing_if = "is_default")]
    pub driver_root: Option<String>,
    /// `none`, `single` or `mixed`.
    #[serde(skip_serializing_if = "is_default")]
    pub mig_strategy: Option<String>,
    /// One or more of NVIDIA's four.
    #[serde(skip_serializing_if = "is_default")]
    pub device_list_strategy: Vec<String>,
    /// `uuid` or `index`.
    #[serde(rename = "deviceIDStrategy", skip_serializing_if = "is_default")]
    pub device_id_strategy: Option<String>,
    /// Device nodes as well.
    #[serde(skip_serializing_if = "is_default")]
    pub pass_device_specs: Option<bool>,
    /// End without a driver.
    #[serde(skip_serializing_if = "is_default")]
    pub fail_on_init_error: Option<bool>,
    /// What has no value of its own: NVIDIA's format, which the agent reads.
    #[serde(skip_serializing_if = "is_default")]
    pub nvidia_config: NvidiaConfig,
}

/// `agent.nvidiaConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct NvidiaConfig {
    /// `v1` where there is anything else.
    pub version: &'static str,
    #[serde(skip_serializing_if = "is_default")]
    flags: Flags,
    #[serde(skip_serializing_if = "is_default")]
    sharing: Sharing,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Flags {
    #[serde(skip_serializing_if = "is_default")]
    nvidia_dev_root: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    plugin: Plugin,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Plugin {
    cdi_annotation_prefix: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Sharing {
    time_slicing: TimeSlicing,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
struct TimeSlicing {
    resources: Vec<Slots>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Slots {
    name: String,
    replicas: u16,
}

/// `config`: settings of the server.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Config {
    /// `config.webhook`.
    pub webhook: Webhook,
}

/// `config.webhook`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// What a count alone means: `share-<percent>`.
    pub count_alone: Option<String>,
}

impl NvidiaConfig {
    pub(super) fn dev_root(&mut self, path: &str) {
        self.version = "v1";
        self.flags.nvidia_dev_root = Some(path.to_owned());
    }

    pub(super) fn cdi_annotation_prefix(&mut self, prefix: &str) {
        self.version = "v1";
        self.flags.plugin.cdi_annotation_prefix = Some(prefix.to_owned());
    }

    /// `false` where the resource has its number already.
    pub(super) fn slots(&mut self, name: String, replicas: u16) -> bool {
        self.version = "v1";
        let resources = &mut self.sharing.time_slicing.resources;
        let new = resources.iter().all(|other| other.name != name);
        if new {
            resources.push(Slots { name, replicas });
        }
        new
    }
}

impl Values {
    pub(super) fn to_yaml(&self) -> Result<String, serde_saphyr::ser::Error> {
        if is_default(self) { Ok("{}\n".to_owned()) } else { serde_saphyr::to_string(self) }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
