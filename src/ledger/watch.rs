//! The tasks that keep the ledger up to date: a list and watch of nodes, one of all pods (no selector that a user could steer),
//! the GETs that settle doubts, and the Events about damage.

use std::sync::Arc;
use std::time::Instant;

use kube::Client;
use kube::api::GetParams;
use kube::core::Request;
use tokio::task::JoinSet;

use super::Ledger;
use super::doubt::Question;
use crate::kube_api::node::NodeView;
use crate::kube_api::watch::{Failure, Feed, PATIENCE, follow};

/// GETs on their way at once.
const QUESTIONS: usize = 8;

struct Nodes(Arc<Ledger>);
struct Pods(Arc<Ledger>);

impl Feed for Nodes {
    type Relist<'a> = super::NodeRelist<'a>;

    const NAME: &'static str = "nodes";
    const PATH: &'static str = "/api/v1/nodes";

    fn page_size(&self) -> u32 {
        self.0.settings().page_size
    }

    fn watch_seconds(&self) -> u32 {
        self.0.settings().watch_seconds
    }

    fn relist(&self) -> Self::Relist<'_> {
        self.0.relist_nodes()
    }

    fn listed(&self, relist: &mut Self::Relist<'_>, object: &str) -> serde_json::Result<()> {
        relist.apply(&serde_json::from_str(object)?);
        Ok(())
    }

    fn finish(&self, relist: Self::Relist<'_>) {
        relist.finish();
    }

    fn changed(&self, object: &str) -> serde_json::Result<()> {
        self.0.apply_node(&serde_json::from_str(object)?);
        Ok(())
    }

    fn deleted(&self, object: &str) -> serde_json::Result<()> {
        let node: NodeView<'_> = serde_json::from_str(object)?;
        self.0.remove_node(&node.metadata.name);
        Ok(())
    }

    fn unreadable(&self) {
        self.0.metrics.damaged(Self::NAME, "UnreadableObject");
    }

    fn interrupted(&self) {
        self.0.metrics.watch_restarted(Self::NAME);
    }
}

impl Feed for Pods {
    type Relist<'a> = super::PodRelist<'a>;

    const NAME: &'static str = "pods";
    const PATH: &'static str = "/api/v1/pods";

    fn page_size(&self) -> u32 {
        self.0.settings().page_size
    }

    fn watch_seconds(&self) -> u32 {
        self.0.settings().watch_seconds
    }

    fn relist(&self) -> Self::Relist<'_> {
        self.0.relist_pods()
    }

    fn listed(&self, relist: &mut Self::Relist<'_>, object: &str) -> serde_json::Result<()> {
        relist.apply(&serde_json::from_str(object)?);
        Ok(())
    }

    fn finish(&self, relist: Self::Relist<'_>) {
        relist.finish();
    }

    fn changed(&self, object: &str) -> serde_json::Result<()> {
        self.0.apply_pod(&serde_json::from_str(object)?);
        Ok(())
    }

    fn deleted(&self, object: &str) -> serde_json::Result<()> {
        self.0.remove_pod(&serde_json::from_str(object)?);
        Ok(())
    }

    fn unreadable(&self) {
        self.0.metrics.damaged(Self::NAME, "UnreadableObject");
    }

    fn interrupted(&self) {
        self.0.metrics.watch_restarted(Self::NAME);
    }
}

impl Ledger {
    /// Keeps the ledger up to date until the future is dropped. Nodes and pods are read at the same time, each by a task.
    pub async fn watch(self: Arc<Self>, client: Client) {
        let mut feeds = JoinSet::new();
        let (nodes, pods) = (Nodes(Arc::clone(&self)), Pods(Arc::clone(&self)));
        let (for_nodes, for_pods) = (client.clone(), client.clone());
        feeds.spawn(async move { follow(&nodes, &for_nodes).await });
        feeds.spawn(async move { follow(&pods, &for_pods).await });
        let ended = tokio::select! {
            _ = async { tokio::join!(self.settle_doubts(&client), self.write_events(&client)) } => None,
            ended = feeds.join_next() => ended,
        };
        // Neither ends by itself.
        if let Some(Err(error)) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }

    /// Asks the API server about pods in doubt.
    async fn settle_doubts(&self, client: &Client) {
        loop {
            let (questions, next) = self.doubts.due(Instant::now(), QUESTIONS);
            if questions.is_empty() {
                let raised = self.doubts.raised.notified();
                match next {
                    Some(next) => {
                        // Either way the due ones are looked at again.
                        let _ = tokio::time::timeout_at(next.into(), raised).await;
                    }
                    None => raised.await,
                }
                continue;
            }
            futures::future::join_all(questions.iter().map(|question| self.ask(client, question))).await;
        }
    }

    async fn ask(&self, client: &Client, question: &Question) {
        let path = format!("/api/v1/namespaces/{}/pods", question.namespace);
        let asked = async {
            let request = Request::new(path).get(&question.name, &GetParams::default())?;
            let answer = tokio::time::timeout(PATIENCE, client.request_text(request)).await;
            match answer.map_err(|_| Failure::Silent(PATIENCE))? {
                Ok(text) => self.answer(question, Some(&serde_json::from_str(&text)?)),
                Err(kube::Error::Api(status)) if status.code == 404 => self.answer(question, None),
                Err(error) => return Err(error.into()),
            }
            Ok::<(), Failure>(())
        };
        if let Err(error) = asked.await {
            let Question { namespace, name, uid } = question;
            tracing::warn!(%namespace, %name, %uid, %error, "a pod in doubt could not be asked for; it keeps its devices");
        }
    }
}
