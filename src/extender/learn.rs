//! Keeping rankings up to date beside the request path: builds the target when enough was learned, and looks at nodes
//! that changed, and at all nodes for pods of a new shape, before a call asks about them.
//!
//! One task per server, which takes a fifth of one core at most unless pods of new shapes come: what it does not get done, calls do themselves as far as they need
//! it, and where it ends, rankings aim at an older target.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Extender;
use crate::ledger::NodeEntry;

/// How often changed nodes are looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// How much longer it rests than it worked.
const REST: u32 = 4;

/// The longest rest.
const LONGEST: Duration = Duration::from_secs(1);

/// How long nodes that came or went may go unnoticed here.
const SAME_NODES: Duration = Duration::from_secs(1);

/// Before the next try after one that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// The ledger's nodes as they were a moment ago: gathering them takes longer than looking through them.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    nodes: Vec<Arc<NodeEntry>>,
    at: Option<Instant>,
}

impl Extender {
    /// Never returns.
    pub async fn keep_learning(self: Arc<Self>) {
        let mut learned = self.ledger.learned();
        learned.mark_changed();
        let (mut version, mut new) = (0, false);
        let mut gathered = Gathered::default();
        loop {
            let aims = learned.has_changed().unwrap_or(false);
            if aims {
                learned.mark_unchanged();
            }
            let (now, start) = (self.ledger.version(), Instant::now());
            if aims || new || version != now {
                let since = std::mem::replace(&mut version, now);
                let extender = Arc::clone(&self);
                let mut nodes = std::mem::take(&mut gathered);
                let work = move || {
                    extender.keep_up(&mut nodes, aims, since);
                    nodes
                };
                match tokio::task::spawn_blocking(work).await {
                    Ok(nodes) => gathered = nodes,
                    Err(error) => {
                        tracing::error!(%error, "rankings could not be brought up to date; they go on as they are");
                        learned.mark_changed();
                        tokio::time::sleep(AFTER_FAILURE).await;
                    }
                }
            }
            let rest = (start.elapsed() * REST).clamp(PAUSE, LONGEST);
            // A new shape does not wait: what it costs is bounded by how many there are.
            new = tokio::time::timeout(rest, self.shapes.new.notified()).await.is_ok();
        }
    }

    /// Once; `aims` where the target is to be built anew, else what changed after version `since` is looked at.
    pub(super) fn keep_up(&self, gathered: &mut Gathered, aims: bool, since: u64) {
        if aims || gathered.at.is_none_or(|at| at.elapsed() >= SAME_NODES) {
            *gathered = Gathered { nodes: self.ledger.nodes(), at: Some(Instant::now()) };
        }
        if aims {
            let target = self.ledger.aim();
            self.shapes.aim(&target, &gathered.nodes);
        } else {
            self.shapes.refresh(&gathered.nodes, since);
        }
    }
}
