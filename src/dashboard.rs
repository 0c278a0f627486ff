//! The page that shows the cluster: every device with the pods on it, and the pods that wait, with what keeps them.
//!
//! Reads the [`Ledger`] and what it tells of pending pods; changes nothing and calls nobody. Served on the metrics address by
//! `packhorse server` and by the demo. Where it fails, one browser sees an old picture and says so; nothing else depends on it.
//!
//! | path | what |
//! |---|---|
//! | `GET /` | the page, one file without anything external |
//! | `GET /api/v1/cluster` | one look, as JSON |
//! | `GET /api/v1/events` | looks as they change, as Server-Sent Events |
//!
//! **What it costs.** Nothing is computed while nobody looks, but for a note of each pending GPU pod. A look has at most
//! [`Query::MOST`] nodes, so its size does not grow with the cluster, save for one character a node. A feed looks twice a second,
//! sends only what differs from what it sent last, and has no queue: a slow reader gets fewer looks. What all readers share (order of the
//! nodes, sums, map) is computed once for each version of the ledger that somebody looks at.

mod feed;
mod look;
mod nodes;
mod overview;
mod page;
mod pending;
mod query;

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query as Pairs, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::sse::Sse;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::gpu::parse::Rules;
use crate::gpu::reason::Reason;
use crate::ledger::Ledger;

use look::Matches;
use overview::Overviews;
use pending::Pending;
pub use query::{Query, QueryError};

/// Feeds open at a time; a further one is told so.
const FEEDS: usize = 64;

/// The page's data. Shared by `Arc`.
#[derive(Debug)]
pub struct Dashboard {
    ledger: Arc<Ledger>,
    pending: Pending,
    overviews: Overviews,
    feeds: Arc<Semaphore>,
    /// Ends the feeds, which would last as long as their readers.
    stop: CancellationToken,
}

impl Dashboard {
    /// Listens to the ledger from now on, so it is made before the ledger's watch starts. `rules` are the webhook's; `stop` ends open feeds.
    pub fn new(ledger: Arc<Ledger>, rules: Arc<ArcSwap<Rules>>, stop: CancellationToken) -> Arc<Self> {
        let dashboard = Arc::new(Self {
            pending: Pending::new(rules),
            overviews: Overviews::default(),
            feeds: Arc::new(Semaphore::new(FEEDS)),
            ledger,
            stop,
        });
        let weak = Arc::downgrade(&dashboard);
        dashboard.ledger.on_pending(move |pod| {
            if let Some(dashboard) = weak.upgrade() {
                dashboard.pending.put(pod);
            }
        });
        let weak = Arc::downgrade(&dashboard);
        dashboard.ledger.on_bound(move |uid| {
            if let Some(dashboard) = weak.upgrade() {
                dashboard.pending.remove(uid);
            }
        });
        let weak = Arc::downgrade(&dashboard);
        dashboard.ledger.on_end(move |uid| {
            if let Some(dashboard) = weak.upgrade() {
                dashboard.pending.remove(uid);
            }
        });
        let weak = Arc::downgrade(&dashboard);
        dashboard.ledger.on_relist(move |is_there| {
            if let Some(dashboard) = weak.upgrade() {
                dashboard.pending.retain(is_there);
            }
        });
        dashboard
    }

    /// A pod fitted none of the nodes that kube-scheduler asked about: why each refuses it, `None` where the ledger does not know the
    /// node. Called within a filter call; does not wait.
    pub fn note_refusal(&self, uid: &str, reasons: impl Iterator<Item = Option<Reason>>) {
        self.pending.note_refusal(uid, reasons);
    }

    /// The three paths.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/", get(async || page::page()))
            .route("/api/v1/cluster", get(cluster))
            .route("/api/v1/events", get(events))
            .with_state(self)
    }
}

type Read = Result<Pairs<Vec<(String, String)>>, QueryRejection>;

async fn cluster(State(dashboard): State<Arc<Dashboard>>, pairs: Read) -> Response {
    let query = match read(pairs) {
        Ok(query) => query,
        Err(error) => return error.into_response(),
    };
    let look = dashboard.look(&query, &mut Matches::default()).into_wire();
    private(axum::Json(look).into_response())
}

async fn events(State(dashboard): State<Arc<Dashboard>>, pairs: Read) -> Response {
    let query = match read(pairs) {
        Ok(query) => query,
        Err(error) => return error.into_response(),
    };
    let Ok(place) = Arc::clone(&dashboard.feeds).try_acquire_owned() else {
        let text =
            format!("{FEEDS} pages are open on this server already; close one, or ask /api/v1/cluster now and then\n");
        return private((StatusCode::SERVICE_UNAVAILABLE, text).into_response());
    };
    private(Sse::new(feed::feed(dashboard, query, place)).into_response())
}

fn read(pairs: Read) -> Result<Query, QueryError> {
    let Pairs(pairs) = pairs.map_err(|_| QueryError::Unreadable)?;
    Query::read(&pairs)
}

impl IntoResponse for QueryError {
    fn into_response(self) -> Response {
        private((StatusCode::BAD_REQUEST, format!("{self}\n")).into_response())
    }
}

/// The headers that every answer carries: it is kept nowhere, and no other site may show or read it.
fn private(mut response: Response) -> Response {
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        // nginx keeps an event back until its buffer is full, unless told so.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
