//! Keeping rankings up to date beside the request path: builds the target when enough was learned, and looks at nodes
//! that changed, and at all nodes for pods of a new shape, before a call asks about them.
//!
//! One task per server. Where it falls behind or ends, calls do that work themselves, and rankings aim at an older
//! target.

use std::sync::Arc;
use std::time::Duration;

use super::Extender;

/// How often changed nodes are looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// Before the next try after one that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

impl Extender {
    /// Never returns.
    pub async fn keep_learning(self: Arc<Self>) {
        let mut learned = self.ledger.learned();
        learned.mark_changed();
        let (mut version, mut behind) = (0, false);
        loop {
            let aims = learned.has_changed().unwrap_or(false);
            if aims {
                learned.mark_unchanged();
            }
            let now = self.ledger.version();
            if aims || behind || version != now {
                let since = std::mem::replace(&mut version, now);
                let extender = Arc::clone(&self);
                if let Err(error) = tokio::task::spawn_blocking(move || extender.keep_up(aims, since)).await {
                    tracing::error!(%error, "rankings could not be brought up to date; they go on as they are");
                    learned.mark_changed();
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
            // A shape that is behind does not wait for the end of the pause.
            behind = tokio::time::timeout(PAUSE, self.shapes.behind.notified()).await.is_ok();
        }
    }

    /// Once; `aims` where the target is to be built anew, else what changed after version `since` is looked at.
    pub(super) fn keep_up(&self, aims: bool, since: u64) {
        let nodes = self.ledger.nodes();
        if aims {
            let target = self.ledger.aim();
            self.shapes.aim(&target, &nodes);
        } else {
            self.shapes.refresh(&nodes, since);
        }
    }
}
