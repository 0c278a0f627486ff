//! NVIDIA's configuration as types: `api/config/v1` of their device plugin. Every value keeps its line. Keys are taken as they are
//! written there; the plugin also takes them in another case, which an error then tells.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::ImportError;
use crate::yaml::Mistake;

/// `None` where a key is absent or `null`.
pub type Given<T> = Option<Spanned<T>>;

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Document {
    /// `v1`; the plugin takes a file without it too.
    pub version: Given<String>,
    /// What the plugin's and GPU Feature Discovery's flags say as well.
    pub flags: Option<Flags>,
    /// Patterns of devices and the resources named after them.
    pub resources: Option<Resources>,
    /// How many may share a device.
    pub sharing: Option<Sharing>,
    /// Channels between nodes.
    pub imex: Option<Imex>,
}

/// `flags`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[expect(missing_docs, reason = "named as in NVIDIA's documentation")]
pub struct Flags {
    pub mig_strategy: Given<String>,
    pub fail_on_init_error: Given<bool>,
    pub nvidia_driver_root: Given<String>,
    pub nvidia_dev_root: Given<String>,
    pub gdrcopy_enabled: Given<bool>,
    pub gds_enabled: Given<bool>,
    pub mofed_enabled: Given<bool>,
    pub mps_root: Given<String>,
    pub device_discovery_strategy: Given<String>,
    pub restart_on_device_unhealthy: Given<bool>,
    #[serde(rename = "useNodeFeatureAPI")]
    pub use_node_feature_api: Given<bool>,
    pub plugin: Option<Plugin>,
    pub gfd: Option<Gfd>,
}

/// `flags.plugin`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[expect(missing_docs, reason = "named as in NVIDIA's documentation")]
pub struct Plugin {
    pub pass_device_specs: Given<bool>,
    pub device_list_strategy: Given<OneOrMore>,
    #[serde(rename = "deviceIDStrategy")]
    pub device_id_strategy: Given<String>,
    pub cdi_annotation_prefix: Given<String>,
    #[serde(rename = "nvidiaCTKPath")]
    pub nvidia_ctk_path: Given<String>,
    pub container_driver_root: Given<String>,
    pub shared_devices_allocation_policy: Given<String>,
}

/// `flags.gfd`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[expect(missing_docs, reason = "named as in NVIDIA's documentation")]
pub struct Gfd {
    pub oneshot: Given<bool>,
    pub no_timestamp: Given<bool>,
    pub sleep_interval: Given<Scalar>,
    pub output_file: Given<String>,
    pub machine_type_file: Given<String>,
}

/// `resources`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "named as in NVIDIA's documentation")]
pub struct Resources {
    pub gpus: Given<Vec<Pattern>>,
    pub mig: Given<Vec<Pattern>>,
}

/// An entry of `resources.gpus` or `resources.mig`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "named as in NVIDIA's documentation")]
pub struct Pattern {
    pub pattern: String,
    pub name: String,
}

/// `sharing`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[expect(missing_docs, reason = "named as in NVIDIA's documentation")]
pub struct Sharing {
    pub time_slicing: Option<Replicated>,
    pub mps: Option<Replicated>,
}

/// `sharing.timeSlicing`, `sharing.mps`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[expect(missing_docs, reason = "named as in NVIDIA's documentation")]
pub struct Replicated {
    pub rename_by_default: Given<bool>,
    pub fail_requests_greater_than_one: Given<bool>,
    pub resources: Vec<Entry>,
}

/// An entry of `sharing.timeSlicing.resources`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "named as in NVIDIA's documentation")]
pub struct Entry {
    pub name: Spanned<String>,
    #[serde(default)]
    pub rename: Given<String>,
    #[serde(default)]
    pub devices: Given<OneOrMore>,
    pub replicas: Spanned<i64>,
}

/// `imex`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "named as in NVIDIA's documentation")]
pub struct Imex {
    #[serde(rename = "channelIDs")]
    pub channel_ids: Given<Vec<u32>>,
    pub required: Given<bool>,
}

/// A text or a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar(pub String);

/// One scalar or a list of them, `(list, whether it was one)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOrMore(pub Vec<String>);

impl OneOrMore {
    /// Whether it says `text` alone.
    pub fn is(&self, text: &str) -> bool {
        matches!(&self.0[..], [one] if one == text)
    }
}

/// Reads a configuration.
///
/// # Errors
/// [`ImportError::Format`], with the path and the line.
pub fn read(text: &str) -> Result<Document, ImportError> {
    let document: Document = parse(text)?;
    match &document.version {
        Some(version) if version.value != "v1" => Err(ImportError::Value {
            path: "version".to_owned(),
            line: version.defined.line(),
            value: format!("{:?}", version.value),
            expected: "v1",
        }),
        _ => Ok(document),
    }
}

/// Reads YAML into a type; an empty document is its default where `T` has one of nothing but defaults.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, ImportError> {
    let blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#') || line.trim() == "---";
    let text = if text.lines().all(blank) { "{}" } else { text };
    let mut path = String::new();
    serde_saphyr::with_deserializer_from_str(text, |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            path = error.path().to_string();
            error.into_inner()
        })
    })
    .map_err(|error| {
        let mistake = Mistake::new(&error, text);
        // `.` is the document itself; a value with its line is read as a map of ours.
        let path = path.trim_start_matches('.').replace(".value", "").replace(".?", "");
        ImportError::Format { path, line: mistake.line.unwrap_or_default(), message: mistake.message }
    })
}

struct Texts;

impl<'de> Visitor<'de> for Texts {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number or a list of them")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(vec![text.to_owned()])
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(vec![number.to_string()])
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(vec![number.to_string()])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut texts = Vec::new();
        while let Some(Scalar(text)) = list.next_element()? {
            texts.push(text);
        }
        Ok(texts)
    }
}

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Texts).map(Self)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = deserializer.deserialize_any(Texts)?;
        match <[String; 1]>::try_from(texts) {
            Ok([text]) => Ok(Self(text)),
            Err(_) => Err(D::Error::custom("a list, where a text or a number belongs")),
        }
    }
}
