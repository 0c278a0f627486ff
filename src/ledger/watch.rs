//! The tasks that keep the ledger up to date: a list and watch of nodes, one of all pods (no selector that a user could steer),
//! the GETs that settle doubts, and the Events about damage.
//!
//! A watch that ends, or whose connection drops, goes on where it was; one that the API server cannot continue (410) begins again
//! with a list. Nothing is forgotten meanwhile. An object that cannot be read is told and skipped, never the whole list.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use kube::Client;
use kube::api::{GetParams, ListParams, WatchParams};
use kube::client::Body;
use kube::core::Request;
use serde_json::value::RawValue;

use super::Ledger;
use super::doubt::Question;
use crate::kube_api::node::NodeView;
use crate::kube_api::pod::Text;

/// The longest watch, in seconds, that the client library makes.
const LONGEST_WATCH: u32 = 294;
/// Beyond the watch's own end (but no longer than the watch itself), before a silent connection is given up.
const SILENCE: Duration = Duration::from_secs(15);
/// A GET, or one page of a list, that takes longer is tried again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between the first two tries, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// So many watches in a row that the API server refuses, for whatever reason, before everything is listed anew.
const REFUSALS: u32 = 5;
/// GETs on their way at once.
const QUESTIONS: usize = 8;

/// Why a list or a watch ended.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The API server cannot continue from this version.
    #[error("the resource version is gone")]
    Gone,
    #[error(transparent)]
    Call(#[from] kube::Error),
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("the answer cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] kube::core::request::Error),
    #[error("the API server answered {code}: {message}")]
    Status { code: u16, message: String },
}

/// One page of a list.
#[derive(Debug, serde::Deserialize)]
struct Page<'a> {
    #[serde(borrow, default)]
    metadata: PageMeta<'a>,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PageMeta<'a> {
    #[serde(borrow)]
    resource_version: Option<Text<'a>>,
    #[serde(borrow, rename = "continue")]
    next: Option<Text<'a>>,
}

/// One line of a watch.
#[derive(Debug, serde::Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Debug, Default, serde::Deserialize)]
struct Versioned<'a> {
    #[serde(borrow, default)]
    metadata: PageMeta<'a>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct StatusView<'a> {
    code: u16,
    #[serde(borrow)]
    message: Option<Text<'a>>,
}

/// What a watch needs to know of a kind of object.
trait Kind {
    const PATH: &'static str;
    const NAME: &'static str;
    type Relist<'a>;
    fn relist(ledger: &Ledger) -> Self::Relist<'_>;
    fn listed(relist: &mut Self::Relist<'_>, object: &str) -> serde_json::Result<()>;
    fn finish(relist: Self::Relist<'_>);
    fn changed(ledger: &Ledger, object: &str) -> serde_json::Result<()>;
    fn deleted(ledger: &Ledger, object: &str) -> serde_json::Result<()>;
}

struct Nodes;
struct Pods;

impl Kind for Nodes {
    const PATH: &'static str = "/api/v1/nodes";
    const NAME: &'static str = "nodes";
    type Relist<'a> = super::NodeRelist<'a>;

    fn relist(ledger: &Ledger) -> Self::Relist<'_> {
        ledger.relist_nodes()
    }

    fn listed(relist: &mut Self::Relist<'_>, object: &str) -> serde_json::Result<()> {
        relist.apply(&serde_json::from_str(object)?);
        Ok(())
    }

    fn finish(relist: Self::Relist<'_>) {
        relist.finish();
    }

    fn changed(ledger: &Ledger, object: &str) -> serde_json::Result<()> {
        ledger.apply_node(&serde_json::from_str(object)?);
        Ok(())
    }

    fn deleted(ledger: &Ledger, object: &str) -> serde_json::Result<()> {
        let node: NodeView<'_> = serde_json::from_str(object)?;
        ledger.remove_node(&node.metadata.name);
        Ok(())
    }
}

impl Kind for Pods {
    const PATH: &'static str = "/api/v1/pods";
    const NAME: &'static str = "pods";
    type Relist<'a> = super::PodRelist<'a>;

    fn relist(ledger: &Ledger) -> Self::Relist<'_> {
        ledger.relist_pods()
    }

    fn listed(relist: &mut Self::Relist<'_>, object: &str) -> serde_json::Result<()> {
        relist.apply(&serde_json::from_str(object)?);
        Ok(())
    }

    fn finish(relist: Self::Relist<'_>) {
        relist.finish();
    }

    fn changed(ledger: &Ledger, object: &str) -> serde_json::Result<()> {
        ledger.apply_pod(&serde_json::from_str(object)?);
        Ok(())
    }

    fn deleted(ledger: &Ledger, object: &str) -> serde_json::Result<()> {
        ledger.remove_pod(&serde_json::from_str(object)?);
        Ok(())
    }
}

impl Ledger {
    /// Keeps the ledger up to date until the future is dropped.
    pub async fn watch(self: Arc<Self>, client: Client) {
        tokio::join!(
            self.follow::<Nodes>(&client),
            self.follow::<Pods>(&client),
            self.settle_doubts(&client),
            self.write_events(&client),
        );
    }

    async fn follow<K: Kind>(&self, client: &Client) {
        let mut pause = PAUSE.0;
        let mut refusals = 0;
        let mut version: Option<String> = None;
        loop {
            let began = Instant::now();
            let result = if let Some(version) = &mut version {
                self.events::<K>(client, version).await
            } else {
                match self.list::<K>(client).await {
                    Ok(listed) => {
                        version = Some(listed);
                        continue;
                    }
                    Err(error) => Err(error),
                }
            };
            if began.elapsed() > PAUSE.1 {
                (pause, refusals) = (PAUSE.0, 0);
            }
            if let Err(error) = &result {
                self.metrics.watch_restarted(K::NAME);
                refusals += u32::from(matches!(error, Failure::Status { .. }));
                let again = matches!(error, Failure::Gone | Failure::Unreadable(_)) || refusals >= REFUSALS;
                let next = if again { "a new list" } else { "where it was" };
                tracing::warn!(kind = K::NAME, %error, next, "the watch was interrupted");
                if again {
                    (version, refusals) = (None, 0);
                }
            } else if began.elapsed() > PAUSE.0 {
                // Its time was over; nothing is wrong.
                continue;
            }
            tokio::time::sleep(self.with_jitter(pause)).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Lists everything, page by page, and gives the version to watch from.
    async fn list<K: Kind>(&self, client: &Client) -> Result<String, Failure> {
        let mut relist = Some(K::relist(self));
        let mut params = ListParams::default().limit(self.settings().page_size.max(1));
        loop {
            let request = Request::new(K::PATH).list(&params)?;
            let text = tokio::time::timeout(PATIENCE, client.request_text(request))
                .await
                .map_err(|_| Failure::Silent(PATIENCE))?
                .map_err(gone)?;
            let page: Page<'_> = serde_json::from_str(&text)?;
            for object in page.items.iter().flatten() {
                if let Some(relist) = &mut relist
                    && let Err(error) = K::listed(relist, object.get())
                {
                    self.unreadable::<K>(object, &error);
                }
            }
            match page.metadata.next.filter(|next| !next.is_empty()) {
                Some(next) => params.continue_token = Some(next.to_string()),
                None => {
                    let version = page.metadata.resource_version.map(|version| version.to_string());
                    if let Some(relist) = relist.take() {
                        K::finish(relist);
                    }
                    return Ok(version.unwrap_or_default());
                }
            }
        }
    }

    /// One watch from version `reached` until it ends; afterwards `reached` is where to go on, also after an error.
    async fn events<K: Kind>(&self, client: &Client, reached: &mut String) -> Result<(), Failure> {
        let seconds = self.settings().watch_seconds.clamp(1, LONGEST_WATCH);
        let params = WatchParams { timeout: Some(seconds), bookmarks: true, ..WatchParams::default() };
        let request = Request::new(K::PATH).watch(&params, reached)?;
        let lasting = Duration::from_secs(seconds.into());
        let lasting = lasting + SILENCE.min(lasting);
        let deadline = tokio::time::Instant::now() + lasting;
        let response = tokio::time::timeout(PATIENCE, client.send(request.map(Body::from)))
            .await
            .map_err(|_| Failure::Silent(PATIENCE))?
            .map_err(gone)?;
        let code = response.status().as_u16();
        let mut body = response.into_body();
        if code != 200 {
            let text = tokio::time::timeout(PATIENCE, body.collect_bytes()).await;
            let text = text.map_err(|_| Failure::Silent(PATIENCE))??;
            return Err(status(code, &text));
        }
        let mut lines = Lines::default();
        loop {
            let frame = tokio::time::timeout_at(deadline, body.frame()).await;
            let Some(frame) = frame.map_err(|_| Failure::Silent(lasting))? else { return Ok(()) };
            let Ok(data) = frame?.into_data() else { continue };
            lines.push(&data);
            while let Some(line) = lines.next() {
                let event: Event<'_> = serde_json::from_slice(line)?;
                self.event::<K>(&event, reached)?;
            }
        }
    }

    fn event<K: Kind>(&self, event: &Event<'_>, reached: &mut String) -> Result<(), Failure> {
        let object = event.object.get();
        let applied = match &*event.kind {
            "ADDED" | "MODIFIED" => K::changed(self, object),
            "DELETED" => K::deleted(self, object),
            "BOOKMARK" => Ok(()),
            "ERROR" => return Err(status(0, object.as_bytes())),
            other => {
                tracing::warn!(kind = K::NAME, event = other, "an unknown kind of event was skipped");
                Ok(())
            }
        };
        if let Err(error) = applied {
            self.unreadable::<K>(event.object, &error);
        }
        // Only what has been applied is behind us.
        if let Ok(Versioned { metadata: PageMeta { resource_version: Some(version), .. } }) =
            serde_json::from_str(object)
        {
            *reached = version.to_string();
        }
        Ok(())
    }

    fn unreadable<K: Kind>(&self, object: &RawValue, error: &serde_json::Error) {
        let start: String = object.get().chars().take(200).collect();
        tracing::error!(kind = K::NAME, %error, object = start, "an object cannot be read and was skipped");
        self.metrics.damaged(K::NAME, "UnreadableObject");
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

    /// Between 0.5 and 1.5 times `pause`, so that replicas do not ask in step.
    fn with_jitter(&self, pause: Duration) -> Duration {
        use std::hash::BuildHasher;
        let random = self.hasher.hash_one(Instant::now()) % 1000;
        pause / 2 + pause * u32::try_from(random).unwrap_or(0) / 1000
    }
}

/// 410 means a list; everything else is what it is.
fn gone(error: kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) if status.code == 410 => Failure::Gone,
        error => Failure::Call(error),
    }
}

/// Reads the `Status` object that came instead of an answer.
fn status(code: u16, text: &[u8]) -> Failure {
    let view: StatusView<'_> = serde_json::from_slice(text).unwrap_or_default();
    let code = if view.code == 0 { code } else { view.code };
    if code == 410 {
        return Failure::Gone;
    }
    Failure::Status { code, message: view.message.map(|message| message.to_string()).unwrap_or_default() }
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
struct Lines {
    buffer: Vec<u8>,
    /// Up to here was given out.
    start: usize,
}

impl Lines {
    fn push(&mut self, data: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(data);
    }

    fn next(&mut self) -> Option<&[u8]> {
        loop {
            let rest = &self.buffer[self.start..];
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            let from = self.start;
            self.start += end + 1;
            if end > 0 {
                return Some(&self.buffer[from..from + end]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_wherever_the_frames_are() {
        let text = b"one\n\ntwo\nthree";
        for size in 1..=text.len() {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for chunk in text.chunks(size) {
                lines.push(chunk);
                while let Some(line) = lines.next() {
                    seen.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            assert_eq!(seen, ["one", "two"], "frames of {size} bytes");
        }
    }

    #[test]
    fn a_gone_version_is_told_from_other_errors() {
        assert!(matches!(status(410, b""), Failure::Gone));
        assert!(matches!(status(0, br#"{"kind":"Status","code":410}"#), Failure::Gone));
        assert!(matches!(status(500, br#"{"message":"x"}"#), Failure::Status { code: 500, .. }));
    }
}
