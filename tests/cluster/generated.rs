//! The made-up kube-apiserver of `benches/scale` sends what the real one sends: the same objects are created here, as kubelets, agents,
//! controllers and our server would write them, and lists and watches are compared byte for byte. Only what the API server
//! chooses is taken over: UIDs, versions, times. It fails at the first byte that differs.
//!
//! `PACKHORSE_GENERATED=NODES,PODS` compares more of them (5000,10000 takes six minutes).

use std::time::Duration;

use axum::http::Request;
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::Api;
use kube::client::Body;
use packhorse::kube_api::{allocation, inventory};
use serde_json::{Map, Value, json};

use self::lists::{Kind, Source, Stamps};
use self::objects::{Hold, Stamp, World};
use super::lab::{Lab, TEST_LIMIT, on_cluster_for};
use super::{kubelab, wait};

#[path = "../../benches/scale/lists.rs"]
mod lists;
#[path = "../../benches/scale/objects.rs"]
mod objects;

/// What the server writes into a pod when it binds it.
const BOUND: [&str; 2] = ["devices.packhorse.dev/main", "packhorse.dev/allocation"];
/// What the webhook writes into a pod.
const REQUEST: &str = "packhorse.dev/request";
/// And into the environment of its containers.
const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";
/// What the agent writes into a node.
const INVENTORY: &str = "packhorse.dev/inventory";
const LABELS: &str = "nvidia.com/";
const TOTALS: &str = "packhorse.dev/";
/// Writes on their way at once.
const AT_ONCE: usize = 32;
/// Objects per page: odd, so that the last page is not full.
const PAGE: usize = 77;
const ANSWER: Duration = Duration::from_secs(120);
/// Of a cluster of a size that was asked for.
const LARGE: Duration = Duration::from_secs(1_800);

#[test]
fn made_up_lists_and_events_are_those_of_the_real_api_server() {
    let (nodes, pods, limit) = match std::env::var("PACKHORSE_GENERATED") {
        Err(_) => (50, 200, TEST_LIMIT),
        Ok(given) => {
            let (nodes, pods) = given.split_once(',').expect("NODES,PODS");
            (nodes.parse().expect("a number"), pods.parse().expect("a number"), LARGE)
        }
    };
    on_cluster_for(limit, async |lab| {
        // The one would bind the pods, the other collect them: their owners do not exist.
        lab.kill_scheduler();
        let mut source = Source::new(World { nodes, pods });
        namespaces(lab, source.world).await;
        lab.pause_controllers();
        let server = lab.client_of("packhorse-system", "packhorse-server", None).await;
        all(nodes, async |node| create_node(&lab.client, &source, node).await).await;
        all(pods, async |pod| create_pod(&lab.client, &server, &source, pod).await).await;

        source.stamps = Some(stamps(&lab.client).await);
        let bytes = compare_lists(&lab.client, &mut source).await;
        compare_watches(&lab.client, &source).await;
        kubelab::say(&format!("{nodes} nodes and {pods} pods: {bytes} bytes of lists are the same"));
        lab.resume_controllers();
        lab.start_scheduler();
    });
}

/// The namespaces of the pods, each with the account that they name.
async fn namespaces(lab: &Lab, world: World) {
    let mut names: Vec<String> = (0..world.pods).map(|pod| world.namespace(pod)).collect();
    names.dedup();
    for name in &names {
        send(&lab.client, "POST", "/api/v1/namespaces", "", json!({"metadata": {"name": name}})).await;
    }
    for name in &names {
        let accounts: Api<ServiceAccount> = Api::namespaced(lab.client.clone(), name);
        wait::until("the default ServiceAccount", 30, async || accounts.get("default").await.ok()).await;
    }
}

