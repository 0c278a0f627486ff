//! A JSON Patch that grows operation by operation and touches only the paths it changes: whatever else a pod carries, known to
//! us or not, stays as it is.
//!
//! Each operation is written as it is found, into the bytes that are sent: no tree of values is built first.

use serde::Serialize;

/// About what the patch of a GPU pod takes, so that it is not copied as it grows.
const USUAL: usize = 2048;

/// The operations so far, in order, as JSON without the closing bracket.
#[derive(Debug, Default)]
pub(super) struct Patch {
    json: Vec<u8>,
    /// The first value that did not serialise; none is known.
    failed: Option<serde_json::Error>,
}

/// Where an operation acts: a JSON pointer, made of parts that follow each other.
pub(super) trait Pointer: Copy {
    /// Writes it as the inside of a JSON string.
    fn write(self, json: &mut Vec<u8>);
}

/// Text of ours, in which nothing needs an escape.
impl Pointer for &'static str {
    fn write(self, json: &mut Vec<u8>) {
        json.extend_from_slice(self.as_bytes());
    }
}

/// A place in a list.
impl Pointer for usize {
    fn write(self, json: &mut Vec<u8>) {
        if self >= 10 {
            (self / 10).write(json);
        }
        json.push(b"0123456789"[self % 10]);
    }
}

impl<A: Pointer, B: Pointer> Pointer for (A, B) {
    fn write(self, json: &mut Vec<u8>) {
        self.0.write(json);
        self.1.write(json);
    }
}

/// A member by its key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member<'k, B> {
    base: B,
    key: &'k str,
}

/// `base/key`, the key escaped as a JSON pointer demands.
pub(super) fn member<B: Pointer>(base: B, key: &str) -> Member<'_, B> {
    Member { base, key }
}

impl<B: Pointer> Pointer for Member<'_, B> {
    fn write(self, json: &mut Vec<u8>) {
        let hex = |nibble: u8| b"0123456789abcdef"[usize::from(nibble & 0xf)];
        self.base.write(json);
        json.push(b'/');
        for byte in self.key.bytes() {
            match byte {
                b'/' => json.extend_from_slice(b"~1"),
                b'~' => json.extend_from_slice(b"~0"),
                b'"' | b'\\' | 0..0x20 => json.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte)]),
                byte => json.push(byte),
            }
        }
    }
}

impl Patch {
    /// Adds a member, replacing one of that name, or appends to a list (last part `-`).
    pub(super) fn add(&mut self, path: impl Pointer, value: &(impl Serialize + ?Sized)) {
        self.begin("add", path);
        self.value(value);
    }

    /// Replaces what is there.
    pub(super) fn replace(&mut self, path: impl Pointer, value: &(impl Serialize + ?Sized)) {
        self.begin("replace", path);
        self.value(value);
    }

    /// Removes what is there.
    pub(super) fn remove(&mut self, path: impl Pointer) {
        self.begin("remove", path);
        self.json.push(b'}');
    }

    fn begin(&mut self, operation: &'static str, path: impl Pointer) {
        if self.json.is_empty() {
            self.json.reserve_exact(USUAL);
            self.json.push(b'[');
        } else {
            self.json.push(b',');
        }
        self.json.extend_from_slice(br#"{"op":""#);
        self.json.extend_from_slice(operation.as_bytes());
        self.json.extend_from_slice(br#"","path":""#);
        path.write(&mut self.json);
        self.json.push(b'"');
    }

    fn value(&mut self, value: &(impl Serialize + ?Sized)) {
        self.json.extend_from_slice(br#","value":"#);
        if let Err(error) = serde_json::to_writer(&mut self.json, value) {
            self.failed.get_or_insert(error);
        }
        self.json.push(b'}');
    }

    /// The operations as JSON, `None` where there are none.
    ///
    /// # Errors
    /// None is known: values always serialise.
    pub(super) fn into_json(self) -> Result<Option<Vec<u8>>, serde_json::Error> {
        let Self { mut json, failed } = self;
        if let Some(error) = failed {
            return Err(error);
        }
        if json.is_empty() {
            return Ok(None);
        }
        json.push(b']');
        Ok(Some(json))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_escaped_and_operations_keep_their_order() {
        let mut patch = Patch::default();
        patch.remove(member("/metadata/annotations", "a/b~c"));
        patch.add("/spec/tolerations/-", &serde_json::json!({"key": "k"}));
        patch.replace("/spec/schedulerName", "packhorse");
        patch.add(("/spec/containers/", (120_usize, "/env/-")), &[1]);
        let text = String::from_utf8(patch.into_json().unwrap().unwrap()).unwrap();
        assert_eq!(
            text,
            r#"[{"op":"remove","path":"/metadata/annotations/a~1b~0c"},{"op":"add","path":"/spec/tolerations/-","value":{"key":"k"}},"#
                .to_owned()
                + r#"{"op":"replace","path":"/spec/schedulerName","value":"packhorse"},"#
                + r#"{"op":"add","path":"/spec/containers/120/env/-","value":[1]}]"#
        );
        assert_eq!(Patch::default().into_json().unwrap(), None);
    }

    #[test]
    fn whatever_a_key_holds_the_patch_is_the_json_of_its_pointer() {
        let keys = (0..=0x7f_u8).map(|byte| format!("a{}b", char::from(byte))).chain(["ß/~\u{1f40e}\"".to_owned()]);
        for key in keys {
            let mut patch = Patch::default();
            patch.remove(member("/m", &key));
            let json: serde_json::Value = serde_json::from_slice(&patch.into_json().unwrap().unwrap()).unwrap();
            assert_eq!(json[0]["path"], format!("/m/{}", key.replace('~', "~0").replace('/', "~1")), "{key:?}");
        }
    }

    #[test]
    fn a_value_that_cannot_be_written_is_an_error() {
        let mut patch = Patch::default();
        patch.add("/m", &std::collections::BTreeMap::from([(vec![1], 1)]));
        patch.remove("/n");
        assert!(patch.into_json().is_err());
    }
}
