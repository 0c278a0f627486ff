//! GPU nodes: inventory, agent, slots and totals, driver, container runtime. A node is a GPU node where it has an inventory, or where
//! labels say that it has a GPU.

use serde_json::Value;

use super::Finding;
use crate::agent::publish::deploy::{OPERANDS, UPGRADE, is_upgrade};
use crate::agent::specification::Form;
use crate::agent::specification::form::{Node as Known, detect};
use crate::gpu::device::{Health, Inventory};
use crate::gpu::quantity::Quantity;
use crate::kube_api::inventory;
use crate::kube_api::names::{DRIVER_LABEL, GPU_CORES, GPU_MEMORY, INVENTORY, MIG_STRATEGY_LABEL, NOT_READY_TAINT};

/// Labels by which a node says that it has a GPU, whoever set them.
const PRESENT: [&str; 3] = [
    "nvidia.com/gpu.present",
    "feature.node.kubernetes.io/pci-10de.present",
    "feature.node.kubernetes.io/pci-0302_10de.present",
];

/// How the GPU operator is told of drivers: `false`, `pre-installed`, or its own `true`.
const DEPLOY_DRIVER: &str = "nvidia.com/gpu.deploy.driver";

const AGENT: &str = "agent";
const INVENTORIES: &str = "inventory";
const SLOTS: &str = "slots";
const TOTALS: &str = "totals";
const DRIVER: &str = "driver";
const RUNTIME: &str = "container runtime";
const DEVICES: &str = "devices";

/// Judges all nodes. `prefix`: of the GPU resources.
pub fn judge(nodes: &[Value], prefix: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut served = 0;
    for node in nodes {
        if node["metadata"]["annotations"][INVENTORY].is_string() {
            served += 1;
            one(node, prefix, &mut findings);
        } else if is_gpu_node(node) {
            findings.push(Finding::wrong(
                AGENT,
                format!("node {} has a GPU and no inventory", name(node)),
                "look at the pod of DaemonSet packhorse-agent there; its nodeSelector and tolerations must let it onto the node",
            ));
        }
    }
    if served == 0 {
        let remedy = "start packhorse agent on the GPU nodes; the chart's DaemonSet goes where agent.nodeSelector says";
        findings.push(Finding::wrong(AGENT, "no node has an inventory", remedy));
    } else if findings.is_empty() {
        findings
            .push(Finding::ok(AGENT, format!("{served} nodes: ready, slots and totals allocatable{}", places(nodes))));
    }
    findings
}

/// Judges what matters before anything is installed: the container runtimes of GPU nodes.
pub fn before(nodes: &[Value]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let gpu_nodes: Vec<&Value> = nodes.iter().filter(|node| is_gpu_node(node)).collect();
    for node in &gpu_nodes {
        findings.extend(runtime(node));
    }
    if gpu_nodes.is_empty() {
        findings.push(Finding::note(
            AGENT,
            "no node is labelled as having a GPU",
            "label GPU nodes for agent.nodeSelector, or install node-feature-discovery",
        ));
    } else if findings.is_empty() {
        findings.push(Finding::ok(RUNTIME, format!("of {} GPU nodes: reads CDI", gpu_nodes.len())));
    }
    findings
}

fn one(node: &Value, prefix: &str, findings: &mut Vec<Finding>) {
    let name = name(node);
    let text = node["metadata"]["annotations"][INVENTORY].as_str().unwrap_or_default();
    let inventory = match inventory::decode(text) {
        Ok(decoded) => {
            if !decoded.unknown.is_empty() {
                findings.push(Finding::note(
                    INVENTORIES,
                    format!("node {name}: unknown fields {}", decoded.unknown.join(", ")),
                    "its agent is newer than this command",
                ));
            }
            decoded.value
        }
        Err(damaged) => {
            let remedy = "the agent writes it anew when it runs; look at its log";
            return findings.push(Finding::wrong(INVENTORIES, format!("node {name}: {damaged}"), remedy));
        }
    };
    if !inventory.ready {
        let label = |key: &str| node["metadata"]["labels"][key].as_str().unwrap_or_default();
        findings.push(if label(OPERANDS) == "false" {
            Finding::note(
                AGENT,
                format!("node {name} takes no GPU pods: label {OPERANDS}=false"),
                "remove the label to have it served",
            )
        } else if is_upgrade(label(UPGRADE)) {
            Finding::note(
                AGENT,
                format!("node {name} takes no GPU pods: {UPGRADE}={}", label(UPGRADE)),
                "the GPU operator renews the driver; where that stands still, look at its driver pod on the node",
            )
        } else {
            Finding::wrong(
                AGENT,
                format!("node {name}: the agent is not ready"),
                "look at the pod of DaemonSet packhorse-agent there: it starts, stops, or does not run",
            )
        });
    }
    let taints = node["spec"]["taints"].as_array().map(Vec::as_slice).unwrap_or_default();
    if inventory.ready && taints.iter().any(|taint| taint["key"] == NOT_READY_TAINT) {
        findings.push(Finding::wrong(
            AGENT,
            format!("node {name} still has the start-up taint {NOT_READY_TAINT}"),
            "the agent takes it off once all is written: look at its log, it may not patch nodes",
        ));
    }
    findings.extend(driver(node, &name, &inventory));
    devices(&name, &inventory, findings);
    allocatable(node, &name, &inventory, prefix, findings);
    findings.extend(runtime(node));
}

