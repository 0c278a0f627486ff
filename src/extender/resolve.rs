//! Pods that are bound but can never start. Kubernetes never moves a bound pod, so somebody has to: [`Resolver::run`] looks
//! through the ledger every few seconds, and what stays in trouble for a minute is evicted where a controller will replace it,
//! else reported.
//!
//! Trouble is: the node's agent lists the pod as refused; or the pods bound to a device hold more than it has, when those bound
//! last (then by UID) lose. Pods on their way out, bookings not yet seen bound, and allocations that cannot be read are left
//! alone. Nothing is kept but memory: after a restart the minute begins anew. A failed eviction is tried again, ever more rarely.

mod trouble;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Settings as ExtenderSettings;
use crate::kube_api::calls::{CallError, Calls, PodEvent};
use crate::ledger::{Ledger, PodEntry};
use trouble::{Trouble, find};

/// What is done about a pod that can never start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Policy {
    /// Evict it where a controller will replace it, report it otherwise.
    Evict,
    /// Report it.
    Report,
}

/// What an operator can set about pods that can never start.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Settings {
    /// `evict` or `report`.
    pub policy: Policy,
    /// How long a pod must be in trouble before anything is done, in seconds.
    pub grace_seconds: u32,
    /// How often the ledger is looked through, in seconds; at least 1.
    pub check_seconds: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { policy: Policy::Evict, grace_seconds: 60, check_seconds: 5 }
    }
}

/// The wait after an eviction that failed; doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(15);
/// The longest such wait.
const LAST_RETRY: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    cause: &'static str,
    result: &'static str,
}

/// What is counted of pods that can never start.
#[derive(Debug, Clone)]
pub struct Metrics {
    results: Family<Labels, Counter>,
    in_trouble: Gauge,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let results = Family::default();
        let help = "Pods that were bound but can never start, by cause and by what was done";
        registry.register("packhorse_extender_stranded", help, results.clone());
        let in_trouble = Gauge::default();
        let help = "Bound pods that cannot start as things are";
        registry.register("packhorse_extender_stranded_pods", help, in_trouble.clone());
        Self { results, in_trouble }
    }

    /// How many pods of one cause (`refused`, `overlap`) met one result (`evicted`, `reported`, `failed`).
    pub fn count(&self, cause: &'static str, result: &'static str) -> u64 {
        self.results.get_or_create(&Labels { cause, result }).get()
    }

    fn add(&self, cause: &'static str, result: &'static str) {
        self.results.get_or_create(&Labels { cause, result }).inc();
    }
}

/// Resolves. Shared by `Arc`.
#[derive(Debug)]
pub struct Resolver {
    ledger: Arc<Ledger>,
    calls: Calls,
    settings: Arc<ArcSwap<ExtenderSettings>>,
    metrics: Metrics,
}

/// A pod in trouble over time.
#[derive(Debug)]
struct Case {
    since: Instant,
    /// Logged and counted.
    reported: bool,
    /// The Event is written, or cannot be.
    told: bool,
    /// When to try an eviction again, and the wait after that.
    retry: Option<(Instant, Duration)>,
}

impl Resolver {
    /// `settings` are the extender's.
    pub fn new(
        ledger: Arc<Ledger>,
        calls: Calls,
        settings: Arc<ArcSwap<ExtenderSettings>>,
        metrics: Metrics,
    ) -> Arc<Self> {
        Arc::new(Self { ledger, calls, settings, metrics })
    }

    /// Resolves until the future is dropped.
    pub async fn run(self: Arc<Self>) {
        let mut cases = HashMap::new();
        loop {
            if self.ledger.is_ready() {
                self.check(&mut cases, Instant::now()).await;
            }
            let pause = self.settings.load().stranded.check_seconds.max(1);
            tokio::time::sleep(Duration::from_secs(pause.into())).await;
        }
    }

