//! What certificates need of the in-process API server: one Secret and one webhook configuration.

use std::sync::Arc;

use base64::Engine as _;
use packhorse::demo::api_server::{ApiServer, Match, Settings};
use serde_json::{Value, json};

pub(crate) const NAMESPACE: &str = "packhorse-system";
pub(crate) const SECRET: &str = "packhorse-webhook-ca";

/// Shared by the tasks under test and the test.
#[derive(Clone)]
pub(crate) struct Cluster(Arc<ApiServer>);

impl Cluster {
    /// With a webhook configuration of two webhooks without bundles.
    pub(crate) async fn new() -> Self {
        let api = ApiServer::start(Settings::default()).await.unwrap();
        let webhook = |name: &str| {
            json!({"name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None", "rules": [],
                   "clientConfig": {"service": {"name": "packhorse-server", "namespace": NAMESPACE}}})
        };
        let webhooks = [webhook("pods.packhorse.dev"), webhook("debug.packhorse.dev")];
        let configuration = json!({"metadata": {"name": "packhorse"}, "webhooks": webhooks});
        api.objects().create("namespaces", json!({"metadata": {"name": NAMESPACE}})).unwrap();
        api.objects().create("mutatingwebhookconfigurations", configuration).unwrap();
        Self(Arc::new(api))
    }

    pub(crate) fn client(&self) -> kube::Client {
        self.0.client().unwrap()
    }

    /// The bundles of all webhooks, PEM; empty where there is none.
    pub(crate) fn bundles(&self) -> Vec<String> {
        let configuration = self.0.objects().get("mutatingwebhookconfigurations", "", "packhorse").unwrap();
        let webhooks = configuration["webhooks"].as_array().unwrap();
        webhooks.iter().map(|webhook| decoded(&webhook["clientConfig"]["caBundle"]).unwrap_or_default()).collect()
    }

    /// One key of the Secret, PEM.
    pub(crate) fn secret(&self, key: &str) -> Option<String> {
        decoded(&self.0.objects().get("secrets", NAMESPACE, SECRET)?["data"][key])
    }

    /// How often the Secret was created.
    pub(crate) fn created(&self) -> usize {
        let requests = self.0.requests();
        requests
            .iter()
            .filter(|entry| entry.verb == "create" && entry.resource == "secrets" && entry.code == 201)
            .count()
    }

    /// As an administrator's `kubectl patch`.
    pub(crate) fn patch_secret(&self, patch: &Value) {
        self.0.objects().patch("secrets", NAMESPACE, SECRET, patch).unwrap();
    }

    /// As `kubectl annotate secret … packhorse.dev/replace-ca=now`.
    pub(crate) fn ask_for_a_new_ca(&self) {
        self.patch_secret(&json!({"metadata": {"annotations": {"packhorse.dev/replace-ca": "now"}}}));
    }

    /// The next `calls` calls are answered with 500.
    pub(crate) fn fail(&self, calls: usize) {
        self.0.faults().fail_next(calls, 500, Match::any());
    }
}

pub(crate) fn encoded(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

pub(crate) fn decoded(value: &Value) -> Option<String> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str()?).unwrap();
    Some(String::from_utf8(bytes).unwrap())
}
