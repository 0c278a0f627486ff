//! The measured server in a process of its own: this very program, started again with a role. It ends when its standard input
//! closes, so that none outlives the measurement.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use axum::http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use packhorse::certs::authority::Authority;
use packhorse::certs::serving::{Served, Serving};
use packhorse::cli::server::health::Health;
use packhorse::cli::server::namespaces::Namespaces;
use packhorse::ledger::Ledger;
use packhorse::serve::{self, Limits, tls};
use packhorse::webhook::{self, Metrics, Webhook};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::protocols;

/// What a process serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The product.
    Webhook,
    /// Receives the body and answers `allowed: true` without looking at it: what the transport costs.
    Reference,
}

impl Role {
    pub const ALL: [Self; 2] = [Self::Reference, Self::Webhook];

    pub fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Reference => "reference",
        }
    }

    /// Of `--role NAME` among this process's arguments.
    pub fn of_this_process() -> Option<Self> {
        let name = std::env::args().skip_while(|argument| argument != "--role").nth(1)?;
        Some(*Self::ALL.iter().find(|role| role.name() == name).expect("a role"))
    }
}

/// A certificate for `localhost` in `folder`, and the CA that signed it.
pub fn certificate(folder: &Path) -> String {
    let (now, year) = (SystemTime::now(), Duration::from_secs(365 * 86_400));
    let authority = Authority::generate(now, year).expect("a CA");
    let leaf = authority.issue(now, &["localhost".to_owned()], year).expect("a certificate");
    std::fs::write(folder.join("tls.crt"), &leaf.certificate).expect("written");
    std::fs::write(folder.join("tls.key"), &leaf.key).expect("written");
    authority.certificate
}

/// Serves `role` with the certificate of `folder` until standard input closes; says its port on standard output.
pub fn serve(role: Role, folder: &Path) {
    let read = |name| std::fs::read(folder.join(name)).expect("a file");
    let serving = Arc::new(Serving::default());
    serving.swap(Served::from_pem(&read("tls.crt"), &read("tls.key")).expect("a certificate"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).expect("a port");
    println!("{}", listener.local_addr().expect("an address").port());
    std::io::stdout().flush().expect("said");
    let _its_driver = runtime.enter();
    match role {
        Role::Webhook => drop(runtime.spawn(product(listener, serving))),
        Role::Reference => reference(listener, serving),
    }
    std::io::stdin().lines().for_each(drop);
}

/// As `packhorse server` wires it.
fn product(listener: TcpListener, serving: Arc<Serving>) -> impl Future<Output = ()> + Send + 'static {
    let namespaces = Arc::new(Namespaces::default());
    let count_alone = {
        let namespaces = Arc::clone(&namespaces);
        Box::new(move |namespace: &str| namespaces.count_alone(namespace))
    };
    let webhook = Webhook::new(Arc::default(), count_alone, Metrics::new(&mut Registry::default()));
    let health = Arc::new(Health::new(Arc::clone(&serving), namespaces, Arc::new(Ledger::default())));
    let router = webhook::router(Arc::new(webhook)).merge(health.router());
    let config = protocols::both(&tls::server_config(serving, None).expect("a TLS configuration"));
    let limits = Limits::default();
    serve::run_apart("webhook", listener, Some(config), router, limits, std::future::pending()).expect("a thread")
}

/// On a thread of its own too.
fn reference(listener: TcpListener, serving: Arc<Serving>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let listener = {
        let _its_driver = runtime.enter();
        TcpListener::from_std(listener.into_std().expect("a listener")).expect("a listener")
    };
    std::thread::spawn(move || runtime.block_on(allow_all(listener, serving)));
}

async fn allow_all(listener: TcpListener, serving: Arc<Serving>) {
    let config = tls::server_config(serving, None).expect("a TLS configuration");
    let acceptor = TlsAcceptor::from(protocols::both(&config));
    let http = Arc::new(auto::Builder::new(TokioExecutor::new()));
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("set");
        let (acceptor, http) = (acceptor.clone(), Arc::clone(&http));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            // The client hanging up is how a connection ends here.
            let _ = http.serve_connection(TokioIo::new(stream), hyper::service::service_fn(allow)).await;
        });
    }
}

async fn allow(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    request.into_body().collect().await.expect("a body");
    let mut response = Response::new(Full::from(
        r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","response":{"uid":"705ab4f5","allowed":true}}"#,
    ));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// A server that runs.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pub address: SocketAddr,
}

impl Process {
    pub fn start(role: Role, folder: &Path) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args(["--bench", "--role", role.name(), "--folder"])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut port = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut port).expect("a line");
        let port = port.trim().parse::<u16>().expect("a port");
        Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    /// CPU time that all its threads have used.
    pub fn cpu(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("its threads");
        let nanos = tasks.map(|task| {
            let text = std::fs::read_to_string(task.expect("a thread").path().join("schedstat")).expect("its times");
            text.split_whitespace().next().expect("a time").parse::<u64>().expect("nanoseconds")
        });
        Duration::from_nanos(nanos.sum())
    }

    /// Resident memory, MiB.
    pub fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("kB") / 1024.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Already ended is as good.
        let _ = self.child.wait();
    }
}
