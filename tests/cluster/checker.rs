//! An independent account of who holds what, from the API objects alone: the nodes' inventories and the pods' allocations.
//!
//! Shares no code with Packhorse, so that a mistake in its arithmetic shows here as a device beyond its means. Also answers
//! whether a refused pod could have been placed after all.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;

/// What is used of one device, beside what it has.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeviceBooks {
    pub(crate) model: String,
    pub(crate) profile: Option<String>,
    pub(crate) healthy: bool,
    pub(crate) memory: u64,
    pub(crate) cores: u64,
    pub(crate) slots: u64,
    pub(crate) used_memory: u64,
    pub(crate) used_cores: u64,
    pub(crate) used_slots: u64,
    /// Pods that have the whole device for themselves.
    pub(crate) exclusive: Vec<String>,
    /// All pods on it.
    pub(crate) pods: Vec<String>,
}

/// What is left of one node.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeBooks {
    /// By resource name, in thousandths: what is allocatable and not requested.
    pub(crate) free: BTreeMap<String, i128>,
    pub(crate) devices: BTreeMap<String, DeviceBooks>,
}

/// The whole cluster.
#[derive(Debug, Clone, Default)]
pub(crate) struct Books {
    pub(crate) nodes: BTreeMap<String, NodeBooks>,
    pub(crate) violations: Vec<String>,
    /// GPU pods that are bound.
    pub(crate) placed: usize,
}

/// One container's part of an allocation.
struct Entry {
    device: String,
    memory: u64,
    cores: u64,
    exclusive: bool,
}

/// Which containers run at the same time: one set per phase of the pod's life.
struct Phases(Vec<BTreeSet<String>>);

/// Counts everything. What is wrong is in `violations`, each naming pod and device.
pub(crate) fn count(nodes: &[Node], pods: &[Pod]) -> Books {
    let mut books = Books::default();
    for node in nodes {
        let name = node.metadata.name.clone().unwrap_or_default();
        books.nodes.insert(name, open_node(node));
    }
    for pod in pods.iter().filter(|pod| holds_resources(pod)) {
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { continue };
        let name = format!("{}/{}", text(&pod.metadata.namespace), text(&pod.metadata.name));
        let Some(node_books) = books.nodes.get_mut(&node) else {
            books.violations.push(format!("{name} is bound to {node}, which does not exist"));
            continue;
        };
        for (resource, amount) in requests(pod) {
            *node_books.free.entry(resource).or_insert(0) -= amount;
        }
        if gpu_containers(pod).is_empty() {
            continue;
        }
        books.placed += 1;
        match entries(pod) {
            Ok(entries) => book(node_books, &name, pod, &entries, &mut books.violations),
            Err(problem) => books.violations.push(format!("{name} on {node}: {problem}")),
        }
    }
    for (node, state) in &books.nodes {
        for (resource, free) in &state.free {
            if *free < 0 {
                books.violations.push(format!("{node}: {resource} is {} thousandths short", -free));
            }
        }
        for (uuid, device) in &state.devices {
            judge(node, uuid, device, &mut books.violations);
        }
    }
    books
}

fn judge(node: &str, uuid: &str, device: &DeviceBooks, violations: &mut Vec<String>) {
    for (what, used, of) in [
        ("memory", device.used_memory, device.memory),
        ("cores", device.used_cores, device.cores),
        ("slots", device.used_slots, device.slots),
    ] {
        if used > of {
            violations.push(format!("{node} {uuid}: {used} of {of} {what} booked by {:?}", device.pods));
        }
    }
    if !device.exclusive.is_empty() && device.pods.len() > 1 {
        violations.push(format!("{node} {uuid}: exclusive to {:?}, yet on it are {:?}", device.exclusive, device.pods));
    }
}

