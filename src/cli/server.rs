//! `packhorse server`: webhook, extender and ledger as one process.
//!
//! Owns the order in which things start and end. Start: flags and configuration are checked, listeners bound, certificate files
//! read (any mistake ends the process here); then everything runs at once, and what needs the API server waits for it by itself.
//! End, at SIGTERM or SIGINT: readiness goes off, a moment later the listeners close, calls in flight are finished, exit 0. A
//! second signal skips the moment. A background task that ends by itself is a fault: the process ends with 1 and is started again.

pub mod api_version;
pub mod extender_tls;
pub mod health;
pub mod namespaces;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use self::health::Health;
use self::namespaces::Namespaces;
use super::config::Config;
use super::config::reload::{self, Live, Reload};
use super::logs::{self, Logs};
use super::process::{self, Servers, Signals, Tasks};
use super::{admin, api_client};
use crate::certs;
use crate::certs::files::{Files, Pair};
use crate::certs::managed::Managed;
use crate::certs::serving::Serving;
use crate::dashboard::Dashboard;
use crate::extender::nominate::{self, Nominator};
use crate::extender::resolve::{self, Resolver};
use crate::extender::{self, Extender, NoteUnfit, Unfit};
use crate::kube_api::calls::Calls;
use crate::ledger::{self, Ledger};
use crate::metrics::api_requests::ApiRequests;
use crate::metrics::exposition::Exposition;
use crate::serve::{Limits, tls};
use crate::webhook::{self, Webhook};

/// Flags of `packhorse server`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kubeconfig of the API server [default: the service account of this pod]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Where the extender listens (/filter, /prioritize, /bind, /preempt); any other address than loopback needs mutual TLS
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9480")]
    extender_listen: SocketAddr,
    /// Where the webhook listens (/mutate), always with TLS
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:8443")]
    webhook_listen: SocketAddr,
    /// Where the page, /metrics, /healthz, /readyz, /readyz/extender and /log are served
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:9481")]
    metrics_listen: SocketAddr,
    /// Certificate chain of the webhook, PEM, read again when it changes [default: self-managed]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Key of --tls-cert, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Certificate chain of the extender, PEM, read again when it changes
    #[arg(long, value_name = "FILE")]
    extender_tls_cert: Option<PathBuf>,
    /// Key of --extender-tls-cert, PEM
    #[arg(long, value_name = "FILE")]
    extender_tls_key: Option<PathBuf>,
    /// CAs, PEM; only clients with a certificate signed by one of them reach the extender
    #[arg(long, value_name = "FILE")]
    extender_client_ca: Option<PathBuf>,
    /// Configuration, YAML, read again when it changes; docs/config.yaml shows every key
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    log_format: logs::Format,
    /// Log level, in place of the configuration's until that changes
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

