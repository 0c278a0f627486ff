//! PEM text to what rustls serves and what we must know of a certificate.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::Error;

/// What we must know of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// When it begins.
    pub not_before: SystemTime,
    /// When it ends.
    pub not_after: SystemTime,
    /// Whether it may sign others.
    pub is_ca: bool,
}

/// Reads the first certificate of a PEM text.
///
/// # Errors
/// [`Error::Pem`].
pub fn facts(certificate: &[u8]) -> Result<Facts, Error> {
    let der = CertificateDer::from_pem_slice(certificate).map_err(|error| damaged("certificate", &error))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|error| damaged("certificate", &error))?;
    let time = |seconds: i64| {
        let seconds = u64::try_from(seconds).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    };
    Ok(Facts {
        not_before: time(parsed.validity().not_before.timestamp()),
        not_after: time(parsed.validity().not_after.timestamp()),
        is_ca: parsed.is_ca(),
    })
}

/// A chain and its key as rustls serves them; the two must belong together.
///
/// # Errors
/// [`Error::Pem`].
pub fn certified(chain: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, Error> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| damaged("certificate", &error))?;
    if chain.is_empty() {
        return Err(Error::Pem("no certificate in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| damaged("key", &error))?;
    let certified =
        CertifiedKey::from_der(chain, key, &crate::serve::tls::provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Error::Pem("the key does not belong to the certificate".to_owned()),
            error => damaged("key", &error),
        })?;
    Ok(Arc::new(certified))
}

fn damaged(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Pem(format!("{what}: {error}"))
}
