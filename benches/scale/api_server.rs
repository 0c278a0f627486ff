//! A kube-apiserver on loopback for lists and watches of made-up nodes and pods, by TLS. It has no other objects, accepts every
//! Event, and notes when it was asked for the last page of both lists.

#![allow(missing_docs, unreachable_pub, clippy::expect_used, reason = "a measurement ends where it fails")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use packhorse::certs::authority::Authority;
use packhorse::serve::{self, Limits};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;

use super::lists::{self, Kind, LISTED, Source};

/// kube-apiserver sends a bookmark about once a minute.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// Events are written in chunks of about this many bytes.
const CHUNK: usize = 64 * 1024;
const DAY: Duration = Duration::from_secs(86_400);

/// Shared by all calls.
#[derive(Debug)]
pub struct ApiServer {
    source: Source,
    /// How many events of how many have happened.
    events: watch::Sender<(usize, usize)>,
    /// When the last page of each list went out.
    listed: Mutex<[Option<Instant>; 2]>,
}

/// Where it listens, and what a client needs to trust it.
#[derive(Debug)]
pub struct Served {
    pub server: Arc<ApiServer>,
    pub address: SocketAddr,
    /// PEM.
    pub authority: String,
    /// A certificate and key that the webhook may use, PEM.
    pub webhook: (String, String),
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ApiServer {
    pub async fn start(source: Source) -> Served {
        let server = Arc::new(Self { source, events: watch::Sender::new((0, 0)), listed: Mutex::default() });
        let now = SystemTime::now();
        let authority = Authority::generate(now, DAY).expect("a CA");
        let leaf = authority.issue(now, &["127.0.0.1".to_owned(), "localhost".to_owned()], DAY).expect("a certificate");
        let certificate = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).expect("PEM");
        let tls = rustls::ServerConfig::builder_with_provider(serve::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a certificate and its key");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new()
            .route("/version", get(version))
            .route("/api/v1/nodes", get(nodes))
            .route("/api/v1/pods", get(pods))
            .route("/api/v1/namespaces", get(namespaces))
            .fallback(anything)
            .with_state(Arc::clone(&server));
        let task = tokio::spawn(async move {
            let limits = Limits { drain: Duration::ZERO, ..Limits::default() };
            serve::run_with(listener, Some(Arc::new(tls)), router, &limits, std::future::pending()).await;
        });
        Served { server, address, authority: authority.certificate, webhook: (leaf.certificate, leaf.key), task }
    }

    /// When the later of both lists was answered completely.
    pub fn lists_sent(&self) -> Option<Instant> {
        let [nodes, pods] = *self.listed.lock().expect("no panic");
        Some(nodes?.max(pods?))
    }

    /// Lets so many pod events happen at once.
    pub fn burst(&self, events: usize) {
        self.events.send_replace((events, events));
    }

    fn list(&self, kind: Kind, query: &HashMap<String, String>) -> Response {
        let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(0);
        let page = self.source.page(kind, limit, query.get("continue").map(String::as_str));
        if !page[..page.len().min(400)].contains("remainingItemCount") {
            let mut listed = self.listed.lock().expect("no panic");
            listed[usize::from(kind == Kind::Pod)] = Some(Instant::now());
        }
        json(Body::from(page))
    }

    fn watch(self: Arc<Self>, kind: Kind, query: &HashMap<String, String>) -> Response {
        let number = |key: &str| query.get(key).and_then(|value| value.parse::<usize>().ok());
        let reached = number("resourceVersion").unwrap_or(LISTED).saturating_sub(LISTED);
        let seconds = number("timeoutSeconds").unwrap_or(300);
        let end = tokio::time::Instant::now() + Duration::from_secs(seconds as u64);
        let news = self.events.subscribe();
        let stream =
            futures::stream::unfold((self, news, reached), move |(server, mut news, mut reached)| async move {
                loop {
                    let (happened, events) = *news.borrow_and_update();
                    if kind == Kind::Pod && reached < happened {
                        let mut chunk = String::with_capacity(CHUNK + 10_000);
                        while reached < happened && chunk.len() < CHUNK {
                            reached += 1;
                            server.source.event(&mut chunk, reached, events);
                        }
                        return Some((Ok::<_, Infallible>(Bytes::from(chunk)), (server, news, reached)));
                    }
                    tokio::select! {
                        // The sender lives as long as the server.
                        _ = news.changed() => {}
                        () = tokio::time::sleep(BOOKMARKS) => {
                            let line = lists::bookmark(kind, &(LISTED + reached).to_string());
                            return Some((Ok(Bytes::from(line)), (server, news, reached)));
                        }
                        () = tokio::time::sleep_until(end) => return None,
                    }
                }
            });
        json(Body::from_stream(stream))
    }
}

fn json(body: Body) -> Response {
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

async fn answer(server: Arc<ApiServer>, kind: Kind, query: HashMap<String, String>) -> Response {
    if query.contains_key("watch") {
        return server.watch(kind, &query);
    }
    let page = tokio::task::spawn_blocking(move || server.list(kind, &query));
    page.await.expect("no panic")
}

async fn nodes(State(server): State<Arc<ApiServer>>, Query(query): Query<HashMap<String, String>>) -> Response {
    answer(server, Kind::Node, query).await
}

async fn pods(State(server): State<Arc<ApiServer>>, Query(query): Query<HashMap<String, String>>) -> Response {
    answer(server, Kind::Pod, query).await
}

/// None carries a label that is asked for.
async fn namespaces(Query(query): Query<HashMap<String, String>>) -> Response {
    if query.contains_key("watch") {
        return json(Body::from_stream(futures::stream::pending::<Result<Bytes, Infallible>>()));
    }
    let kind = r#"{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1""#;
    json(Body::from(format!(r#"{kind},"metadata":{{"resourceVersion":"{LISTED}"}},"items":null}}"#)))
}

async fn version() -> Response {
    json(Body::from(
        r#"{"major":"1","minor":"36","gitVersion":"v1.36.3","gitCommit":"","gitTreeState":"","buildDate":"","goVersion":"","compiler":"gc","platform":"linux/amd64"}"#,
    ))
}

/// Writes succeed; what is asked for is not there.
async fn anything(method: Method, uri: Uri) -> Response {
    if method != Method::GET {
        return (StatusCode::CREATED, json(Body::from("{}"))).into_response();
    }
    let status = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","reason":"NotFound","code":404,"message":"#;
    (StatusCode::NOT_FOUND, json(Body::from(format!(r#"{status}"{} not found"}}"#, uri.path())))).into_response()
}
