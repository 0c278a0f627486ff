//! What an administrator can decide about admission. Read from the server's configuration file by `cli`, swapped while the
//! server runs; a value that makes no sense is an error that names its key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::gpu::parse::CountAlone;
use crate::kube_api::names;

/// Everything configurable about the webhook. Which namespaces it sees at all is the `namespaceSelector` of its registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Settings {
    /// First part of the resource names that users write (`nvidia.com` in `nvidia.com/gpu`). The registration's
    /// `matchConditions` and the policies name it too.
    pub resource_prefix: String,
    /// Set on every GPU pod.
    pub scheduler_name: String,
    /// Added to every GPU pod, so that it may run on tainted GPU nodes.
    pub tolerations: Vec<Toleration>,
    /// Added to every GPU pod. A pod that names another value for one of these keys is denied: it could never run.
    pub node_selector: BTreeMap<String, String>,
    /// Set on GPU pods that name none; absent where the runtime is the nodes' default or CDI is used.
    pub runtime_class_name: Option<String>,
    /// Runtime classes that give a container the GPUs its environment names. A pod without a GPU request that runs under one of
    /// them is told `NVIDIA_VISIBLE_DEVICES=void`, because its image may say `all`.
    pub nvidia_runtime_classes: Vec<String>,
    /// What a count alone means: `exclusive`, or `share-<percent>`. A namespace's label `packhorse.dev/count-alone` overrules it.
    pub count_alone: CountAloneText,
    /// Pods that would see GPUs they did not ask for.
    pub visible_devices_all: VisibleDevicesAll,
    /// A privileged container in a GPU pod, which sees every device of its node.
    pub privileged: Privileged,
    /// A GPU pod that names a scheduler other than ours. `default-scheduler` is what the API server writes where nothing is said,
    /// and is always replaced.
    pub foreign_scheduler: ForeignScheduler,
    /// A GPU pod with `spec.nodeName`, which no scheduler places.
    pub node_name: NodeName,
    /// Largest body read, in bytes; a larger one is answered with HTTP 413.
    pub body_limit: usize,
}

/// A toleration, as in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Toleration {
    /// The taint's key; absent with `Exists`: every taint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `Exists`, or `Equal` (the default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// The taint's value, for `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// How long a `NoExecute` taint is endured; absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

/// [`CountAlone`] as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CountAloneText(pub CountAlone);

impl TryFrom<String> for CountAloneText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self).map_err(|error| format!("countAlone: {text:?}: {error}"))
    }
}

impl From<CountAloneText> for String {
    fn from(text: CountAloneText) -> Self {
        text.0.to_string()
    }
}

/// Pods that would see GPUs they did not ask for: `NVIDIA_VISIBLE_DEVICES=all`, a value that cannot be read at admission, a CDI
/// annotation, or an NVIDIA runtime class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct VisibleDevicesAll {
    /// What happens to them.
    pub action: VisibleAction,
    /// Namespaces whose pods may: monitoring and operators.
    pub exempt_namespaces: Vec<String>,
    /// Service accounts, `namespace/name`, whose pods may.
    pub exempt_service_accounts: Vec<String>,
}

/// See [`VisibleDevicesAll`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VisibleAction {
    /// Denied, with the remedy.
    #[default]
    Deny,
    /// Admitted with `void`: the container sees no GPU.
    Void,
    /// Admitted as it is, with a warning.
    Warn,
}

/// See [`Settings::privileged`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Privileged {
    /// Denied: no limit and no isolation could be kept.
    #[default]
    Deny,
    /// Admitted with a warning.
    Warn,
    /// Admitted.
    Allow,
}

/// See [`Settings::foreign_scheduler`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ForeignScheduler {
    /// Denied: another scheduler books no devices.
    #[default]
    Deny,
    /// Replaced by ours, with a warning.
    Override,
    /// The pod is none of ours: it is left alone with a warning, and nodes of ours refuse it.
    /// The shipped policy `packhorse-marked` refuses it at creation.
    Ignore,
}

/// See [`Settings::node_name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeName {
    /// Denied, with the remedy.
    #[default]
    Deny,
    /// Admitted with a warning. The shipped policy `packhorse-marked` still refuses it, and so does the node's agent.
    Warn,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            resource_prefix: "nvidia.com".to_owned(),
            scheduler_name: names::SCHEDULER.to_owned(),
            tolerations: vec![Toleration {
                key: Some("nvidia.com/gpu".to_owned()),
                operator: Some("Exists".to_owned()),
                value: None,
                effect: Some("NoSchedule".to_owned()),
                toleration_seconds: None,
            }],
            node_selector: BTreeMap::new(),
            runtime_class_name: None,
            nvidia_runtime_classes: ["nvidia", "nvidia-cdi", "nvidia-legacy"].map(str::to_owned).to_vec(),
            count_alone: CountAloneText::default(),
            visible_devices_all: VisibleDevicesAll::default(),
            privileged: Privileged::default(),
            foreign_scheduler: ForeignScheduler::default(),
            node_name: NodeName::default(),
            body_limit: 32 << 20,
        }
    }
}

