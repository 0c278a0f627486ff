//! The server seen through a real `kube::Client`.

use std::pin::pin;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Event as CoreEvent, Namespace, Node, Pod};
use kube::api::{Api, DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::watcher;
use serde_json::{Value, json};

use super::*;

async fn server() -> ApiServer {
    ApiServer::start(Settings { bookmark_every: Duration::from_millis(30), ..Settings::default() }).await.unwrap()
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn typed(value: Value) -> Pod {
    serde_json::from_value(value).unwrap()
}

async fn post(api: &ApiServer, path: &str, body: Value) -> Result<Value, kube::core::Status> {
    let request = hyper::Request::post(path)
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&body).unwrap())
        .unwrap();
    match api.client().unwrap().request::<Value>(request).await {
        Ok(value) => Ok(value),
        Err(kube::Error::Api(status)) => Err(*status),
        Err(error) => panic!("{error}"),
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> (u16, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.reason),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn creation_sets_what_is_the_servers_and_refuses_what_the_original_refuses() {
    let api = server().await;
    let pods: Api<Pod> = Api::default_namespaced(api.client().unwrap());
    let mut body = pod("a");
    body["metadata"]["uid"] = json!("mine");
    body["status"] = json!({"phase": "Running"});
    body["spec"]["containers"][0]["resources"] = json!({"limits": {"nvidia.com/gpumem": 4000, "memory": "1024Mi"}});
    let created = pods.create(&PostParams::default(), &typed(body)).await.unwrap();
    assert_ne!(created.metadata.uid.as_deref(), Some("mine"));
    assert!(created.metadata.creation_timestamp.is_some());
    assert_eq!(created.status.unwrap().phase.as_deref(), Some("Pending"));
    let spec = created.spec.unwrap();
    let resources = spec.containers[0].resources.clone().unwrap();
    assert_eq!(resources.limits.as_ref().unwrap()["nvidia.com/gpumem"].0, "4k");
    assert_eq!(resources.requests.unwrap()["memory"].0, "1Gi");
    assert_eq!(spec.scheduler_name.as_deref(), Some("default-scheduler"));

    let create = async |body: Value| code(pods.create(&PostParams::default(), &typed(body)).await);
    assert_eq!(create(pod("a")).await, (409, "AlreadyExists".to_owned()));
    let with = |edit: fn(&mut Value)| {
        let mut body = pod("b");
        edit(&mut body);
        body
    };
    for (body, expected) in [
        (with(|p| p["metadata"]["name"] = json!("Upper")), 422),
        (with(|p| p["metadata"] = json!({"generateName": "job."})), 422),
        (with(|p| p["spec"]["containers"] = json!([])), 422),
        (with(|p| p["spec"]["containers"][0]["resources"] = json!({"limits": {"x.y/z": "500m"}})), 422),
        (with(|p| p["spec"]["containers"][0]["resources"] = json!({"requests": {"x.y/z": "1"}})), 422),
        (with(|p| p["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "abc"}})), 400),
        (with(|p| p["spec"]["priorityClassName"] = json!("none")), 403),
        (with(|p| p["metadata"]["namespace"] = json!("other")), 400),
        (with(|p| p["metadata"]["resourceVersion"] = json!("7")), 500),
    ] {
        assert_eq!(create(body.clone()).await.0, expected, "{body}");
    }
    let nowhere: Api<Pod> = Api::namespaced(api.client().unwrap(), "nowhere");
    assert_eq!(
        code(
            nowhere
                .create(&PostParams::default(), &typed(with(|p| p["metadata"]["namespace"] = json!("nowhere"))))
                .await
        )
        .0,
        404
    );
    let generated = with(|p| p["metadata"] = json!({"generateName": "job-"}));
    let generated = pods.create(&PostParams::default(), &typed(generated)).await.unwrap();
    assert_eq!(generated.metadata.name.unwrap().len(), "job-".len() + 5);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    pods.create(&dry, &typed(pod("dry"))).await.unwrap();
    assert_eq!(code(pods.get("dry").await).0, 404);
    assert_eq!(post(&api, "/api/v1/namespaces/default/gadgets", json!({})).await.unwrap_err().code, 404);
}

#[tokio::test]
async fn updates_need_the_newest_version_and_keep_what_is_fixed() {
    let api = server().await;
    let pods: Api<Pod> = Api::default_namespaced(api.client().unwrap());
    let first = pods.create(&PostParams::default(), &typed(pod("a"))).await.unwrap();
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    let second = pods.patch("a", &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
    let again = pods.patch("a", &PatchParams::default(), &Patch::Strategic(&label)).await.unwrap();
    assert_ne!(first.metadata.resource_version, second.metadata.resource_version);
    assert_eq!(again.metadata.resource_version, second.metadata.resource_version, "no change, no version");
    assert_eq!(code(pods.replace("a", &PostParams::default(), &first).await), (409, "Conflict".to_owned()));
    let mut foreign = second.clone();
    foreign.metadata.uid = Some("other".to_owned());
    assert_eq!(code(pods.replace("a", &PostParams::default(), &foreign).await).0, 409);
    let stale = json!({"metadata": {"resourceVersion": first.metadata.resource_version, "labels": {"x": "z"}}});
    assert_eq!(code(pods.patch("a", &PatchParams::default(), &Patch::Merge(&stale)).await).0, 409);
    let node = json!({"spec": {"nodeName": "n"}});
    assert_eq!(code(pods.patch("a", &PatchParams::default(), &Patch::Merge(&node)).await).0, 422);
    let status = json!({"status": {"phase": "Running"}, "spec": {"nodeName": "n"}});
    let unchanged =
        pods.patch("a", &PatchParams::default(), &Patch::Merge(&json!({"status": {"phase": "Failed"}}))).await;
    assert_eq!(unchanged.unwrap().status.unwrap().phase.as_deref(), Some("Pending"));
    let running = pods.patch_status("a", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    assert_eq!(running.status.unwrap().phase.as_deref(), Some("Running"));
    assert_eq!(running.spec.unwrap().node_name, None);
    assert_eq!(code(pods.patch("b", &PatchParams::default(), &Patch::Merge(&label)).await).0, 404);
    let applied =
        Patch::Apply(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"a": "b"}}}));
    let nodes: Api<Node> = Api::all(api.client().unwrap());
    nodes.patch("n", &PatchParams::apply("t"), &applied).await.unwrap();
    assert_eq!(nodes.get("n").await.unwrap().metadata.labels.unwrap()["a"], "b");
}

#[tokio::test]
async fn a_binding_is_one_version_and_happens_once() {
    let api = server().await;
    let pods: Api<Pod> = Api::default_namespaced(api.client().unwrap());
    let created = pods.create(&PostParams::default(), &typed(pod("a"))).await.unwrap();
    let path = "/api/v1/namespaces/default/pods/a/binding";
    let binding = |uid: &str, node: &str| {
        json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a", "uid": uid, "annotations": {"k/v": "1"}, "labels": {"zone": "z"}},
            "target": {"kind": "Node", "name": node}})
    };
    let uid = created.metadata.uid.clone().unwrap();
    assert_eq!(post(&api, path, binding("wrong", "n")).await.unwrap_err().code, 409);
    assert_eq!(post(&api, path, binding(&uid, "")).await.unwrap_err().code, 422);
    let before = api.objects().version();
    assert_eq!(post(&api, path, binding(&uid, "n")).await.unwrap()["status"], "Success");
    assert_eq!(api.objects().version(), before + 1);
    let bound = pods.get("a").await.unwrap();
    assert_eq!(bound.metadata.annotations.unwrap()["k/v"], "1");
    assert_eq!(bound.metadata.labels.unwrap()["zone"], "z");
    assert_eq!(bound.spec.unwrap().node_name.as_deref(), Some("n"));
    assert_eq!(bound.status.unwrap().conditions.unwrap()[0].type_, "PodScheduled");
    let second = post(&api, path, binding(&uid, "n")).await.unwrap_err();
    assert_eq!((second.code, second.reason.as_str()), (409, "Conflict"));
    assert!(second.message.contains("is already assigned to node"), "{}", second.message);

    // Bound pods end gracefully, and take no binding meanwhile; unbound ones go at once.
    pods.create(&PostParams::default(), &typed(pod("b"))).await.unwrap();
    pods.delete("b", &DeleteParams::default()).await.unwrap();
    assert_eq!(code(pods.get("b").await).0, 404);
    pods.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(pods.get("a").await.unwrap().metadata.deletion_timestamp.is_some());
    assert!(post(&api, path, binding(&uid, "n")).await.unwrap_err().message.contains("is being deleted"));
    let wrong = DeleteParams::default()
        .preconditions(kube::api::Preconditions { uid: Some("x".to_owned()), ..Default::default() });
    assert_eq!(code(pods.delete("a", &wrong).await).0, 409);
    pods.delete("a", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(code(pods.get("a").await).0, 404);
    let writes = api.requests().iter().filter(|entry| entry.resource == "pods/binding" && entry.code == 201).count();
    assert_eq!(writes, 1);
}

#[tokio::test]
async fn evictions_delete_gracefully() {
    let api = server().await;
    let pods: Api<Pod> = Api::default_namespaced(api.client().unwrap());
    api.objects().create("pods", pod("a")).unwrap();
    api.objects().bind("default", "a", "", "n", &json!({})).unwrap();
    pods.evict("a", &EvictParams::default()).await.unwrap();
    assert!(pods.get("a").await.unwrap().metadata.deletion_timestamp.is_some());
    assert_eq!(code(pods.evict("b", &EvictParams::default()).await).0, 404);
}

#[tokio::test]
async fn lists_come_in_consistent_pages() {
    let api = server().await;
    for name in ["a", "b", "c", "d", "e"] {
        api.objects().create("pods", pod(name)).unwrap();
    }
    let pods: Api<Pod> = Api::all(api.client().unwrap());
    let first = pods.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!((first.items.len(), first.metadata.remaining_item_count), (2, Some(3)));
    let version = first.metadata.resource_version.clone();
    api.objects().delete("pods", "default", "d", None).unwrap();
    let mut token = first.metadata.continue_.unwrap();
    let mut names = Vec::new();
    loop {
        let page = pods.list(&ListParams::default().limit(2).continue_token(&token)).await.unwrap();
        assert_eq!(page.metadata.resource_version, version);
        names.extend(page.items.into_iter().map(|pod| pod.metadata.name.unwrap()));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(next) => token = next,
            None => break,
        }
    }
    assert_eq!(names, ["c", "d", "e"]);
    api.objects().bind("default", "a", "", "n1", &json!({})).unwrap();
    let on_node = pods.list(&ListParams::default().fields("spec.nodeName=n1")).await.unwrap();
    assert_eq!(on_node.items.len(), 1);
    api.faults().compact();
    assert_eq!(code(pods.list(&ListParams::default().limit(2).continue_token(&token)).await).0, 410);
}

#[tokio::test]
async fn watches_resume_and_expire() {
    let api = server().await;
    let pods: Api<Pod> = Api::all(api.client().unwrap());
    let start = api.objects().version().to_string();
    api.objects().create("pods", pod("a")).unwrap();
    api.objects().bind("default", "a", "", "n1", &json!({})).unwrap();
    api.objects().delete("pods", "default", "a", Some(0)).unwrap();
    let seen = async |params: WatchParams, version: &str| {
        let mut events = pin!(pods.watch(&params, version).await.unwrap());
        let mut seen = Vec::new();
        while let Some(event) = tokio::time::timeout(Duration::from_secs(10), events.next()).await.unwrap() {
            match event.unwrap() {
                WatchEvent::Added(_) => seen.push("ADDED"),
                WatchEvent::Modified(_) => seen.push("MODIFIED"),
                WatchEvent::Deleted(_) => seen.push("DELETED"),
                WatchEvent::Error(status) => seen.push(if status.code == 410 { "410" } else { "ERROR" }),
                WatchEvent::Bookmark(_) => {
                    seen.push("BOOKMARK");
                    return seen;
                }
            }
        }
        seen
    };
    let quick = WatchParams::default().timeout(30);
    assert_eq!(seen(quick.clone(), &start).await, ["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]);
    // A pod that starts to match appears, one that stops to match goes.
    assert_eq!(seen(quick.clone().fields("spec.nodeName=n1"), &start).await, ["ADDED", "DELETED", "BOOKMARK"]);
    assert_eq!(seen(quick.clone().fields("spec.nodeName="), &start).await, ["ADDED", "DELETED", "BOOKMARK"]);
    assert_eq!(seen(quick.clone(), "0").await, ["BOOKMARK"]);
    let begun = std::time::Instant::now();
    let unmarked = WatchParams { bookmarks: false, ..WatchParams::default().timeout(1) };
    assert_eq!(seen(unmarked, "0").await, Vec::<&str>::new());
    assert!(begun.elapsed() >= Duration::from_secs(1));
    api.faults().compact();
    assert_eq!(seen(quick, &start).await, ["410"]);
}

#[tokio::test]
async fn a_watcher_survives_cuts_delays_and_expiry_and_ends_with_the_truth() {
    let rates = Rates {
        cut_watch: 0.2,
        delay_event: 0.2,
        event_delay: Duration::from_millis(3),
        expire_resume: 0.2,
        slow_answer: 0.2,
        answer_delay: Duration::from_millis(3),
        ..Rates::default()
    };
    let settings = Settings { seed: 7, faults: rates, ..Settings::default() };
    let api = ApiServer::start(settings).await.unwrap();
    let backoff = kube::runtime::utils::WatchStreamExt::backoff(
        watcher(Api::<Pod>::all(api.client().unwrap()), watcher::Config::default()),
        Steady,
    );
    let mut events = pin!(backoff);
    let objects = api.objects();
    let faults = api.faults();
    let writer = tokio::spawn(async move {
        for n in 0..200 {
            objects.create("pods", pod(&format!("p{n}"))).unwrap();
            if n % 2 == 1 {
                objects.delete("pods", "default", &format!("p{}", n - 1), None).unwrap();
            }
            match n {
                50 => faults.cut_watches(),
                100 => faults.compact(),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let mut known = std::collections::BTreeSet::new();
    let name = |pod: &Pod| pod.metadata.name.clone().unwrap();
    let complete = |known: &std::collections::BTreeSet<String>| {
        known.len() == 100 && known.iter().all(|name| name[1..].parse::<u32>().unwrap() % 2 == 1)
    };
    let all = async {
        while !writer.is_finished() || !complete(&known) {
            // The last event may come before the writer is seen to end: then none follows.
            let Ok(event) = tokio::time::timeout(Duration::from_millis(20), events.next()).await else { continue };
            match event.unwrap() {
                Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => {
                    known.insert(name(&pod));
                }
                Ok(watcher::Event::Delete(pod)) => {
                    known.remove(&name(&pod));
                }
                Ok(watcher::Event::Init) => known.clear(),
                Ok(watcher::Event::InitDone) | Err(_) => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("the watcher never saw the final state");
    assert!(api.faults().injected() > 10);
}

/// Retries at once: the test is about what arrives, not when.
#[derive(Debug, Clone, Default)]
struct Steady;

impl Iterator for Steady {
    type Item = Duration;
    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(1))
    }
}

impl kube::runtime::utils::Backoff for Steady {
    fn reset(&mut self) {}
}

#[tokio::test]
async fn a_streaming_list_ends_with_its_marker() {
    let api = server().await;
    api.objects().create("pods", pod("a")).unwrap();
    let config = watcher::Config::default().streaming_lists();
    let stream = watcher(Api::<Pod>::all(api.client().unwrap()), config);
    let first: Vec<_> =
        tokio::time::timeout(Duration::from_secs(10), stream.take(3).try_collect()).await.unwrap().unwrap();
    assert!(
        matches!(first.as_slice(), [watcher::Event::Init, watcher::Event::InitApply(_), watcher::Event::InitDone]),
        "{first:?}"
    );
}

#[tokio::test]
async fn answers_are_lost_and_calls_fail_when_asked() {
    let api = server().await;
    let pods: Api<Pod> = Api::default_namespaced(api.client().unwrap());
    api.faults().lose_next_answers(1, Match::of("create", "pods"));
    let lost = pods.create(&PostParams::default(), &typed(pod("a"))).await.unwrap_err();
    assert!(!matches!(lost, kube::Error::Api(_)), "{lost}");
    pods.get("a").await.expect("what was answered by silence is done");
    api.faults().fail_next(2, 500, Match::of("get", "pods"));
    assert_eq!(code(pods.get("a").await).0, 500);
    assert_eq!(code(pods.get("a").await).0, 500);
    pods.get("a").await.unwrap();
}

#[tokio::test]
async fn events_are_the_same_in_both_groups() {
    let api = server().await;
    let body = json!({"metadata": {"name": "e1", "namespace": "default"}, "regarding": {"kind": "Pod", "name": "a", "namespace": "default"},
        "note": "hello", "reason": "R", "action": "A", "type": "Normal", "reportingController": "c", "reportingInstance": "i",
        "eventTime": "2026-01-01T00:00:00.000000Z"});
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    post(&api, path, body.clone()).await.unwrap();
    let events: Api<CoreEvent> = Api::default_namespaced(api.client().unwrap());
    let event = events.get("e1").await.unwrap();
    assert_eq!((event.message.as_deref(), event.involved_object.name.as_deref()), (Some("hello"), Some("a")));
    let mut wrong = body;
    wrong["metadata"]["name"] = json!("e2");
    wrong["regarding"]["namespace"] = json!("other");
    assert_eq!(post(&api, path, wrong).await.unwrap_err().code, 422);
}

#[tokio::test]
async fn pods_go_through_the_configured_webhook() {
    use axum::Json;
    use axum::routing::post;
    use base64::Engine as _;

    let review = async |Json(review): Json<Value>| {
        let request = &review["request"];
        assert_eq!(request["object"]["kind"], "Pod");
        let mut response = json!({"uid": request["uid"], "allowed": true, "warnings": ["look"]});
        match request["object"]["metadata"]["labels"]["do"].as_str() {
            Some("deny") => {
                response =
                    json!({"uid": request["uid"], "allowed": false, "status": {"code": 403, "message": "never"}});
            }
            Some("damage") => response["uid"] = json!("other"),
            _ => {
                let patch = json!([{"op": "replace", "path": "/spec/schedulerName", "value": "packhorse"}]).to_string();
                response["patch"] = json!(base64::engine::general_purpose::STANDARD.encode(patch));
                response["patchType"] = json!("JSONPatch");
            }
        }
        Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mutate", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, axum::Router::new().route("/mutate", post(review))).into_future());
    let api = server().await;
    api.configure_webhook("pods.packhorse.dev", &url, "").unwrap();
    let pods: Api<Pod> = Api::default_namespaced(api.client().unwrap());
    let made = pods.create(&PostParams::default(), &typed(pod("a"))).await.unwrap();
    assert_eq!(made.spec.unwrap().scheduler_name.as_deref(), Some("packhorse"));
    for (what, expected) in [("deny", 403), ("damage", 500)] {
        let mut body = pod(what);
        body["metadata"]["labels"] = json!({"do": what});
        assert_eq!(code(pods.create(&PostParams::default(), &typed(body)).await).0, expected, "{what}");
        assert_eq!(code(pods.get(what).await).0, 404);
    }
    // Other kinds are none of its business.
    let namespaces: Api<Namespace> = Api::all(api.client().unwrap());
    let body = serde_json::from_value(json!({"metadata": {"name": "ml"}})).unwrap();
    namespaces.create(&PostParams::default(), &body).await.unwrap();
}
