//! The smallest single change that would let a waiting pod onto a node: a cordon lifted, a limit of the pod lowered, another pod removed.
//! Each is tried on a copy of the node by the same verdict that refused it. What a change takes from somebody is its cost; of
//! equal ones a cordon comes before a limit, a limit before a pod.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::cluster::{Cluster, Seen, Site, Waiting, add};
use super::host::{Demand, obstacles};
use super::why::{Why, amount, devices, of_devices};
use crate::gpu::allocation::Holding;
use crate::gpu::node::Node;
use crate::gpu::request::{Ask, ContainerRequest, Memory, Phase, PodRequest, totals};
use crate::kube_api::names::{GPU_CORES, GPU_MEMORY};
use crate::ledger::{Damage, PodEntry};

/// One card, in the unit of [`Change::cost`].
const CARD: u64 = 1000;

/// One change, after which the pod fits the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where the pod then fits.
    pub node: Arc<str>,
    /// What is changed.
    pub what: What,
    /// What somebody loses by it, in thousandths of a card.
    pub cost: u64,
}

/// What is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// `kubectl uncordon`.
    UncordonNode,
    /// Out of the annotation `packhorse.dev/cordon`.
    UncordonDevice {
        /// The UUID that is taken out.
        device: String,
    },
    /// The pod is created again with less.
    Lower {
        /// Its container; empty for what the pod as a whole requests.
        container: Arc<str>,
        /// The resource as users write it.
        resource: String,
        /// What it asks now, as text.
        from: String,
        /// What fits.
        to: String,
    },
    /// Another pod goes.
    Remove {
        /// `namespace/name`.
        pod: String,
        /// Kind and name of its controller, which would create it again.
        owner: Option<String>,
        /// It is being deleted already.
        leaving: bool,
    },
}

impl What {
    fn rank(&self) -> u8 {
        match self {
            Self::UncordonNode | Self::UncordonDevice { .. } => 0,
            Self::Lower { .. } => 1,
            Self::Remove { .. } => 2,
        }
    }

    /// `cordon`, `limit` or `pod`.
    pub fn kind(&self) -> &'static str {
        ["cordon", "limit", "pod"][usize::from(self.rank())]
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = &self.node;
        match &self.what {
            What::UncordonNode => write!(f, "lift the cordon of node {node}: kubectl uncordon {node}"),
            What::UncordonDevice { device } => {
                write!(
                    f,
                    "lift the cordon of {device} on node {node}: take it out of the node's annotation packhorse.dev/cordon"
                )
            }
            What::Lower { container, resource, from, to } => {
                let whose = if container.is_empty() { "the pod".to_owned() } else { format!("container {container}") };
                write!(f, "lower {resource} of {whose} from {from} to {to}: it then fits node {node}")
            }
            What::Remove { pod, leaving: true, .. } => {
                write!(f, "wait for pod {pod}, which is being deleted on node {node}")
            }
            What::Remove { pod, owner, .. } => {
                write!(f, "remove pod {pod} from node {node}")?;
                owner.as_ref().map_or(Ok(()), |owner| write!(f, " ({owner} would create it again)"))
            }
        }
    }
}

/// One node on which changes are tried.
struct Trial<'a> {
    cluster: &'a Cluster,
    pod: &'a Seen,
    waiting: &'a Waiting,
    name: &'a Arc<str>,
    site: &'a Site,
    node: Option<Node>,
}

/// The smallest change of each kind, over all nodes, smallest first. Empty where no single one helps, or where the pod fits as it is.
pub fn smallest(cluster: &Cluster, pod: &Seen, waiting: &Waiting) -> Vec<Change> {
    let mut best: Vec<Change> = Vec::new();
    for (name, site) in &cluster.nodes {
        let trial = Trial { cluster, pod, waiting, name, site, node: devices(cluster, name) };
        if trial.fits() {
            return Vec::new();
        }
        for change in trial.changes() {
            match best.iter_mut().find(|known| known.what.rank() == change.what.rank()) {
                Some(known) if order(&change, known).is_lt() => *known = change,
                Some(_) => {}
                None => best.push(change),
            }
        }
    }
    best.sort_by(order);
    best
}

