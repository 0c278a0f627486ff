//! From an HTTP request to a verb on an object and back. Speaks JSON only, as Packhorse's own client does.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Query;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Server;
use super::admission::Review;
use super::object::{self, meta, present};
use super::operations::Deletion;
use super::patch;
use super::refusal::Refusal;
use super::request_log::Entry;
use super::resource::{Target, target};
use super::selector::Selector;
use super::store::Page;
use super::watch::Watch;

/// The body of every answer.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The original takes 3 MiB per object.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// What was asked, taken apart.
struct Call {
    verb: &'static str,
    target: Target,
    query: BTreeMap<String, String>,
    content_type: String,
    /// Only metadata is wanted.
    metadata_only: bool,
    user: String,
}

impl Call {
    fn param(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    fn dry_run(&self) -> bool {
        self.param("dryRun") == "All"
    }

    /// `pods`, or `pods/binding`.
    fn what(&self) -> String {
        match self.target.subresource.as_str() {
            "" => self.target.resource.plural.to_owned(),
            subresource => format!("{}/{subresource}", self.target.resource.plural),
        }
    }

    fn present(&self, object: &Value) -> Value {
        if self.metadata_only {
            return json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]});
        }
        present(self.target.resource, object)
    }
}

/// An answer that is neither a watch nor a refusal.
struct Answer {
    code: StatusCode,
    body: Value,
    warnings: Vec<String>,
}

