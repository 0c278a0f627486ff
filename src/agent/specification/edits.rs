//! `containerEdits` of CDI: what is done to a container. Kept as JSON, so that what the host's tools write and we do not know
//! survives.
//!
//! Adding follows what the runtime would do with the edits one after another: of two entries for one place in the container the
//! later counts, and the same entry twice is one.

use std::path::Path;

use serde_json::{Map, Value, json};

/// Edits under construction.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Edits(Map<String, Value>);

impl Edits {
    /// Adds all of `other`, after what is there.
    pub(super) fn add(&mut self, other: &Map<String, Value>) {
        for (key, value) in other {
            match value {
                Value::Null => {}
                Value::Array(entries) => entries.iter().for_each(|entry| self.push(key, entry.clone())),
                _ => {
                    self.0.insert(key.clone(), value.clone());
                }
            }
        }
    }

    /// Sets a variable, after and instead of any other of that name.
    pub(super) fn set_env(&mut self, name: &str, value: &str) {
        let of_that_name = |entry: &Value| entry.as_str().and_then(|entry| entry.split('=').next()) == Some(name);
        let variables = self.list("env");
        variables.retain(|entry| !of_that_name(entry));
        variables.push(Value::String(format!("{name}={value}")));
    }

    /// A device node that the container may read and write.
    pub(super) fn add_node(&mut self, path: &str, host_path: &str) {
        self.push("deviceNodes", json!({"path": path, "hostPath": host_path, "permissions": "rw"}));
    }

    /// A read-only bind mount of one file.
    pub(super) fn add_mount(&mut self, host_path: &str, container_path: &str) {
        let options = ["ro", "nosuid", "nodev", "rbind", "rprivate"];
        self.push("mounts", json!({"hostPath": host_path, "containerPath": container_path, "options": options}));
    }

    pub(super) fn into_inner(self) -> Map<String, Value> {
        self.0
    }

    fn push(&mut self, key: &str, entry: Value) {
        // What tells where in the container an entry goes.
        let place = match key {
            "deviceNodes" => Some("path"),
            "mounts" => Some("containerPath"),
            _ => None,
        };
        let same = |other: &Value| match place {
            Some(place) if entry.get(place).is_some() => other.get(place) == entry.get(place),
            _ => *other == entry,
        };
        let entries = self.list(key);
        match entries.iter().position(same) {
            Some(at) => entries[at] = entry,
            None => entries.push(entry),
        }
    }

    /// The list of that name; whatever else stood there is overruled.
    fn list(&mut self, key: &str) -> &mut Vec<Value> {
        let slot = self.0.entry(key).or_insert_with(|| Value::Array(Vec::new()));
        if !slot.is_array() {
            *slot = Value::Array(Vec::new());
        }
        match slot {
            Value::Array(entries) => entries,
            _ => unreachable!("made a list above"),
        }
    }
}

/// An absolute path under another root.
pub(super) fn under(root: &Path, path: &str) -> String {
    root.join(path.trim_start_matches('/')).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits(parts: &[Value]) -> Value {
        let mut edits = Edits::default();
        parts.iter().for_each(|part| edits.add(part.as_object().unwrap()));
        Value::Object(edits.into_inner())
    }

    #[test]
    fn what_two_devices_share_is_there_once() {
        let hook = json!({"hookName": "createContainer", "path": "/bin/h", "args": ["h", "a"]});
        let other = json!({"hookName": "createContainer", "path": "/bin/h", "args": ["h", "b"]});
        let one = json!({
            "deviceNodes": [{"path": "/dev/nvidia0"}, {"path": "/dev/shared"}],
            "mounts": [{"hostPath": "/a", "containerPath": "/a"}],
            "hooks": [hook], "additionalGids": [44],
        });
        let two = json!({
            "deviceNodes": [{"path": "/dev/nvidia1"}, {"path": "/dev/shared"}],
            "mounts": [{"hostPath": "/a", "containerPath": "/a"}],
            "hooks": [hook, other], "additionalGids": [44, 45],
        });
        assert_eq!(
            edits(&[one, two]),
            json!({
                "deviceNodes": [{"path": "/dev/nvidia0"}, {"path": "/dev/shared"}, {"path": "/dev/nvidia1"}],
                "mounts": [{"hostPath": "/a", "containerPath": "/a"}],
                "hooks": [hook, other], "additionalGids": [44, 45],
            })
        );
    }

    #[test]
    fn of_two_entries_for_one_place_the_later_counts() {
        let one = json!({"deviceNodes": [{"path": "/dev/x", "major": 1}], "intelRdt": {"closID": "a"}});
        let two = json!({"deviceNodes": [{"path": "/dev/x", "major": 2}], "intelRdt": {"closID": "b"}, "mounts": null});
        assert_eq!(edits(&[one, two.clone()]), json!({"deviceNodes": two["deviceNodes"], "intelRdt": two["intelRdt"]}));
    }

    #[test]
    fn a_variable_is_set_last_and_once() {
        let mut edits = Edits::default();
        edits.add(json!({"env": ["V=all", "V2=x", "V"]}).as_object().unwrap());
        edits.set_env("V", "void");
        assert_eq!(Value::Object(edits.into_inner()), json!({"env": ["V2=x", "V=void"]}));
    }

    #[test]
    fn a_path_goes_under_another_root() {
        for (root, expected) in
            [("/", "/dev/nvidia0"), ("/run/nvidia/driver", "/run/nvidia/driver/dev/nvidia0"), ("/r/", "/r/dev/nvidia0")]
        {
            assert_eq!(under(Path::new(root), "/dev/nvidia0"), expected);
        }
    }
}
