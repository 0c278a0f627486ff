//! Rules that hold for every kind: what a client may set, what the server sets, and how stored objects look from outside.

use serde_json::{Map, Value, json};

use super::refusal::{Cause, Refusal};
use super::resource::{RESOURCES, Resource};
use super::store::Key;

/// Now, as the API writes times.
pub(super) fn now() -> String {
    at(jiff::Timestamp::now())
}

pub(super) fn at(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A string below `metadata`; empty where absent.
pub(super) fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

pub(super) fn key(object: &Value) -> Key {
    (meta(object, "namespace").to_owned(), meta(object, "name").to_owned())
}

/// Reads a body as an object of this kind, in the form it is stored in.
pub(super) fn decode(resource: &Resource, mut body: Value) -> Result<Value, Refusal> {
    let Some(object) = body.as_object_mut() else {
        return Err(Refusal::bad_request("the body is not an object"));
    };
    for (field, expected) in [("kind", resource.kind.to_owned()), ("apiVersion", resource.api_version())] {
        match object.remove(field) {
            Some(Value::String(given)) if given != expected && !given.is_empty() => {
                return Err(Refusal::bad_request(format!(
                    "the {field} in the data ({given}) does not match the expected {field} ({expected})"
                )));
            }
            _ => {}
        }
    }
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    if metadata.is_null() {
        *metadata = json!({});
    }
    let Some(metadata) = metadata.as_object_mut() else {
        return Err(Refusal::bad_request("metadata is not an object"));
    };
    for field in ["annotations", "labels"] {
        match metadata.get(field) {
            Some(Value::Null) => {
                metadata.remove(field);
            }
            Some(Value::Object(values)) if values.values().all(Value::is_string) => {}
            None => {}
            Some(_) => return Err(Refusal::bad_request(format!("metadata.{field} must be a map of strings"))),
        }
    }
    if resource.group == "events.k8s.io" {
        rename(object, |(new, _)| new, |(_, old)| old);
    }
    Ok(body)
}

/// How a stored object is answered.
pub(super) fn present(resource: &Resource, stored: &Value) -> Value {
    let mut object = stored.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.insert("kind".to_owned(), Value::String(resource.kind.to_owned()));
        fields.insert("apiVersion".to_owned(), Value::String(resource.api_version()));
        if resource.group == "events.k8s.io" {
            rename(fields, |(_, old)| old, |(new, _)| new);
        }
    }
    object
}

/// What the two event groups call the same things: events.k8s.io, core. Stored as core.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
    ("deprecatedCount", "count"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
];

type Names = (&'static str, &'static str);

fn rename(fields: &mut Map<String, Value>, from: fn(Names) -> &'static str, to: fn(Names) -> &'static str) {
    for names in EVENT_FIELDS {
        if let Some(value) = fields.remove(from(names)) {
            fields.insert(to(names).to_owned(), value);
        }
    }
}

/// Whether a name may stand in a path: a lower-case DNS subdomain.
fn is_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

/// What is wrong with the metadata of any object.
pub(super) fn metadata_causes(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let name = meta(object, "name");
    if name.is_empty() {
        causes.push(Cause::new("metadata.name", "Required value: name or generateName is required"));
    } else if !is_name(name) {
        causes.push(Cause::new(
            "metadata.name",
            format!(
                "Invalid value: {name:?}: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
                     characters, '-' or '.', and must start and end with an alphanumeric character"
            ),
        ));
    }
    // The original judges the prefix by itself, with an ending dash taken for a letter.
    let prefix = meta(object, "generateName");
    let masked = prefix.strip_suffix('-').map_or_else(|| prefix.to_owned(), |stem| format!("{stem}a"));
    if !prefix.is_empty() && !is_name(&masked) {
        causes.push(Cause::new(
            "metadata.generateName",
            format!(
                "Invalid value: {prefix:?}: a lowercase RFC 1123 subdomain must end with an alphanumeric character"
            ),
        ));
    }
    for field in ["annotations", "labels"] {
        for (key, value) in object["metadata"][field].as_object().into_iter().flatten() {
            let short = key.rsplit('/').next().unwrap_or_default();
            let well_formed = short.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if short.is_empty() || short.len() > 63 || !well_formed || key.matches('/').count() > 1 {
                causes.push(Cause::new(
                    format!("metadata.{field}"),
                    format!("Invalid value: {key:?}: name part must consist of alphanumeric characters, '-', '_' or '.', and \
                             must be no more than 63 characters"),
                ));
            }
            if field == "labels" && value.as_str().is_some_and(|v| v.len() > 63) {
                causes.push(Cause::new(
                    "metadata.labels",
                    format!("Invalid value: {value}: must be no more than 63 characters"),
                ));
            }
        }
    }
    let annotations: usize = object["metadata"]["annotations"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if annotations > 256 * 1024 {
        causes.push(Cause::new("metadata.annotations", "Too long: may not be more than 262144 bytes"));
    }
    causes
}

/// Events carry the namespace of what they are about; the newer group insists on more.
pub(super) fn event_causes(resource: &Resource, event: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let about = event["involvedObject"]["namespace"].as_str().unwrap_or_default();
    let namespace = meta(event, "namespace");
    if about != namespace && !(about.is_empty() && namespace == "default") {
        causes.push(Cause::new(
            "involvedObject.namespace",
            format!("Invalid value: {about:?}: does not match event.namespace"),
        ));
    }
    if resource.group == "events.k8s.io" {
        for (stored, field) in [
            ("eventTime", "eventTime"),
            ("reportingComponent", "reportingController"),
            ("reportingInstance", "reportingInstance"),
            ("action", "action"),
            ("reason", "reason"),
        ] {
            if event[stored].as_str().unwrap_or_default().is_empty() {
                causes.push(Cause::new(field, "Required value"));
            }
        }
        if event["message"].as_str().is_some_and(|note| note.len() > 1024) {
            causes.push(Cause::new("note", "Invalid value: can have at most 1024 characters"));
        }
    }
    causes
}

/// Fields that belong to the server: what a client sends at creation is dropped.
pub(super) fn wipe_system_fields(object: &mut Value) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in
            ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields"]
        {
            metadata.remove(field);
        }
    }
}

