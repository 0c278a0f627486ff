//! A small scheduling loop that speaks kube-scheduler's wire format to the extender: resources of the node first, then filter,
//! prioritize, the highest score with ties broken at random, and a bind that runs on while the next pod is looked at.
//!
//! It learns of pods and nodes by watches of the API server like the original, so it sees late what a fault delays. A pod that fits
//! nowhere gets the condition `PodScheduled: False` with the reasons, and is tried again when something changed.

mod cache;
mod queue;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::Notify;

use self::cache::Cache;
use self::queue::{Pending, Queue};
use super::http_client::{CallError, HttpClient};
use crate::random::Random;

/// What the loop needs to run.
#[derive(Clone)]
pub(super) struct Wiring {
    /// For its watches.
    pub(super) client: Client,
    /// For what it writes itself.
    pub(super) http: HttpClient,
    /// Base URLs, without a slash at the end.
    pub(super) api_url: String,
    pub(super) extender_url: String,
}

/// How long the calls took, and how they went.
#[derive(Debug, Clone, Default)]
pub(super) struct Calls {
    pub(super) filter: Vec<Duration>,
    pub(super) prioritize: Vec<Duration>,
    pub(super) bind: Vec<Duration>,
    /// Answers with an error, or none.
    pub(super) errors: BTreeMap<String, usize>,
}

#[derive(Debug, Default)]
struct State {
    cache: Cache,
    queue: Queue,
}

/// The loop. Shared by its tasks.
pub(super) struct Scheduler {
    wiring: Wiring,
    state: Mutex<State>,
    calls: Mutex<Calls>,
    random: Mutex<Random>,
    work: Notify,
}

/// kube-scheduler multiplies an extender's score by its weight and by this.
const SCORE_SCALE: i64 = 10;

