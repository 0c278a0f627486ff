//! The webhook's certificates: self-managed, or files made by someone else.
//!
//! | source | task |
//! |---|---|
//! | [`managed`] (default) | a long-lived CA in a Secret ([`secret`]), short leaf certificates, the bundle patched into the webhook configuration ([`bundle`]) |
//! | [`files`] | `--tls-cert` and `--tls-key`, by hand or by cert-manager, reloaded when they change |
//!
//! Either writes into one [`serving::Serving`], from which each TLS handshake takes the certificate of its instant. What fails
//! keeps the last good certificate, is logged and counted ([`Metrics`]).

pub mod authority;
pub mod bundle;
pub mod files;
pub mod managed;
pub mod pem;
pub mod secret;
pub mod serving;

use std::sync::atomic::AtomicI64;
use std::time::{Duration, SystemTime};

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::kube_api::names;

/// What can go wrong with certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate or a key cannot be read, or the two do not belong together.
    #[error("damaged certificate or key: {0}")]
    Pem(String),
    /// A key of the Secret.
    #[error("{0}: {1}")]
    Secret(String, String),
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Generate(#[from] rcgen::Error),
    /// The API server refuses or does not answer.
    #[error("cannot {verb} {object}")]
    Api {
        /// `read`, `create`, `update`, `patch`.
        verb: &'static str,
        /// Kind and name.
        object: String,
        /// What the client says.
        source: Box<kube::Error>,
    },
    /// A value of [`Settings`].
    #[error("certificates.{0}: {1}")]
    Setting(&'static str, String),
}

/// Self-managed certificates: where they live and how long.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Settings {
    /// Namespace of the Secret.
    pub namespace: String,
    /// Name of the Secret that holds the CA.
    pub secret: String,
    /// The `MutatingWebhookConfiguration` whose `caBundle` is kept right.
    pub webhook_configuration: String,
    /// DNS names and IP addresses that leaf certificates are valid for.
    pub names: Vec<String>,
    /// Life of a leaf certificate; it is renewed after two thirds of it.
    #[serde(with = "duration")]
    pub leaf_lifetime: Duration,
    /// Life of a CA.
    #[serde(with = "duration")]
    pub ca_lifetime: Duration,
    /// A CA is replaced this long before its end; longer than a leaf certificate lives.
    #[serde(with = "duration")]
    pub ca_renew_before: Duration,
    /// A new CA signs only after it has been seen in the webhook configuration for this long: every API server must have
    /// noticed it.
    #[serde(with = "duration")]
    pub settle: Duration,
    /// How often the Secret and the webhook configuration are compared.
    #[serde(with = "duration")]
    pub poll_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let service = format!("{}.{}", names::SERVER_ACCOUNT, names::NAMESPACE);
        Self {
            namespace: names::NAMESPACE.to_owned(),
            secret: "packhorse-webhook-ca".to_owned(),
            webhook_configuration: "packhorse".to_owned(),
            names: vec![format!("{service}.svc"), format!("{service}.svc.cluster.local"), service],
            leaf_lifetime: hours(24),
            ca_lifetime: hours(87_600),
            ca_renew_before: hours(2_160),
            settle: Duration::from_secs(30),
            poll_interval: Duration::from_secs(10),
        }
    }
}

const fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

impl Settings {
    /// Whether the values make sense together.
    ///
    /// # Errors
    /// [`Error::Setting`] names the key.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |key, problem: &str| Err(Error::Setting(key, problem.to_owned()));
        for (key, value) in [
            ("namespace", &self.namespace),
            ("secret", &self.secret),
            ("webhookConfiguration", &self.webhook_configuration),
        ] {
            if value.is_empty() {
                return refuse(key, "must not be empty");
            }
        }
        if self.names.is_empty() {
            return refuse("names", "needs at least the Service's name, <service>.<namespace>.svc");
        }
        if let Err(error) = rcgen::CertificateParams::new(&self.names[..]) {
            return refuse("names", &format!("{:?}: {error}; write DNS names or IP addresses", self.names));
        }
        if self.leaf_lifetime < Duration::from_secs(3) {
            return refuse("leafLifetime", "must be 3s or more");
        }
        if self.poll_interval.is_zero() || self.poll_interval > self.leaf_lifetime / 6 {
            return refuse("pollInterval", "must be above 0s and at most a sixth of leafLifetime");
        }
        if self.ca_renew_before < self.leaf_lifetime {
            return refuse("caRenewBefore", "must not be shorter than leafLifetime");
        }
        if self.ca_lifetime <= self.ca_renew_before {
            return refuse("caLifetime", "must be longer than caRenewBefore");
        }
        Ok(())
    }
}

/// Which certificate a series is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    /// `webhook`, `extender` or `ca`.
    pub kind: &'static str,
}

/// What the certificate tasks count.
#[derive(Debug, Clone)]
pub struct Metrics {
    not_after: Family<Kind, Gauge<i64, AtomicI64>>,
    /// Certificates put to use.
    pub renewals: Counter,
    /// Steps of a CA replacement.
    pub ca_changes: Counter,
    /// Failed attempts to read, renew or publish.
    pub errors: Counter,
}

impl Metrics {
    /// Registers the series.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            not_after: Family::default(),
            renewals: Counter::default(),
            ca_changes: Counter::default(),
            errors: Counter::default(),
        };
        registry.register(
            "packhorse_certs_not_after_seconds",
            "When the certificate ends, Unix time",
            metrics.not_after.clone(),
        );
        registry.register("packhorse_certs_renewals", "Serving certificates put to use", metrics.renewals.clone());
        registry.register(
            "packhorse_certs_ca_changes",
            "Steps of CA replacements taken here",
            metrics.ca_changes.clone(),
        );
        registry.register(
            "packhorse_certs_errors",
            "Failed attempts to read, renew or publish",
            metrics.errors.clone(),
        );
        metrics
    }

    /// Notes when a certificate ends.
    pub fn ends(&self, kind: &'static str, at: SystemTime) {
        let seconds = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.not_after.get_or_create(&Kind { kind }).set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_make_sense() {
        Settings::default().check().unwrap();
    }

    #[test]
    fn settings_that_contradict_each_other_are_named() {
        type Spoil = fn(&mut Settings);
        let cases: [(&str, Spoil); 6] = [
            ("certificates.names", |settings| settings.names.clear()),
            ("certificates.names", |settings| settings.names.push("naïve.example".to_owned())),
            ("certificates.secret", |settings| settings.secret.clear()),
            ("certificates.pollInterval", |settings| settings.poll_interval = settings.leaf_lifetime),
            ("certificates.caRenewBefore", |settings| settings.ca_renew_before = Duration::ZERO),
            ("certificates.caLifetime", |settings| settings.ca_lifetime = settings.ca_renew_before),
        ];
        for (named, spoil) in cases {
            let mut settings = Settings::default();
            spoil(&mut settings);
            let error = settings.check().unwrap_err().to_string();
            assert!(error.starts_with(named), "{error}");
        }
    }
}
