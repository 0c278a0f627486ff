//! Pods that run on a real node: the probe's image, the host's network, no token.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::Node;

/// A container whose probe is called with these arguments, for example `["exit", "0"]` (`tests/lab/probe/main.go` has them all).
pub(crate) fn container(name: &str, arguments: &[&str], limits: &Value) -> Value {
    json!({
        "name": name,
        "image": "registry.example/probe:1",
        "imagePullPolicy": "Never",
        "args": arguments,
        "resources": {"limits": limits},
        "env": [
            {"name": "CONTAINER", "value": name},
            {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        ],
        "volumeMounts": [{"name": "records", "mountPath": "/records"}],
    })
}

/// The same as a sidecar: among the init containers it stays while the others come and go.
pub(crate) fn sidecar(name: &str, limits: &Value) -> Value {
    let mut container = container(name, &["sleep"], limits);
    container["restartPolicy"] = json!("Always");
    container
}

/// A pod that kube-scheduler binds to this node only.
pub(crate) fn pod(node: &Node, name: &str, init: &[Value], containers: &[Value]) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "schedulerName": "packhorse",
            "nodeSelector": {"kubernetes.io/hostname": node.name},
            "hostNetwork": true,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 5,
            "initContainers": init,
            "containers": containers,
            "volumes": [{"name": "records", "hostPath": {"path": node.records_dir, "type": "Directory"}}],
        },
    }))
    .expect("a Pod")
}
