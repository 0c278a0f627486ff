//! The little of an API server that certificates need: one Secret and one webhook configuration, with versions, conditional
//! writes and conflicts as the real one has them.

use std::sync::{Arc, Mutex};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tower::ServiceExt;

pub(crate) const SECRET: &str = "packhorse-webhook-ca";

#[derive(Default)]
struct Objects {
    secret: Option<Value>,
    configuration: Option<Value>,
    version: u64,
    created: usize,
    away: bool,
}

/// Shared by the tasks under test and the test.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<Objects>>);

impl FakeApi {
    /// With a webhook configuration of two webhooks without bundles.
    pub(crate) fn new() -> Self {
        let api = Self::default();
        let webhook = |name: &str| {
            json!({"name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None",
                   "clientConfig": {"service": {"name": "packhorse-server", "namespace": "packhorse-system"}}})
        };
        api.0.lock().unwrap().configuration = Some(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "packhorse", "resourceVersion": "0"},
            "webhooks": [webhook("pods.packhorse.dev"), webhook("debug.packhorse.dev")],
        }));
        api
    }

    pub(crate) fn client(&self) -> kube::Client {
        let secrets = "/api/v1/namespaces/packhorse-system/secrets";
        let configurations = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
        let router = axum::Router::new()
            .route(secrets, post(create_secret))
            .route(&format!("{secrets}/{SECRET}"), get(read_secret).put(replace_secret))
            .route(&format!("{configurations}/packhorse"), get(read_configuration).patch(patch_configuration))
            .with_state(self.clone());
        kube::Client::new(router.map_request(|request: axum::http::Request<_>| request.map(Body::new)), "default")
    }

    /// The bundles of all webhooks, PEM.
    pub(crate) fn bundles(&self) -> Vec<String> {
        let objects = self.0.lock().unwrap();
        let webhooks = objects.configuration.as_ref().unwrap()["webhooks"].as_array().unwrap().clone();
        webhooks.iter().map(|webhook| decoded(&webhook["clientConfig"]["caBundle"]).unwrap_or_default()).collect()
    }

    /// One key of the Secret, PEM.
    pub(crate) fn secret(&self, key: &str) -> Option<String> {
        decoded(&self.0.lock().unwrap().secret.as_ref()?["data"][key])
    }

    /// How often the Secret was created.
    pub(crate) fn created(&self) -> usize {
        self.0.lock().unwrap().created
    }

    pub(crate) fn edit_secret(&self, edit: impl FnOnce(&mut Value)) {
        let mut objects = self.0.lock().unwrap();
        objects.version += 1;
        let version = objects.version.to_string();
        let secret = objects.secret.as_mut().unwrap();
        edit(secret);
        secret["metadata"]["resourceVersion"] = version.into();
    }

    /// As `kubectl annotate secret … packhorse.dev/replace-ca=now`.
    pub(crate) fn ask_for_a_new_ca(&self) {
        self.edit_secret(|secret| secret["metadata"]["annotations"]["packhorse.dev/replace-ca"] = "now".into());
    }

    /// From now on every call ends in 503, or no more.
    pub(crate) fn set_away(&self, away: bool) {
        self.0.lock().unwrap().away = away;
    }
}

fn decoded(value: &Value) -> Option<String> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str()?).unwrap();
    Some(String::from_utf8(bytes).unwrap())
}

fn failure(code: u16, reason: &str) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason});
    (StatusCode::from_u16(code).unwrap(), Json(status)).into_response()
}

fn found(object: Option<&Value>) -> Response {
    object.map_or_else(|| failure(404, "NotFound"), |object| Json(object.clone()).into_response())
}

async fn read_secret(State(api): State<FakeApi>) -> Response {
    let objects = api.0.lock().unwrap();
    if objects.away { failure(503, "ServiceUnavailable") } else { found(objects.secret.as_ref()) }
}

async fn create_secret(State(api): State<FakeApi>, Json(mut secret): Json<Value>) -> Response {
    let mut objects = api.0.lock().unwrap();
    if objects.secret.is_some() {
        return failure(409, "AlreadyExists");
    }
    objects.version += 1;
    objects.created += 1;
    secret["metadata"]["resourceVersion"] = objects.version.to_string().into();
    objects.secret = Some(secret.clone());
    (StatusCode::CREATED, Json(secret)).into_response()
}

async fn replace_secret(State(api): State<FakeApi>, Json(mut secret): Json<Value>) -> Response {
    let mut objects = api.0.lock().unwrap();
    let Some(stored) = &objects.secret else { return failure(404, "NotFound") };
    if stored["metadata"]["resourceVersion"] != secret["metadata"]["resourceVersion"] {
        return failure(409, "Conflict");
    }
    objects.version += 1;
    secret["metadata"]["resourceVersion"] = objects.version.to_string().into();
    objects.secret = Some(secret.clone());
    Json(secret).into_response()
}

async fn read_configuration(State(api): State<FakeApi>) -> Response {
    let objects = api.0.lock().unwrap();
    if objects.away { failure(503, "ServiceUnavailable") } else { found(objects.configuration.as_ref()) }
}

async fn patch_configuration(State(api): State<FakeApi>, Json(patch): Json<json_patch::Patch>) -> Response {
    let mut objects = api.0.lock().unwrap();
    let Some(mut configuration) = objects.configuration.clone() else { return failure(404, "NotFound") };
    if json_patch::patch(&mut configuration, &patch).is_err() {
        return failure(422, "Invalid");
    }
    objects.version += 1;
    configuration["metadata"]["resourceVersion"] = objects.version.to_string().into();
    objects.configuration = Some(configuration.clone());
    Json(configuration).into_response()
}
