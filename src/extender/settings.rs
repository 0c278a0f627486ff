//! What an operator can set about the extender, and kube-scheduler's version, on which one answer depends.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use super::{nominate, resolve};
use crate::gpu::fit::Policies;
use crate::gpu::request::{GpuPolicy, NodePolicy};

/// The extender's part of the server's configuration file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Settings {
    /// How many of the fitting nodes are returned to kube-scheduler, the best ones; at least 1. All of them are, whatever this
    /// says, where the pod or a node states a preference that kube-scheduler has to weigh. With one node kube-scheduler neither
    /// asks us for priorities nor scores anything itself.
    pub best_nodes: NonZeroUsize,
    /// The version of kube-scheduler, for example `1.38`; absent: the API server's. From 1.38 on a shortage that only
    /// Packhorse sees is reported as one that preemption may help.
    pub scheduler_version: Option<Version>,
    /// Whether ranking counts pods that were ranked but not yet bound. Off only to measure what they are worth.
    pub holds: bool,
    /// How long a ranked pod that is not bound counts, in seconds.
    pub hold_seconds: u32,
    /// The same for a pod with a persistent volume claim, whose bind waits for the volume.
    pub volume_hold_seconds: u32,
    /// The largest request accepted, in MiB. 5,000 full nodes are about 64.
    pub max_body_mib: u32,
    /// How long one call to the API server may take, in seconds. A bind that goes wrong makes up to three; all of them should
    /// fit in the scheduler profile's `httpTimeout`. Read at the start.
    pub call_timeout_seconds: u32,
    /// Which node first, where a pod does not say: `binpack` or `spread`.
    pub node_policy: NodeOrder,
    /// Which device first, where a pod does not say: `binpack`, `spread` or `topology`; absent: `binpack` for one GPU,
    /// `topology` for more.
    pub gpu_policy: Option<DeviceOrder>,
    /// Nodes outside kube-scheduler's sample.
    pub nomination: nominate::Settings,
    /// Pods that were bound but can never start.
    pub stranded: resolve::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            best_nodes: NonZeroUsize::MIN,
            scheduler_version: None,
            holds: true,
            hold_seconds: 5,
            volume_hold_seconds: 600,
            max_body_mib: 64,
            call_timeout_seconds: 3,
            node_policy: NodeOrder::Binpack,
            gpu_policy: None,
            nomination: nominate::Settings::default(),
            stranded: resolve::Settings::default(),
        }
    }
}

impl Settings {
    /// The defaults for pods that say nothing.
    pub fn policies(&self) -> Policies {
        Policies {
            node: match self.node_policy {
                NodeOrder::Binpack => NodePolicy::Binpack,
                NodeOrder::Spread => NodePolicy::Spread,
            },
            gpu: self.gpu_policy.map(|order| match order {
                DeviceOrder::Binpack => GpuPolicy::Binpack,
                DeviceOrder::Spread => GpuPolicy::Spread,
                DeviceOrder::Topology => GpuPolicy::Topology,
            }),
        }
    }

    /// The deadline of one API call.
    pub fn call_timeout(&self) -> Duration {
        Duration::from_secs(self.call_timeout_seconds.into())
    }

    /// How long a hold lasts.
    pub(super) fn hold(&self, waits_for_volume: bool) -> Duration {
        let seconds =
            if waits_for_volume { self.volume_hold_seconds.max(self.hold_seconds) } else { self.hold_seconds };
        Duration::from_secs(seconds.into())
    }
}

/// Which node first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeOrder {
    /// Fill what is in use.
    Binpack,
    /// The emptiest first.
    Spread,
}

/// Which device of a node first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum DeviceOrder {
    /// Fill what is in use.
    Binpack,
    /// The emptiest first.
    Spread,
    /// The best connected set.
    Topology,
}

/// A Kubernetes version, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize, serde::Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    /// 1.
    pub major: u32,
    /// 38.
    pub minor: u32,
}

impl Version {
    /// From here on kube-scheduler asks `/preempt` about nodes for which it found no victims itself.
    pub const EMPTY_VICTIMS: Self = Self { major: 1, minor: 38 };
}

/// A version that cannot be read.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a Kubernetes version; write it like 1.36 or v1.36.3")]
pub struct VersionError(String);

impl FromStr for Version {
    type Err = VersionError;

    /// Reads `1.36`, `v1.36.3`, `1.36+` and the like; what follows the minor version's digits is left out.
    fn from_str(text: &str) -> Result<Self, VersionError> {
        let read = || {
            let (major, rest) = text.trim().trim_start_matches('v').split_once('.')?;
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            Some(Self { major: major.parse().ok()?, minor: rest[..end].parse().ok()? })
        };
        read().ok_or_else(|| VersionError(text.to_owned()))
    }
}

impl TryFrom<String> for Version {
    type Error = VersionError;

    fn try_from(text: String) -> Result<Self, VersionError> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions_as_kubernetes_writes_them() {
        for (text, minor) in [("1.36", 36), ("v1.36.3", 36), ("1.33+", 33), ("v1.38.0-alpha.1", 38), (" v1.9-gke.1", 9)]
        {
            assert_eq!(text.parse(), Ok(Version { major: 1, minor }), "{text}");
        }
        for text in ["", "1", "latest", "1.x", "v.36"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }

    #[test]
    fn refuses_unknown_keys_and_zero_best_nodes() {
        let read = serde_json::from_str::<Settings>;
        assert_eq!(read("{}").unwrap(), Settings::default());
        assert_eq!(read(r#"{"bestNodes":1,"schedulerVersion":"1.38"}"#).unwrap().best_nodes.get(), 1);
        assert!(read(r#"{"bestNode":1}"#).unwrap_err().to_string().contains("bestNode"));
        assert!(read(r#"{"bestNodes":0}"#).is_err());
        assert!(read(r#"{"schedulerVersion":"newest"}"#).unwrap_err().to_string().contains("newest"));
    }
}
