//! Which slots there are, by what their plugins last listed, and which container has which; in the order of thought of
//! pkg/kubelet/cm/devicemanager/manager.go, so that its accidents happen here too.
//!
//! Left out: alignment with NUMA nodes by the Topology Manager (policy `none`, the kubelet's default).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::plugins::Client;
use super::{Container, Count, Pod, RunOptions};
use crate::gpu::request::Phase;
use crate::kubelet_api::device_plugin as api;
use crate::random::Random;

/// A resource whose plugin is away this long is taken off the node: `endpointStopGracePeriod`.
const GRACE: Duration = Duration::from_secs(5 * 60);

/// The key of slots without a NUMA node: `nodeWithoutTopology`.
const NOWHERE: i64 = -1;

/// What a container got of one resource.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// By NUMA node.
    pub(super) slots: BTreeMap<i64, Vec<String>>,
    pub(super) answer: api::ContainerAllocateResponse,
}

/// What goes to disk and comes back: entries by (UID, container, resource), and resources with their healthy slots.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    pub(super) entries: Vec<((String, String, String), Entry)>,
    pub(super) registered: BTreeMap<String, Vec<String>>,
}

/// What a container still needs of a resource.
#[derive(Debug)]
pub(super) enum Wanted {
    /// It has its slots, or runs already.
    Nothing,
    /// Exactly these.
    Slots(Vec<String>),
    /// The plugin is to be asked for its preference.
    Ask(Question),
}

/// A question for the plugin's preference, with the state of the search.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) resource: String,
    pub(super) client: Option<Arc<Client>>,
    /// All that may be taken, with what is taken already.
    pub(super) available: Vec<String>,
    /// What is taken already.
    pub(super) must: Vec<String>,
    pub(super) size: usize,
    free: BTreeSet<String>,
}

/// Whom to call before a container starts, with which slots.
type PreStart = (Arc<Client>, Vec<String>);

/// A plugin as far as calls are concerned. Without a client: known from the checkpoint only.
#[derive(Debug)]
struct Endpoint {
    client: Option<Arc<Client>>,
    options: Option<api::DevicePluginOptions>,
    stopped: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Accounts {
    random: Random,
    endpoints: HashMap<String, Endpoint>,
    /// The newest client of each resource.
    clients: HashMap<String, Arc<Client>>,
    /// Clients that a newer one replaced: nobody closes them.
    replaced: Vec<Arc<Client>>,
    all: HashMap<String, HashMap<String, api::Device>>,
    healthy: HashMap<String, BTreeSet<String>>,
    unhealthy: HashMap<String, BTreeSet<String>>,
    allocated: HashMap<String, BTreeSet<String>>,
    entries: BTreeMap<(String, String, String), Entry>,
    /// Slots of init containers of the pod that is being admitted, by resource.
    reuse: (String, HashMap<String, BTreeSet<String>>),
    active: Vec<Pod>,
    running: BTreeSet<(String, String)>,
    ready: bool,
    pub(super) crash: Option<String>,
}

impl Accounts {
    pub(super) fn new(random: Random) -> Self {
        Self {
            random,
            endpoints: HashMap::new(),
            clients: HashMap::new(),
            replaced: Vec::new(),
            all: HashMap::new(),
            healthy: HashMap::new(),
            unhealthy: HashMap::new(),
            allocated: HashMap::new(),
            entries: BTreeMap::new(),
            reuse: (String::new(), HashMap::new()),
            active: Vec::new(),
            running: BTreeSet::new(),
            ready: true,
            crash: None,
        }
    }

    /// From the checkpoint: resources are known, without any slot and with a stopped endpoint.
    pub(super) fn restore(&mut self, snapshot: Snapshot) {
        self.entries = snapshot.entries.into_iter().collect();
        self.recount();
        for resource in snapshot.registered.into_keys() {
            self.healthy.insert(resource.clone(), BTreeSet::new());
            self.unhealthy.insert(resource.clone(), BTreeSet::new());
            self.endpoints.insert(resource, Endpoint { client: None, options: None, stopped: Some(Instant::now()) });
        }
    }

    pub(super) fn checkpoint(&self) -> Snapshot {
        let list = |slots: &BTreeSet<String>| slots.iter().cloned().collect();
        Snapshot {
            entries: self.entries.iter().map(|(key, entry)| (key.clone(), entry.clone())).collect(),
            registered: self.healthy.iter().map(|(resource, slots)| (resource.clone(), list(slots))).collect(),
        }
    }

    // Pods.

