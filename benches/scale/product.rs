//! `packhorse server` as a process: started, asked, looked at from outside.

#![allow(missing_docs, unreachable_pub, clippy::expect_used, reason = "a measurement ends where it fails")]

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tempfile::TempDir;

use super::api_server::Served;

/// It has settled when it used no processor time for so long.
const QUIET: Duration = Duration::from_millis(1_500);

/// A running server.
#[derive(Debug)]
pub struct Product {
    pub started: Instant,
    metrics: SocketAddr,
    extender: SocketAddr,
    child: Child,
    files: TempDir,
    http: Client<HttpConnector, Full<Bytes>>,
}

/// Memory of the process, MB (10^6 bytes).
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Resident now.
    pub resident: f64,
    /// Of that, not backed by a file.
    pub anonymous: f64,
    /// The most that was ever resident.
    pub peak: f64,
}

impl Product {
    /// Starts the binary that `PACKHORSE_BINARY` names, else the one that was built with this program.
    pub fn start(api: &Served) -> Self {
        let binary = std::env::var_os("PACKHORSE_BINARY")
            .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_packhorse")), PathBuf::from);
        let files = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            let path = files.path().join(name);
            fs::write(&path, text).expect("a file");
            path
        };
        let ca = write("ca.crt", &api.authority);
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "scale",
            "clusters": [{"name": "scale", "cluster": {
                "server": format!("https://{}", api.address), "certificate-authority": ca,
            }}],
            "users": [{"name": "scale", "user": {"token": "scale"}}],
            "contexts": [{"name": "scale", "context": {"cluster": "scale", "user": "scale"}}],
        });
        let kubeconfig = write("kubeconfig", &kubeconfig.to_string());
        let certificate = write("tls.crt", &api.webhook.0);
        let key = write("tls.key", &api.webhook.1);
        let log = fs::File::create(files.path().join("log")).expect("a file");
        let [metrics, extender, webhook] = free();
        let mut command = Command::new(&binary);
        command.arg("server").arg("--kubeconfig").arg(kubeconfig);
        command.arg("--tls-cert").arg(certificate).arg("--tls-key").arg(key);
        command.arg("--metrics-listen").arg(metrics.to_string());
        command.arg("--extender-listen").arg(extender.to_string());
        command.arg("--webhook-listen").arg(webhook.to_string());
        command.stdout(log.try_clone().expect("a file")).stderr(log).stdin(Stdio::null());
        let started = Instant::now();
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
        let http = Client::builder(TokioExecutor::new()).build_http();
        Self { started, metrics, extender, child, files, http }
    }

    async fn get(&self, path: &str) -> Option<(u16, Bytes)> {
        let uri = format!("http://{}{path}", self.metrics).parse().expect("an address");
        let answer = self.http.get(uri).await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.into_body().collect().await.ok()?.to_bytes()))
    }

    /// Waits until the ledger is complete.
    pub async fn ready(&mut self) -> Instant {
        loop {
            if matches!(self.get("/readyz/extender").await, Some((200, _))) {
                return Instant::now();
            }
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("packhorse ended: {status}\n{}", self.log());
            }
            assert!(self.started.elapsed() < Duration::from_secs(300), "not ready\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until it rests, a minute at most.
    pub async fn settled(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let (mut used, mut since) = (self.cpu(), Instant::now());
        while since.elapsed() < QUIET && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(100)).await;
            // A few ticks now and then are no work.
            let now = self.cpu();
            if now - used > 0.02 {
                (used, since) = (now, Instant::now());
            }
        }
    }

    /// How long `/metrics` takes to answer, and the bytes of it.
    pub async fn scrape(&self) -> (Duration, usize) {
        self.timed("/metrics").await
    }

    /// The same of one look of the page.
    pub async fn look(&self) -> (Duration, usize) {
        self.timed("/api/v1/cluster").await
    }

    async fn timed(&self, path: &str) -> (Duration, usize) {
        let began = Instant::now();
        let (status, text) = self.get(path).await.expect("an answer");
        assert_eq!(status, 200, "{path}");
        (began.elapsed(), text.len())
    }

    /// Whether a pod that wants a whole GPU fits the node.
    pub async fn fits(&self, pod: &str, node: &str) -> bool {
        let request = format!(r#"{{"Pod":{pod},"Nodes":null,"NodeNames":["{node}"]}}"#);
        let request = axum::http::Request::post(format!("http://{}/filter", self.extender))
            .header("content-type", "application/json")
            .body(Full::from(request))
            .expect("a request");
        let answer = self.http.request(request).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let answer = answer.into_body().collect().await.expect("an answer").to_bytes();
        let answer: serde_json::Value = serde_json::from_slice(&answer).expect("JSON");
        answer["NodeNames"].as_array().is_some_and(|names| !names.is_empty())
    }

    /// Seconds of processor time so far.
    pub fn cpu(&self) -> f64 {
        let stat = self.proc("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<f64>().expect("ticks");
        (ticks(11) + ticks(12)) / 100.0
    }

    pub fn memory(&self) -> Memory {
        let status = self.proc("status");
        let read = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of memory");
            let kib = line.trim_start_matches(':').trim().trim_end_matches("kB").trim();
            kib.parse::<f64>().expect("kB") * 1024.0 / 1e6
        };
        Memory { resident: read("VmRSS"), anonymous: read("RssAnon"), peak: read("VmHWM") }
    }

    fn proc(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).unwrap_or_else(|error| {
            panic!("packhorse ended: {error}\n{}", self.log());
        })
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.files.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports that nobody uses.
fn free() -> [SocketAddr; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("an address"))
}
