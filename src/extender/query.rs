//! One pod that kube-scheduler asks about, read once per call.

use std::sync::Arc;

use super::records::PodRecord;
use super::shape::{Shape, Shapes};
use crate::gpu::fit::Policies;
use crate::gpu::parse::Rules;
use crate::kube_api::pod::{PodView, PreferenceView};
use crate::kube_api::request::{host_requests, read_pod};

/// What is asked.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) record: Arc<PodRecord>,
    pub(super) shape: Arc<Shape>,
    /// Whether the pod states a preference that kube-scheduler has to weigh.
    pub(super) prefers: bool,
    /// Whether a bind may first wait for a volume.
    pub(super) waits_for_volume: bool,
}

impl Query {
    /// Reads a pod; `None` for one that asks for no GPU.
    ///
    /// # Errors
    /// What makes its request impossible, in words for its owner.
    pub(super) fn read(
        pod: &PodView<'_>,
        rules: &Rules,
        policies: Policies,
        shapes: &Shapes,
    ) -> Result<Option<Self>, String> {
        let parsed = read_pod(rules, pod).map_err(|denials| {
            let denials: Vec<String> = denials.iter().map(ToString::to_string).collect();
            denials.join("; ")
        })?;
        if parsed.request.is_empty() {
            return Ok(None);
        }
        let (cpu, memory) = host_requests(pod);
        let shape = shapes.of(&parsed.request, cpu, memory, policies);
        let text = |text: &Option<crate::kube_api::pod::Text<'_>>| Arc::from(text.as_deref().unwrap_or_default());
        let record = PodRecord {
            uid: text(&pod.metadata.uid),
            namespace: text(&pod.metadata.namespace),
            name: text(&pod.metadata.name),
            priority: pod.spec.priority.unwrap_or(0),
            request: Arc::new(parsed.request),
            cpu,
            memory,
        };
        Ok(Some(Self {
            record: Arc::new(record),
            shape,
            prefers: states_preference(pod),
            waits_for_volume: pod
                .spec
                .volumes
                .iter()
                .any(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()),
        }))
    }
}

/// Whether the pod prefers some of the nodes on which it fits.
fn states_preference(pod: &PodView<'_>) -> bool {
    let prefers = |preference: &Option<PreferenceView>| {
        preference.as_ref().is_some_and(|p| !p.preferred_during_scheduling_ignored_during_execution.is_empty())
    };
    let affinity = pod.spec.affinity.as_ref();
    affinity.is_some_and(|a| prefers(&a.node_affinity) || prefers(&a.pod_affinity) || prefers(&a.pod_anti_affinity))
        || pod
            .spec
            .topology_spread_constraints
            .iter()
            .any(|s| s.when_unsatisfiable.as_deref() == Some("ScheduleAnyway"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_preference_from_a_requirement() {
        for (spec, expected) in [
            ("{}", false),
            (r#"{"affinity":null}"#, false),
            (r#"{"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{}}}}"#, false),
            (
                r#"{"affinity":{"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":1}]}}}"#,
                true,
            ),
            (r#"{"affinity":{"podAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{}]}}}"#, true),
            (r#"{"affinity":{"podAntiAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{}]}}}"#, true),
            (r#"{"affinity":{"podAntiAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[]}}}"#, false),
            (r#"{"topologySpreadConstraints":[{"whenUnsatisfiable":"DoNotSchedule"}]}"#, false),
            (r#"{"topologySpreadConstraints":[{"whenUnsatisfiable":"ScheduleAnyway"}]}"#, true),
        ] {
            let pod = format!(r#"{{"spec":{spec}}}"#);
            let pod: PodView<'_> = serde_json::from_str(&pod).unwrap();
            assert_eq!(states_preference(&pod), expected, "{spec}");
        }
    }
}