    pub(super) fn begin(&mut self, pods: Vec<Pod>, running: BTreeSet<(String, String)>) {
        (self.active, self.running, self.ready) = (pods, running, false);
    }

    pub(super) fn ready(&mut self) {
        self.ready = true;
    }

    pub(super) fn add(&mut self, pod: Pod) {
        self.active.push(pod);
    }

    pub(super) fn forget(&mut self, uid: &str) {
        self.active.retain(|pod| pod.uid != uid);
        self.running.retain(|(pod, _)| pod != uid);
    }

    pub(super) fn set_running(&mut self, uid: &str, container: &str) {
        self.running.insert((uid.to_owned(), container.to_owned()));
    }

    pub(super) fn active(&self) -> &[Pod] {
        &self.active
    }

    pub(super) fn container(&self, uid: &str, name: &str) -> Option<(Pod, Container)> {
        let pod = self.active.iter().find(|pod| pod.uid == uid)?;
        let container = pod.containers.iter().find(|container| container.name == name)?;
        Some((pod.clone(), container.clone()))
    }

    // Plugins.

    pub(super) fn register_client(&mut self, resource: &str, client: &Arc<Client>) {
        self.replaced.retain(|client| !client.is_closed());
        self.replaced.extend(self.clients.insert(resource.to_owned(), Arc::clone(client)));
    }

    /// By the resource alone: whoever is the newest by now.
    pub(super) fn take_client(&mut self, resource: &str) -> Option<Arc<Client>> {
        self.clients.remove(resource)
    }

    pub(super) fn all_clients(&mut self) -> Vec<Arc<Client>> {
        self.clients.drain().map(|(_, client)| client).chain(self.replaced.drain(..)).collect()
    }

    pub(super) fn connected(&mut self, resource: &str, client: &Arc<Client>, options: api::DevicePluginOptions) {
        let endpoint = Endpoint { client: Some(Arc::clone(client)), options: Some(options), stopped: None };
        self.endpoints.insert(resource.to_owned(), endpoint);
    }

    pub(super) fn disconnected(&mut self, resource: &str) {
        if let Some(endpoint) = self.endpoints.get_mut(resource) {
            endpoint.stopped = Some(Instant::now());
            let healthy = self.healthy.get_mut(resource).map(std::mem::take).unwrap_or_default();
            self.unhealthy.entry(resource.to_owned()).or_default().extend(healthy);
        }
    }

    pub(super) fn receive(&mut self, resource: &str, devices: Vec<api::Device>) {
        let ids = |healthy: bool| {
            let matching = devices.iter().filter(|device| (device.health == "Healthy") == healthy);
            matching.map(|device| device.id.clone()).collect()
        };
        self.healthy.insert(resource.to_owned(), ids(true));
        self.unhealthy.insert(resource.to_owned(), ids(false));
        self.all.insert(resource.to_owned(), devices.into_iter().map(|device| (device.id.clone(), device)).collect());
    }

    pub(super) fn client(&self, resource: &str) -> Result<Arc<Client>, String> {
        let endpoint = self.endpoints.get(resource).ok_or_else(|| format!("unknown Device Plugin {resource}"))?;
        match &endpoint.client {
            Some(client) if endpoint.stopped.is_none() => Ok(Arc::clone(client)),
            _ => Err(format!("endpoint {resource} has been stopped")),
        }
    }

    /// `None` where nobody is to be called.
    pub(super) fn pre_start(&mut self, uid: &str, container: &str, resource: &str) -> Result<Option<PreStart>, String> {
        let Some(endpoint) = self.endpoints.get(resource) else {
            return Err(format!("endpoint not found in cache for a registered resource: {resource}"));
        };
        // Not yet registered again after a restart: the call is skipped and the old answer used.
        if !endpoint.options.is_some_and(|options| options.pre_start_required) {
            return Ok(None);
        }
        if !self.has(uid, container, resource) {
            return Err(format!(
                "no devices found allocated in local cache for pod {uid}, container {container}, resource {resource}"
            ));
        }
        let client = self.client(resource)?;
        let mut slots = self.slots(uid, container, resource);
        self.shuffle(&mut slots);
        Ok(Some((client, slots)))
    }

