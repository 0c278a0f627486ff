//! The container runtime's part: it looks up the CDI devices that the kubelet names, and so decides what a container sees. Written
//! after the CDI specification, without a line of the agent's: a mistake there cannot hide itself here.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::fleet::SimNode;
use super::node_kubelet::RunOptions;

/// The UUIDs of the devices that a container of `node` finds when it is created.
///
/// # Errors
/// The runtime does not create it: a CDI device that no specification describes, or two do.
pub(super) fn create(node: &SimNode, options: &RunOptions, cdi_dir: &Path) -> Result<BTreeSet<String>, String> {
    let mut visible = options.envs.get("NVIDIA_VISIBLE_DEVICES").cloned();
    let mut nodes: Vec<String> = options.devices.iter().map(|device| device.host_path.clone()).collect();
    for name in &options.cdi_devices {
        let edits = edits(name, cdi_dir)?;
        for entry in strings(&edits["env"], None) {
            if let Some(value) = entry.strip_prefix("NVIDIA_VISIBLE_DEVICES=") {
                visible = Some(value.to_owned());
            }
        }
        nodes.extend(strings(&edits["deviceNodes"], Some("path")));
    }
    let visible = visible.unwrap_or_default();
    let named = visible.split(',').filter(|name| !matches!(*name, "" | "void" | "none")).map(str::to_owned);
    let by_node = nodes.iter().filter_map(|path| node.card_of_node(path));
    Ok(by_node.chain(named).collect())
}

/// What is done to the container for one CDI device.
fn edits(qualified: &str, directory: &Path) -> Result<Value, String> {
    let unresolvable = || format!("CDI device injection failed: unresolvable CDI devices {qualified}");
    let (kind, name) = qualified.split_once('=').ok_or_else(unresolvable)?;
    let mut found = None;
    for entry in fs::read_dir(directory).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        // Removed since it was listed: as if it had not been there.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let mut file: Value = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        if file["kind"] != kind {
            continue;
        }
        let devices = file["devices"].as_array_mut().into_iter().flatten();
        for device in devices.filter(|device| device["name"] == name) {
            if found.replace(device["containerEdits"].take()).is_some() {
                return Err(format!("conflicting specifications of CDI device {qualified}"));
            }
        }
    }
    found.ok_or_else(unresolvable)
}

/// The strings of a list, or of one field of its entries.
fn strings(list: &Value, field: Option<&str>) -> Vec<String> {
    let entries = list.as_array().into_iter().flatten();
    let text = |entry: &Value| field.map_or(entry, |field| &entry[field]).as_str().map(str::to_owned);
    entries.filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fleet::fleet;
    use super::*;

    const NAME: &str = "packhorse.dev/gpu=0a1b";

    fn see(files: &[(&str, &Value)], device: &str) -> Result<Vec<String>, String> {
        let directory = tempfile::tempdir().unwrap();
        for (name, edits) in files {
            let file = json!({"cdiVersion": "0.6.0", "kind": "packhorse.dev/gpu", "devices": [{"name": "0a1b", "containerEdits": edits}]});
            fs::write(directory.path().join(name), file.to_string()).unwrap();
        }
        let options = RunOptions {
            envs: [("NVIDIA_VISIBLE_DEVICES".to_owned(), "void".to_owned())].into(),
            cdi_devices: vec![device.to_owned()],
            ..RunOptions::default()
        };
        create(&fleet(1, 4)[0], &options, directory.path()).map(|devices| devices.into_iter().collect())
    }

    #[test]
    fn a_container_sees_what_its_specification_names_and_nothing_else() {
        let card = |index| fleet(1, 4)[0].uuid(index);
        let by_name = json!({"env": [format!("NVIDIA_VISIBLE_DEVICES={},{}", card(2), card(1))]});
        assert_eq!(see(&[("a.json", &by_name)], NAME), Ok(vec![card(1), card(2)]));
        let by_node = json!({"env": ["NVIDIA_VISIBLE_DEVICES=void"], "deviceNodes": [{"path": "/dev/nvidiactl"}, {"path": "/dev/nvidia3"}]});
        assert_eq!(see(&[("a.json", &by_node)], NAME), Ok(vec![card(3)]));
    }

    #[test]
    fn without_exactly_one_specification_there_is_no_container() {
        let edits = json!({"env": ["NVIDIA_VISIBLE_DEVICES=GPU-x"]});
        assert!(see(&[], NAME).unwrap_err().contains("unresolvable"));
        assert!(see(&[("a.tmp", &edits)], NAME).unwrap_err().contains("unresolvable"));
        assert!(see(&[("a.json", &edits)], "packhorse.dev/gpu=0a1c").unwrap_err().contains("unresolvable"));
        assert!(see(&[("a.json", &edits), ("b.json", &edits)], NAME).unwrap_err().contains("conflicting"));
    }
}
