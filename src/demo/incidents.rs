//! What happens to the fleet by itself: a GPU fails and recovers, another is taken out by an administrator and given back.

use std::time::Duration;

use serde_json::json;

use super::api_server::{Objects, Refusal};
use super::fleet::SimNode;
use super::news::{News, Topic};
use super::random::Random;

/// Without a duration the incidents come again and again, this far apart.
const PERIOD: Duration = Duration::from_secs(30);

enum Step {
    Fail,
    Cordon,
    Repair,
    Recover,
    Lift,
}

/// When in a period, and what.
const STEPS: [(f64, Step); 5] =
    [(0.30, Step::Fail), (0.45, Step::Cordon), (0.50, Step::Repair), (0.60, Step::Recover), (0.70, Step::Lift)];

/// Runs until dropped. All steps come once within `duration`.
pub(super) async fn run(objects: Objects, mut fleet: Vec<SimNode>, seed: u64, duration: Option<Duration>, news: News) {
    let mut random = Random::new(seed ^ 0x6661_696c);
    let period = duration.unwrap_or(PERIOD);
    let began = tokio::time::Instant::now();
    for round in 0_u32.. {
        // The failing card and the cordoned one are different wherever there are two.
        let all: Vec<(usize, usize)> = fleet
            .iter()
            .enumerate()
            .filter(|(_, node)| !node.is_mig())
            .flat_map(|(node, sim)| (0..sim.devices.len()).map(move |device| (node, device)))
            .collect();
        if all.is_empty() {
            break;
        }
        let first = random.below(all.len());
        let second = (first + 1 + random.below(all.len().saturating_sub(1))) % all.len();
        let (failing, cordoned) = (all[first], all[second]);
        for (when, step) in &STEPS {
            tokio::time::sleep_until(began + period * round + period.mul_f64(*when)).await;
            if let Err(refusal) = take(step, &objects, &mut fleet, failing, cordoned, &news) {
                tracing::debug!(%refusal, "an incident did not happen");
            }
        }
        if duration.is_some() {
            break;
        }
    }
    std::future::pending().await
}

fn take(
    step: &Step,
    objects: &Objects,
    fleet: &mut [SimNode],
    failing: (usize, usize),
    cordoned: (usize, usize),
    news: &News,
) -> Result<(), Refusal> {
    let (node, device) = if matches!(step, Step::Cordon | Step::Lift) { cordoned } else { failing };
    let sim = &mut fleet[node];
    let name = sim.name.clone();
    let uuid = sim.devices[device].uuid.clone();
    let on = format!("{name} GPU {device}");
    let health = match step {
        Step::Fail => "unhealthy",
        Step::Repair => "recovering",
        Step::Recover => "healthy",
        Step::Cordon | Step::Lift => {
            let cordon = if matches!(step, Step::Cordon) { json!(uuid) } else { json!(null) };
            let text = if cordon.is_null() {
                "given back by its administrator"
            } else {
                "cordoned by an administrator: takes no new pods"
            };
            objects.patch(
                "nodes",
                "",
                &name,
                &json!({"metadata": {"annotations": {"packhorse.dev/cordon": cordon}}}),
            )?;
            news.tell(Topic::Fleet, format!("{on} {text}"));
            return Ok(());
        }
    };
    sim.devices[device].health = health;
    let inventory = sim.inventory();
    objects.patch("nodes", "", &name, &json!({"metadata": {"annotations": {"packhorse.dev/inventory": inventory}}}))?;
    news.tell(
        Topic::Fleet,
        match step {
            Step::Fail => format!("{on} fails (Xid 79): its pods fail, no new ones come"),
            Step::Repair => format!("{on} recovering, still takes no pods"),
            _ => format!("{on} healthy again"),
        },
    );
    if matches!(step, Step::Fail) {
        fail_pods(objects, &name, &uuid);
    }
    Ok(())
}

/// What runs on a GPU that falls off the bus ends.
fn fail_pods(objects: &Objects, node: &str, uuid: &str) {
    for pod in objects.list("pods", "") {
        let metadata = &pod["metadata"];
        let on_it =
            metadata["annotations"]["packhorse.dev/allocation"].as_str().is_some_and(|text| text.contains(uuid));
        let live = !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if on_it && live && pod["spec"]["nodeName"] == node {
            let (namespace, name) =
                (metadata["namespace"].as_str().unwrap_or_default(), metadata["name"].as_str().unwrap_or_default());
            let failed = json!({"metadata": {"uid": metadata["uid"]}, "status": {"phase": "Failed", "message": "the GPU failed"}});
            if let Err(refusal) = objects.patch_status("pods", namespace, name, &failed) {
                tracing::debug!(%refusal, "the pod is gone already");
            }
        }
    }
}

/// Gives the whole of a GPU that is in use to another pod as well, as no right scheduler would.
pub(super) async fn sabotage(objects: Objects) {
    let mut changes = objects.observe();
    while let Some(change) = changes.recv().await {
        let annotations = &change.object["metadata"]["annotations"];
        let Some(allocation) = annotations["packhorse.dev/allocation"].as_str() else { continue };
        let pod =
            json!({"metadata": {"name": "intruder"}, "spec": {"containers": change.object["spec"]["containers"]}});
        let node = change.object["spec"]["nodeName"].as_str().unwrap_or_default();
        let bound = objects.create("pods", pod).and_then(|_| {
            // Ten times, so that even a small share exceeds its card.
            let devices: serde_json::Value = serde_json::from_str(allocation).unwrap_or_default();
            let devices = devices.to_string().replace("\"memory\":", "\"memory\":9");
            objects.bind("default", "intruder", "", node, &json!({"packhorse.dev/allocation": devices}))
        });
        if bound.is_ok() {
            break;
        }
    }
    std::future::pending().await
}