    pub(super) fn counts(&mut self) -> BTreeMap<String, Count> {
        let resources: BTreeSet<String> = self.healthy.keys().chain(self.unhealthy.keys()).cloned().collect();
        let mut counts = BTreeMap::new();
        for resource in resources {
            let expired = |endpoint: &Endpoint| endpoint.stopped.is_some_and(|since| since.elapsed() > GRACE);
            if self.endpoints.get(&resource).is_none_or(expired) {
                self.endpoints.remove(&resource);
                self.healthy.remove(&resource);
                self.unhealthy.remove(&resource);
                continue;
            }
            let len = |slots: &HashMap<String, BTreeSet<String>>| slots.get(&resource).map_or(0, BTreeSet::len);
            let allocatable = len(&self.healthy);
            counts.insert(resource.clone(), Count { capacity: allocatable + len(&self.unhealthy), allocatable });
        }
        counts
    }

    // Slots.

    pub(super) fn is_plugin_resource(&self, resource: &str) -> bool {
        self.healthy.contains_key(resource) || self.allocated.contains_key(resource)
    }

    /// Slots of pods that are not active any more are free.
    pub(super) fn free_ended(&mut self) {
        if !self.ready {
            return;
        }
        let active: HashSet<&str> = self.active.iter().map(|pod| &*pod.uid).collect();
        self.entries.retain(|(uid, ..), _| active.contains(&**uid));
        self.recount();
    }

    pub(super) fn recount(&mut self) {
        self.allocated.clear();
        for ((_, _, resource), entry) in &self.entries {
            self.allocated.entry(resource.clone()).or_default().extend(entry.slots.values().flatten().cloned());
        }
    }