/// Runs the server until a signal.
///
/// # Errors
/// What keeps it from starting, or a background task that ended.
pub fn run(args: Args) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start threads")?
        .block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let Args {
        kubeconfig,
        extender_listen,
        webhook_listen,
        metrics_listen,
        tls_cert,
        tls_key,
        extender_tls_cert,
        extender_tls_key,
        extender_client_ca,
        config: config_path,
        log_format,
        log_level,
    } = args;

    let config = match &config_path {
        Some(path) => Config::load(path).context("--config")?,
        None => Config::default(),
    };
    let logs = Logs::start(log_format, log_level.as_deref().unwrap_or(&config.log_level)).context("--log-level")?;
    let extender_tls =
        extender_tls::extender_tls(extender_listen, extender_tls_cert, extender_tls_key, extender_client_ca)?;
    let live = Live::new(&config);
    let look = config.server.reload_interval;

    let mut registry = Registry::default();
    crate::metrics::register(&mut registry);
    let certs_metrics = certs::Metrics::new(&mut registry);
    let reload_metrics = reload::Metrics::new(&mut registry);
    let client = api_client::connect(kubeconfig.as_deref(), &ApiRequests::new(&mut registry)).await?;

    let mut tasks = Tasks::default();
    let serving = Arc::new(Serving::default());
    match (tls_cert, tls_key) {
        (Some(certificate), Some(key)) => {
            let pair = Pair { certificate, key };
            let files = Files::load("webhook", pair, Arc::clone(&serving), certs_metrics.clone());
            tasks.spawn("certificate files", files.await.context("--tls-cert")?.follow(look));
        }
        _ => {
            let settings = Arc::clone(&live.certificates);
            let managed = Managed::new(client.clone(), settings, Arc::clone(&serving), certs_metrics.clone());
            tasks.spawn("certificates", managed.run());
        }
    }
    let extender_tls = match extender_tls {
        None => None,
        Some(files) => {
            let (config, files) = files.load(certs_metrics).await?;
            tasks.spawn("extender certificate files", files.follow(look));
            Some(config)
        }
    };
    if let Some(path) = config_path {
        tasks.spawn(
            "configuration",
            Reload::new(path, config.clone(), live.clone(), logs.clone(), reload_metrics).follow(look),
        );
    }

    let namespaces = Arc::new(Namespaces::default());
    {
        let (namespaces, client) = (Arc::clone(&namespaces), client.clone());
        tasks.spawn("namespaces", async move { namespaces.follow(client).await });
    }
    tasks.spawn("version of the API server", api_version::follow(client.clone(), live.clone()));

    let ledger = Arc::new(Ledger::new(Arc::clone(&live.ledger), ledger::Metrics::new(&mut registry)));
    ledger.register_totals(&mut registry);
    let devices = ledger.device_series();
    let feeds = CancellationToken::new();
    let dashboard =
        config.server.dashboard.then(|| Dashboard::new(Arc::clone(&ledger), Arc::clone(&live.rules), feeds.clone()));
    tasks.spawn("ledger", Arc::clone(&ledger).watch(client.clone()));

    let count_alone = {
        let namespaces = Arc::clone(&namespaces);
        Box::new(move |namespace: &str| namespaces.count_alone(namespace))
    };
    let webhook = Webhook::new(Arc::clone(&live.webhook), count_alone, webhook::Metrics::new(&mut registry));
    let webhook = webhook::router(Arc::new(webhook));

    let extender_metrics = extender::Metrics::new(&mut registry);
    let calls = Calls::new(client.clone(), config.extender.call_timeout(), extender_metrics.calls.clone());
    let nominator = Nominator::new(
        Arc::clone(&ledger),
        calls.clone(),
        Arc::clone(&live.extender),
        nominate::Metrics::new(&mut registry),
    );
    tasks.spawn("nomination", Arc::clone(&nominator).run());
    let resolver =
        Resolver::new(Arc::clone(&ledger), calls, Arc::clone(&live.extender), resolve::Metrics::new(&mut registry));
    tasks.spawn("stranded pods", resolver.run());
    let extender = Extender::new(extender::Parts {
        settings: Arc::clone(&live.extender),
        rules: Arc::clone(&live.rules),
        unfit: Some(unfit(nominator.hook(), dashboard.clone())),
        ..extender::Parts::new(Arc::clone(&ledger), client, extender_metrics)
    });
    tasks.spawn("learning", Arc::clone(&extender).keep_learning());
    let extender = extender::router(extender);

    let health = Arc::new(Health::new(Arc::clone(&serving), namespaces, ledger));
    let limits = Limits { connections: config.server.max_connections, drain: config.server.drain, ..Limits::default() };
    let mut servers = Servers::new(limits);
    let certificate: Arc<dyn rustls::server::ResolvesServerCert> = serving;
    let webhook_tls = tls::server_config(certificate, None)?;
    // All are bound before any is served: a port in use then ends a process that nobody has called yet.
    let webhook_bound = process::bind("--webhook-listen", webhook_listen).await?;
    let extender_bound = process::bind("--extender-listen", extender_listen).await?;
    let metrics_bound = process::bind("--metrics-listen", metrics_listen).await?;
    servers.start_apart("webhook", webhook_bound, Some(webhook_tls), webhook.merge(health.router()))?;
    servers.start_apart("extender", extender_bound, extender_tls, extender.merge(health.router()))?;
    let mut admin = admin::router(Arc::new(Exposition::new(registry).with(devices)), logs).merge(health.router());
    if let Some(dashboard) = dashboard {
        admin = admin.merge(dashboard.router());
    }
    servers.start("metrics", metrics_bound, None, admin);

    let mut signals = Signals::new()?;
    let fault = tokio::select! {
        () = signals.received() => None,
        ended = tasks.next() => Some(ended),
    };
    health.stop();
    // Else each open page would take the whole time to drain.
    feeds.cancel();
    if let Some(task) = fault {
        servers.finish().await;
        bail!("background task {task:?} ended; see the log above");
    }
    let delay = live.server.load().shutdown_delay;
    tracing::info!(?delay, "stopping: no longer ready");
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = signals.received() => {}
    }
    servers.finish().await;
    tracing::info!("stopped");
    Ok(())
}

/// Tells nomination of a pod that fits nowhere, and the page, where there is one.
fn unfit(nomination: NoteUnfit, dashboard: Option<Arc<Dashboard>>) -> NoteUnfit {
    let Some(dashboard) = dashboard else { return nomination };
    Arc::new(move |unfit: &Unfit<'_>| {
        nomination(unfit);
        dashboard.note_refusal(&unfit.record.uid, unfit.asked.iter().map(|(_, reason)| *reason));
    })
}
