//! Whether this process lives and can answer, for probes and load balancers.
//!
//! | path | 200 when |
//! |---|---|
//! | `/healthz` | the process answers at all |
//! | `/readyz` | the webhook can answer: it has a certificate that has not ended, and knows the namespaces' labels |
//! | `/readyz/extender` | the extender can answer: the ledger is complete |
//!
//! Served on every listener; while the process ends, both kinds of readiness are off. The body says what is missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use super::namespaces::Namespaces;
use crate::certs::serving::Serving;
use crate::ledger::Ledger;

/// How long the webhook waits at the start for the namespaces' labels. Later it answers without: with the API server away it
/// cannot be asked anything by it either, and an answer by the cluster's default is better than none.
const NAMESPACES_PATIENCE: Duration = Duration::from_secs(10);

/// What readiness depends on.
#[derive(Debug)]
pub struct Health {
    serving: Arc<Serving>,
    namespaces: Arc<Namespaces>,
    ledger: Arc<Ledger>,
    started: Instant,
    stopping: AtomicBool,
}

impl Health {
    /// Of a process that starts now.
    pub fn new(serving: Arc<Serving>, namespaces: Arc<Namespaces>, ledger: Arc<Ledger>) -> Self {
        Self { serving, namespaces, ledger, started: Instant::now(), stopping: AtomicBool::new(false) }
    }

    /// From now on nothing is ready.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// What keeps the webhook from answering.
    fn webhook(&self) -> Result<(), &'static str> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err("the server is stopping");
        }
        if !self.serving.is_usable(SystemTime::now()) {
            return Err("no certificate to serve the webhook with, or it has ended");
        }
        if !self.namespaces.is_known() && self.started.elapsed() < NAMESPACES_PATIENCE {
            return Err("the labels of namespaces are not known yet");
        }
        Ok(())
    }

    /// What keeps the extender from answering.
    fn extender(&self) -> Result<(), &'static str> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err("the server is stopping");
        }
        if !self.ledger.is_ready() {
            return Err("the ledger is not complete yet");
        }
        Ok(())
    }

    /// The three paths.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(async |State(health): State<Arc<Self>>| answer(health.webhook())))
            .route("/readyz/extender", get(async |State(health): State<Arc<Self>>| answer(health.extender())))
            .with_state(Arc::clone(self))
    }
}

fn answer(ready: Result<(), &'static str>) -> (StatusCode, String) {
    match ready {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")),
    }
}
