//! One HTTP request at a time, plain or over TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Status and body.
pub(crate) type Answer = Result<(u16, String), String>;

/// Asks over plain HTTP.
pub(crate) async fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> Answer {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    send(stream, method, path, body).await
}

/// `GET` that must be answered.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    ask(address, "GET", path, "").await.unwrap()
}

/// Asks over TLS.
pub(crate) async fn ask_tls(
    address: SocketAddr,
    name: &str,
    config: Arc<rustls::ClientConfig>,
    method: &str,
    path: &str,
    body: &str,
) -> Answer {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| error.to_string())?;
    send(stream, method, path, body).await
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: &str,
    path: &str,
    body: &str,
) -> Answer {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .unwrap();
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
