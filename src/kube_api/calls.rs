//! The few calls that extender and agent make to the API server: bind, look a pod up, nominate, evict, write an Event; and the
//! agent's question for the pods of its node.
//!
//! Each is one HTTP request with a deadline, which is not repeated here: whoever calls knows what a repetition would mean. (A client
//! that itself repeats what was answered with 429, 503 or 504 does no harm: every call has the UID as precondition, and a second
//! bind is a conflict.) Errors are told apart by what is known afterwards (see [`CallError`]): the difference between "was not
//! done" and "may have been done" keeps a device from being given out twice. Every call is counted by kind and result.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::{Method, Request, StatusCode};
use kube::client::Body;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use serde_json::json;

/// What is known after a call that did not succeed.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum CallError {
    /// 409: the object is not in the state the call needs.
    #[error("conflict: {0}")]
    Conflict(String),
    /// 404: there is no such object.
    #[error("not found: {0}")]
    NotFound(String),
    /// The API server said no, or was never reached: the call was certainly not carried out.
    #[error("refused: {0}")]
    Refused(String),
    /// Timed out, broke off or failed inside the API server: the call may have been carried out, now or later.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

impl CallError {
    fn result(&self) -> &'static str {
        match self {
            Self::Conflict(_) => "conflict",
            Self::NotFound(_) => "not_found",
            Self::Refused(_) => "refused",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// A pod that is to be bound, and where to.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its UID: a precondition, so that a recreated pod of the same name is not meant.
    pub uid: &'a str,
    /// The node.
    pub node: &'a str,
    /// Annotations that appear on the pod in the same write as its node.
    pub annotations: &'a [(String, String)],
}

/// What an Event is about and says.
#[derive(Debug, Clone, Copy)]
pub struct PodEvent<'a> {
    /// The pod's namespace; the Event's too.
    pub namespace: &'a str,
    /// The pod's name.
    pub name: &'a str,
    /// The pod's UID.
    pub uid: &'a str,
    /// `Normal` or `Warning`.
    pub kind: &'a str,
    /// One CamelCase word.
    pub reason: &'a str,
    /// What Packhorse did, one CamelCase word.
    pub action: &'a str,
    /// A sentence for people.
    pub note: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    kind: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// What an Event about a node says.
#[derive(Debug, Clone, Copy)]
pub struct NodeEvent<'a> {
    /// The node's name.
    pub node: &'a str,
    /// `Normal` or `Warning`.
    pub kind: &'a str,
    /// One CamelCase word.
    pub reason: &'a str,
    /// What Packhorse did, one CamelCase word.
    pub action: &'a str,
    /// A sentence for people.
    pub note: &'a str,
}

/// Counts and durations of API calls.
#[derive(Debug, Clone)]
pub struct CallMetrics {
    calls: Family<CallLabels, Counter>,
    seconds: Family<KindLabel, Histogram, fn() -> Histogram>,
}

impl CallMetrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        fn buckets() -> Histogram {
            Histogram::new(exponential_buckets(0.0005, 2.0, 15))
        }
        let calls = Family::default();
        registry.register("packhorse_api_calls", "Calls to the API server by kind and result", calls.clone());
        let seconds = Family::new_with_constructor(buckets as fn() -> Histogram);
        registry.register("packhorse_api_call_seconds", "Duration of calls to the API server", seconds.clone());
        Self { calls, seconds }
    }

    /// How many calls of one kind ended with one result (`ok`, `conflict`, `not_found`, `refused`, `unknown`).
    pub fn count(&self, kind: &'static str, result: &'static str) -> u64 {
        self.calls.get_or_create(&CallLabels { kind, result }).get()
    }
}

