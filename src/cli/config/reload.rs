//! Follows the configuration file while the server runs.
//!
//! The file's content is compared, not its date: a `ConfigMap` volume is renewed by swapping the symlink `..data`. What a running
//! server can change is changed, as soon as two looks find the same; what it cannot is reported by name and stays as it was; a damaged file changes
//! nothing. Each outcome is logged and counted.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde_json::Value;

use super::Config;
use crate::cli::logs::Logs;
use crate::extender::Version;
use crate::gpu::parse::Rules;
use crate::{certs, extender, ledger, webhook};

/// Keys, or whole sections, that are read at the start only.
const AT_START: [&str; 9] = [
    "server.maxConnections",
    "server.reloadInterval",
    "server.drain",
    "server.dashboard",
    "webhook.resourcePrefix",
    "extender.callTimeoutSeconds",
    // The ledger would hold some pods and nodes read by the old value and some by the new one.
    "ledger.resourcePrefix",
    "ledger.hostRequests",
    "ledger.nodeLabels",
];

/// Where the parts read their settings. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Live {
    /// The process's.
    pub server: Arc<ArcSwap<super::Server>>,
    /// The webhook's.
    pub webhook: Arc<ArcSwap<webhook::Settings>>,
    /// The extender's; its `schedulerVersion` is the API server's where the file names none and that is known.
    pub extender: Arc<ArcSwap<extender::Settings>>,
    /// How the extender reads requests: by the webhook's settings.
    pub rules: Arc<ArcSwap<Rules>>,
    /// The ledger's.
    pub ledger: Arc<ArcSwap<ledger::Settings>>,
    /// The certificates'.
    pub certificates: Arc<ArcSwap<certs::Settings>>,
    versions: Arc<Mutex<Versions>>,
}

/// What is known of kube-scheduler's version.
#[derive(Debug, Default)]
struct Versions {
    configured: Option<Version>,
    api_server: Option<Version>,
}

impl Live {
    /// As the file says at the start.
    pub fn new(config: &Config) -> Self {
        // The log level lives in the logs.
        let Config { log_level: _, server, webhook, extender, ledger, certificates } = config;
        Self {
            server: Arc::new(ArcSwap::from_pointee(server.clone())),
            webhook: Arc::new(ArcSwap::from_pointee(webhook.clone())),
            extender: Arc::new(ArcSwap::from_pointee(extender.clone())),
            rules: Arc::new(ArcSwap::from_pointee(rules(webhook))),
            ledger: Arc::new(ArcSwap::from_pointee(ledger.clone())),
            certificates: Arc::new(ArcSwap::from_pointee(certificates.clone())),
            versions: Arc::new(Mutex::new(Versions { configured: extender.scheduler_version, api_server: None })),
        }
    }

    fn store(&self, config: &Config) {
        let Config { log_level: _, server, webhook, extender, ledger, certificates } = config;
        self.server.store(Arc::new(server.clone()));
        self.webhook.store(Arc::new(webhook.clone()));
        self.rules.store(Arc::new(rules(webhook)));
        self.ledger.store(Arc::new(ledger.clone()));
        self.certificates.store(Arc::new(certificates.clone()));
        self.store_extender(extender, |versions| versions.configured = extender.scheduler_version);
    }

    /// Notes which version the API server has.
    pub fn know_api_version(&self, version: Version) {
        self.store_extender(&self.extender.load_full(), |versions| versions.api_server = Some(version));
    }

    fn store_extender(&self, settings: &extender::Settings, learn: impl FnOnce(&mut Versions)) {
        // Held to the end, so that two writers cannot overwrite what the other has learnt. A panic between cannot leave half of it.
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        learn(&mut versions);
        let scheduler_version = versions.configured.or(versions.api_server);
        self.extender.store(Arc::new(extender::Settings { scheduler_version, ..settings.clone() }));
    }
}

fn rules(webhook: &webhook::Settings) -> Rules {
    Rules { prefix: webhook.resource_prefix.clone(), count_alone: webhook.count_alone.0 }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Counts reloads.
#[derive(Debug, Clone)]
pub struct Metrics {
    reloads: Family<Outcome, Counter>,
}

impl Metrics {
    /// Registers the series.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self { reloads: Family::default() };
        let help = "Changed configuration files found: applied, or damaged and left aside";
        registry.register("packhorse_config_reloads", help, metrics.reloads.clone());
        metrics
    }

    fn note(&self, outcome: &'static str) {
        self.reloads.get_or_create(&Outcome { outcome }).inc();
    }
}

/// The task.
#[derive(Debug)]
pub struct Reload {
    path: PathBuf,
    /// The file as it was found last, or the error it gave.
    found: Result<String, String>,
    /// Whether that has been dealt with.
    done: bool,
    /// What is in effect.
    config: Config,
    live: Live,
    logs: Logs,
    metrics: Metrics,
}