/// Carries over what an update cannot change, and checks the preconditions an update states by what it sends.
pub(super) fn check_update(resource: &Resource, old: &Value, new: &mut Value, is_put: bool) -> Result<(), Refusal> {
    let name = meta(old, "name").to_owned();
    let conflict = |why: &str| Refusal::conflict(resource, &resource.qualified(), &name, why);
    let sent = meta(new, "resourceVersion");
    if sent.is_empty() {
        if is_put && !resource.unconditional_update {
            let cause = Cause::new("metadata.resourceVersion", "Invalid value: 0x0: must be specified for an update");
            return Err(Refusal::invalid(resource, &name, &[cause]));
        }
    } else if sent != meta(old, "resourceVersion") {
        return Err(conflict(
            "the object has been modified; please apply your changes to the latest version and try again",
        ));
    }
    let uid = meta(new, "uid");
    if !uid.is_empty() && uid != meta(old, "uid") {
        return Err(conflict(&format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta(old, "uid")
        )));
    }
    for field in ["name", "namespace"] {
        if meta(new, field) != meta(old, field) {
            let cause = Cause::new(format!("metadata.{field}"), "Invalid value: field is immutable");
            return Err(Refusal::invalid(resource, &name, &[cause]));
        }
    }
    for field in [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
    ] {
        match old["metadata"].get(field) {
            Some(value) => new["metadata"][field] = value.clone(),
            None => {
                if let Some(metadata) = new["metadata"].as_object_mut() {
                    metadata.remove(field);
                }
            }
        }
    }
    Ok(())
}

/// The answer to `GET /api`, `/apis` and the lists of kinds below them, which kubectl and curl users ask first.
pub(super) fn discovery(path: &str) -> Option<Value> {
    let mut groups: Vec<&str> = RESOURCES.iter().map(|r| r.group).filter(|group| !group.is_empty()).collect();
    groups.sort_unstable();
    groups.dedup();
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let list = |group: &str, version: &str| {
        let kinds: Vec<&Resource> = RESOURCES.iter().filter(|r| r.group == group && r.version == version).collect();
        let first = kinds.first()?;
        let resources: Vec<Value> = kinds
            .iter()
            .map(|r| {
                json!({"name": r.plural, "singularName": r.singular, "namespaced": r.namespaced, "kind": r.kind,
                    "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]})
            })
            .collect();
        Some(
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": first.api_version(), "resources": resources}),
        )
    };
    let group_entry = |group: &str| {
        let version = json!({"groupVersion": format!("{group}/v1"), "version": "v1"});
        json!({"name": group, "versions": [version], "preferredVersion": version})
    };
    match segments.as_slice() {
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        ["apis"] => Some(json!({"kind": "APIGroupList", "apiVersion": "v1",
            "groups": groups.iter().map(|group| group_entry(group)).collect::<Vec<_>>()})),
        ["api", version] => list("", version),
        ["apis", group, version] => list(group, version),
        ["apis", group] if groups.contains(group) => {
            let mut entry = group_entry(group);
            entry["kind"] = json!("APIGroup");
            entry["apiVersion"] = json!("v1");
            Some(entry)
        }
        _ => None,
    }
}
