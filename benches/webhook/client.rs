//! The caller, as kube-apiserver is one: TLS 1.3, HTTP/1.1 or HTTP/2, its headers, no session kept between connections unless asked.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use packhorse::serve::tls;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    pub const ALL: [Self; 2] = [Self::Http1, Self::Http2];

    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }
}

/// How connections are made.
#[derive(Clone)]
pub struct Dialer {
    protocol: Protocol,
    tls: TlsConnector,
    address: SocketAddr,
}

/// An open connection.
pub enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Dialer {
    /// With `resume`, sessions are resumed. Go's clients do not, unless they are given a cache, which kube-apiserver's are not.
    pub fn new(protocol: Protocol, resume: bool, ca: &str, address: SocketAddr) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).expect("a CA")).expect("a CA");
        let mut config = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = match protocol {
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
            Protocol::Http2 => vec![b"h2".to_vec()],
        };
        if !resume {
            config.resumption = Resumption::disabled();
        }
        Self { protocol, tls: TlsConnector::from(Arc::new(config)), address }
    }

    pub async fn dial(&self) -> Connection {
        let stream = TcpStream::connect(self.address).await.expect("connected");
        stream.set_nodelay(true).expect("set");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TokioIo::new(self.tls.connect(name, stream).await.expect("a TLS session"));
        match self.protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(stream).await.expect("HTTP/1.1");
                tokio::spawn(connection);
                Connection::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
                tokio::spawn(connection);
                Connection::Http2(sender)
            }
        }
    }
}

impl Connection {
    /// Sends a review and takes the answer.
    pub async fn call(&mut self, body: &Bytes) -> Bytes {
        let uri = match self {
            Self::Http1(_) => "/mutate?timeout=10s",
            Self::Http2(_) => "https://localhost/mutate?timeout=10s",
        };
        let request = Request::post(uri)
            .header("host", "localhost")
            .header("accept", "application/json, */*")
            .header("content-type", "application/json")
            .header("user-agent", "kube-apiserver-admission")
            .header("accept-encoding", "gzip")
            .body(Full::new(body.clone()))
            .expect("a request");
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await.expect("open");
                sender.send_request(request).await
            }
            Self::Http2(sender) => sender.send_request(request).await,
        };
        let response = response.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body().collect().await.expect("a body").to_bytes()
    }
}