/// Whether there is one, and whether it is where the GPU operator was told that it is.
fn driver(node: &Value, name: &str, inventory: &Inventory) -> Option<Finding> {
    let label = |key: &str| node["metadata"]["labels"][key].as_str().unwrap_or_default();
    let (told, place) = (label(DEPLOY_DRIVER), label(DRIVER_LABEL));
    if inventory.driver.is_empty() {
        let remedy = match told {
            "pre-installed" => {
                "the label says that the host has one: install it, or remove the label to have the operator install one"
            }
            "false" => {
                "the label keeps the GPU operator from installing one: remove it, or install NVIDIA's driver on the host"
            }
            "" => {
                "install NVIDIA's driver there; where it is in a container, agent.driverRoot must be / or that container's root"
            }
            _ => {
                "the GPU operator is to install it: look at its driver pod on the node; agent.driverRoot must be / or /run/nvidia/driver"
            }
        };
        let told = if told.is_empty() { String::new() } else { format!(" ({DEPLOY_DRIVER}={told})") };
        return Some(Finding::wrong(DRIVER, format!("node {name}: no driver answers{told}"), remedy));
    }
    let (found, remedy) = match (told, place) {
        ("pre-installed" | "false", "container") => (
            "the driver in use is a driver container's",
            "nobody renews it: remove the label, or install a driver on the host and delete the driver pod",
        ),
        ("true", "host") => (
            "the driver in use is the host's own",
            "the operator would install a second one: set the label to pre-installed",
        ),
        _ => return None,
    };
    Some(Finding::note(DRIVER, format!("node {name} has {DEPLOY_DRIVER}={told}, and {found}"), remedy))
}

/// How many drivers of what kind, as far as agents can tell.
fn places(nodes: &[Value]) -> String {
    let count = |place: &str| nodes.iter().filter(|node| node["metadata"]["labels"][DRIVER_LABEL] == place).count();
    match (count("host"), count("container")) {
        (0, 0) => String::new(),
        (host, 0) => format!("; driver of the host on {host}"),
        (0, container) => format!("; driver of a container on {container}"),
        (host, container) => format!("; driver of the host on {host}, of a container on {container}"),
    }
}

fn devices(name: &str, inventory: &Inventory, findings: &mut Vec<Finding>) {
    if inventory.devices.is_empty() {
        findings.push(Finding::note(
            DEVICES,
            format!("node {name} lists none"),
            "take the agent off nodes without GPUs",
        ));
    }
    for device in inventory.devices.iter().filter(|device| device.health != Health::Healthy) {
        findings.push(Finding::note(
            DEVICES,
            format!("node {name}: {} is not healthy", device.uuid),
            "the agent's events on the node say why; it comes back by itself once it recovers",
        ));
    }
    for refused in &inventory.refused {
        findings.push(Finding::wrong(
            DEVICES,
            format!("node {name}: the agent refuses pod {}: {}", refused.pod, refused.reason),
            "delete the pod: it was bound and can never start there",
        ));
    }
}

