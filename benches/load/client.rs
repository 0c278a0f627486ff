//! A cheap client: one connection, one call at a time. HTTP/1.1 is written and read by hand, HTTP/2 is hyper's.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use packhorse::serve::tls::provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio::runtime::Runtime;

use crate::case::{Case, Protocol};
use crate::process::Process;
use crate::request;

/// Longer than any body's beginning and head.
const ROOM: usize = 64 << 10;

/// Go sends a request's head and the body's beginning at once when its buffer is full,
const FIRST: usize = 4 << 10;
/// then the rest in such parts (`io.Copy`), over TLS each as two records.
const PART: usize = 32 << 10;

/// One connection to a server.
pub enum Client {
    Http1(Box<Http1>),
    Http2(Box<Http2>),
}

trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// By hand.
pub struct Http1 {
    stream: Box<dyn Stream>,
    /// The request ends where this ends, so that what all requests have in common is not copied.
    request: Vec<u8>,
    /// Which end is in there.
    end: Bytes,
    head: String,
    answer: Vec<u8>,
}

/// By hyper.
pub struct Http2 {
    runtime: Runtime,
    sender: http2::SendRequest<Full<Bytes>>,
    answer: Vec<u8>,
}

impl Client {
    pub fn new(case: &Case, server: &Process) -> Self {
        let address = if case.tls { server.tls } else { server.plain };
        let tls = case.tls.then(|| Arc::new(config(&server.authority, case.protocol)));
        match case.protocol {
            Protocol::Http1 => {
                let stream = TcpStream::connect(address).expect("connected");
                stream.set_nodelay(true).expect("set");
                let stream: Box<dyn Stream> = match tls {
                    None => Box::new(stream),
                    Some(config) => {
                        let session = ClientConnection::new(config, host()).expect("a TLS session");
                        Box::new(StreamOwned::new(session, stream))
                    }
                };
                let (request, end) = (vec![0; ROOM], Bytes::new());
                Self::Http1(Box::new(Http1 { stream, request, end, head: String::new(), answer: Vec::new() }))
            }
            Protocol::Http2 => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                let sender = runtime.block_on(async {
                    let stream = tokio::net::TcpStream::connect(address).await.expect("connected");
                    stream.set_nodelay(true).expect("set");
                    match tls {
                        None => handshake(stream).await,
                        Some(config) => {
                            let stream = tokio_rustls::TlsConnector::from(config).connect(host(), stream).await;
                            handshake(stream.expect("a TLS session")).await
                        }
                    }
                });
                Self::Http2(Box::new(Http2 { runtime, sender, answer: Vec::new() }))
            }
        }
    }

    /// Posts a body in two parts: the answer, and how long it took from the first byte written to the last one read.
    pub fn post(&mut self, path: &str, begin: &str, end: &Bytes) -> (Duration, &[u8]) {
        match self {
            Self::Http1(client) => client.post(path, begin, end),
            Self::Http2(client) => client.post(path, begin, end),
        }
    }
}

impl Http1 {
    fn post(&mut self, path: &str, begin: &str, end: &Bytes) -> (Duration, &[u8]) {
        if (self.end.as_ptr(), self.end.len()) != (end.as_ptr(), end.len()) {
            self.request.truncate(ROOM);
            self.request.extend_from_slice(end);
            self.end = end.clone();
        }
        request::head(&mut self.head, path, begin.len() + end.len());
        let body = ROOM - begin.len();
        let from = body - self.head.len();
        self.request[from..body].copy_from_slice(self.head.as_bytes());
        self.request[body..ROOM].copy_from_slice(begin.as_bytes());
        let request = &self.request[from..];
        let (first, rest) = request.split_at(request.len().min(FIRST));
        let start = Instant::now();
        for part in std::iter::once(first).chain(rest.chunks(PART)) {
            self.stream.write_all(part).expect("sent");
            self.stream.flush().expect("sent");
        }
        let body = receive(&mut self.stream, &mut self.answer);
        (start.elapsed(), &self.answer[body..])
    }
}

/// One answer, and where its body begins.
fn receive(stream: &mut dyn Stream, answer: &mut Vec<u8>) -> usize {
    let mut filled = 0;
    let mut whole = None;
    loop {
        if answer.len() < filled + ROOM {
            answer.resize(filled + ROOM, 0);
        }
        let n = stream.read(&mut answer[filled..]).expect("received");
        assert!(n > 0, "the server hung up");
        filled += n;
        if whole.is_none()
            && let Some(end) = answer[..filled].windows(4).position(|w| w == b"\r\n\r\n")
        {
            let head = std::str::from_utf8(&answer[..end]).expect("text").to_ascii_lowercase();
            assert!(head.starts_with("http/1.1 200"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
            whole = Some((end + 4, end + 4 + length.parse::<usize>().expect("a number")));
        }
        if let Some((body, end)) = whole
            && filled >= end
        {
            answer.truncate(end);
            return body;
        }
    }
}

impl Http2 {
    fn post(&mut self, path: &str, begin: &str, end: &Bytes) -> (Duration, &[u8]) {
        let body = Bytes::from([begin.as_bytes(), end].concat());
        let uri = format!("http://127.0.0.1{path}");
        let request = hyper::Request::post(uri).header("content-type", "application/json").body(Full::new(body));
        let request = request.expect("a request");
        let start = Instant::now();
        let answer = self.runtime.block_on(async {
            let answer = self.sender.send_request(request).await.expect("sent");
            assert_eq!(answer.status(), 200);
            answer.into_body().collect().await.expect("received").to_bytes()
        });
        let took = start.elapsed();
        self.answer = answer.into();
        (took, &self.answer)
    }
}

async fn handshake(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
) -> http2::SendRequest<Full<Bytes>> {
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("an HTTP/2 connection");
    tokio::spawn(connection);
    sender
}

fn host() -> ServerName<'static> {
    ServerName::try_from("127.0.0.1").expect("an address")
}

/// As Go's client chooses where the processor knows AES: AES-128 first.
fn config(authority: &str, protocol: Protocol) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate.expect("PEM")).expect("a CA");
    }
    let mut provider = (*provider()).clone();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = match protocol {
        Protocol::Http1 => vec![b"http/1.1".to_vec()],
        Protocol::Http2 => vec![b"h2".to_vec()],
    };
    config
}
