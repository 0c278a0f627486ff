//! JSON over HTTP to the parts, as kube-scheduler and users send it; measures nothing, repeats nothing.

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// What went wrong with a call.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// No answer: refused, cut, or not HTTP.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// An answer other than success.
    #[error("{code}: {message}")]
    Refused {
        /// HTTP status.
        code: u16,
        /// The `message` of the Status object, or the body.
        message: String,
    },
    /// Success with a body that is not JSON.
    #[error("unreadable answer: {0}")]
    Unreadable(#[from] serde_json::Error),
}

/// A client with kept connections. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct HttpClient {
    client: Client<HttpConnector, Full<Bytes>>,
    user_agent: &'static str,
}

impl HttpClient {
    pub(super) fn new(user_agent: &'static str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { client: Client::builder(TokioExecutor::new()).build(connector), user_agent }
    }

    pub(super) async fn post(&self, url: &str, body: &Value) -> Result<Value, CallError> {
        self.send(Method::POST, url, "application/json", body).await
    }

    pub(super) async fn send(
        &self,
        method: Method,
        url: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<Value, CallError> {
        let no_answer = |error: &dyn std::fmt::Display| CallError::NoAnswer(error.to_string());
        let request = Request::builder()
            .method(method)
            .uri(url)
            .header("content-type", content_type)
            .header("user-agent", self.user_agent)
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|error| no_answer(&error))?;
        let response = self.client.request(request).await.map_err(|error| no_answer(&error))?;
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|error| no_answer(&error))?.to_bytes();
        if !(200..300).contains(&code) {
            let status: Value = serde_json::from_slice(&body).unwrap_or_default();
            let message =
                status["message"].as_str().map_or_else(|| String::from_utf8_lossy(&body).into_owned(), str::to_owned);
            return Err(CallError::Refused { code, message });
        }
        Ok(serde_json::from_slice(&body)?)
    }
}
