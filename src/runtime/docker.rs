//! NVIDIA's runtime in dockerd's `daemon.json`: `runtimes`, `default-runtime`, `features.cdi`.
//!
//! Docker reads strict JSON, so anything beyond it is refused: <https://docs.docker.com/reference/cli/dockerd/#daemon-configuration-file>.

use std::path::Path;

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstNode, CstObject, CstRootNode};

use super::{Edit, File, Place, Plan, Refusal, Registration};

/// What to change so that `wanted` holds.
///
/// # Errors
/// [`Refusal`] where the file is no JSON object, names a key twice, or holds something else than dockerd reads there.
pub fn plan(file: File, wanted: &Registration) -> Result<Plan, Refusal> {
    let text = file.text.clone().unwrap_or_default();
    // dockerd takes an empty file for an empty object.
    let empty = text.trim().is_empty();
    let source = if empty { "{\n}\n" } else { text.as_str() };
    // The objects below live as long as the root.
    let (root, object) = parse(&file.path, source)?;
    let daemon = Object { path: &file.path, key: String::new(), object };

    let runtimes = daemon.object_or_new("runtimes")?;
    let runtime = runtimes.object_or_new(&wanted.name)?;
    let program = if runtime.has("runtimeType")? {
        // A shim instead of a program: the program is an option of the shim.
        let options = runtime.object_or_new("options")?;
        let program = wanted.program_over(options.text("BinaryName")?.as_deref());
        options.set_text("BinaryName", &program)?;
        program
    } else {
        let program = wanted.program_over(runtime.text("path")?.as_deref());
        runtime.set_text("path", &program)?;
        program
    };
    if wanted.default {
        daemon.set_text("default-runtime", &wanted.name)?;
    }
    if wanted.cdi {
        daemon.object_or_new("features")?.set_true("cdi")?;
    }

    let after = root.to_string();
    let changed = file.text.as_deref() != Some(after.as_str());
    let edit = changed.then_some(Edit { path: file.path, before: file.text, after });
    Ok(Plan { edits: edit.into_iter().collect(), notes: Vec::new(), program })
}

fn parse(path: &Path, text: &str) -> Result<(CstRootNode, CstObject), Refusal> {
    let syntax = |place, message: String| Refusal::Syntax { file: path.to_owned(), place, message };
    // The judge of what is JSON. The editor below is laxer.
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        let place = Place { line: error.line().max(1), column: error.column().max(1) };
        let message = error.to_string();
        // The place is told once.
        let message = message.rsplit_once(" at line ").map_or(message.clone(), |(what, _)| what.to_owned());
        return Err(syntax(place, message));
    }
    let root = CstRootNode::parse(text, &ParseOptions::default())
        .map_err(|error| syntax(Place::of(text, error.range().start), error.kind().to_string()))?;
    let object = root.object_value().ok_or_else(|| Refusal::Shape {
        file: path.to_owned(),
        key: "the file".to_owned(),
        found: "no object".to_owned(),
        expected: "one",
    })?;
    Ok((root, object))
}

/// An object of the file, with the key it stands under.
struct Object<'a> {
    path: &'a Path,
    key: String,
    object: CstObject,
}

impl Object<'_> {
    fn name_of(&self, key: &str) -> String {
        if self.key.is_empty() { key.to_owned() } else { format!("{}.{key}", self.key) }
    }

    fn get(&self, key: &str) -> Result<Option<CstNode>, Refusal> {
        let mut found =
            self.object.properties().into_iter().filter(|property| property.decoded_name().as_deref() == Some(key));
        let first = found.next();
        if found.next().is_some() {
            return Err(Refusal::Conflict {
                file: self.path.to_owned(),
                message: format!("names {} twice, and dockerd takes the second; remove one", self.name_of(key)),
            });
        }
        Ok(first.and_then(|property| property.value()))
    }

    fn has(&self, key: &str) -> Result<bool, Refusal> {
        Ok(self.get(key)?.is_some())
    }

    fn object_or_new(&self, key: &str) -> Result<Self, Refusal> {
        let object = match self.get(key)? {
            None => self.object.append(key, CstInputValue::Object(Vec::new())).object_value(),
            Some(value) => value.as_object(),
        };
        match object {
            Some(object) => Ok(Self { path: self.path, key: self.name_of(key), object }),
            None => Err(self.shape(key, "an object")),
        }
    }

    fn text(&self, key: &str) -> Result<Option<String>, Refusal> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        value
            .as_string_lit()
            .and_then(|text| text.decoded_value().ok())
            .map(Some)
            .ok_or_else(|| self.shape(key, "a text"))
    }

    fn set_text(&self, key: &str, wanted: &str) -> Result<(), Refusal> {
        if self.text(key)?.as_deref() == Some(wanted) {
            return Ok(());
        }
        self.set(key, CstInputValue::String(wanted.to_owned()));
        Ok(())
    }

    fn set_true(&self, key: &str) -> Result<(), Refusal> {
        match self.get(key)?.map(|value| value.as_boolean_lit().map(|value| value.value())) {
            Some(Some(true)) => Ok(()),
            Some(None) => Err(self.shape(key, "true or false")),
            None | Some(Some(false)) => {
                self.set(key, CstInputValue::Bool(true));
                Ok(())
            }
        }
    }

    fn set(&self, key: &str, value: CstInputValue) {
        match self.object.get(key) {
            Some(property) => property.set_value(value),
            None => {
                self.object.append(key, value);
            }
        }
    }

    fn shape(&self, key: &str, expected: &'static str) -> Refusal {
        let found = match self.get(key) {
            Ok(Some(value)) => value.to_string(),
            _ => "missing".to_owned(),
        };
        let found = found.split_whitespace().collect::<Vec<_>>().join(" ");
        Refusal::Shape { file: self.path.to_owned(), key: self.name_of(key), found, expected }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_ends() {
        for text in ["{\r\n  \"debug\": true\r\n}\r\n", "{\r\n  \"debug\": true\r\n}"] {
            let plan = plan(File::new("/d.json", text), &Registration::default()).expect("in order");
            let after = &plan.edits[0].after;
            assert!(!after.replace("\r\n", "").contains('\n'), "{after:?}");
            assert_eq!(after.ends_with('\n'), text.ends_with('\n'), "{after:?}");
        }
    }
}
