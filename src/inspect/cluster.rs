//! The cluster as its objects tell it: a ledger, and beside it what only kube-scheduler reads. Written once by [`Builder`], then read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeSelector, Taint, Toleration};

use crate::extender::PodRecord;
use crate::gpu::device::Inventory;
use crate::gpu::parse::Rules;
use crate::gpu::quantity::{bytes, millicores};
use crate::gpu::request::Phase;
use crate::kube_api::inventory;
use crate::kube_api::names::{CORDON, INVENTORY};
use crate::kube_api::node::NodeView;
use crate::kube_api::pod::{PodView, Text};
use crate::kube_api::request::{all_requests, host_requests, phases, read_pod};
use crate::ledger::{Ledger, Settings};

/// Takes objects in any order, nodes first where it can be had.
#[derive(Debug)]
pub struct Builder {
    cluster: Cluster,
}

/// A pod's namespace and name.
pub type PodName = (Arc<str>, Arc<str>);

/// Everything that is looked at.
#[derive(Debug)]
pub struct Cluster {
    /// Inventories and holdings.
    pub ledger: Ledger,
    /// By name.
    pub nodes: BTreeMap<Arc<str>, Site>,
    /// Live pods that ask for GPUs or hold some, and all others that are bound; by namespace and name.
    pub pods: BTreeMap<PodName, Seen>,
    /// Which of them are bound where.
    bound: BTreeMap<Arc<str>, Vec<PodName>>,
    /// Objects that could not be read, in words.
    pub warnings: Vec<String>,
    rules: Rules,
}

/// What a node says beside its devices.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// What keeps pods away.
    pub taints: Vec<Taint>,
    /// Cordoned as a whole.
    pub unschedulable: bool,
    /// Whether its kubelet is alive.
    pub alive: bool,
    /// What it has for pods: CPU in millicores, all else in bytes or pieces.
    pub allocatable: BTreeMap<String, i64>,
    /// What the pods bound to it request, the same.
    pub requested: BTreeMap<String, i64>,
    /// How many pods are bound to it.
    pub pods: i64,
    /// Its inventory; absent where none is published, else the inventory or why it cannot be read.
    pub inventory: Option<Result<Inventory, String>>,
    /// The UUIDs of the annotation `packhorse.dev/cordon`.
    pub cordon: Vec<String>,
}

/// A pod.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its UID.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Where it is bound.
    pub node: Option<Arc<str>>,
    /// `status.phase`.
    pub phase: String,
    /// Whether its deletion has begun.
    pub terminating: bool,
    /// Kind and name of its controller.
    pub owner: Option<(String, String)>,
    /// What it requests of its node.
    pub requests: BTreeMap<String, i64>,
    /// Its init containers that end before the others start.
    pub initial: BTreeSet<String>,
    /// Whether it asks for GPUs or holds some.
    pub gpu: bool,
    /// Present on pods with GPUs that have no node.
    pub waiting: Option<Box<Waiting>>,
}

/// What decides where a waiting pod may go.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// What it asks for; else why that cannot be read.
    pub record: Result<PodRecord, String>,
    /// `spec.schedulerName`.
    pub scheduler: String,
    /// Whether the webhook has seen it.
    pub marked: bool,
    /// `spec.nodeSelector`.
    pub selector: BTreeMap<String, String>,
    /// Required node affinity.
    pub affinity: Option<NodeSelector>,
    /// What it endures.
    pub tolerations: Vec<Toleration>,
    /// `status.nominatedNodeName`.
    pub nominated: Option<String>,
    /// Scheduling gates.
    pub gates: Vec<String>,
    /// What kube-scheduler said last.
    pub message: Option<String>,
    /// What is not judged here, in words: volumes, pod affinity, spreading, ports.
    pub unjudged: Vec<&'static str>,
}