impl Scheduler {
    pub(super) fn new(wiring: Wiring, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            wiring,
            state: Mutex::default(),
            calls: Mutex::default(),
            random: Mutex::new(Random::new(seed ^ 0x7469_6573)),
            work: Notify::new(),
        })
    }

    pub(super) fn calls(&self) -> Calls {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of the state is complete in itself; the worst a panic leaves is a pod tried once too often.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs until dropped.
    pub(super) async fn run(self: Arc<Self>) {
        tokio::join!(self.follow_nodes(), self.follow_pods(), self.schedule());
    }

    async fn follow_nodes(&self) {
        let api: Api<Node> = Api::all(self.wiring.client.clone());
        let mut events = pin!(watcher(api, watcher::Config::default()).backoff(Patience::default()));
        while let Some(event) = events.next().await {
            let mut state = self.state();
            match event {
                Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node)) => {
                    state.cache.set_node(&serde_json::to_value(node).unwrap_or_default());
                }
                Ok(watcher::Event::Delete(node)) => state.cache.remove_node(&node.metadata.name.unwrap_or_default()),
                Ok(watcher::Event::Init) => continue,
                Ok(watcher::Event::InitDone) => {}
                Err(error) => {
                    tracing::debug!(%error, "watch of nodes");
                    continue;
                }
            }
            state.queue.wake();
            drop(state);
            self.work.notify_one();
        }
    }

    async fn follow_pods(&self) {
        let api: Api<Pod> = Api::all(self.wiring.client.clone());
        let mut events = pin!(watcher(api, watcher::Config::default()).backoff(Patience::default()));
        let mut listed = BTreeSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Apply(pod)) => self.pod(&serde_json::to_value(pod).unwrap_or_default()),
                Ok(watcher::Event::InitApply(pod)) => {
                    listed.insert(pod.metadata.uid.clone().unwrap_or_default());
                    self.pod(&serde_json::to_value(pod).unwrap_or_default());
                }
                Ok(watcher::Event::Delete(pod)) => self.gone(&pod.metadata.uid.unwrap_or_default()),
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitDone) => {
                    let mut state = self.state();
                    state.cache.keep(&listed);
                    state.queue.keep(&listed);
                    state.queue.wake();
                }
                Err(error) => tracing::debug!(%error, "watch of pods"),
            }
            self.work.notify_one();
        }
    }

    fn pod(&self, pod: &Value) {
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        if matches!(phase, "Succeeded" | "Failed") {
            return self.gone(uid);
        }
        let mut state = self.state();
        if !node.is_empty() {
            state.queue.remove(uid);
            state.cache.place(uid, node, pod, false);
            return;
        }
        let ours = matches!(pod["spec"]["schedulerName"].as_str(), Some("packhorse" | "default-scheduler"));
        let gated = pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty());
        if state.cache.is_assumed(uid) {
            // On its way to a node: an older version of it changes nothing.
            return;
        }
        if !ours || gated || pod["metadata"]["deletionTimestamp"].is_string() {
            state.queue.remove(uid);
        } else {
            state.queue.put(uid, pod.clone());
        }
    }

    fn gone(&self, uid: &str) {
        let mut state = self.state();
        state.queue.remove(uid);
        if state.cache.forget(uid) {
            state.queue.wake();
        }
    }

    async fn schedule(self: &Arc<Self>) {
        loop {
            let next = {
                let mut state = self.state();
                let moves = state.queue.moves();
                state.queue.pop(Instant::now()).map(|(uid, pending)| (uid, pending, moves))
            };
            let Some((uid, pending, moves)) = next else {
                let back_off = !self.state().queue.is_empty();
                let pause = if back_off { Duration::from_millis(20) } else { Duration::from_secs(1) };
                // Either way it looks again: a missed signal costs a second at most.
                let _timed_out = tokio::time::timeout(pause, self.work.notified()).await;
                continue;
            };
            match self.choose(&pending.pod).await {
                Ok(Choice::Node(node)) => {
                    self.state().cache.place(&uid, &node, &pending.pod, true);
                    // While its bind is under way the pod is not in the queue.
                    self.state().queue.remove(&uid);
                    tokio::spawn(Arc::clone(self).bind(uid, node, pending));
                }
                Ok(Choice::None(reasons)) => self.unschedulable(&uid, &pending, &reasons, moves).await,
                Err(error) => {
                    self.count_error(&error);
                    self.state().queue.back(&uid, pending.told, moves, true);
                }
            }
        }
    }

    /// One scheduling cycle up to the choice of a node.
    async fn choose(&self, pod: &Value) -> Result<Choice, CallError> {
        let (mut names, mut refused) = self.state().cache.feasible(pod);
        if !is_interesting(pod) {
            // Not the extender's business: any node with room.
            let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
            return Ok(if names.is_empty() {
                Choice::None(refused)
            } else {
                Choice::Node(random.pick(&names).clone())
            });
        }
        if names.is_empty() {
            return Ok(Choice::None(refused));
        }
        let nominated = pod["status"]["nominatedNodeName"].as_str().unwrap_or_default();
        if names.iter().any(|name| name == nominated) {
            let (fits, _) = self.filter(pod, std::slice::from_ref(&nominated.to_owned())).await?;
            if let Some(node) = fits.into_iter().next() {
                return Ok(Choice::Node(node));
            }
        }
        let (fits, reasons) = self.filter(pod, &names).await?;
        for reason in reasons {
            *refused.entry(reason).or_default() += 1;
        }
        names = fits;
        Ok(match names.as_slice() {
            [] => Choice::None(refused),
            [only] => Choice::Node(only.clone()),
            _ => Choice::Node(self.best(pod, names).await),
        })
    }

    /// The names that fit, and one reason for each that does not.
    async fn filter(&self, pod: &Value, names: &[String]) -> Result<(Vec<String>, Vec<String>), CallError> {
        let began = Instant::now();
        let body = json!({"Pod": pod, "Nodes": null, "NodeNames": names});
        let answer = self.wiring.http.post(&format!("{}/filter", self.wiring.extender_url), &body).await?;
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).filter.push(began.elapsed());
        if let Some(error) = answer["Error"].as_str().filter(|error| !error.is_empty()) {
            return Err(CallError::Refused { code: 200, message: error.to_owned() });
        }
        let fits: Vec<String> = answer["NodeNames"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect();
        if let Some(strange) = fits.iter().find(|name| !names.contains(name)) {
            let message =
                format!("extender claims a filtered node {strange:?} which is not found in the input node list");
            return Err(CallError::Refused { code: 200, message });
        }
        let reasons = ["FailedNodes", "FailedAndUnresolvableNodes"]
            .iter()
            .flat_map(|field| answer[*field].as_object().into_iter().flatten())
            .filter_map(|(_, reason)| reason.as_str().map(str::to_owned))
            .collect();
        Ok((fits, reasons))
    }

    /// The node with the highest score; one of them at random where several have it. An error leaves it to chance, as in the
    /// original.
    async fn best(&self, pod: &Value, names: Vec<String>) -> String {
        let began = Instant::now();
        let body = json!({"Pod": pod, "Nodes": null, "NodeNames": names});
        let answer = self.wiring.http.post(&format!("{}/prioritize", self.wiring.extender_url), &body).await;
        let mut scores: BTreeMap<&str, i64> = names.iter().map(|name| (name.as_str(), 0)).collect();
        match &answer {
            Ok(answer) => {
                self.calls.lock().unwrap_or_else(PoisonError::into_inner).prioritize.push(began.elapsed());
                for entry in answer.as_array().into_iter().flatten() {
                    if let Some(score) = entry["Host"].as_str().and_then(|host| scores.get_mut(host)) {
                        *score += entry["Score"].as_i64().unwrap_or(0) * SCORE_SCALE;
                    }
                }
            }
            Err(error) => self.count_error(error),
        }
        let highest = scores.values().max().copied().unwrap_or(0);
        let best: Vec<&str> = scores.into_iter().filter(|(_, score)| *score == highest).map(|(name, _)| name).collect();
        (*self.random.lock().unwrap_or_else(PoisonError::into_inner).pick(&best)).to_owned()
    }

    /// Binds, beside the loop. What fails comes back into the queue, unless the watch shows that it took effect after all.
    async fn bind(self: Arc<Self>, uid: String, node: String, pending: Pending) {
        let metadata = &pending.pod["metadata"];
        let (namespace, name) =
            (metadata["namespace"].as_str().unwrap_or_default(), metadata["name"].as_str().unwrap_or_default());
        let result = if is_interesting(&pending.pod) {
            let began = Instant::now();
            let body = json!({"PodName": name, "PodNamespace": namespace, "PodUID": uid, "Node": node});
            let answer = self.wiring.http.post(&format!("{}/bind", self.wiring.extender_url), &body).await;
            self.calls.lock().unwrap_or_else(PoisonError::into_inner).bind.push(began.elapsed());
            answer.and_then(|answer| match answer["Error"].as_str() {
                Some(error) if !error.is_empty() => Err(CallError::Refused { code: 200, message: error.to_owned() }),
                _ => Ok(()),
            })
        } else {
            let body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "uid": uid},
                "target": {"kind": "Node", "name": node}});
            let url = format!("{}/api/v1/namespaces/{namespace}/pods/{name}/binding", self.wiring.api_url);
            self.wiring.http.post(&url, &body).await.map(|_| ())
        };
        let Err(error) = result else { return };
        self.count_error(&error);
        let mut state = self.state();
        if state.cache.is_bound(&uid) {
            return;
        }
        state.cache.forget(&uid);
        state.queue.put(&uid, pending.pod);
        let moves = state.queue.moves();
        state.queue.back(&uid, pending.told, moves, true);
        drop(state);
        self.work.notify_one();
    }

    async fn unschedulable(&self, uid: &str, pending: &Pending, reasons: &BTreeMap<String, usize>, moves: u64) {
        let mut told: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        told.sort();
        let nodes = self.state().cache.nodes();
        let message = format!("0/{nodes} nodes are available: {}.", told.join(", "));
        if message != pending.told {
            let metadata = &pending.pod["metadata"];
            let url = format!(
                "{}/api/v1/namespaces/{}/pods/{}/status",
                self.wiring.api_url,
                metadata["namespace"].as_str().unwrap_or_default(),
                metadata["name"].as_str().unwrap_or_default()
            );
            let condition =
                json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message});
            let patch = json!({"metadata": {"uid": uid}, "status": {"conditions": [condition]}});
            let kind = "application/strategic-merge-patch+json";
            if let Err(error) = self.wiring.http.send(hyper::Method::PATCH, &url, kind, &patch).await {
                // Its user may have deleted it meanwhile.
                tracing::debug!(%error, "the pod's condition is not written");
            }
        }
        self.state().queue.back(uid, message, moves, false);
    }

    fn count_error(&self, error: &CallError) {
        let text = match error {
            CallError::Refused { message, .. } => message.clone(),
            other => other.to_string(),
        };
        *self.calls.lock().unwrap_or_else(PoisonError::into_inner).errors.entry(text).or_default() += 1;
    }
}

enum Choice {
    Node(String),
    /// How many nodes are refused for each reason.
    None(BTreeMap<String, usize>),
}

/// Whether the extender manages a resource of this pod, by the rule of kube-scheduler.
fn is_interesting(pod: &Value) -> bool {
    ["initContainers", "containers"].iter().flat_map(|field| pod["spec"][*field].as_array().into_iter().flatten()).any(
        |container| {
            ["requests", "limits"]
                .iter()
                .any(|list| container["resources"][*list].get("packhorse.dev/gpu-cores").is_some())
        },
    )
}

/// How long a watch that broke waits before it resumes.
#[derive(Debug, Clone, Default)]
struct Patience {
    tries: u32,
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.tries = (self.tries + 1).min(8);
        Some(Duration::from_millis(5 << self.tries))
    }
}

impl kube::runtime::utils::Backoff for Patience {
    fn reset(&mut self) {
        self.tries = 0;
    }
}
