//! Writes the node's labels by server-side apply: what no longer holds goes with the next apply, and a label that another field
//! manager owns with another value (GPU Feature Discovery still running, a person) is left alone and reported.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;

use super::Settings;
use super::deploy::Deploy;
use super::inventory::is_known;
use super::metrics::Metrics;
use super::own_node::OwnNode;
use super::write::{Failure, Part, Write, next};
use crate::agent::events::{EventKind, Events};
use crate::agent::labels::{self, Labels as Wanted};
use crate::agent::view::ViewReceiver;

/// Where server-side apply's conflicts about labels begin.
const FIELD: &str = ".metadata.labels.";

#[derive(Debug)]
pub(super) struct Labels {
    settings: Settings,
    view: ViewReceiver,
    events: Events,
    metrics: Metrics,
    /// What others own, with the value it had then: another value is another case.
    contested: BTreeMap<String, Option<String>>,
    /// Label and owner that were reported.
    told: BTreeSet<(String, String)>,
    /// What is to be written.
    due: Option<Wanted>,
    /// What was last written.
    sent: Option<Wanted>,
}

impl Labels {
    pub(super) fn new(settings: Settings, view: ViewReceiver, events: Events, metrics: Metrics) -> Self {
        let (contested, told, due, sent) = Default::default();
        Self { settings, view, events, metrics, contested, told, due, sent }
    }

    fn wanted(&mut self, node: &OwnNode) -> Option<Wanted> {
        let view = Arc::clone(&self.view.borrow_and_update());
        if Deploy::of(&node.labels) == Deploy::Nothing {
            return Some(Wanted::new());
        }
        if !is_known(&view) {
            return None;
        }
        let mut wanted = labels::of(&view, &self.settings.host);
        if !wanted.is_empty() {
            wanted.extend(self.settings.labels.clone());
        }
        Some(wanted)
    }
}

impl Part for Labels {
    const KIND: &'static str = "labels";

    async fn changed(&mut self) {
        next(&mut self.view).await;
    }

    fn due(&mut self, node: &OwnNode) -> Option<Write> {
        let mut wanted = self.wanted(node)?;
        // Still what made the conflict? Else it may be ours again.
        self.contested.retain(|key, value| {
            let there = node.labels.get(key);
            wanted.get(key).is_some_and(|wanted| there == value.as_ref() && there != Some(wanted))
        });
        self.metrics.set_contested(self.contested.len());
        wanted.retain(|key, _| !self.contested.contains_key(key));
        let in_place = wanted.iter().all(|(key, value)| node.labels.get(key) == Some(value));
        let owned = node.own_labels.len() == wanted.len() && wanted.keys().all(|key| node.own_labels.contains(key));
        if in_place && (owned || self.sent.as_ref() == Some(&wanted)) {
            return None;
        }
        let patch = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": &*self.settings.node, "labels": wanted},
        });
        self.due = Some(wanted);
        Some(Write::Apply(patch))
    }

    fn wrote(&mut self) {
        self.sent = self.due.take();
    }

    fn refused(&mut self, node: &OwnNode, failure: &Failure) -> bool {
        let conflict = failure.status().filter(|status| status.code == 409);
        let causes = conflict.and_then(|status| status.details.as_ref()).map_or(&[][..], |details| &details.causes);
        let mut news = Vec::new();
        let mut another = false;
        for cause in causes.iter().filter(|cause| cause.reason == "FieldManagerConflict") {
            let Some(key) = cause.field.strip_prefix(FIELD) else { continue };
            // `conflict with "NAME"`, sometimes with more behind it.
            let owner = cause.message.split('"').nth(1).unwrap_or(&cause.message);
            another |= self.contested.insert(key.to_owned(), node.labels.get(key).cloned()).is_none();
            if self.told.insert((key.to_owned(), owner.to_owned())) {
                news.push((key, owner));
            }
        }
        let owners: BTreeSet<&str> = news.iter().map(|(_, owner)| *owner).collect();
        for owner in owners {
            let keys: Vec<&str> = news.iter().filter(|(_, other)| *other == owner).map(|(key, _)| *key).collect();
            let keys = keys.join(", ");
            tracing::warn!(node = %self.settings.node, owner, labels = %keys, "labels that another field manager owns are left alone");
            let message = format!(
                "labels left alone because field manager {owner:?} owns them with another value: {keys}. Stop what writes them, \
                 or remove the labels, and Packhorse will set them"
            );
            self.events.node(EventKind::Warning, "LabelsOwnedByAnother", &message);
        }
        another
    }
}