/// The part of a waiting pod that the view leaves out.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Rest {
    spec: RestSpec,
    status: RestStatus,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RestSpec {
    affinity: Option<k8s_openapi::api::core::v1::Affinity>,
    tolerations: Option<Vec<Toleration>>,
    containers: Vec<k8s_openapi::api::core::v1::Container>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct RestStatus {
    conditions: Option<Vec<k8s_openapi::api::core::v1::PodCondition>>,
}

impl Builder {
    /// An empty cluster in which GPU resources begin with `prefix`, `nvidia.com` unless configured.
    pub fn new(prefix: &str) -> Self {
        let settings = Settings { resource_prefix: prefix.to_owned(), ..Settings::default() };
        let ledger =
            Ledger::new(Arc::new(arc_swap::ArcSwap::from_pointee(settings)), crate::ledger::Metrics::default());
        let rules = Rules { prefix: prefix.to_owned(), ..Rules::default() };
        let (nodes, pods, bound, warnings) = Default::default();
        Self { cluster: Cluster { ledger, nodes, pods, bound, warnings, rules } }
    }

    /// One node, as JSON.
    pub fn node(&mut self, object: &str) {
        let node: NodeView<'_> = match serde_json::from_str(object) {
            Ok(node) => node,
            Err(error) => return self.cluster.warnings.push(format!("a node cannot be read: {error}; left out")),
        };
        self.cluster.ledger.apply_node(&node);
        let name: Arc<str> = node.metadata.name.as_ref().into();
        // What is there came with pods that were read before their node.
        let before = self.cluster.nodes.remove(&name).unwrap_or_default();
        self.cluster.nodes.insert(name, Site { requested: before.requested, pods: before.pods, ..Site::read(&node) });
    }

    /// One pod, as JSON. Pods that have ended are left out.
    pub fn pod(&mut self, object: &str) {
        let pod: PodView<'_> = match serde_json::from_str(object) {
            Ok(pod) => pod,
            Err(error) => return self.cluster.warnings.push(format!("a pod cannot be read: {error}; left out")),
        };
        if matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return;
        }
        self.cluster.ledger.apply_pod(&pod);
        let mut seen = Seen::read(&pod);
        let Cluster { ledger, nodes, pods, bound, warnings, rules } = &mut self.cluster;
        let request = read_pod(rules, &pod);
        seen.gpu = request.as_ref().map_or(true, |parsed| !parsed.request.is_empty())
            || ledger.pod(&seen.uid).is_some_and(|entry| entry.node.is_some());
        if let Some(node) = &seen.node {
            let site = nodes.entry(Arc::clone(node)).or_default();
            site.pods += 1;
            add(&mut site.requested, &seen.requests, 1);
            bound.entry(Arc::clone(node)).or_default().push((Arc::clone(&seen.namespace), Arc::clone(&seen.name)));
        } else if seen.gpu {
            let record = request
                .map(|parsed| record(&seen, &pod, parsed.request))
                .map_err(|denials| denials.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
            match serde_json::from_str::<Rest>(object) {
                Ok(rest) => seen.waiting = Some(Box::new(Waiting::read(&pod, rest, record))),
                Err(error) => warnings.push(format!("pod {}: cannot be read: {error}; left out", seen.full_name())),
            }
        } else {
            return;
        }
        pods.insert((Arc::clone(&seen.namespace), Arc::clone(&seen.name)), seen);
    }

    /// All objects have come.
    pub fn finish(mut self) -> Cluster {
        // A node that only its pods name is none.
        let Cluster { ledger, nodes, warnings, .. } = &mut self.cluster;
        nodes.retain(|name, _| ledger.node(name).is_some());
        for (name, site) in nodes.iter() {
            if let Some(Err(problem)) = &site.inventory {
                warnings.push(format!("node {name}: {problem}; it takes no pods until its agent writes it anew"));
            }
        }
        self.cluster
    }
}

impl Cluster {
    /// The pods bound to a node.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Seen> {
        self.bound.get(node).into_iter().flatten().filter_map(|key| self.pods.get(key))
    }

    /// GPU pods without a node, by namespace and name.
    pub fn waiting(&self) -> impl Iterator<Item = (&Seen, &Waiting)> {
        self.pods.values().filter_map(|pod| pod.waiting.as_deref().map(|waiting| (pod, waiting)))
    }

    /// The prefix of GPU resources.
    pub fn prefix(&self) -> &str {
        &self.rules.prefix
    }
}

impl Site {
    fn read(node: &NodeView<'_>) -> Self {
        let text = |map: &BTreeMap<Text<'_>, Text<'_>>| {
            map.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect::<BTreeMap<_, _>>()
        };
        let annotation = |key: &str| node.metadata.annotations.get(key).map(|text| &**text);
        let taint = |taint: &crate::kube_api::node::TaintView<'_>| Taint {
            key: taint.key.to_string(),
            value: taint.value.as_ref().map(ToString::to_string),
            effect: taint.effect.to_string(),
            time_added: None,
        };
        let amount = |(name, quantity): (&Text<'_>, &crate::kube_api::pod::RawQuantity<'_>)| {
            let read = if &**name == "cpu" { millicores(&quantity.0) } else { bytes(&quantity.0) };
            // An API server accepts no unreadable quantity.
            (name.to_string(), i64::try_from(read.unwrap_or(0)).unwrap_or(i64::MAX))
        };
        let inventory = annotation(INVENTORY).map(|text| inventory::decode(text).map(|decoded| decoded.value));
        let ready = node.status.conditions.iter().find(|condition| &*condition.kind == "Ready");
        Self {
            labels: text(&node.metadata.labels),
            taints: node.spec.taints.iter().map(taint).collect(),
            unschedulable: node.spec.unschedulable == Some(true),
            alive: ready.is_none_or(|ready| &*ready.status == "True"),
            allocatable: node.status.allocatable.iter().map(amount).collect(),
            requested: BTreeMap::new(),
            pods: 0,
            inventory: inventory.map(|read| read.map_err(|damaged| damaged.to_string())),
            cordon: inventory::cordon(annotation(CORDON).unwrap_or_default()).map(str::to_owned).collect(),
        }
    }
}

