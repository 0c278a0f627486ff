//! Watches that no device is ever oversubscribed, from the API objects alone: what nodes publish and what pods carry; and that each
//! container runs with the devices of its allocation ([`Started`]). It shares no code with `gpu` and `agent`, so that a mistake there
//! cannot hide itself here.
//!
//! Fed with every change in order; each state is judged when it comes into being, so "at any time" is meant literally.

mod started;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

pub use started::Started;

use super::api_server::{Change, ChangeKind};

/// A device as its node publishes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Card {
    pub(super) index: i64,
    pub(super) model: String,
    pub(super) memory: i64,
    pub(super) cores: i64,
    pub(super) slots: i64,
    pub(super) health: String,
    pub(super) profile: Option<String>,
}

/// What one pod takes of one device at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Take {
    pub(super) memory: i64,
    pub(super) cores: i64,
    pub(super) slots: i64,
    pub(super) exclusive: bool,
}

/// A live pod with devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) node: String,
    pub(super) takes: BTreeMap<String, Take>,
}

/// One node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Host {
    /// By UUID, in the order of the inventory.
    pub(super) cards: Vec<(String, Card)>,
    pub(super) cordoned: BTreeSet<String>,
}

/// The truth so far.
#[derive(Debug, Clone, Default)]
pub struct Checker {
    pub(super) hosts: BTreeMap<String, Host>,
    /// By UID.
    pub(super) holders: BTreeMap<String, Holder>,
    /// By node and device.
    used: BTreeMap<(String, String), BTreeSet<String>>,
    /// Pods judged at their binding.
    judged: BTreeSet<String>,
    states: u64,
    started: Started,
    violations: Vec<String>,
}

impl Checker {
    /// Takes in one change and judges the state it makes.
    pub fn apply(&mut self, change: &Change) {
        match change.plural {
            "nodes" => self.node(change),
            "pods" => self.pod(change),
            _ => return,
        }
        self.states += 1;
    }

    /// How many states of the cluster were judged.
    pub fn states(&self) -> u64 {
        self.states
    }

