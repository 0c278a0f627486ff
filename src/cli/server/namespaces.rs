//! What a count alone means in which namespace: the label `packhorse.dev/count-alone`, followed by a watch of the labelled
//! namespaces alone. Written by one task, read by the webhook for each pod. While the watch is broken the labels known last stay
//! in effect; a label that cannot be read is logged and counts as absent.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt};

use crate::gpu::parse::CountAlone;
use crate::kube_api::names::COUNT_ALONE;

/// After so long without an event the watch is begun anew.
const QUIET: Duration = Duration::from_secs(600);

type Labels = HashMap<String, CountAlone>;

/// The labels.
#[derive(Debug, Default)]
pub struct Namespaces {
    labels: ArcSwap<Labels>,
    known: AtomicBool,
}

impl Namespaces {
    /// What the namespace says, where it says something.
    pub fn count_alone(&self, namespace: &str) -> Option<CountAlone> {
        self.labels.load().get(namespace).copied()
    }

    /// Whether the first list has been read.
    pub fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    /// Follows the labels until the task is aborted.
    pub async fn follow(&self, client: kube::Client) {
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(client);
        let config = watcher::Config::default().labels(COUNT_ALONE);
        let mut complained = false;
        loop {
            let mut events = watcher(api.clone(), config.clone()).default_backoff().boxed();
            let mut listed = Labels::new();
            // Too quiet: a connection that died without a word, or no change in all that time. A new list costs little.
            while let Ok(event) = tokio::time::timeout(QUIET, events.next()).await {
                match event {
                    Some(Ok(event)) => {
                        complained = false;
                        self.apply(event, &mut listed);
                    }
                    Some(Err(error)) if complained => tracing::debug!(%error, "namespaces: the watch is still broken"),
                    Some(Err(error)) => {
                        complained = true;
                        let error = format!("{:#}", anyhow::Error::from(error));
                        tracing::warn!(
                            error,
                            "namespaces: the watch broke, trying again; labels known so far stay in effect"
                        );
                    }
                    None => break,
                }
            }
        }
    }

    fn apply<K: ResourceExt>(&self, event: Event<K>, listed: &mut Labels) {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(namespace) => {
                if let Some(count_alone) = read(&namespace) {
                    listed.insert(namespace.name_any(), count_alone);
                }
            }
            Event::InitDone => {
                self.labels.store(std::mem::take(listed).into());
                self.known.store(true, Ordering::Release);
            }
            Event::Apply(namespace) => self.change(&namespace.name_any(), read(&namespace)),
            Event::Delete(namespace) => self.change(&namespace.name_any(), None),
        }
    }

    fn change(&self, namespace: &str, count_alone: Option<CountAlone>) {
        // Labels change a few times in a cluster's life: a copy is cheaper than a lock on every admission.
        let mut labels = Labels::clone(&self.labels.load());
        match count_alone {
            Some(count_alone) => labels.insert(namespace.to_owned(), count_alone),
            None => labels.remove(namespace),
        };
        self.labels.store(labels.into());
    }
}

fn read(namespace: &impl ResourceExt) -> Option<CountAlone> {
    let value = namespace.labels().get(COUNT_ALONE)?;
    match value.parse() {
        Ok(count_alone) => Some(count_alone),
        Err(error) => {
            let namespace = namespace.name_any();
            tracing::warn!(namespace, value, %error, "namespaces: label {COUNT_ALONE} cannot be read and has no effect");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn namespace(name: &str, value: &str) -> Namespace {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {(COUNT_ALONE): value}}})).unwrap()
    }

    #[test]
    fn follows_labels_and_replaces_all_of_them_by_a_new_list() {
        let (namespaces, mut listed) = (Namespaces::default(), Labels::new());
        let mut apply = |event| namespaces.apply(event, &mut listed);
        apply(Event::Init);
        apply(Event::InitApply(namespace("a", "share-50")));
        assert!(!namespaces.is_known() && namespaces.count_alone("a").is_none(), "half a list says nothing");
        apply(Event::InitDone);
        assert!(namespaces.is_known());
        assert_eq!(namespaces.count_alone("a"), Some(CountAlone::Share(50)));

        apply(Event::Apply(namespace("b", "exclusive")));
        assert_eq!(namespaces.count_alone("b"), Some(CountAlone::Exclusive));
        apply(Event::Apply(namespace("a", "nonsense")));
        assert_eq!(namespaces.count_alone("a"), None, "an unreadable label has no effect");
        apply(Event::Delete(namespace("b", "exclusive")));
        assert_eq!(namespaces.count_alone("b"), None);

        for event in [Event::Init, Event::InitApply(namespace("c", "share-25")), Event::InitDone] {
            apply(event);
        }
        assert_eq!(namespaces.count_alone("c"), Some(CountAlone::Share(25)));
    }
}
