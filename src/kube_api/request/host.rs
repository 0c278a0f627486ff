//! What a pod requests of its node, as Kubernetes computes it. Read by the ledger and by scoring, because a GPU on a node without CPU
//! or memory left is stranded, and by the agent, which may not lower its node's totals below it.

use std::collections::BTreeMap;

use super::super::names;
use super::super::pod::{PodView, RawQuantity, ResourcesView, Text};
use super::containers;
use crate::gpu::quantity;
use crate::gpu::request::Phase;

/// What a pod requests of its host, in millicores and bytes, as Kubernetes computes it: the larger of the running phase (app
/// containers and sidecars) and of each init container beside the sidecars before it; what the pod as a whole requests instead,
/// where it does; plus its overhead. A limit without a request counts as the request.
///
/// An API server accepts no unreadable quantity; should one come nevertheless, it counts as nothing.
pub fn host_requests(pod: &PodView<'_>) -> (i64, i64) {
    (pod_request(pod, "cpu", quantity::millicores), pod_request(pod, "memory", quantity::bytes))
}

/// What a pod requests of its node's totals, MiB and percent, by the same arithmetic.
pub fn total_requests(pod: &PodView<'_>) -> (u64, u64) {
    let of = |name| u64::try_from(pod_request(pod, name, quantity::bytes)).unwrap_or(0);
    (of(names::GPU_MEMORY), of(names::GPU_CORES))
}

/// Everything a pod requests of its node, by the same arithmetic: CPU in millicores, all else in bytes or pieces.
pub fn all_requests(pod: &PodView<'_>) -> BTreeMap<String, i64> {
    let whole = pod.spec.resources.iter();
    let of_containers = containers(pod).map(|(container, _)| &container.resources);
    let names = of_containers.chain(whole).flat_map(|resources| [&resources.requests, &resources.limits]);
    let names = names.flatten().flat_map(BTreeMap::keys).chain(pod.spec.overhead.keys());
    let names: std::collections::BTreeSet<&str> = names.map(AsRef::as_ref).collect();
    let read = |name: &str| if name == "cpu" { quantity::millicores } else { quantity::bytes };
    names.into_iter().map(|name| (name.to_owned(), pod_request(pod, name, read(name)))).collect()
}

fn pod_request(pod: &PodView<'_>, name: &str, read: fn(&str) -> Result<u64, quantity::QuantityError>) -> i64 {
    let value = |list: Option<&BTreeMap<Text<'_>, RawQuantity<'_>>>| -> Option<i64> {
        let quantity = read(list?.get(name)?.as_ref()).unwrap_or(0);
        Some(i64::try_from(quantity).unwrap_or(i64::MAX))
    };
    let of =
        |resources: &ResourcesView<'_>| value(resources.requests.as_ref()).or_else(|| value(resources.limits.as_ref()));
    let (mut running, mut peak, mut any) = (0_i64, 0_i64, false);
    for (container, phase) in containers(pod) {
        let Some(amount) = of(&container.resources) else { continue };
        any = true;
        if phase == Phase::Init {
            peak = peak.max(running.saturating_add(amount));
        } else {
            running = running.saturating_add(amount);
        }
    }
    let mut total = running.max(peak);
    if let Some(resources) = &pod.spec.resources {
        // A pod-level limit is the request only where no container requests anything of it.
        let limit = || value(resources.limits.as_ref()).filter(|_| !any);
        total = value(resources.requests.as_ref()).or_else(limit).unwrap_or(total);
    }
    total.saturating_add(value(Some(&pod.spec.overhead)).unwrap_or(0))
}
