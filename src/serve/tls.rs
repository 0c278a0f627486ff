//! rustls configurations for our listeners: ring, TLS 1.2 and 1.3, HTTP/1.1, client certificates on demand.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

/// Why a TLS configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The PEM text holds no certificate, or one that cannot be read.
    #[error("client CA: {0}")]
    ClientCa(String),
    /// rustls refuses the configuration.
    #[error("TLS configuration: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The one crypto provider of the process.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Makes ring the process's default provider, for crates that ask rustls for one. Calling it again does nothing.
pub fn install_provider() {
    // An error says that a provider is installed already: ours, from an earlier call.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A server's configuration. It offers HTTP/1.1 alone: to kube-apiserver and kube-scheduler, which ask one thing at a time, HTTP/2 has nothing to give
/// and costs half as much again (`benches/README.md`); it would keep all of kube-apiserver's calls on one replica, and has more
/// ways to be flooded. With `clients`, only peers with a certificate it accepts get through the handshake.
///
/// # Errors
/// [`Error::Rustls`], which the fixed provider rules out in practice.
pub fn server_config(
    certificate: Arc<dyn ResolvesServerCert>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>, Error> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Accepts clients whose certificate is signed by one of the CAs in `pem`.
///
/// # Errors
/// [`Error::ClientCa`] where `pem` holds no readable certificate.
pub fn client_verifier(pem: &[u8]) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| Error::ClientCa(error.to_string()))?;
        roots.add(certificate).map_err(|error| Error::ClientCa(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(Error::ClientCa("no certificate in it; it must hold at least one in PEM".to_owned()));
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| Error::ClientCa(error.to_string()))
}