async fn create_node(client: &Client, source: &Source, node: usize) {
    let made = object(source, Kind::Node, node);
    let (meta, mut status) = (&made["metadata"], made["status"].clone());
    let name = meta["name"].as_str().expect("a name");
    let path = format!("/api/v1/nodes/{name}");
    let (theirs, labels) = split(&meta["labels"], |key| key.starts_with(LABELS));
    let (annotations, written) = split(&meta["annotations"], |key| key == INVENTORY);
    let devices = inventory::decode(written[INVENTORY].as_str().expect("text")).expect("an inventory").value;
    assert_eq!(written[INVENTORY], inventory::encode(&devices), "an inventory as the agent writes it");
    let body = json!({"metadata": {"name": name, "labels": theirs, "annotations": annotations}, "spec": made["spec"]});
    send(client, "POST", "/api/v1/nodes?fieldManager=kubelet", "", body).await;

    let mut totals = json!({"capacity": {}, "allocatable": {}});
    for list in ["capacity", "allocatable"] {
        let (rest, ours) = split(&status[list], |key| key.starts_with(TOTALS));
        (status[list], totals[list]) = (json!(rest), json!(ours));
    }
    let kubelet = format!("{path}/status?fieldManager=kubelet");
    send(client, "PATCH", &kubelet, "strategic-merge-patch+json", json!({"status": status})).await;
    let body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    let apply = format!("{path}?fieldManager=packhorse-agent-labels&force=true");
    send(client, "PATCH", &apply, "apply-patch+yaml", body).await;
    let agent = format!("{path}?fieldManager=packhorse-agent");
    send(client, "PATCH", &agent, "merge-patch+json", json!({"metadata": {"annotations": written}})).await;
    let agent = format!("{path}/status?fieldManager=packhorse-agent");
    send(client, "PATCH", &agent, "merge-patch+json", json!({"status": totals})).await;
}

async fn create_pod(client: &Client, server: &Client, source: &Source, pod: usize) {
    let made = object(source, Kind::Pod, pod);
    let (meta, mut spec, mut status) = (made["metadata"].clone(), made["spec"].clone(), made["status"].clone());
    let (name, namespace) = (meta["name"].as_str().expect("a name"), meta["namespace"].as_str().expect("one"));
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let (annotations, bound) = split(&meta["annotations"], |key| BOUND.contains(&key));
    let held = allocation::decode(text(&bound[BOUND[1]]).as_str()).expect("an allocation").value;
    let written = allocation::annotations(&held).into_iter().map(|(key, value)| (key, json!(value))).collect();
    assert_eq!(bound, written, "annotations as our server writes them");
    let (annotations, _) = split(&json!(annotations), |key| key == REQUEST);
    // The Binding brings the node's.
    let (labels, _) = split(&meta["labels"], |key| key.starts_with("topology.kubernetes.io/"));
    let node = spec["nodeName"].take();
    for chosen_by_others in ["nodeName", "schedulerName", "tolerations", "priority", "preemptionPolicy"] {
        spec.as_object_mut().expect("a spec").remove(chosen_by_others);
    }
    let container = &mut spec["containers"][0];
    container["env"].as_array_mut().expect("variables").retain(|variable| variable["name"] != VISIBLE);
    // The webhook makes totals of what a user asks for.
    let limits = &container["resources"]["limits"];
    container["resources"] = json!({"limits": {
        "cpu": limits["cpu"], "memory": limits["memory"], "nvidia.com/gpu": limits["nvidia.com/gpu"],
        "nvidia.com/gpumem": limits["packhorse.dev/gpu-memory"], "nvidia.com/gpucores": limits["packhorse.dev/gpu-cores"],
    }});
    let body = json!({"spec": spec, "metadata": {
        "name": name, "generateName": meta["generateName"], "labels": labels, "annotations": annotations,
        "ownerReferences": meta["ownerReferences"],
    }});
    send(client, "POST", &format!("{pods}?fieldManager=kube-controller-manager"), "", body).await;

    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "annotations": bound},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    send(server, "POST", &format!("{pods}/{name}/binding"), "", binding).await;

    let scheduled = status["conditions"].as_array_mut().and_then(|conditions| conditions.last_mut()).expect("five");
    *scheduled = json!({"type": "PodScheduled", "observedGeneration": 1});
    status.as_object_mut().expect("a status").remove("qosClass");
    let kubelet = format!("{pods}/{name}/status?fieldManager=kubelet");
    send(client, "PATCH", &kubelet, "strategic-merge-patch+json", json!({"status": status})).await;
}

