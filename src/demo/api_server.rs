//! An API server in the process: a real HTTP server on a loopback port that speaks enough of Kubernetes for Packhorse's own client,
//! for curl and for a scheduling loop. Written by the demo and by tests, read through `kube::Client` like the original.
//!
//! It refuses what the original refuses: a second bind, a wrong UID, a stale `resourceVersion`, an existing name, a missing
//! namespace, a changed pod specification, a fractional extended resource, a path it does not serve. It does not do: authentication
//! and RBAC, CEL (`matchConditions` and admission policies), field ownership of server-side apply, quota, garbage collection.
//!
//! It also fails on purpose, by seed or on demand: see [`Faults`].

mod admission;
mod faults;
mod http;
mod object;
mod operations;
mod patch;
mod pod;
pub(crate) mod quantity;
mod refusal;
mod request_log;
mod resource;
mod selector;
mod store;
mod verbs;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use faults::{Faults, Match, Rates};
pub use refusal::Refusal;
pub use request_log::Entry;
pub use store::{Change, ChangeKind};

use operations::{Deletion, Operations};
use resource::{Resource, Target};

/// How the server starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// What `/version` answers.
    pub version: String,
    /// For faults, UIDs and generated names.
    pub seed: u64,
    /// What goes wrong at random; nothing by default.
    pub faults: Rates,
    /// How often an open watch that wants bookmarks gets one.
    pub bookmark_every: Duration,
    /// How many changes the log keeps; a watch that resumes from before gets 410.
    pub history: usize,
    /// Priority classes by name, beside the two of the system.
    pub priority_classes: BTreeMap<String, i32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            port: 0,
            version: "v1.36.1".to_owned(),
            seed: 0,
            faults: Rates::default(),
            bookmark_every: Duration::from_secs(10),
            history: 100_000,
            priority_classes: BTreeMap::new(),
        }
    }
}

/// What the tasks of the server share.
#[derive(Debug)]
struct Server {
    store: Arc<store::Store>,
    operations: Operations,
    admission: admission::Admission,
    faults: Faults,
    log: request_log::RequestLog,
    version: String,
    bookmark_every: Duration,
    stop: CancellationToken,
}

/// A running API server; stops when dropped.
#[derive(Debug)]
pub struct ApiServer {
    server: Arc<Server>,
    address: SocketAddr,
    _stop: DropGuard,
}

impl ApiServer {
    /// Listens on 127.0.0.1 and serves until dropped. The namespaces `default`, `kube-system` and `kube-public` exist.
    ///
    /// # Errors
    /// Where the port cannot be bound.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, settings.port)).await?;
        let address = listener.local_addr()?;
        let store = Arc::new(store::Store::new(settings.history.max(1)));
        let stop = CancellationToken::new();
        let server = Arc::new(Server {
            operations: Operations::new(Arc::clone(&store), settings.priority_classes, settings.seed),
            faults: Faults::new(Arc::clone(&store), settings.seed, settings.faults),
            store,
            admission: admission::Admission::default(),
            log: request_log::RequestLog::default(),
            version: settings.version,
            bookmark_every: settings.bookmark_every.max(Duration::from_millis(10)),
            stop: stop.clone(),
        });
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(listener, Arc::clone(&server))));
        let api = Self { server, address, _stop: stop.drop_guard() };
        for namespace in ["default", "kube-public", "kube-system"] {
            api.objects()
                .create("namespaces", json!({"metadata": {"name": namespace}}))
                .map_err(|refusal| io::Error::other(refusal.to_string()))?;
        }
        Ok(api)
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client as the server's parts use it; no credentials are needed.
    ///
    /// # Errors
    /// Where the client cannot be built.
    pub fn client(&self) -> Result<kube::Client, kube::Error> {
        self.client_as("kube-rs")
    }

    /// The same with a `User-Agent` by which the request log tells clients apart.
    ///
    /// # Errors
    /// Where the client cannot be built.
    pub fn client_as(&self, user_agent: &'static str) -> Result<kube::Client, kube::Error> {
        let url = self.url().parse().map_err(|error| kube::Error::Service(Box::new(error)))?;
        let mut config = kube::Config::new(url);
        config.headers.push((hyper::header::USER_AGENT, hyper::header::HeaderValue::from_static(user_agent)));
        kube::Client::try_from(config)
    }

    /// The objects themselves, past HTTP, admission and faults.
    pub fn objects(&self) -> Objects {
        Objects { server: Arc::clone(&self.server) }
    }

    /// What goes wrong.
    pub fn faults(&self) -> Faults {
        self.server.faults.clone()
    }

    /// The last 200,000 requests for objects, in the order they began.
    pub fn requests(&self) -> Vec<Entry> {
        self.server.log.all()
    }

    /// How long each call of a webhook took.
    pub fn webhook_times(&self) -> Vec<Duration> {
        self.server.admission.times()
    }

    /// Has pods sent to a mutating webhook from now on, with failure policy `Fail`: at creation, and where an ephemeral container
    /// is added. `ca_pem` is ignored for a plain HTTP URL.
    ///
    /// # Errors
    /// Where a configuration of that name exists.
    pub fn configure_webhook(&self, name: &str, url: &str, ca_pem: &str) -> Result<(), Refusal> {
        use base64::Engine as _;
        let bundle = base64::engine::general_purpose::STANDARD.encode(ca_pem);
        let rule = |operations: &[&str], resources: &[&str]| json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": operations, "resources": resources, "scope": "*"});
        let configuration = json!({"metadata": {"name": name}, "webhooks": [{
            "name": name, "clientConfig": {"url": url, "caBundle": bundle}, "failurePolicy": "Fail", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "timeoutSeconds": 10, "reinvocationPolicy": "IfNeeded",
            "rules": [rule(&["CREATE"], &["pods"]), rule(&["UPDATE"], &["pods/ephemeralcontainers"])],
        }]});
        self.objects().create("mutatingwebhookconfigurations", configuration).map(|_| ())
    }
}

