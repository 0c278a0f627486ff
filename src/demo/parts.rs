//! The real webhook, ledger, extender and page, wired as the server wires them, on loopback ports.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Error;
use super::api_server::ApiServer;
use crate::certs::authority::Authority;
use crate::certs::serving::{Served, Serving};
use crate::dashboard::Dashboard;
use crate::extender::{self, Extender};
use crate::gpu::parse::CountAlone;
use crate::kube_api::names;
use crate::ledger::{self, Ledger};
use crate::serve;
use crate::webhook::{self, Webhook};

/// Who the parts are in the API server's request log.
pub(super) const USER_AGENT: &str = "packhorse";

/// The running parts.
pub(super) struct Parts {
    pub(super) ledger: Arc<Ledger>,
    /// `http://127.0.0.1:<port>`, with `/filter` and its siblings.
    pub(super) extender_url: String,
    /// `https://127.0.0.1:<port>/mutate`.
    pub(super) webhook_url: String,
    /// `http://127.0.0.1:<port>`, with the page and `/metrics`.
    pub(super) metrics_url: String,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Parts {
    /// Starts all and has the API server send pods to the webhook. Returns once the ledger is complete.
    pub(super) async fn start(api: &ApiServer) -> Result<Self, Error> {
        let mut registry = Registry::default();
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let client = api.client_as(USER_AGENT).map_err(|error| Error::Start(error.to_string()))?;

        let ledger_metrics = ledger::Metrics::new(&mut registry);
        let ledger = Arc::new(Ledger::new(Arc::default(), ledger_metrics));
        let dashboard = Dashboard::new(Arc::clone(&ledger), Arc::default(), stop.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(Arc::clone(&ledger).watch(client.clone())));

        let objects = api.objects();
        let count_alone = move |namespace: &str| {
            let namespace = objects.get("namespaces", "", namespace)?;
            match namespace["metadata"]["labels"][names::COUNT_ALONE].as_str()? {
                "exclusive" => Some(CountAlone::Exclusive),
                label => label.strip_prefix("share-")?.parse().ok().map(CountAlone::Share),
            }
        };
        let webhook = Webhook::new(Arc::default(), Box::new(count_alone), webhook::Metrics::new(&mut registry));
        let (listener, address) = bind().await?;
        let (ca, tls) = certificate(address)?;
        let webhook_url = format!("https://{address}/mutate");
        tasks.spawn(serve::run(
            listener,
            Some(tls),
            webhook::router(Arc::new(webhook)),
            stop.clone().cancelled_owned(),
        ));

        let told = Arc::clone(&dashboard);
        let extender = Extender::new(extender::Parts {
            unfit: Some(Arc::new(move |unfit: &extender::Unfit<'_>| {
                told.note_refusal(&unfit.record.uid, unfit.asked.iter().map(|(_, reason)| *reason));
            })),
            ..extender::Parts::new(Arc::clone(&ledger), client, extender::Metrics::new(&mut registry))
        });
        tasks.spawn(stop.clone().run_until_cancelled_owned(Arc::clone(&extender).keep_learning()));
        let (listener, address) = bind().await?;
        let extender_url = format!("http://{address}");
        tasks.spawn(serve::run(listener, None, extender::router(extender), stop.clone().cancelled_owned()));

        let (listener, address) = bind().await?;
        let metrics_url = format!("http://{address}");
        let pages = metrics(registry).merge(dashboard.router());
        tasks.spawn(serve::run(listener, None, pages, stop.clone().cancelled_owned()));

        api.configure_webhook(webhook::CONFIGURATION, &webhook_url, &ca)
            .map_err(|refusal| Error::Start(refusal.to_string()))?;
        let parts = Self { ledger, extender_url, webhook_url, metrics_url, stop, tasks };
        parts.wait_until_ready().await?;
        Ok(parts)
    }

    async fn wait_until_ready(&self) -> Result<(), Error> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !self.ledger.is_ready() {
            if tokio::time::Instant::now() > deadline {
                return Err(Error::Start("the ledger is not complete after 20 s".to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Ends all; calls in flight are answered, for a while.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        // Idle connections of clients that are gone hold nothing; what is not over by now is cut with the process.
        let _late = tokio::time::timeout(Duration::from_millis(500), self.tasks.wait()).await;
    }
}

async fn bind() -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |error: std::io::Error| Error::Start(format!("cannot listen on 127.0.0.1: {error}"));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// A CA of this run alone, and a listener's TLS configuration with a leaf of it.
fn certificate(address: SocketAddr) -> Result<(String, Arc<rustls::ServerConfig>), Error> {
    const DAY: Duration = Duration::from_secs(86_400);
    let failed = |error: crate::certs::Error| Error::Start(error.to_string());
    let now = SystemTime::now();
    let authority = Authority::generate(now, 30 * DAY).map_err(failed)?;
    let leaf = authority.issue(now, &[address.ip().to_string()], 30 * DAY).map_err(failed)?;
    let serving = Arc::new(Serving::default());
    serving.swap(Served::from_pem(leaf.certificate.as_bytes(), leaf.key.as_bytes()).map_err(failed)?);
    let tls = serve::tls::server_config(serving, None).map_err(|error| Error::Start(error.to_string()))?;
    Ok((authority.certificate, tls))
}

fn metrics(registry: Registry) -> Router {
    let registry = Arc::new(registry);
    let scrape = move || {
        let registry = Arc::clone(&registry);
        async move {
            let mut text = String::new();
            match prometheus_client::encoding::text::encode(&mut text, &registry) {
                Ok(()) => Ok(text),
                Err(error) => Err((axum::http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
            }
        }
    };
    Router::new().route("/metrics", get(scrape)).route("/healthz", get(async || "ok\n"))
}
