//! The four ways to patch an object.

use serde_json::{Map, Value};

use super::refusal::Refusal;

/// How the body of a PATCH is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Json,
    Merge,
    /// Lists of known fields are merged by their key, others replaced.
    Strategic,
    /// Server-side apply, without ownership: what is given is merged in, nothing is taken out.
    Apply,
}

impl Kind {
    pub(super) fn of(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" | "application/apply-patch+json" => Some(Self::Apply),
            _ => None,
        }
    }
}

pub(super) fn apply(kind: Kind, object: &mut Value, patch: &Value) -> Result<(), Refusal> {
    match kind {
        Kind::Json => {
            let operations: json_patch::Patch = serde_json::from_value(patch.clone())
                .map_err(|error| Refusal::bad_request(format!("error decoding patch: {error}")))?;
            json_patch::patch(object, &operations).map_err(|error| {
                Refusal::new(422, "Invalid", format!("the server rejected our request due to an error: {error}"))
            })
        }
        Kind::Merge => {
            if !patch.is_object() {
                return Err(Refusal::bad_request("a merge patch must be an object"));
            }
            json_patch::merge(object, patch);
            Ok(())
        }
        Kind::Strategic | Kind::Apply => match (object.as_object_mut(), patch.as_object()) {
            (Some(object), Some(patch)) => {
                merge_strategic(object, patch);
                Ok(())
            }
            _ => Err(Refusal::bad_request("the patch must be an object")),
        },
    }
}

/// The key by which a list's elements are matched, for the fields that have one.
fn merge_key(field: &str) -> Option<&'static str> {
    match field {
        "conditions" | "addresses" => Some("type"),
        "containers" | "initContainers" | "ephemeralContainers" | "env" | "volumes" | "webhooks" => Some("name"),
        "ownerReferences" => Some("uid"),
        _ => None,
    }
}

fn merge_strategic(object: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (field, value) in patch.iter().filter(|(field, _)| !field.starts_with('$')) {
        match (value, object.get_mut(field), merge_key(field)) {
            (Value::Null, _, _) => {
                object.remove(field);
            }
            (Value::Object(from), Some(Value::Object(to)), _) => merge_strategic(to, from),
            (Value::Object(from), _, _) => {
                let mut to = Map::new();
                merge_strategic(&mut to, from);
                object.insert(field.clone(), Value::Object(to));
            }
            (Value::Array(from), Some(Value::Array(to)), Some(key)) => merge_list(to, from, key),
            (value, _, _) => {
                object.insert(field.clone(), value.clone());
            }
        }
    }
}

fn merge_list(to: &mut Vec<Value>, from: &[Value], key: &str) {
    for element in from {
        let position = to.iter().position(|existing| existing.get(key) == element.get(key));
        let delete = element.get("$patch").and_then(Value::as_str) == Some("delete");
        match (position, element.as_object()) {
            (Some(position), _) if delete => {
                to.remove(position);
            }
            (None, _) if delete => {}
            (Some(position), Some(element)) => {
                if let Some(existing) = to[position].as_object_mut() {
                    merge_strategic(existing, element);
                }
            }
            _ => to.push(element.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kind_of_patch_does_what_its_name_says() {
        let before = json!({"a": {"b": 1}, "conditions": [{"type": "X", "status": "False"}, {"type": "Y"}]});
        let conditions = json!({"conditions": [{"type": "X", "status": "True"}], "a": null});
        for (kind, patch, expected) in [
            (Kind::Merge, conditions.clone(), json!({"conditions": [{"type": "X", "status": "True"}]})),
            (Kind::Strategic, conditions, json!({"conditions": [{"type": "X", "status": "True"}, {"type": "Y"}]})),
            (
                Kind::Json,
                json!([{"op": "remove", "path": "/conditions"}, {"op": "replace", "path": "/a/b", "value": 2}]),
                json!({"a": {"b": 2}}),
            ),
        ] {
            let mut object = before.clone();
            apply(kind, &mut object, &patch).unwrap();
            assert_eq!(object, expected, "{kind:?}");
        }
        let mut object = before;
        let failing = json!([{"op": "test", "path": "/a/b", "value": 7}]);
        assert_eq!(apply(Kind::Json, &mut object, &failing).unwrap_err().code, 422);
    }
}
