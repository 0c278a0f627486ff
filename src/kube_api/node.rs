//! The part of a Node that Packhorse reads, borrowed from the bytes it came in. Unknown fields are skipped.

use std::collections::BTreeMap;

use super::pod::{RawQuantity, Text, null_default};

/// What we read of a Node.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
pub struct NodeView<'a> {
    /// Its name, labels and annotations.
    #[serde(borrow, deserialize_with = "null_default")]
    pub metadata: NodeMeta<'a>,
    /// What keeps pods away.
    #[serde(borrow, deserialize_with = "null_default")]
    pub spec: NodeSpecView<'a>,
    /// What it has for pods.
    #[serde(borrow, deserialize_with = "null_default")]
    pub status: NodeStatusView<'a>,
}

/// Who a node is.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct NodeMeta<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub uid: Option<Text<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub annotations: BTreeMap<Text<'a>, Text<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub labels: BTreeMap<Text<'a>, Text<'a>>,
}

/// What keeps pods away.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct NodeSpecView<'a> {
    pub unschedulable: Option<bool>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub taints: Vec<TaintView<'a>>,
}

/// A taint.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct TaintView<'a> {
    #[serde(borrow)]
    pub key: Text<'a>,
    #[serde(borrow)]
    pub value: Option<Text<'a>>,
    #[serde(borrow)]
    pub effect: Text<'a>,
}

/// What a node has for pods.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct NodeStatusView<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub allocatable: BTreeMap<Text<'a>, RawQuantity<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub conditions: Vec<ConditionView<'a>>,
}

/// A condition.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct ConditionView<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Text<'a>,
    #[serde(borrow)]
    pub status: Text<'a>,
}

impl NodeView<'_> {
    /// Whether kube-scheduler would put an ordinary pod here at all: not cordoned as a whole, and its kubelet alive.
    pub fn is_schedulable(&self) -> bool {
        let alive = self.status.conditions.iter().find(|c| &*c.kind == "Ready").is_none_or(|c| &*c.status == "True");
        alive && self.spec.unschedulable != Some(true)
    }

    /// Whether a `PreferNoSchedule` taint states a preference.
    pub fn prefers_no_schedule(&self) -> bool {
        self.spec.taints.iter().any(|taint| &*taint.effect == "PreferNoSchedule")
    }
}
