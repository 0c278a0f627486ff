//! The nodes' part of a pod's life: a bound pod is admitted by its node's kubelet, its containers are started one after the other as
//! the agent and the runtime allow, run as long as the pod says, end, and the pod is removed when somebody deleted it.
//! Reads the objects past all faults: a late kubelet would only hide what is shown.
//!
//! Every container that starts is told to the checker with the devices that the runtime gave it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::api_server::{Change, ChangeKind, Objects, Refusal};
use super::machine::Machine;
use super::news::{News, Topic};
use super::node_kubelet as node;
use super::observer::Observer;
use super::runtime;
use super::workload::{ENDS, PATIENCE, RUNS};
use crate::gpu::request::Phase;

/// From the wish to delete to the end.
const STOP: Duration = Duration::from_millis(250);
/// How long a finished pod stays to be looked at.
const KEEP: Duration = Duration::from_secs(2);
/// How long an ordinary init container runs.
const INIT: Duration = Duration::from_millis(200);
/// From a container that could not be created to the next try; the original waits longer.
const AGAIN: Duration = Duration::from_millis(500);

/// The nodes by name.
pub(super) type Machines = Arc<BTreeMap<String, Arc<Machine>>>;

/// Runs until dropped.
pub(super) async fn run(objects: Objects, machines: Machines, observer: Observer, news: News) {
    let mut changes = objects.observe();
    let mut tasks = tokio::task::JoinSet::new();
    let (mut waiting, mut started, mut stopping) = (HashSet::new(), HashSet::new(), HashSet::new());
    loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            Some(_) = tasks.join_next() => continue,
        };
        let Some(Change { plural, kind, object, .. }) = change else { return };
        if plural != "pods" {
            continue;
        }
        let pod = Pod::of(&object, &objects);
        let machine = object["spec"]["nodeName"].as_str().and_then(|node| machines.get(node));
        if kind == ChangeKind::Deleted {
            for set in [&mut waiting, &mut started, &mut stopping] {
                set.remove(&pod.uid);
            }
        }
        // Before the next pod that is bound to its slots is looked at.
        if (kind == ChangeKind::Deleted || has_ended(&object))
            && let Some(machine) = machine
        {
            machine.kubelet.remove(&pod.uid);
        }
        if kind == ChangeKind::Deleted {
            continue;
        }
        if object["metadata"]["deletionTimestamp"].is_string() && stopping.insert(pod.uid.clone()) {
            tasks.spawn(pod.stop());
        } else if let Some(machine) = machine
            && is_live(&object)
            && started.insert(pod.uid.clone())
        {
            let place = Place { machine: Arc::clone(machine), observer: observer.clone(), news: news.clone() };
            tasks.spawn(pod.live(place, object));
        } else if machine.is_none() && waiting.insert(pod.uid.clone()) && number(&object, PATIENCE).is_some() {
            tasks.spawn(pod.give_up(number(&object, PATIENCE)));
        }
    }
}

fn text(pod: &Value, annotation: &str) -> String {
    pod["metadata"]["annotations"][annotation].as_str().unwrap_or_default().to_owned()
}

fn number(pod: &Value, annotation: &str) -> Option<Duration> {
    let seconds = text(pod, annotation).parse::<f64>().ok().filter(|seconds| (0.0..1e6).contains(seconds))?;
    Some(Duration::from_secs_f64(seconds))
}

/// Where a pod runs, and who is told of it.
struct Place {
    machine: Arc<Machine>,
    observer: Observer,
    news: News,
}

/// One pod by its identity; what is done to it is not done to another of the same name.
struct Pod {
    objects: Objects,
    namespace: String,
    name: String,
    uid: String,
}

impl Pod {
    fn of(pod: &Value, objects: &Objects) -> Self {
        let metadata = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
        Self {
            objects: objects.clone(),
            namespace: metadata("namespace"),
            name: metadata("name"),
            uid: metadata("uid"),
        }
    }

    fn now(&self) -> Option<Arc<Value>> {
        self.objects.get("pods", &self.namespace, &self.name).filter(|pod| pod["metadata"]["uid"] == self.uid.as_str())
    }

    /// Says how far a live pod is; false where it is not live any more. It may fail for another reason in the same instant, and
    /// what has ended never runs again: hence the version.
    fn set_status(&self, status: &Value) -> bool {
        while let Some(pod) = self.now().filter(|pod| is_live(pod)) {
            let version = &pod["metadata"]["resourceVersion"];
            let patch = json!({"metadata": {"uid": self.uid, "resourceVersion": version}, "status": status});
            match self.objects.patch_status("pods", &self.namespace, &self.name, &patch) {
                Ok(_) => return true,
                Err(refusal) if refusal.code == 409 => {}
                Err(refusal) => {
                    tracing::debug!(%refusal, "the pod is gone already");
                    return false;
                }
            }
        }
        false
    }

    fn delete(&self, grace: Option<i64>) {
        if self.now().is_some() {
            ignore_gone(self.objects.delete("pods", &self.namespace, &self.name, grace));
        }
    }

