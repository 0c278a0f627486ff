//! Listeners, TLS and graceful shutdown for all servers.
//!
//! Owns accepted connections from handshake to end; the routers belong to the parts. [`run`] takes a bound listener and a
//! shutdown future, so that tests bind port 0. What fails here fails for one connection only: a bad handshake, a peer that
//! says nothing, or a broken pipe is logged at debug level and forgotten; running out of file descriptors pauses accepting.
//!
//! No call in flight is cut: at shutdown the listener closes, HTTP/2 peers get GOAWAY, HTTP/1.1 connections close after the
//! answer under way, and only [`Limits::drain`] ends what is still open then.

pub mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_rustls::TlsAcceptor;
use tower::Service;

/// What one listener bears.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time; further ones wait in the kernel's backlog.
    pub connections: usize,
    /// Time for the TLS handshake.
    pub handshake: Duration,
    /// Time from the end of the handshake to the first complete request head: port scanners hold nothing open.
    pub first_request: Duration,
    /// How long an HTTP/1.1 connection may idle between requests. Longer than the 90 s after which Go's clients drop an idle
    /// connection themselves: were we first, a request sent in that instant would be lost, and Go does not repeat a POST.
    pub idle: Duration,
    /// How long calls in flight may take after shutdown began.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            handshake: Duration::from_secs(10),
            first_request: Duration::from_secs(10),
            idle: Duration::from_secs(300),
            drain: Duration::from_secs(25),
        }
    }
}

/// Pause after a failed accept: the usual cause is a lack of file descriptors, which only ending connections cure.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// HTTP/2 peers are asked this often whether they still live.
const PING_INTERVAL: Duration = Duration::from_secs(60);
/// The answer must come within this.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves `router` on `listener` with the default [`Limits`] until `shutdown` resolves and all calls in flight are answered.
/// Every request carries its peer as `ConnectInfo<SocketAddr>`.
pub async fn run(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    run_with(listener, tls, router, &Limits::default(), shutdown).await;
}

/// [`run_with`] on a thread of its own, named `name`, with a runtime of its own: for answers that are quickly computed, or wait for others.
/// On a runtime of several threads one of them takes a request from the kernel, wakes another to watch for the next, and so on in turn;
/// where the processor sleeps between requests, that costs more than such an answer. Returns what resolves when all calls are answered;
/// dropped, it shuts down.
///
/// # Errors
/// No thread, or no runtime for it.
pub fn run_apart(
    name: &str,
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    router: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _its_driver = runtime.enter();
        TcpListener::from_std(listener.into_std()?)?
    };
    let (awaited, dropped) = oneshot::channel::<()>();
    let (done, ended) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let shutdown = async {
            tokio::select! {
                () = shutdown => {}
                // Nobody sends.
                _ = dropped => {}
            }
        };
        runtime.block_on(run_with(listener, tls, router, &limits, shutdown));
        // An error says that nobody waits any more.
        let _ = done.send(());
    })?;
    Ok(async move {
        let _awaited = awaited;
        if ended.await.is_err() {
            tracing::error!("a listener's thread ended by itself");
        }
    })
}

/// [`run`] with limits.
pub async fn run_with(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    router: Router,
    limits: &Limits,
    shutdown: impl Future<Output = ()>,
) {
    let acceptor = tls.map(TlsAcceptor::from);
    let permits = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let http = Arc::new(protocol(limits));
    let mut shutdown = std::pin::pin!(shutdown);

    loop {
        let (stream, peer, permit) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        let connection = Connection {
            http: Arc::clone(&http),
            router: router.clone(),
            watcher: graceful.watcher(),
            first_request: limits.first_request,
            peer,
            permit,
        };
        let (acceptor, handshake) = (acceptor.clone(), limits.handshake);
        tokio::spawn(async move {
            match acceptor {
                None => connection.serve(stream).await,
                Some(acceptor) => match tokio::time::timeout(handshake, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => connection.serve(stream).await,
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                    Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
                },
            }
        });
    }

    drop(listener);
    if tokio::time::timeout(limits.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!(
            seconds = limits.drain.as_secs(),
            "calls in flight did not end in time, closing their connections"
        );
    }
}

fn protocol(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    // This timer also runs between the requests of a connection; the first request has its own, shorter one.
    http.http1().timer(TokioTimer::new()).header_read_timeout(limits.idle);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(1024);
    http
}

/// The next connection, once there is room for one.
async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    loop {
        let Ok(permit) = Arc::clone(permits).acquire_owned().await else {
            // The semaphore is never closed; were it, accepting nothing is the safe answer.
            std::future::pending::<()>().await;
            continue;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Answers are small and complete: waiting to fill a segment only adds latency.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
                }
                return (stream, peer, permit);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One accepted connection.
struct Connection {
    http: Arc<auto::Builder<TokioExecutor>>,
    router: Router,
    /// Counts this connection as open, from before the handshake, and tells it to end.
    watcher: Watcher,
    first_request: Duration,
    peer: SocketAddr,
    /// Given back when the connection ends.
    permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Self { http, router, watcher, first_request, peer, permit } = self;
        let asked = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&asked);
        let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
            seen.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(ConnectInfo(peer));
            router.clone().call(request.map(Body::new))
        });
        let connection = http.serve_connection(TokioIo::new(stream), service).into_owned();
        let mut connection = std::pin::pin!(watcher.watch(connection));

        let ended = tokio::select! {
            biased;
            ended = &mut connection => Some(ended),
            () = tokio::time::sleep(first_request) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None if asked.load(Ordering::Relaxed) => connection.await,
            None => {
                tracing::debug!(%peer, "closing a connection that asked nothing");
                return;
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "connection ended with an error");
        }
        drop(permit);
    }
}
