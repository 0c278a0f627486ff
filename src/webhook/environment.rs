//! `NVIDIA_VISIBLE_DEVICES` as the webhook sets it: its own devices on a GPU container, `void` on others.

use serde::Serialize;

use crate::kube_api::names;
use crate::kube_api::pod::EnvView;
use crate::kube_api::request::devices_field_path;

use super::patch::Patch;
use super::subject::{self, Subject, Visible};

#[derive(Serialize)]
struct Literal {
    name: &'static str,
    value: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    name: &'static str,
    value_from: Source,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    field_ref: FieldRef,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FieldRef {
    api_version: &'static str,
    field_path: String,
}

/// Names the container's own devices, by reference to an annotation that the Binding will write. Until then, and for ever where
/// it is never written, the reference yields the empty string: no GPU.
pub(super) fn own_devices(container: &Subject<'_, '_>, patch: &mut Patch) {
    let field_ref = FieldRef { api_version: "v1", field_path: devices_field_path(container.name()) };
    let value = Reference { name: names::VISIBLE_DEVICES, value_from: Source { field_ref } };
    let right = |env: &EnvView<'_>| subject::entry(container.name(), env) == Visible::Ours;
    set(container, &value, right, patch);
}

/// Says that the container sees no GPU, unless it says so itself.
pub(super) fn void(container: &Subject<'_, '_>, patch: &mut Patch) {
    let value = Literal { name: names::VISIBLE_DEVICES, value: "void" };
    let right = |env: &EnvView<'_>| subject::entry(container.name(), env) == Visible::Nothing;
    set(container, &value, right, patch);
}

/// A variable may stand more than once (the last counts), so every entry that is not `right` is replaced.
fn set(container: &Subject<'_, '_>, value: &impl Serialize, right: impl Fn(&EnvView<'_>) -> bool, patch: &mut Patch) {
    let path = container.path;
    let Some(entries) = container.view.env.as_deref() else {
        patch.add((path, "/env"), &[value]);
        return;
    };
    let mut found = false;
    for (index, _) in entries
        .iter()
        .enumerate()
        .filter(|(_, env)| &*env.name == names::VISIBLE_DEVICES)
        .inspect(|_| found = true)
        .filter(|(_, env)| !right(env))
    {
        patch.replace((path, ("/env/", index)), value);
    }
    if !found {
        patch.add((path, "/env/-"), value);
    }
}
