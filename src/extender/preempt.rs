//! `/preempt`: whether removing the proposed victims really makes room for the pod, and whom else to remove.
//!
//! kube-scheduler counts totals, we know devices: victims on two devices may free enough in sum and still not room for one
//! container. The answer names, for each node where preemption helps, the proposed victims and as few others as suffice, of the
//! lowest priorities; never one of equal or higher priority. From 1.38 on nodes come with no victims at all: then all are ours to
//! choose. Nothing is changed here; kube-scheduler deletes the victims and nominates the pod.
//!
//! A proposed victim that the ledger does not know as a GPU pod stays: it was proposed for something that we do not see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::metrics::observe;
use super::promise::Promises;
use super::query::Query;
use super::{Extender, Refusal, json};
use crate::gpu::fit::place;
use crate::gpu::node::Node;
use crate::kube_api::extender::{MetaPodOut, PreemptionArgs, PreemptionResult, VictimsOut};
use crate::ledger::{NodeState, PodEntry};

/// What kube-scheduler proposes for one node.
#[derive(Debug, Default)]
struct Proposal {
    /// UIDs, with the priority where the request tells it.
    victims: BTreeMap<String, Option<i32>>,
    pdb_violations: i64,
}

impl Extender {
    /// Answers one `/preempt` call: JSON in, JSON out.
    ///
    /// # Errors
    /// What is not answered with 200; see [`Refusal`]: the wire form has no place for an error text.
    pub fn preempt(&self, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let start = Instant::now();
        self.ready_for(body)?;
        let args: PreemptionArgs<'_> = serde_json::from_slice(body)
            .map_err(|e| Refusal::Malformed(format!("the request is not an ExtenderPreemptionArgs object: {e}")))?;
        let Some(pod) = &args.pod else { return Err(Refusal::Malformed("the request has no Pod".to_owned())) };
        let policies = self.settings.load().policies();
        let query = Query::read(pod, &self.rules.load(), policies, &self.shapes)
            .map_err(|e| Refusal::Malformed(format!("the pod's GPU request cannot be read: {e}")))?;
        let mut nodes = BTreeMap::new();
        for (name, proposal) in proposals(&args) {
            let victims = match &query {
                Some(query) => self.victims(&name, &proposal, query),
                None => Some(proposal.victims.into_keys().collect()),
            };
            // kube-scheduler takes a node without victims for a mistake.
            if let Some(victims) = victims.filter(|victims: &BTreeSet<String>| !victims.is_empty()) {
                let pods = victims.into_iter().map(|uid| MetaPodOut { uid }).collect();
                nodes.insert(name, VictimsOut { pods, pdb_violations: proposal.pdb_violations });
            }
        }
        let answer = json(&PreemptionResult { node_name_to_meta_victims: nodes });
        observe(&self.metrics.preempt, start);
        Ok(answer)
    }

