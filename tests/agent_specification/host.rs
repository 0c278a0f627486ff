//! Reading the host's generated specification.

use std::fs;

use packhorse::agent::specification::Form;
use serde_json::{Value, json};

use super::node::{HOST, Node, card, container, instance};

/// The device nodes of the container, or the error.
fn nodes(node: &Node, devices: &[(packhorse::gpu::device::Device, packhorse::agent::backend::Card)]) -> Vec<String> {
    let written = node.written(devices).unwrap();
    let nodes = written["devices"][0]["containerEdits"]["deviceNodes"].as_array().unwrap();
    nodes.iter().map(|node| node["path"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn json_and_yaml_say_the_same() {
    let value: Value = serde_saphyr::from_str(HOST).unwrap();
    let (yaml, json) = (Node::new(Form::Full, Some(HOST)), Node::new(Form::Full, None));
    json.write_host("etc/nvidia.json", &value.to_string());
    let devices = [card("GPU-a", 0, 0), instance()];
    assert_eq!(yaml.written(&devices).unwrap(), json.written(&devices).unwrap());
}

#[test]
fn a_mig_instance_is_told_by_its_capabilities_where_the_host_numbers_them() {
    let node = Node::new(Form::Full, Some(HOST));
    assert_eq!(
        nodes(&node, &[instance()])[2..],
        ["/dev/nvidia2", "/dev/nvidia-caps/nvidia-cap66", "/dev/nvidia-caps/nvidia-cap67"]
    );
    let named = HOST.replace("\"2:1\"", "MIG-7").replace("nvidia-cap66", "nvidia-cap99");
    let node = Node::new(Form::Full, Some(&named));
    assert_eq!(nodes(&node, &[instance()])[3], "/dev/nvidia-caps/nvidia-cap99");
}

#[test]
fn a_missing_device_is_named_with_the_remedy() {
    let cases = [
        (Some(HOST), card("GPU-z", 7, 7), "etc/nvidia.yaml"),
        (
            Some("cdiVersion: 0.5.0\nkind: other.com/gpu\ndevices: []\n"),
            card("GPU-z", 0, 0),
            "/var/run/cdi/nvidia.yaml",
        ),
        (None, card("GPU-z", 0, 0), "/var/run/cdi/nvidia.yaml"),
        (
            Some("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices: null\ncontainerEdits: null"),
            card("GPU-z", 0, 0),
            "etc/nvidia.yaml",
        ),
    ];
    for (host, device, path) in cases {
        let error = Node::new(Form::Full, host).written(&[device]).unwrap_err();
        for part in ["GPU-z", "nvidia-ctk cdi generate --output=", path] {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    }
    // Without the driver's list a number does not tell which instance it is.
    let mut node = Node::new(Form::Full, Some(HOST));
    node.settings.mig_minors = node.path("absent");
    assert!(node.written(&[instance()]).unwrap_err().contains("MIG-7"));
}

#[test]
fn a_specification_older_than_the_cards_numbers_is_refused() {
    let node = Node::new(Form::Full, Some(HOST));
    // The second card was the first when the file was made.
    for device in [card("GPU-b", 0, 1), card("GPU-a", 0, 1)] {
        let error = node.written(&[device]).unwrap_err();
        for part in ["/dev/nvidia0", "/dev/nvidia1", "nvidia.yaml", "nvidia-ctk cdi generate"] {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    }
}

#[test]
fn a_later_directory_overrules_an_earlier_one() {
    let node = Node::new(Form::Full, Some(HOST));
    fs::create_dir(&node.settings.cdi_dir).unwrap();
    let newer = r#"{"cdiVersion":"1.0.0","kind":"nvidia.com/gpu","devices":[
        {"name":"GPU-a","containerEdits":{"deviceNodes":[{"path":"/dev/nvidia0"}]}}]}"#;
    node.write_host("run/nvidia.json", newer);
    let written = node.written(&[card("GPU-a", 0, 0)]).unwrap();
    assert_eq!(written["cdiVersion"], "1.0.0");
    assert_eq!(
        written["devices"][0]["containerEdits"],
        json!({"deviceNodes": [{"path": "/dev/nvidia0"}], "env": ["NVIDIA_VISIBLE_DEVICES=void"]})
    );
    // What only the other file has is taken from there.
    assert!(nodes(&node, &[card("GPU-b", 1, 1)]).contains(&"/dev/nvidia1".to_owned()));
}

#[test]
fn a_changed_file_counts_at_once_and_a_damaged_one_does_not() {
    let node = Node::new(Form::Full, Some(HOST));
    let specifications = node.specifications();
    let one = container("u1", "main", &["GPU-a::0"], &[card("GPU-a", 0, 0)]);
    let nodes = || {
        specifications.write(&one).unwrap();
        node.read(&one.name)["devices"][0]["containerEdits"]["deviceNodes"].as_array().unwrap().len()
    };
    assert_eq!(nodes(), 4);
    node.write_host("etc/nvidia.yaml", &HOST.replace("  - path: /dev/nvidiactl\n", ""));
    assert_eq!(nodes(), 3);
    for damaged in [
        "cdiVersion: 0.5.0\nkind: [",
        "kind: nvidia.com/gpu\n",
        "kind: nvidia.com/gpu\ncdiVersion: new\n",
        "",
        "---\n",
        "cdiVersion: 0.5.0\n",
        "cdiVersion: 0.5.0\nkind:\n",
        "[]",
    ] {
        node.write_host("etc/nvidia.yaml", damaged);
        assert_eq!(nodes(), 3, "{damaged}");
    }
    fs::remove_file(node.path("etc/nvidia.yaml")).unwrap();
    assert!(specifications.write(&one).is_err());
    // Damaged from the start: the error says so.
    node.write_host("etc/nvidia.yaml", "kind: [");
    let error = specifications.write(&one).unwrap_err().to_string();
    assert!(error.contains("nvidia.yaml: "), "{error}");
}
