//! Self-managed certificates: one task per replica that keeps three things in step, the CA in the Secret, the `caBundle` in the
//! webhook configuration, and the leaf certificate this replica presents.
//!
//! It works for several replicas without a leader. Every write is conditional on what was read, and the configuration is read
//! before the Secret: whoever patches the bundle has seen a Secret at least as new as the one the bundle was made from, so a slow
//! replica never takes a newer CA out again.
//!
//! No request fails while a CA is replaced, because of the order: the new CA stands in the Secret and in the bundle first; it
//! signs only after the bundle with it has been in the configuration for [`Settings::settle`]; the old CA stays in the bundle
//! until its last leaf certificate has ended.
//!
//! Fails by waiting: the API server away, a right missing, a damaged Secret are logged, counted and tried again with back-off,
//! and the certificate in use stays. Time is the wall clock's, so that a suspended machine renews when it wakes.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use json_patch::Patch as JsonPatch;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};

use super::authority::Authority;
use super::secret::{Authorities, Change, Plan};
use super::serving::{Served, Serving};
use super::{Error, Metrics, Settings, bundle};

/// An API server that does not answer within this is away.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// First pause after a failure; doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause after a failure.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The task and its memory.
#[derive(Debug)]
pub struct Managed {
    settings: Arc<ArcSwap<Settings>>,
    serving: Arc<Serving>,
    metrics: Metrics,
    api: ApiObjects,
    /// What the Secret said last; lets a leaf certificate be renewed while the API server is away.
    known: Option<Authorities>,
    /// What the presented leaf certificate was made from.
    leaf: Option<Origin>,
    /// The next CA's certificate, and since when the configuration trusts it without a break.
    trusted: Option<(String, Instant)>,
}

/// What a leaf certificate was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    /// The CA's certificate, PEM.
    ca: String,
    names: Vec<String>,
}

/// What one round found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// All is in step.
    Done,
    /// Somebody else wrote meanwhile, or another step follows.
    Again,
}

impl Managed {
    /// Nothing happens before [`Managed::run`].
    pub fn new(
        client: kube::Client,
        settings: Arc<ArcSwap<Settings>>,
        serving: Arc<Serving>,
        metrics: Metrics,
    ) -> Self {
        Self { settings, serving, metrics, api: ApiObjects { client }, known: None, leaf: None, trusted: None }
    }

