//! Reads nodes and pods of a live cluster through the API, to be replayed: every node keeps its real devices, every pod its real
//! request. What cannot be replayed is left out, named in a warning and counted, and the rest is replayed; only a list that does not
//! come is an error. Nothing is written to the cluster.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use kube::Client;

use super::report::Now;
use super::trace::{Cluster, Machine, Pod, Shape, Trace, WHOLE, worth};
use super::world::taken;
use crate::gpu::card::CardKind;
use crate::gpu::node::Node;
use crate::gpu::parse::Rules;
use crate::gpu::quantity::{bytes, millicores};
use crate::gpu::request::PodRequest;
use crate::kube_api::names::{ALLOCATION, CORDON, INVENTORY, MIG_STRATEGY_LABEL};
use crate::kube_api::node::NodeView;
use crate::kube_api::pod::PodView;
use crate::kube_api::request::{host_requests, phases, read_pod};
use crate::kube_api::watch::{Failure, pages};
use crate::kube_api::{allocation, inventory};

/// Objects per page of a list.
const PAGE: u32 = 500;
/// A list that the API server cannot go on with begins anew, so often.
const TRIES: u32 = 3;
const MIB: i64 = 1 << 20;

/// Why there is nothing to replay.
#[derive(Debug, thiserror::Error)]
pub enum FromClusterError {
    /// 401 or 403.
    #[error(
        "the API server does not let us list {what}: {message}; allow get and list of nodes and pods, of all namespaces"
    )]
    Forbidden {
        /// `nodes` or `pods`.
        what: &'static str,
        /// The API server's words.
        message: String,
    },
    /// The list did not come.
    #[error("cannot list {what}")]
    List {
        /// `nodes` or `pods`.
        what: &'static str,
        /// Why.
        #[source]
        source: Failure,
    },
}

/// A live cluster as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Its nodes, empty but for what every node runs.
    pub cluster: Cluster,
    /// Its pods in the order of their creation.
    pub trace: Trace,
    /// What it has now.
    pub now: Now,
    /// What was left out, and why.
    pub warnings: Vec<String>,
}

/// What was read so far.
#[derive(Debug, Default)]
struct Reading {
    nodes: BTreeMap<Arc<str>, Place>,
    pods: Vec<Record>,
    /// Of those, pods with GPUs and without a node.
    waiting: usize,
    left_out_pods: usize,
    warnings: Vec<String>,
}

/// A node that lists devices.
#[derive(Debug)]
enum Place {
    Replayed(Box<Site>),
    /// Named in a warning; its pods are left out too, so many.
    LeftOut {
        why: String,
        pods: usize,
    },
}

/// A node that is replayed.
#[derive(Debug)]
struct Site {
    /// Nothing booked.
    empty: Node,
    /// As it is now.
    now: Node,
    /// Millicores and bytes for pods other than those that every such node runs.
    cpu: i64,
    memory: i64,
}

/// A pod that is replayed.
#[derive(Debug)]
struct Record {
    created: Timestamp,
    name: String,
    request: PodRequest,
    host: (i64, i64),
}

/// Reads the cluster. Needs get and list of nodes and pods.
///
/// # Errors
/// Where a list does not come.
pub async fn read(client: &Client) -> Result<Snapshot, FromClusterError> {
    let mut reading = Reading::default();
    for object in list(client, "nodes", "/api/v1/nodes").await? {
        match serde_json::from_str::<NodeView<'_>>(&object) {
            Ok(node) => reading.node(&node),
            Err(error) => reading.warn(format!("a node cannot be read: {error}; left out")),
        }
    }
    for object in list(client, "pods", "/api/v1/pods").await? {
        match serde_json::from_str::<PodView<'_>>(&object) {
            Ok(pod) => reading.pod(&pod),
            Err(error) => reading.leave_out_pod("a pod", &format!("it cannot be read: {error}")),
        }
    }
    Ok(reading.finish())
}

