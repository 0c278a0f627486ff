//! Calls mutating webhooks as the API server does: over real HTTPS (or plain HTTP), by the stored
//! `MutatingWebhookConfiguration` objects, with the answer held to the same rules.
//!
//! `matchConditions` are CEL, which is not evaluated here: every request that the rules and selectors match is sent. A webhook must
//! leave alone what is not its concern in any case.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::object::{meta, present};
use super::refusal::Refusal;
use super::resource::{Resource, Target};
use super::store::Store;

/// One request on its way through admission.
#[derive(Debug)]
pub(super) struct Review<'a> {
    pub(super) target: &'a Target,
    /// `CREATE` or `UPDATE`.
    pub(super) operation: &'static str,
    pub(super) old: Option<&'a Value>,
    pub(super) dry_run: bool,
    pub(super) user: &'a str,
}

/// What admission made of an object.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) object: Value,
    pub(super) warnings: Vec<String>,
}

/// Connections kept open to one endpoint, by URL and CA bundle.
type Idle = Vec<((String, String), SendRequest<Full<Bytes>>)>;

/// The caller of webhooks.
#[derive(Debug, Default)]
pub(super) struct Admission {
    idle: Mutex<Idle>,
    times: Mutex<Vec<Duration>>,
}

impl Admission {
    pub(super) async fn review(&self, store: &Store, review: &Review<'_>, object: Value) -> Result<Admitted, Refusal> {
        let mut admitted = Admitted { object, warnings: Vec::new() };
        for webhook in webhooks(store, review, &admitted.object) {
            let name = webhook["name"].as_str().unwrap_or_default();
            let limit = Duration::from_secs(webhook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30));
            let began = Instant::now();
            let call = tokio::time::timeout(limit, self.call(&webhook, review, &admitted.object)).await;
            self.times.lock().unwrap_or_else(PoisonError::into_inner).push(began.elapsed());
            match call.unwrap_or_else(|_| Err("context deadline exceeded".to_owned())) {
                Ok(response) => apply(name, &response, &mut admitted)?,
                Err(_) if webhook["failurePolicy"] == "Ignore" => {}
                Err(error) => {
                    let message = format!("Internal error occurred: failed calling webhook {name:?}: {error}");
                    return Err(Refusal::new(500, "InternalError", message));
                }
            }
        }
        Ok(admitted)
    }

    pub(super) fn times(&self) -> Vec<Duration> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One call; the response object of a well-formed answer.
    async fn call(&self, webhook: &Value, review: &Review<'_>, object: &Value) -> Result<Value, String> {
        let resource = review.target.resource;
        let uid = format!("{:016x}", std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0));
        let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
        let what = json!({"group": resource.group, "version": resource.version, "resource": resource.plural});
        let options = if review.operation == "CREATE" { "CreateOptions" } else { "UpdateOptions" };
        let mut request = json!({"uid": uid, "kind": kind, "resource": what, "requestKind": kind, "requestResource": what,
            "namespace": review.target.namespace, "operation": review.operation,
            "userInfo": {"username": review.user, "groups": ["system:authenticated"]},
            "object": present(resource, object), "oldObject": review.old.map(|old| present(resource, old)),
            "dryRun": review.dry_run, "options": {"kind": options, "apiVersion": "meta.k8s.io/v1"}});
        if !meta(object, "name").is_empty() {
            request["name"] = json!(meta(object, "name"));
        }
        if !review.target.subresource.is_empty() {
            request["subResource"] = json!(review.target.subresource);
            request["requestSubResource"] = json!(review.target.subresource);
        }
        let body = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request});
        let answer = self.post(&webhook["clientConfig"], body.to_string()).await?;
        let answer: Value =
            serde_json::from_slice(&answer).map_err(|error| format!("couldn't decode answer: {error}"))?;
        if answer["kind"] != "AdmissionReview" || answer["apiVersion"] != "admission.k8s.io/v1" {
            return Err("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview".to_owned());
        }
        let response = &answer["response"];
        if !response.is_object() {
            return Err("webhook response was absent".to_owned());
        }
        if response["uid"] != request["uid"] {
            return Err(format!("expected response.uid={uid:?}, got {}", response["uid"]));
        }
        match (response["patch"].as_str().is_none_or(str::is_empty), response["patchType"].as_str()) {
            (true, None) | (false, Some("JSONPatch")) => Ok(response.clone()),
            (_, Some(kind)) if kind != "JSONPatch" => Err(format!("invalid response.patchType of {kind:?}")),
            (true, _) => Err("response.patchType set without response.patch".to_owned()),
            (false, _) => Err("response.patch set without response.patchType".to_owned()),
        }
    }

    async fn post(&self, config: &Value, body: String) -> Result<Bytes, String> {
        let url = config["url"].as_str().ok_or("clientConfig has no url, and services are not resolved here")?;
        let bundle = config["caBundle"].as_str().unwrap_or_default();
        let uri: hyper::Uri = url.parse().map_err(|error| format!("clientConfig.url {url:?}: {error}"))?;
        let host = uri.host().ok_or_else(|| format!("clientConfig.url {url:?} has no host"))?.to_owned();
        let failed = |error: &dyn std::fmt::Display| format!("failed to call webhook: Post {url:?}: {error}");
        let of = (url.to_owned(), bundle.to_owned());
        loop {
            let idle = self.take(&of);
            let reused = idle.is_some();
            let mut sender = match idle {
                Some(sender) => sender,
                None => connect(&uri, &host, bundle).await.map_err(|error| failed(&error))?,
            };
            let request = hyper::Request::post(uri.path_and_query().map_or("/", |path| path.as_str()))
                .header("host", uri.authority().map_or(host.as_str(), |a| a.as_str()))
                .header("content-type", "application/json")
                .header("user-agent", "kube-apiserver-admission")
                .body(Full::new(Bytes::from(body.clone())))
                .map_err(|error| failed(&error))?;
            if let Err(error) = sender.ready().await {
                // A connection closed while idle is no failure of the webhook: a fresh one is tried.
                if reused {
                    continue;
                }
                return Err(failed(&error));
            }
            let response = match sender.send_request(request).await {
                Ok(response) => response,
                Err(_) if reused => continue,
                Err(error) => return Err(failed(&error)),
            };
            let status = response.status();
            let answer = response.into_body().collect().await.map_err(|error| failed(&error))?.to_bytes();
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((of, sender));
            if status != hyper::StatusCode::OK {
                return Err(format!("failed to call webhook: the server answered {status}"));
            }
            return Ok(answer);
        }
    }

    fn take(&self, of: &(String, String)) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, sender)| !sender.is_closed());
        let position = idle.iter().position(|(key, _)| key == of)?;
        Some(idle.swap_remove(position).1)
    }
}