/// What the API server chose for each object.
async fn stamps(client: &Client) -> Stamps {
    let read = async |path: &str| -> (String, Vec<Stamp>) {
        let list: Value = serde_json::from_str(&get(client, path).await).expect("a list");
        let items = list["items"].as_array().expect("objects").iter().map(stamp).collect();
        (text(&list["metadata"]["resourceVersion"]), items)
    };
    let (_, nodes) = read("/api/v1/nodes").await;
    let (version, pods) = read("/api/v1/pods").await;
    Stamps { version, nodes, pods }
}

fn stamp(object: &Value) -> Stamp {
    let meta = &object["metadata"];
    let conditions = object["status"]["conditions"].as_array();
    let scheduled = conditions.into_iter().flatten().find(|condition| condition["type"] == "PodScheduled");
    Stamp {
        uid: text(&meta["uid"]),
        version: text(&meta["resourceVersion"]),
        created: text(&meta["creationTimestamp"]),
        written: meta["managedFields"].as_array().into_iter().flatten().map(|entry| text(&entry["time"])).collect(),
        scheduled: scheduled.map(|condition| text(&condition["lastTransitionTime"])).unwrap_or_default(),
        deleted: meta["deletionTimestamp"].as_str().map(str::to_owned),
    }
}

/// All pages; how many bytes they have.
async fn compare_lists(client: &Client, source: &mut Source) -> usize {
    let mut bytes = 0;
    for (kind, path) in [(Kind::Node, "/api/v1/nodes"), (Kind::Pod, "/api/v1/pods")] {
        let mut next = None;
        loop {
            let token = next.as_ref().map_or_else(String::new, |next| format!("&continue={next}"));
            let real = get(client, &format!("{path}?limit={PAGE}{token}")).await;
            let head: Value = serde_json::from_str(&real).expect("a list");
            if let (None, Some(stamps)) = (&next, &mut source.stamps) {
                stamps.version = text(&head["metadata"]["resourceVersion"]);
            }
            same(&source.page(kind, PAGE, next.as_deref()), &real);
            bytes += real.len();
            match head["metadata"]["continue"].as_str() {
                Some(token) => next = Some(token.to_owned()),
                None => break,
            }
        }
    }
    bytes
}

async fn compare_watches(client: &Client, source: &Source) {
    // A watch from version 0 begins with all there is.
    for (kind, path) in [(Kind::Node, "/api/v1/nodes"), (Kind::Pod, "/api/v1/pods")] {
        let mut watch = Watch::start(client, &format!("{path}?watch=true&resourceVersion=0")).await;
        let real = watch.lines(source.count(kind)).await;
        let mut real: Vec<&str> = real.lines().collect();
        real.sort_unstable();
        let mut made: Vec<String> = (0..source.count(kind))
            .map(|serial| {
                let (mut object, mut line) = (String::new(), String::new());
                source.object(&mut object, kind, serial);
                lists::line(&mut line, "ADDED", kind, &object);
                line.trim_end().to_owned()
            })
            .collect();
        made.sort_unstable();
        assert_eq!(made.len(), real.len());
        made.iter().zip(real).for_each(|(made, real)| same(made, real));
    }

    // And one that ends. The API server sends no bookmark for a version that it had when the watch began.
    let pod = source.world.pods / 2;
    let before: Value = serde_json::from_str(&get(client, "/api/v1/pods?limit=1").await).expect("a list");
    let version = text(&before["metadata"]["resourceVersion"]);
    let (namespace, name) = (source.world.namespace(pod), objects::pod_name(pod));
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}?gracePeriodSeconds=0");
    let watch = "/api/v1/pods?watch=true&allowWatchBookmarks=true&timeoutSeconds=5&resourceVersion=";
    let mut watch = Watch::start(client, &format!("{watch}{version}")).await;
    send(client, "DELETE", &path, "", Value::Null).await;
    let real = watch.lines(usize::MAX).await;
    let kinds: Vec<_> = real
        .lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line).expect("an event");
            let (kind, object) = (text(&event["type"]), &event["object"]);
            let mut made = String::new();
            if kind == "BOOKMARK" {
                made = lists::bookmark(Kind::Pod, &text(&object["metadata"]["resourceVersion"]));
            } else {
                let mut pod_text = String::new();
                source.templates.pod(&mut pod_text, source.world, pod, Hold::Share, &stamp(object));
                lists::line(&mut made, &kind, Kind::Pod, &pod_text);
            }
            same(made.trim_end(), line);
            kind
        })
        .collect();
    // One bookmark comes before the end, and another where the server's own timer strikes just then.
    let (changes, bookmarks) = kinds.split_at(2);
    assert_eq!(changes, ["MODIFIED", "DELETED"]);
    assert!((1..=2).contains(&bookmarks.len()) && bookmarks.iter().all(|kind| kind == "BOOKMARK"), "{kinds:?}");
}

