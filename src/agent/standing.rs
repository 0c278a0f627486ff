//! What the agent says of itself and of pods on its node, beside the devices: published in the inventory. Written by the
//! life cycle (`ready`) and by the check at container start (`refused`, `foreign`); read by the publisher. Kept in memory only:
//! after a restart of the agent the kubelet's next try tells it again.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::gpu::device::{ForeignPod, Refused};

/// The one value of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// False while the agent starts or stops: no new pods are placed here.
    pub ready: bool,
    /// Pods bound here that cannot start, by UID.
    pub refused: BTreeMap<Arc<str>, Refused>,
    /// Pods that use a device without an allocation, by the device's UUID.
    pub foreign: BTreeMap<Arc<str>, ForeignPod>,
}

/// Where it is changed (`send_modify`, `send_if_modified`) and read.
pub type StandingSender = tokio::sync::watch::Sender<Standing>;