    /// Keeps certificates right until the task is aborted.
    pub async fn run(mut self) {
        let mut failures = 0_u32;
        let mut complaint = String::new();
        loop {
            let settings = self.settings.load_full();
            let pause = match self.round(&settings).await {
                Ok(round) => {
                    if failures > 0 {
                        tracing::info!(failures, "certificates: the API server answers again");
                    }
                    (failures, complaint) = (0, String::new());
                    if round == Round::Again { MIN_PAUSE.min(settings.poll_interval) } else { settings.poll_interval }
                }
                Err(error) => {
                    self.metrics.errors.inc();
                    let pause = MAX_PAUSE.min(MIN_PAUSE * 2_u32.saturating_pow(failures.min(10)));
                    failures += 1;
                    let error = with_causes(&error);
                    if error == complaint {
                        tracing::debug!(error, ?pause, "certificates: still not in step");
                    } else {
                        tracing::warn!(error, ?pause, "certificates: not in step, trying again");
                        complaint = error;
                    }
                    self.renew_alone(&settings);
                    pause
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn round(&mut self, settings: &Settings) -> Result<Round, Error> {
        // Before the Secret: see the module's introduction.
        let configuration = self.api.configuration(settings).await?;
        let secret = self.api.secret(settings).await?;
        let mut authorities = Authorities::decode(&secret).map_err(|error| in_secret(settings, error))?;

        let settled = self.is_settled(settings, &authorities, configuration.as_ref());
        if let Some(change) = authorities.advance(SystemTime::now(), &plan(settings), settled)? {
            if !self.api.update(settings, secret, &authorities).await? {
                return Ok(Round::Again);
            }
            self.metrics.ca_changes.inc();
            match change {
                Change::Introduced => {
                    tracing::info!("certificates: a new CA is being published beside the current one")
                }
                Change::Promoted => tracing::info!("certificates: the new CA signs from now on"),
                Change::Dropped => tracing::info!("certificates: the previous CA left the bundle"),
            }
        } else if authorities.replace_asked && authorities.previous.is_some() {
            tracing::debug!("certificates: a CA replacement waits for the one before it");
        }
        self.metrics.ends("ca", authorities.current.not_after);

        self.present(settings, &authorities, configuration.as_ref())?;
        let round = match &configuration {
            Some(configuration) => self.api.publish(settings, configuration, &authorities.bundle()).await,
            None => Err(Error::Setting(
                "webhookConfiguration",
                format!(
                    "no MutatingWebhookConfiguration {:?} in the cluster, so nobody calls the webhook; apply deployments/webhook",
                    settings.webhook_configuration
                ),
            )),
        };
        self.known = Some(authorities);
        round
    }

    /// Whether the configuration has trusted the next CA for long enough.
    fn is_settled(
        &mut self,
        settings: &Settings,
        authorities: &Authorities,
        configuration: Option<&MutatingWebhookConfiguration>,
    ) -> bool {
        let next = authorities.next.as_ref().map(|next| &next.certificate);
        let Some(next) = next.filter(|next| configuration.is_some_and(|found| bundle::trusts(found, next))) else {
            self.trusted = None;
            return false;
        };
        match &self.trusted {
            Some((known, since)) if known == next => since.elapsed() >= settings.settle,
            _ => {
                self.trusted = Some((next.clone(), Instant::now()));
                settings.settle.is_zero()
            }
        }
    }

    /// Presents a leaf certificate of the current CA, where the one in use is absent, due, for other names, or of another CA
    /// that is no longer the one to use.
    fn present(
        &mut self,
        settings: &Settings,
        authorities: &Authorities,
        configuration: Option<&MutatingWebhookConfiguration>,
    ) -> Result<(), Error> {
        let now = SystemTime::now();
        let wanted = Origin { ca: authorities.current.certificate.clone(), names: settings.names.clone() };
        let keep = match (&self.leaf, self.serving.current()) {
            (Some(leaf), Some(served)) if now < served.not_after => {
                if *leaf == wanted {
                    !is_due(&served, now, settings)
                } else {
                    // Somebody put another CA into the Secret at once: callers must hear of it before we use it.
                    leaf.ca != wanted.ca && configuration.is_some_and(|found| !bundle::trusts(found, &wanted.ca))
                }
            }
            _ => false,
        };
        if keep { Ok(()) } else { self.issue(settings, &authorities.current, wanted, now) }
    }

    /// Renews from the CA known last while the API server is away: better than an ended certificate.
    fn renew_alone(&mut self, settings: &Settings) {
        let (Some(authorities), Some(served)) = (&self.known, self.serving.current()) else { return };
        let now = SystemTime::now();
        if !is_due(&served, now, settings) {
            return;
        }
        let current = authorities.current.clone();
        let wanted = Origin { ca: current.certificate.clone(), names: settings.names.clone() };
        if let Err(error) = self.issue(settings, &current, wanted, now) {
            self.metrics.errors.inc();
            tracing::error!(%error, "certificates: cannot renew");
        }
    }

    fn issue(&mut self, settings: &Settings, ca: &Authority, origin: Origin, now: SystemTime) -> Result<(), Error> {
        let leaf = ca.issue(now, &origin.names, settings.leaf_lifetime)?;
        let served = Served::from_pem(leaf.certificate.as_bytes(), leaf.key.as_bytes())?;
        self.metrics.ends("webhook", served.not_after);
        self.metrics.renewals.inc();
        tracing::info!(names = ?origin.names, ends = %shown(served.not_after), "certificates: new leaf certificate in use");
        self.serving.swap(served);
        self.leaf = Some(origin);
        Ok(())
    }
}

/// Two thirds of the life we give a leaf certificate are over, by the wall clock.
fn is_due(served: &Served, now: SystemTime, settings: &Settings) -> bool {
    now + settings.leaf_lifetime / 3 >= served.not_after
}

fn plan(settings: &Settings) -> Plan {
    Plan {
        ca_lifetime: settings.ca_lifetime,
        renew_before: settings.ca_renew_before,
        // A quarter more than the leaf certificates of the old CA live, for clocks that differ.
        keep_previous: settings.leaf_lifetime * 5 / 4 + settings.poll_interval,
    }
}

fn shown(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map_or_else(|error| error.to_string(), |at| at.to_string())
}

fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn in_secret(settings: &Settings, error: Error) -> Error {
    match error {
        Error::Secret(key, problem) => {
            let remedy = "repair it, or delete the Secret to begin with a new CA";
            Error::Secret(
                format!("Secret {}/{}, {key}", settings.namespace, settings.secret),
                format!("{problem}; {remedy}"),
            )
        }
        other => other,
    }
}

/// The calls this task makes.
#[derive(Clone)]
struct ApiObjects {
    client: kube::Client,
}

impl std::fmt::Debug for ApiObjects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiObjects")
    }
}

impl ApiObjects {
    fn secrets(&self, settings: &Settings) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &settings.namespace)
    }

