//! Certificates from files, made by hand, by cert-manager or by anything else.
//!
//! Both files are read again and again and their content compared: a Secret volume is renewed by swapping the symlink `..data`,
//! which no watch on the file itself sees. A damaged new pair changes nothing but the log and a counter, and it counts as
//! damaged only when two looks in a row find the same content: two files are never written in one instant.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::serving::{Served, Serving};
use super::{Error, Metrics};

/// A certificate file and its key file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Certificate chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// Key, PEM.
    pub key: PathBuf,
}

/// Why a pair of files cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// Their content is damaged.
    #[error("{0} and {1}: {2}")]
    Content(PathBuf, PathBuf, Error),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Content {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Follows a pair of files.
#[derive(Debug)]
pub struct Files {
    /// Which certificate this is in the metrics.
    kind: &'static str,
    pair: Pair,
    serving: Arc<Serving>,
    metrics: Metrics,
    in_use: Content,
    /// Content that was found damaged, and whether that was said.
    damaged: Option<(Result<Content, String>, bool)>,
}

impl Files {
    /// Loads the pair into `serving`; `kind` is its name in the metrics.
    ///
    /// # Errors
    /// [`LoadError`] names the files.
    pub async fn load(
        kind: &'static str,
        pair: Pair,
        serving: Arc<Serving>,
        metrics: Metrics,
    ) -> Result<Self, LoadError> {
        let content = read(&pair).await?;
        let mut files = Self { kind, pair, serving, metrics, in_use: content.clone(), damaged: None };
        files.present(content)?;
        Ok(files)
    }

    /// Looks at the files every `interval` until the task is aborted.
    pub async fn follow(mut self, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let found = read(&self.pair).await.map_err(|error| error.to_string());
        if found.as_ref() == Ok(&self.in_use) {
            self.damaged = None;
            return;
        }
        let problem = match found.clone() {
            Ok(content) => match self.present(content) {
                Ok(()) => {
                    self.damaged = None;
                    return;
                }
                Err(error) => error.to_string(),
            },
            Err(problem) => problem,
        };
        self.damaged = match self.damaged.take() {
            Some((before, said)) if before == found => {
                if !said {
                    self.metrics.errors.inc();
                    tracing::error!(
                        problem,
                        "certificates: the new files cannot be used, the last good ones stay in use"
                    );
                }
                Some((before, true))
            }
            _ => Some((found, false)),
        };
    }

    fn present(&mut self, content: Content) -> Result<(), LoadError> {
        let served = Served::from_pem(&content.certificate, &content.key)
            .map_err(|error| LoadError::Content(self.pair.certificate.clone(), self.pair.key.clone(), error))?;
        if served.not_after <= SystemTime::now() {
            tracing::warn!(file = %self.pair.certificate.display(), "certificates: the certificate has ended; clients refuse it");
        }
        self.metrics.ends(self.kind, served.not_after);
        self.metrics.renewals.inc();
        tracing::info!(file = %self.pair.certificate.display(), "certificates: certificate from file in use");
        self.serving.swap(served);
        self.in_use = content;
        Ok(())
    }
}

async fn read(pair: &Pair) -> Result<Content, LoadError> {
    Ok(Content { certificate: read_one(&pair.certificate).await?, key: read_one(&pair.key).await? })
}

async fn read_one(path: &Path) -> Result<Vec<u8>, LoadError> {
    tokio::fs::read(path).await.map_err(|error| LoadError::Read(path.to_owned(), error))
}