/// What the kubelet has of slots and the node of totals. `single`: a count means instances.
fn allocatable(node: &Value, name: &str, inventory: &Inventory, prefix: &str, findings: &mut Vec<Finding>) {
    let amount = |resource: &str| {
        let text = node["status"]["allocatable"][resource].as_str()?;
        Quantity::parse(text).and_then(Quantity::integer).ok()
    };
    let labelled = node["metadata"]["labels"][MIG_STRATEGY_LABEL] == "single";
    let single = labelled && inventory.devices.iter().any(|device| device.mig.is_some());
    let healthy = |device: &&crate::gpu::device::Device| device.health == Health::Healthy;
    let counted = inventory.devices.iter().filter(|device| device.mig.is_some() == single);
    let gpu = format!("{prefix}/gpu");
    let mut resources: Vec<String> = Vec::new();
    if counted.clone().any(|device| healthy(&device)) {
        resources.push(gpu);
    }
    if !single {
        let mig = inventory.devices.iter().filter(healthy).filter_map(|device| device.mig.as_ref());
        resources.extend(mig.map(|mig| format!("{prefix}/mig-{}", mig.profile.0.replace('+', "."))));
        resources.sort();
        resources.dedup();
    }
    if inventory.ready {
        for resource in resources.iter().filter(|resource| amount(resource).unwrap_or(0) == 0) {
            findings.push(Finding::wrong(
                SLOTS,
                format!("node {name}: no {resource} is allocatable"),
                "the kubelet has no registration: look at the agent's log, and at --kubelet-dir and its mount",
            ));
        }
    }
    let (memory, cores) = counted
        .fold((0, 0), |(memory, cores), device| (memory + u64::from(device.memory), cores + u64::from(device.cores)));
    for (resource, sum) in [(GPU_MEMORY, memory), (GPU_CORES, cores)] {
        let there = amount(resource).unwrap_or(0);
        if there < sum {
            findings.push(Finding::wrong(
                TOTALS,
                format!("node {name}: {resource} is {there} of {sum}"),
                "the agent writes it: it may not patch nodes/status, or an admission webhook takes it away",
            ));
        }
    }
}

/// Only what the container runtime cannot do: whether the host has a CDI specification is seen on the node alone.
fn runtime(node: &Value) -> Option<Finding> {
    let runtime = node["status"]["nodeInfo"]["containerRuntimeVersion"].as_str().filter(|text| !text.is_empty())?;
    let name = name(node);
    if runtime.starts_with("docker://") {
        return Some(Finding::note(
            RUNTIME,
            format!("node {name}: {runtime}"),
            "tested are containerd and CRI-O; containers need NVIDIA's runtime",
        ));
    }
    let detected = detect(Known { runtime, host_specification: true, containerd_config: None }, None);
    (detected.form == Form::None).then(|| {
        Finding::note(
            RUNTIME,
            format!("node {name}: {}", detected.reason),
            "containers need NVIDIA's runtime there: packhorse runtime configure, and metric packhorse_agent_specification_form",
        )
    })
}

fn is_gpu_node(node: &Value) -> bool {
    PRESENT.iter().any(|label| node["metadata"]["labels"][*label] == "true")
}