    /// The first half of `devicesToAllocate`, up to the question for the plugin.
    pub(super) fn want(
        &mut self,
        pod: &Pod,
        container: &Container,
        resource: &str,
        required: usize,
    ) -> Result<Wanted, String> {
        let has = self.has(&pod.uid, &container.name, resource);
        let before: BTreeSet<String> = self.slots(&pod.uid, &container.name, resource).into_iter().collect();
        if has && before.len() != required {
            return Err(format!(
                "pod {:?} container {:?} changed request for resource {resource:?} from {} to {required}",
                pod.uid,
                container.name,
                before.len()
            ));
        }
        let needed = required - before.len();
        if !self.ready && self.running.contains(&(pod.uid.clone(), container.name.clone())) {
            return Ok(Wanted::Nothing);
        }
        let Some(healthy) = self.healthy.get(resource) else {
            return Err(format!("cannot allocate unregistered device {resource}"));
        };
        if healthy.is_empty() {
            return Err(format!("no healthy devices present; cannot allocate unhealthy devices {resource}"));
        }
        if !healthy.is_superset(&before) {
            return Err(format!(
                "previously allocated devices are no longer healthy; cannot allocate unhealthy devices {resource}"
            ));
        }
        if needed == 0 {
            return Ok(Wanted::Nothing);
        }
        let healthy = healthy.clone();
        if self.reuse.0 != pod.uid {
            self.reuse = (pod.uid.clone(), HashMap::new());
        }
        // Whether they are still healthy, or still there, is not asked.
        let reusable = self.reuse.1.get(resource).cloned().unwrap_or_default();
        let mut taken = BTreeSet::new();
        if self.take(resource, &mut taken, required, reusable) {
            return Ok(Wanted::Slots(self.in_any_order(taken)));
        }
        let in_use = self.allocated.get(resource).cloned().unwrap_or_default();
        let free: BTreeSet<String> = healthy.difference(&in_use).cloned().collect();
        if free.len() < required - taken.len() {
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {}, Available: {}",
                required - taken.len(),
                free.len()
            ));
        }
        let endpoint = self.endpoints.get(resource);
        let asks = endpoint.is_some_and(|e| e.options.is_some_and(|o| o.get_preferred_allocation_available));
        let client = if asks { Some(self.client(resource)?) } else { None };
        Ok(Wanted::Ask(Question {
            resource: resource.to_owned(),
            client,
            available: self.in_any_order(free.union(&taken).cloned().collect()),
            must: self.in_any_order(taken),
            size: required,
            free,
        }))
    }

    /// The second half: the preferred slots first, then any.
    pub(super) fn decide(&mut self, question: Question, preferred: &[String]) -> Result<Vec<String>, String> {
        let Question { resource, must, size, free, .. } = question;
        let mut taken: BTreeSet<String> = must.into_iter().collect();
        let preferred: BTreeSet<String> = preferred.iter().filter(|slot| free.contains(*slot)).cloned().collect();
        if self.take(&resource, &mut taken, size, preferred) || self.take(&resource, &mut taken, size, free) {
            return Ok(self.in_any_order(taken));
        }
        Err(format!("unexpectedly allocated less resources than required. Requested: {size}, Got: {}", taken.len()))
    }

    /// Takes from a set in the order in which Go walks through one; whether that was enough.
    fn take(&mut self, resource: &str, taken: &mut BTreeSet<String>, size: usize, from: BTreeSet<String>) -> bool {
        for slot in self.in_any_order(from) {
            if taken.len() < size && taken.insert(slot.clone()) {
                self.allocated.entry(resource.to_owned()).or_default().insert(slot);
            }
        }
        taken.len() == size
    }

    pub(super) fn record(
        &mut self,
        pod: &Pod,
        container: &Container,
        resource: &str,
        slots: &[String],
        answer: api::ContainerAllocateResponse,
    ) -> Result<(), String> {
        let mut by_node: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for slot in slots {
            let Some(device) = self.all.get(resource).and_then(|devices| devices.get(slot)) else {
                let crash = format!("nil pointer dereference: {slot} of {resource} is not in the list any more");
                self.crash = Some(crash.clone());
                return Err(crash);
            };
            let nodes = device.topology.iter().flat_map(|topology| topology.nodes.iter().map(|node| node.id));
            let mut nodes: Vec<i64> = nodes.collect();
            if nodes.is_empty() {
                nodes.push(NOWHERE);
            }
            for node in nodes {
                by_node.entry(node).or_default().push(slot.clone());
            }
        }
        let key = (pod.uid.clone(), container.name.clone(), resource.to_owned());
        self.entries.insert(key, Entry { slots: by_node, answer });
        Ok(())
    }

    /// What later containers of the pod may take over: slots of ordinary init containers, as long as nobody else took them.
    pub(super) fn note_reuse(&mut self, pod: &Pod, container: &Container) {
        if self.reuse.0 != pod.uid {
            self.reuse = (pod.uid.clone(), HashMap::new());
        }
        for resource in container.limits.keys() {
            let slots = self.slots(&pod.uid, &container.name, resource);
            let reusable = self.reuse.1.entry(resource.clone()).or_default();
            match container.phase {
                Phase::Init => reusable.extend(slots),
                Phase::Sidecar | Phase::App => reusable.retain(|slot| !slots.contains(slot)),
            }
        }
    }

    pub(super) fn has(&self, uid: &str, container: &str, resource: &str) -> bool {
        self.entry(uid, container, resource).is_some()
    }

    pub(super) fn entry(&self, uid: &str, container: &str, resource: &str) -> Option<&Entry> {
        self.entries.get(&(uid.to_owned(), container.to_owned(), resource.to_owned()))
    }

    pub(super) fn slots(&self, uid: &str, container: &str, resource: &str) -> Vec<String> {
        let entry = self.entry(uid, container, resource);
        let slots: BTreeSet<&String> = entry.iter().flat_map(|entry| entry.slots.values().flatten()).collect();
        slots.into_iter().cloned().collect()
    }

    /// The entries of one container.
    pub(super) fn entries_of<'a>(
        &'a self,
        uid: &'a str,
        container: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        let mine = self.entries.iter().filter(move |((pod, name, _), _)| pod == uid && name == container);
        mine.map(|((_, _, resource), entry)| (&**resource, entry))
    }

    /// All answers merged; of two that disagree the first wins, in random order.
    pub(super) fn run_options(&mut self, uid: &str, container: &str) -> RunOptions {
        let mut answers: Vec<_> = self.entries_of(uid, container).map(|(_, entry)| entry.answer.clone()).collect();
        self.shuffle(&mut answers);
        let mut options = RunOptions::default();
        for answer in answers {
            for (key, value) in answer.envs {
                options.envs.entry(key).or_insert(value);
            }
            for (key, value) in answer.annotations {
                options.annotations.entry(key).or_insert(value);
            }
            for device in answer.devices {
                if options.devices.iter().all(|have| have.container_path != device.container_path) {
                    options.devices.push(device);
                }
            }
            for mount in answer.mounts {
                if options.mounts.iter().all(|have| have.container_path != mount.container_path) {
                    options.mounts.push(mount);
                }
            }
            for device in answer.cdi_devices {
                if !options.cdi_devices.contains(&device.name) {
                    options.cdi_devices.push(device.name);
                }
            }
        }
        options
    }

    fn in_any_order(&mut self, slots: BTreeSet<String>) -> Vec<String> {
        let mut slots: Vec<String> = slots.into_iter().collect();
        self.shuffle(&mut slots);
        slots
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.random.below(last + 1));
        }
    }
}
