//! The nodes' part of a pod's life: bound pods start, run as long as they say, end, and are removed when somebody deleted them.
//! Reads the objects past all faults: a late kubelet would only hide what is shown.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::api_server::{Change, ChangeKind, Objects, Refusal};
use super::workload::{ENDS, PATIENCE, RUNS};

/// From binding to running.
const START: Duration = Duration::from_millis(150);
/// From the wish to delete to the end.
const STOP: Duration = Duration::from_millis(250);
/// How long a finished pod stays to be looked at.
const KEEP: Duration = Duration::from_secs(2);

/// Runs until dropped.
pub(super) async fn run(objects: Objects) {
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
        if kind == ChangeKind::Deleted {
            for set in [&mut waiting, &mut started, &mut stopping] {
                set.remove(&pod.uid);
            }
            continue;
        }
        let deleted = object["metadata"]["deletionTimestamp"].is_string();
        let bound = object["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
        if deleted && stopping.insert(pod.uid.clone()) {
            tasks.spawn(pod.stop());
        } else if bound && started.insert(pod.uid.clone()) {
            tasks.spawn(pod.live(number(&object, RUNS), text(&object, ENDS)));
        } else if !bound && waiting.insert(pod.uid.clone()) && number(&object, PATIENCE).is_some() {
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

    fn now(&self) -> Option<std::sync::Arc<Value>> {
        self.objects.get("pods", &self.namespace, &self.name).filter(|pod| pod["metadata"]["uid"] == self.uid.as_str())
    }

    /// Says how far a live pod is; false where it is not live any more. It may fail for another reason in the same instant, and
    /// what has ended never runs again: hence the version.
    fn set_phase(&self, phase: &str) -> bool {
        while let Some(pod) = self.now().filter(|pod| is_live(pod)) {
            let version = &pod["metadata"]["resourceVersion"];
            let patch = json!({"metadata": {"uid": self.uid, "resourceVersion": version}, "status": {"phase": phase}});
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

    async fn live(self, runs: Option<Duration>, ends: String) {
        tokio::time::sleep(START).await;
        if !self.set_phase("Running") {
            return;
        }
        let Some(runs) = runs else { return };
        tokio::time::sleep(runs).await;
        if ends == "deleted" {
            if self.now().is_some_and(|pod| is_live(&pod)) {
                self.delete(None);
            }
            return;
        }
        if !self.set_phase(if ends == "fails" { "Failed" } else { "Succeeded" }) {
            return;
        }
        tokio::time::sleep(KEEP).await;
        self.delete(Some(0));
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

fn is_live(pod: &Value) -> bool {
    !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
        && pod["metadata"]["deletionTimestamp"].is_null()
}

/// Somebody else may have deleted the pod in the same instant; nothing else can be wrong here.
fn ignore_gone(result: Result<(), Refusal>) {
    if let Err(refusal) = result {
        tracing::debug!(%refusal, "the pod is gone already");
    }
}
