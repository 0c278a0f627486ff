//! The webhook over HTTP.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use packhorse::webhook::{Settings, router};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::review::{creation, pod, webhook};

async fn post(settings: Settings, body: String) -> (StatusCode, String, Option<String>) {
    let request = Request::post("/mutate?timeout=10s").body(Body::from(body)).unwrap();
    let response = router(Arc::new(webhook(settings))).oneshot(request).await.unwrap();
    let kind = response.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap(), kind)
}

#[tokio::test]
async fn verdicts_travel_with_200_whatever_they_say() {
    for (asked, allowed) in
        [(json!({"nvidia.com/gpu": "1"}), true), (json!({"cpu": "1"}), true), (json!({"nvidia.com/gpu": "-1"}), false)]
    {
        let (status, body, kind) = post(Settings::default(), creation(&pod(asked)).to_string()).await;
        assert_eq!((status, kind.as_deref()), (StatusCode::OK, Some("application/json")));
        let answer: Value = body.parse().unwrap();
        assert_eq!(answer["response"]["allowed"], json!(allowed));
    }
}

#[tokio::test]
async fn what_is_no_review_is_400_and_what_is_too_large_413() {
    let (status, text, _) = post(Settings::default(), "{".to_owned()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text.contains("AdmissionReview"), "{text}");
    let settings = Settings { body_limit: 1 << 20, ..Settings::default() };
    let (status, text, _) = post(settings, " ".repeat((1 << 20) + 1)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(text.contains("bodyLimit") && text.contains("1048576"), "{text}");
}

#[tokio::test]
async fn the_shipped_limit_lets_a_10_mb_pod_through() {
    let mut asked = pod(json!({"nvidia.com/gpu": "1"}));
    asked["metadata"]["annotations"] = json!({"large": "x".repeat(10_000_000)});
    let (status, body, _) = post(Settings::default(), creation(&asked).to_string()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body.parse::<Value>().unwrap()["response"]["allowed"], json!(true));
}

#[tokio::test]
async fn other_methods_and_paths_are_refused() {
    for (request, status) in
        [(Request::get("/mutate"), StatusCode::METHOD_NOT_ALLOWED), (Request::post("/filter"), StatusCode::NOT_FOUND)]
    {
        let router = router(Arc::new(webhook(Settings::default())));
        assert_eq!(router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status(), status);
    }
}
