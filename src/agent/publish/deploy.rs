//! What the GPU operator's labels on the node say of us: whether it takes NVIDIA software at all, and whether its driver is being renewed.
//! Names and values: <https://github.com/NVIDIA/gpu-operator>, `controllers/state_manager.go`, and
//! <https://github.com/NVIDIA/k8s-operator-libs>, `pkg/upgrade/consts.go`.

use std::collections::BTreeMap;

/// With the value `false` nothing of NVIDIA's runs on the node, and nothing of ours.
pub const OPERANDS: &str = "nvidia.com/gpu.deploy.operands";
/// How far the operator has got with a new driver.
pub const UPGRADE: &str = "nvidia.com/gpu-driver-upgrade-state";

/// From the moment the operator wants the node empty until a driver runs again. Before that (`upgrade-required`) nothing has happened;
/// after that (`validation-required` and on) its validator wants to see GPUs allocatable.
const UNDER_WAY: [&str; 7] = [
    "cordon-required",
    "wait-for-jobs-required",
    "pod-deletion-required",
    "drain-required",
    "node-maintenance-required",
    "post-maintenance-required",
    "pod-restart-required",
];

/// Whether this node is ours to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Deploy {
    /// The node has not been read yet.
    #[default]
    Unknown,
    /// Yes.
    Serve,
    /// The operator renews the driver: the inventory says `ready:false`, so no new pods come. The plugin stays registered, for
    /// containers of those that are to finish may have to start again.
    Upgrade,
    /// No operands: nothing is registered with the kubelet, the inventory says `ready:false`, and our labels are taken back.
    Nothing,
}

/// Whether a value of [`UPGRADE`] means that the driver is being taken away.
pub fn is_upgrade(state: &str) -> bool {
    UNDER_WAY.contains(&state)
}

impl Deploy {
    /// Reads a node's labels.
    pub fn of(labels: &BTreeMap<String, String>) -> Self {
        let value = |key: &str| labels.get(key).map(String::as_str).unwrap_or_default();
        if value(OPERANDS) == "false" {
            Self::Nothing
        } else if is_upgrade(value(UPGRADE)) {
            Self::Upgrade
        } else {
            Self::Serve
        }
    }

    /// Whether the device plugin may be registered.
    pub fn serves(self) -> bool {
        matches!(self, Self::Serve | Self::Upgrade)
    }

    /// Whether new pods may come.
    pub fn takes_pods(self) -> bool {
        // An API server that is away says neither yes nor no.
        matches!(self, Self::Serve | Self::Unknown)
    }

    pub(super) fn log(self, before: Self) {
        match self {
            Self::Nothing => tracing::warn!(
                label = OPERANDS,
                value = "false",
                "the node takes no new GPU pods of ours: remove the label to serve it"
            ),
            Self::Upgrade => {
                tracing::warn!(
                    label = UPGRADE,
                    "the GPU operator renews the driver: the node takes no new GPU pods until then"
                );
            }
            Self::Serve if before == Self::Unknown => {}
            Self::Serve | Self::Unknown => {
                tracing::info!("no label of the GPU operator keeps this node from being served any more");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_operands_and_an_upgrade_under_way_keep_pods_away() {
        for (labels, expected) in [
            (vec![], Deploy::Serve),
            (vec![(OPERANDS, "true")], Deploy::Serve),
            (vec![(OPERANDS, "")], Deploy::Serve),
            // What we set ourselves, and what people set beforehand to have us in the place of NVIDIA's plugin.
            (vec![("nvidia.com/gpu.deploy.device-plugin", "false")], Deploy::Serve),
            (vec![(OPERANDS, "false"), (UPGRADE, "drain-required")], Deploy::Nothing),
            (vec![(UPGRADE, "upgrade-required")], Deploy::Serve),
            (vec![(UPGRADE, "cordon-required")], Deploy::Upgrade),
            (vec![(UPGRADE, "pod-restart-required")], Deploy::Upgrade),
            (vec![(UPGRADE, "validation-required")], Deploy::Serve),
            (vec![(UPGRADE, "upgrade-failed")], Deploy::Serve),
            (vec![(UPGRADE, "upgrade-done")], Deploy::Serve),
        ] {
            let given = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            assert_eq!(Deploy::of(&given), expected, "{labels:?}");
        }
        assert!(Deploy::Upgrade.serves() && !Deploy::Upgrade.takes_pods());
        assert!(!Deploy::Nothing.serves() && Deploy::Unknown.takes_pods());
    }
}