fn open_node(node: &Node) -> NodeBooks {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.clone()).unwrap_or_default();
    let free = allocatable.iter().map(|(name, amount)| (name.clone(), thousandths(amount))).collect();
    let annotations = node.metadata.annotations.clone().unwrap_or_default();
    let inventory: Value =
        annotations.get("packhorse.dev/inventory").and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let listed = inventory["devices"].as_array().cloned().unwrap_or_default();
    let devices = listed.iter().map(|device| {
        let number = |key: &str| device[key].as_u64().unwrap_or(0);
        let books = DeviceBooks {
            model: device["model"].as_str().unwrap_or_default().to_owned(),
            profile: device["mig"]["profile"].as_str().map(str::to_owned),
            healthy: device["health"] == "healthy",
            memory: number("memory"),
            cores: number("cores"),
            slots: number("slots"),
            ..DeviceBooks::default()
        };
        (device["uuid"].as_str().unwrap_or_default().to_owned(), books)
    });
    NodeBooks { free, devices: devices.collect() }
}

/// Bound and not at its end. A pod that is being deleted still holds what it has.
fn holds_resources(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    phase != "Succeeded" && phase != "Failed"
}

fn book(
    node: &mut NodeBooks,
    name: &str,
    pod: &Pod,
    entries: &BTreeMap<String, Vec<Entry>>,
    violations: &mut Vec<String>,
) {
    for (container, asked) in gpu_containers(pod) {
        let given: BTreeSet<&str> =
            entries.get(&container).into_iter().flatten().map(|entry| entry.device.as_str()).collect();
        if given.len() as u64 != asked {
            violations.push(format!("{name}/{container} asks for {asked} devices and got {given:?}"));
        }
        let key = format!("devices.packhorse.dev/{container}");
        let listed = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(&key)).cloned();
        let promised = entries.get(&container).into_iter().flatten().map(|entry| entry.device.as_str());
        let promised = promised.collect::<Vec<_>>().join(",");
        if listed.as_deref() != Some(promised.as_str()) {
            violations.push(format!("{name}/{container}: {key} is {listed:?}, the allocation says {promised:?}"));
        }
    }
    let devices: BTreeSet<&str> = entries.values().flatten().map(|entry| entry.device.as_str()).collect();
    for uuid in devices {
        let Some(device) = node.devices.get_mut(uuid) else {
            violations.push(format!("{name} was given {uuid}, which its node does not list"));
            continue;
        };
        let (mut memory, mut cores, mut slots) = (0, 0, 0);
        for phase in phases(pod).0 {
            let together: Vec<&Entry> = entries
                .iter()
                .filter(|(container, _)| phase.contains(*container))
                .flat_map(|(_, entries)| entries)
                .filter(|entry| entry.device == uuid)
                .collect();
            memory = memory.max(together.iter().map(|entry| entry.memory).sum());
            cores = cores.max(together.iter().map(|entry| entry.cores).sum());
            slots = slots.max(together.len() as u64);
            if together.len() > 1 && together.iter().any(|entry| entry.exclusive) {
                violations.push(format!("{name}: two containers run at once on {uuid}, which one has for itself"));
            }
        }
        device.used_memory += memory;
        device.used_cores += cores;
        device.used_slots += slots;
        device.pods.push(name.to_owned());
        if entries.values().flatten().any(|entry| entry.device == uuid && entry.exclusive) {
            device.exclusive.push(name.to_owned());
        }
    }
}

/// The sets of containers that run together: the apps with all sidecars, and each init container with the sidecars before it.
fn phases(pod: &Pod) -> Phases {
    let spec = pod.spec.clone().unwrap_or_default();
    let mut sidecars = BTreeSet::new();
    let mut all = Vec::new();
    for container in spec.init_containers.unwrap_or_default() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.insert(container.name);
        } else {
            let mut phase = sidecars.clone();
            phase.insert(container.name);
            all.push(phase);
        }
    }
    sidecars.extend(spec.containers.into_iter().map(|container| container.name));
    all.push(sidecars);
    Phases(all)
}

fn entries(pod: &Pod) -> Result<BTreeMap<String, Vec<Entry>>, String> {
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    let json = annotations.get("packhorse.dev/allocation").ok_or("is bound without an allocation")?;
    let allocation: Value = serde_json::from_str(json).map_err(|error| format!("its allocation {json:?}: {error}"))?;
    if allocation["v"] != 1 {
        return Err(format!("its allocation has v {}", allocation["v"]));
    }
    let containers = allocation["containers"].as_object().ok_or("its allocation has no containers")?;
    let entry = |value: &Value| {
        Some(Entry {
            device: value["device"].as_str()?.to_owned(),
            memory: value["memory"].as_u64()?,
            cores: value["cores"].as_u64()?,
            exclusive: value["exclusive"].as_bool().unwrap_or(false),
        })
    };
    let mut read = BTreeMap::new();
    for (container, list) in containers {
        let list: Option<Vec<Entry>> = list.as_array().into_iter().flatten().map(entry).collect();
        read.insert(container.clone(), list.ok_or_else(|| format!("its allocation {json:?} lacks a field"))?);
    }
    Ok(read)
}

