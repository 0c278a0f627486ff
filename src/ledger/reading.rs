//! What one Pod object says, read from its annotations and resources: the allocation it was bound with, and how many devices it
//! was given if that cannot be read.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::Ledger;
use super::node::whole;
use super::pods::Damage;
use super::report::Object;
use crate::gpu::allocation::{Allocation, Holding};
use crate::kube_api::allocation::{self, Salvage, device_lists};
use crate::kube_api::fields;
use crate::kube_api::names::{ALLOCATION, DEVICES_PREFIX, GPU_CORES};
use crate::kube_api::pod::{ContainerView, PodView};
use crate::kube_api::request::phases;

/// What a bound pod was given.
#[derive(Debug, Clone)]
pub(super) struct Given {
    /// `None` where there is none or it cannot be read.
    pub(super) allocation: Option<Arc<Allocation>>,
    pub(super) holdings: Arc<[Holding]>,
    pub(super) damaged: Option<Damage>,
    /// Asks for GPUs, but was bound without an allocation.
    pub(super) foreign: bool,
}

/// Whether the pod has finished.
pub(super) fn has_ended(pod: &PodView<'_>) -> bool {
    matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// Where it is bound.
pub(super) fn node_of<'a>(pod: &'a PodView<'_>) -> Option<&'a str> {
    pod.spec.node_name.as_deref().filter(|name| !name.is_empty())
}

/// Every container with the number of devices it asks for, as far as its resources say.
pub(super) fn asked(pod: &PodView<'_>, prefix: &str) -> Vec<(String, usize)> {
    let containers = pod.spec.init_containers.iter().chain(&pod.spec.containers);
    containers.map(|container| (container.name.to_string(), count(container, prefix))).filter(|(_, n)| *n > 0).collect()
}

fn count(container: &ContainerView<'_>, prefix: &str) -> usize {
    let lists = [&container.resources.limits, &container.resources.requests];
    let of = |list: &BTreeMap<_, crate::kube_api::pod::RawQuantity<'_>>| {
        let mut devices = 0;
        for (name, quantity) in list {
            let name: &crate::kube_api::pod::Text<'_> = name;
            let ours = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/'));
            if ours.is_some_and(|rest| rest == "gpu" || rest.starts_with("mig-")) {
                // Too large to read is still more than one.
                devices += quantity.0.parse::<usize>().unwrap_or(1);
            } else if &**name == GPU_CORES {
                devices = devices.max(1);
            }
        }
        devices
    };
    lists.into_iter().flatten().map(of).max().unwrap_or(0)
}

/// Whether the ledger keeps the pod's devices, not only its host request.
pub(super) fn concerns_gpus(pod: &PodView<'_>, asked: &[(String, usize)]) -> bool {
    !asked.is_empty() || pod.metadata.annotations.contains_key(ALLOCATION) || device_lists(pod).next().is_some()
}

/// A fingerprint of everything [`Ledger::given`] reads; a status update leaves it as it is.
pub(super) fn text_of(pod: &PodView<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    pod.metadata.annotations.get(ALLOCATION).hash(&mut hasher);
    for list in device_lists(pod) {
        list.hash(&mut hasher);
    }
    hasher.finish()
}

impl Ledger {
    /// What a bound pod was given, by its annotations.
    pub(super) fn given(&self, pod: &PodView<'_>, object: &Object<'_>, asked: &[(String, usize)]) -> Given {
        let text = pod.metadata.annotations.get(ALLOCATION).map(|text| &**text);
        let lists: BTreeMap<&str, &str> = device_lists(pod).collect();
        let intern = |text: &str| self.strings.get(text);
        let error = match text.map(|text| allocation::decode_with(text, &intern)) {
            None if lists.is_empty() => {
                return Given { allocation: None, holdings: Arc::from([]), damaged: None, foreign: !asked.is_empty() };
            }
            None => fields::Damaged {
                key: ALLOCATION,
                field: "annotation".to_owned(),
                value: "absent".to_owned(),
                problem: format!("must be there beside {DEVICES_PREFIX}*"),
            },
            Some(Ok(decoded)) => {
                self.unknown_fields(object, ALLOCATION, &decoded.unknown);
                return self.agreed(pod, object, decoded.value, &lists);
            }
            Some(Err(error)) => error,
        };
        self.damaged(object, "UnreadableAllocation", &error);
        let Salvage { devices, complete } = allocation::salvage(text, &lists, asked);
        // Which part of each device is not known for sure, hence all of it.
        let holdings = devices.into_iter().map(|uuid| whole(&intern(uuid), 0, 0)).collect();
        let damaged = Some(if complete { Damage::Readable } else { Damage::Partly });
        Given { allocation: None, holdings, damaged, foreign: false }
    }

    /// A readable allocation. A container sees the devices that its own list names, so a device that only the list names is held
    /// too, as a whole.
    fn agreed(
        &self,
        pod: &PodView<'_>,
        object: &Object<'_>,
        allocation: Allocation,
        lists: &BTreeMap<&str, &str>,
    ) -> Given {
        let mut holdings = allocation.holdings(&phases(pod));
        let mut damaged = None;
        for (container, list) in lists {
            for uuid in allocation::device_list(list) {
                let given = allocation
                    .containers
                    .iter()
                    .any(|c| *c.name == **container && c.shares.iter().any(|share| *share.device == *uuid));
                if given {
                    continue;
                }
                let error = fields::Damaged {
                    key: ALLOCATION,
                    field: format!("containers.{container}"),
                    value: uuid.to_owned(),
                    problem: format!("is named by {DEVICES_PREFIX}{container} only; the whole device counts as held"),
                };
                self.damaged(object, "ContradictoryAllocation", &error);
                damaged = Some(Damage::Readable);
                match holdings.iter_mut().find(|holding| *holding.device == *uuid) {
                    Some(holding) => holding.exclusive = true,
                    None => holdings.push(whole(&self.strings.get(uuid), 0, 0)),
                }
            }
        }
        Given { allocation: Some(Arc::new(allocation)), holdings: holdings.into(), damaged, foreign: false }
    }
}
