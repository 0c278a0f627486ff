//! The extender over HTTP: `POST` to `/filter`, `/prioritize`, `/bind` and `/preempt`.
//!
//! kube-scheduler takes only status 200 for an answer and reads our words only from there, so what a pod's owner should know is an
//! `Error` in a 200 wherever the wire form has one. Other statuses: 400 without a body or where there is no place for an
//! error text, 413 for a body over the limit, 503 while the ledger is not complete.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;

use super::{Extender, Refusal};

/// From here on reading a request would keep other calls waiting on the same thread.
const LARGE: usize = 1 << 20;

/// The extender's routes.
pub fn router(extender: Arc<Extender>) -> Router {
    Router::new()
        .route("/filter", post(filter))
        .route("/prioritize", post(prioritize))
        .route("/bind", post(bind))
        .route("/preempt", post(preempt))
        .with_state(extender)
}

async fn filter(State(extender): State<Arc<Extender>>, body: Body) -> Response {
    call(extender, body, Extender::filter).await
}

async fn prioritize(State(extender): State<Arc<Extender>>, body: Body) -> Response {
    call(extender, body, Extender::prioritize).await
}

async fn preempt(State(extender): State<Arc<Extender>>, body: Body) -> Response {
    call(extender, body, Extender::preempt).await
}

async fn bind(State(extender): State<Arc<Extender>>, body: Body) -> Response {
    let body = match read(&extender, body).await {
        Ok(body) => body,
        Err(refusal) => return refusal.into_response(),
    };
    answer(extender.bind(&body).await)
}

async fn call(extender: Arc<Extender>, body: Body, verb: fn(&Extender, &[u8]) -> Result<Vec<u8>, Refusal>) -> Response {
    let body = match read(&extender, body).await {
        Ok(body) => body,
        Err(refusal) => return refusal.into_response(),
    };
    if body.len() < LARGE {
        return answer(verb(&extender, &body));
    }
    match tokio::task::spawn_blocking(move || verb(&extender, &body)).await {
        Ok(result) => answer(result),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the call was interrupted").into_response(),
    }
}

async fn read(extender: &Extender, body: Body) -> Result<Bytes, Refusal> {
    let most = extender.settings.load().max_body_mib;
    let limit = usize::try_from(u64::from(most) << 20).unwrap_or(usize::MAX);
    to_bytes(body, limit).await.map_err(|e| {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&e);
        while let Some(error) = cause {
            if error.is::<http_body_util::LengthLimitError>() {
                return Refusal::TooLarge(most);
            }
            cause = error.source();
        }
        Refusal::Malformed(format!("the request's body cannot be read: {e}"))
    })
}

fn answer(result: Result<Vec<u8>, Refusal>) -> Response {
    match result {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Empty | Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotReady => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, format!("{self}\n")).into_response()
    }
}
