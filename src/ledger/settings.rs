//! What an operator may choose of the ledger. Part of the server's YAML file.

use std::time::Duration;

/// The ledger's settings; the defaults are what is shipped. A change at run time holds for what is read from then on: a list or a
/// watch from its next start, a node or pod from its next change.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Settings {
    /// Prefix of the GPU resource names, as in the webhook's settings.
    pub resource_prefix: String,
    /// Count the CPU and memory requests of every pod on a GPU node: fragmentation depends on them. Off saves about 60 bytes
    /// a pod of the cluster.
    pub host_requests: bool,
    /// Keep every node's labels in memory, which nomination needs to honour a pod's `nodeSelector`.
    pub node_labels: bool,
    /// Objects per page of a list, 1 or more.
    pub page_size: u32,
    /// How long one watch call lasts before it is renewed, 1 to 294; a connection that died silently is noticed 15 s later.
    pub watch_seconds: u32,
    /// After a bind whose outcome is unknown, how long a pod seen unbound by a GET may still become bound: the API server's
    /// own request timeout (60 s) and a little.
    pub unknown_bind_seconds: u32,
    /// Write an Event on a node or pod whose annotation cannot be read.
    pub events: bool,
    /// Publish what is booked per device: three series a device.
    pub device_metrics: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            resource_prefix: "nvidia.com".to_owned(),
            host_requests: true,
            node_labels: true,
            page_size: 500,
            watch_seconds: 290,
            unknown_bind_seconds: 65,
            events: true,
            device_metrics: true,
        }
    }
}

impl Settings {
    pub(super) fn unknown_bind(&self) -> Duration {
        Duration::from_secs(self.unknown_bind_seconds.into())
    }
}