/// Makes the calls. Cheap to clone.
#[derive(Clone)]
pub struct Calls {
    client: kube::Client,
    timeout: Duration,
    metrics: CallMetrics,
    /// Who writes Events: the part of Packhorse, and which one of its kind.
    reporter: (&'static str, Arc<str>),
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Calls {
    /// `timeout` bounds each single call.
    pub fn new(client: kube::Client, timeout: Duration, metrics: CallMetrics) -> Self {
        let instance = std::env::var("HOSTNAME").unwrap_or_else(|_| "packhorse-server".to_owned());
        Self { client, timeout, metrics, reporter: ("packhorse.dev/server", instance.into()) }
    }

    /// The same calls, of the agent on `node`: Events name it.
    #[must_use]
    pub fn of_agent(&self, node: &str) -> Self {
        Self { reporter: ("packhorse.dev/agent", node.into()), ..self.clone() }
    }

    /// The counters.
    pub fn metrics(&self) -> &CallMetrics {
        &self.metrics
    }

    /// The same calls with another deadline.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// Binds a pod and annotates it in one write.
    ///
    /// # Errors
    /// [`CallError::Conflict`] where the pod is bound already, is being deleted, or has another UID.
    pub async fn bind(&self, binding: &Binding<'_>) -> Result<(), CallError> {
        let annotations: serde_json::Map<String, serde_json::Value> =
            binding.annotations.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        let body = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {
                "name": binding.name,
                "namespace": binding.namespace,
                "uid": binding.uid,
                "annotations": annotations,
            },
            "target": {"apiVersion": "v1", "kind": "Node", "name": binding.node},
        });
        let path = pod_path(binding.namespace, binding.name, "/binding");
        self.send("bind", Method::POST, &path, "application/json", &body).await.map(drop)
    }

    /// A pod's JSON.
    ///
    /// # Errors
    /// [`CallError::NotFound`] where it is gone.
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<Vec<u8>, CallError> {
        let path = pod_path(namespace, name, "");
        self.send("get_pod", Method::GET, &path, "application/json", &serde_json::Value::Null).await
    }

    /// The JSON of a list of the pods bound to a node, as the API server has them now.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn pods_of(&self, node: &str) -> Result<Vec<u8>, CallError> {
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", segment(node));
        self.send("list_pods", Method::GET, &path, "application/json", &serde_json::Value::Null).await
    }

    /// Sets `status.nominatedNodeName`: kube-scheduler requeues the pod and asks about that node first. The UID is a precondition.
    ///
    /// # Errors
    /// [`CallError::Conflict`] where the pod has another UID.
    pub async fn nominate(&self, namespace: &str, name: &str, uid: &str, node: &str) -> Result<(), CallError> {
        let body = json!({"metadata": {"uid": uid}, "status": {"nominatedNodeName": node}});
        let path = pod_path(namespace, name, "/status");
        self.send("nominate", Method::PATCH, &path, "application/strategic-merge-patch+json", &body).await.map(drop)
    }

    /// Evicts a pod, respecting disruption budgets. The UID is a precondition.
    ///
    /// # Errors
    /// [`CallError::Refused`] where a disruption budget forbids it now.
    pub async fn evict(&self, namespace: &str, name: &str, uid: &str) -> Result<(), CallError> {
        let body = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": uid}},
        });
        let path = pod_path(namespace, name, "/eviction");
        self.send("evict", Method::POST, &path, "application/json", &body).await.map(drop)
    }

    /// Writes an Event about a pod.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn event(&self, event: &PodEvent<'_>) -> Result<(), CallError> {
        let regarding = json!({
            "apiVersion": "v1", "kind": "Pod",
            "namespace": event.namespace, "name": event.name, "uid": event.uid,
        });
        self.write_event(event.namespace, regarding, [event.kind, event.reason, event.action, event.note]).await
    }

    /// Writes an Event about a node. Like the kubelet it writes the node's name for its UID, by which `kubectl describe node`
    /// finds it, into the namespace `default`, where Events of objects without a namespace belong.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn node_event(&self, event: &NodeEvent<'_>) -> Result<(), CallError> {
        let regarding = json!({"apiVersion": "v1", "kind": "Node", "name": event.node, "uid": event.node});
        self.write_event("default", regarding, [event.kind, event.reason, event.action, event.note]).await
    }

    async fn write_event(
        &self,
        namespace: &str,
        regarding: serde_json::Value,
        [kind, reason, action, note]: [&str; 4],
    ) -> Result<(), CallError> {
        let (controller, instance) = &self.reporter;
        let body = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            // A constant: a long pod name with anything behind it would be too long.
            "metadata": {"generateName": "packhorse-", "namespace": namespace},
            "eventTime": format!("{:.6}", jiff::Timestamp::now()),
            "reportingController": controller,
            "reportingInstance": &**instance,
            "type": kind,
            "reason": reason,
            "action": action,
            "note": note,
            "regarding": regarding,
        });
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", segment(namespace));
        self.send("event", Method::POST, &path, "application/json", &body).await.map(drop)
    }

    async fn send(
        &self,
        kind: &'static str,
        method: Method,
        path: &str,
        content_type: &str,
        body: &serde_json::Value,
    ) -> Result<Vec<u8>, CallError> {
        let start = Instant::now();
        let answer = match tokio::time::timeout(self.timeout, self.exchange(method, path, content_type, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::Unknown(format!("no answer within {:?}", self.timeout))),
        };
        self.metrics.seconds.get_or_create(&KindLabel { kind }).observe(start.elapsed().as_secs_f64());
        let result = answer.as_ref().err().map_or("ok", CallError::result);
        self.metrics.calls.get_or_create(&CallLabels { kind, result }).inc();
        answer
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: &serde_json::Value,
    ) -> Result<Vec<u8>, CallError> {
        let bytes = if body.is_null() {
            Vec::new()
        } else {
            serde_json::to_vec(body).map_err(|e| CallError::Refused(format!("cannot be written as JSON: {e}")))?
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .header("accept", "application/json")
            .body(Body::from(bytes))
            .map_err(|e| CallError::Refused(format!("not a valid request: {e}")))?;
        let response = self.client.send(request).await.map_err(|e| transport(&e))?;
        let status = response.status();
        let body = response.into_body().collect().await;
        if status.is_success() {
            // The answer's head already says that it was done; only a reader of the body minds that it broke off.
            return match body {
                Ok(body) => Ok(body.to_bytes().to_vec()),
                Err(e) => Err(CallError::Unknown(format!("answer broke off: {e}"))),
            };
        }
        let text = body.map_or_else(|_| status.to_string(), |body| message(status, &body.to_bytes()));
        Err(match status {
            StatusCode::CONFLICT => CallError::Conflict(text),
            StatusCode::NOT_FOUND => CallError::NotFound(text),
            _ if status.is_server_error() => CallError::Unknown(text),
            _ => CallError::Refused(text),
        })
    }
}

