//! What kube-scheduler checks of a node before it asks the extender, as far as it is judged here: the node's cordon, its kubelet, taints,
//! node selector and required node affinity, and the arithmetic of resources (`NodeUnschedulable`, `TaintToleration`, `NodeAffinity`,
//! `NodeResourcesFit` of kube-scheduler). Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};

use super::cluster::{Site, Waiting};
use super::why::Why;

/// The taint of a node that is cordoned as a whole.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// What a pod and a node's free room are compared by.
#[derive(Debug, Clone)]
pub struct Demand<'a> {
    /// What decides where the pod may go.
    pub waiting: &'a Waiting,
    /// What it requests.
    pub requests: &'a BTreeMap<String, i64>,
}

/// All that keeps the pod away from a node of this name.
pub fn obstacles(demand: &Demand<'_>, name: &str, site: &Site) -> Vec<Why> {
    let mut found = Vec::new();
    let Waiting { tolerations, selector, affinity, .. } = demand.waiting;
    let cordon = Taint { key: UNSCHEDULABLE.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
    if site.unschedulable && !tolerations.iter().any(|it| tolerates(it, &cordon)) {
        found.push(Why::NodeCordoned);
    }
    if !site.alive {
        found.push(Why::NodeNotReady);
    }
    for taint in site.taints.iter().filter(|taint| matches!(&*taint.effect, "NoSchedule" | "NoExecute")) {
        if taint.key != UNSCHEDULABLE && !tolerations.iter().any(|it| tolerates(it, taint)) {
            found.push(Why::Taint(text(taint)));
        }
    }
    for (key, value) in selector {
        if site.labels.get(key) != Some(value) {
            found.push(Why::Selector(format!("{key}={value}")));
        }
    }
    if affinity.as_ref().is_some_and(|affinity| !selects(affinity, name, &site.labels)) {
        found.push(Why::Affinity);
    }
    found.extend(shortages(demand.requests, site));
    found
}

/// Resources of which the node has less left than the pod requests.
fn shortages(requests: &BTreeMap<String, i64>, site: &Site) -> Vec<Why> {
    let has = |name: &str| site.allocatable.get(name).copied().unwrap_or(0);
    let mut found: Vec<Why> = Vec::new();
    // Where a node does not tell how many pods it takes, nothing is known of it.
    if site.allocatable.contains_key("pods") && site.pods >= has("pods") {
        found.push(Why::Short { resource: "pods".to_owned(), asked: 1, left: 0 });
    }
    for (resource, asked) in requests.iter().filter(|(_, asked)| **asked > 0) {
        let left = has(resource).saturating_sub(site.requested.get(resource).copied().unwrap_or(0));
        if left < *asked {
            found.push(Why::Short { resource: resource.clone(), asked: *asked, left: left.max(0) });
        }
    }
    found
}

/// Kubernetes' rule: an empty key with `Exists` endures everything, an empty effect every effect.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let Toleration { key, operator, value, effect, .. } = toleration;
    let given = |text: &Option<String>| text.clone().unwrap_or_default();
    let exists = operator.as_deref() == Some("Exists");
    (given(effect).is_empty() || given(effect) == taint.effect)
        && (given(key) == taint.key || (given(key).is_empty() && exists))
        && (exists || given(value) == given(&taint.value))
}

fn text(taint: &Taint) -> String {
    let value = taint.value.as_deref().filter(|value| !value.is_empty());
    format!("{}{}:{}", taint.key, value.map(|value| format!("={value}")).unwrap_or_default(), taint.effect)
}

/// Terms are alternatives; a term without requirements selects nothing.
fn selects(selector: &NodeSelector, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let term = |term: &NodeSelectorTerm| {
        let (mut labelled, mut fields) = (term.match_expressions.iter().flatten(), term.match_fields.iter().flatten());
        let any = term.match_expressions.iter().flatten().chain(term.match_fields.iter().flatten()).next().is_some();
        any && labelled.all(|it| holds(it, labels.get(&it.key).map(String::as_str)))
            && fields.all(|it| holds(it, (it.key == "metadata.name").then_some(name)))
    };
    selector.node_selector_terms.iter().any(term)
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |text: &str| text.parse::<i64>().ok();
    let compared = || Some((number(value?)?, number(values.first()?)?));
    match &*requirement.operator {
        "In" => value.is_some_and(|value| values.iter().any(|other| other == value)),
        "NotIn" => !value.is_some_and(|value| values.iter().any(|other| other == value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared().is_some_and(|(value, bound)| value > bound),
        "Lt" => compared().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn tolerated(toleration: Value, taint: Value) -> bool {
        tolerates(&serde_json::from_value(toleration).unwrap(), &serde_json::from_value(taint).unwrap())
    }

    #[test]
    fn taints_are_endured_by_kubernetes_rules() {
        let taint = json!({"key": "a", "value": "1", "effect": "NoSchedule"});
        for (toleration, expected) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "a", "operator": "Exists"}), true),
            (json!({"key": "a", "operator": "Exists", "effect": "NoSchedule"}), true),
            (json!({"key": "a", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "a", "value": "1"}), true),
            (json!({"key": "a", "value": "2"}), false),
            (json!({"key": "a"}), false),
            (json!({"key": "b", "operator": "Exists"}), false),
        ] {
            assert_eq!(tolerated(toleration.clone(), taint.clone()), expected, "{toleration}");
        }
    }

    #[test]
    fn node_affinity_selects_by_kubernetes_rules() {
        let labels = BTreeMap::from([("pool".to_owned(), "gpu".to_owned()), ("n".to_owned(), "5".to_owned())]);
        for (terms, expected) in [
            (json!([{"matchExpressions": [{"key": "pool", "operator": "In", "values": ["cpu", "gpu"]}]}]), true),
            (json!([{"matchExpressions": [{"key": "pool", "operator": "NotIn", "values": ["gpu"]}]}]), false),
            (json!([{"matchExpressions": [{"key": "no", "operator": "NotIn", "values": ["gpu"]}]}]), true),
            (json!([{"matchExpressions": [{"key": "no", "operator": "Exists"}]}]), false),
            (json!([{"matchExpressions": [{"key": "no", "operator": "DoesNotExist"}]}]), true),
            (json!([{"matchExpressions": [{"key": "n", "operator": "Gt", "values": ["4"]}]}]), true),
            (json!([{"matchExpressions": [{"key": "n", "operator": "Lt", "values": ["5"]}]}]), false),
            (json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["here"]}]}]), true),
            (json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["there"]}]}]), false),
            (json!([{}]), false),
            (json!([{}, {"matchExpressions": [{"key": "pool", "operator": "Exists"}]}]), true),
        ] {
            let selector = serde_json::from_value(json!({"nodeSelectorTerms": terms})).unwrap();
            assert_eq!(selects(&selector, "here", &labels), expected, "{terms}");
        }
    }
}
