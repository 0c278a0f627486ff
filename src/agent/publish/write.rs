//! Patching the Node object: what a part of it should be is compared with what it is, and the difference written, again and again.
//!
//! Each part (inventory, totals, labels, the operator's labels, taint) has its own task, so that one that hangs or is refused does not hold up another. What
//! is written is computed at the last moment: after an outage the newest state goes out, and no older one.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::metrics::Metrics;
use super::own_node::{OwnNode, Source, State};
use super::pace::{self, Pace};
use super::{LABELS_MANAGER, MANAGER, OPERATOR_MANAGER};

/// A call that takes longer is given up and tried again.
const PATIENCE: Duration = Duration::from_secs(5);

/// One patch.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Write {
    /// A merge patch of the node.
    Merge(Value),
    /// A merge patch of its status.
    Status(Value),
    /// A JSON patch of the node.
    Json(json_patch::Patch),
    /// Server-side apply without force, by the manager of the labels.
    Apply(Value),
    /// Server-side apply with force, by the manager of the labels for the GPU operator.
    Operator(Value),
}

/// Why a write did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Call(kube::Error),
    #[error("no answer within {PATIENCE:?}")]
    Silent,
}

/// A part of the node that the agent keeps as it should be.
pub(super) trait Part {
    /// As metrics and logs call it.
    const KIND: &'static str;

    /// Returns when the part may have to become another than it is; changes of the node aside. Cancel-safe.
    async fn changed(&mut self);

    /// The write that is due; `None` where the node is as it should be, or nothing can be said yet.
    fn due(&mut self, node: &OwnNode) -> Option<Write>;

    /// What was due last has arrived. Between the two there may be a pause, after which what is due is asked for again.
    fn wrote(&mut self) {}

    /// The node has been seen, and nothing was due.
    fn settled(&mut self) {}

    /// A write was refused. Whether the part has drawn its conclusions and another one may be due at once.
    fn refused(&mut self, _node: &OwnNode, _failure: &Failure) -> bool {
        false
    }
}

/// What the parts share.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    pub(super) api: Api<Node>,
    pub(super) name: Arc<str>,
    pub(super) state: Arc<State>,
    pub(super) metrics: Metrics,
}

impl Failure {
    /// The API server's own refusal.
    pub(super) fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Call(kube::Error::Api(status)) => Some(status),
            Self::Call(_) | Self::Silent => None,
        }
    }

    fn result(&self) -> &'static str {
        match self.status().map(|status| status.code) {
            Some(409 | 422) => "conflict",
            Some(400..500) => "refused",
            _ => "unknown",
        }
    }
}

impl Writer {
    /// Keeps one part as it should be until the future is dropped.
    pub(super) async fn keep<P: Part>(&self, mut part: P) {
        let mut pace = Pace::default();
        let mut told: Option<String> = None;
        let mut known = self.state.subscribe();
        loop {
            let node = known.borrow_and_update().clone();
            let Some((node, write)) = node.and_then(|node| part.due(&node).map(|write| (node, write))) else {
                if known.borrow().is_some() {
                    part.settled();
                }
                changed(&mut part, &mut known).await;
                tokio::time::sleep(pace::COALESCE).await;
                continue;
            };
            if let Some(earliest) = pace.earliest()
                && Instant::now() < earliest
            {
                tokio::time::sleep_until(earliest).await;
                continue;
            }
            match self.write(P::KIND, &write).await {
                Ok(()) => {
                    part.wrote();
                    pace.wrote(Instant::now());
                    if told.take().is_some() {
                        tracing::info!(node = %self.name, kind = P::KIND, "writes to the node succeed again");
                    }
                }
                // The node as it is now, or what was just refused would be tried again at once.
                Err(failure) if part.refused(&node, &failure) => self.refresh().await,
                Err(failure) => {
                    let text = failure.to_string();
                    if told.as_ref() != Some(&text) {
                        tracing::warn!(node = %self.name, kind = P::KIND, error = %text, "a write to the node failed; it is tried again");
                        told = Some(text);
                    }
                    if failure.status().is_some() {
                        self.refresh().await;
                    }
                    let news = pace.news();
                    let pause = pace.failed();
                    let news = async {
                        changed(&mut part, &mut known).await;
                        tokio::time::sleep(news).await;
                    };
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = news => {}
                    }
                }
            }
        }
    }

    async fn write(&self, kind: &'static str, write: &Write) -> Result<(), Failure> {
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let labels = PatchParams { field_manager: Some(LABELS_MANAGER.to_owned()), ..PatchParams::default() };
        let operator =
            PatchParams { field_manager: Some(OPERATOR_MANAGER.to_owned()), force: true, ..PatchParams::default() };
        let call = async {
            match write {
                Write::Merge(patch) => self.api.patch(&self.name, &params, &Patch::Merge(patch)).await,
                Write::Status(patch) => self.api.patch_status(&self.name, &params, &Patch::Merge(patch)).await,
                Write::Json(patch) => self.api.patch(&self.name, &params, &Patch::Json::<()>(patch.clone())).await,
                Write::Apply(patch) => self.api.patch(&self.name, &labels, &Patch::Apply(patch)).await,
                Write::Operator(patch) => self.api.patch(&self.name, &operator, &Patch::Apply(patch)).await,
            }
        };
        let answer = match tokio::time::timeout(PATIENCE, call).await {
            Ok(Ok(node)) => Ok(node),
            Ok(Err(error)) => Err(Failure::Call(error)),
            Err(_) => Err(Failure::Silent),
        };
        self.metrics.wrote(kind, answer.as_ref().err().map_or("ok", Failure::result));
        self.state.accept(answer?, Source::Change);
        Ok(())
    }

    /// What was refused was computed from what the watch had told, which may lag.
    async fn refresh(&self) {
        match tokio::time::timeout(PATIENCE, self.api.get(&self.name)).await {
            Ok(Ok(node)) => self.state.accept(node, Source::Change),
            Ok(Err(error)) => tracing::debug!(%error, "the node cannot be read"),
            Err(_) => tracing::debug!("no answer to a GET of the node"),
        }
    }
}

async fn changed<P: Part>(part: &mut P, node: &mut watch::Receiver<Option<Arc<OwnNode>>>) {
    tokio::select! {
        () = part.changed() => {}
        () = next(node) => {}
    }
}

/// Waits for the next change of any value that is still written by somebody.
pub(super) async fn next<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        // Its writer has ended: the agent is on its way out.
        std::future::pending::<()>().await;
    }
}
