//! Callers of a webhook that trust what the webhook configuration says, as the API server does: over real TLS, each on fresh
//! connections and on a kept one, with a bundle that may be some moments old.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::api::Cluster;

pub(crate) const HOST: &str = "packhorse-server.packhorse-system.svc";

/// A client's TLS configuration that trusts the CAs in `bundle`.
pub(crate) fn trusting(bundle: &str) -> Arc<ClientConfig> {
    finished(builder(bundle).with_no_client_auth())
}

/// The same with a certificate of its own and its key (PKCS 8).
pub(crate) fn trusting_with(bundle: &str, certificate: CertificateDer<'static>, key: Vec<u8>) -> Arc<ClientConfig> {
    let key = PrivateKeyDer::Pkcs8(key.into());
    finished(builder(bundle).with_client_auth_cert(vec![certificate], key).unwrap())
}

fn builder(bundle: &str) -> rustls::ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_root_certificates(roots)
}

fn finished(mut config: ClientConfig) -> Arc<ClientConfig> {
    // A resumed session skips the certificate, which is what is tested here.
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

pub(crate) type Sender = http1::SendRequest<Empty<Bytes>>;

/// A connection on which requests can be sent.
pub(crate) async fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> Result<Sender, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
    let name = ServerName::try_from(HOST).unwrap();
    let stream =
        TlsConnector::from(config).connect(name, stream).await.map_err(|error| format!("handshake: {error}"))?;
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("http: {error}"))?;
    tokio::spawn(connection);
    Ok(sender)
}

/// One GET, which must be answered with 200.
pub(crate) async fn get(sender: &mut Sender, path: &str) -> Result<String, String> {
    let request = hyper::Request::get(path).header("host", HOST).body(Empty::new()).unwrap();
    let answer = sender.send_request(request).await.map_err(|error| format!("request: {error}"))?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(|error| format!("answer: {error}"))?.to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    if status == 200 { Ok(body) } else { Err(format!("status {status}: {body}")) }
}

/// What became of all calls so far.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) answered: AtomicUsize,
    pub(crate) failed: std::sync::Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Tally {
    fn note(&self, result: Result<String, String>) {
        match result {
            Ok(_) => _ = self.answered.fetch_add(1, Ordering::Relaxed),
            Err(error) => self.failed.lock().unwrap().push(error),
        }
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Calls all `addresses` without a break until stopped. The bundle is read again every `lag`, as an API server hears of a
/// changed configuration a moment late.
pub(crate) fn start(
    api: &Cluster,
    addresses: &[SocketAddr],
    lag: Duration,
) -> (Arc<Tally>, Vec<tokio::task::JoinHandle<()>>) {
    let tally = Arc::new(Tally::default());
    let callers = addresses.iter().map(|&address| {
        let (tally, api) = (Arc::clone(&tally), api.clone());
        tokio::spawn(async move {
            let bundle = || api.bundles().swap_remove(0);
            let mut config = trusting(&bundle());
            let mut read = Instant::now();
            let mut kept = connect(address, Arc::clone(&config)).await.unwrap();
            while !tally.stop.load(Ordering::Relaxed) {
                if read.elapsed() >= lag {
                    (config, read) = (trusting(&bundle()), Instant::now());
                }
                let fresh = async {
                    let mut sender = connect(address, Arc::clone(&config)).await?;
                    get(&mut sender, "/").await
                };
                tally.note(fresh.await);
                tally.note(get(&mut kept, "/").await);
                // Leaves the other tests some of the processor.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
    });
    let callers = callers.collect();
    (tally, callers)
}