impl Seen {
    fn read(pod: &PodView<'_>) -> Self {
        let text = |text: &Option<Text<'_>>| Arc::<str>::from(text.as_deref().unwrap_or_default());
        let owner = pod.metadata.owner_references.iter().find(|owner| owner.controller == Some(true));
        Self {
            uid: text(&pod.metadata.uid),
            namespace: text(&pod.metadata.namespace),
            name: text(&pod.metadata.name),
            node: pod.spec.node_name.as_deref().filter(|node| !node.is_empty()).map(Arc::from),
            phase: pod.status.phase.as_deref().unwrap_or("Pending").to_owned(),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            owner: owner.map(|owner| (text(&owner.kind).to_string(), text(&owner.name).to_string())),
            requests: all_requests(pod),
            initial: phases(pod)
                .into_iter()
                .filter(|(_, phase)| *phase == Phase::Init)
                .map(|(name, _)| name.to_string())
                .collect(),
            gpu: false,
            waiting: None,
        }
    }

    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether it belongs to its node and comes back there at once: of a `DaemonSet`, or static.
    pub fn is_of_node(&self) -> bool {
        self.owner.as_ref().is_some_and(|(kind, _)| matches!(&**kind, "DaemonSet" | "Node"))
    }
}

impl Waiting {
    fn read(pod: &PodView<'_>, rest: Rest, record: Result<PodRecord, String>) -> Self {
        let Rest { spec, status } = rest;
        let affinity = spec.affinity.unwrap_or_default();
        let scheduled = status.conditions.unwrap_or_default().into_iter();
        let scheduled = scheduled.filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
        let mut ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
        let required = |terms: Option<usize>| terms.is_some_and(|count| count > 0);
        let pods = affinity.pod_affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution);
        let anti = affinity.pod_anti_affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution);
        let hard = |spread: &crate::kube_api::pod::SpreadView<'_>| {
            spread.when_unsatisfiable.as_deref() != Some("ScheduleAnyway")
        };
        let unjudged = [
            (
                "volumes",
                pod.spec.volumes.iter().any(|it| it.persistent_volume_claim.is_some() || it.ephemeral.is_some()),
            ),
            ("pod affinity", required(pods.map(|terms| terms.len())) || required(anti.map(|terms| terms.len()))),
            ("topology spread", pod.spec.topology_spread_constraints.iter().any(hard)),
            ("host ports", ports.any(|port| port.host_port.is_some_and(|port| port > 0))),
        ];
        let text = |text: &Option<Text<'_>>| text.as_deref().filter(|text| !text.is_empty()).map(str::to_owned);
        Self {
            record,
            scheduler: text(&pod.spec.scheduler_name).unwrap_or_else(|| "default-scheduler".to_owned()),
            marked: pod.metadata.annotations.contains_key(crate::kube_api::names::REQUEST),
            selector: pod.spec.node_selector.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            affinity: affinity.node_affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution),
            tolerations: spec.tolerations.unwrap_or_default(),
            nominated: text(&pod.status.nominated_node_name),
            gates: pod.spec.scheduling_gates.iter().map(|gate| gate.name.to_string()).collect(),
            message: scheduled.filter_map(|condition| condition.message).next_back(),
            unjudged: unjudged.into_iter().filter(|(_, is_there)| *is_there).map(|(what, _)| what).collect(),
        }
    }
}

fn record(seen: &Seen, pod: &PodView<'_>, request: crate::gpu::request::PodRequest) -> PodRecord {
    let (cpu, memory) = host_requests(pod);
    PodRecord {
        uid: Arc::clone(&seen.uid),
        namespace: Arc::clone(&seen.namespace),
        name: Arc::clone(&seen.name),
        priority: pod.spec.priority.unwrap_or(0),
        request: Arc::new(request),
        cpu,
        memory,
    }
}

/// Adds amounts `sign` times.
pub(super) fn add(sums: &mut BTreeMap<String, i64>, amounts: &BTreeMap<String, i64>, sign: i64) {
    for (name, amount) in amounts {
        let sum = sums.entry(name.clone()).or_default();
        *sum = sum.saturating_add(amount.saturating_mul(sign));
    }
}
