//! The cases of each runtime: the change is the one in the case, a second run changes nothing, and everything that is not about the
//! registered runtime is the same afterwards.

use packhorse::runtime::{Edit, Plan, Refusal};
use serde_json::{Map, Value};

use super::case::{self, Case};

/// A real number of cases; fewer means that a folder was not found.
const ENOUGH: usize = 25;

fn run(folder: &str, plan: impl Fn(&Case) -> Result<Plan, Refusal>, allowed: impl Fn(&Case, &Edit) -> Vec<String>) {
    let cases = case::all(folder);
    assert!(cases.len() >= ENOUGH, "{folder}: {} cases", cases.len());
    for case in cases {
        let outcome = plan(&case);
        case.compare(&outcome);
        let Ok(outcome) = outcome else { continue };
        for edit in &outcome.edits {
            only_allowed(&case, edit, &allowed(&case, edit));
            assert_ne!(edit.diff(), "", "{}: an empty change", case.name);
        }
        let again = plan(&case.after(&outcome.edits)).unwrap_or_else(|error| panic!("{}, again: {error}", case.name));
        assert!(again.edits.is_empty(), "{}: a second run changes {}", case.name, again.edits[0].diff());
        assert_eq!(again.program, outcome.program, "{}", case.name);
    }
}

#[test]
fn containerd_changes_only_what_was_asked() {
    run("containerd", Case::plan_containerd, |case, edit| {
        let before = edit.before.as_deref().unwrap_or_default();
        let name = case.wanted().name;
        let mut allowed = vec!["imports".to_owned()];
        if !before.lines().any(|line| line.starts_with("version")) {
            allowed.push("version".to_owned());
        }
        for plugin in ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"] {
            allowed.push(format!("plugins/{plugin}/containerd/runtimes/{name}"));
            allowed.push(format!("plugins/{plugin}/containerd/default_runtime_name"));
            allowed.push(format!("plugins/{plugin}/enable_cdi"));
            // Added where no runtime is named at all; never changed.
            if !before.contains("runtimes.runc") {
                allowed.push(format!("plugins/{plugin}/containerd/runtimes/runc"));
            }
        }
        allowed
    });
}

#[test]
fn docker_changes_only_what_was_asked() {
    run("docker", Case::plan_docker, |case, _| {
        vec![format!("runtimes/{}", case.wanted().name), "default-runtime".to_owned(), "features/cdi".to_owned()]
    });
}

#[test]
fn crio_changes_only_what_was_asked() {
    run("crio", Case::plan_crio, |case, _| {
        vec![format!("crio/runtime/runtimes/{}", case.wanted().name), "crio/runtime/default_runtime".to_owned()]
    });
}

#[test]
fn rancher_changes_only_what_was_asked() {
    // Templates are no TOML: their differences are all there is to compare here; `cluster/runtime_configure.rs` renders them.
    run("rancher", Case::plan_rancher, |_, _| Vec::new());
}

/// Everything else has the same meaning, and new files hold nothing else but what the files had that they repeat.
fn only_allowed(case: &Case, edit: &Edit, allowed: &[String]) {
    let Some(parse) = parser(edit) else { return };
    let before = edit.before.as_deref().map_or(Value::Object(Map::new()), parse);
    let mut after = parse(&edit.after);
    if edit.before.is_none() {
        after.as_object_mut().unwrap().remove("version");
        let repeated = case.files.iter().filter_map(|file| file.text.as_deref()).map(parse).collect::<Vec<_>>();
        let mut changes = Vec::new();
        compare(&mut Vec::new(), &before, &after, allowed, &mut changes);
        for change in changes {
            let pointer = format!("/{}", change.replace('~', "~0"));
            let there = repeated
                .iter()
                .any(|file| file.pointer(&pointer).is_some() && file.pointer(&pointer) == after.pointer(&pointer));
            assert!(there, "{}: {change} is new", case.name);
        }
        return;
    }
    let mut changes = Vec::new();
    compare(&mut Vec::new(), &before, &after, allowed, &mut changes);
    assert!(changes.is_empty(), "{}: {changes:?} changed", case.name);
}

fn parser(edit: &Edit) -> Option<fn(&str) -> Value> {
    match edit.path.extension()?.to_str()? {
        "json" => Some(|text| {
            if text.trim().is_empty() { Value::Object(Map::new()) } else { serde_json::from_str(text).expect("JSON") }
        }),
        "toml" | "conf" => Some(|text| of_toml(text.parse::<toml_edit::DocumentMut>().expect("TOML").as_item())),
        _ => None,
    }
}

fn of_toml(item: &toml_edit::Item) -> Value {
    if let Some(table) = item.as_table_like() {
        return Value::Object(table.iter().map(|(key, item)| (key.to_owned(), of_toml(item))).collect());
    }
    if let Some(tables) = item.as_array_of_tables() {
        return tables.iter().map(|table| of_toml(&toml_edit::Item::Table(table.clone()))).collect();
    }
    if let Some(array) = item.as_array() {
        return array.iter().map(|value| of_toml(&toml_edit::Item::Value(value.clone()))).collect();
    }
    item.as_str()
        .map(Value::from)
        .or(item.as_bool().map(Value::from))
        .or(item.as_integer().map(Value::from))
        .unwrap_or_else(|| {
            // What is left are numbers and dates, which nobody changes.
            Value::from(item.to_string().trim())
        })
}

fn compare(path: &mut Vec<String>, before: &Value, after: &Value, allowed: &[String], changes: &mut Vec<String>) {
    let here = path.join("/");
    if before == after || allowed.contains(&here) {
        return;
    }
    let towards = here.is_empty() || allowed.iter().any(|place| place.starts_with(&format!("{here}/")));
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for key in before.keys().chain(after.keys().filter(|key| !before.contains_key(*key))) {
                path.push(key.clone());
                let nothing = Value::Null;
                compare(
                    path,
                    before.get(key).unwrap_or(&nothing),
                    after.get(key).unwrap_or(&nothing),
                    allowed,
                    changes,
                );
                path.pop();
            }
        }
        (Value::Null, Value::Object(_)) if towards => {
            compare(path, &Value::Object(Map::new()), after, allowed, changes)
        }
        _ => changes.push(here),
    }
}
