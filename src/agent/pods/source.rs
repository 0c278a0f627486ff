//! Where pods come from: the watch of those bound to this node, and the question for one pod where the watch lags.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{NodePod, Pods};
use crate::kube_api::calls::{CallError, Calls};
use crate::kube_api::pod::PodView;
use crate::kube_api::watch::{Feed, follow};

/// The API server, asked for the pods of one node.
#[derive(Debug, Clone)]
pub struct Source {
    calls: Calls,
    node: Arc<str>,
}

impl Source {
    /// The calls carry their own deadline, which must be well below the kubelet's 30 s.
    pub fn new(calls: Calls, node: Arc<str>) -> Self {
        Self { calls, node }
    }

    /// The pod that has this name now, wherever it is bound; `None` where there is none.
    ///
    /// # Errors
    /// The API server was not reached, or said something else.
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<Option<NodePod>, CallError> {
        match self.calls.pod(namespace, name).await {
            Ok(text) => {
                let pod: PodView<'_> = serde_json::from_slice(&text).map_err(|error| unreadable(&error))?;
                Ok(NodePod::read(&pod))
            }
            Err(CallError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The pod of that UID, if it is bound to this node: for one whose name nothing on the node tells.
    ///
    /// # Errors
    /// The API server was not reached, or said something else.
    pub async fn bound_pod(&self, uid: &str) -> Result<Option<NodePod>, CallError> {
        #[derive(serde::Deserialize)]
        struct List<'a> {
            #[serde(borrow)]
            items: Option<Vec<PodView<'a>>>,
        }
        let text = self.calls.pods_of(&self.node).await?;
        let list: List<'_> = serde_json::from_slice(&text).map_err(|error| unreadable(&error))?;
        let found = list.items.iter().flatten().find(|pod| pod.metadata.uid.as_deref() == Some(uid));
        Ok(found.and_then(NodePod::read))
    }
}

fn unreadable(error: &serde_json::Error) -> CallError {
    CallError::Unknown(format!("the answer cannot be read: {error}"))
}

impl Pods {
    /// Keeps them up to date by a watch of the pods bound to `node`, until stopped. While the API server is away they stay as they were.
    pub async fn run(self: Arc<Self>, client: kube::Client, node: Arc<str>, stop: CancellationToken) {
        let feed = Bound { pods: self, fields: format!("spec.nodeName={node}") };
        stop.run_until_cancelled(follow(&feed, &client)).await;
    }
}

struct Bound {
    pods: Arc<Pods>,
    fields: String,
}

impl Feed for Bound {
    type Relist<'a> = Vec<NodePod>;

    const NAME: &'static str = "pods of this node";
    const PATH: &'static str = "/api/v1/pods";

    fn fields(&self) -> Option<&str> {
        Some(&self.fields)
    }

    fn page_size(&self) -> u32 {
        // A kubelet runs 110 pods by default; small pages keep the agent small.
        50
    }

    fn relist(&self) -> Self::Relist<'_> {
        Vec::new()
    }

    fn listed(&self, relist: &mut Self::Relist<'_>, object: &str) -> serde_json::Result<()> {
        relist.extend(NodePod::read(&serde_json::from_str(object)?));
        Ok(())
    }

    fn finish(&self, relist: Self::Relist<'_>) {
        self.pods.replace(relist);
    }

    fn changed(&self, object: &str) -> serde_json::Result<()> {
        if let Some(pod) = NodePod::read(&serde_json::from_str(object)?) {
            self.pods.apply(pod);
        }
        Ok(())
    }

    fn deleted(&self, object: &str) -> serde_json::Result<()> {
        let pod: PodView<'_> = serde_json::from_str(object)?;
        self.pods.remove(pod.metadata.uid.as_deref().unwrap_or_default());
        Ok(())
    }

    // Both are logged by the watch; the pods' own state says the rest.
    fn unreadable(&self) {}

    fn interrupted(&self) {}
}
