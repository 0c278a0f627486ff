//! From an HTTP request to a verb on an object and back. Speaks JSON only, as Packhorse's own client does.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use axum::extract::Query;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::Server;
use super::object::{self, present};
use super::refusal::Refusal;
use super::request_log::Entry;
use super::resource::{Target, target};
use super::verbs::{answer, watch};

/// The body of every answer.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The original takes 3 MiB per object.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// What was asked, taken apart.
pub(super) struct Call {
    pub(super) verb: &'static str,
    pub(super) target: Target,
    query: BTreeMap<String, String>,
    pub(super) content_type: String,
    /// Only metadata is wanted.
    pub(super) metadata_only: bool,
    pub(super) user: String,
}

impl Call {
    pub(super) fn param(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    pub(super) fn dry_run(&self) -> bool {
        self.param("dryRun") == "All"
    }

    /// `pods`, or `pods/binding`.
    fn what(&self) -> String {
        match self.target.subresource.as_str() {
            "" => self.target.resource.plural.to_owned(),
            subresource => format!("{}/{subresource}", self.target.resource.plural),
        }
    }

    pub(super) fn present(&self, object: &Value) -> Value {
        if self.metadata_only {
            return json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]});
        }
        present(self.target.resource, object)
    }
}

/// An answer that is neither a watch nor a refusal.
pub(super) struct Answer {
    pub(super) code: StatusCode,
    pub(super) body: Value,
    pub(super) warnings: Vec<String>,
}

impl Answer {
    pub(super) fn ok(body: Value) -> Self {
        Self { code: StatusCode::OK, body, warnings: Vec::new() }
    }
}

/// Answers one request; an error closes the connection without an answer.
pub(super) async fn handle(server: Arc<Server>, request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
    let path = request.uri().path().to_owned();
    if let Some(answer) = plain(&server, &path) {
        return Ok(answer);
    }
    let Some(call) = read(&request) else {
        // Paths that are not served are answered in plain text, as by the original.
        return Ok(text(StatusCode::NOT_FOUND, "404 page not found\n"));
    };
    let what = call.what();
    let entry = Entry {
        verb: call.verb,
        resource: what.clone(),
        namespace: call.target.namespace.clone(),
        name: call.target.name.clone(),
        path,
        user_agent: header(&request, "user-agent"),
        dry_run: call.dry_run(),
        code: 0,
    };
    // People read JSON by lines; the original does them the same favour.
    let pretty = entry.user_agent.starts_with("curl/") || call.param("pretty") == "true";
    let number = server.log.begin(entry);
    let before = server.faults.delay_before(call.verb, &what);
    if !before.is_zero() {
        tokio::time::sleep(before).await;
    }
    let result = if let Some(code) = server.faults.failure(call.verb, &what) {
        Err(Refusal::new(code, failure_reason(code), "failed on purpose"))
    } else if call.verb == "watch" {
        return match watch(&server, call) {
            Ok(response) => {
                server.log.end(number, 200);
                Ok(response)
            }
            Err(refusal) => {
                server.log.end(number, refusal.code);
                Ok(refused(&refusal, pretty))
            }
        };
    } else {
        match request.into_body_value(call.verb).await {
            Ok(body) => answer(&server, &call, body).await,
            Err(refusal) => Err(refusal),
        }
    };
    let code = match &result {
        Ok(answer) => answer.code.as_u16(),
        Err(refusal) => refusal.code,
    };
    server.log.end(number, code);
    let is_write = !matches!(call.verb, "get" | "list");
    let (wait, lost) = server.faults.answer(call.verb, &what, is_write && result.is_ok());
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    if lost {
        return Err(io::Error::new(io::ErrorKind::ConnectionReset, "answer lost by an injected fault"));
    }
    Ok(match result {
        Ok(answer) => json_response(answer.code, &answer.body, &answer.warnings, pretty),
        Err(refusal) => refused(&refusal, pretty),
    })
}

fn failure_reason(code: u16) -> &'static str {
    match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    }
}