impl Answer {
    fn ok(body: Value) -> Self {
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

async fn answer(server: &Server, call: &Call, body: Value) -> Result<Answer, Refusal> {
    let target = &call.target;
    match (call.verb, target.resource.plural, target.subresource.as_str()) {
        (_, _, "collection-of-all-namespaces") => Err(Refusal::method_not_allowed()),
        ("list", _, "") => list(server, call).map(Answer::ok),
        ("get", _, "" | "status") => server.operations.get(target).map(|object| Answer::ok(call.present(&object))),
        ("create", _, "") if target.name.is_empty() => create(server, call, body).await,
        ("create", "pods", "binding") => {
            let binding = bare(body, "Binding", "v1")?;
            server.operations.bind(target, &binding, call.dry_run())?;
            let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
            Ok(Answer { code: StatusCode::CREATED, ..Answer::ok(body) })
        }
        ("create", "pods", "eviction") => {
            let eviction = bare(body, "Eviction", "policy/v1")?;
            let mut deletion = deletion(call, &eviction["deleteOptions"])?;
            deletion.dry_run |= call.dry_run();
            server.operations.delete(target, &deletion)?;
            let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
            Ok(Answer { code: StatusCode::CREATED, ..Answer::ok(body) })
        }
        ("update" | "patch", _, "") if !target.name.is_empty() => update(server, call, &body).await,
        ("update" | "patch", _, "status") if target.resource.status => update(server, call, &body).await,
        ("update" | "patch", "pods", "ephemeralcontainers") => update(server, call, &body).await,
        ("get", "pods", "ephemeralcontainers") => {
            server.operations.get(target).map(|object| Answer::ok(call.present(&object)))
        }
        ("delete", _, "") => {
            let object = server.operations.delete(target, &deletion(call, &body)?)?;
            Ok(Answer::ok(call.present(&object)))
        }
        ("deletecollection", _, "") => delete_collection(server, call, &body).map(Answer::ok),
        (_, "pods", "" | "status" | "binding" | "eviction" | "ephemeralcontainers") | (_, _, "") => {
            Err(Refusal::method_not_allowed())
        }
        (_, _, "status") if target.resource.status => Err(Refusal::method_not_allowed()),
        _ => Err(Refusal::new(404, "NotFound", "the server could not find the requested resource")),
    }
}

/// An object that is not stored: only its kind is checked.
fn bare(body: Value, kind: &str, api_version: &str) -> Result<Value, Refusal> {
    let wrong = |field: &str, expected: &str| body[field].as_str().is_some_and(|given| given != expected);
    if !body.is_object() || wrong("kind", kind) || wrong("apiVersion", api_version) {
        return Err(Refusal::bad_request(format!("the body is not a {kind} of {api_version}")));
    }
    Ok(body)
}

fn deletion(call: &Call, options: &Value) -> Result<Deletion, Refusal> {
    let from_query = match call.param("gracePeriodSeconds") {
        "" => None,
        given => Some(given.parse().map_err(|_| Refusal::bad_request("gracePeriodSeconds is not a number"))?),
    };
    let precondition = |field: &str| options["preconditions"][field].as_str().unwrap_or_default().to_owned();
    Ok(Deletion {
        grace: options["gracePeriodSeconds"].as_i64().or(from_query),
        uid: precondition("uid"),
        resource_version: precondition("resourceVersion"),
        dry_run: call.dry_run() || options["dryRun"].as_array().into_iter().flatten().any(|how| how == "All"),
    })
}

async fn create(server: &Server, call: &Call, body: Value) -> Result<Answer, Refusal> {
    let target = &call.target;
    let new = server.operations.prepare(target, body)?;
    let review = Review { target, operation: "CREATE", old: None, dry_run: call.dry_run(), user: &call.user };
    let admitted = server.admission.review(&server.store, &review, new).await?;
    let created = server.operations.create(target, admitted.object, call.dry_run())?;
    Ok(Answer { code: StatusCode::CREATED, body: call.present(&created), warnings: admitted.warnings })
}

/// PUT and PATCH. A patch is computed anew when the object changed meanwhile; a PUT states its version itself.
async fn update(server: &Server, call: &Call, body: &Value) -> Result<Answer, Refusal> {
    let target = &call.target;
    let kind = match call.verb {
        "patch" => Some(patch::Kind::of(&call.content_type).ok_or_else(|| {
            let message = format!("the body of the request was in an unknown format: {:?}", call.content_type);
            Refusal::new(415, "UnsupportedMediaType", message)
        })?),
        _ => None,
    };
    if kind == Some(patch::Kind::Apply) {
        if call.param("fieldManager").is_empty() {
            return Err(Refusal::bad_request(
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ));
        }
        if target.subresource.is_empty() && server.operations.get(target).is_err() {
            let mut new = body.clone();
            new["metadata"]["name"] = json!(target.name);
            return create(server, call, new).await;
        }
    }
    // The original gives up after five rounds too.
    for _ in 0..5 {
        let update = server.operations.compute(target, kind.is_none(), |old| match kind {
            None => object::decode(target.resource, body.clone()),
            Some(kind) => {
                let mut new = present(target.resource, old);
                // The version a patch names is a precondition; without one it has none.
                if let Some(metadata) = new["metadata"].as_object_mut() {
                    metadata.remove("resourceVersion");
                }
                patch::apply(kind, &mut new, body)?;
                object::decode(target.resource, new)
            }
        })?;
        let review =
            Review { target, operation: "UPDATE", old: Some(&update.old), dry_run: call.dry_run(), user: &call.user };
        let admitted = server.admission.review(&server.store, &review, update.new.clone()).await?;
        let update = super::operations::Update { new: admitted.object, ..update };
        if let Some(stored) = server.operations.commit(target, update, call.dry_run())? {
            return Ok(Answer { warnings: admitted.warnings, ..Answer::ok(call.present(&stored)) });
        }
    }
    Err(Refusal::conflict(
        target.resource,
        &target.resource.qualified(),
        &target.name,
        "the object has been modified; please apply your changes to the latest version and try again",
    ))
}

fn selector(call: &Call) -> Result<Selector, Refusal> {
    Selector::parse(call.target.resource, call.param("fieldSelector"), call.param("labelSelector"))
}

fn list(server: &Server, call: &Call) -> Result<Value, Refusal> {
    let selector = selector(call)?;
    let limit: usize = match call.param("limit") {
        "" => 0,
        given => given.parse().map_err(|_| Refusal::bad_request("limit is not a number"))?,
    };
    let (mut page, token) = match call.param("continue") {
        "" => {
            let state = server.store.read();
            if let Ok(wanted) = call.param("resourceVersion").parse::<u64>()
                && wanted > state.version
            {
                let message = format!("Too large resource version: {wanted}, current: {}", state.version);
                return Err(Refusal::new(504, "Timeout", message));
            }
            (Page { version: state.version, rest: state.list(call.target.resource, &call.target.namespace) }, "")
        }
        token => {
            let expired = "The provided continue parameter is too old to display a consistent list result. You can start a new \
                           list without the continue parameter.";
            let (page, offset) = token
                .rsplit_once(':')
                .and_then(|(token, offset)| Some((server.store.read().page(token)?, offset.parse::<usize>().ok()?)))
                .ok_or_else(|| Refusal::expired(expired))?;
            let rest = page.rest.get(offset..).unwrap_or_default().to_vec();
            (Page { version: page.version, rest }, token)
        }
    };
    if token.is_empty() {
        page.rest.retain(|object| selector.matches(object));
    }
    let mut metadata = json!({"resourceVersion": page.version.to_string()});
    let mut shown = page.rest.as_slice();
    if limit > 0 && shown.len() > limit {
        let next = match token.rsplit_once(':') {
            Some((kept, offset)) => format!("{kept}:{}", offset.parse::<usize>().unwrap_or(0) + limit),
            None => format!("{}:{limit}", server.store.write(|state| state.keep_page(page.clone()))),
        };
        metadata["continue"] = json!(next);
        if selector.is_everything() {
            metadata["remainingItemCount"] = json!(shown.len() - limit);
        }
        shown = &shown[..limit];
    }
    let items: Vec<Value> = shown
        .iter()
        .map(|object| {
            let mut item = call.present(object);
            // Items of a typed list carry no kind of their own; those of a metadata list do.
            if !call.metadata_only
                && let Some(item) = item.as_object_mut()
            {
                item.remove("kind");
                item.remove("apiVersion");
            }
            item
        })
        .collect();
    let resource = call.target.resource;
    let (kind, api_version) = if call.metadata_only {
        ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned())
    } else {
        (format!("{}List", resource.kind), resource.api_version())
    };
    Ok(json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items}))
}

