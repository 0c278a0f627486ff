//! The life of one resource's plugin: serve, register with the kubelet, and do so again whenever the kubelet was replaced, our
//! socket file is gone, or the kubelet has stopped to read our list.
//!
//! One task does this for one resource, so that no two registrations of it overlap. Before the kubelet answers a registration it
//! calls us back, hence serving comes first. Kubelets up to 1.36 disconnect the newest plugin of a resource when an older stream of
//! the same resource ends; the newest notices that its own stream ended and registers again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Endpoint, Server};

use super::Registered;
use super::metrics;
use super::service::{List, OPTIONS, Readers, Service, Shared};
use super::socket::{self, Identity, Socket};
use crate::kubelet_api::device_plugin as api;
use crate::kubelet_api::device_plugin::device_plugin_server::DevicePluginServer;
use crate::kubelet_api::device_plugin::registration_client::RegistrationClient;

/// `v1beta1` is the only version there is.
const VERSION: &str = "v1beta1";

/// An answer that is given is not an answer that has arrived: the kubelet drops the connection when its stream ends.
const LINGER: Duration = Duration::from_millis(100);

/// One resource's plugin.
#[derive(Debug)]
pub(super) struct Plugin {
    pub(super) shared: Arc<Shared>,
    pub(super) resource: Arc<str>,
    pub(super) list: List,
    pub(super) registered: Arc<Registered>,
}

/// One socket with what answers on it.
#[derive(Debug)]
struct Open {
    socket: Socket,
    service: Service,
    /// Stops listening and, when the calls in flight are answered, the server.
    close: CancellationToken,
    server: JoinHandle<()>,
}

/// Why the plugin registers again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// Somebody deleted our file.
    Socket,
    /// Another kubelet is there.
    Kubelet,
    /// The kubelet stopped reading, or never began.
    Stream,
}

/// Waits that grow from try to try.
struct Backoff {
    next: Duration,
    first: Duration,
    longest: Duration,
}

impl Backoff {
    fn reset(&mut self) {
        self.next = self.first;
    }

    /// Half of the wait is left to chance, so that plugins which failed together do not try together.
    fn take(&mut self) -> Duration {
        let wait = self.next;
        self.next = (self.next * 2).min(self.longest);
        let chance = (RandomState::new().build_hasher().finish() % 1000) as u32;
        wait / 2 + wait / 2 * chance / 1000
    }
}

