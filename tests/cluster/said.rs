//! What a Node object has said about its devices, version by version, with the time at which each was heard.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Client;
use kube::api::{Api, WatchEvent, WatchParams};
use serde_json::Value;

use super::{checker, wait};

/// One version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    /// Whole amounts of `status.allocatable` that are no CPU, memory or pods.
    pub(crate) allocatable: BTreeMap<String, u64>,
    /// The same of `status.capacity`.
    pub(crate) capacity: BTreeMap<String, u64>,
    /// `ready` of the inventory; none without an inventory.
    pub(crate) ready: Option<bool>,
    /// UUID to health, of the inventory.
    pub(crate) devices: BTreeMap<String, String>,
    /// Keys of its taints.
    pub(crate) taints: Vec<String>,
}

impl Said {
    /// What it says.
    pub(crate) fn of(node: &Node) -> Self {
        let inventory = node.metadata.annotations.as_ref().and_then(|all| all.get("packhorse.dev/inventory"));
        let inventory: Value = inventory.map_or(Value::Null, |text| serde_json::from_str(text).expect("JSON"));
        let devices = inventory["devices"].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let status = node.status.clone().unwrap_or_default();
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
        Self {
            allocatable: amounts(status.allocatable),
            capacity: amounts(status.capacity),
            ready: inventory["ready"].as_bool(),
            devices: devices.map(|device| (text(&device["uuid"]), text(&device["health"]))).collect(),
            taints: taints.into_iter().flatten().map(|taint| taint.key.clone()).collect(),
        }
    }

    /// Slots that the kubelet offers of a resource; none where it does not know of it.
    pub(crate) fn slots(&self, resource: &str) -> Option<u64> {
        self.allocatable.get(resource).copied()
    }

    /// The totals in capacity and allocatable: memory in MiB, percent of cards.
    pub(crate) fn totals(&self) -> [Option<u64>; 4] {
        let of = |list: &BTreeMap<String, u64>, name: &str| list.get(name).copied();
        let (memory, cores) = ("packhorse.dev/gpu-memory", "packhorse.dev/gpu-cores");
        [
            of(&self.capacity, memory),
            of(&self.capacity, cores),
            of(&self.allocatable, memory),
            of(&self.allocatable, cores),
        ]
    }
}

/// All versions since [`History::watch`], oldest first.
#[derive(Debug, Clone)]
pub(crate) struct History(Arc<Mutex<Vec<(Instant, Said)>>>);

impl History {
    /// Begins to listen. Equal neighbours are one.
    pub(crate) async fn watch(client: &Client, node: &str) -> Self {
        let nodes: Api<Node> = Api::all(client.clone());
        let first = nodes.get(node).await.expect("the node is there");
        let said = Arc::new(Mutex::new(vec![(Instant::now(), Said::of(&first))]));
        let sink = Arc::clone(&said);
        let params = WatchParams::default().fields(&format!("metadata.name={node}")).timeout(290);
        tokio::spawn(async move {
            let version = first.metadata.resource_version.unwrap_or_default();
            let events = nodes.watch(&params, &version).await.expect("the node is watched");
            let mut events = events.boxed();
            while let Ok(Some(event)) = events.try_next().await {
                if let WatchEvent::Added(node) | WatchEvent::Modified(node) = event {
                    let newest = Said::of(&node);
                    let mut all = sink.lock().expect("no listener panics");
                    if all.last().is_none_or(|(_, last)| *last != newest) {
                        all.push((Instant::now(), newest));
                    }
                }
            }
        });
        Self(said)
    }

    /// Everything so far.
    pub(crate) fn all(&self) -> Vec<(Instant, Said)> {
        self.0.lock().expect("no listener panics").clone()
    }

    /// The newest.
    pub(crate) fn now(&self) -> Said {
        self.0.lock().expect("no listener panics").last().expect("there is a first").1.clone()
    }

    /// Waits until the newest version is so; when that version was heard.
    pub(crate) async fn until(&self, what: &str, seconds: u64, holds: impl Fn(&Said) -> bool) -> Instant {
        let mut last = None;
        let became = wait::becomes(seconds, async || {
            last = self.0.lock().expect("no listener panics").last().cloned();
            last.as_ref().is_some_and(|(_, said)| holds(said))
        })
        .await;
        assert!(became, "waited {seconds} s in vain for the node to say: {what}; it says {last:#?}");
        last.expect("there is a first").0
    }
}

fn amounts(list: Option<BTreeMap<String, Quantity>>) -> BTreeMap<String, u64> {
    let extended = list.into_iter().flatten().filter(|(name, _)| name.contains('/'));
    let whole = |amount| u64::try_from(checker::thousandths(&amount) / 1000).expect("no less than nothing");
    extended.map(|(name, amount)| (name, whole(amount))).collect()
}