async fn list(client: &Client, what: &'static str, path: &str) -> Result<Vec<String>, FromClusterError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let mut objects = Vec::new();
        match pages(client, path, PAGE, None, |object| objects.push(object.to_owned())).await {
            Ok(_) => return Ok(objects),
            Err(Failure::Gone) if tries < TRIES => {}
            Err(Failure::Call(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => {
                return Err(FromClusterError::Forbidden { what, message: status.message.clone() });
            }
            Err(source) => return Err(FromClusterError::List { what, source }),
        }
    }
}

impl Reading {
    fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    fn leave_out_pod(&mut self, name: &str, why: &str) {
        self.left_out_pods += 1;
        self.warn(format!("{name} is left out: {why}"));
    }

    fn node(&mut self, view: &NodeView<'_>) {
        let name: Arc<str> = view.metadata.name.as_ref().into();
        // Without an inventory it is no GPU node.
        let Some(text) = view.metadata.annotations.get(INVENTORY) else { return };
        let place = match self.site(view, text) {
            Ok(site) => Place::Replayed(Box::new(site)),
            Err(why) => Place::LeftOut { why, pods: 0 },
        };
        self.nodes.insert(name, place);
    }

    fn site(&mut self, view: &NodeView<'_>, text: &str) -> Result<Site, String> {
        let name = &view.metadata.name;
        let decoded = inventory::decode(text).map_err(|damaged| damaged.to_string())?;
        if !decoded.unknown.is_empty() {
            self.warn(format!(
                "node {name}: {INVENTORY}: unknown fields have no effect: {}",
                decoded.unknown.join(", ")
            ));
        }
        if !view.is_schedulable() {
            return Err("it is cordoned, or not Ready".to_owned());
        }
        if !decoded.value.ready {
            return Err("its agent takes no new pods".to_owned());
        }
        let cordon = view.metadata.annotations.get(CORDON).map_or("", |text| text);
        let cordoned = |uuid: &str| inventory::cordon(cordon).any(|other| other == uuid);
        for uuid in inventory::cordon(cordon) {
            let named =
                |device: &crate::gpu::device::Device| *device.uuid == *uuid || device.parent.as_deref() == Some(uuid);
            if !decoded.value.devices.iter().any(named) {
                self.warn(format!("node {name}: {CORDON}: {uuid} is no device of this node; the rest is used"));
            }
        }
        let mig_single = view.metadata.labels.get(MIG_STRATEGY_LABEL).is_some_and(|strategy| &**strategy == "single");
        let empty = Node::new(&decoded.value, cordoned, mig_single);
        let has = |name: &str, read: fn(&str) -> Result<u64, crate::gpu::quantity::QuantityError>| {
            let quantity = view.status.allocatable.get(name).and_then(|quantity| read(&quantity.0).ok());
            let amount = quantity.and_then(|amount| i64::try_from(amount).ok());
            amount.ok_or_else(|| format!("status.allocatable has no {name} that can be read"))
        };
        Ok(Site { now: empty.clone(), empty, cpu: has("cpu", millicores)?, memory: has("memory", bytes)? })
    }

    fn pod(&mut self, pod: &PodView<'_>) {
        if matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return;
        }
        let text = |text: &Option<crate::kube_api::pod::Text<'_>>| text.as_deref().unwrap_or_default().to_owned();
        let name = format!("pod {}/{}", text(&pod.metadata.namespace), text(&pod.metadata.name));
        let bound = pod.spec.node_name.as_deref().filter(|node| !node.is_empty());
        let host = host_requests(pod);
        let held = self.book(&name, bound, pod);
        // After admission its annotation says what it asks, whatever a count alone means in its namespace.
        let request = match read_pod(&Rules::default(), pod) {
            Ok(parsed) => parsed.request,
            Err(denials) => {
                let why = denials.first().map(ToString::to_string).unwrap_or_default();
                return self.leave_out_pod(&name, &format!("its request cannot be read: {why}"));
            }
        };
        let held = if request.is_empty() { Ok(()) } else { held };
        if request.is_empty() && bound.is_none() {
            return;
        }
        match bound.map(|node| (node, self.nodes.get_mut(node))) {
            None => {}
            // A pod without GPUs elsewhere.
            Some((_, None)) if request.is_empty() => return,
            Some((node, None)) => {
                return self.leave_out_pod(&name, &format!("its node {node} lists no devices"));
            }
            Some((_, Some(Place::LeftOut { pods, .. }))) => {
                *pods += 1;
                return;
            }
            Some((_, Some(Place::Replayed(site)))) if request.is_empty() && runs_everywhere(pod) => {
                site.cpu = site.cpu.saturating_sub(host.0).max(0);
                site.memory = site.memory.saturating_sub(host.1).max(0);
                return;
            }
            Some((_, Some(Place::Replayed(_)))) => {
                if let Err(why) = held {
                    return self.leave_out_pod(&name, &why);
                }
            }
        }
        let created = text(&pod.metadata.creation_timestamp);
        let Ok(created) = created.parse() else {
            return self.leave_out_pod(&name, &format!("metadata.creationTimestamp {created:?} is no time"));
        };
        self.waiting += usize::from(bound.is_none());
        self.pods.push(Record { created, name, request: plain(request), host });
    }

    /// Books what the pod holds now. An error says why its devices cannot be given to it in a replay.
    fn book(&mut self, name: &str, bound: Option<&str>, pod: &PodView<'_>) -> Result<(), String> {
        let Some(Place::Replayed(site)) = bound.and_then(|node| self.nodes.get_mut(node)) else { return Ok(()) };
        let Some(text) = pod.metadata.annotations.get(ALLOCATION) else {
            return Err("it was bound without an allocation of ours".to_owned());
        };
        let decoded = match allocation::decode(text) {
            Ok(decoded) => decoded,
            Err(damaged) => {
                self.warn(format!("{name}: what it holds now is not counted: {damaged}"));
                return Ok(());
            }
        };
        let holdings = decoded.value.holdings(&phases(pod));
        site.now.book(&holdings);
        let out = |uuid: &str| {
            let known = (0..site.empty.devices.len()).find(|at| *site.empty.devices[*at].uuid == *uuid);
            known.is_none_or(|at| worth(&site.empty, at) == 0)
        };
        match holdings.iter().find(|holding| out(&holding.device)) {
            Some(holding) => Err(format!("its device {} takes no new pods", holding.device)),
            None => Ok(()),
        }
    }

    fn finish(mut self) -> Snapshot {
        let mut machines = Vec::new();
        let mut left_out_nodes = 0;
        let (mut used, mut capacity) = (0, 0);
        // What every card, and every instance of a profile, counts.
        let mut cards: BTreeMap<u32, usize> = BTreeMap::new();
        let mut instances: HashMap<Arc<str>, u32> = HashMap::new();
        for (name, place) in std::mem::take(&mut self.nodes) {
            let site = match place {
                Place::Replayed(site) => *site,
                Place::LeftOut { why, pods } => {
                    left_out_nodes += 1;
                    self.left_out_pods += pods;
                    self.warn(format!("node {name} is left out with its {pods} pods: {why}"));
                    continue;
                }
            };
            let worths: Vec<u32> = (0..site.empty.devices.len()).map(|at| worth(&site.empty, at)).collect();
            used += taken(&site.now, &worths);
            for (device, worth) in site.empty.devices.iter().zip(&worths) {
                let kind = CardKind::of(device);
                match kind.profile {
                    Some(profile) => drop(instances.insert(profile.0, kind.worth.into())),
                    None if *worth > 0 => *cards.entry(device.memory).or_default() += 1,
                    None => {}
                }
            }
            let machine = Machine {
                name,
                cpu: site.cpu,
                memory: site.memory / MIB,
                gpus: u32::try_from(site.empty.devices.len()).unwrap_or(u32::MAX),
                model: Arc::default(),
                node: Some(site.empty),
            };
            capacity += machine.capacity();
            machines.push(machine);
        }
        let card = cards.iter().max_by_key(|(_, count)| **count).map_or(1, |(memory, _)| *memory);
        self.pods.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        let trace = trace(self.pods, (card, capacity.max(1)), |profile| {
            instances.get(profile).copied().unwrap_or_else(|| slices(profile))
        });
        let count =
            |wanted: fn(&Shape) -> bool| trace.pods.iter().filter(|pod| wanted(&trace.shapes[pod.shape])).count();
        let now = Now {
            nodes: machines.len(),
            gpus: capacity as f64 / f64::from(WHOLE),
            pods: trace.pods.len(),
            gpu_pods: count(|shape| !shape.request.is_empty()),
            waiting: self.waiting,
            unallocated: if capacity > 0 { 100.0 - 100.0 * used as f64 / capacity as f64 } else { 0.0 },
            left_out_nodes,
            left_out_pods: self.left_out_pods,
            served: count(|shape| shape.served),
        };
        Snapshot { cluster: Cluster { machines }, trace, now, warnings: self.warnings }
    }
}