fn order(a: &Change, b: &Change) -> Ordering {
    let text = |change: &Change| match &change.what {
        What::Remove { pod, .. } => pod.clone(),
        what => format!("{what:?}"),
    };
    (a.cost, a.what.rank(), &a.node).cmp(&(b.cost, b.what.rank(), &b.node)).then_with(|| text(a).cmp(&text(b)))
}

impl Trial<'_> {
    fn fits(&self) -> bool {
        self.whys(self.site, self.node.as_ref(), self.waiting, &self.pod.requests).is_empty()
    }

    fn whys(&self, site: &Site, node: Option<&Node>, waiting: &Waiting, requests: &BTreeMap<String, i64>) -> Vec<Why> {
        let mut whys = obstacles(&Demand { waiting, requests }, self.name, site);
        if whys.is_empty() {
            whys.extend(of_devices(self.cluster, self.name, node, waiting));
        }
        whys
    }

    /// With another site or other devices.
    fn would_fit(&self, site: &Site, node: Option<&Node>) -> bool {
        self.whys(site, node, self.waiting, &self.pod.requests).is_empty()
    }

    fn changes(&self) -> Vec<Change> {
        if self.waiting.record.is_err() {
            return Vec::new();
        }
        let mut found = Vec::new();
        self.cordons(&mut found);
        self.limits(&mut found);
        self.removals(&mut found);
        found
    }

    fn change(&self, what: What, cost: u64) -> Change {
        Change { node: Arc::clone(self.name), what, cost }
    }

    fn cordons(&self, found: &mut Vec<Change>) {
        if self.site.unschedulable {
            let site = Site { unschedulable: false, ..self.site.clone() };
            if self.would_fit(&site, self.node.as_ref()) {
                found.push(self.change(What::UncordonNode, 0));
            }
        }
        let Some(node) = &self.node else { return };
        for device in &self.site.cordon {
            let mut free = node.clone();
            for (at, one) in node.devices.iter().enumerate() {
                // What else is cordoned stays so: an instance by its own name, or by its card's.
                let names = [Some(&*one.uuid), one.parent.as_deref()];
                let mut others = self.site.cordon.iter().filter(|other| *other != device);
                free.cordoned[at] = others.any(|other| names.contains(&Some(other.as_str())));
            }
            if self.would_fit(self.site, Some(&free)) {
                found.push(self.change(What::UncordonDevice { device: device.clone() }, 0));
            }
        }
    }

    fn removals(&self, found: &mut Vec<Change>) {
        for other in self.cluster.pods_on(self.name).filter(|other| !other.is_of_node()) {
            let mut site = Site { pods: self.site.pods - 1, ..self.site.clone() };
            add(&mut site.requested, &other.requests, -1);
            let entry = self.cluster.ledger.pod(&other.uid);
            let node = self.node.clone().map(|mut node| {
                if let Some(entry) = &entry {
                    let holdings = holdings(&node, entry);
                    node.release(&holdings);
                }
                node
            });
            if self.would_fit(&site, node.as_ref()) {
                let held =
                    entry.zip(self.node.as_ref()).map_or(0, |(entry, node)| worth(node, &holdings(node, &entry)));
                let cost = if other.terminating { 0 } else { held.max(self.host_worth(&other.requests)) };
                let owner = other.owner.as_ref().map(|(kind, name)| format!("{kind} {name}"));
                let what = What::Remove { pod: other.full_name(), owner, leaving: other.terminating };
                found.push(self.change(what, cost));
            }
        }
    }

    /// What host requests are worth: their part of the node, times its cards.
    fn host_worth(&self, requests: &BTreeMap<String, i64>) -> u64 {
        let cards = self.node.as_ref().map_or(1, |node| node.devices.len().max(1)) as i64;
        let part = |name: &str| {
            let whole = self.site.allocatable.get(name).copied().unwrap_or(0);
            let asked = requests.get(name).copied().unwrap_or(0);
            if whole > 0 { asked.saturating_mul(CARD as i64 * cards) / whole } else { 0 }
        };
        u64::try_from(part("cpu").max(part("memory"))).unwrap_or(0)
    }

    fn limits(&self, found: &mut Vec<Change>) {
        let Ok(record) = &self.waiting.record else { return };
        for (at, container) in record.request.containers.iter().enumerate() {
            for lower in lowered(container, self.cluster.prefix()) {
                self.lower(&record.request, at, &lower, found);
            }
        }
        for resource in ["cpu", "memory"] {
            let left = self.site.allocatable.get(resource).copied().unwrap_or(0)
                - self.site.requested.get(resource).copied().unwrap_or(0);
            let asked = self.pod.requests.get(resource).copied().unwrap_or(0);
            // Whole MiB, and nothing that nobody could run with.
            let left = if resource == "memory" { left & !((1 << 20) - 1) } else { left };
            if asked <= left || left <= 0 {
                continue;
            }
            let mut requests = self.pod.requests.clone();
            requests.insert(resource.to_owned(), left);
            if self.whys(self.site, self.node.as_ref(), self.waiting, &requests).is_empty() {
                let lost = BTreeMap::from([(resource.to_owned(), asked - left)]);
                let what = What::Lower {
                    container: Arc::from(""),
                    resource: format!("the {resource} request"),
                    from: amount(resource, asked),
                    to: amount(resource, left),
                };
                found.push(self.change(what, self.host_worth(&lost)));
            }
        }
    }

    /// The most that fits: less of anything never fits worse.
    fn lower(&self, request: &PodRequest, at: usize, lower: &Lower<'_>, found: &mut Vec<Change>) {
        let fits = |to: u32| {
            let mut request = request.clone();
            let before = request.containers[at].clone();
            request.containers[at] = (lower.with)(to);
            let requests = self.requests_with(&before, &request.containers[at]);
            let mut waiting = self.waiting.clone();
            if let Ok(record) = &mut waiting.record {
                record.request = Arc::new(request);
            }
            self.whys(self.site, self.node.as_ref(), &waiting, &requests).is_empty()
        };
        let (mut low, mut high) = (1, lower.from.saturating_sub(1));
        if high < low || !fits(low) {
            return;
        }
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if fits(middle) { low = middle } else { high = middle - 1 }
        }
        let what = What::Lower {
            container: Arc::clone(&request.containers[at].name),
            resource: lower.resource.clone(),
            from: lower.text.clone().unwrap_or_else(|| lower.from.to_string()),
            to: low.to_string(),
        };
        let card =
            self.node.as_ref().and_then(|node| node.devices.iter().map(|device| device.memory).max()).unwrap_or(0);
        let cost = (lower.cost)(lower.from - low, card.max(1));
        found.push(self.change(what, cost));
    }

    /// What the pod requests of Kubernetes once a container asks for less. An ordinary init container counts by a maximum; its part is
    /// left as it is, which is never too little.
    fn requests_with(&self, before: &ContainerRequest, after: &ContainerRequest) -> BTreeMap<String, i64> {
        let mut requests = self.pod.requests.clone();
        if before.phase == Phase::Init {
            return requests;
        }
        let (memory, cores) = totals(before);
        let (less_memory, less_cores) = totals(after);
        let counted = format!("{}/gpu", self.cluster.prefix());
        let differences = [
            // What a whole card has is not counted, hence a share may even add.
            (GPU_MEMORY, memory.unwrap_or(0), less_memory.unwrap_or(0)),
            (GPU_CORES, cores, less_cores),
            (counted.as_str(), before.count.into(), after.count.into()),
        ];
        for (name, before, after) in differences {
            if let Some(amount) = requests.get_mut(name) {
                let difference = i64::try_from(before).unwrap_or(0) - i64::try_from(after).unwrap_or(0);
                *amount = amount.saturating_sub(difference).max(0);
            }
        }
        requests
    }
}

