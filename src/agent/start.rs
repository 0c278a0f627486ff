//! The last check before a container starts.

/// What `PreStartContainer` asks before it answers. The seam between the kubelet's interface and the check.
#[tonic::async_trait]
pub trait Starter: Send + Sync + std::fmt::Debug {
    /// Finds out whose `slots` of `resource` these are, verifies that pod's allocation, and writes what the runtime reads next.
    ///
    /// # Errors
    /// The container must not start; the kubelet shows the message in the pod's events and tries again.
    async fn prepare(&self, resource: &str, slots: &[String]) -> Result<(), Refusal>;
}

/// Why a container does not start, in words for the pod's author.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Refusal(pub String);
