//! The node's container runtime, by which the form of specifications is chosen: told by the Node, and remembered on disk, so that an
//! agent that starts while the API server is away does not have to guess.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::agent::publish::OwnNode;

/// How long the Node is waited for at the start.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The last runtime known, in the state directory.
const REMEMBERED: &str = "container-runtime";

/// For example `containerd://2.1.4`; empty where nobody knows it.
pub(super) async fn container_runtime(
    mut node: watch::Receiver<Option<Arc<OwnNode>>>,
    state_dir: &Path,
    patience: Duration,
) -> String {
    let told = |node: &Option<Arc<OwnNode>>| node.as_ref().is_some_and(|node| !node.container_runtime.is_empty());
    let told = tokio::time::timeout(patience, node.wait_for(told)).await;
    let told = told.ok().and_then(Result::ok).and_then(|node| node.as_ref().map(|node| node.container_runtime.clone()));
    let path = state_dir.join(REMEMBERED);
    let remembered = std::fs::read_to_string(&path).unwrap_or_default();
    let Some(told) = told else {
        tracing::warn!(remembered, "the Node does not tell its container runtime");
        return remembered;
    };
    if told != remembered
        && let Err(error) = std::fs::write(&path, &told)
    {
        tracing::warn!(path = %path.display(), %error, "the container runtime cannot be remembered");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_runtime_is_remembered_for_a_start_without_the_api_server() {
        let state = tempfile::tempdir().unwrap();
        let (sender, node) = watch::channel(None);
        let short = Duration::from_millis(10);
        assert_eq!(container_runtime(node.clone(), state.path(), short).await, "");
        let known = OwnNode { container_runtime: "containerd://2.1.4".to_owned(), ..OwnNode::default() };
        sender.send_replace(Some(Arc::new(known)));
        assert_eq!(container_runtime(node.clone(), state.path(), short).await, "containerd://2.1.4");
        sender.send_replace(None);
        assert_eq!(container_runtime(node, state.path(), short).await, "containerd://2.1.4");
    }
}
