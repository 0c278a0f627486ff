//! One open watch: delivers the changes of a kind from a version on, until it times out, is cut, or falls behind the log.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Bytes, Frame};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::faults::Faults;
use super::refusal::Refusal;
use super::resource::Resource;
use super::selector::Selector;
use super::store::{Change, ChangeKind, Store};

/// What a client asked of a watch.
pub(super) struct Watch {
    pub(super) resource: &'static Resource,
    pub(super) namespace: String,
    pub(super) selector: Selector,
    /// Empty or `0`: what exists first, then changes.
    pub(super) resource_version: String,
    pub(super) bookmarks: bool,
    /// What exists first even from a version, ended by a bookmark that says so.
    pub(super) send_initial: bool,
    pub(super) timeout: Duration,
    pub(super) bookmark_every: Duration,
    /// How an object is answered.
    pub(super) present: Box<dyn Fn(&Value) -> Value + Send + Sync>,
}

/// A frame of the answer, or the error that closes the connection in the middle of it.
pub(super) type Part = Result<Frame<Bytes>, io::Error>;

impl Watch {
    /// Runs until it ends; the client's going away shows as a failed send.
    pub(super) async fn run(self, store: Arc<Store>, faults: Faults, parts: mpsc::Sender<Part>) {
        let mut changed = store.subscribe();
        let mut cuts = faults.cuts();
        let mut held = faults.held();
        cuts.mark_unchanged();
        let from_start = matches!(self.resource_version.as_str(), "" | "0") || self.send_initial;
        let mut version = match self.resource_version.parse::<u64>() {
            Ok(version) if !from_start => {
                if faults.expires_resume() {
                    return self.expired(&parts, version).await;
                }
                version
            }
            _ => match self.initial(&store, &parts).await {
                Some(version) => version,
                None => return,
            },
        };
        let end = Instant::now() + self.timeout;
        let mut bookmark = Instant::now() + self.bookmark_every;
        loop {
            if held.wait_for(|held| !held).await.is_err() {
                return;
            }
            let (changes, reached) = {
                let state = store.read();
                (state.since(self.resource.plural, version), state.version)
            };
            let Some(changes) = changes else { return self.expired(&parts, version).await };
            for change in changes {
                let Some(event) = self.event(&change) else { continue };
                match faults.event() {
                    Some(late) if late.is_zero() => {}
                    Some(late) => tokio::time::sleep(late).await,
                    None => return cut(&parts).await,
                }
                if send(&parts, &event).await.is_none() {
                    return;
                }
                version = change.version;
                if cuts.has_changed().unwrap_or(true) {
                    return cut(&parts).await;
                }
            }
            version = version.max(reached);
            tokio::select! {
                more = changed.changed() => if more.is_err() { return },
                _ = cuts.changed() => return cut(&parts).await,
                () = tokio::time::sleep_until(bookmark) => {
                    bookmark = Instant::now() + self.bookmark_every;
                    if self.bookmarks && send(&parts, &self.bookmark(version, false)).await.is_none() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(end) => return,
                () = parts.closed() => return,
            }
        }
    }

    /// What exists, as additions; the version it is true for.
    async fn initial(&self, store: &Store, parts: &mpsc::Sender<Part>) -> Option<u64> {
        let (objects, version) = {
            let state = store.read();
            (state.list(self.resource, &self.namespace), state.version)
        };
        for object in objects.iter().filter(|object| self.selector.matches(object)) {
            send(parts, &json!({"type": "ADDED", "object": (self.present)(object)})).await?;
        }
        if self.send_initial && self.bookmarks {
            send(parts, &self.bookmark(version, true)).await?;
        }
        Some(version)
    }

    /// A change as this client sees it: an object that starts or stops to match comes and goes.
    fn event(&self, change: &Change) -> Option<Value> {
        let in_namespace =
            |object: &Value| self.namespace.is_empty() || object["metadata"]["namespace"] == self.namespace.as_str();
        let matches = |object: &Value| in_namespace(object) && self.selector.matches(object);
        let before = change.previous.as_deref().is_some_and(matches);
        let after = change.kind != ChangeKind::Deleted && matches(&change.object);
        let (kind, object) = match (before, after) {
            (false, true) => ("ADDED", (self.present)(&change.object)),
            (true, true) => ("MODIFIED", (self.present)(&change.object)),
            (true, false) => {
                // The last state that matched, at the version it stopped.
                let mut last = (self.present)(change.previous.as_deref().unwrap_or(&change.object));
                last["metadata"]["resourceVersion"] = json!(change.version.to_string());
                ("DELETED", last)
            }
            (false, false) => return None,
        };
        Some(json!({"type": kind, "object": object}))
    }

    fn bookmark(&self, version: u64, initial_end: bool) -> Value {
        let mut metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        json!({"type": "BOOKMARK", "object": (self.present)(&json!({"metadata": metadata}))})
    }

    async fn expired(&self, parts: &mpsc::Sender<Part>, version: u64) {
        let refusal = Refusal::expired(format!("too old resource version: {version}"));
        // The client may be gone already; then there is nobody to tell.
        let _gone = send(parts, &json!({"type": "ERROR", "object": refusal.status()})).await;
    }
}

async fn send(parts: &mpsc::Sender<Part>, event: &Value) -> Option<()> {
    parts.send(Ok(Frame::data(Bytes::from(format!("{event}\n"))))).await.ok()
}

async fn cut(parts: &mpsc::Sender<Part>) {
    // The client may be gone already; then the watch is cut in any case.
    let _gone = parts.send(Err(io::Error::new(io::ErrorKind::ConnectionReset, "watch cut by an injected fault"))).await;
}