    async fn live(self, place: Place, object: Arc<Value>) {
        let containers = containers(&object);
        let admitted = place.machine.kubelet.admit(node::Pod {
            uid: self.uid.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            containers: containers.clone(),
        });
        if let Err(reason) = admitted.await {
            place.observer.seen().not_admitted += 1;
            place
                .news
                .tell(Topic::Waiting, format!("{}/{}: the kubelet fails it: {reason}", self.namespace, self.name));
            self.set_status(&json!({"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": reason}));
            return;
        }
        let bound = Instant::now();
        let mut sees = Vec::new();
        for container in &containers {
            let Some(devices) = self.start(&place, &container.name).await else { return };
            if !devices.is_empty() {
                sees.push(format!("{} has {devices}", container.name));
            }
            if container.phase == Phase::Init {
                tokio::time::sleep(INIT).await;
            }
        }
        if !self.set_status(&json!({"phase": "Running"})) {
            return;
        }
        if !sees.is_empty() {
            let took = bound.elapsed().as_secs_f64() * 1000.0;
            let sees = sees.join(", ");
            place.news.tell(Topic::Started, format!("{}/{} {sees} ({took:.0} ms)", self.namespace, self.name));
        }
        let Some(runs) = number(&object, RUNS) else { return };
        tokio::time::sleep(runs).await;
        let ends = text(&object, ENDS);
        if ends == "deleted" {
            if self.now().is_some_and(|pod| is_live(&pod)) {
                self.delete(None);
            }
            return;
        }
        if !self.set_status(&json!({"phase": if ends == "fails" { "Failed" } else { "Succeeded" }})) {
            return;
        }
        tokio::time::sleep(KEEP).await;
        self.delete(Some(0));
    }

    /// Tries until the container is created, and tells the checker what it sees; `None` where the pod ends before.
    async fn start(&self, place: &Place, container: &str) -> Option<String> {
        let machine = &place.machine;
        let mut told = String::new();
        loop {
            let options = machine.kubelet.start_container(&self.uid, container).await;
            let created = options.and_then(|options| runtime::create(&machine.sim, &options, &machine.cdi_dir()));
            let pod = self.now().filter(|pod| is_live(pod))?;
            match created {
                Ok(devices) => {
                    let names: Vec<String> = devices.iter().cloned().collect();
                    place.observer.container_started(&pod, container, &devices, &place.news);
                    return Some(names.join(","));
                }
                Err(reason) => {
                    place.observer.seen().refused_starts += 1;
                    if told != reason {
                        let name = format!("{}/{}", self.namespace, self.name);
                        place
                            .news
                            .tell(Topic::Waiting, format!("{name}: container {container} does not start: {reason}"));
                        let waiting = json!({"reason": "CreateContainerConfigError", "message": reason});
                        let state = json!([{"name": container, "state": {"waiting": waiting}}]);
                        self.set_status(&json!({"containerStatuses": state}));
                        told = reason;
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    async fn stop(self) {
        tokio::time::sleep(STOP).await;
        self.delete(Some(0));
    }

    /// Its user's part: one who waited in vain takes the pod back.
    async fn give_up(self, patience: Option<Duration>) {
        tokio::time::sleep(patience.unwrap_or(Duration::MAX)).await;
        if self.now().is_some_and(|pod| pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty)) {
            self.delete(None);
        }
    }
}

/// What the kubelet's device manager reads of a pod.
fn containers(pod: &Value) -> Vec<node::Container> {
    let list = |field: &str| pod["spec"][field].as_array().cloned().unwrap_or_default();
    let container = |container: &Value, phase: Phase| node::Container {
        name: container["name"].as_str().unwrap_or_default().to_owned(),
        phase,
        limits: limits(&container["resources"]["limits"]),
    };
    let init = list("initContainers").into_iter().map(|init| {
        let sidecar = init["restartPolicy"] == "Always";
        container(&init, if sidecar { Phase::Sidecar } else { Phase::Init })
    });
    let apps = list("containers").into_iter().map(|app| container(&app, Phase::App));
    init.chain(apps).collect()
}

/// Whole amounts; those of no plugin are nobody's business here.
fn limits(limits: &Value) -> BTreeMap<String, u32> {
    let amount =
        |value: &Value| value.as_str().map_or_else(|| value.as_u64()?.try_into().ok(), |text| text.parse().ok());
    let limits = limits.as_object().into_iter().flatten();
    limits.filter_map(|(name, value)| Some((name.clone(), amount(value)?))).collect()
}

fn has_ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn is_live(pod: &Value) -> bool {
    !has_ended(pod) && pod["metadata"]["deletionTimestamp"].is_null()
}

/// Somebody else may have deleted the pod in the same instant; nothing else can be wrong here.
fn ignore_gone(result: Result<(), Refusal>) {
    if let Err(refusal) = result {
        tracing::debug!(%refusal, "the pod is gone already");
    }
}
