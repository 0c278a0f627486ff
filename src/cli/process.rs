//! What every serving role is made of: listeners bound before anything starts, tasks that must not end, signals that end the
//! process in order.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::serve::{self, Limits};

/// A bound listener.
#[derive(Debug)]
pub struct Bound {
    /// Accepts nothing before it is served.
    pub listener: TcpListener,
    /// Where; with port 0 the kernel chose it.
    pub address: SocketAddr,
}

/// Binds `address`.
///
/// # Errors
/// Names the flag.
pub async fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<Bound> {
    let named = || format!("{flag} {address}");
    let listener = TcpListener::bind(address).await.with_context(named)?;
    let address = listener.local_addr().with_context(named)?;
    Ok(Bound { listener, address })
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they no longer end the process by themselves.
    ///
    /// # Errors
    /// The kernel refuses a handler.
    pub fn new() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
        Ok(Self { terminate, interrupt })
    }

    /// Waits for the next one.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What runs beside the listeners, for as long as the process does.
#[derive(Debug, Default)]
pub struct Tasks {
    running: JoinSet<&'static str>,
}

impl Tasks {
    /// Starts one; its name is what is told if it ends.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.running.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits for a task to end, which none should.
    pub async fn next(&mut self) -> String {
        match self.running.join_next().await {
            Some(Ok(name)) => name.to_owned(),
            // A panic: its message stands on stderr already.
            Some(Err(error)) => error.to_string(),
            None => std::future::pending().await,
        }
    }
}

/// The listeners being served.
#[derive(Debug)]
pub struct Servers {
    limits: Limits,
    stop: CancellationToken,
    running: JoinSet<()>,
}

impl Servers {
    /// None yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, stop: CancellationToken::new(), running: JoinSet::new() }
    }

    /// Serves `router` on a bound listener.
    pub fn start(&mut self, name: &'static str, bound: Bound, tls: Option<Arc<rustls::ServerConfig>>, router: Router) {
        let Bound { listener, address } = bound;
        tracing::info!(name, %address, tls = tls.is_some(), "listening");
        let (limits, stop) = (self.limits.clone(), self.stop.clone());
        self.running.spawn(async move {
            serve::run_with(listener, tls, router, &limits, stop.cancelled()).await;
        });
    }

    /// The same on a thread of its own; see [`serve::run_apart`].
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start_apart(
        &mut self,
        name: &'static str,
        bound: Bound,
        tls: Option<Arc<rustls::ServerConfig>>,
        router: Router,
    ) -> anyhow::Result<()> {
        let Bound { listener, address } = bound;
        tracing::info!(name, %address, tls = tls.is_some(), "listening");
        let stop = self.stop.clone().cancelled_owned();
        let running = serve::run_apart(name, listener, tls, router, self.limits.clone(), stop);
        self.running.spawn(running.with_context(|| format!("cannot start the thread of {name}"))?);
        Ok(())
    }

    /// Closes the listeners and waits for the calls in flight.
    pub async fn finish(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a listener ended");
            }
        }
    }
}