/// Containers with a GPU or MIG resource, and how many.
pub(crate) fn gpu_containers(pod: &Pod) -> BTreeMap<String, u64> {
    let spec = pod.spec.clone().unwrap_or_default();
    let all = spec.containers.into_iter().chain(spec.init_containers.unwrap_or_default());
    let counted = all.filter_map(|container| {
        let limits = container.resources.and_then(|resources| resources.limits).unwrap_or_default();
        let wanted = limits.iter().filter(|(name, _)| *name == "nvidia.com/gpu" || name.starts_with("nvidia.com/mig-"));
        let count: i128 = wanted.map(|(_, amount)| thousandths(amount) / 1000).sum();
        (count > 0).then_some((container.name, u64::try_from(count).unwrap_or(u64::MAX)))
    });
    counted.collect()
}

/// What a pod takes of its node's ordinary resources, in thousandths, as Kubernetes counts it.
pub(crate) fn requests(pod: &Pod) -> BTreeMap<String, i128> {
    let spec = pod.spec.clone().unwrap_or_default();
    let mut amounts: BTreeMap<String, BTreeMap<String, i128>> = BTreeMap::new();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let resources = container.resources.clone().unwrap_or_default();
        // A limit without a request is a request.
        let mut named = resources.limits.unwrap_or_default();
        named.extend(resources.requests.unwrap_or_default());
        let own = named.iter().map(|(name, amount)| (name.clone(), thousandths(amount))).collect();
        amounts.insert(container.name.clone(), own);
    }
    let mut most: BTreeMap<String, i128> = BTreeMap::from([("pods".to_owned(), 1000)]);
    for phase in phases(pod).0 {
        let mut sum: BTreeMap<String, i128> = BTreeMap::new();
        for (name, amount) in phase.iter().filter_map(|container| amounts.get(container)).flatten() {
            *sum.entry(name.clone()).or_insert(0) += amount;
        }
        for (name, amount) in sum {
            let largest = most.entry(name).or_insert(0);
            *largest = amount.max(*largest);
        }
    }
    most
}

/// A Kubernetes quantity in thousandths.
pub(crate) fn thousandths(quantity: &Quantity) -> i128 {
    let text = quantity.0.as_str();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '-').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let factor: f64 = match suffix {
        "m" => 0.001,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        other => panic!("the checker does not know the suffix {other:?} of {text:?}"),
    };
    let number: f64 = number.parse().unwrap_or_else(|error| panic!("quantity {text:?}: {error}"));
    #[expect(clippy::cast_possible_truncation, reason = "node sizes are far below 2^53 thousandths of anything")]
    let amount = (number * factor * 1000.0).round() as i128;
    amount
}

/// What a pod with one GPU container asks of each device.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) count: usize,
    /// Of the card's memory; 100 and `exclusive` for a whole card.
    pub(crate) percent: u64,
    pub(crate) cores: u64,
    pub(crate) exclusive: bool,
    /// Any model where empty.
    pub(crate) models: Vec<String>,
}

impl Ask {
    /// Whether a card of this model will do.
    pub(crate) fn accepts(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|accepted| accepted == model)
    }
}

impl DeviceBooks {
    /// Whether it has room for one such share.
    fn could_take(&self, ask: &Ask) -> bool {
        let free = self.pods.is_empty();
        let room = self.used_memory + self.memory * ask.percent / 100 <= self.memory
            && self.used_cores + ask.cores <= self.cores
            && self.used_slots < self.slots
            && self.exclusive.is_empty();
        ask.accepts(&self.model) && self.healthy && self.profile.is_none() && if ask.exclusive { free } else { room }
    }
}

