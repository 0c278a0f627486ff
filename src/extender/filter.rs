//! `/filter`: which of the nodes can take the pod, and the best of those.
//!
//! A verdict depends on the ledger and the pod alone and has no side effect; ranking counts holds too. The best fitting nodes are
//! returned, and a hold is left on the first of them. Where none fits, every node gets one of a small fixed set of reasons:
//! text that varied would make kube-scheduler try again in a loop.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Instant;

use super::metrics::{Tally, UNKNOWN_NODE, observe};
use super::nodes::{GivenNode, given_nodes};
use super::query::Query;
use super::settings::{Settings, Version};
use super::situation::{Situation, Weighed};
use super::{Extender, Refusal, Unfit};
use crate::gpu::reason::Reason;
use crate::kube_api::extender::{Args, FilterResult};
use crate::kube_api::pod::Text;
use crate::ledger::NodeEntry;

/// A node that fits.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    index: usize,
    crowded: bool,
    score: f64,
}

/// Why a node does not fit; `None`: the ledger does not know it.
type Failure = Option<Reason>;

/// What became of the nodes of one call.
#[derive(Debug, Default)]
struct Outcome {
    fits: Vec<Candidate>,
    /// Beside the nodes, as far as none had fitted before.
    failures: Vec<Failure>,
    /// Whether a fitting node would rather not be chosen.
    repels: bool,
    tally: Tally,
}

impl Outcome {
    fn for_nodes(count: usize) -> Self {
        Self { fits: Vec::with_capacity(count), ..Self::default() }
    }

    fn add(&mut self, index: usize, weighed: Option<Weighed>) {
        match weighed {
            Some(Weighed { verdict: Ok(score), crowded, repels }) => {
                self.tally.fit();
                self.repels |= repels;
                self.fits.push(Candidate { index, crowded, score });
            }
            Some(Weighed { verdict: Err(reason), .. }) => {
                self.tally.reason(reason);
                self.fail(Some(reason));
            }
            None => {
                self.tally.unknown();
                self.fail(None);
            }
        }
    }

    fn fail(&mut self, failure: Failure) {
        if self.fits.is_empty() {
            self.failures.push(failure);
        }
    }
}

/// Better first; equal nodes by name, so that the same call always gets the same answer and equal nodes fill in one order.
pub(super) fn better(a: (bool, f64, &str), b: (bool, f64, &str)) -> Ordering {
    a.0.cmp(&b.0).then_with(|| b.1.total_cmp(&a.1)).then_with(|| a.2.cmp(b.2))
}

