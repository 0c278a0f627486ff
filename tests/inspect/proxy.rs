//! The API server's proxy to pods, in front of the API server in the process: agents that answer what a test says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Live;

/// What an agent does when it is asked.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// Its metrics.
    Text(String),
    /// The API server's refusal, or that it cannot reach the pod.
    Status(u16, &'static str),
    /// The agent's own answer without metrics.
    Other(u16),
    /// Nothing, ever.
    Silence,
}

#[derive(Default)]
struct Asked {
    /// By `namespace/pod:port`.
    answers: BTreeMap<String, Answer>,
    now: usize,
    most: usize,
    all: usize,
}

/// A cluster with agents.
pub(super) struct Proxied {
    pub(super) live: Live,
    asked: Arc<Mutex<Asked>>,
    _stop: DropGuard,
}

#[derive(Clone)]
struct Front {
    asked: Arc<Mutex<Asked>>,
    client: Client<HttpConnector, Body>,
    behind: String,
}

/// An agent's pod as the chart's `DaemonSet` makes it.
pub(super) fn agent(node: &str) -> Value {
    json!({
        "metadata": {"name": format!("packhorse-agent-{node}"), "namespace": "packhorse-system",
            "labels": {"app.kubernetes.io/name": "packhorse", "app.kubernetes.io/component": "agent"}},
        "spec": {"nodeName": node, "containers": [
            {"name": "agent", "image": "i", "ports": [{"name": "metrics", "containerPort": 9482, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

impl Proxied {
    pub(super) async fn start() -> Self {
        let live = Live::start().await;
        live.create("namespaces", json!({"metadata": {"name": "packhorse-system"}}));
        let asked = Arc::new(Mutex::new(Asked::default()));
        let client = Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
        let front = Front { asked: Arc::clone(&asked), client, behind: live.api.url() };
        let router = Router::new()
            .route("/api/v1/namespaces/{namespace}/pods/{pod}/proxy/metrics", get(proxy))
            .fallback(pass_on)
            .with_state(front);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(axum::serve(listener, router).into_future()));
        let config = std::fs::read_to_string(live.kubeconfig()).unwrap().replace(&live.api.url(), &url);
        std::fs::write(live.kubeconfig(), config).unwrap();
        Self { live, asked, _stop: stop.drop_guard() }
    }

    /// The agent of a node, with its pod.
    pub(super) fn agent(&self, node: &str, answer: Answer) {
        self.live.create("pods", agent(node));
        self.answer(node, answer);
    }

    pub(super) fn answer(&self, node: &str, answer: Answer) {
        let key = format!("packhorse-system/packhorse-agent-{node}:9482");
        self.asked.lock().unwrap().answers.insert(key, answer);
    }

    /// How often any was asked.
    pub(super) fn asked(&self) -> usize {
        self.asked.lock().unwrap().all
    }

    /// The most that were asked at the same time.
    pub(super) fn most(&self) -> usize {
        self.asked.lock().unwrap().most
    }
}

async fn proxy(State(front): State<Front>, Path((namespace, pod)): Path<(String, String)>) -> Response {
    let answer = {
        let mut asked = front.asked.lock().unwrap();
        asked.now += 1;
        asked.all += 1;
        asked.most = asked.most.max(asked.now);
        asked.answers.get(&format!("{namespace}/{pod}")).cloned()
    };
    // As long as an agent takes.
    tokio::time::sleep(Duration::from_millis(20)).await;
    front.asked.lock().unwrap().now -= 1;
    match answer {
        Some(Answer::Text(text)) => text.into_response(),
        Some(Answer::Status(code, message)) => status(code, message),
        Some(Answer::Other(code)) => StatusCode::from_u16(code).unwrap().into_response(),
        Some(Answer::Silence) => std::future::pending().await,
        None => status(404, "pods not found"),
    }
}

fn status(code: u16, message: &str) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message});
    (StatusCode::from_u16(code).unwrap(), axum::Json(body)).into_response()
}

async fn pass_on(State(front): State<Front>, request: Request) -> Response {
    let (mut head, body) = request.into_parts();
    head.uri = format!("{}{}", front.behind, head.uri.path_and_query().unwrap()).parse().unwrap();
    front.client.request(Request::from_parts(head, body)).await.unwrap().into_response()
}
