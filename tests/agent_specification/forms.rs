//! What is in a specification, by form and strategy.

use std::fs;
use std::path::PathBuf;

use insta::assert_json_snapshot;
use packhorse::agent::options::{DeviceIdStrategy, Strategy};
use packhorse::agent::specification::{Detection, Form};
use serde_json::json;

use super::node::{HOST, Node, card, container, instance};

#[test]
fn env_names_the_devices_and_brings_no_nodes() {
    let node = Node::new(Form::Env, Some(HOST));
    assert_json_snapshot!(node.written(&[card("GPU-b", 1, 1), card("GPU-a", 0, 0), instance()]).unwrap(), @r#"
    {
      "annotations": {
        "packhorse.dev/container": "main",
        "packhorse.dev/pod-uid": "u1",
        "packhorse.dev/slots": "GPU-x::0"
      },
      "cdiVersion": "0.6.0",
      "devices": [
        {
          "containerEdits": {
            "env": [
              "NVIDIA_VISIBLE_DEVICES=GPU-b,GPU-a,MIG-7"
            ]
          },
          "name": "NAME"
        }
      ],
      "kind": "packhorse.dev/gpu"
    }
    "#);
}

#[test]
fn full_is_what_the_host_says_and_void() {
    let node = Node::new(Form::Full, Some(HOST));
    assert_json_snapshot!(node.written(&[card("GPU-a", 0, 0), card("GPU-b", 1, 1)]).unwrap(), @r#"
    {
      "annotations": {
        "packhorse.dev/container": "main",
        "packhorse.dev/pod-uid": "u1",
        "packhorse.dev/slots": "GPU-x::0"
      },
      "cdiVersion": "0.6.0",
      "devices": [
        {
          "containerEdits": {
            "deviceNodes": [
              {
                "path": "/dev/nvidia-uvm"
              },
              {
                "path": "/dev/nvidiactl"
              },
              {
                "path": "/dev/nvidia0"
              },
              {
                "fileMode": 438,
                "path": "/dev/dri/card1",
                "permissions": "rw"
              },
              {
                "hostPath": "/run/nvidia/driver/dev/nvidia1",
                "path": "/dev/nvidia1"
              }
            ],
            "env": [
              "NVIDIA_CTK_LIBCUDA_DIR=/usr/lib/x86_64-linux-gnu",
              "NVIDIA_VISIBLE_DEVICES=void"
            ],
            "hooks": [
              {
                "args": [
                  "nvidia-cdi-hook",
                  "update-ldcache",
                  "--folder",
                  "/usr/lib/x86_64-linux-gnu"
                ],
                "env": [
                  "NVIDIA_CTK_DEBUG=false"
                ],
                "hookName": "createContainer",
                "path": "/usr/bin/nvidia-cdi-hook"
              }
            ],
            "mounts": [
              {
                "containerPath": "/usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05",
                "hostPath": "/usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05",
                "options": [
                  "ro",
                  "nosuid",
                  "nodev",
                  "rbind",
                  "rprivate"
                ]
              }
            ],
            "newer": {
              "field": 1
            },
            "somethingNew": {
              "kept": true
            }
          },
          "name": "NAME"
        }
      ],
      "kind": "packhorse.dev/gpu"
    }
    "#);
}

#[test]
fn none_writes_nothing() {
    let node = Node::new(Form::None, Some(HOST));
    let one = container("u1", "main", &["GPU-a::0"], &[card("GPU-a", 0, 0)]);
    node.specifications().write(&one).unwrap();
    assert!(!node.settings.cdi_dir.exists());
}

#[test]
fn indices_name_cards_and_uuids_mig_instances() {
    let mut node = Node::new(Form::Env, None);
    node.settings.device_ids = DeviceIdStrategy::Index;
    let written = node.written(&[card("GPU-b", 3, 1), instance()]).unwrap();
    assert_eq!(written["devices"][0]["containerEdits"], json!({"env": ["NVIDIA_VISIBLE_DEVICES=3,MIG-7"]}));
}

#[test]
fn device_specs_bring_the_nodes_of_the_device_alone() {
    let mut node = Node::new(Form::Env, None);
    node.settings.pass_device_specs = true;
    node.settings.dev_root = PathBuf::from("/run/nvidia/driver");
    assert_json_snapshot!(node.written(&[card("GPU-b", 0, 4), instance()]).unwrap()["devices"], @r#"
    [
      {
        "containerEdits": {
          "deviceNodes": [
            {
              "hostPath": "/run/nvidia/driver/dev/nvidia4",
              "path": "/dev/nvidia4",
              "permissions": "rw"
            },
            {
              "hostPath": "/run/nvidia/driver/dev/nvidia2",
              "path": "/dev/nvidia2",
              "permissions": "rw"
            },
            {
              "hostPath": "/run/nvidia/driver/dev/nvidia-caps/nvidia-cap66",
              "path": "/dev/nvidia-caps/nvidia-cap66",
              "permissions": "rw"
            },
            {
              "hostPath": "/run/nvidia/driver/dev/nvidia-caps/nvidia-cap67",
              "path": "/dev/nvidia-caps/nvidia-cap67",
              "permissions": "rw"
            }
          ],
          "env": [
            "NVIDIA_VISIBLE_DEVICES=GPU-b,MIG-7"
          ]
        },
        "name": "NAME"
      }
    ]
    "#);
    // Where the driver lists no capabilities there are none to pass.
    node.settings.mig_minors = node.path("absent");
    let edits = &node.written(&[instance()]).unwrap()["devices"][0]["containerEdits"];
    assert_eq!(edits["deviceNodes"].as_array().unwrap().len(), 1);
}

#[test]
fn an_instance_that_the_driver_no_longer_lists_is_refused() {
    let mut node = Node::new(Form::Env, None);
    node.settings.pass_device_specs = true;
    node.write_host("mig-minors", "gpu2/gi1/access 30\n");
    let error = node.written(&[instance()]).unwrap_err();
    assert!(error.contains("gpu2/gi7/access") && error.contains("MIG-7"), "{error}");
}

#[test]
fn volume_mounts_name_the_devices_by_files() {
    let mut node = Node::new(Form::Env, Some(HOST));
    node.settings.strategies = vec![Strategy::VolumeMounts];
    assert_json_snapshot!(node.written(&[card("GPU-a", 0, 0)]).unwrap()["devices"], @r#"
    [
      {
        "containerEdits": {
          "env": [
            "NVIDIA_VISIBLE_DEVICES=/var/run/nvidia-container-devices"
          ],
          "mounts": [
            {
              "containerPath": "/var/run/nvidia-container-devices/GPU-a",
              "hostPath": "/dev/null",
              "options": [
                "ro",
                "nosuid",
                "nodev",
                "rbind",
                "rprivate"
              ]
            }
          ]
        },
        "name": "NAME"
      }
    ]
    "#);
    // With everything injected already the runtime's variable stays void.
    node.settings.form = Form::Full;
    let edits = &node.written(&[card("GPU-a", 0, 0)]).unwrap()["devices"][0]["containerEdits"];
    assert_eq!(edits["env"].as_array().unwrap().last().unwrap(), "NVIDIA_VISIBLE_DEVICES=void");
    assert_eq!(edits["mounts"].as_array().unwrap().last().unwrap()["hostPath"], "/dev/null");
}

#[test]
fn the_form_follows_the_host_s_specification() {
    let node = Node::new(Form::Env, None);
    let detection = Detection { runtime: "containerd://2.1.4".to_owned(), ..Detection::default() };
    let detected = |node: &Node| detection.detect(&node.settings.host_dirs, &node.settings.cdi_dir).form;
    assert_eq!(detected(&node), Form::Env);
    let specifications = node.specifications();
    let one = container("u1", "main", &["GPU-a::0"], &[card("GPU-a", 0, 0)]);
    specifications.write(&one).unwrap();
    assert_eq!(specifications.look(&detection), None);
    node.write_host("etc/nvidia.yaml", HOST);
    assert_eq!(specifications.look(&detection).unwrap().form, Form::Full);
    assert_eq!(specifications.look(&detection), None);
    assert_eq!(detected(&node), Form::Full);
    specifications.write(&one).unwrap();
    assert_eq!(node.read(&one.name)["devices"][0]["containerEdits"]["somethingNew"], json!({"kept": true}));
    fs::remove_file(node.path("etc/nvidia.yaml")).unwrap();
    assert_eq!(specifications.look(&detection).unwrap().form, Form::Env);
}

#[test]
fn a_form_that_allocate_would_have_to_know_of_stays() {
    let node = Node::new(Form::None, Some(HOST));
    let specifications = node.specifications();
    let newer = Detection { runtime: "containerd://2.1.4".to_owned(), ..Detection::default() };
    assert_eq!(specifications.look(&newer), None);
    assert_eq!(specifications.form(), Form::None);
    let configured = Detection { configured: Some(Form::Full), ..newer };
    let node = Node::new(Form::Full, None);
    assert_eq!(node.specifications().look(&configured), None, "what is configured needs no host specification");
}

#[test]
fn containerds_configuration_is_read_where_it_is_at_hand() {
    let node = Node::new(Form::Env, Some(HOST));
    node.write_host("config.toml", "version = 2\n[plugins.'io.containerd.grpc.v1.cri']\n  enable_cdi = true\n");
    for (config, form) in [(None, Form::None), (Some("config.toml"), Form::Full), (Some("absent.toml"), Form::None)] {
        let detection = Detection {
            runtime: "containerd://1.7.27".to_owned(),
            containerd_config: config.map(|name| node.path(name)),
            configured: None,
        };
        assert_eq!(detection.detect(&node.settings.host_dirs, &node.settings.cdi_dir).form, form, "{config:?}");
    }
}
