//! A GPU container's resources as Kubernetes is to see them: the device count and the totals, without the per-GPU names that no
//! node advertises.

use std::borrow::Cow;

use serde::{Serialize, Serializer};

use crate::gpu::parse::{Rules, shown};
use crate::gpu::quantity::Quantity;
use crate::gpu::request::{Ask, ContainerRequest, Memory};
use crate::kube_api::names;

use super::decision::Decision;
use super::patch::{Patch, member};
use super::subject::{Shape, Subject, is_total};

/// Name and amount of everything that a container's limits and requests must say.
fn wanted(rules: &Rules, request: &ContainerRequest) -> Vec<(Cow<'static, str>, Amount)> {
    let count = u64::from(request.count);
    // A sum of MIG instances would be compared with sums of whole cards, in which instances are not counted: 0.
    let cores = match &request.ask {
        Ask::Exclusive => 100,
        Ask::Share { cores, .. } => u64::from(*cores),
        Ask::Mig(_) => 0,
    };
    let device = match &request.ask {
        Ask::Mig(profile) => format!("{}/mig-{profile}", rules.prefix),
        Ask::Exclusive | Ask::Share { .. } => rules.count_name(),
    };
    let mut wanted = Vec::with_capacity(3);
    wanted.push((Cow::Owned(device), Amount(count)));
    wanted.push((Cow::Borrowed(names::GPU_CORES), Amount(count * cores)));
    if let Ask::Share { memory: Memory::Mib(memory), .. } = &request.ask {
        wanted.push((Cow::Borrowed(names::GPU_MEMORY), Amount(count * u64::from(*memory))));
    }
    wanted
}

/// Changes the container's limits and requests to what its request means. Both are always written: extended resources must be
/// equal in both.
pub(super) fn normalise(
    rules: &Rules,
    shape: Option<&Shape>,
    container: &Subject<'_, '_>,
    request: &ContainerRequest,
    decision: &mut Decision,
) {
    let wanted = wanted(rules, request);
    let view = &container.view.resources;
    if view.limits.is_none()
        && view.requests.is_none()
        && shape.is_some_and(|shape| !shape.has_resources(container.path))
    {
        let both = Both { limits: All(&wanted), requests: All(&wanted) };
        decision.patch.add((container.path, "/resources"), &both);
        return;
    }
    let mut corrected: Vec<&str> = Vec::new();
    for (list, amounts) in [("/resources/limits", &view.limits), ("/resources/requests", &view.requests)] {
        let path = (container.path, list);
        let Some(amounts) = amounts else {
            decision.patch.add(path, &All(&wanted));
            continue;
        };
        for (name, amount) in amounts {
            let keep = wanted.iter().any(|(other, _)| other == name.as_ref());
            if !keep && (rules.is_removed(name) || is_total(name)) {
                decision.patch.remove(member(path, name));
                if is_total(name) && !corrected.contains(&name.as_ref()) {
                    corrected.push(name);
                    decision.warn(
                        Some(container.name()),
                        format_args!(
                            "{name}: {:?} removed: it is derived from the request, which states no amount",
                            shown(amount.as_ref())
                        ),
                    );
                }
            }
        }
        for (name, amount) in &wanted {
            let present = amounts.get(name.as_ref());
            if present.is_some_and(|present| same(present.as_ref(), amount.0)) {
                continue;
            }
            decision.patch.add(member(path, name), amount);
            if let Some(present) = present.filter(|_| is_total(name) && !corrected.contains(&name.as_ref())) {
                corrected.push(name);
                decision.warn(
                    Some(container.name()),
                    format_args!(
                        "{name}: {:?} replaced by {}: it is derived from the request",
                        shown(present.as_ref()),
                        amount.0
                    ),
                );
            }
        }
    }
}

/// A number as Kubernetes has it: a string.
#[derive(Debug, Clone, Copy)]
struct Amount(u64);

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// What one list says where it says nothing yet.
struct All<'w>(&'w [(Cow<'static, str>, Amount)]);

impl Serialize for All<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, amount)| (name, amount)))
    }
}

#[derive(Serialize)]
struct Both<'w> {
    limits: All<'w>,
    requests: All<'w>,
}

/// Whether `written` is that amount in any spelling; the API server writes `8k` for 8000.
fn same(written: &str, amount: u64) -> bool {
    Quantity::parse(written).and_then(Quantity::integer) == Ok(amount)
}

/// Takes per-GPU names (with amount 0, else the container would be a GPU container) out of a container without a GPU.
pub(super) fn strip(rules: &Rules, container: &Subject<'_, '_>, patch: &mut Patch) {
    let view = &container.view.resources;
    for (list, amounts) in [("/resources/limits", &view.limits), ("/resources/requests", &view.requests)] {
        for (name, _) in amounts.iter().flatten().filter(|(name, _)| rules.is_removed(name)) {
            patch.remove(member((container.path, list), name));
        }
    }
}
