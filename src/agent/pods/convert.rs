//! From a Pod object to what the agent keeps of it. An annotation that cannot be read, or device lists that contradict the
//! allocation, are kept as an error with its words: it is for the check at container start to refuse such a pod, not for the watch to
//! drop it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{NodePod, Origin, RunningContainer};
use crate::gpu::parse::{Field, Rules};
use crate::gpu::quantity::Quantity;
use crate::kube_api::allocation;
use crate::kube_api::names::{ALLOCATION, GPU_CORES, REQUEST, SCHEDULER};
use crate::kube_api::pod::{ContainerView, PodView};
use crate::kube_api::request::{phases, read_pod, total_requests};

/// Slots by container and resource.
type Slots = BTreeMap<Arc<str>, BTreeMap<String, u32>>;

impl NodePod {
    /// What the agent keeps of a pod; `None` for an object without a UID, which the API server never sends.
    pub fn read(pod: &PodView<'_>) -> Option<Self> {
        let text = |text: &Option<crate::kube_api::pod::Text<'_>>| Arc::from(text.as_deref().unwrap_or_default());
        let uid = pod.metadata.uid.as_deref().filter(|uid| !uid.is_empty())?;
        let rules = Rules::default();
        let slots = slots(&rules, pod);
        let request = match read_pod(&rules, pod) {
            Ok(parsed) => Ok(parsed.request),
            Err(denials) => Err(denials.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        };
        let given = pod.metadata.annotations.get(ALLOCATION).map(|text| {
            let decoded = allocation::decode(text).map_err(|damaged| damaged.to_string())?;
            for field in decoded.unknown {
                tracing::warn!(%uid, %field, "an unknown field of the allocation was left out");
            }
            let checked = allocation::check_lists(&decoded.value, allocation::device_lists(pod));
            checked.map(|()| decoded.value).map_err(|damaged| damaged.to_string())
        });
        Some(Self {
            uid: uid.into(),
            namespace: text(&pod.metadata.namespace),
            name: text(&pod.metadata.name),
            node: text(&pod.spec.node_name),
            ended: matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed")),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            created: pod.metadata.creation_timestamp.as_deref().unwrap_or_default().to_owned(),
            containers: phases(pod),
            running: running(pod),
            origin: origin(pod, &slots),
            request,
            allocation: given,
            totals: total_requests(pod),
            slots,
        })
    }
}

fn running(pod: &PodView<'_>) -> Vec<RunningContainer> {
    let statuses = pod.status.init_container_statuses.iter().chain(&pod.status.container_statuses);
    let running = statuses.filter(|status| status.state.running.is_some()).filter_map(|status| {
        let (_, id) = status.container_id.as_deref()?.split_once("://")?;
        Some(RunningContainer { name: (&*status.name).into(), id: id.into() })
    });
    running.collect()
}

fn containers<'a, 'p>(pod: &'a PodView<'p>) -> impl Iterator<Item = &'a ContainerView<'p>> {
    pod.spec.init_containers.iter().chain(&pod.spec.containers)
}

/// What each container asks the kubelet for by name of a resource. Its limit counts, as for the kubelet.
fn slots(rules: &Rules, pod: &PodView<'_>) -> Slots {
    let mut slots = Slots::new();
    for container in containers(pod) {
        let limits = container.resources.limits.as_ref().or(container.resources.requests.as_ref());
        for (resource, quantity) in limits.into_iter().flatten() {
            if !matches!(rules.field(resource), Some(Field::Count | Field::Mig(_))) {
                continue;
            }
            // An API server stores no unreadable quantity, and no container gets more devices than there are.
            let count = Quantity::parse(quantity.as_ref()).and_then(Quantity::integer).unwrap_or(0);
            if count > 0 {
                let of = slots.entry(container.name.as_ref().into()).or_default();
                of.insert(resource.to_string(), u32::try_from(count).unwrap_or(u32::MAX));
            }
        }
    }
    slots
}

/// Scheduler names can be configured, so the scheduler alone neither makes a pod ours nor another's.
fn origin(pod: &PodView<'_>, slots: &Slots) -> Origin {
    let has_totals = |container: &ContainerView<'_>| {
        let lists = [&container.resources.limits, &container.resources.requests];
        lists.into_iter().flatten().any(|list| list.contains_key(GPU_CORES))
    };
    let request = pod.metadata.annotations.contains_key(REQUEST);
    let ours = pod.spec.scheduler_name.as_deref() == Some(SCHEDULER);
    let bare = containers(pod).find(|container| slots.contains_key(container.name.as_ref()) && !has_totals(container));
    if slots.is_empty() {
        Origin::Packhorse
    } else if !request && !ours && !pod.metadata.annotations.contains_key(ALLOCATION) {
        Origin::Foreign
    } else if !request {
        Origin::Incomplete(format!("annotation {REQUEST}"))
    } else if let Some(container) = bare {
        Origin::Incomplete(format!("resource {GPU_CORES} of container {}", container.name))
    } else {
        Origin::Packhorse
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::gpu::request::Phase;

    fn pod(change: impl FnOnce(&mut Value)) -> NodePod {
        let gpu = json!({"limits": {"nvidia.com/gpu": "2", "packhorse.dev/gpu-cores": "60", "packhorse.dev/gpu-memory": "8k"}});
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {
                "packhorse.dev/request": r#"{"v":1,"containers":{"main":{"count":2,"memory":4000,"cores":30}}}"#,
                "packhorse.dev/allocation": r#"{"v":1,"containers":{"main":[
                    {"device":"GPU-1","memory":4000,"cores":30,"enforcement":"advisory"},
                    {"device":"GPU-2","memory":4000,"cores":30,"enforcement":"advisory"}]}}"#,
            }},
            "spec": {"nodeName": "n", "schedulerName": "packhorse",
                "initContainers": [{"name": "init"}, {"name": "side", "restartPolicy": "Always"}],
                "containers": [{"name": "main", "resources": gpu}, {"name": "idle"}]},
        });
        change(&mut pod);
        let text = pod.to_string();
        NodePod::read(&serde_json::from_str(&text).unwrap()).unwrap()
    }

    #[test]
    fn keeps_what_the_check_needs() {
        let pod = pod(|_| {});
        assert_eq!((&*pod.uid, pod.full_name(), &*pod.node), ("u", "ns/p".to_owned(), "n"));
        assert_eq!((pod.ended, pod.deleting, pod.totals), (false, false, (8000, 60)));
        let phases: Vec<_> = pod.containers.iter().map(|(name, phase)| (&**name, *phase)).collect();
        let (init, side, app) = (Phase::Init, Phase::Sidecar, Phase::App);
        assert_eq!(phases, [("init", init), ("side", side), ("main", app), ("idle", app)]);
        assert_eq!(pod.slots.len(), 1);
        assert_eq!(pod.slots["main"]["nvidia.com/gpu"], 2);
        assert_eq!(pod.request.unwrap().containers[0].count, 2);
        assert_eq!(pod.allocation.unwrap().unwrap().containers[0].shares.len(), 2);
        assert_eq!(pod.origin, Origin::Packhorse);
    }

    #[test]
    fn tells_whose_pod_it_is() {
        fn annotations(pod: &mut Value) -> &mut serde_json::Map<String, Value> {
            pod["metadata"]["annotations"].as_object_mut().unwrap()
        }
        let incomplete = |what: &str| Origin::Incomplete(what.to_owned());
        type Change = fn(&mut Value);
        let cases: [(&str, Change, Origin); 6] = [
            ("scheduler of another name", |p| p["spec"]["schedulerName"] = "gpu-one".into(), Origin::Packhorse),
            (
                "nothing of ours",
                |p| {
                    annotations(p).clear();
                    p["spec"]["schedulerName"] = "default-scheduler".into();
                },
                Origin::Foreign,
            ),
            (
                "an allocation alone",
                |p| drop(annotations(p).remove(REQUEST)),
                incomplete("annotation packhorse.dev/request"),
            ),
            ("our scheduler alone", |p| annotations(p).clear(), incomplete("annotation packhorse.dev/request")),
            (
                "no totals",
                |p| {
                    let limits = &mut p["spec"]["containers"][0]["resources"]["limits"];
                    limits.as_object_mut().unwrap().remove(GPU_CORES);
                },
                incomplete("resource packhorse.dev/gpu-cores of container main"),
            ),
            (
                "no GPU at all",
                |p| {
                    annotations(p).clear();
                    p["spec"]["containers"][0]["resources"] = json!({});
                },
                Origin::Packhorse,
            ),
        ];
        for (case, change, expected) in cases {
            assert_eq!(pod(change).origin, expected, "{case}");
        }
    }

    #[test]
    fn a_damaged_annotation_is_kept_as_its_error() {
        let damaged = pod(|pod| pod["metadata"]["annotations"]["packhorse.dev/allocation"] = "{".into());
        assert!(damaged.allocation.unwrap().unwrap_err().contains("packhorse.dev/allocation"));
        let damaged = pod(|pod| pod["metadata"]["annotations"]["packhorse.dev/request"] = r#"{"v":9}"#.into());
        assert!(damaged.request.unwrap_err().contains("version 9"));
        let ended = pod(|pod| pod["status"] = json!({"phase": "Failed"}));
        assert!(ended.ended);
    }
    #[test]
    fn device_lists_that_contradict_the_allocation_damage_it() {
        let listed = |container: &str, list: &str| {
            let key = format!("devices.packhorse.dev/{container}");
            pod(|pod| pod["metadata"]["annotations"][key] = list.into()).allocation.unwrap()
        };
        // What the server itself writes, read again.
        let given = pod(|_| {}).allocation.unwrap().unwrap();
        let written = allocation::annotations(&given);
        let bound =
            pod(|pod| written.iter().for_each(|(key, text)| pod["metadata"]["annotations"][key] = text[..].into()));
        assert_eq!(bound.allocation, Some(Ok(given)));
        assert!(listed("main", "GPU-1,GPU-2").is_ok());
        assert!(listed("idle", "").is_ok(), "no device");
        for (container, list) in [
            ("main", "GPU-1"),
            ("main", "GPU-1,GPU-3"),
            ("main", "GPU-2,GPU-1"),
            ("main", "GPU-1, GPU-2"),
            ("main", "all"),
            ("main", ""),
            ("idle", "GPU-1"),
            ("idle", "all"),
            ("nobody", "GPU-3"),
        ] {
            let error = listed(container, list).unwrap_err();
            let expected = format!("devices.packhorse.dev/{container}: {list:?}");
            assert!(error.starts_with("packhorse.dev/allocation: ") && error.ends_with(&expected), "{error}");
        }
    }
}
