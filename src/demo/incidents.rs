//! What happens to the fleet by itself: a GPU fails and recovers, another is taken out by an administrator and given back.
//!
//! A failure is written into the topology file of its node alone. That nobody gets that GPU any more is the agent's doing; how long it
//! takes until the inventory says so is measured.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::api_server::{Change, Objects, Refusal};
use super::fleet::IncidentKind;
use super::kubelet::Machines;
use super::machine::Machine;
use super::news::{News, Topic};
use super::observer::Observer;
use crate::random::Random;

/// Without a duration the incidents come again and again, this far apart.
const PERIOD: Duration = Duration::from_secs(30);
/// Nobody waits longer for the inventory.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Fail,
    Cordon,
    Recover,
    Lift,
}

/// When in a period, and what.
const STEPS: [(f64, Step); 4] = [(0.30, Step::Fail), (0.45, Step::Cordon), (0.50, Step::Recover), (0.70, Step::Lift)];

/// Where incidents happen.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    pub(super) objects: Objects,
    pub(super) machines: Machines,
    pub(super) observer: Observer,
    pub(super) news: News,
}

/// A card of a node.
#[derive(Debug, Clone)]
struct Victim {
    machine: Arc<Machine>,
    card: usize,
}

/// Runs until dropped. All steps come once within `duration`.
pub(super) async fn run(stage: Stage, seed: u64, duration: Option<Duration>) {
    let mut random = Random::new(seed ^ 0x6661_696c);
    let period = duration.unwrap_or(PERIOD);
    let began = tokio::time::Instant::now();
    let mut watches = tokio::task::JoinSet::new();
    let mut machines: Vec<&Arc<Machine>> = stage.machines.values().filter(|machine| !machine.sim.is_mig()).collect();
    machines.sort_by_key(|machine| (machine.sim.name.len(), machine.sim.name.clone()));
    let all: Vec<Victim> = machines
        .into_iter()
        .flat_map(|machine| (0..machine.sim.gpus()).map(|card| Victim { machine: Arc::clone(machine), card }))
        .collect();
    for round in 0_u32.. {
        if all.is_empty() {
            break;
        }
        // The failing card and the cordoned one are different wherever there are two.
        let first = random.below(all.len());
        let second = (first + 1 + random.below(all.len().saturating_sub(1))) % all.len();
        let (failing, cordoned) = (&all[first], &all[second]);
        for (when, step) in &STEPS {
            tokio::time::sleep_until(began + period * round + period.mul_f64(*when)).await;
            let happened = match step {
                Step::Cordon => stage.cordon(cordoned, true).map_err(|refusal| refusal.to_string()),
                Step::Lift => stage.cordon(cordoned, false).map_err(|refusal| refusal.to_string()),
                Step::Fail | Step::Recover => {
                    // Before it happens, so that nothing is missed.
                    let changes = stage.objects.observe();
                    watches.spawn(stage.clone().follow(changes, failing.clone(), *step));
                    let kind = if *step == Step::Fail { IncidentKind::Fails } else { IncidentKind::Recovers };
                    failing.machine.happen(failing.card, kind).map_err(|error| error.to_string())
                }
            };
            if let Err(reason) = happened {
                tracing::debug!(reason, "an incident did not happen");
            }
        }
        if duration.is_some() {
            break;
        }
    }
    while watches.join_next().await.is_some() {}
    std::future::pending().await
}

impl Victim {
    fn uuid(&self) -> String {
        self.machine.sim.uuid(self.card)
    }

    /// For people.
    fn name(&self) -> String {
        format!("{} GPU {}", self.machine.sim.name, self.card)
    }

    /// Its health by the inventory on a Node object.
    fn health(&self, node: &Value) -> Option<String> {
        let inventory = node["metadata"]["annotations"]["packhorse.dev/inventory"].as_str()?;
        let inventory: Value = serde_json::from_str(inventory).ok()?;
        let uuid = self.uuid();
        let device = inventory["devices"].as_array()?.iter().find(|device| device["uuid"] == uuid.as_str())?;
        device["health"].as_str().map(str::to_owned)
    }
}

impl Stage {
    fn cordon(&self, victim: &Victim, cordoned: bool) -> Result<(), Refusal> {
        let value = if cordoned { json!(victim.uuid()) } else { Value::Null };
        let patch = json!({"metadata": {"annotations": {"packhorse.dev/cordon": value}}});
        self.objects.patch("nodes", "", &victim.machine.sim.name, &patch)?;
        let what = if cordoned {
            "cordoned by an administrator: takes no new pods"
        } else {
            "given back by its administrator"
        };
        self.news.tell(Topic::Fleet, format!("{} {what}", victim.name()));
        Ok(())
    }

    /// Tells what becomes of a card, and when the inventory says so.
    async fn follow(self, mut changes: tokio::sync::mpsc::UnboundedReceiver<Change>, victim: Victim, step: Step) {
        let began = Instant::now();
        let (name, node) = (victim.name(), &victim.machine.sim.name);
        if step == Step::Fail {
            self.news.tell(Topic::Fleet, format!("{name} falls off the bus (Xid 79): its pods fail"));
            self.fail_pods(&victim);
        }
        let wanted = if step == Step::Fail { "unhealthy" } else { "healthy" };
        let mut health = String::new();
        let seen = async {
            while let Some(change) = changes.recv().await {
                if change.plural != "nodes" || change.object["metadata"]["name"] != node.as_str() {
                    continue;
                }
                let Some(now) = victim.health(&change.object).filter(|now| *now != health) else { continue };
                health = now;
                if health == wanted {
                    return;
                }
                if step == Step::Recover && health == "recovering" {
                    self.news.tell(Topic::Fleet, format!("{name} answers again: recovering, still takes no pods"));
                }
            }
        };
        if tokio::time::timeout(PATIENCE, seen).await.is_err() {
            self.news.tell(Topic::Fleet, format!("{name} is not {wanted} in the inventory after {PATIENCE:?}"));
            return;
        }
        if step == Step::Recover {
            self.news.tell(Topic::Fleet, format!("{name} healthy again"));
            return;
        }
        let took = began.elapsed();
        self.observer.seen().noticed.push(took);
        self.news
            .tell(Topic::Fleet, format!("{name} out of the inventory {:.2} s after its fault", took.as_secs_f64()));
        // What was started in between.
        self.fail_pods(&victim);
    }

    /// What runs on a GPU that falls off the bus ends.
    fn fail_pods(&self, victim: &Victim) {
        let uuid = victim.uuid();
        for pod in self.objects.list("pods", "") {
            let metadata = &pod["metadata"];
            let on_it =
                metadata["annotations"]["packhorse.dev/allocation"].as_str().is_some_and(|text| text.contains(&uuid));
            if on_it
                && pod["status"]["phase"] == "Running"
                && pod["spec"]["nodeName"] == victim.machine.sim.name.as_str()
            {
                let (namespace, name) =
                    (metadata["namespace"].as_str().unwrap_or_default(), metadata["name"].as_str().unwrap_or_default());
                let status = json!({"phase": "Failed", "message": "the GPU failed"});
                let failed = json!({"metadata": {"uid": metadata["uid"]}, "status": status});
                if let Err(refusal) = self.objects.patch_status("pods", namespace, name, &failed) {
                    tracing::debug!(%refusal, "the pod is gone already");
                }
            }
        }
    }
}