fn delete_collection(server: &Server, call: &Call, options: &Value) -> Result<Value, Refusal> {
    let selector = selector(call)?;
    let objects = server.store.read().list(call.target.resource, &call.target.namespace);
    let deletion = deletion(call, options)?;
    let mut deleted = Vec::new();
    for object in objects.iter().filter(|object| selector.matches(object)) {
        let target = Target { name: meta(object, "name").to_owned(), ..call.target.clone() };
        match server.operations.delete(&target, &deletion) {
            Ok(object) => deleted.push(call.present(&object)),
            Err(refusal) if refusal.code == 404 => {}
            Err(refusal) => return Err(refusal),
        }
    }
    let resource = call.target.resource;
    let version = server.store.read().version.to_string();
    Ok(json!({"kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(),
        "metadata": {"resourceVersion": version}, "items": deleted}))
}

fn watch(server: &Arc<Server>, call: Call) -> Result<Response<Body>, Refusal> {
    let timeout = match call.param("timeoutSeconds") {
        "" => Duration::from_secs(1800),
        given => {
            Duration::from_secs(given.parse().map_err(|_| Refusal::bad_request("timeoutSeconds is not a number"))?)
        }
    };
    let version = call.param("resourceVersion").to_owned();
    if !version.is_empty() && version.parse::<u64>().is_err() {
        return Err(Refusal::bad_request(format!("invalid resource version: {version:?}")));
    }
    let send_initial = call.param("sendInitialEvents") == "true";
    if send_initial && call.param("resourceVersionMatch") != "NotOlderThan" {
        let message = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        return Err(Refusal::new(422, "Invalid", message));
    }
    let watch = Watch {
        resource: call.target.resource,
        namespace: call.target.namespace.clone(),
        selector: selector(&call)?,
        resource_version: version,
        bookmarks: call.param("allowWatchBookmarks") == "true",
        send_initial,
        timeout,
        bookmark_every: server.bookmark_every,
        present: Box::new(move |object| call.present(object)),
    };
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(server.stop.clone().run_until_cancelled_owned(watch.run(
        Arc::clone(&server.store),
        server.faults.clone(),
        sender,
    )));
    let parts =
        futures::stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|part| (part, receiver)));
    Ok(response(StatusCode::OK, "application/json", StreamBody::new(parts).boxed_unsync(), &[]))
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

fn response(code: StatusCode, content_type: &'static str, body: Body, warnings: &[String]) -> Response<Body> {
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
