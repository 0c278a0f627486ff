//! What the metrics address serves besides health: `/metrics` for everybody, and `/log`, which only callers on the same machine
//! or in the same pod reach (`kubectl exec`, `kubectl port-forward`), because a flood of debug lines is a way to hurt.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};

use super::logs::Logs;
use crate::metrics;
use crate::metrics::exposition::Exposition;

/// `GET /metrics`, `PUT /log`.
pub fn router(exposition: Arc<Exposition>, logs: Logs) -> Router {
    let metrics = Router::new().route("/metrics", get(scrape)).with_state(exposition);
    let log = Router::new().route("/log", put(set_level)).with_state(logs);
    metrics.merge(log)
}

async fn scrape(State(exposition): State<Arc<Exposition>>) -> Response {
    exposition.refresh().await;
    match exposition.pieces() {
        Ok(pieces) => {
            let pieces = futures::stream::iter(pieces.map(Ok::<_, Infallible>));
            ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], Body::from_stream(pieces)).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot collect metrics: {error}\n")).into_response(),
    }
}

async fn set_level(
    State(logs): State<Logs>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    level: String,
) -> (StatusCode, String) {
    if !peer.ip().to_canonical().is_loopback() {
        return (StatusCode::FORBIDDEN, "the log level can only be changed from the same machine or pod\n".to_owned());
    }
    match logs.set(level.trim()) {
        Ok(()) => (StatusCode::OK, String::new()),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error:#}\n")),
    }
}
