//! What each verb does to objects and collections, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, StreamBody};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Server;
use super::admission::Review;
use super::http::{Answer, Body, Call, response};
use super::object::{self, meta, present};
use super::operations::Deletion;
use super::patch;
use super::refusal::Refusal;
use super::resource::Target;
use super::selector::Selector;
use super::store::Page;
use super::watch::Watch;

pub(super) async fn answer(server: &Server, call: &Call, body: Value) -> Result<Answer, Refusal> {
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

pub(super) fn watch(server: &Arc<Server>, call: Call) -> Result<Response<Body>, Refusal> {
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
