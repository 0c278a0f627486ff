//! A `ConfigMap` with one or more of NVIDIA's configurations by name, as NVIDIA's chart and GPU operator mount it. There a node's label
//! `nvidia.com/device-plugin.config` chooses among them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{ImportError, Note, nvidia};

/// The object, strict to the last field of a `ConfigMap`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ConfigMap {
    #[serde(default)]
    data: BTreeMap<String, String>,
    // What an object has besides.
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    #[serde(default, rename = "metadata")]
    _metadata: IgnoredAny,
    #[serde(default, rename = "immutable")]
    _immutable: IgnoredAny,
}

impl ConfigMap {
    pub(super) fn read(text: &str) -> Result<Self, ImportError> {
        let map: Self = nvidia::parse(text)?;
        if map.data.is_empty() {
            return Err(ImportError::Other { found: "a ConfigMap without data".to_owned() });
        }
        Ok(map)
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.data.keys().cloned().collect()
    }

    /// The configuration of that name; without one, the only one.
    pub(super) fn choose(&self, name: Option<&str>) -> Result<(&str, &str), ImportError> {
        let found = match name {
            Some(name) => self
                .data
                .get_key_value(name)
                .ok_or_else(|| ImportError::NoSuchName { name: name.to_owned(), names: self.names() })?,
            None => match self.data.iter().next() {
                Some(only) if self.data.len() == 1 => only,
                _ => return Err(ImportError::Several { names: self.names() }),
            },
        };
        Ok((found.0, found.1))
    }

    /// What becomes of the configurations that were not chosen.
    pub(super) fn others(&self, chosen: &str) -> Option<Note> {
        let others: Vec<&str> = self.data.keys().map(String::as_str).filter(|name| *name != chosen).collect();
        (!others.is_empty()).then(|| Note {
            key: "data".to_owned(),
            line: 0,
            text: format!(
                "not imported: {}; the label nvidia.com/device-plugin.config chooses nothing here, all agents of a release have one \
                 configuration; slots only limit how many may share, so take the largest replicas",
                others.join(", ")
            ),
        })
    }
}