/// The human part of a `Status` object, or the HTTP status.
fn message(status: StatusCode, body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Status {
        message: Option<Arc<str>>,
    }
    match serde_json::from_slice::<Status>(body) {
        Ok(Status { message: Some(message) }) => message.to_string(),
        _ => status.to_string(),
    }
}

/// A failure without an answer. Only one that happened before anything was sent is known not to have been carried out.
fn transport(error: &kube::Error) -> CallError {
    let mut text = error.to_string();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut never_sent = matches!(error, kube::Error::Auth(_) | kube::Error::BuildRequest(_));
    while let Some(e) = cause {
        if let Some(e) = e.downcast_ref::<hyper_util::client::legacy::Error>() {
            never_sent |= e.is_connect();
        }
        cause = e.source();
        if let Some(source) = cause {
            text = source.to_string();
        }
    }
    if never_sent { CallError::Refused(format!("API server not reached: {text}")) } else { CallError::Unknown(text) }
}

fn pod_path(namespace: &str, name: &str, subresource: &str) -> String {
    format!("/api/v1/namespaces/{}/pods/{}{subresource}", segment(namespace), segment(name))
}

/// One path segment: names are DNS labels, but what comes in from outside must not be able to name another path.
fn segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && !matches!(name, "." | ".."))
        {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_path_segment() {
        assert_eq!(pod_path("ns", "a.b-c", "/binding"), "/api/v1/namespaces/ns/pods/a.b-c/binding");
        assert_eq!(pod_path("..", "a/../b?x#y", ""), "/api/v1/namespaces/%2E%2E/pods/a%2F..%2Fb%3Fx%23y");
    }

    #[test]
    fn takes_the_message_out_of_a_status() {
        let text = message(StatusCode::CONFLICT, br#"{"kind":"Status","message":"already assigned"}"#);
        assert_eq!(text, "already assigned");
        assert_eq!(message(StatusCode::BAD_GATEWAY, b"<html>"), "502 Bad Gateway");
    }
}
