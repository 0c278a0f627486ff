//! Whether the extender may listen where it is told to, checked before anything starts: one that is open to the network ends the
//! process with the flag's name.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};

use crate::certs::Metrics;
use crate::certs::files::{Files, Pair};
use crate::certs::serving::Serving;
use crate::serve::tls;

/// The three files of the extender's mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtenderTls {
    /// What the extender presents.
    pub pair: Pair,
    /// CAs that sign its clients' certificates.
    pub client_ca: PathBuf,
}

/// Whoever reaches the extender may book GPUs, and it asks nobody for a name. So it listens on loopback, or only to clients with a
/// certificate.
///
/// # Errors
/// Names the flags that are missing.
pub fn extender_tls(
    address: SocketAddr,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
) -> anyhow::Result<Option<ExtenderTls>> {
    match (certificate, key, client_ca) {
        (Some(certificate), Some(key), Some(client_ca)) => {
            Ok(Some(ExtenderTls { pair: Pair { certificate, key }, client_ca }))
        }
        (None, None, None) if address.ip().to_canonical().is_loopback() => Ok(None),
        (None, None, None) => bail!(
            "--extender-listen {address} is not a loopback address, where anybody could book GPUs; listen on 127.0.0.1, or give \
             --extender-tls-cert, --extender-tls-key and --extender-client-ca to admit only clients with a certificate"
        ),
        _ => bail!(
            "--extender-tls-cert, --extender-tls-key and --extender-client-ca belong together; give all three or none"
        ),
    }
}

impl ExtenderTls {
    /// The TLS configuration, and the task that follows the certificate. The client CAs are read now and never again.
    ///
    /// # Errors
    /// Names the file.
    pub async fn load(self, metrics: Metrics) -> anyhow::Result<(Arc<rustls::ServerConfig>, Files)> {
        let Self { pair, client_ca } = self;
        let named = || format!("--extender-client-ca {}", client_ca.display());
        let clients = tokio::fs::read(&client_ca).await.with_context(named)?;
        let clients = tls::client_verifier(&clients).with_context(named)?;
        let serving = Arc::new(Serving::default());
        let files =
            Files::load("extender", pair, Arc::clone(&serving), metrics).await.context("--extender-tls-cert")?;
        Ok((tls::server_config(serving, Some(clients))?, files))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extender_is_open_on_loopback_only() {
        let file = || Some(PathBuf::from("file"));
        for (address, open) in
            [("127.0.0.1:0", true), ("127.8.8.8:1", true), ("[::1]:0", true), ("[::ffff:127.0.0.1]:0", true)]
        {
            assert_eq!(extender_tls(address.parse().unwrap(), None, None, None).is_ok(), open, "{address}");
        }
        for address in ["0.0.0.0:9480", "10.0.0.1:9480", "[::]:9480"] {
            let address = address.parse().unwrap();
            let error = extender_tls(address, None, None, None).unwrap_err().to_string();
            for part in ["--extender-listen", "127.0.0.1", "--extender-client-ca"] {
                assert!(error.contains(part), "{error}");
            }
            let error = extender_tls(address, file(), file(), None).unwrap_err().to_string();
            assert!(
                error.contains("--extender-client-ca"),
                "TLS without client certificates keeps nobody out: {error}"
            );
            assert!(extender_tls(address, file(), file(), file()).unwrap().is_some());
        }
    }
}
