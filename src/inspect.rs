//! What a cluster has and who holds it, why a pod waits, node by node, and the smallest single change that would help.
//!
//! Fed with the JSON of nodes and pods ([`Builder`]), writes nothing, needs no server. Whether a node's devices suffice is said by the
//! extender's own [`verdict`](crate::extender::verdict), on the ledger that these objects fill; beside it stands what kube-scheduler
//! checks before it asks the extender ([`host`]). What cannot be read is named in the report and never counts as free.

pub mod change;
mod cluster;
pub mod host;
pub mod report;
pub mod why;

pub use cluster::{Builder, Cluster, PodName, Seen, Site, Waiting};