    fn configurations(&self) -> Api<MutatingWebhookConfiguration> {
        Api::all(self.client.clone())
    }

    async fn configuration(&self, settings: &Settings) -> Result<Option<MutatingWebhookConfiguration>, Error> {
        let name = &settings.webhook_configuration;
        let found = limited(self.configurations().get_opt(name)).await;
        found.map_err(|source| failed("read", format!("MutatingWebhookConfiguration {name}"), source))
    }

    /// The Secret, made by us where there is none yet.
    async fn secret(&self, settings: &Settings) -> Result<Secret, Error> {
        let object = || format!("Secret {}/{}", settings.namespace, settings.secret);
        let secrets = self.secrets(settings);
        let found = limited(secrets.get_opt(&settings.secret)).await;
        if let Some(secret) = found.map_err(|source| failed("read", object(), source))? {
            return Ok(secret);
        }
        let metadata = ObjectMeta {
            name: Some(settings.secret.clone()),
            namespace: Some(settings.namespace.clone()),
            ..ObjectMeta::default()
        };
        let mut secret = Secret { metadata, ..Secret::default() };
        Authorities::new(Authority::generate(SystemTime::now(), settings.ca_lifetime)?).encode(&mut secret);
        match limited(secrets.create(&PostParams::default(), &secret)).await {
            Ok(secret) => {
                tracing::info!(secret = object(), "certificates: new CA");
                Ok(secret)
            }
            // Another replica was faster; its CA is ours.
            Err(error) if is_conflict(&error) => {
                limited(secrets.get(&settings.secret)).await.map_err(|source| failed("read", object(), source))
            }
            Err(source) => Err(failed("create", object(), source)),
        }
    }

    /// Writes the Secret back; false where somebody else wrote it meanwhile.
    async fn update(&self, settings: &Settings, mut secret: Secret, content: &Authorities) -> Result<bool, Error> {
        content.encode(&mut secret);
        match limited(self.secrets(settings).replace(&settings.secret, &PostParams::default(), &secret)).await {
            Ok(_) => Ok(true),
            Err(error) if is_conflict(&error) => Ok(false),
            Err(source) => Err(failed("update", format!("Secret {}/{}", settings.namespace, settings.secret), source)),
        }
    }

    async fn publish(
        &self,
        settings: &Settings,
        configuration: &MutatingWebhookConfiguration,
        bundle: &str,
    ) -> Result<Round, Error> {
        let name = &settings.webhook_configuration;
        let failed = |source| failed("patch", format!("MutatingWebhookConfiguration {name}"), source);
        let Some(patch) = bundle::patch(configuration, bundle) else { return Ok(Round::Done) };
        let patch: JsonPatch = serde_json::from_value(patch).map_err(|error| failed(kube::Error::SerdeError(error)))?;
        let patched =
            limited(self.configurations().patch(name, &PatchParams::default(), &Patch::Json::<()>(patch))).await;
        match patched {
            Ok(_) => {
                tracing::info!(name, "certificates: CA bundle published");
                Ok(Round::Done)
            }
            // Changed since it was read.
            Err(error) if is_conflict(&error) => Ok(Round::Again),
            Err(source) => Err(failed(source)),
        }
    }
}

async fn limited<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer,
        Err(elapsed) => Err(kube::Error::Service(elapsed.into())),
    }
}

fn status(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    status(error) == Some(409)
}

fn failed(verb: &'static str, object: String, source: kube::Error) -> Error {
    let object = match status(&source) {
        Some(403) => format!("{object} (missing right; apply deployments/rbac)"),
        _ => object,
    };
    Error::Api { verb, object, source: Box::new(source) }
}