    async fn check(&self, cases: &mut HashMap<Arc<str>, Case>, now: Instant) {
        let troubles = find(&self.ledger);
        self.metrics.in_trouble.set(i64::try_from(troubles.len()).unwrap_or(i64::MAX));
        cases.retain(|uid, _| troubles.iter().any(|(pod, _)| pod.uid == *uid));
        let settings = self.settings.load_full();
        let grace = Duration::from_secs(settings.stranded.grace_seconds.into());
        for (pod, trouble) in troubles {
            let case = cases.entry(Arc::clone(&pod.uid)).or_insert(Case {
                since: now,
                reported: false,
                told: false,
                retry: None,
            });
            if now.duration_since(case.since) >= grace {
                self.resolve(&pod, &trouble, case, settings.stranded.policy, now).await;
            }
        }
    }

    async fn resolve(&self, pod: &PodEntry, trouble: &Trouble, case: &mut Case, policy: Policy, now: Instant) {
        let what = trouble.to_string();
        // A crowded device is no reason to end what already runs there: an inventory may shrink under it.
        let started = pod.running && matches!(trouble, Trouble::Overlap { .. });
        if policy == Policy::Report || !pod.owned || started {
            let remedy = if started {
                "not evicted, as it runs already: delete it if its neighbours suffer"
            } else if pod.owned {
                "not evicted, as the policy is to report only"
            } else {
                "not evicted, as no controller would replace it: delete it and create it again"
            };
            self.report(pod, trouble, case, "Report", &format!("{what}; {remedy}")).await;
            return;
        }
        if case.retry.is_some_and(|(at, _)| now < at) {
            return;
        }
        match self.calls.evict(&pod.namespace, &pod.name, &pod.uid).await {
            Ok(()) => {
                tracing::warn!(namespace = %pod.namespace, pod = %pod.name, "evicted: {what}");
                self.metrics.add(trouble.cause(), "evicted");
                (case.reported, case.told) = (false, false);
                let note = format!("{what}; evicted, so that its controller replaces it");
                self.report(pod, trouble, case, "Evict", &note).await;
                // The watch will show it leaving; should the ledger lag, it is not evicted twice meanwhile.
                case.retry = Some((now + FIRST_RETRY, FIRST_RETRY));
            }
            // It is on its way out, or out.
            Err(CallError::NotFound(_) | CallError::Conflict(_)) => {
                case.retry = Some((now + FIRST_RETRY, FIRST_RETRY));
            }
            Err(error) => {
                tracing::warn!(namespace = %pod.namespace, pod = %pod.name, %error, "could not be evicted: {what}");
                self.metrics.add(trouble.cause(), "failed");
                let wait = case.retry.map_or(FIRST_RETRY, |(_, wait)| (wait * 2).min(LAST_RETRY));
                case.retry = Some((now + wait, wait));
                let note = format!("{what}; cannot be evicted yet: {error}");
                self.report(pod, trouble, case, "Evict", &note).await;
            }
        }
    }

    /// Tells people, once; an Event of which nobody knows whether it was written is tried again.
    async fn report(&self, pod: &PodEntry, trouble: &Trouble, case: &mut Case, action: &str, note: &str) {
        if !std::mem::replace(&mut case.reported, true) {
            tracing::warn!(namespace = %pod.namespace, pod = %pod.name, "{note}");
            self.metrics.add(trouble.cause(), "reported");
        }
        if std::mem::replace(&mut case.told, true) {
            return;
        }
        // The API refuses notes beyond 1,024 bytes, and the agent's words may be of any length.
        let end = (0..=note.len().min(1_000)).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
        let event = PodEvent {
            namespace: &pod.namespace,
            name: &pod.name,
            uid: &pod.uid,
            kind: "Warning",
            reason: "BoundButCannotStart",
            action,
            note: &note[..end],
        };
        if let Err(error) = self.calls.event(&event).await {
            tracing::warn!(namespace = %pod.namespace, pod = %pod.name, %error, "an Event could not be written");
            case.told = !matches!(error, CallError::Unknown(_));
        }
    }
}

#[cfg(test)]
mod tests;
