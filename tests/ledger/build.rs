//! Objects as the API server would send them, and short questions to the ledger.

use packhorse::gpu::allocation::{Allocation, ContainerAllocation, Holding, Share};
use packhorse::gpu::device::Enforcement;
use packhorse::gpu::node::{Node, Usage};
use packhorse::gpu::reason::Reason;
use packhorse::kube_api::allocation;
use packhorse::ledger::{BookError, BookingPod, Ledger, NodeState};
use serde_json::{Value, json};

/// A device of 10,000 MiB and 10 slots.
pub(super) fn device(number: usize) -> Value {
    json!({"uuid": format!("GPU-{number}"), "index": number, "model": "NVIDIA T4", "memory": 10000, "cores": 100, "slots": 10,
        "numa": -1, "pci": format!("0000:{number:02x}:00.0"), "health": "healthy", "enforcement": "advisory"})
}

/// A node with these devices.
pub(super) fn node(name: &str, devices: &[usize]) -> Value {
    let devices: Vec<Value> = devices.iter().map(|number| device(*number)).collect();
    json!({"metadata": {"name": name, "uid": format!("uid-{name}"), "annotations": {
        "packhorse.dev/inventory": json!({"v": 1, "ready": true, "devices": devices}).to_string()}},
        "status": {"allocatable": {"cpu": "8", "memory": "64Gi"}, "conditions": [{"type": "Ready", "status": "True"}]}})
}

/// A pending pod with one GPU container, `main`, and one CPU.
pub(super) fn pending(uid: &str) -> Value {
    json!({"metadata": {"name": format!("pod-{uid}"), "namespace": "ns", "uid": uid},
        "spec": {"containers": [{"name": "main", "image": "image", "resources": {
            "limits": {"nvidia.com/gpu": "1", "packhorse.dev/gpu-cores": "0"}, "requests": {"cpu": "1", "memory": "1Gi"}}}]},
        "status": {"phase": "Pending"}})
}

/// 1000 MiB of device `number` for `main`.
pub(super) fn share(number: usize) -> Allocation {
    let share = Share {
        device: format!("GPU-{number}").into(),
        memory: 1000,
        cores: 10,
        exclusive: false,
        enforcement: Enforcement::Advisory,
    };
    Allocation { containers: vec![ContainerAllocation { name: "main".into(), shares: vec![share] }] }
}

/// The same pod, bound.
pub(super) fn bound(uid: &str, node: &str, allocation: &Allocation) -> Value {
    let mut pod = pending(uid);
    pod["spec"]["nodeName"] = json!(node);
    for (key, value) in allocation::annotations(allocation) {
        pod["metadata"]["annotations"][key] = json!(value);
    }
    pod
}

pub(super) fn apply_node(ledger: &Ledger, node: &Value) {
    ledger.apply_node(&serde_json::from_str(&node.to_string()).unwrap());
}

pub(super) fn apply_pod(ledger: &Ledger, pod: &Value) {
    ledger.apply_pod(&serde_json::from_str(&pod.to_string()).unwrap());
}

pub(super) fn remove_pod(ledger: &Ledger, pod: &Value) {
    ledger.remove_pod(&serde_json::from_str(&pod.to_string()).unwrap());
}

pub(super) fn replace_pods(ledger: &Ledger, pods: &[Value]) {
    let texts: Vec<String> = pods.iter().map(Value::to_string).collect();
    let views: Vec<_> = texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    ledger.replace_pods(&views);
}

pub(super) fn replace_nodes(ledger: &Ledger, nodes: &[Value]) {
    let texts: Vec<String> = nodes.iter().map(Value::to_string).collect();
    let views: Vec<_> = texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    ledger.replace_nodes(&views);
}

/// A ledger with these nodes and nothing on them.
pub(super) fn ledger(nodes: &[Value]) -> Ledger {
    let ledger = Ledger::default();
    for node in nodes {
        apply_node(&ledger, node);
    }
    ledger
}

/// The node as placement sees it now.
pub(super) fn usable(ledger: &Ledger, name: &str) -> Node {
    match &ledger.node(name).expect("the node is known").snapshot().state {
        NodeState::Usable(node) => node.clone(),
        other => panic!("{name} is {other:?}"),
    }
}

/// What is booked on one device of a node.
pub(super) fn usage(ledger: &Ledger, name: &str, number: usize) -> Usage {
    let node = usable(ledger, name);
    let uuid = format!("GPU-{number}");
    let position = node.devices.iter().position(|device| *device.uuid == *uuid).expect("the device is listed");
    node.usage[position]
}

/// MiB booked on one device.
pub(super) fn memory(ledger: &Ledger, name: &str, number: usize) -> u32 {
    usage(ledger, name, number).memory
}

pub(super) fn booking(uid: &str) -> BookingPod {
    BookingPod {
        uid: uid.into(),
        namespace: "ns".into(),
        name: format!("pod-{uid}").into(),
        cpu: 1000,
        memory: 1 << 30,
    }
}

/// The holdings of an allocation whose containers all run at once.
pub(super) fn holdings(allocation: &Allocation) -> Vec<Holding> {
    allocation.holdings(&[])
}

/// Books 1000 MiB of device `number`, asking nothing of the node.
pub(super) fn book(ledger: &Ledger, node: &str, uid: &str, number: usize) -> Result<Allocation, BookError> {
    ledger.book(node, &booking(uid), |_| Ok::<_, Reason>((share(number), holdings(&share(number)))))
}
