//! A list and watch of one kind of object, for as long as the process lives: the mechanics, without what is done with the objects.
//!
//! A watch that ends, or whose connection drops, goes on where it was; one that the API server cannot continue (410) begins again
//! with a list. Nothing is forgotten meanwhile. An object that cannot be read is told and skipped, never the whole list. Written
//! into by nobody; its [`Feed`] is called in the order of the API server's versions.

use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::AsyncBufReadExt as _;
use http_body_util::BodyExt;
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::client::Body;
use kube::core::Request;
use serde_json::value::RawValue;

use super::list::Cutter;
use super::pod::Text;

/// The longest watch, in seconds, that the client library makes.
const LONGEST_WATCH: u32 = 294;
/// Beyond the watch's own end (but no longer than the watch itself), before a silent connection is given up.
const SILENCE: Duration = Duration::from_secs(15);
/// A GET, or one page of a list, that takes longer is tried again.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between the first two tries, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// So many watches in a row that the API server refuses, for whatever reason, before everything is listed anew.
const REFUSALS: u32 = 5;

/// Why a list or a watch ended.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The API server cannot continue from this version.
    #[error("the resource version is gone")]
    Gone,
    /// The client could not make it, or the API server said no.
    #[error(transparent)]
    Call(#[from] kube::Error),
    /// The answer ended before its end.
    #[error("the connection broke: {0}")]
    Broken(#[from] std::io::Error),
    /// Nothing came for so long.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// Not the JSON of a list or of an event.
    #[error("the answer cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// A bug on our side.
    #[error("the request cannot be made: {0}")]
    Request(#[from] kube::core::request::Error),
    /// A `Status` object came instead.
    #[error("the API server answered {code}: {message}")]
    Status {
        /// As in HTTP.
        code: u16,
        /// The API server's words.
        message: String,
    },
}

/// One page of a list whose objects have been cut out.
#[derive(Debug, serde::Deserialize)]
struct Page<'a> {
    #[serde(borrow, default)]
    metadata: PageMeta<'a>,
    /// What was no object.
    #[serde(default, rename = "items")]
    _items: Option<[(); 0]>,
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

/// Where the objects go. Each object comes as its JSON; an error says that it could not be read.
pub trait Feed: Send + Sync {
    /// A complete list on its way in.
    type Relist<'a>: Send;

    /// For logs: `nodes`, `pods`.
    const NAME: &'static str;
    /// What is listed and watched, for example `/api/v1/nodes`.
    const PATH: &'static str;

    /// The field selector, if any.
    fn fields(&self) -> Option<&str> {
        None
    }

    /// Objects per page of a list.
    fn page_size(&self) -> u32 {
        500
    }

    /// How long one watch call lasts before it is renewed, 1 to 294.
    fn watch_seconds(&self) -> u32 {
        290
    }

    /// A list begins.
    fn relist(&self) -> Self::Relist<'_>;

    /// One object of the list.
    ///
    /// # Errors
    /// It cannot be read.
    fn listed(&self, relist: &mut Self::Relist<'_>, object: &str) -> serde_json::Result<()>;

    /// The list is complete. One that is not is dropped.
    fn finish(&self, relist: Self::Relist<'_>);

    /// A new or changed object.
    ///
    /// # Errors
    /// It cannot be read.
    fn changed(&self, object: &str) -> serde_json::Result<()>;

    /// An object that is gone, as it was last.
    ///
    /// # Errors
    /// It cannot be read.
    fn deleted(&self, object: &str) -> serde_json::Result<()>;

    /// An object was skipped because it could not be read.
    fn unreadable(&self);

    /// A list or watch ended with an error and is begun again.
    fn interrupted(&self);
}

/// Feeds `feed` until the future is dropped.
pub async fn follow<F: Feed>(feed: &F, client: &Client) {
    let hasher = RandomState::new();
    let mut pause = PAUSE.0;
    let mut refusals = 0;
    let mut version: Option<String> = None;
    loop {
        let began = Instant::now();
        let result = if let Some(version) = &mut version {
            events(feed, client, version).await
        } else {
            match list(feed, client).await {
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
            feed.interrupted();
            refusals += u32::from(matches!(error, Failure::Status { .. }));
            let again = matches!(error, Failure::Gone | Failure::Unreadable(_)) || refusals >= REFUSALS;
            let next = if again { "a new list" } else { "where it was" };
            tracing::warn!(kind = F::NAME, %error, next, "the watch was interrupted");
            if again {
                (version, refusals) = (None, 0);
            }
        } else if began.elapsed() > PAUSE.0 {
            // Its time was over; nothing is wrong.
            continue;
        }
        tokio::time::sleep(with_jitter(&hasher, pause)).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Lists everything at `path`, page by page of so many objects, and gives the version to watch from. Each object is given out as
/// it arrives: no page is ever in memory as a whole.
///
/// # Errors
/// The first page that did not come. [`Failure::Gone`]: the list took so long that it must begin anew.
pub async fn pages(
    client: &Client,
    path: &str,
    page_size: u32,
    fields: Option<&str>,
    mut each: impl FnMut(&str),
) -> Result<String, Failure> {
    let mut params = ListParams::default().limit(page_size.max(1));
    params.field_selector = fields.map(str::to_owned);
    loop {
        let request = Request::new(path).list(&params)?;
        let page = tokio::time::timeout(PATIENCE, page(client, request, &mut each));
        let page = page.await.map_err(|_| Failure::Silent(PATIENCE))??;
        let page: Page<'_> = serde_json::from_slice(page.rest())?;
        match page.metadata.next.filter(|next| !next.is_empty()) {
            Some(next) => params.continue_token = Some(next.to_string()),
            None => return Ok(page.metadata.resource_version.map(|version| version.to_string()).unwrap_or_default()),
        }
    }
}

/// One page of a list, without its objects.
async fn page(
    client: &Client,
    request: axum::http::Request<Vec<u8>>,
    each: &mut impl FnMut(&str),
) -> Result<Cutter, Failure> {
    let mut body = pin!(client.request_stream(request).await.map_err(gone)?);
    let mut cutter = Cutter::default();
    loop {
        let data = body.fill_buf().await?;
        if data.is_empty() {
            return Ok(cutter);
        }
        let mut damaged = None;
        cutter.push(data, |object| match std::str::from_utf8(object) {
            Ok(object) => each(object),
            Err(error) => damaged = Some(error),
        });
        if let Some(error) = damaged {
            return Err(Failure::Unreadable(serde::de::Error::custom(error)));
        }
        let taken = data.len();
        body.consume_unpin(taken);
    }
}

/// Lists everything for the feed, and gives the version to watch from.
async fn list<F: Feed>(feed: &F, client: &Client) -> Result<String, Failure> {
    let mut relist = feed.relist();
    let version = pages(client, F::PATH, feed.page_size(), feed.fields(), |object| {
        if let Err(error) = feed.listed(&mut relist, object) {
            unreadable(feed, object, &error);
        }
    });
    let version = version.await?;
    feed.finish(relist);
    Ok(version)
}

/// One watch from version `reached` until it ends; afterwards `reached` is where to go on, also after an error.
async fn events<F: Feed>(feed: &F, client: &Client, reached: &mut String) -> Result<(), Failure> {
    let seconds = feed.watch_seconds().clamp(1, LONGEST_WATCH);
    let field_selector = feed.fields().map(str::to_owned);
    let params = WatchParams { timeout: Some(seconds), bookmarks: true, field_selector, ..WatchParams::default() };
    let request = Request::new(F::PATH).watch(&params, reached)?;
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
            apply(feed, &event, reached)?;
        }
    }
}

fn apply<F: Feed>(feed: &F, event: &Event<'_>, reached: &mut String) -> Result<(), Failure> {
    let object = event.object.get();
    let applied = match &*event.kind {
        "ADDED" | "MODIFIED" => feed.changed(object),
        "DELETED" => feed.deleted(object),
        "BOOKMARK" => Ok(()),
        "ERROR" => return Err(status(0, object.as_bytes())),
        other => {
            tracing::warn!(kind = F::NAME, event = other, "an unknown kind of event was skipped");
            Ok(())
        }
    };
    if let Err(error) = applied {
        unreadable(feed, object, &error);
    }
    // Only what has been applied is behind us.
    if let Ok(Versioned { metadata: PageMeta { resource_version: Some(version), .. } }) = serde_json::from_str(object) {
        *reached = version.to_string();
    }
    Ok(())
}

fn unreadable<F: Feed>(feed: &F, object: &str, error: &serde_json::Error) {
    let start: String = object.chars().take(200).collect();
    tracing::error!(kind = F::NAME, %error, object = start, "an object cannot be read and was skipped");
    feed.unreadable();
}

/// Between 0.5 and 1.5 times `pause`, so that replicas do not ask in step.
fn with_jitter(hasher: &RandomState, pause: Duration) -> Duration {
    let random = hasher.hash_one(Instant::now()) % 1000;
    pause / 2 + pause * u32::try_from(random).unwrap_or(0) / 1000
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
