//! A node with stand-ins for cards, the agent beside it, and rounds of pods that are born together, live and go.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use super::super::agent::{Agent, cards, uuid};
use super::super::lab::Lab;
use super::super::node::{Node, Runtime, StandIns};
use super::super::pods::{self, Versions};
use super::super::{kubelab, wait};
use super::promises::Promises;
use super::shapes::{self, Shape};
use super::verdict::{self, Verdict};

/// What a test acts on.
pub(super) struct Stage {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) node: Node,
    pub(super) agent: Agent,
    pub(super) versions: Versions,
    pub(super) rounds: usize,
    stand_ins: StandIns,
}

/// The pods of one round.
pub(super) struct Cast {
    client: Client,
    namespace: String,
    pairs: Vec<[Pod; 2]>,
    /// Which pairs go in the other order.
    turn: usize,
}

impl Stage {
    /// A node with so many cards; `flags` go to the agent.
    pub(super) async fn start(lab: &Lab, count: usize, flags: &[&str]) -> Self {
        let node = Node::start(lab, "gpus", Runtime::Containerd22, &[]).await;
        let uuids: Vec<String> = (0..count).map(uuid).collect();
        let stand_ins = node.stand_ins(&uuids.iter().map(String::as_str).collect::<Vec<_>>());
        stand_ins.write_specification(&node.cdi_dir);
        let agent = Agent::start(lab, &node, &cards(count), flags).await;
        let namespace = lab.namespace("swap", json!({})).await;
        let versions = Versions::watch(&lab.client, &namespace).await;
        Self { client: lab.client.clone(), namespace, node, agent, versions, rounds: 0, stand_ins }
    }

    /// The pods of the next round: two of each shape. The names are the same in every round.
    pub(super) fn cast(&mut self, shapes: &[Shape]) -> Cast {
        let pod = |shape: &Shape, which: &str| shape.pod(&self.node, &format!("{}-{which}", shape.name));
        let pairs = shapes.iter().map(|shape| [pod(shape, "a"), pod(shape, "b")]).collect();
        self.rounds += 1;
        Cast { client: self.client.clone(), namespace: self.namespace.clone(), pairs, turn: self.rounds }
    }

    /// Every start up to now, judged. All pods have to be gone.
    pub(super) fn judge(&self) -> Verdict {
        verdict::judge(&self.node.records(), &Promises::of(&self.versions.all()), &self.stand_ins)
    }

    /// Judges, prints what was counted, and asserts that at least `starts` were looked at and all were right.
    pub(super) fn conclude(&self, what: &str, starts: usize) {
        let verdict = self.judge();
        kubelab::say(&format!(
            "{what}: {} starts in {} rounds, {} with devices, {} wrong; {} ended by force; failed by the kubelet: {:?}",
            verdict.starts,
            self.rounds,
            verdict.with_devices,
            verdict.wrong.len(),
            verdict.killed,
            self.failed()
        ));
        assert!(verdict.wrong.is_empty(), "{:#?}", verdict.wrong);
        assert!(verdict.starts >= starts, "{} starts were looked at, not {starts}", verdict.starts);
        assert!(verdict.killed * 20 <= verdict.starts, "{} ends are not known", verdict.killed);
    }

    /// Of how many running containers `PodResources` names slots of just the cards that they have, and of how many it tells.
    pub(super) async fn named_by_slots(&self) -> (usize, usize) {
        let pods = pods::list(&self.client, &self.namespace).await;
        let promises = Promises::of(&pods);
        let uids: BTreeMap<_, _> =
            pods.into_iter().map(|pod| (pod.metadata.name, pod.metadata.uid.unwrap_or_default())).collect();
        let (mut matching, mut all) = (0, 0);
        for pod in self.node.pod_resources().await {
            let Some(uid) = uids.get(&Some(pod.name)) else { continue };
            for container in pod.containers {
                let slots = container.devices.iter().filter(|it| it.resource_name == "nvidia.com/gpu");
                let slots = slots.flat_map(|it| &it.device_ids);
                let cards: BTreeSet<String> =
                    slots.filter_map(|slot| slot.rsplit_once("::").map(|(card, _)| card.to_owned())).collect();
                if cards.is_empty() {
                    continue;
                }
                all += 1;
                let promised = promises.get(uid, &container.name).unwrap_or_default().devices;
                matching += usize::from(promised == cards);
            }
        }
        (matching, all)
    }

    /// Pods that the kubelet itself has failed, by its reason.
    pub(super) fn failed(&self) -> BTreeMap<String, usize> {
        let mut reasons: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for pod in self.versions.all() {
            let Some(status) = pod.status.filter(|status| status.phase.as_deref() == Some("Failed")) else { continue };
            // Without one, a container has failed, as some are asked to.
            let Some(reason) = status.reason else { continue };
            reasons.entry(reason).or_default().insert(pod.metadata.uid.unwrap_or_default());
        }
        reasons.into_iter().map(|(reason, pods)| (reason, pods.len())).collect()
    }
}

impl Cast {
    /// Creates all pods and lets them go at once, so that they are bound in the same moment. In every other pair, and in the next round the
    /// others, the one that was created second goes first.
    pub(super) async fn enter(&self) {
        let all: Vec<Pod> = self.pairs.iter().flatten().cloned().collect();
        pods::create_all(&self.client, &self.namespace, &all).await;
        let api = pods::api(&self.client, &self.namespace);
        let gates = json!({"spec": {"schedulingGates": null}});
        futures::stream::iter(self.pairs.iter().enumerate())
            .map(async |(number, pair)| {
                let mut pair: Vec<&Pod> = pair.iter().collect();
                if (number + self.turn) % 2 == 1 {
                    pair.reverse();
                }
                for name in pair.into_iter().filter_map(|pod| pod.metadata.name.as_deref()) {
                    let opened = api.patch(name, &PatchParams::default(), &Patch::Merge(&gates)).await;
                    opened.unwrap_or_else(|error| panic!("the gate of {name} is not opened: {error}"));
                }
            })
            .buffer_unordered(16)
            .collect::<Vec<()>>()
            .await;
    }

    /// Until all has begun that can begin.
    pub(super) async fn settle(&self, seconds: u64) {
        let mut waiting = Vec::new();
        let settled = wait::becomes(seconds, async || {
            let pods = pods::list(&self.client, &self.namespace).await;
            waiting = pods.into_iter().filter(|pod| !shapes::is_settled(pod)).collect();
            waiting.is_empty()
        })
        .await;
        let described: Vec<_> = waiting.iter().map(describe).collect();
        assert!(settled, "after {seconds} s these do not run: {described:#?}");
    }

    /// Deletes all pods and waits until they are gone.
    pub(super) async fn leave(&self) {
        clear(&self.client, &self.namespace).await;
    }
}

/// Deletes all pods of a namespace and waits until they are gone.
pub(super) async fn clear(client: &Client, namespace: &str) {
    let api = pods::api(client, namespace);
    api.delete_collection(&DeleteParams::default(), &Default::default()).await.expect("pods are deleted");
    wait::until("the pods to go", 90, async || pods::list(client, namespace).await.is_empty().then_some(())).await;
}

fn describe(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let statuses =
        status.init_container_statuses.into_iter().flatten().chain(status.container_statuses.into_iter().flatten());
    let states: Vec<String> = statuses
        .map(|it| format!("{} restarts={} {:?}", it.name, it.restart_count, it.state.and_then(|state| state.waiting)))
        .collect();
    format!("{:?} {:?}: {states:?}", pod.metadata.name, status.phase)
}