impl Plugin {
    /// Until `stop`; then the calls in flight are answered, the kubelet's streams end, and the socket file goes last.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut open = None;
        // Sockets whose file was deleted while the kubelet still reads through them. They go on until it stops: closing one would
        // cost the node all its slots for a moment.
        let mut retired: Vec<Open> = Vec::new();
        tokio::select! {
            () = self.keep_registered(&mut open, &mut retired) => {}
            () = stop.cancelled() => {}
        }
        for open in open.into_iter().chain(retired) {
            open.shut(self.shared.settings.timing.shutdown).await;
        }
    }

    async fn keep_registered(&self, open: &mut Option<Open>, retired: &mut Vec<Open>) {
        let timing = &self.shared.settings.timing;
        let mut backoff =
            Backoff { next: timing.retry_first, first: timing.retry_first, longest: timing.retry_longest };
        loop {
            let (read, done): (Vec<_>, Vec<_>) = std::mem::take(retired).into_iter().partition(Open::is_read);
            *retired = read;
            for open in done {
                open.shut(timing.shutdown).await;
            }
            if open.as_ref().is_none_or(|open| !open.socket.is_there()) {
                match self.serve().await {
                    Ok(new) => retired.extend(open.replace(new)),
                    Err(error) => {
                        tracing::error!(resource = &*self.resource, %error, "the device plugin cannot be served");
                        self.pause(backoff.take(), None).await;
                        continue;
                    }
                }
            }
            let Some(current) = open.as_ref() else { continue };
            let Some(kubelet) = socket::identity(&self.kubelet_socket()) else {
                tracing::debug!(resource = &*self.resource, "the kubelet is not there");
                self.pause(timing.poll, None).await;
                continue;
            };
            let before = *current.service.readers.borrow();
            if let Err(error) = self.register(&current.socket).await {
                self.count("failed");
                tracing::warn!(resource = &*self.resource, %error, "the kubelet does not register the device plugin; trying again");
                if self.pause(backoff.take(), Some(kubelet)).await {
                    backoff.reset();
                }
                continue;
            }
            self.count("registered");
            let since = Instant::now();
            let lost = self.follow(current, before, kubelet).await;
            self.registered.set(&self.resource, false);
            tracing::info!(resource = &*self.resource, reason = ?lost, "registering again");
            match lost {
                Lost::Socket | Lost::Kubelet => backoff.reset(),
                Lost::Stream => {
                    if since.elapsed() > timing.retry_longest {
                        backoff.reset();
                    }
                    // A kubelet that is about to go has let go of the stream; the next one is noticed by its socket.
                    if self.pause(backoff.take(), Some(kubelet)).await {
                        backoff.reset();
                    }
                }
            }
        }
    }

    /// Returns when there is reason to register again. `before`: who read the list before this registration.
    async fn follow(&self, open: &Open, before: Readers, kubelet: Identity) -> Lost {
        let timing = &self.shared.settings.timing;
        let mut readers = open.service.readers.subscribe();
        let patience = Instant::now() + timing.first_list;
        let mut poll = tokio::time::interval(timing.poll);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = *readers.borrow_and_update();
            let begun = now.served > before.served;
            self.registered.set(&self.resource, begun && now.open > 0);
            if (begun && now.open == 0) || (!begun && Instant::now() >= patience) {
                return Lost::Stream;
            }
            tokio::select! {
                changed = readers.changed() => if changed.is_err() { return Lost::Stream },
                _ = poll.tick() => {
                    if socket::identity(&self.kubelet_socket()).is_some_and(|found| found != kubelet) {
                        return Lost::Kubelet;
                    }
                    if !open.socket.is_there() {
                        return Lost::Socket;
                    }
                }
            }
        }
    }

    /// Waits, at most until the kubelet is another one than `kubelet`; whether it is.
    async fn pause(&self, wait: Duration, kubelet: Option<Identity>) -> bool {
        let until = Instant::now() + wait;
        while Instant::now() < until {
            tokio::time::sleep_until(until.min(Instant::now() + self.shared.settings.timing.poll)).await;
            let found = socket::identity(&self.kubelet_socket());
            if kubelet.is_some() && found.is_some() && found != kubelet {
                return true;
            }
        }
        false
    }

    async fn serve(&self) -> std::io::Result<Open> {
        let directory = self.directory();
        if let Err(error) = socket::remove_left_over(&directory).await {
            tracing::warn!(directory = %directory.display(), %error, "cannot look for sockets of earlier processes");
        }
        let (socket, listener) = Socket::bind(&directory, &self.resource)?;
        let (end, close) = (CancellationToken::new(), CancellationToken::new());
        let service = Service {
            shared: Arc::clone(&self.shared),
            resource: Arc::clone(&self.resource),
            list: self.list.clone(),
            readers: watch::Sender::default(),
            busy: watch::Sender::default(),
            end,
        };
        let router = Server::builder().add_service(DevicePluginServer::new(service.clone()));
        let (closed, resource) = (close.clone(), Arc::clone(&self.resource));
        let server = tokio::spawn(async move {
            let incoming = UnixListenerStream::new(listener);
            if let Err(error) = router.serve_with_incoming_shutdown(incoming, closed.cancelled_owned()).await {
                tracing::error!(resource = &*resource, %error, "the device plugin's server ended");
            }
        });
        tracing::info!(resource = &*self.resource, socket = socket.name(), "the device plugin is served");
        Ok(Open { socket, service, close, server })
    }

    async fn register(&self, socket: &Socket) -> Result<(), RegisterError> {
        let path = self.kubelet_socket();
        let request = api::RegisterRequest {
            version: VERSION.to_owned(),
            endpoint: socket.name(),
            resource_name: self.resource.to_string(),
            options: Some(OPTIONS),
        };
        let call = async {
            let mut client = RegistrationClient::new(connect(&path).await?);
            client.register(request).await.map_err(|status| RegisterError::Refused(status.message().to_owned()))
        };
        let limit = self.shared.settings.timing.register;
        tokio::time::timeout(limit, call).await.map_err(|_| RegisterError::Silent(limit))?.map(drop)
    }

    fn directory(&self) -> PathBuf {
        self.shared.settings.device_plugins()
    }

    fn kubelet_socket(&self) -> PathBuf {
        self.directory().join("kubelet.sock")
    }

    fn count(&self, result: &'static str) {
        let label = metrics::Registration { resource: self.resource.to_string(), result };
        self.shared.metrics.registrations.get_or_create(&label).inc();
    }
}

impl Open {
    fn is_read(&self) -> bool {
        self.service.readers.borrow().open > 0
    }

    /// Answers what is being asked, then hangs up, then goes. Each step has its limit: a kubelet that does not let go does not keep
    /// the agent from stopping.
    async fn shut(self, limit: Duration) {
        let Self { socket, service, close, server } = self;
        let mut busy = service.busy.subscribe();
        let quiet = async {
            loop {
                // The service itself holds the sender.
                let _ = busy.wait_for(|busy| *busy == 0).await;
                tokio::time::sleep(LINGER).await;
                if *busy.borrow() == 0 {
                    return;
                }
            }
        };
        if tokio::time::timeout(limit, quiet).await.is_err() {
            tracing::warn!(socket = socket.name(), "calls of the kubelet are not answered in time; hanging up");
        }
        service.end.cancel();
        close.cancel();
        let abort = server.abort_handle();
        if tokio::time::timeout(limit, server).await.is_err() {
            abort.abort();
        }
        drop(socket);
    }
}

/// Why a registration failed.
#[derive(Debug, thiserror::Error)]
enum RegisterError {
    #[error("cannot connect to {path}: {reason}")]
    Unreachable { path: String, reason: String },
    #[error("the kubelet refused: {0}")]
    Refused(String),
    #[error("the kubelet did not answer within {0:?}")]
    Silent(Duration),
}

async fn connect(path: &Path) -> Result<tonic::transport::Channel, RegisterError> {
    let socket = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    // The host of the URI is sent as the authority and means nothing on a Unix socket.
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.map_err(|error| {
        let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        RegisterError::Unreachable { path: path.display().to_string(), reason }
    })
}
