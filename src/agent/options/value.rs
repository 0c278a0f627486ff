//! What may stand for an option, and how it is read from text (flags, environment) and from the file.

use std::fmt;

/// What may stand for an option; shown in errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// From text as Go's `strconv.ParseBool` reads it, which NVIDIA's plugin uses.
    Bool,
    /// Anything but nothing.
    Text,
    /// An absolute path.
    Path,
    /// One of these.
    Choice(&'static [&'static str]),
    /// Some of these; in text separated by commas.
    Choices(&'static [&'static str]),
    /// Numbers from 0; in text separated by commas.
    Numbers,
    /// `60s`, `infinite`, or nanoseconds.
    Duration,
    /// In the file only: a list of maps.
    Maps,
}

/// What stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Bool(bool),
    Text(String),
    List(Vec<String>),
}

impl Kind {
    /// From a flag, which may be given more than once, or a variable; the error is what stands there.
    pub(super) fn read_texts(self, texts: &[String]) -> Result<Value, String> {
        let last = texts.last().map(String::as_str).unwrap_or_default();
        let value = match self {
            Self::Bool => parse_bool(last).map(Value::Bool),
            Self::Choices(_) | Self::Numbers => {
                let parts = texts.iter().flat_map(|text| text.split(',')).map(str::trim);
                Some(Value::List(parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()))
            }
            Self::Text | Self::Path | Self::Choice(_) | Self::Duration => Some(Value::Text(last.to_owned())),
            Self::Maps => None,
        };
        value.filter(|value| self.admits(value)).ok_or_else(|| format!("{:?}", texts.join(",")))
    }

    /// From the file; the error is what stands there.
    pub(super) fn read_json(self, json: &serde_json::Value) -> Result<Value, String> {
        use serde_json::Value as Json;
        let value = match (self, json) {
            (Self::Bool, Json::Bool(value)) => Some(Value::Bool(*value)),
            (Self::Text | Self::Path | Self::Choice(_) | Self::Duration, Json::String(text)) => {
                Some(Value::Text(text.clone()))
            }
            (Self::Duration, Json::Number(number)) => Some(Value::Text(number.to_string())),
            (Self::Choices(_), Json::String(text)) => return self.read_texts(std::slice::from_ref(text)),
            (Self::Choices(_) | Self::Numbers | Self::Maps, Json::Array(entries)) => {
                let entries = entries.iter().map(|entry| match (self, entry) {
                    (Self::Choices(_), Json::String(text)) => Some(text.clone()),
                    (Self::Numbers, Json::Number(_)) | (Self::Maps, Json::Object(_)) => Some(entry.to_string()),
                    _ => None,
                });
                entries.collect::<Option<_>>().map(Value::List)
            }
            _ => None,
        };
        value.filter(|value| self.admits(value)).ok_or_else(|| json.to_string())
    }

    fn admits(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Choice(names), Value::Text(name)) => names.contains(&name.as_str()),
            (Self::Choices(names), Value::List(given)) => {
                !given.is_empty() && given.iter().all(|name| names.contains(&name.as_str()))
            }
            (Self::Path, Value::Text(path)) => path.starts_with('/'),
            (Self::Text | Self::Duration, Value::Text(text)) => !text.is_empty(),
            (Self::Numbers, Value::List(numbers)) => numbers.iter().all(|number| number.parse::<u32>().is_ok()),
            _ => true,
        }
    }
}

impl Value {
    /// Whether it is the value that is written like that.
    pub(super) fn is(&self, text: &str) -> bool {
        match self {
            Self::Bool(value) => parse_bool(text) == Some(*value),
            Self::Text(value) => value == text,
            Self::List(values) => format!("[{}]", values.join(",")) == text,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("true or false (in the file without quotes)"),
            Self::Text => f.write_str("a text that is not empty"),
            Self::Path => f.write_str("an absolute path"),
            Self::Choice(names) => write!(f, "one of {}", names.join(", ")),
            Self::Choices(names) => write!(f, "one or more of {}", names.join(", ")),
            Self::Numbers => f.write_str("a list of numbers from 0"),
            Self::Duration => f.write_str("a duration such as 60s, or infinite"),
            Self::Maps => f.write_str("a list of maps"),
        }
    }
}

/// As Go's `strconv.ParseBool`.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