    /// Whom to remove from a node; `None` where it would not help.
    fn victims(&self, name: &str, proposal: &Proposal, query: &Query) -> Option<BTreeSet<String>> {
        let pod = &query.record;
        let entry = self.ledger.node(name)?;
        let snapshot = entry.snapshot();
        let NodeState::Usable(node) = &snapshot.state else { return None };
        let promised = Promises::on(&self.ledger, &entry).and_then(|p| p.applied(node, pod, query.shape.policies));
        let mut node: Node = promised.unwrap_or_else(|| node.clone());
        let fits = |node: &Node| place(node, &query.shape.request, query.shape.policies).is_ok();

        let here = self.ledger.pods_on(name);
        let mut lower: Vec<&Arc<PodEntry>> =
            here.iter().filter(|other| self.priority(other) < pod.priority && other.uid != pod.uid).collect();
        // The least important first; among equals who holds most, so that few are needed; then by UID, so that the same question
        // gets the same answer.
        lower.sort_by_cached_key(|other| {
            let memory: u64 = other.holdings.iter().map(|h| u64::from(h.memory)).sum();
            (self.priority(other), std::cmp::Reverse(memory), Arc::clone(&other.uid))
        });

        let mut kept = BTreeSet::new();
        for (uid, priority) in &proposal.victims {
            let elsewhere = match here.iter().find(|other| *other.uid == **uid) {
                Some(_) => false,
                None => self.ledger.pod(uid).is_some(),
            };
            let lower_priority = priority.is_none_or(|priority| priority < pod.priority);
            let known_here = here.iter().any(|other| *other.uid == **uid);
            if !elsewhere && !known_here && lower_priority {
                kept.insert(uid.clone());
            }
        }
        let (mut chosen, mut others): (Vec<_>, Vec<_>) =
            lower.into_iter().partition(|other| proposal.victims.contains_key(&*other.uid));
        for victim in &chosen {
            release(&mut node, victim);
        }
        let mut added = Vec::new();
        let mut rest = others.drain(..);
        while !fits(&node) {
            let victim = rest.next()?;
            release(&mut node, victim);
            added.push(victim);
        }
        // Spare whom it was not necessary to add, the most important first. A proposed victim is spared only where others were
        // added in its place and it leaves enough CPU and memory: alone it was proposed for a reason.
        added.retain_back(|victim| !spared(&mut node, victim, query, &fits));
        if !added.is_empty() {
            chosen.retain_back(|victim| !spared(&mut node, victim, query, &fits));
        }
        kept.extend(chosen.iter().chain(&added).map(|victim| victim.uid.as_ref().to_owned()));
        Some(kept)
    }

    /// The ledger learns a pod's priority from its watch; of one that it knows from our bind alone, the filter call told it.
    fn priority(&self, pod: &PodEntry) -> i32 {
        if pod.confirmed { pod.priority } else { self.records.get(&pod.uid).map_or(pod.priority, |r| r.priority) }
    }
}

/// Whether the pod fits with this victim left alone; the node is then as if it were.
fn spared(node: &mut Node, victim: &PodEntry, query: &Query, fits: &impl Fn(&Node) -> bool) -> bool {
    let mut with = node.clone();
    with.book(&victim.holdings);
    with.cpu_left = with.cpu_left.map(|left| left.saturating_sub(victim.cpu));
    with.memory_left = with.memory_left.map(|left| left.saturating_sub(victim.memory));
    let host = with.cpu_left.is_none_or(|left| left >= query.shape.cpu)
        && with.memory_left.is_none_or(|left| left >= query.shape.memory);
    if !host || !fits(&with) {
        return false;
    }
    *node = with;
    true
}

fn release(node: &mut Node, victim: &PodEntry) {
    node.release(&victim.holdings);
    node.cpu_left = node.cpu_left.map(|left| left.saturating_add(victim.cpu));
    node.memory_left = node.memory_left.map(|left| left.saturating_add(victim.memory));
}

/// `Vec::retain` from the last element to the first.
trait RetainBack<T> {
    fn retain_back(&mut self, keep: impl FnMut(&T) -> bool);
}

impl<T> RetainBack<T> for Vec<T> {
    fn retain_back(&mut self, keep: impl FnMut(&T) -> bool) {
        self.reverse();
        self.retain(keep);
        self.reverse();
    }
}

fn proposals(args: &PreemptionArgs<'_>) -> BTreeMap<String, Proposal> {
    let mut proposals: BTreeMap<String, Proposal> = BTreeMap::new();
    for (name, victims) in args.meta_victims.iter().flatten() {
        let proposal = proposals.entry(name.0.clone().into_owned()).or_default();
        proposal.victims.extend(victims.pods.iter().map(|pod| (pod.uid.0.clone().into_owned(), None)));
        proposal.pdb_violations = victims.pdb_violations;
    }
    for (name, victims) in args.victims.iter().flatten() {
        let proposal = proposals.entry(name.0.clone().into_owned()).or_default();
        for pod in &victims.pods {
            if let Some(uid) = &pod.metadata.uid {
                proposal.victims.insert(uid.0.clone().into_owned(), Some(pod.spec.priority.unwrap_or(0)));
            }
        }
        proposal.pdb_violations = victims.pdb_violations;
    }
    proposals
}
