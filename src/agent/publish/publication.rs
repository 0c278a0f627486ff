//! What the check at container start needs of the writer of the Node: who uses a device uninvited must be known to the world before
//! the container starts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Publisher;
use crate::agent::foreign::Publication;
use crate::kube_api::inventory::cordon;

/// Below the kubelet's 30 s for `PreStartContainer`, with room for the rest of the check.
const PATIENCE: Duration = Duration::from_secs(15);

#[tonic::async_trait]
impl Publication for Publisher {
    fn cordoned(&self) -> BTreeSet<Arc<str>> {
        let node = self.node();
        let node = node.borrow();
        let text = node.as_ref().and_then(|node| node.cordon.as_deref()).unwrap_or_default();
        cordon(text).map(Arc::from).collect()
    }

    async fn published(&self) -> Result<(), String> {
        let wanted = self.sources.standing.borrow().foreign.clone();
        let mut confirmed = self.confirmed();
        let arrived = confirmed.wait_for(|it| {
            it.as_ref()
                .is_some_and(|it| wanted.iter().all(|(device, pod)| it.standing.foreign.get(device) == Some(pod)))
        });
        match tokio::time::timeout(PATIENCE, arrived).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err("the agent is ending".to_owned()),
            Err(_) => Err(format!("the API server has not taken the inventory within {} s", PATIENCE.as_secs())),
        }
    }
}
