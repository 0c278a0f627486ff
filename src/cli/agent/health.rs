//! Whether the agent lives and serves, for probes.
//!
//! | path | 200 when |
//! |---|---|
//! | `/healthz` | the process answers at all |
//! | `/readyz` | the kubelet is served; also while another agent still serves this node, or a rolling update that waits for the new one before it ends the old would wait for ever |

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use crate::agent::standing::StandingSender;

/// What readiness depends on.
#[derive(Debug, Clone)]
pub struct Health {
    /// Says whether the kubelet is served.
    pub standing: Arc<StandingSender>,
    /// Set when this is the node's only agent.
    pub alone: Arc<std::sync::atomic::AtomicBool>,
}

impl Health {
    /// `GET /healthz`, `GET /readyz`.
    pub fn router(self) -> Router {
        Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(ready)).with_state(self)
    }
}

async fn ready(State(health): State<Health>) -> (StatusCode, &'static str) {
    if !health.alone.load(std::sync::atomic::Ordering::Relaxed) {
        return (StatusCode::OK, "another agent serves this node; this one takes over when it ends\n");
    }
    if health.standing.borrow().ready {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not registered with the kubelet\n")
    }
}
