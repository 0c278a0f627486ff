//! What each container was promised: read from every version of every pod that the API server ever showed, by pod UID, so that a pod
//! of the same name is another pod. Shares no code with Packhorse.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::super::objects::annotation;

/// One container's devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Promise {
    /// By UUID.
    pub(super) devices: BTreeSet<String>,
    /// For this container alone.
    pub(super) exclusive: bool,
}

/// Everything that was ever promised.
#[derive(Debug, Default)]
pub(super) struct Promises {
    /// By pod UID and container; of containers with devices.
    promises: BTreeMap<(String, String), Promise>,
    /// UIDs of all pods that were ever bound, to namespace and name.
    bound: BTreeMap<String, String>,
}

impl Promises {
    /// Panics where an allocation changes or cannot be read.
    pub(super) fn of(versions: &[Pod]) -> Self {
        let mut all = Self::default();
        for pod in versions.iter().filter(|pod| super::super::objects::node_of(pod).is_some()) {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let name = pod.metadata.name.clone().unwrap_or_default();
            let known = all.bound.insert(uid.clone(), name.clone()).is_some();
            for (container, promise) in read(pod) {
                let before = all.promises.insert((uid.clone(), container.clone()), promise.clone());
                assert!(!known || before.as_ref() == Some(&promise), "{container} of {name} was promised two things");
            }
        }
        all
    }

    /// What that container was promised; of no devices where it has none. `None`: no such pod was ever seen bound.
    pub(super) fn get(&self, uid: &str, container: &str) -> Option<Promise> {
        self.bound.get(uid)?;
        Some(self.promises.get(&(uid.to_owned(), container.to_owned())).cloned().unwrap_or_default())
    }

    /// The pod's name.
    pub(super) fn name(&self, uid: &str) -> &str {
        self.bound.get(uid).map_or("a pod that was never bound", String::as_str)
    }
}

fn read(pod: &Pod) -> Vec<(String, Promise)> {
    let Some(json) = annotation(pod, "packhorse.dev/allocation") else { return Vec::new() };
    let allocation: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{json:?}: {error}"));
    let containers = allocation["containers"].as_object().unwrap_or_else(|| panic!("{json:?} has no containers"));
    let promise = |shares: &Value| {
        let shares = shares.as_array().unwrap_or_else(|| panic!("{json:?} has no shares"));
        let device = |share: &Value| share["device"].as_str().expect("a share names a device").to_owned();
        Promise {
            devices: shares.iter().map(device).collect(),
            exclusive: shares.iter().any(|share| share["exclusive"] == true),
        }
    };
    containers.iter().map(|(container, shares)| (container.clone(), promise(shares))).collect()
}