impl Reload {
    /// Follows `path`, whose content is in effect already.
    pub fn new(path: PathBuf, config: Config, live: Live, logs: Logs, metrics: Metrics) -> Self {
        // Nothing is remembered of the content: the first looks compare whole configurations, and find them equal.
        Self { path, found: Err(String::new()), done: true, config, live, logs, metrics }
    }

    /// Looks every `interval` until the task is aborted.
    pub async fn follow(mut self, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let found = tokio::fs::read_to_string(&self.path).await.map_err(|error| error.to_string());
        if found != self.found {
            // Acted on when the next look finds the same: this one may have met an editor halfway.
            (self.found, self.done) = (found, false);
            return;
        }
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let parsed = match &self.found {
            Ok(text) => Config::parse(text).map_err(|error| format!("{error:#}")),
            Err(error) => Err(error.clone()),
        };
        match parsed {
            Ok(config) => self.apply(&config),
            Err(problem) => {
                self.metrics.note("damaged");
                let file = self.path.display();
                tracing::error!(%file, problem, "configuration: the file cannot be used, the last good one stays in effect");
            }
        }
    }

    fn apply(&mut self, wanted: &Config) {
        let (changed, waiting, effective) = match merged(&self.config, wanted) {
            Ok(merged) => merged,
            Err(error) => {
                self.metrics.note("damaged");
                tracing::error!(%error, "configuration: cannot compare with what is in effect");
                return;
            }
        };
        if !waiting.is_empty() {
            let keys = waiting.join(", ");
            tracing::warn!(keys, "configuration: these keys are read at the start; restart the server to change them");
        }
        if changed.is_empty() {
            return;
        }
        if effective.log_level != self.config.log_level
            && let Err(error) = self.logs.set(&effective.log_level)
        {
            tracing::error!("configuration: {error:#}");
        }
        self.live.store(&effective);
        self.config = effective;
        self.metrics.note("applied");
        tracing::info!(keys = changed.join(", "), "configuration: changed");
    }
}

/// Keys that change, keys that would need a restart, and the configuration with the former new and the latter as they were.
fn merged(old: &Config, new: &Config) -> Result<(Vec<String>, Vec<String>, Config), serde_json::Error> {
    let (old, mut result) = (serde_json::to_value(old)?, serde_json::to_value(new)?);
    let (mut changed, mut waiting) = (Vec::new(), Vec::new());
    merge(&old, &mut result, "", &mut changed, &mut waiting);
    Ok((changed, waiting, serde_json::from_value(result)?))
}

fn merge(old: &Value, new: &mut Value, path: &str, changed: &mut Vec<String>, waiting: &mut Vec<String>) {
    if old == new {
        return;
    }
    if AT_START.contains(&path) {
        waiting.push(path.to_owned());
        *new = old.clone();
        return;
    }
    // Both come from the same structs, so their keys are the same down to maps that the user fills; those change as a whole.
    if let (Value::Object(before), Value::Object(after)) = (old, &mut *new)
        && before.keys().eq(after.keys())
    {
        for (key, value) in after.iter_mut() {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            merge(&before[key], value, &path, changed, waiting);
        }
        return;
    }
    changed.push(path.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_keys_change_and_others_are_named_and_stay() {
        let old = Config::default();
        let text =
            "logLevel: debug\nserver: {maxConnections: 7, shutdownDelay: 9s}\ncertificates: {names: [a.example]}\n";
        let (changed, waiting, effective) = merged(&old, &Config::parse(text).unwrap()).unwrap();
        assert_eq!(changed, ["certificates.names", "logLevel", "server.shutdownDelay"]);
        assert_eq!(waiting, ["server.maxConnections"]);
        assert_eq!(effective.server.max_connections, old.server.max_connections);
        assert_eq!(effective.server.shutdown_delay, Duration::from_secs(9));
        assert_eq!(effective.certificates.names, ["a.example"]);
    }

    #[test]
    fn kube_schedulers_version_is_the_files_else_the_api_servers() {
        let version = |minor| Version { major: 1, minor };
        let live = Live::new(&Config::default());
        let now = || live.extender.load().scheduler_version;
        assert_eq!(now(), None);
        live.know_api_version(version(36));
        assert_eq!(now(), Some(version(36)));
        let mut config = Config::default();
        config.extender.scheduler_version = Some(version(38));
        live.store(&config);
        live.know_api_version(version(37));
        assert_eq!(now(), Some(version(38)));
        live.store(&Config::default());
        assert_eq!(now(), Some(version(37)));
    }

    #[test]
    fn every_key_named_as_read_at_the_start_exists() {
        let known = serde_json::to_value(Config::default()).unwrap();
        for path in AT_START {
            let pointer = format!("/{}", path.replace('.', "/"));
            assert!(known.pointer(&pointer).is_some(), "{path}");
        }
    }
}