/// Gives equal pods the same shape.
fn trace(pods: Vec<Record>, card: (u32, u64), instance: impl Fn(&str) -> u32) -> Trace {
    let mut trace = Trace { recorded: true, ..Trace::default() };
    let mut known = HashMap::new();
    for Record { request, host, .. } in pods {
        let shapes = &mut trace.shapes;
        let shape = *known.entry((request.clone(), host)).or_insert_with(|| {
            shapes.push(Shape::live(shapes.len(), request, host, card, &instance));
            shapes.len() - 1
        });
        trace.pods.push(Pod { shape, lifetime: None });
    }
    trace
}

/// The request without its containers' names, which placement does not read.
fn plain(mut request: PodRequest) -> PodRequest {
    for (at, container) in request.containers.iter_mut().enumerate() {
        container.name = at.to_string().into();
    }
    request
}

/// Whether every node has such a pod, or it belongs to its node: it cannot go elsewhere.
fn runs_everywhere(pod: &PodView<'_>) -> bool {
    let bound = |kind: Option<&str>| matches!(kind, Some("DaemonSet" | "Node"));
    pod.metadata.owner_references.iter().any(|owner| bound(owner.kind.as_deref()))
}

/// What an instance counts whose profile no node has: `3g.40gb` is three of eight slices.
fn slices(profile: &str) -> u32 {
    let slices = profile.split_once('g').and_then(|(slices, _)| slices.parse::<u32>().ok());
    slices.unwrap_or(1).clamp(1, 8) * WHOLE / 8
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, created: &str, limits: &Value) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "ns", "creationTimestamp": created},
            "spec": {"containers": [{"name": name, "resources": {"limits": limits}}]},
        })
    }

    /// A node of one card of 24,000 MiB, and these pods.
    fn read(pods: &[Value]) -> Snapshot {
        let card = json!({
            "uuid": "GPU-1", "index": 0, "model": "NVIDIA A10", "memory": 24_000, "cores": 100, "slots": 10,
            "pci": "0000:07:00.0", "health": "healthy", "enforcement": "advisory",
        });
        let inventory = json!({"v": 1, "ready": true, "devices": [card]}).to_string();
        let node = json!({
            "metadata": {"name": "n", "annotations": {INVENTORY: inventory}},
            "status": {"allocatable": {"cpu": "16", "memory": "64Gi"}},
        });
        let mut reading = Reading::default();
        reading.node(&serde_json::from_str(&node.to_string()).unwrap());
        for pod in pods {
            reading.pod(&serde_json::from_str(&pod.to_string()).unwrap());
        }
        reading.finish()
    }

    #[test]
    fn pods_come_in_the_order_of_their_creation_whatever_the_order_of_the_list() {
        let share = |mib: &str| json!({"nvidia.com/gpu": "1", "nvidia.com/gpumem": mib});
        let read = read(&[
            pod("b", "2026-01-02T00:00:00Z", &share("6000")),
            pod("a", "2026-01-03T00:00:00Z", &share("12000")),
            pod("d", "2026-01-01T00:00:00Z", &share("6000")),
            pod("c", "2026-01-01T00:00:00Z", &json!({"nvidia.com/gpu": "1"})),
            pod("e", "yesterday", &share("1")),
        ]);
        let demands: Vec<_> = read.trace.pods.iter().map(|pod| read.trace.shapes[pod.shape].demand()).collect();
        assert_eq!(demands, [1000, 250, 250, 500]);
        assert_eq!(read.trace.shapes.len(), 3, "equal pods have one shape, whatever their containers are called");
        assert_eq!(read.now.left_out_pods, 1);
        assert!(matches!(&read.warnings[..], [one] if one.contains("ns/e") && one.contains("yesterday")));
    }

    #[test]
    fn a_pod_asks_for_no_more_than_there_is() {
        let read = read(&[
            pod("a", "2026-01-01T00:00:00Z", &json!({"nvidia.com/gpu": "8"})),
            pod(
                "b",
                "2026-01-01T00:00:00Z",
                &json!({"nvidia.com/gpu": "1", "nvidia.com/gpucores": "30", "nvidia.com/gpumem": "240"}),
            ),
            pod("c", "2026-01-01T00:00:00Z", &json!({"nvidia.com/mig-3g.40gb": "1"})),
        ]);
        let demands: Vec<_> = read.trace.shapes.iter().map(Shape::demand).collect();
        assert_eq!(demands, [1000, 300, 375]);
    }
}
