//! Creating, finding and following pods.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

use super::checker::{self, Books};
use super::objects::node_of;
use super::wait;

/// All pods of a namespace.
pub(crate) fn api(client: &Client, namespace: &str) -> Api<Pod> {
    Api::namespaced(client.clone(), namespace)
}

/// Creates one pod; panics where it is refused.
pub(crate) async fn create(client: &Client, namespace: &str, pod: &Pod) -> Pod {
    let created = api(client, namespace).create(&PostParams::default(), pod).await;
    created.unwrap_or_else(|error| panic!("{:?} is refused: {error}", pod.metadata.name))
}

/// Creates many, some at a time.
pub(crate) async fn create_all(client: &Client, namespace: &str, pods: &[Pod]) {
    futures::stream::iter(pods)
        .map(|pod| create(client, namespace, pod))
        .buffer_unordered(16)
        .collect::<Vec<Pod>>()
        .await;
}

/// Creates many nodes, some at a time.
pub(crate) async fn create_nodes(client: &Client, nodes: &[super::objects::GpuNode]) {
    futures::stream::iter(nodes).map(|node| node.create(client)).buffer_unordered(16).collect::<Vec<()>>().await;
}

/// All pods of a namespace, as they are now.
pub(crate) async fn list(client: &Client, namespace: &str) -> Vec<Pod> {
    api(client, namespace).list(&ListParams::default()).await.expect("pods are listed").items
}

/// Waits until the named pod has a node; its name.
pub(crate) async fn bound(client: &Client, namespace: &str, name: &str, seconds: u64) -> Pod {
    let pods = api(client, namespace);
    wait::until(&format!("{name} to be bound"), seconds, async || {
        pods.get(name).await.ok().filter(|pod| node_of(pod).is_some())
    })
    .await
}

/// Waits until exactly `count` pods of a namespace have a node.
pub(crate) async fn all_bound(client: &Client, namespace: &str, count: usize, seconds: u64) -> Vec<Pod> {
    let mut last = Vec::new();
    let enough = wait::becomes(seconds, async || {
        last = list(client, namespace).await.into_iter().filter(|pod| node_of(pod).is_some()).collect();
        last.len() == count
    })
    .await;
    assert!(enough, "{} of {count} pods are bound after {seconds} s", last.len());
    last
}

/// The containers of a namespace's pods that run: `pod/container` to the runtime's ID.
pub(crate) async fn running_containers(client: &Client, namespace: &str) -> BTreeMap<String, String> {
    let mut running = BTreeMap::new();
    for pod in list(client, namespace).await {
        let statuses = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
        for status in statuses.into_iter().filter(|it| it.state.as_ref().is_some_and(|state| state.running.is_some())) {
            let name = format!("{}/{}", pod.metadata.name.as_deref().unwrap_or_default(), status.name);
            running.insert(name, status.container_id.unwrap_or_default());
        }
    }
    running
}

/// Waits until so many containers run; as [`running_containers`].
pub(crate) async fn all_running(
    client: &Client,
    namespace: &str,
    count: usize,
    seconds: u64,
) -> BTreeMap<String, String> {
    let mut running = BTreeMap::new();
    let enough = wait::becomes(seconds, async || {
        running = running_containers(client, namespace).await;
        running.len() == count
    })
    .await;
    assert!(enough, "{} of {count} containers run after {seconds} s: {running:?}", running.len());
    running
}

/// Waits until kube-scheduler has called the pod unschedulable; its message.
pub(crate) async fn refused(client: &Client, namespace: &str, name: &str, seconds: u64) -> String {
    let pods = api(client, namespace);
    wait::until(&format!("{name} to be unschedulable"), seconds, async || {
        pods.get(name).await.ok().and_then(|pod| refusal(&pod))
    })
    .await
}

/// The message of a pod that kube-scheduler has called unschedulable.
pub(crate) fn refusal(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    (condition.status == "False").then(|| condition.message.clone().unwrap_or_default())
}

/// Says how a pod ended, as its kubelet would.
pub(crate) async fn finish(client: &Client, namespace: &str, name: &str, phase: &str) {
    let status = json!({"status": {"phase": phase}});
    let patched = api(client, namespace).patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await;
    patched.unwrap_or_else(|error| panic!("{name} cannot become {phase}: {error}"));
}

/// Changes a node's annotations; null removes one.
pub(crate) async fn annotate_node(client: &Client, node: &str, annotations: Value) {
    let nodes: Api<Node> = Api::all(client.clone());
    let patch = json!({"metadata": {"annotations": annotations}});
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(&patch)).await.expect("the node is patched");
}

/// The checker's account of the cluster as it is now. Panics where anything is wrong.
pub(crate) async fn checked(client: &Client) -> Books {
    let nodes: Api<Node> = Api::all(client.clone());
    let pods: Api<Pod> = Api::all(client.clone());
    // Pods after nodes: an allocation always names a device of an inventory that was there before.
    let nodes = nodes.list(&ListParams::default()).await.expect("nodes are listed").items;
    let pods = pods.list(&ListParams::default()).await.expect("pods are listed").items;
    let books = checker::count(&nodes, &pods);
    assert!(books.violations.is_empty(), "{:#?}", books.violations);
    books
}

/// Every version of every pod of a namespace, from the moment of [`Versions::watch`] on.
#[derive(Debug, Clone)]
pub(crate) struct Versions {
    seen: Arc<Mutex<Vec<Pod>>>,
}

impl Versions {
    /// Begins to watch; the API server sends each version once.
    pub(crate) async fn watch(client: &Client, namespace: &str) -> Self {
        let pods = api(client, namespace);
        let listed = pods.list(&ListParams::default()).await.expect("pods are listed").metadata.resource_version;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut version = listed.unwrap_or_default();
            // Until nobody reads them any more.
            while Arc::strong_count(&sink) > 1 {
                let params = WatchParams::default().timeout(290);
                let events = pods.watch(&params, &version).await.expect("pods are watched");
                let mut events = events.boxed();
                // Whatever ends the stream, the next one goes on where it was.
                while let Ok(Some(event)) = events.try_next().await {
                    match event {
                        WatchEvent::Added(mut pod) | WatchEvent::Modified(mut pod) => {
                            pod.metadata.managed_fields = None;
                            version = pod.metadata.resource_version.clone().unwrap_or_default();
                            sink.lock().expect("no watcher panics").push(pod);
                        }
                        WatchEvent::Error(error) => panic!("versions were missed: {error}"),
                        WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => {}
                    }
                }
            }
        });
        Self { seen }
    }

    /// All versions of one pod, oldest first.
    pub(crate) fn of(&self, name: &str) -> Vec<Pod> {
        self.all().into_iter().filter(|pod| pod.metadata.name.as_deref() == Some(name)).collect()
    }

    /// All versions of all pods, oldest first.
    pub(crate) fn all(&self) -> Vec<Pod> {
        self.seen.lock().expect("no watcher panics").clone()
    }
}
