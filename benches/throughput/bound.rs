//! When each pod got its node: a watch of the pods that have one.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::{StreamExt as _, TryStreamExt as _};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, WatchEvent, WatchParams};

/// One entry for each pod, in the order in which they were bound.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    at: Arc<Mutex<Vec<Instant>>>,
}

impl Bound {
    /// Follows the namespace `default`, where no pod has a node yet, until nobody asks any more. The API server sends each pod once, when
    /// it gets its node, so that watching costs next to nothing.
    pub(crate) async fn watch(client: &Client) -> Self {
        let kind = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
        let pods: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &kind);
        let selector = "spec.nodeName!=";
        let listed = pods.list_metadata(&ListParams::default().fields(selector)).await.expect("pods are listed");
        assert!(listed.items.is_empty(), "{} pods have a node before kube-scheduler runs", listed.items.len());
        let mut version = listed.metadata.resource_version.unwrap_or_default();
        let at = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&at);
        tokio::spawn(async move {
            while Arc::strong_count(&sink) > 1 {
                let params = WatchParams::default().fields(selector).timeout(290);
                let events = pods.watch_metadata(&params, &version).await.expect("pods are watched");
                let mut events = events.boxed();
                while let Ok(Some(event)) = events.try_next().await {
                    match event {
                        WatchEvent::Added(pod) => {
                            version = pod.metadata.resource_version.unwrap_or_default();
                            sink.lock().expect("nobody panics").push(Instant::now());
                        }
                        WatchEvent::Modified(pod) => version = pod.metadata.resource_version.unwrap_or_default(),
                        // The run is over.
                        WatchEvent::Deleted(_) => return,
                        WatchEvent::Bookmark(_) => {}
                        WatchEvent::Error(error) => panic!("binds were missed: {error}"),
                    }
                }
            }
        });
        Self { at }
    }

    /// How many so far.
    pub(crate) fn count(&self) -> usize {
        self.at.lock().expect("nobody panics").len()
    }

    /// When, in order.
    pub(crate) fn moments(&self) -> Vec<Instant> {
        self.at.lock().expect("nobody panics").clone()
    }
}
