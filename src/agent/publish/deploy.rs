//! The GPU operator's labels by which an administrator says that a node takes no GPU software at all, or no device plugin.

use std::collections::BTreeMap;

/// NVIDIA's labels that, with the value `false`, keep us from serving a node.
const OPERANDS: &str = "nvidia.com/gpu.deploy.operands";
/// Only the device plugin.
const DEVICE_PLUGIN: &str = "nvidia.com/gpu.deploy.device-plugin";

/// Whether this node is ours to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Deploy {
    /// The node has not been read yet.
    #[default]
    Unknown,
    /// Yes.
    Serve,
    /// No device plugin: nothing is registered with the kubelet and the inventory says `ready:false`. Labels stay.
    WithoutPlugin,
    /// No operands: as [`Self::WithoutPlugin`], and our labels are taken back.
    Nothing,
}

impl Deploy {
    /// Reads a node's labels.
    pub fn of(labels: &BTreeMap<String, String>) -> Self {
        let forbidden = |key: &str| labels.get(key).is_some_and(|value| value == "false");
        if forbidden(OPERANDS) {
            Self::Nothing
        } else if forbidden(DEVICE_PLUGIN) {
            Self::WithoutPlugin
        } else {
            Self::Serve
        }
    }

    /// Whether the device plugin may be registered.
    pub fn serves(self) -> bool {
        self == Self::Serve
    }

    pub(super) fn log(self, before: Self) {
        let label = match self {
            Self::Nothing => OPERANDS,
            Self::WithoutPlugin => DEVICE_PLUGIN,
            Self::Serve if before == Self::Unknown => return,
            Self::Serve | Self::Unknown => {
                return tracing::info!("no label of the GPU operator keeps this node from being served any more");
            }
        };
        tracing::warn!(label, value = "false", "the node takes no new GPU pods of ours: remove the label to serve it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_value_false_keeps_us_away() {
        for (labels, expected) in [
            (vec![], Deploy::Serve),
            (vec![(OPERANDS, "true"), (DEVICE_PLUGIN, "true")], Deploy::Serve),
            (vec![(DEVICE_PLUGIN, "")], Deploy::Serve),
            (vec![(DEVICE_PLUGIN, "false")], Deploy::WithoutPlugin),
            (vec![(OPERANDS, "false"), (DEVICE_PLUGIN, "true")], Deploy::Nothing),
        ] {
            let given = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            assert_eq!(Deploy::of(&given), expected, "{labels:?}");
        }
    }
}
