//! The certificate that a listener presents, swapped live: a handshake takes the one of its instant, connections that are open
//! keep theirs.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Error, pem};

/// A certificate in use.
#[derive(Debug)]
pub struct Served {
    key: Arc<CertifiedKey>,
    /// When it begins.
    pub not_before: SystemTime,
    /// When it ends.
    pub not_after: SystemTime,
}

impl Served {
    /// Reads a chain and its key.
    ///
    /// # Errors
    /// [`Error::Pem`].
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        let facts = pem::facts(chain)?;
        Ok(Self { key: pem::certified(chain, key)?, not_before: facts.not_before, not_after: facts.not_after })
    }
}

/// Where a listener finds its certificate. Written by one task ([`super::managed`] or [`super::files`]), read by each handshake
/// and by readiness.
#[derive(Debug, Default)]
pub struct Serving {
    current: ArcSwapOption<Served>,
}

impl Serving {
    /// Presents `served` from the next handshake on.
    pub fn swap(&self, served: Served) {
        self.current.store(Some(Arc::new(served)));
    }

    /// What is presented now.
    pub fn current(&self) -> Option<Arc<Served>> {
        self.current.load_full()
    }

    /// Whether a client that trusts our CA would accept what we present.
    pub fn is_usable(&self, now: SystemTime) -> bool {
        self.current.load().as_ref().is_some_and(|served| now < served.not_after)
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load().as_ref().map(|served| Arc::clone(&served.key))
    }
}
