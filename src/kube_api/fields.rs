//! Reads JSON field by field, strictly, and says which field is damaged: `devices[2].memory`.
//!
//! Owns nothing; the annotation codecs use it. A wrong value is an error, an unknown field is noted and the rest is used.

use std::fmt;

use serde_json::Value;

/// What cannot be read, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {field}: {value}: {problem}")]
pub struct Damaged {
    /// The annotation.
    pub key: &'static str,
    /// The field within its JSON, for example `devices[2].memory`; `JSON` where it is not JSON at all.
    pub field: String,
    /// The value found, shortened; `absent` where there is none.
    pub value: String,
    /// What is wrong with it, and what it should be.
    pub problem: String,
}

/// What a codec read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded<T> {
    /// The content.
    pub value: T,
    /// Fields that this version does not know, for example `devices[0].color`; they were skipped.
    pub unknown: Vec<String>,
}

/// One value of a document with the way to it.
#[derive(Clone, Copy)]
pub(crate) struct Field<'p, 'v> {
    key: &'static str,
    parent: Option<&'p Self>,
    step: Step<'v>,
    value: &'v Value,
}

#[derive(Clone, Copy)]
enum Step<'v> {
    Root,
    Key(&'v str),
    Index(usize),
}

/// Parses the text of annotation `key`.
pub(crate) fn parse(key: &'static str, text: &str) -> Result<Value, Damaged> {
    serde_json::from_str(text).map_err(|error| Damaged {
        key,
        field: "JSON".to_owned(),
        value: shorten(text),
        problem: error.to_string(),
    })
}

/// Long values stay readable in a log line.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl<'v> Field<'_, 'v> {
    pub(crate) fn root(key: &'static str, value: &'v Value) -> Self {
        Self { key, parent: None, step: Step::Root, value }
    }

    pub(crate) fn error(&self, problem: impl Into<String>) -> Damaged {
        Damaged {
            key: self.key,
            field: self.to_string(),
            value: shorten(&self.value.to_string()),
            problem: problem.into(),
        }
    }

    /// The document must be an object with `"v":1`.
    pub(crate) fn version_one(&self) -> Result<(), Damaged> {
        let version = self.need("v")?;
        if version.value.as_u64() == Some(1) { Ok(()) } else { Err(version.error("unknown version, only 1 is known")) }
    }

    /// A member of this object; `null` counts as absent.
    pub(crate) fn get<'s>(&'s self, name: &'v str) -> Result<Option<Field<'s, 'v>>, Damaged> {
        let object = self.value.as_object().ok_or_else(|| self.error("must be an object"))?;
        Ok(object.get(name).filter(|value| !value.is_null()).map(|value| Field {
            key: self.key,
            parent: Some(self),
            step: Step::Key(name),
            value,
        }))
    }

    /// A member that must be there.
    pub(crate) fn need<'s>(&'s self, name: &'v str) -> Result<Field<'s, 'v>, Damaged> {
        self.get(name)?.ok_or_else(|| {
            let missing =
                Field { key: self.key, parent: Some(self), step: Step::Key(name), value: &Value::Null }.to_string();
            Damaged { key: self.key, field: missing, value: "absent".to_owned(), problem: "must be given".to_owned() }
        })
    }

    pub(crate) fn text(&self) -> Result<&'v str, Damaged> {
        self.value.as_str().ok_or_else(|| self.error("must be a string"))
    }

    /// A string that is not empty.
    pub(crate) fn word(&self) -> Result<&'v str, Damaged> {
        let text = self.text()?;
        if text.is_empty() { Err(self.error("must not be empty")) } else { Ok(text) }
    }

    pub(crate) fn flag(&self) -> Result<bool, Damaged> {
        self.value.as_bool().ok_or_else(|| self.error("must be true or false"))
    }

    /// A whole number within `range` that fits `T`.
    pub(crate) fn number<T: TryFrom<i64>>(&self, range: std::ops::RangeInclusive<i64>) -> Result<T, Damaged> {
        self.value
            .as_i64()
            .filter(|number| range.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| self.error(format!("must be a whole number from {} to {}", range.start(), range.end())))
    }

    pub(crate) fn items<'s>(&'s self) -> Result<impl Iterator<Item = Field<'s, 'v>>, Damaged> {
        let items = self.value.as_array().ok_or_else(|| self.error("must be a list"))?;
        Ok(items.iter().enumerate().map(|(index, value)| Field {
            key: self.key,
            parent: Some(self),
            step: Step::Index(index),
            value,
        }))
    }

    pub(crate) fn entries<'s>(&'s self) -> Result<impl Iterator<Item = (&'v str, Field<'s, 'v>)>, Damaged> {
        let object = self.value.as_object().ok_or_else(|| self.error("must be an object"))?;
        Ok(object.iter().map(|(name, value)| {
            (name.as_str(), Field { key: self.key, parent: Some(self), step: Step::Key(name), value })
        }))
    }

    /// Notes every member that is not one of `known`.
    pub(crate) fn note_unknown(&self, known: &[&str], unknown: &mut Vec<String>) -> Result<(), Damaged> {
        unknown.extend(
            self.entries()?.filter(|(name, _)| !known.contains(name)).map(|(_, field)| shorten(&field.to_string())),
        );
        Ok(())
    }
}

impl fmt::Display for Field<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root if self.parent.is_none() => Ok(()),
            Step::Root => f.write_str("."),
            Step::Key(name) if self.parent.is_none_or(|parent| matches!(parent.step, Step::Root)) => f.write_str(name),
            Step::Key(name) => write!(f, ".{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}
