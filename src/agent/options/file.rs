//! NVIDIA's configuration file (`version: v1`): flattened to `section.key` and compared with the schema. Like NVIDIA's plugin we
//! take keys whatever their case, and `null` as absent. What is in no schema is noted and not an error, since the plugin takes it
//! too.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::schema::{KEYS, TIME_SLICING, TIME_SLICING_REPORTED};
use super::{NotHonoured, OptionsError};
use crate::agent::view::GPU;

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct File {
    /// By the schema's path: the place in words, and the value, not yet judged.
    pub(super) given: BTreeMap<&'static str, (String, Value)>,
    /// Slots by resource.
    pub(super) slots: BTreeMap<String, u16>,
    pub(super) not_honoured: Vec<NotHonoured>,
    path: String,
}

const UNKNOWN: &str = "NVIDIA's configuration has no such key; is it misspelt?";

impl File {
    /// `place`: what names the file.
    pub(super) fn read(path: &Path, place: &'static str) -> Result<Self, OptionsError> {
        let text = std::fs::read_to_string(path).map_err(|source| OptionsError::Read {
            path: path.to_owned(),
            place,
            source,
        })?;
        let document: Value = serde_saphyr::from_str(&text)
            .map_err(|error| OptionsError::Syntax { path: path.to_owned(), reason: explained(&error) })?;
        let mut file = Self { path: path.display().to_string(), ..Self::default() };
        match &document {
            Value::Null => {}
            Value::Object(map) => file.section("", map)?,
            other => return Err(file.wrong("the file", other, "a map with version: v1")),
        }
        Ok(file)
    }

    /// `section`: its path, empty for the whole file.
    fn section(&mut self, section: &str, map: &Map<String, Value>) -> Result<(), OptionsError> {
        for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
            let path = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
            if path.eq_ignore_ascii_case("version") {
                if value != "v1" {
                    return Err(self.wrong(&path, value, "v1"));
                }
            } else if path.eq_ignore_ascii_case(TIME_SLICING) {
                self.time_slicing(value)?;
            } else if let Some(known) =
                KEYS.iter().filter_map(|key| key.file).find(|key| key.eq_ignore_ascii_case(&path))
            {
                self.given.insert(known, (self.place(known), value.clone()));
            } else if is_section(&path) {
                match value {
                    Value::Object(map) => self.section(&path, map)?,
                    other => return Err(self.wrong(&path, other, "a map")),
                }
            } else {
                self.note(&path, UNKNOWN);
            }
        }
        Ok(())
    }

    /// The number of replicas is our number of slots.
    fn time_slicing(&mut self, value: &Value) -> Result<(), OptionsError> {
        let Value::Array(entries) = value else { return Err(self.wrong(TIME_SLICING, value, "a list")) };
        for (at, entry) in entries.iter().enumerate() {
            let path = format!("{TIME_SLICING}[{at}]");
            let Value::Object(entry) = entry else {
                return Err(self.wrong(&path, entry, "a map with name and replicas"));
            };
            let (mut name, mut replicas) = (None, None);
            for (key, value) in entry.iter().filter(|(_, value)| !value.is_null()) {
                let path = format!("{path}.{key}");
                if key.eq_ignore_ascii_case("name") {
                    name =
                        Some(value.as_str().filter(|name| !name.is_empty()).ok_or_else(|| {
                            self.wrong(&path, value, "the name of a resource, such as nvidia.com/gpu")
                        })?);
                } else if key.eq_ignore_ascii_case("replicas") {
                    let number =
                        value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
                    replicas = Some(number.ok_or_else(|| self.wrong(&path, value, "a number from 1 to 65535"))?);
                } else if let Some((_, reason, harmless)) =
                    TIME_SLICING_REPORTED.iter().find(|(known, ..)| known.eq_ignore_ascii_case(key))
                {
                    if value != harmless {
                        self.note(&path, reason);
                    }
                } else {
                    self.note(&path, UNKNOWN);
                }
            }
            let (Some(name), Some(replicas)) = (name, replicas) else {
                return Err(self.wrong(&path, &Value::Object(entry.clone()), "a map with name and replicas"));
            };
            self.slots(&path, name, replicas)?;
        }
        Ok(())
    }

    fn slots(&mut self, path: &str, name: &str, replicas: u16) -> Result<(), OptionsError> {
        // NVIDIA's plugin takes a name without its prefix too.
        let resource = if name.contains('/') { name.to_owned() } else { format!("nvidia.com/{name}") };
        if resource != GPU && !resource.starts_with("nvidia.com/mig-") {
            self.note(&format!("{path}.name"), &format!("no device is handed out as {resource}"));
        } else if self.slots.insert(resource, replicas).is_some() {
            return Err(self.wrong(
                &format!("{path}.name"),
                &Value::from(name),
                "a resource that no other entry names",
            ));
        }
        Ok(())
    }

    fn note(&mut self, path: &str, reason: &str) {
        self.not_honoured.push(NotHonoured { key: self.place(path), reason: reason.to_owned() });
    }

    fn place(&self, path: &str) -> String {
        format!("{path} in {}", self.path)
    }

    fn wrong(&self, path: &str, value: &Value, expected: &str) -> OptionsError {
        OptionsError::Value { place: self.place(path), value: value.to_string(), expected: expected.to_owned() }
    }
}

/// The parser's words in one line, without its remedies, which are for callers of the parser.
fn explained(error: &serde_saphyr::Error) -> String {
    let plain = error.without_snippet().to_string();
    let message = plain.split(" at line ").next().unwrap_or_default();
    let message = message.split(", set DuplicateKeyPolicy").next().unwrap_or_default();
    match error.location() {
        Some(location) => format!("line {}: {message}", location.line()),
        None => message.to_owned(),
    }
}

/// Whether keys of the schema are in there.
fn is_section(path: &str) -> bool {
    let known = KEYS.iter().filter_map(|key| key.file);
    known.into_iter().any(|key| {
        let (beginning, rest) = key.split_at_checked(path.len()).unwrap_or((key, ""));
        beginning.eq_ignore_ascii_case(path) && rest.starts_with('.')
    })
}
