//! Counts every request to the API server, whoever makes it: a layer around the client's transport. What Packhorse costs the API
//! server is a promise (one write per scheduled pod), hence it is measured where no call can slip by.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::http::{Method, Request, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tower::{Layer, Service};

use super::latency_buckets;

/// A call and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    verb: &'static str,
    resource: Arc<str>,
    /// HTTP status, or `none` where no answer came.
    code: Arc<str>,
}

/// A call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    verb: &'static str,
    resource: Arc<str>,
}

/// The series, and the layer that feeds them.
#[derive(Debug, Clone)]
pub struct ApiRequests {
    calls: Family<Outcome, Counter>,
    seconds: Family<Call, Histogram, fn() -> Histogram>,
}

impl ApiRequests {
    /// Registers the series.
    pub fn new(registry: &mut Registry) -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(latency_buckets());
        let metrics = Self { calls: Family::default(), seconds: Family::new_with_constructor(seconds) };
        registry.register("packhorse_api_requests", "Requests to the API server", metrics.calls.clone());
        registry.register(
            "packhorse_api_request_seconds",
            "Time until the API server's answer began; watches not included",
            metrics.seconds.clone(),
        );
        metrics
    }

    fn note(&self, call: Call, code: Option<u16>, started: Instant) {
        if call.verb != "watch" {
            self.seconds.get_or_create(&call).observe(started.elapsed().as_secs_f64());
        }
        let Call { verb, resource } = call;
        let code = code.map_or_else(|| Arc::from("none"), |code| Arc::from(code.to_string()));
        self.calls.get_or_create(&Outcome { verb, resource, code }).inc();
    }
}

impl<S> Layer<S> for ApiRequests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, metrics: self.clone() }
    }
}

/// A client transport whose calls are counted.
#[derive(Debug, Clone)]
pub struct Counted<S> {
    inner: S,
    metrics: ApiRequests,
}

impl<S, A, B> Service<Request<A>> for Counted<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let call = describe(request.method(), request.uri().path(), request.uri().query());
        let (metrics, started) = (self.metrics.clone(), Instant::now());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            metrics.note(call, answer.as_ref().ok().map(|answer| answer.status().as_u16()), started);
            answer
        })
    }
}

/// Kubernetes' verb, and the resource with its subresource, never a name: `create` `pods/binding`.
fn describe(method: &Method, path: &str, query: Option<&str>) -> Call {
    let mut rest: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    rest.drain(
        ..match rest.first().copied() {
            Some("api") => 2.min(rest.len()),
            Some("apis") => 3.min(rest.len()),
            _ => 0,
        },
    );
    if rest.len() >= 3 && rest[0] == "namespaces" {
        rest.drain(..2);
    }
    let resource = match rest[..] {
        [] => "discovery".into(),
        [resource, _, subresource] => format!("{resource}/{subresource}").into(),
        [resource, ..] => resource.into(),
    };
    let is_watch = query.is_some_and(|query| query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1")));
    let verb = match *method {
        Method::GET if is_watch => "watch",
        Method::GET if rest.len() != 1 || !path.starts_with("/api") => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    };
    Call { verb, resource }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_named_by_verb_and_resource_never_by_object() {
        let cases = [
            ("POST", "/api/v1/namespaces/team/pods/trainer/binding", "create", "pods/binding"),
            ("GET", "/api/v1/pods?limit=500", "list", "pods"),
            ("GET", "/api/v1/pods?watch=true&resourceVersion=7", "watch", "pods"),
            ("GET", "/api/v1/namespaces/team/pods/trainer", "get", "pods"),
            ("PATCH", "/api/v1/namespaces/team/pods/trainer/status", "patch", "pods/status"),
            ("GET", "/api/v1/namespaces?watch=1", "watch", "namespaces"),
            ("GET", "/api/v1/namespaces/team", "get", "namespaces"),
            ("PUT", "/api/v1/namespaces/packhorse-system/secrets/packhorse-webhook-ca", "update", "secrets"),
            (
                "PATCH",
                "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/packhorse",
                "patch",
                "mutatingwebhookconfigurations",
            ),
            ("GET", "/version", "get", "version"),
            ("GET", "/apis", "get", "discovery"),
        ];
        for (method, uri, verb, resource) in cases {
            let (path, query) = uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
            let call = describe(&method.parse().unwrap(), path, query);
            assert_eq!((call.verb, &*call.resource), (verb, resource), "{method} {uri}");
        }
    }
}
