//! The watch of the node's own Node object, and of no other.

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};

use super::metrics::Metrics;
use super::own_node::{Source, State};

/// Follows the node until the future is dropped. Goes on by itself after errors, at growing intervals up to half a minute.
pub(super) async fn follow(api: Api<Node>, name: &str, state: &State, metrics: &Metrics) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher::watcher(api, config).default_backoff());
    let mut listed = false;
    let mut told = false;
    while let Some(event) = events.next().await {
        if event.is_ok() && std::mem::take(&mut told) {
            tracing::info!(node = name, "the watch of this node goes on");
        }
        match event {
            Ok(Event::Init) => listed = false,
            Ok(Event::InitApply(node)) => {
                listed = true;
                state.accept(node, Source::List);
            }
            Ok(Event::InitDone) if !listed => {
                tracing::warn!(node = name, "there is no such node; waiting for the kubelet to register it");
                state.gone();
            }
            Ok(Event::InitDone) => {}
            Ok(Event::Apply(node)) => state.accept(node, Source::Change),
            Ok(Event::Delete(_)) => {
                tracing::warn!(
                    node = name,
                    "the Node object was deleted; waiting for the kubelet to register it again"
                );
                state.gone();
            }
            Err(error) => {
                metrics.interrupted();
                // Once an outage.
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(node = name, %error, "the watch of this node was interrupted; its last state is kept");
                }
            }
        }
    }
}