    /// What was wrong, in the order it happened.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    fn node(&mut self, change: &Change) {
        let name = text(&change.object["metadata"]["name"]).to_owned();
        if change.kind == ChangeKind::Deleted {
            self.hosts.remove(&name);
            return;
        }
        let annotations = &change.object["metadata"]["annotations"];
        let mut host = Host::default();
        let inventory: Value = serde_json::from_str(text(&annotations["packhorse.dev/inventory"])).unwrap_or_default();
        for device in inventory["devices"].as_array().into_iter().flatten() {
            let card = Card {
                index: number(&device["index"]),
                model: text(&device["model"]).to_owned(),
                memory: number(&device["memory"]),
                cores: number(&device["cores"]),
                slots: number(&device["slots"]),
                health: text(&device["health"]).to_owned(),
                profile: device["mig"]["profile"].as_str().map(str::to_owned),
            };
            host.cards.push((text(&device["uuid"]).to_owned(), card));
        }
        let cordon = text(&annotations["packhorse.dev/cordon"]);
        host.cordoned = cordon.split(',').map(|uuid| uuid.trim().to_owned()).filter(|uuid| !uuid.is_empty()).collect();
        self.hosts.insert(name, host);
    }

    fn pod(&mut self, change: &Change) {
        let pod = &*change.object;
        let uid = text(&pod["metadata"]["uid"]).to_owned();
        let ended =
            change.kind == ChangeKind::Deleted || matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed");
        let node = text(&pod["spec"]["nodeName"]).to_owned();
        if ended || node.is_empty() {
            self.forget(&uid);
            if change.kind == ChangeKind::Deleted {
                self.judged.remove(&uid);
            }
            return;
        }
        let allocation: Value =
            serde_json::from_str(text(&pod["metadata"]["annotations"]["packhorse.dev/allocation"])).unwrap_or_default();
        if self.judged.insert(uid.clone()) {
            self.judge_promise(pod, &node, &allocation);
        }
        let takes = takes(pod, &allocation);
        if takes.is_empty() || self.holders.get(&uid).is_some_and(|holder| holder.node == node && holder.takes == takes)
        {
            return;
        }
        self.forget(&uid);
        for device in takes.keys() {
            self.used.entry((node.clone(), device.clone())).or_default().insert(uid.clone());
        }
        let devices: Vec<String> = takes.keys().cloned().collect();
        let metadata = &pod["metadata"];
        let holder = Holder {
            namespace: text(&metadata["namespace"]).to_owned(),
            name: text(&metadata["name"]).to_owned(),
            node: node.clone(),
            takes,
        };
        self.holders.insert(uid, holder);
        for device in devices {
            self.judge_device(&node, &device);
        }
    }

    fn forget(&mut self, uid: &str) {
        let Some(holder) = self.holders.remove(uid) else { return };
        for device in holder.takes.keys() {
            if let Some(users) = self.used.get_mut(&(holder.node.clone(), device.clone())) {
                users.remove(uid);
            }
        }
    }

    /// Who is on a device, with what they take.
    pub(super) fn users(&self, node: &str, device: &str) -> Vec<(&Holder, Take)> {
        let users = self.used.get(&(node.to_owned(), device.to_owned()));
        users
            .into_iter()
            .flatten()
            .filter_map(|uid| self.holders.get(uid))
            .filter_map(|holder| Some((holder, *holder.takes.get(device)?)))
            .collect()
    }

    fn card(&self, node: &str, device: &str) -> Option<&Card> {
        self.hosts.get(node)?.cards.iter().find(|(uuid, _)| uuid == device).map(|(_, card)| card)
    }

    /// The sum of what is taken must be within the device, and an exclusive pod must be alone.
    fn judge_device(&mut self, node: &str, device: &str) {
        let users = self.users(node, device);
        let sum = users.iter().fold(Take::default(), |sum, (_, take)| Take {
            memory: sum.memory + take.memory,
            cores: sum.cores + take.cores,
            slots: sum.slots + take.slots,
            exclusive: sum.exclusive || take.exclusive,
        });
        let names: Vec<String> =
            users.iter().map(|(holder, _)| format!("{}/{}", holder.namespace, holder.name)).collect();
        let names = names.join(", ");
        let on = format!("{node} {device} (pods {names})");
        let Some(card) = self.card(node, device) else {
            self.violations.push(format!("{on}: the node has no such device"));
            return;
        };
        let mut found = Vec::new();
        for (what, taken, limit) in [
            ("MiB", sum.memory, card.memory),
            ("percent of cores", sum.cores, card.cores),
            ("slots", sum.slots, card.slots),
        ] {
            if taken > limit {
                found.push(format!("{on}: {taken} of {limit} {what}"));
            }
        }
        if sum.exclusive && users.len() > 1 {
            found.push(format!("{on}: an exclusive pod is not alone"));
        }
        self.violations.extend(found);
    }

    /// A pod must have got what it asked for when it was bound.
    fn judge_promise(&mut self, pod: &Value, node: &str, allocation: &Value) {
        let annotations = &pod["metadata"]["annotations"];
        let request: Value = serde_json::from_str(text(&annotations["packhorse.dev/request"])).unwrap_or_default();
        let name = format!("{}/{}", text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
        let mut found = Vec::new();
        for (container, asked) in request["containers"].as_object().into_iter().flatten() {
            let given = allocation["containers"][container].as_array().cloned().unwrap_or_default();
            let mut wrong = |what: String| found.push(format!("{name} on {node}, container {container}: {what}"));
            let count = asked["count"].as_u64().unwrap_or(1) as usize;
            let uuids: Vec<&str> = given.iter().map(|share| text(&share["device"])).collect();
            if given.len() != count || uuids.iter().collect::<BTreeSet<_>>().len() != count {
                wrong(format!("asked for {count} different devices, got {uuids:?}"));
            }
            if text(&annotations[format!("devices.packhorse.dev/{container}")]) != uuids.join(",") {
                wrong("devices.packhorse.dev/ names other devices than the allocation".to_owned());
            }
            for share in &given {
                let Some(card) = self.card(node, text(&share["device"])) else { continue };
                let (memory, cores) = (number(&share["memory"]), number(&share["cores"]));
                let exclusive = asked["exclusive"] == true;
                let wanted = match (asked["memory"].as_i64(), asked["memoryPercent"].as_i64()) {
                    (Some(memory), _) => memory,
                    (None, Some(percent)) => card.memory * percent / 100,
                    (None, None) => card.memory,
                };
                if (exclusive && memory != card.memory) || (!exclusive && memory != wanted) {
                    wrong(format!("{memory} MiB booked where {wanted} were asked"));
                }
                if !exclusive && asked["mig"].is_null() && cores != asked["cores"].as_i64().unwrap_or(0) {
                    wrong(format!("{cores} percent of cores booked where {} were asked", asked["cores"]));
                }
                if exclusive != (share["exclusive"] == true) && asked["mig"].is_null() {
                    wrong("exclusive use is not as asked".to_owned());
                }
                if asked["mig"].as_str() != card.profile.as_deref() {
                    wrong(format!("asked for MIG profile {}, got {:?}", asked["mig"], card.profile));
                }
                let models = text(&annotations["packhorse.dev/gpu-model"]);
                if !models.is_empty() && !models.split(',').any(|model| card.model.contains(model.trim())) {
                    wrong(format!("asked for model {models}, got {}", card.model));
                }
            }
        }
        self.violations.extend(found);
    }
}