async fn connect(uri: &hyper::Uri, host: &str, bundle: &str) -> Result<SendRequest<Full<Bytes>>, String> {
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    if !tls {
        return handshake(TokioIo::new(stream)).await;
    }
    let pem = STANDARD.decode(bundle).map_err(|error| format!("caBundle is not base64: {error}"))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("caBundle: {error}"))?;
        roots.add(certificate).map_err(|error| format!("caBundle: {error}"))?;
    }
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|error| error.to_string())?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| format!("tls: {error}"))?;
    handshake(TokioIo::new(stream)).await
}

async fn handshake<T>(io: T) -> Result<SendRequest<Full<Bytes>>, String>
where
    T: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(|error| error.to_string())?;
    // Its end shows on the sender, which is then not used again.
    tokio::spawn(connection);
    Ok(sender)
}

/// The webhooks to call for a request, in the order of their configurations' names.
fn webhooks(store: &Store, review: &Review<'_>, object: &Value) -> Vec<Value> {
    let (Some(configurations), Some(namespaces)) =
        (Resource::by_plural("mutatingwebhookconfigurations"), Resource::by_plural("namespaces"))
    else {
        return Vec::new();
    };
    let state = store.read();
    let namespace = state.get(namespaces, &(String::new(), review.target.namespace.clone()));
    let none = Value::Null;
    let namespace = namespace.as_deref().unwrap_or(&none);
    let configurations = state.list(configurations, "");
    configurations
        .iter()
        .flat_map(|configuration| configuration["webhooks"].as_array().into_iter().flatten())
        .filter(|webhook| {
            webhook["rules"].as_array().into_iter().flatten().any(|rule| rule_matches(rule, review))
                && selects(&webhook["namespaceSelector"], &namespace["metadata"]["labels"])
                && (selects(&webhook["objectSelector"], &object["metadata"]["labels"])
                    || review.old.is_some_and(|old| selects(&webhook["objectSelector"], &old["metadata"]["labels"])))
        })
        .cloned()
        .collect()
}

