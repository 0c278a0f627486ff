//! The extender that does nothing: the floor that Packhorse is compared with. It reads a request, answers the filter with the first
//! of the names or with all of them, parses nothing else, and binds with the one call that every extender has to make.
//!
//! A process of its own (this program, started again), as Packhorse is one. On request it also writes down which names three filter
//! requests in a row had: `PREFIX-1.json` to `PREFIX-3.json`, each a list of names in kube-scheduler's order.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use axum::serve::ListenerExt as _;
use kube::Client;
use serde_json::{Value, json};

use super::identity;

/// The argument by which this program becomes the extender.
pub(crate) const ARGUMENT: &str = "noop-extender";

/// The first of the requests that are written down: the cycle has warmed up by then.
const FIRST_DUMPED: usize = 200;

struct NoOp {
    client: Client,
    /// One name is returned, else all.
    one_name: bool,
    dump: Option<PathBuf>,
    filters: AtomicUsize,
}

/// Command line of [`serve`].
pub(crate) fn arguments(listen: SocketAddr, kubeconfig: &Path, one_name: bool, dump: Option<&Path>) -> Vec<String> {
    let answer = if one_name { "one" } else { "all" };
    let mut arguments =
        vec![ARGUMENT.to_owned(), listen.to_string(), kubeconfig.display().to_string(), answer.to_owned()];
    arguments.extend(dump.map(|prefix| prefix.display().to_string()));
    arguments
}

/// Serves until it is killed. `arguments` are those of [`arguments`] after the first.
pub(crate) async fn serve(arguments: &[String]) {
    let [listen, kubeconfig, answer, rest @ ..] = arguments else { panic!("ADDRESS KUBECONFIG one|all [PREFIX]") };
    let state = Arc::new(NoOp {
        client: identity::client(Path::new(kubeconfig)).await,
        one_name: answer == "one",
        dump: rest.first().map(PathBuf::from),
        filters: AtomicUsize::new(0),
    });
    let routes = Router::new()
        .route("/healthz", axum::routing::get(async || "ok"))
        .route("/filter", post(filter))
        .route("/prioritize", post(prioritize))
        .route("/bind", post(bind))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(state);
    let listener = tokio::net::TcpListener::bind(listen).await.expect("the extender's address is free");
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("a TCP connection"));
    axum::serve(listener, routes).await.expect("the extender serves");
}

async fn filter(State(state): State<Arc<NoOp>>, body: Bytes) -> Vec<u8> {
    let names = names(&body);
    if let Some(prefix) = &state.dump {
        let call = state.filters.fetch_add(1, Ordering::Relaxed);
        if (FIRST_DUMPED..FIRST_DUMPED + 3).contains(&call) {
            let file = format!("{}-{}.json", prefix.display(), call - FIRST_DUMPED + 1);
            std::fs::write(&file, names).unwrap_or_else(|error| panic!("cannot write {file}: {error}"));
        }
    }
    // A name holds no comma.
    let end = if state.one_name { names.iter().position(|byte| *byte == b',') } else { None };
    let kept = end.map_or(names, |end| &names[..end]);
    let mut answer = Vec::with_capacity(kept.len() + 64);
    answer.extend_from_slice(br#"{"NodeNames":"#);
    answer.extend_from_slice(kept);
    if end.is_some() {
        answer.push(b']');
    }
    answer.extend_from_slice(br#","FailedNodes":{},"Error":""}"#);
    answer
}

async fn prioritize(body: Bytes) -> Vec<u8> {
    let names: Vec<&str> = serde_json::from_slice(names(&body)).expect("a list of names");
    let scores: Vec<Value> = names
        .iter()
        .enumerate()
        .map(|(at, name)| json!({"Host": name, "Score": if at == 0 { 10 } else { 3 }}))
        .collect();
    serde_json::to_vec(&scores).expect("JSON")
}

async fn bind(State(state): State<Arc<NoOp>>, body: Bytes) -> Vec<u8> {
    let args: Value = serde_json::from_slice(&body).expect("binding arguments");
    let text = |key: &str| args[key].as_str().unwrap_or_default();
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {
            "name": text("PodName"), "namespace": text("PodNamespace"), "uid": text("PodUID"),
            "annotations": {"packhorse.dev/allocation": "none"},
        },
        "target": {"apiVersion": "v1", "kind": "Node", "name": text("Node")},
    });
    let path = format!("/api/v1/namespaces/{}/pods/{}/binding", text("PodNamespace"), text("PodName"));
    let request = axum::http::Request::post(path)
        .header("content-type", "application/json")
        .body(binding.to_string().into_bytes())
        .expect("a request");
    let error = state.client.request_text(request).await.err().map(|error| error.to_string()).unwrap_or_default();
    json!({"Error": error}).to_string().into_bytes()
}

/// The list of names as it stands in the request.
fn names(body: &[u8]) -> &[u8] {
    const KEY: &[u8] = br#""NodeNames":["#;
    // They come last, after the pod.
    let start = body.windows(KEY.len()).rposition(|window| window == KEY).expect("a list of names") + KEY.len() - 1;
    let length = body[start..].iter().position(|byte| *byte == b']').expect("the end of the list") + 1;
    &body[start..start + length]
}