/// What a pod takes of each device: the most of its init phase and its running phase, as Kubernetes counts.
fn takes(pod: &Value, allocation: &Value) -> BTreeMap<String, Take> {
    let shares = |container: &Value| {
        let given = allocation["containers"][text(&container["name"])].as_array().cloned().unwrap_or_default();
        given
            .into_iter()
            .map(|share| {
                let take = Take {
                    memory: number(&share["memory"]),
                    cores: number(&share["cores"]),
                    slots: 1,
                    exclusive: share["exclusive"] == true,
                };
                (text(&share["device"]).to_owned(), take)
            })
            .collect::<Vec<_>>()
    };
    let add = |to: &mut BTreeMap<String, Take>, shares: Vec<(String, Take)>| {
        for (device, share) in shares {
            let sum = to.entry(device).or_default();
            // Two containers that run together and one of them exclusive: shown as more than the card has.
            let clash = (sum.exclusive || share.exclusive) && sum.slots > 0;
            sum.memory += share.memory + if clash { 1 << 30 } else { 0 };
            sum.cores += share.cores;
            sum.slots += 1;
            sum.exclusive |= share.exclusive;
        }
    };
    let mut running: BTreeMap<String, Take> = BTreeMap::new();
    let mut most: BTreeMap<String, Take> = BTreeMap::new();
    let raise = |most: &mut BTreeMap<String, Take>, now: &BTreeMap<String, Take>| {
        for (device, take) in now {
            let peak = most.entry(device.clone()).or_default();
            peak.memory = peak.memory.max(take.memory);
            peak.cores = peak.cores.max(take.cores);
            peak.slots = peak.slots.max(take.slots);
            peak.exclusive |= take.exclusive;
        }
    };
    for container in pod["spec"]["initContainers"].as_array().into_iter().flatten() {
        if container["restartPolicy"] == "Always" {
            add(&mut running, shares(container));
            raise(&mut most, &running);
        } else {
            let mut now = running.clone();
            add(&mut now, shares(container));
            raise(&mut most, &now);
        }
    }
    for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
        add(&mut running, shares(container));
    }
    raise(&mut most, &running);
    most
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

impl Checker {
    /// Where a pod is and with how much, for people: `GPU 1 (8.0 GiB, 30 %)`.
    pub(super) fn describe(&self, holder: &Holder) -> String {
        let parts: Vec<String> = holder
            .takes
            .iter()
            .map(|(device, take)| {
                let Some(card) = self.card(&holder.node, device) else { return device.clone() };
                let gpu = format!("GPU {}", card.index);
                match (&card.profile, take.exclusive) {
                    (Some(profile), _) => format!("{gpu} (MIG {profile})"),
                    (None, true) => format!("{gpu} (whole)"),
                    (None, false) if take.cores == 0 => format!("{gpu} ({})", gib(take.memory)),
                    (None, false) => format!("{gpu} ({}, {} % of cores)", gib(take.memory), take.cores),
                }
            })
            .collect();
        parts.join(", ")
    }
}

/// MiB in GiB with one digit.
pub(super) fn gib(mib: i64) -> String {
    format!("{:.1} GiB", mib as f64 / 1024.0)
}