fn rule_matches(rule: &Value, review: &Review<'_>) -> bool {
    let resource = review.target.resource;
    let subresource = &review.target.subresource;
    let has = |field: &str, wanted: &str| {
        rule[field].as_array().into_iter().flatten().any(|given| given == "*" || given == wanted)
    };
    let matches_resource = rule["resources"].as_array().into_iter().flatten().filter_map(Value::as_str).any(|given| {
        let (of, sub) = given.split_once('/').unwrap_or((given, ""));
        (of == "*" || of == resource.plural) && (sub == "*" || sub == subresource)
    });
    has("operations", review.operation)
        && has("apiGroups", resource.group)
        && has("apiVersions", resource.version)
        && matches_resource
        && rule["scope"].as_str().is_none_or(|scope| scope == "*" || (scope == "Namespaced") == resource.namespaced)
}

/// A label selector in its long form; an absent one selects everything.
fn selects(selector: &Value, labels: &Value) -> bool {
    let exact = selector["matchLabels"].as_object().into_iter().flatten().all(|(key, value)| labels[key] == *value);
    exact
        && selector["matchExpressions"].as_array().into_iter().flatten().all(|term| {
            let value = &labels[term["key"].as_str().unwrap_or_default()];
            let listed = term["values"].as_array().into_iter().flatten().any(|given| given == value);
            match term["operator"].as_str() {
                Some("In") => listed,
                Some("NotIn") => !listed,
                Some("Exists") => !value.is_null(),
                Some("DoesNotExist") => value.is_null(),
                _ => false,
            }
        })
}

/// Applies one well-formed answer to the object, or refuses the request in the webhook's words.
fn apply(name: &str, response: &Value, admitted: &mut Admitted) -> Result<(), Refusal> {
    for warning in response["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        admitted.warnings.push(warning.to_owned());
    }
    if response["allowed"] != true {
        let status = &response["status"];
        let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| *code >= 400);
        let message = match status["message"].as_str().or_else(|| status["reason"].as_str()) {
            Some(message) => format!("admission webhook {name:?} denied the request: {message}"),
            None => format!("admission webhook {name:?} denied the request without explanation"),
        };
        return Err(Refusal::new(code.unwrap_or(403), status["reason"].as_str().unwrap_or("Forbidden"), message));
    }
    let Some(patch) = response["patch"].as_str().filter(|patch| !patch.is_empty()) else { return Ok(()) };
    let broken = |error: &dyn std::fmt::Display| {
        Refusal::new(500, "InternalError", format!("Internal error occurred: patch of webhook {name:?}: {error}"))
    };
    let patch = STANDARD.decode(patch).map_err(|error| broken(&error))?;
    let patch: json_patch::Patch = serde_json::from_slice(&patch).map_err(|error| broken(&error))?;
    // The webhook saw the object with its kind; a patch may test it.
    json_patch::patch(&mut admitted.object, &patch).map_err(|error| broken(&error))
}