impl NodeBooks {
    /// Whether CPU, memory, totals and enough devices are there for a pending pod.
    pub(crate) fn could_take(&self, pod: &Pod, ask: &Ask) -> bool {
        self.lacking(pod).is_empty() && self.devices_for(ask) >= ask.count
    }

    /// The ordinary resources of which it has too little.
    pub(crate) fn lacking(&self, pod: &Pod) -> Vec<String> {
        let wanted = requests(pod).into_iter();
        wanted
            .filter(|(name, amount)| *amount > 0 && self.free.get(name).copied().unwrap_or(0) < *amount)
            .map(|(name, _)| name)
            .collect()
    }

    /// How many of its devices have room.
    pub(crate) fn devices_for(&self, ask: &Ask) -> usize {
        self.devices.values().filter(|device| device.could_take(ask)).count()
    }
}

fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::objects::GpuNode;

    /// A bound pod: its containers as (name, kind, memory, cores, exclusive), all on card 0 of node `n`.
    fn bound(name: &str, containers: &[(&str, &str, u64, u64, bool)]) -> Pod {
        let mut spec = json!({"nodeName": "n", "containers": [], "initContainers": []});
        let mut annotations = json!({});
        let mut allocation = json!({"v": 1, "containers": {}});
        for (container, kind, memory, cores, exclusive) in containers {
            let mut object = json!({"name": container, "resources": {"limits": {"nvidia.com/gpu": "1"}}});
            if *kind == "sidecar" {
                object["restartPolicy"] = json!("Always");
            }
            let list = if *kind == "app" { "containers" } else { "initContainers" };
            spec[list].as_array_mut().unwrap().push(object);
            let entry = json!({"device": "GPU-n-0", "memory": memory, "cores": cores, "exclusive": exclusive});
            allocation["containers"][*container] = json!([entry]);
            annotations[format!("devices.packhorse.dev/{container}")] = json!("GPU-n-0");
        }
        annotations["packhorse.dev/allocation"] = json!(allocation.to_string());
        let metadata = json!({"name": name, "namespace": "ns", "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn violations(pods: &[Pod]) -> Vec<String> {
        count(&[GpuNode::new("n", 1, "NVIDIA T4", 16384).object()], pods).violations
    }

    #[test]
    fn accepts_what_fits() {
        let half = ("main", "app", 8192, 50, false);
        assert_eq!(violations(&[bound("a", &[half]), bound("b", &[half])]), Vec::<String>::new());
        // An ordinary init container is over before the app runs; a sidecar is not.
        let init = ("init", "init", 16384, 100, true);
        assert_eq!(violations(&[bound("a", &[init, ("main", "app", 16384, 100, true)])]), Vec::<String>::new());
    }

    #[test]
    fn sees_each_way_to_be_beyond_a_device() {
        let app = |memory, cores, exclusive| bound("a", &[("main", "app", memory, cores, exclusive)]);
        let mut ended = app(16384, 100, true);
        ended.status = Some(serde_json::from_value(json!({"phase": "Failed"})).unwrap());
        assert_eq!(violations(&[app(16384, 100, true), ended]), Vec::<String>::new());

        let mut unlisted = app(1, 1, false);
        unlisted.metadata.annotations.as_mut().unwrap().remove("devices.packhorse.dev/main");
        let mut bare = app(1, 1, false);
        bare.metadata.annotations = None;
        let slots: Vec<Pod> = (0..11).map(|_| app(1, 0, false)).collect();
        let cases: [(&str, Vec<Pod>); 7] = [
            ("memory booked", vec![app(8193, 1, false), app(8192, 1, false)]),
            ("cores booked", vec![app(1, 51, false), app(1, 50, false)]),
            ("slots booked", slots),
            ("exclusive to", vec![app(1, 0, true), app(1, 0, false)]),
            ("without an allocation", vec![bare]),
            ("devices.packhorse.dev/main is None", vec![unlisted]),
            ("run at once", vec![bound("a", &[("s", "sidecar", 1, 100, true), ("main", "app", 1, 0, false)])]),
        ];
        for (expected, pods) in cases {
            let found = violations(&pods);
            assert!(found.iter().any(|violation| violation.contains(expected)), "{expected}: {found:?}");
        }
    }
}
