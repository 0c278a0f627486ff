//! A JSON Patch that grows operation by operation and touches only the paths it changes: whatever else a pod carries, known to
//! us or not, stays as it is.

use serde::Serialize;
use serde_json::Value;

/// The operations so far, in order.
#[derive(Debug, Default)]
pub(super) struct Patch(Vec<Operation>);

#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Operation {
    Add { path: String, value: Value },
    Replace { path: String, value: Value },
    Remove { path: String },
}

impl Patch {
    /// Adds a member, replacing one of that name, or appends to a list (last part `-`).
    pub(super) fn add(&mut self, path: impl Into<String>, value: impl Into<Value>) {
        self.0.push(Operation::Add { path: path.into(), value: value.into() });
    }

    /// Replaces what is there.
    pub(super) fn replace(&mut self, path: impl Into<String>, value: impl Into<Value>) {
        self.0.push(Operation::Replace { path: path.into(), value: value.into() });
    }

    /// Removes what is there.
    pub(super) fn remove(&mut self, path: impl Into<String>) {
        self.0.push(Operation::Remove { path: path.into() });
    }

    /// The operations as JSON, `None` where there are none.
    ///
    /// # Errors
    /// None is known: paths and values always serialise.
    pub(super) fn into_json(self) -> Result<Option<Vec<u8>>, serde_json::Error> {
        if self.0.is_empty() {
            return Ok(None);
        }
        // About what an operation takes, so that it is not copied as it grows.
        let mut json = Vec::with_capacity(128 * self.0.len());
        serde_json::to_writer(&mut json, &self.0)?;
        Ok(Some(json))
    }
}

/// `base/key`, the key escaped as a JSON pointer demands.
pub(super) fn member(base: &str, key: &str) -> String {
    format!("{base}/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_escaped_and_operations_keep_their_order() {
        let mut patch = Patch::default();
        patch.remove(member("/metadata/annotations", "a/b~c"));
        patch.add("/spec/tolerations/-", serde_json::json!({"key": "k"}));
        patch.replace("/spec/schedulerName", "packhorse");
        let text = String::from_utf8(patch.into_json().unwrap().unwrap()).unwrap();
        assert_eq!(
            text,
            r#"[{"op":"remove","path":"/metadata/annotations/a~1b~0c"},{"op":"add","path":"/spec/tolerations/-","value":{"key":"k"}},"#
                .to_owned()
                + r#"{"op":"replace","path":"/spec/schedulerName","value":"packhorse"}]"#
        );
        assert_eq!(Patch::default().into_json().unwrap(), None);
    }
}