impl Default for VisibleDevicesAll {
    fn default() -> Self {
        Self {
            action: VisibleAction::default(),
            // Where NVIDIA's operator and its parts, and the usual charts of DCGM's exporter, run.
            exempt_namespaces: [
                "gpu-operator",
                "gpu-operator-resources",
                "nvidia-gpu-operator",
                "nvidia-network-operator",
                "nvidia-device-plugin",
                "nvidia-dra-driver-gpu",
                "dcgm-exporter",
            ]
            .map(str::to_owned)
            .to_vec(),
            // No account in a namespace where tenants usually run: whoever may create pods there could use it.
            exempt_service_accounts: ["monitoring/dcgm-exporter", "monitoring/nvidia-dcgm-exporter"]
                .map(str::to_owned)
                .to_vec(),
        }
    }
}

/// A setting that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {value:?}: {problem}")]
pub struct SettingsError {
    /// The key, as written in the file, below the webhook's section.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What is wrong, and what to write.
    pub problem: &'static str,
}

impl SettingsError {
    fn new(key: impl Into<String>, value: impl Into<String>, problem: &'static str) -> Self {
        Self { key: key.into(), value: value.into(), problem }
    }
}

impl Settings {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// The first value that makes no sense.
    pub fn validate(&self) -> Result<(), SettingsError> {
        if !is_subdomain(&self.resource_prefix) || self.resource_prefix == "packhorse.dev" {
            let problem = "write a domain other than ours, such as nvidia.com";
            return Err(SettingsError::new("resourcePrefix", &self.resource_prefix, problem));
        }
        if !is_subdomain(&self.scheduler_name) {
            let problem = "write the profile's name, such as packhorse";
            return Err(SettingsError::new("schedulerName", &self.scheduler_name, problem));
        }
        for (index, toleration) in self.tolerations.iter().enumerate() {
            toleration.validate(index)?;
        }
        if let Some(key) = self.node_selector.keys().find(|key| key.is_empty() || key.len() > 317) {
            return Err(SettingsError::new("nodeSelector", key, "not a label key"));
        }
        if let Some(name) = self.runtime_class_name.as_ref().filter(|name| !is_subdomain(name)) {
            let problem = "write the name of a RuntimeClass, or leave the key out";
            return Err(SettingsError::new("runtimeClassName", name, problem));
        }
        if let Some(name) = self.nvidia_runtime_classes.iter().find(|name| !is_subdomain(name)) {
            return Err(SettingsError::new("nvidiaRuntimeClasses", name, "write names of RuntimeClasses"));
        }
        let exempt = &self.visible_devices_all;
        if let Some(name) = exempt.exempt_namespaces.iter().find(|name| !is_label(name)) {
            return Err(SettingsError::new("visibleDevicesAll.exemptNamespaces", name, "write names of namespaces"));
        }
        let is_account =
            |text: &str| text.split_once('/').is_some_and(|(space, name)| is_label(space) && is_subdomain(name));
        if let Some(account) = exempt.exempt_service_accounts.iter().find(|text| !is_account(text)) {
            let problem = "write namespace/name, such as monitoring/dcgm-exporter";
            return Err(SettingsError::new("visibleDevicesAll.exemptServiceAccounts", account, problem));
        }
        if self.body_limit < 1 << 20 {
            let problem = "write at least 1048576 (1 MiB): a large pod would be refused";
            return Err(SettingsError::new("bodyLimit", self.body_limit.to_string(), problem));
        }
        Ok(())
    }
}

impl Toleration {
    fn validate(&self, index: usize) -> Result<(), SettingsError> {
        let error = |field: &str, value: &str, problem| {
            Err(SettingsError::new(format!("tolerations[{index}].{field}"), value, problem))
        };
        match (self.operator.as_deref().unwrap_or("Equal"), &self.key, &self.value) {
            ("Exists", _, Some(value)) => {
                return error("value", value, "Exists takes no value: remove it or write operator: Equal");
            }
            ("Equal", None, _) => return error("key", "", "Equal needs a key: write one or operator: Exists"),
            ("Exists" | "Equal", _, _) => {}
            (operator, _, _) => return error("operator", operator, "write Exists or Equal"),
        }
        match (self.effect.as_deref(), self.toleration_seconds) {
            (None | Some("NoSchedule" | "PreferNoSchedule"), Some(seconds)) => {
                error("tolerationSeconds", &seconds.to_string(), "only for effect: NoExecute; remove it")
            }
            (None | Some("NoSchedule" | "PreferNoSchedule" | "NoExecute"), _) => Ok(()),
            (Some(effect), _) => error("effect", effect, "write NoSchedule, PreferNoSchedule or NoExecute"),
        }
    }
}

fn is_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}