/// A watch that the API server has begun to answer.
struct Watch(Body);

impl Watch {
    async fn start(client: &Client, path: &str) -> Self {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let answer = tokio::time::timeout(ANSWER, client.send(request)).await.expect("an answer in time");
        let answer = answer.unwrap_or_else(|error| panic!("GET {path}: {error}"));
        assert_eq!(answer.status(), 200, "GET {path}");
        Self(answer.into_body())
    }

    /// Reads so many lines, or all there are until the end.
    async fn lines(&mut self, count: usize) -> String {
        let (mut text, mut lines) = (Vec::new(), 0);
        while lines < count {
            let frame = tokio::time::timeout(ANSWER, self.0.frame()).await.expect("a line in time");
            let Some(frame) = frame else { break };
            let data = frame.expect("a whole answer").into_data().expect("no trailers");
            lines += data.iter().filter(|byte| **byte == b'\n').count();
            text.extend_from_slice(&data);
        }
        String::from_utf8(text).expect("UTF-8")
    }
}

/// Fails at the first difference, and shows what is around it.
#[track_caller]
fn same(made: &str, real: &str) {
    if made == real {
        return;
    }
    let at = made.bytes().zip(real.bytes()).take_while(|(made, real)| made == real).count();
    let around = |text: &str| {
        let bytes = &text.as_bytes()[at.saturating_sub(200)..text.len().min(at + 200)];
        String::from_utf8_lossy(bytes).into_owned()
    };
    panic!("byte {at} differs\nmade up: {}\n   real: {}", around(made), around(real));
}

async fn all(count: usize, each: impl AsyncFn(usize)) {
    futures::stream::iter(0..count).for_each_concurrent(AT_ONCE, |serial| each(serial)).await;
}

fn object(source: &Source, kind: Kind, serial: usize) -> Value {
    let mut text = String::new();
    source.object(&mut text, kind, serial);
    serde_json::from_str(&text).expect("JSON")
}

/// A map without the keys that are chosen, and with them alone.
fn split(map: &Value, chosen: impl Fn(&str) -> bool) -> (Map<String, Value>, Map<String, Value>) {
    let map = map.as_object().expect("a map").clone();
    let (with, without): (Map<_, _>, Map<_, _>) = map.into_iter().partition(|(key, _)| chosen(key));
    (without, with)
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

async fn get(client: &Client, path: &str) -> String {
    let request = Request::get(path).body(Vec::new()).expect("a request");
    let answer = tokio::time::timeout(ANSWER, client.request_text(request)).await;
    answer.expect("an answer in time").unwrap_or_else(|error| panic!("GET {path}: {error}"))
}

async fn send(client: &Client, method: &str, path: &str, content: &str, body: Value) {
    let content = if content.is_empty() { "json" } else { content };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", format!("application/{content}"))
        .body(if body.is_null() { Vec::new() } else { body.to_string().into_bytes() })
        .expect("a request");
    client.request_text(request).await.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
}
