//! The webhook's registration, what it trusts, and whether a GPU pod really passes it.

use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::Finding;
use crate::kube_api::names::SCHEDULER;

const REGISTERED: &str = "webhook registration";
const TRUSTED: &str = "webhook certificate";
const REACHED: &str = "webhook";
/// A CA that ends sooner is told.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// What became of a GPU pod that was created for trial (`dryRun`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// Admitted; the scheduler's name it then has.
    Admitted(String),
    /// Refused, in the API server's words.
    Refused(String),
    /// Could not be tried.
    NotTried(String),
}

/// Judges the registration `packhorse`; `None`: there is none.
pub fn registration(configuration: Option<&MutatingWebhookConfiguration>) -> Vec<Finding> {
    let webhooks = configuration.and_then(|it| it.webhooks.as_deref()).unwrap_or_default();
    let Some(webhook) = webhooks.first() else {
        return vec![Finding::wrong(
            REGISTERED,
            "there is no MutatingWebhookConfiguration packhorse with a webhook",
            "apply deployments/webhook, or install the chart",
        )];
    };
    let mut findings = Vec::new();
    let mut wrong = |found: String, remedy: &str| findings.push(Finding::wrong(REGISTERED, found, remedy));
    if webhook.failure_policy.as_deref().unwrap_or("Fail") != "Fail" {
        wrong(
            "failurePolicy is Ignore".to_owned(),
            "must be Fail: a GPU pod would slip through while the server is away",
        );
    }
    if webhook.reinvocation_policy.as_deref() != Some("IfNeeded") {
        wrong(
            "reinvocationPolicy is not IfNeeded".to_owned(),
            "must be IfNeeded: other webhooks may change pods later",
        );
    }
    if !matches!(&*webhook.side_effects, "None" | "NoneOnDryRun") {
        wrong(format!("sideEffects is {}", webhook.side_effects), "must be None");
    }
    if !webhook.admission_review_versions.iter().any(|version| version == "v1") {
        wrong("admissionReviewVersions lacks v1".to_owned(), "must be [v1]");
    }
    for (resource, operation) in [("pods", "CREATE"), ("pods/ephemeralcontainers", "UPDATE")] {
        if !covers(webhook, resource, operation) {
            wrong(format!("no rule for {operation} of {resource}"), "apply deployments/webhook again");
        }
    }
    if webhook.match_conditions.as_deref().unwrap_or_default().is_empty() {
        findings.push(Finding::note(
            REGISTERED,
            "there are no matchConditions",
            "every pod of the cluster waits for Packhorse; apply deployments/webhook again",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(REGISTERED, "MutatingWebhookConfiguration packhorse is as it must be"));
    }
    findings
}

fn covers(webhook: &MutatingWebhook, resource: &str, operation: &str) -> bool {
    webhook.rules.iter().flatten().any(|rule| {
        rule.resources.iter().flatten().any(|pattern| matches(pattern, resource))
            && rule.operations.iter().flatten().any(|one| one == operation || one == "*")
    })
}

/// `*` stands for all resources without their subresources, `pods/*` for all subresources of pods, `*/*` for everything
/// (`RuleWithOperations` of admissionregistration.k8s.io/v1).
fn matches(pattern: &str, resource: &str) -> bool {
    let fits = |pattern: &str, wanted: &str| pattern == wanted || pattern == "*";
    match (pattern.split_once('/'), resource.split_once('/')) {
        (None, None) => fits(pattern, resource),
        (Some((pattern, sub_pattern)), Some((resource, sub))) => fits(pattern, resource) && fits(sub_pattern, sub),
        (Some(("*", "*")), None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// Judges what the registration trusts. `authority`: the CA of the server's own Secret, where there is one and it may be read.
pub fn certificate(
    configuration: &MutatingWebhookConfiguration,
    authority: Option<&str>,
    now: SystemTime,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for webhook in configuration.webhooks.iter().flatten() {
        let bundle = webhook.client_config.ca_bundle.as_ref().map(|ByteString(bundle)| bundle.as_slice());
        let Some(bundle) = bundle.filter(|bundle| !bundle.is_empty()) else {
            findings.push(Finding::wrong(
                TRUSTED,
                "caBundle is empty",
                "start packhorse server, which fills it in; with cert-manager look at its CA injector; by hand: packhorse certs",
            ));
            continue;
        };
        let ends: Vec<SystemTime> =
            CertificateDer::pem_slice_iter(bundle).filter_map(|certificate| end(&certificate.ok()?)).collect();
        let Some(last) = ends.iter().max() else {
            findings.push(Finding::wrong(TRUSTED, "caBundle holds no certificate that can be read", "fill it in anew"));
            continue;
        };
        if *last <= now {
            findings.push(Finding::wrong(
                TRUSTED,
                "every CA in caBundle has ended",
                "self-managed: annotate Secret packhorse-webhook-ca with packhorse.dev/replace-ca; else renew it",
            ));
        } else if last.duration_since(now).is_ok_and(|left| left < SOON) {
            findings.push(Finding::note(
                TRUSTED,
                "the CA in caBundle ends within 14 days",
                "self-managed ones are replaced in time; renew one that was made by hand",
            ));
        }
        let trusted = authority.is_none_or(|authority| String::from_utf8_lossy(bundle).contains(authority.trim_end()));
        if !trusted {
            findings.push(Finding::wrong(
                TRUSTED,
                "caBundle does not hold the CA of Secret packhorse-webhook-ca",
                "look at the log of packhorse server: it may not be allowed to patch the MutatingWebhookConfiguration",
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(TRUSTED, "caBundle trusts a CA that is valid"));
    }
    findings
}

/// When a certificate ends.
fn end(der: &[u8]) -> Option<SystemTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Judges the trial in `namespace`.
pub fn trial(trial: &Trial, namespace: &str) -> Finding {
    match trial {
        Trial::Admitted(scheduler) if scheduler == SCHEDULER => Finding::ok(REACHED, "a GPU pod passes it"),
        Trial::Admitted(_) => Finding::wrong(
            REACHED,
            format!("a GPU pod in namespace {namespace} is admitted without it"),
            "look at its namespaceSelector and matchConditions; a namespace may have to opt in with packhorse.dev/admission=enabled",
        ),
        Trial::Refused(message) if message.contains("failed calling webhook") => Finding::wrong(
            REACHED,
            format!("the API server cannot call it: {}", message.trim()),
            "look at Service packhorse-server, the server's pods, network policies and the certificate",
        ),
        Trial::Refused(message) | Trial::NotTried(message) => Finding::unknown(
            REACHED,
            format!("a GPU pod could not be tried in namespace {namespace}: {}", message.trim()),
            "name a namespace in which pods may be created: --namespace",
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Level;
    use super::*;
    use crate::certs::authority::Authority;

    fn shipped() -> Value {
        serde_saphyr::from_str(include_str!("../../deployments/webhook/mutating-webhook.yaml")).unwrap()
    }

    fn read(object: &Value) -> MutatingWebhookConfiguration {
        serde_json::from_value(object.clone()).unwrap()
    }

    #[test]
    fn the_shipped_registration_is_in_order_and_each_wrong_field_is_named() {
        assert_eq!(registration(Some(&read(&shipped())))[0].level, Level::Ok);
        assert!(registration(None)[0].found.contains("there is no MutatingWebhookConfiguration"));
        for (pointer, value, named) in [
            ("/webhooks/0/failurePolicy", json!("Ignore"), "failurePolicy"),
            ("/webhooks/0/reinvocationPolicy", json!("Never"), "reinvocationPolicy"),
            ("/webhooks/0/sideEffects", json!("Some"), "sideEffects"),
            ("/webhooks/0/admissionReviewVersions", json!(["v1beta1"]), "admissionReviewVersions"),
            ("/webhooks/0/rules/0/resources", json!(["services"]), "CREATE of pods"),
            ("/webhooks/0/rules/1/operations", json!(["CREATE"]), "pods/ephemeralcontainers"),
        ] {
            let mut object = shipped();
            *object.pointer_mut(pointer).unwrap() = value;
            let found = registration(Some(&read(&object)));
            assert!(
                found.iter().any(|it| it.level == Level::Wrong && it.found.contains(named)),
                "{pointer}: {found:?}"
            );
        }
        let mut object = shipped();
        object["webhooks"][0]["matchConditions"] = json!([]);
        assert_eq!(registration(Some(&read(&object)))[0].level, Level::Note);
    }

    #[test]
    fn wildcards_cover_what_the_api_server_takes_them_for() {
        for (pattern, pods, ephemeral) in [
            ("pods", true, false),
            ("*", true, false),
            ("pods/*", false, true),
            ("*/ephemeralcontainers", false, true),
            ("*/*", true, true),
            ("pods/status", false, false),
        ] {
            let found = (matches(pattern, "pods"), matches(pattern, "pods/ephemeralcontainers"));
            assert_eq!(found, (pods, ephemeral), "{pattern}");
        }
    }

    #[test]
    fn what_the_registration_trusts_must_be_valid_and_the_servers_own() {
        let now = SystemTime::now();
        let day = Duration::from_secs(86_400);
        let authority = Authority::generate(now, 100 * day).unwrap().certificate;
        let other = Authority::generate(now, 100 * day).unwrap().certificate;
        let with = |bundle: &str| {
            let mut configuration = read(&shipped());
            let webhook = &mut configuration.webhooks.as_mut().unwrap()[0];
            webhook.client_config.ca_bundle = Some(ByteString(bundle.as_bytes().to_vec()));
            configuration
        };
        for (bundle, own, at, level, words) in [
            (authority.as_str(), Some(&authority), now, Level::Ok, "valid"),
            (authority.as_str(), None, now, Level::Ok, "valid"),
            (authority.as_str(), Some(&other), now, Level::Wrong, "does not hold the CA"),
            (authority.as_str(), None, now + 90 * day, Level::Note, "within 14 days"),
            (authority.as_str(), None, now + 101 * day, Level::Wrong, "has ended"),
            ("", None, now, Level::Wrong, "is empty"),
            ("nonsense", None, now, Level::Wrong, "no certificate"),
        ] {
            let found = certificate(&with(bundle), own.map(String::as_str), at);
            assert_eq!(found[0].level, level, "{found:?}");
            assert!(found[0].found.contains(words), "{found:?}");
        }
        assert_eq!(certificate(&read(&shipped()), None, now)[0].level, Level::Wrong);
    }

    #[test]
    fn a_trial_tells_who_is_to_blame() {
        for (tried, level) in [
            (Trial::Admitted("packhorse".to_owned()), Level::Ok),
            (Trial::Admitted("default-scheduler".to_owned()), Level::Wrong),
            (
                Trial::Refused(
                    "Internal error occurred: failed calling webhook \"pods.packhorse.dev\": x509".to_owned(),
                ),
                Level::Wrong,
            ),
            (Trial::Refused("exceeded quota".to_owned()), Level::Unknown),
            (Trial::NotTried("forbidden".to_owned()), Level::Unknown),
        ] {
            assert_eq!(trial(&tried, "default").level, level, "{tried:?}");
        }
    }
}
