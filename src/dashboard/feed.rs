//! The live feed of one reader: a complete look first, then what has changed.
//!
//! Looks at a steady pace and sends only where something differs, so a burst of binds is one event. There is no queue: while a reader has
//! not taken the last event, nothing is looked at for it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::response::sse::Event;
use futures::Stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Interval, MissedTickBehavior};

use super::look::{Look, Matches, Wire};
use super::overview::Totals;
use super::{Dashboard, Query};

/// Between two looks.
pub(super) const EVERY: Duration = Duration::from_millis(500);
/// Where nothing changes, this often something is said, so that a reader knows the difference between silence and a dead connection.
const QUIET: Duration = Duration::from_secs(10);

/// One reader.
#[derive(Debug)]
struct Feed {
    dashboard: Arc<Dashboard>,
    query: Query,
    ticks: Interval,
    matches: Matches,
    sent: Option<Sent>,
    spoke: Instant,
    _place: OwnedSemaphorePermit,
}

/// What the reader knows; of texts a fingerprint.
#[derive(Debug, PartialEq)]
struct Sent {
    head: (bool, Totals, usize, usize),
    names: Vec<Arc<str>>,
    nodes: HashMap<Arc<str>, u64>,
    map: u64,
    pending: u64,
}

/// The events for one reader, until it leaves or the server stops.
pub(super) fn feed(
    dashboard: Arc<Dashboard>,
    query: Query,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let feed =
        Feed { dashboard, query, ticks, matches: Matches::default(), sent: None, spoke: Instant::now(), _place: place };
    futures::stream::unfold(feed, |mut feed| async move { feed.next().await.map(|event| (Ok(event), feed)) })
}

impl Feed {
    /// The next event; `None` once the server stops.
    async fn next(&mut self) -> Option<Event> {
        let stop = self.dashboard.stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                _ = self.ticks.tick() => {}
            }
            let look = self.dashboard.look(&self.query, &mut self.matches);
            let event = match self.news(look) {
                Some(wire) => Event::default().event("look").json_data(&wire),
                None if self.spoke.elapsed() >= QUIET => Ok(Event::default().event("quiet").data("")),
                None => continue,
            };
            self.spoke = Instant::now();
            match event {
                Ok(event) => return Some(event),
                // Structs of names, lists and numbers: nothing that serde_json could refuse.
                Err(error) => tracing::error!(%error, "an event of the page cannot be written"),
            }
        }
    }

    /// What of a look the reader does not know yet.
    fn news(&mut self, look: Look) -> Option<Wire> {
        let now = Sent::of(&look);
        if self.sent.as_ref() == Some(&now) {
            return None;
        }
        let mut wire = Wire::new(&look);
        let before = self.sent.as_ref();
        wire.names = before.is_none_or(|before| before.names != now.names).then(|| now.names.clone());
        wire.map = before.is_none_or(|before| before.map != now.map).then_some(look.map);
        wire.pending = before.is_none_or(|before| before.pending != now.pending).then_some(look.pending);
        let is_known = |name: &Arc<str>| before.is_some_and(|before| before.nodes.get(name) == now.nodes.get(name));
        wire.nodes = look.nodes.into_iter().filter(|(name, _)| !is_known(name)).map(|(_, json)| json).collect();
        self.sent = Some(now);
        Some(wire)
    }
}

impl Sent {
    fn of(look: &Look) -> Self {
        Self {
            head: (look.ready, look.totals, look.matching, look.first),
            names: look.nodes.iter().map(|(name, _)| Arc::clone(name)).collect(),
            nodes: look.nodes.iter().map(|(name, json)| (Arc::clone(name), fingerprint(json.get()))).collect(),
            map: fingerprint(&look.map),
            pending: fingerprint(look.pending.get()),
        }
    }
}

fn fingerprint(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
