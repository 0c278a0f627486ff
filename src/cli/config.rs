//! The server's YAML file: one section per part, each the part's own settings, strict to the last key.
//!
//! Read at the start, where a mistake ends the process, and again whenever its content changes ([`reload`]), where a mistake
//! keeps the last good content. `docs/config.yaml` shows every key with its default.

pub mod reload;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use serde::{Deserialize, Serialize};

use super::logs;
use crate::yaml::Mistake;
use crate::{certs, extender, ledger, webhook};

/// Everything that can be configured. Durations are written `5s`, `24h`, `1h 30m`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// `off`, `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,packhorse::extender=debug`.
    pub log_level: String,
    /// The process.
    pub server: Server,
    /// What the webhook makes of pods.
    pub webhook: webhook::Settings,
    /// How the extender chooses.
    pub extender: extender::Settings,
    /// What the ledger keeps and counts.
    pub ledger: ledger::Settings,
    /// Self-managed certificates of the webhook; without effect where `--tls-cert` is given.
    pub certificates: certs::Settings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log_level: "info".to_owned(),
            server: Server::default(),
            webhook: webhook::Settings::default(),
            extender: extender::Settings::default(),
            ledger: ledger::Settings::default(),
            certificates: certs::Settings::default(),
        }
    }
}

/// How the process serves and ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Server {
    /// Connections at a time on each listener; further ones wait. Read at the start.
    pub max_connections: usize,
    /// How often this file and the certificate files are looked at. Read at the start.
    #[serde(with = "duration")]
    pub reload_interval: Duration,
    /// After SIGTERM readiness is off this long before listeners close, so that no new call is sent here.
    #[serde(with = "duration")]
    pub shutdown_delay: Duration,
    /// Calls in flight may take this long after listeners closed. Read at the start.
    #[serde(with = "duration")]
    pub drain: Duration,
    /// Serve the page on the metrics address. Read at the start.
    pub dashboard: bool,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            reload_interval: Duration::from_secs(5),
            shutdown_delay: Duration::from_secs(3),
            drain: Duration::from_secs(25),
            dashboard: true,
        }
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// Names the file, the line, the key and what may stand there.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// Names the line, the key and what may stand there.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = serde_saphyr::from_str(text).map_err(|error| anyhow!("{}", Mistake::new(&error, text)))?;
        config.check()?;
        Ok(config)
    }

    /// Checks what types cannot.
    fn check(&self) -> anyhow::Result<()> {
        logs::filter(&self.log_level).context("logLevel")?;
        if self.server.max_connections == 0 {
            bail!("server.maxConnections: 0: must be 1 or more");
        }
        if self.server.reload_interval.is_zero() {
            bail!("server.reloadInterval: 0s: must be longer");
        }
        self.webhook.validate().context("webhook")?;
        let (one, other) = (&self.webhook.resource_prefix, &self.ledger.resource_prefix);
        if one != other {
            bail!("webhook.resourcePrefix {one:?} and ledger.resourcePrefix {other:?} must be the same");
        }
        if self.ledger.page_size == 0 {
            bail!("ledger.pageSize: 0: must be 1 or more");
        }
        if !(1..=294).contains(&self.ledger.watch_seconds) {
            bail!("ledger.watchSeconds: {}: must be 1 to 294", self.ledger.watch_seconds);
        }
        self.certificates.check()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_says_the_defaults() {
        assert_eq!(Config::parse(include_str!("../../docs/config.yaml")).unwrap(), Config::default());
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        for text in ["", "# nothing\n", "server: {}\n"] {
            assert_eq!(Config::parse(text).unwrap(), Config::default(), "{text:?}");
        }
    }

    #[test]
    fn mistakes_are_named_with_line_key_and_remedy() {
        let cases: [(&str, &[&str]); 8] = [
            ("logLevle: info", &["line 1", "`logLevle`", "logLevel, server"]),
            ("server:\n  drian: 5s\n", &["line 2", "`drian`", "maxConnections", "drain"]),
            ("server:\n  drain: 5\n", &["line 2", "drain: 5", "unit"]),
            ("server:\n  maxConnections: many\n", &["line 2", "maxConnections: many"]),
            ("server:\n  drain: 5s\n  drain: 6s\n", &["line 3", "duplicate", "drain"]),
            ("logLevel: packhorse=loud", &["logLevel", "error, warn, info"]),
            ("certificates: {names: []}", &["certificates.names", "<service>.<namespace>.svc"]),
            ("server: {maxConnections: 0}", &["server.maxConnections", "1 or more"]),
        ];
        for (text, parts) in cases {
            let error = format!("{:#}", Config::parse(text).unwrap_err());
            for part in parts {
                assert!(error.contains(part), "{text:?}: {error:?} lacks {part:?}");
            }
            assert!(!error.contains('\n') && !error.contains("DuplicateKeyPolicy"), "{error}");
        }
    }

    #[test]
    fn two_documents_in_one_file_are_refused() {
        assert!(Config::parse("logLevel: info\n---\nlogLevel: debug\n").is_err());
    }
}