fn name(node: &Value) -> String {
    node["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Level;
    use super::*;

    fn good() -> Value {
        let device = json!({
            "uuid": "GPU-1", "index": 0, "model": "NVIDIA A10", "memory": 24_000, "cores": 100, "slots": 10,
            "pci": "0000:07:00.0", "health": "healthy", "enforcement": "advisory",
        });
        let inventory = json!({"v": 1, "ready": true, "driver": "580.95.05", "devices": [device]});
        json!({
            "metadata": {"name": "n", "labels": {}, "annotations": {INVENTORY: inventory.to_string()}},
            "spec": {},
            "status": {
                "allocatable": {"nvidia.com/gpu": "10", "packhorse.dev/gpu-memory": "24k", "packhorse.dev/gpu-cores": "100"},
                "nodeInfo": {"containerRuntimeVersion": "containerd://2.1.4"},
            },
        })
    }

    /// The node with another inventory.
    fn with(change: impl Fn(&mut Value)) -> Value {
        let mut node = good();
        let text = node["metadata"]["annotations"][INVENTORY].as_str().unwrap();
        let mut inventory: Value = serde_json::from_str(text).unwrap();
        change(&mut inventory);
        node["metadata"]["annotations"][INVENTORY] = inventory.to_string().into();
        node
    }

    #[test]
    fn a_node_in_order_is_one_line() {
        let found = judge(&[good(), good()], "nvidia.com");
        assert_eq!(found, [Finding::ok(AGENT, "2 nodes: ready, slots and totals allocatable")]);
    }

    #[test]
    fn everything_wrong_with_a_node_is_told_with_a_remedy() {
        let put = |pointer: &str, value: Value| {
            let mut node = good();
            *node.pointer_mut(pointer).unwrap() = value;
            node
        };
        let mut tainted = good();
        tainted["spec"]["taints"] = json!([{"key": NOT_READY_TAINT, "effect": "NoSchedule"}]);
        let mut off = with(|inventory| inventory["ready"] = json!(false));
        off["metadata"]["labels"]["nvidia.com/gpu.deploy.operands"] = json!("false");
        let mut upgrading = with(|inventory| inventory["ready"] = json!(false));
        upgrading["metadata"]["labels"][UPGRADE] = json!("drain-required");
        let without = json!({"metadata": {"name": "n", "labels": {"nvidia.com/gpu.present": "true"}}});
        for (node, check, level, words) in [
            (without, AGENT, Level::Wrong, "has a GPU and no inventory"),
            (with(|it| it["v"] = json!(9)), INVENTORIES, Level::Wrong, "packhorse.dev/inventory"),
            (with(|it| it["new"] = json!(1)), INVENTORIES, Level::Note, "unknown fields new"),
            (with(|it| it["ready"] = json!(false)), AGENT, Level::Wrong, "not ready"),
            (off, AGENT, Level::Note, "gpu.deploy.operands=false"),
            (upgrading, AGENT, Level::Note, "gpu-driver-upgrade-state=drain-required"),
            (tainted, AGENT, Level::Wrong, "start-up taint"),
            (with(|it| it["driver"] = json!("")), DRIVER, Level::Wrong, "no driver"),
            (with(|it| it["devices"] = json!([])), DEVICES, Level::Note, "lists none"),
            (with(|it| it["devices"][0]["health"] = json!("unhealthy")), DEVICES, Level::Note, "GPU-1 is not healthy"),
            (
                with(|it| it["refused"] = json!([{"pod": "ml/a", "uid": "u", "reason": "no allocation"}])),
                DEVICES,
                Level::Wrong,
                "refuses pod ml/a: no allocation",
            ),
            (
                put("/status/allocatable/nvidia.com~1gpu", json!("0")),
                SLOTS,
                Level::Wrong,
                "no nvidia.com/gpu is allocatable",
            ),
            (
                put("/status/allocatable/packhorse.dev~1gpu-cores", json!("99")),
                TOTALS,
                Level::Wrong,
                "gpu-cores is 99 of 100",
            ),
            (
                put("/status/nodeInfo/containerRuntimeVersion", json!("containerd://1.6.20")),
                RUNTIME,
                Level::Note,
                "containerd://1.6.20",
            ),
        ] {
            let found = judge(&[node, good()], "nvidia.com");
            let told = |it: &Finding| {
                it.check == check && it.level == level && it.found.contains(words) && it.remedy.is_some()
            };
            assert!(found.iter().any(told), "{check} {words}: {found:?}");
        }
        assert!(judge(&[], "nvidia.com")[0].found.contains("no node has an inventory"));
    }

    #[test]
    fn it_is_told_whose_the_driver_is_and_where_the_operator_was_told_otherwise() {
        let labelled = |labels: &[(&str, &str)], driver: &str| {
            let mut node = with(|inventory| inventory["driver"] = json!(driver));
            labels.iter().for_each(|(key, value)| node["metadata"]["labels"][*key] = json!(value));
            node
        };
        let host = labelled(&[(DRIVER_LABEL, "host"), (DEPLOY_DRIVER, "pre-installed")], "1");
        let container = labelled(&[(DRIVER_LABEL, "container"), (DEPLOY_DRIVER, "true")], "1");
        let found = judge(&[host, container], "nvidia.com");
        assert!(
            matches!(&found[..], [it] if it.found.ends_with("driver of the host on 1, of a container on 1")),
            "{found:?}"
        );
        for (labels, driver, level, words, remedy) in [
            (
                &[(DRIVER_LABEL, "container"), (DEPLOY_DRIVER, "pre-installed")][..],
                "1",
                Level::Note,
                "container's",
                "remove",
            ),
            (&[(DRIVER_LABEL, "container"), (DEPLOY_DRIVER, "false")], "1", Level::Note, "container's", "remove"),
            (&[(DRIVER_LABEL, "host"), (DEPLOY_DRIVER, "true")], "1", Level::Note, "host's own", "pre-installed"),
            (&[(DEPLOY_DRIVER, "pre-installed")], "", Level::Wrong, "no driver answers", "the host has one"),
            (&[(DEPLOY_DRIVER, "false")], "", Level::Wrong, "no driver answers", "keeps the GPU operator"),
            (&[(DEPLOY_DRIVER, "true")], "", Level::Wrong, "no driver answers", "driver pod"),
        ] {
            let found = judge(&[labelled(labels, driver)], "nvidia.com");
            let fits = |it: &Finding| {
                it.check == DRIVER
                    && it.level == level
                    && it.found.contains(words)
                    && it.remedy.as_ref().is_some_and(|told| told.contains(remedy))
            };
            assert!(found.iter().any(fits), "{labels:?}: {found:?}");
        }
    }

    #[test]
    fn before_installing_only_runtimes_count() {
        let mut node = json!({
            "metadata": {"name": "n", "labels": {"nvidia.com/gpu.present": "true"}},
            "status": {"nodeInfo": {"containerRuntimeVersion": "containerd://2.1.4"}},
        });
        assert_eq!(before(std::slice::from_ref(&node))[0].level, Level::Ok);
        node["status"]["nodeInfo"]["containerRuntimeVersion"] = json!("containerd://1.6.20");
        assert_eq!(before(&[node])[0].level, Level::Note);
        assert_eq!(before(&[])[0].level, Level::Note);
    }
}