/// Answers that belong to no kind.
fn plain(server: &Server, path: &str) -> Option<Response<Body>> {
    match path {
        "/healthz" | "/livez" | "/readyz" => Some(text(StatusCode::OK, "ok")),
        "/version" => {
            let mut parts = server.version.trim_start_matches('v').split('.');
            let (major, minor) = (parts.next().unwrap_or("1"), parts.next().unwrap_or_default());
            let body = json!({"major": major, "minor": minor, "gitVersion": server.version, "gitCommit": "",
                "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
                "platform": "linux/amd64"});
            Some(json_response(StatusCode::OK, &body, &[], true))
        }
        _ => object::discovery(path).map(|body| json_response(StatusCode::OK, &body, &[], true)),
    }
}

fn header(request: &Request<Incoming>, name: &str) -> String {
    request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn read(request: &Request<Incoming>) -> Option<Call> {
    let mut target = target(request.uri().path())?;
    // POST /bindings is the older spelling of pods/{name}/binding and not offered here.
    let Query(query) = Query::<BTreeMap<String, String>>::try_from_uri(request.uri()).ok()?;
    let is_collection = target.name.is_empty();
    let is_watch = matches!(query.get("watch").map(String::as_str), Some("true" | "1"));
    let verb = match *request.method() {
        Method::GET if is_watch => "watch",
        Method::GET if is_collection => "list",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if is_collection => "deletecollection",
        Method::DELETE => "delete",
        _ => "unknown",
    };
    if is_watch && !is_collection {
        // A watch of one object is a watch of its collection with a selector.
        return None;
    }
    if target.resource.namespaced && target.namespace.is_empty() && !matches!(verb, "list" | "watch") {
        target.subresource = "collection-of-all-namespaces".to_owned();
    }
    let metadata_only = header(request, "accept").contains("as=PartialObjectMetadata");
    let user = Some(header(request, "impersonate-user")).filter(|user| !user.is_empty());
    Some(Call {
        verb,
        target,
        query,
        content_type: header(request, "content-type"),
        metadata_only,
        user: user.unwrap_or_else(|| "system:admin".to_owned()),
    })
}

/// Reads the body where the verb has one.
trait IntoBodyValue {
    async fn into_body_value(self, verb: &str) -> Result<Value, Refusal>;
}

impl IntoBodyValue for Request<Incoming> {
    async fn into_body_value(self, verb: &str) -> Result<Value, Refusal> {
        if matches!(verb, "get" | "list") {
            return Ok(Value::Null);
        }
        let content_type = header(&self, "content-type");
        let bytes = Limited::new(self.into_body(), BODY_LIMIT)
            .collect()
            .await
            .map_err(|_| Refusal::new(413, "RequestEntityTooLarge", "limit is 3145728"))?
            .to_bytes();
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        if content_type.contains("protobuf") || content_type.contains("cbor") {
            let message =
                "the body of the request was in an unknown format - accepted media types include: application/json";
            return Err(Refusal::new(415, "UnsupportedMediaType", message));
        }
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(value),
            // `kubectl apply --server-side` and curl users may send YAML.
            Err(error) if content_type.contains("yaml") => std::str::from_utf8(&bytes)
                .ok()
                .and_then(|text| serde_saphyr::from_str(text).ok())
                .ok_or_else(|| Refusal::bad_request(format!("the body is neither JSON nor YAML: {error}"))),
            Err(error) => Err(Refusal::bad_request(format!("the body is not JSON: {error}"))),
        }
    }
}

fn refused(refusal: &Refusal, pretty: bool) -> Response<Body> {
    let code = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_response(code, &refusal.status(), &[], pretty)
}

fn json_response(code: StatusCode, body: &Value, warnings: &[String], pretty: bool) -> Response<Body> {
    let text = if pretty { format!("{body:#}\n") } else { format!("{body}\n") };
    response(code, "application/json", full(text), warnings)
}

fn text(code: StatusCode, body: &'static str) -> Response<Body> {
    response(code, "text/plain; charset=utf-8", full(body.to_owned()), &[])
}

fn full(body: String) -> Body {
    Full::new(Bytes::from(body)).map_err(|never: Infallible| match never {}).boxed_unsync()
}

pub(super) fn response(
    code: StatusCode,
    content_type: &'static str,
    body: Body,
    warnings: &[String],
) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert("content-type", hyper::header::HeaderValue::from_static(content_type));
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\r', '\n'], " ");
        if let Ok(value) = hyper::header::HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            headers.append("warning", value);
        }
    }
    response
}
