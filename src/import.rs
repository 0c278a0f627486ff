//! `packhorse config import`: NVIDIA's configuration file (`version: v1`) as values of Packhorse's chart, and a note for each of its
//! keys that has no counterpart or another meaning here. Text in, text out.
//!
//! | file | owns |
//! |---|---|
//! | [`nvidia`] | NVIDIA's format as types, strict to the last key |
//! | [`mod@config_map`] | a `ConfigMap` with several of them |
//! | [`keys`] | what becomes of each key |
//! | [`translate`] | from the one to the other |
//! | [`values`] | our chart's values as types, and as text |
//!
//! What NVIDIA's plugin would drop without a word (an unknown key) is an error here, with its path and line: whoever moves should
//! know what never had an effect. Format: `api/config/v1` of <https://github.com/NVIDIA/k8s-device-plugin>.

pub mod config_map;
pub mod keys;
pub mod nvidia;
pub mod translate;
pub mod values;

use serde::Deserialize;
use serde::de::IgnoredAny;

use config_map::ConfigMap;
use values::Values;

/// What a configuration becomes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Imported {
    /// The name of the configuration in its `ConfigMap`.
    pub name: Option<String>,
    /// For the chart.
    pub values: Values,
    /// What has no counterpart or another meaning, in the order of the format.
    pub notes: Vec<Note>,
}

/// Something that a user has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The key, with places in lists: `sharing.timeSlicing.resources[0].devices`.
    pub key: String,
    /// The line of its value, counted from 1 in the configuration; 0 where it has none.
    pub line: u64,
    /// Why, and what to do instead.
    pub text: String,
}

/// Why a configuration cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// It is no YAML, a key is unknown, or a value is of another type.
    #[error("{}{message}", place(.path, *.line))]
    Format {
        /// The key's path, empty where it is the document's.
        path: String,
        /// Counted from 1; 0 where nobody knows.
        line: u64,
        /// The parser's words.
        message: String,
    },
    /// A value that NVIDIA's plugin refuses too.
    #[error("line {line}: {path}: {value} is not valid: must be {expected}")]
    Value {
        /// The key's path.
        path: String,
        /// Counted from 1.
        line: u64,
        /// What stands there.
        value: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// It is something else.
    #[error("this is {found}; needed is NVIDIA's configuration (version: v1), or a ConfigMap with such ones")]
    Other {
        /// What it is.
        found: String,
    },
    /// Which one is meant is not said.
    #[error("the ConfigMap has several configurations; choose one with --name: {}", names.join(", "))]
    Several {
        /// Their names.
        names: Vec<String>,
    },
    /// There is none of that name.
    #[error("there is no configuration {name:?}; there are: {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") })]
    NoSuchName {
        /// As asked for.
        name: String,
        /// Those that there are; empty where the input is no `ConfigMap`.
        names: Vec<String>,
    },
    /// What is wrong in one configuration of a `ConfigMap`.
    #[error("data.{name}: {error}")]
    Within {
        /// The configuration's name.
        name: String,
        /// Lines are counted from the configuration's first.
        error: Box<Self>,
    },
}

/// What says of what kind a document is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Kind {
    kind: Option<String>,
    config: Option<IgnoredAny>,
    #[serde(rename = "devicePlugin")]
    device_plugin: Option<IgnoredAny>,
}

impl Imported {
    /// Reads a configuration, or the one called `name` of a `ConfigMap`. Without a name a `ConfigMap` must have one only.
    ///
    /// # Errors
    /// [`ImportError`]; nothing of it may be used then.
    pub fn read(text: &str, name: Option<&str>) -> Result<Self, ImportError> {
        let Some(map) = config_map(text)? else {
            return match name {
                Some(name) => Err(ImportError::NoSuchName { name: name.to_owned(), names: Vec::new() }),
                None => translate::translate(&nvidia::read(text)?),
            };
        };
        let (name, text) = map.choose(name)?;
        let within = |error| ImportError::Within { name: name.to_owned(), error: Box::new(error) };
        let document = nvidia::read(text).map_err(within)?;
        let mut imported = translate::translate(&document).map_err(within)?;
        imported.name = Some(name.to_owned());
        imported.notes.extend(map.others(name));
        Ok(imported)
    }

    /// As a file for the chart, the notes as comments.
    ///
    /// # Errors
    /// The values cannot be written as YAML; none is known.
    pub fn to_yaml(&self) -> Result<String, serde_saphyr::ser::Error> {
        let mut text = String::from("# Values of Packhorse's chart, made from NVIDIA's configuration");
        if let Some(name) = &self.name {
            text.push_str(&format!(" {name:?}"));
        }
        text.push_str(" by packhorse config import.\n");
        if !self.notes.is_empty() {
            text.push_str("#\n# Without a counterpart, or with another meaning:\n");
        }
        for note in &self.notes {
            text.push_str(&format!("# - {note}\n"));
        }
        text.push_str(&self.values.to_yaml()?);
        Ok(text)
    }
}

/// Names of the configurations in `text`; empty where it is a single one.
///
/// # Errors
/// It is neither a configuration nor a `ConfigMap`.
pub fn names(text: &str) -> Result<Vec<String>, ImportError> {
    Ok(config_map(text)?.map(|map| map.names()).unwrap_or_default())
}

/// `None` where the text is no Kubernetes object.
fn config_map(text: &str) -> Result<Option<ConfigMap>, ImportError> {
    let kind: Kind = nvidia::parse(text)?;
    match kind.kind.as_deref() {
        Some("ConfigMap") => ConfigMap::read(text).map(Some),
        Some(kind) => Err(ImportError::Other { found: format!("a {kind}") }),
        None if kind.config.is_some() || kind.device_plugin.is_some() => Err(ImportError::Other {
            found: "a chart's values, whose ConfigMap `kubectl get configmap NAME -o yaml` writes".to_owned(),
        }),
        None => Ok(None),
    }
}

/// What stands before a message.
fn place(path: &str, line: u64) -> String {
    let mut text = String::new();
    if line > 0 {
        text.push_str(&format!("line {line}: "));
    }
    if !path.is_empty() {
        text.push_str(&format!("{path}: "));
    }
    text
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.key, self.text),
            line => write!(f, "{} (line {line}): {}", self.key, self.text),
        }
    }
}
