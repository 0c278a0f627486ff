//! How far a pod has come on the whole path: admitted, scheduled, started, finished. Pure: a pod in, steps out; `cli::validate` runs the
//! pod and follows it.

use serde_json::Value;

use crate::kube_api::allocation;
use crate::kube_api::names::{ALLOCATION, REQUEST, SCHEDULER};

/// A part of the path, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The webhook read its request.
    Admitted,
    /// A node and devices were chosen, in one write.
    Scheduled,
    /// The agent let its container start, and the runtime started it.
    Started,
    /// The sample ended well.
    Finished,
}

impl Step {
    /// All, in order.
    pub const ALL: [Self; 4] = [Self::Admitted, Self::Scheduled, Self::Started, Self::Finished];

    /// The word of the output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Scheduled => "scheduled",
            Self::Started => "started",
            Self::Finished => "finished",
        }
    }
}

/// What one look at the pod tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Steps behind it, each with what there is to tell.
    pub reached: Vec<(Step, String)>,
    /// What it waits for, or what went wrong.
    pub trouble: Option<String>,
    /// It will not come any further.
    pub failed: bool,
}

/// Reads a pod of one container.
pub fn progress(pod: &Value) -> Progress {
    let mut progress = Progress::default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let annotations = &pod["metadata"]["annotations"];
    let (spec, status) = (&pod["spec"], &pod["status"]);
    if annotations[REQUEST].is_null() || spec["schedulerName"] != SCHEDULER {
        progress.trouble = Some("it did not pass the webhook: packhorse check says why".to_owned());
        progress.failed = true;
        return progress;
    }
    progress.reached.push((Step::Admitted, format!("request {}", text(&annotations[REQUEST]))));
    let Some(node) = spec["nodeName"].as_str().filter(|node| !node.is_empty()) else {
        let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let scheduled = conditions.iter().find(|it| it["type"] == "PodScheduled" && it["status"] == "False");
        progress.trouble = scheduled.map(|condition| format!("no node: {}", text(&condition["message"])));
        return progress;
    };
    let given = match annotations[ALLOCATION].as_str().map(allocation::decode) {
        Some(Ok(decoded)) => decoded.value,
        Some(Err(damaged)) => {
            progress.trouble = Some(damaged.to_string());
            progress.failed = true;
            return progress;
        }
        None => {
            progress.trouble = Some(format!("bound to {node} without an allocation: another scheduler did it"));
            progress.failed = true;
            return progress;
        }
    };
    let shares = given.containers.iter().flat_map(|container| &container.shares);
    let shares =
        shares.map(|share| format!("{} MiB of {}, limit kept: {}", share.memory, share.device, share.enforcement));
    let shares: Vec<String> = shares.collect();
    progress.reached.push((Step::Scheduled, format!("node {node}: {}", shares.join("; "))));
    let container = &status["containerStatuses"][0]["state"];
    if let Some(waiting) = container["waiting"].as_object() {
        let of = |key: &str| waiting.get(key).map(text).unwrap_or_default();
        progress.trouble = Some(format!("{} {}", of("reason"), of("message")).trim().to_owned());
    }
    if container["running"].is_object() || container["terminated"].is_object() {
        progress.reached.push((Step::Started, "its container runs, or ran".to_owned()));
    }
    match status["phase"].as_str() {
        Some("Succeeded") => {
            if progress.reached.last().is_some_and(|(step, _)| *step < Step::Started) {
                progress.reached.push((Step::Started, "its container ran".to_owned()));
            }
            progress.reached.push((Step::Finished, "the sample ended well".to_owned()));
            progress.trouble = None;
        }
        Some("Failed") => {
            let ended = &container["terminated"];
            let why = [&ended["reason"], &ended["message"], &status["reason"], &status["message"]].map(text);
            let why: Vec<String> = why.into_iter().filter(|text| !text.is_empty()).collect();
            let code = ended["exitCode"].as_i64().map(|code| format!("exit code {code}")).unwrap_or_default();
            progress.trouble = Some(format!("{code} {}", why.join(": ")).trim().to_owned());
            progress.failed = true;
        }
        _ => {}
    }
    progress
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(more: &Value) -> Value {
        let mut pod = json!({
            "metadata": {"annotations": {REQUEST: r#"{"v":1}"#}}, "spec": {"schedulerName": "packhorse"},
        });
        json_patch::merge(&mut pod, more);
        pod
    }

    fn bound(status: &Value) -> Value {
        let share = json!({"device": "GPU-1", "memory": 1024, "cores": 0, "enforcement": "advisory"});
        let allocation = json!({"v": 1, "containers": {"main": [share]}}).to_string();
        pod(&json!({
            "metadata": {"annotations": {ALLOCATION: allocation}}, "spec": {"nodeName": "n"}, "status": status,
        }))
    }

    #[test]
    fn each_step_is_told_and_where_it_ends_why() {
        let unscheduled =
            json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1"}]}});
        let waiting =
            |reason: &str| json!({"containerStatuses": [{"state": {"waiting": {"reason": reason, "message": "m"}}}]});
        let failed = json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]});
        for (pod, steps, trouble, ends) in [
            (json!({}), 0, Some("did not pass the webhook"), true),
            (pod(&json!({"spec": {"schedulerName": "default-scheduler"}})), 0, Some("did not pass the webhook"), true),
            (pod(&json!({})), 1, None, false),
            (pod(&unscheduled), 1, Some("no node: 0/1"), false),
            (pod(&json!({"spec": {"nodeName": "n"}})), 1, Some("without an allocation"), true),
            (bound(&json!({})), 2, None, false),
            (bound(&waiting("CreateContainerConfigError")), 2, Some("CreateContainerConfigError m"), false),
            (bound(&json!({"containerStatuses": [{"state": {"running": {}}}]})), 3, None, false),
            (bound(&failed), 3, Some("exit code 1 Error"), true),
            (bound(&json!({"phase": "Succeeded"})), 4, None, false),
        ] {
            let found = progress(&pod);
            assert_eq!((found.reached.len(), found.failed), (steps, ends), "{found:?}");
            let reached: Vec<Step> = found.reached.iter().map(|(step, _)| *step).collect();
            assert_eq!(reached, Step::ALL[..steps]);
            match (trouble, &found.trouble) {
                (None, None) => {}
                (Some(words), Some(told)) if told.contains(words) => {}
                _ => panic!("{trouble:?}: {found:?}"),
            }
        }
        let told = &progress(&bound(&json!({}))).reached[1].1;
        assert_eq!(told, "node n: 1024 MiB of GPU-1, limit kept: advisory");
    }
}