async fn accept(listener: TcpListener, server: Arc<Server>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(server.stop.clone().run_until_cancelled_owned(serve(stream, Arc::clone(&server))));
            }
            // Out of file descriptors, most likely: clients retry, and so do we.
            Err(error) => {
                tracing::warn!(%error, "the demo's API server cannot accept connections");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, server: Arc<Server>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let service = service_fn(move |request| http::handle(Arc::clone(&server), request));
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        // Cut connections end here, on purpose or not.
        tracing::debug!(%error, "connection ended");
    }
}

/// The objects themselves, past HTTP, admission and faults; the rules of the API still hold. Kinds are named by their plural. The
/// objects given back carry no `kind` and `apiVersion`.
#[derive(Debug, Clone)]
pub struct Objects {
    server: Arc<Server>,
}

impl Objects {
    fn target(plural: &str, namespace: &str, name: &str, subresource: &str) -> Result<Target, Refusal> {
        let resource = Resource::by_plural(plural)
            .ok_or_else(|| Refusal::new(404, "NotFound", format!("{plural:?} is not served")))?;
        Ok(Target {
            resource,
            namespace: if resource.namespaced { namespace.to_owned() } else { String::new() },
            name: name.to_owned(),
            subresource: subresource.to_owned(),
        })
    }

    /// Creates an object; its namespace is `default` where it names none. A `status` in the body is stored as given.
    ///
    /// # Errors
    /// As the API answers.
    pub fn create(&self, plural: &str, object: Value) -> Result<Arc<Value>, Refusal> {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
        let target = Self::target(plural, &namespace, "", "")?;
        let status = object.get("status").cloned();
        let new = self.server.operations.prepare(&target, object)?;
        let created = self.server.operations.create(&target, new, false)?;
        match status {
            Some(status) if target.resource.status => {
                self.patch_status(plural, &namespace, object::meta(&created, "name"), &json!({ "status": status }))
            }
            _ => Ok(created),
        }
    }

    /// One object.
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let target = Self::target(plural, namespace, name, "").ok()?;
        self.server.operations.get(&target).ok()
    }

    /// All objects of a kind, by namespace and name; of one namespace where it is not empty.
    pub fn list(&self, plural: &str, namespace: &str) -> Vec<Arc<Value>> {
        let Some(resource) = Resource::by_plural(plural) else { return Vec::new() };
        self.server.store.read().list(resource, namespace)
    }

    /// Merges into an object (a JSON merge patch).
    ///
    /// # Errors
    /// As the API answers.
    pub fn patch(&self, plural: &str, namespace: &str, name: &str, patch: &Value) -> Result<Arc<Value>, Refusal> {
        self.merge(&Self::target(plural, namespace, name, "")?, patch)
    }

    /// Merges into an object's status and metadata, as through the status subresource.
    ///
    /// # Errors
    /// As the API answers.
    pub fn patch_status(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<Arc<Value>, Refusal> {
        self.merge(&Self::target(plural, namespace, name, "status")?, patch)
    }

    fn merge(&self, target: &Target, patch: &Value) -> Result<Arc<Value>, Refusal> {
        loop {
            let update = self.server.operations.compute(target, false, |old| {
                let mut new = old.clone();
                patch::apply(patch::Kind::Merge, &mut new, patch)?;
                Ok(new)
            })?;
            if let Some(stored) = self.server.operations.commit(target, update, false)? {
                return Ok(stored);
            }
        }
    }

    /// Binds a pod with annotations, as `pods/binding` does. An empty `uid` is no precondition.
    ///
    /// # Errors
    /// As the API answers.
    pub fn bind(&self, namespace: &str, name: &str, uid: &str, node: &str, annotations: &Value) -> Result<(), Refusal> {
        let target = Self::target("pods", namespace, name, "binding")?;
        let binding = json!({"metadata": {"name": name, "uid": uid, "annotations": annotations}, "target": {"kind": "Node", "name": node}});
        self.server.operations.bind(&target, &binding, false)
    }

    /// Deletes; `grace` in seconds, `None` for the object's own. 0 is at once.
    ///
    /// # Errors
    /// As the API answers.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str, grace: Option<i64>) -> Result<(), Refusal> {
        let target = Self::target(plural, namespace, name, "")?;
        self.server.operations.delete(&target, &Deletion { grace, ..Deletion::default() }).map(|_| ())
    }

    /// The version of the last change.
    pub fn version(&self) -> u64 {
        self.server.store.read().version
    }

    /// Every change from now on, complete and in order: no fault touches it.
    pub fn observe(&self) -> mpsc::UnboundedReceiver<Change> {
        self.server.store.write(store::State::observe)
    }
}

#[cfg(test)]
mod tests;
