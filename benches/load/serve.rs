//! The server's side: the extender as `packhorse server` runs it, before a made-up cluster, or the reference; both behind the same
//! listeners.

use std::future::pending;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::post;
use http_body_util::BodyExt;
use packhorse::certs::authority::Authority;
use packhorse::certs::serving::{Served, Serving};
use packhorse::cli::logs::{Format, Logs};
use packhorse::serve::{self, Limits, tls};
use tokio::net::TcpListener;

use crate::case::{Case, Server};
use crate::cluster::Cluster;
use crate::process::{Order, Ready, State};
use crate::protocols;
use crate::world::{self, World};

/// Serves until standard input ends.
pub fn run(case: &Case) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    Logs::start(Format::Text, "info").expect("logs");
    let (router, world) = match case.server {
        Server::Reference => (reference(), None),
        Server::Packhorse => {
            let (tell, news) = world::channel();
            let cluster = Arc::new(Cluster::of(&case.cluster, Some(world::on_bind(tell.clone()))));
            let before = cluster.ledger.target();
            if case.learns {
                runtime.spawn(Arc::clone(&cluster.extender).keep_learning());
                // Rankings aim at what was learned before the first call comes.
                while Arc::ptr_eq(&before, &cluster.ledger.target()) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            let router = packhorse::extender::router(Arc::clone(&cluster.extender));
            (router, Some((World::start(Arc::clone(&cluster), case.events, news), tell, cluster)))
        }
    };
    let (plain, tls, authority) = runtime.block_on(listen(&router));
    let mut output = std::io::stdout();
    let mut answer = |text: String| writeln!(output, "{text}").expect("somebody listens");
    answer(serde_json::to_string(&Ready { plain, tls, authority }).expect("JSON"));
    for line in std::io::stdin().lock().lines() {
        let order = serde_json::from_str(&line.expect("text")).expect("an order");
        let Some((_, tell, cluster)) = &world else { continue };
        match order {
            Order::Announce(uid) => tell.announce(uid),
            Order::State => answer(serde_json::to_string(&state(cluster)).expect("JSON")),
        }
    }
    if let Some((world, tell, _)) = world {
        drop(tell);
        world.stop();
    }
    runtime.shutdown_background();
}

async fn listen(router: &Router) -> (std::net::SocketAddr, std::net::SocketAddr, String) {
    let authority = Authority::generate(SystemTime::now(), Duration::from_secs(3_600)).expect("a CA");
    let leaf = authority.issue(SystemTime::now(), &["127.0.0.1".to_owned()], Duration::from_secs(3_600));
    let leaf = leaf.expect("a certificate");
    let serving = Arc::new(Serving::default());
    serving.swap(Served::from_pem(leaf.certificate.as_bytes(), leaf.key.as_bytes()).expect("a certificate"));
    let config = protocols::both(&tls::server_config(serving, None).expect("a TLS configuration"));
    let mut addresses = Vec::new();
    for tls in [None, Some(config)] {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        addresses.push(listener.local_addr().expect("an address"));
        let served = serve::run_apart("extender", listener, tls, router.clone(), Limits::default(), pending());
        tokio::spawn(served.expect("a thread"));
    }
    (addresses[0], addresses[1], authority.certificate)
}

fn state(cluster: &Cluster) -> State {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &cluster.registry).expect("text");
    let buckets: Vec<(f64, f64)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("packhorse_extender_bind_own_seconds_bucket{le=\"")?.split_once("\"} "))
        .map(|(bound, count)| (bound.parse().expect("seconds"), count.parse().expect("a count")))
        .collect();
    let own = |part: f64| {
        let all = buckets.last().map_or(0.0, |(_, count)| *count);
        let reached = buckets.iter().find(|(_, count)| *count >= all * part);
        if all == 0.0 { 0.0 } else { reached.map_or(0.0, |(bound, _)| bound * 1e6) }
    };
    let (live, gpus) = cluster.live();
    State {
        holds: cluster.extender.holds(),
        live,
        gpus,
        bind_own_p50: own(0.5),
        bind_own_p99: own(0.99),
        conflicts: cluster.extender.metrics().conflicts(),
    }
}

/// Answers with the first name, and keeps nothing of what it receives.
fn reference() -> Router {
    Router::new()
        .route(
            "/filter",
            post(|body: Body| async { first(body, |name| format!(r#"{{"NodeNames":["{name}"]}}"#)).await }),
        )
        .route(
            "/prioritize",
            post(|body: Body| async { first(body, |name| format!(r#"[{{"Host":"{name}","Score":10}}]"#)).await }),
        )
        .route("/bind", post(|body: Body| async { first(body, |_| r#"{"Error":""}"#.to_owned()).await }))
}

async fn first(mut body: Body, answer: impl Fn(&str) -> String) -> impl IntoResponse {
    const BEFORE: &[u8] = br#""NodeNames":[""#;
    let mut begin = Vec::new();
    let mut name = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.expect("the request's body").into_data() else { continue };
        if name.is_none() {
            begin.extend_from_slice(&data[..data.len().min(16 << 10)]);
            name = begin.windows(BEFORE.len()).position(|part| part == BEFORE).and_then(|at| {
                let rest = &begin[at + BEFORE.len()..];
                let end = rest.iter().position(|byte| *byte == b'"')?;
                Some(String::from_utf8_lossy(&rest[..end]).into_owned())
            });
        }
    }
    ([("content-type", "application/json")], answer(&name.unwrap_or_default()))
}