/// A number of one container's request that can be lowered.
struct Lower<'a> {
    resource: String,
    from: u32,
    /// How it is told where it is no number.
    text: Option<String>,
    with: Box<dyn Fn(u32) -> ContainerRequest + 'a>,
    /// Of lowering it by so much, on cards of so many MiB.
    cost: Box<dyn Fn(u32, u32) -> u64 + 'a>,
}

fn lowered<'a>(container: &'a ContainerRequest, prefix: &str) -> Vec<Lower<'a>> {
    let name = |rest: &str| format!("{prefix}/{rest}");
    let count = u64::from(container.count);
    let ask = move |ask: Ask| ContainerRequest { ask, ..container.clone() };
    let percent = move |by: u32, _: u32| count * u64::from(by) * CARD / 100;
    let mut found = Vec::new();
    match &container.ask {
        Ask::Share { memory, cores } => {
            let cores = *cores;
            match *memory {
                Memory::Mib(from) => found.push(Lower {
                    resource: name("gpumem"),
                    from,
                    text: None,
                    with: Box::new(move |to| ask(Ask::Share { memory: Memory::Mib(to), cores })),
                    cost: Box::new(move |by, card| count * u64::from(by) * CARD / u64::from(card)),
                }),
                Memory::Percent(_) | Memory::All => found.push(Lower {
                    resource: name("gpumem-percentage"),
                    from: if let Memory::Percent(from) = *memory { from.into() } else { 100 },
                    text: None,
                    with: Box::new(move |to| ask(Ask::Share { memory: Memory::Percent(to.min(100) as u8), cores })),
                    cost: Box::new(percent),
                }),
            }
            let memory = *memory;
            if cores > 0 {
                found.push(Lower {
                    resource: name("gpucores"),
                    from: cores.into(),
                    text: None,
                    with: Box::new(move |to| ask(Ask::Share { memory, cores: to.min(99) as u8 })),
                    cost: Box::new(percent),
                });
            }
        }
        Ask::Exclusive => found.push(Lower {
            resource: name("gpumem-percentage"),
            from: 100,
            text: Some("a whole GPU".to_owned()),
            with: Box::new(move |to| ask(Ask::Share { memory: Memory::Percent(to.min(100) as u8), cores: 0 })),
            cost: Box::new(percent),
        }),
        Ask::Mig(_) => {}
    }
    if container.count > 1 {
        let resource = match &container.ask {
            Ask::Mig(profile) => name(&format!("mig-{profile}")),
            Ask::Exclusive | Ask::Share { .. } => name("gpu"),
        };
        let share = move |card: u32| match &container.ask {
            Ask::Share { memory, cores } => {
                let part = u64::from(memory.of(card).min(card)) * CARD / u64::from(card);
                part.max(u64::from(*cores) * CARD / 100)
            }
            Ask::Exclusive | Ask::Mig(_) => CARD,
        };
        found.push(Lower {
            resource,
            from: container.count,
            text: None,
            with: Box::new(move |to| ContainerRequest { count: to, ..container.clone() }),
            cost: Box::new(move |by, card| u64::from(by) * share(card)),
        });
    }
    found
}

/// What a pod holds here. One whose devices cannot all be read holds them all, as the ledger books it.
fn holdings(node: &Node, pod: &PodEntry) -> Vec<Holding> {
    if pod.damaged != Some(Damage::Partly) {
        return pod.holdings.to_vec();
    }
    let whole = |device: &crate::gpu::device::Device| Holding {
        device: Arc::clone(&device.uuid),
        memory: device.memory,
        cores: device.cores,
        slots: 1,
        exclusive: true,
    };
    node.devices.iter().map(whole).collect()
}

/// In thousandths of a card: of each device the larger of its parts of memory and cores.
fn worth(node: &Node, holdings: &[Holding]) -> u64 {
    let of = |holding: &Holding| {
        let device = node.devices.iter().find(|device| device.uuid == holding.device)?;
        let part = |held: u64, whole: u64| (held * CARD).checked_div(whole).unwrap_or(0);
        let shared =
            part(holding.memory.into(), device.memory.into()).max(part(holding.cores.into(), device.cores.into()));
        Some(if holding.exclusive { CARD } else { shared.max(1) })
    };
    holdings.iter().filter_map(of).sum()
}

#[cfg(test)]
#[path = "change/tests.rs"]
mod tests;
