//! The webhook over HTTP: `POST /mutate`.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http_body_util::LengthLimitError;

use super::Webhook;
use super::review::Answer;

/// Serves `POST /mutate`. An `AdmissionReview` always travels with HTTP 200; 400 is for a body without a readable uid, 413 for
/// one larger than the limit.
pub fn router(webhook: Arc<Webhook>) -> Router {
    Router::new().route("/mutate", post(mutate)).with_state(webhook)
}

async fn mutate(State(webhook): State<Arc<Webhook>>, body: Body) -> Response {
    let limit = webhook.settings.load().body_limit;
    let body = match axum::body::to_bytes(body, limit).await {
        Ok(body) => body,
        Err(error) => return unread(&error, limit),
    };
    let arrived = Instant::now();
    let answer = webhook.answer(&body);
    webhook.metrics.latency.observe(arrived.elapsed().as_secs_f64());
    match answer {
        Answer::Review(json) => {
            ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response()
        }
        Answer::BadRequest(problem) => (StatusCode::BAD_REQUEST, problem).into_response(),
        Answer::Failure(problem) => {
            tracing::error!(problem, "a review got no answer");
            (StatusCode::INTERNAL_SERVER_ERROR, problem).into_response()
        }
    }
}

fn unread(error: &axum::Error, limit: usize) -> Response {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if current.is::<LengthLimitError>() {
            let text = format!("the body is larger than bodyLimit, {limit} bytes; raise it in the webhook's settings");
            return (StatusCode::PAYLOAD_TOO_LARGE, text).into_response();
        }
        cause = current.source();
    }
    (StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}")).into_response()
}