impl Extender {
    /// Answers one `/filter` call: JSON in, JSON out.
    ///
    /// # Errors
    /// What is not answered with 200; see [`Refusal`].
    pub fn filter(&self, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let start = Instant::now();
        self.ready_for(body)?;
        let args: Args<'_> = match serde_json::from_slice(body) {
            Ok(args) => args,
            Err(e) => return Ok(error(format!("the request is not an ExtenderArgs object: {e}"))),
        };
        let Some(pod) = &args.pod else { return Ok(error("the request has no Pod".to_owned())) };
        let given = match given_nodes(args.nodes.as_ref(), &self.ledger) {
            Ok(given) => given,
            Err(e) => return Ok(error(e)),
        };
        let names = args.node_names.as_deref().unwrap_or_default();
        let settings = self.settings.load();
        let query = match Query::read(pod, &self.rules.load(), settings.policies(), &self.shapes) {
            Ok(Some(query)) => query,
            Ok(None) => return Ok(write(&echo(given.as_deref(), names))),
            Err(e) => return Ok(error(format!("the pod's GPU request cannot be read: {e}"))),
        };
        let result = match &given {
            Some(given) => self.filter_given(&query, given, &settings),
            None => self.filter_names(&query, names, &settings),
        };
        if result.node_names.is_empty()
            && let Some(unfit) = &self.unfit
        {
            let nodes = given.as_ref().map_or(names.len(), Vec::len);
            unfit(&Unfit { record: &query.record, pod, nodes });
        }
        let answer = write(&result);
        self.metrics.best.observe(result.node_names.len() as f64);
        observe(&self.metrics.filter, start);
        Ok(answer)
    }

    fn filter_names<'a>(&self, query: &Query, names: &'a [Text<'a>], settings: &Settings) -> FilterResult<'a> {
        let now = (self.clock)();
        self.records.put(Arc::clone(&query.record));
        let situation = Situation::new(&self.ledger, &query.record, self.other_holds(query, settings, now));
        if let Some(booked) = &situation.booked
            && let Some(name) = names.iter().find(|name| ***name == **booked)
        {
            // An earlier bind may still be carried out there, so no other node can take the pod now.
            return FilterResult { node_names: vec![name], ..FilterResult::default() };
        }
        let mut outcome = Outcome::for_nodes(names.len());
        let mut entries: Vec<Option<Arc<NodeEntry>>> = Vec::with_capacity(names.len());
        {
            let mut judge = query.shape.judge();
            for (index, name) in names.iter().enumerate() {
                let entry = self.ledger.node(name);
                outcome.add(index, entry.as_ref().map(|entry| situation.weigh(&mut judge, entry)));
                entries.push(entry);
            }
        }
        outcome.tally.publish(&self.metrics);
        let name = |index: usize| -> &'a str { &names[index] };
        if outcome.fits.is_empty() {
            self.holds.remove(&query.record.uid);
            return self.failures(&outcome.failures, name, settings);
        }
        let (best, kept) = choose(&mut outcome, name, query, settings);
        if settings.holds
            && let Some(entry) = &entries[best]
            && let Some(holdings) = situation.expect(&query.shape, entry)
        {
            let lasts = settings.hold(query.waits_for_volume);
            self.holds.put(&query.record.uid, Arc::clone(&entry.name), entry.slot, holdings, now, lasts);
        }
        self.metrics.holds.set(self.holds.len() as i64);
        FilterResult { node_names: kept.into_iter().map(name).collect(), ..FilterResult::default() }
    }

    /// Full nodes: the inventory comes from the objects, usage from the ledger where it knows the node. Nothing is remembered:
    /// no hold, and bind looks the pod up.
    fn filter_given<'a>(&self, query: &Query, given: &'a [GivenNode<'a>], settings: &Settings) -> FilterResult<'a> {
        let holds = self.other_holds(query, settings, (self.clock)());
        let situation = Situation::new(&self.ledger, &query.record, holds);
        let mut outcome = Outcome::for_nodes(given.len());
        for (index, node) in given.iter().enumerate() {
            outcome.add(index, Some(node.weigh(&situation, &query.shape)));
        }
        outcome.tally.publish(&self.metrics);
        let name = |index: usize| -> &'a str { &given[index].name };
        if outcome.fits.is_empty() {
            return FilterResult { nodes: Some(Vec::new()), ..self.failures(&outcome.failures, name, settings) };
        }
        let (_, kept) = choose(&mut outcome, name, query, settings);
        FilterResult {
            nodes: Some(kept.iter().map(|index| given[*index].raw).collect()),
            node_names: kept.into_iter().map(name).collect(),
            ..FilterResult::default()
        }
    }

    fn failures<'a>(
        &self,
        failures: &[Failure],
        name: impl Fn(usize) -> &'a str,
        settings: &Settings,
    ) -> FilterResult<'a> {
        // Before 1.38 kube-scheduler's dry run knows nothing of our verdict: it finds no victim, fails with a text that changes,
        // and requeues the pod for that.
        let version = settings.scheduler_version.or(self.api_version);
        let preemptible = version.is_some_and(|version| version >= Version::EMPTY_VICTIMS);
        let mut result = FilterResult::default();
        for (index, failure) in failures.iter().enumerate() {
            match failure {
                Some(reason) if preemptible && reason.is_shortage() => {
                    result.failed.push((name(index), reason.as_str()));
                }
                Some(reason) => result.failed_and_unresolvable.push((name(index), reason.as_str())),
                None => result.failed_and_unresolvable.push((name(index), UNKNOWN_NODE)),
            }
        }
        result
    }
}

/// The best node, and those to return: the best few in order, or all as they came where somebody else's preference has to be weighed.
fn choose<'a>(
    outcome: &mut Outcome,
    name: impl Fn(usize) -> &'a str,
    query: &Query,
    settings: &Settings,
) -> (usize, Vec<usize>) {
    let compare =
        |a: &Candidate, b: &Candidate| better((a.crowded, a.score, name(a.index)), (b.crowded, b.score, name(b.index)));
    let fits = &mut outcome.fits;
    if query.prefers || outcome.repels {
        let best = fits.iter().min_by(|a, b| compare(a, b)).map_or(0, |c| c.index);
        return (best, fits.iter().map(|c| c.index).collect());
    }
    let most = settings.best_nodes.get();
    if fits.len() > most {
        fits.select_nth_unstable_by(most - 1, compare);
        fits.truncate(most);
    }
    fits.sort_unstable_by(compare);
    (fits.first().map_or(0, |c| c.index), fits.iter().map(|c| c.index).collect())
}

/// The answer about a pod that is none of our business.
fn echo<'a>(given: Option<&'a [GivenNode<'a>]>, names: &'a [Text<'a>]) -> FilterResult<'a> {
    let mut result = FilterResult { node_names: names.iter().map(|name| &**name).collect(), ..FilterResult::default() };
    if let Some(given) = given {
        result.nodes = Some(given.iter().map(|node| node.raw).collect());
        result.node_names = given.iter().map(|node| &*node.name).collect();
    }
    result
}

fn write(result: &FilterResult<'_>) -> Vec<u8> {
    super::json(result)
}

fn error(error: String) -> Vec<u8> {
    tracing::warn!(error, "filter call cannot be answered");
    write(&FilterResult { error, ..FilterResult::default() })
}
