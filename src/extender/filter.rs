//! `/filter`: which of the nodes can take the pod, and the best of those.
//!
//! A verdict depends on the ledger and the pod alone and has no side effect; ranking counts holds too. The best fitting nodes are
//! returned, and a hold is left on the first of them. Where none fits, every node gets one of a small fixed set of reasons:
//! text that varied would make kube-scheduler try again in a loop.

mod outcome;

use std::sync::Arc;
use std::time::Instant;

pub(super) use outcome::{Candidate, better};

use outcome::Outcome;

use super::metrics::{UNKNOWN_NODE, observe};
use super::names::Split;
use super::nodes::{GivenNode, given_nodes};
use super::query::Query;
use super::roster::{Found, Reading, Visit};
use super::settings::{Settings, Version};
use super::shape::Judge;
use super::situation::{Situation, Weighed};
use super::{Extender, Refusal, Unfit, json};
use crate::kube_api::extender::{Args, FilterResult};
use crate::kube_api::pod::{PodView, Text};

/// A name that was compared with one that is text, or found to be text.
fn text(name: &[u8]) -> &str {
    std::str::from_utf8(name).unwrap_or_default()
}

/// The nodes of one call on their way to an outcome.
#[derive(Debug)]
struct Weighing<'a, 's> {
    situation: &'s Situation<'s>,
    judge: Judge<'s>,
    outcome: Outcome<'a>,
    /// Nodes of which only a former version, or one for other pods, was looked at.
    outdated: Vec<Outdated<'a>>,
}

/// One of them.
#[derive(Debug)]
struct Outdated<'a> {
    name: &'a [u8],
    /// Among the nodes asked about.
    index: usize,
    /// In the roster.
    position: usize,
    /// How good it probably is, and whether it repels; absent where nobody has looked at it.
    guess: Option<(f64, bool)>,
}

impl<'a> Weighing<'a, '_> {
    /// What is not known of a node's newest version, or depends on more than the node.
    fn later(&mut self, name: &'a [u8], index: usize, position: usize, slot: usize, version: u64) {
        match self.judge.known(slot, version) {
            Some(glance) if self.situation.is_plain(slot, glance) => {
                let weighed = Weighed { verdict: glance.verdict, crowded: false, repels: glance.repels };
                self.outcome.put(name, index, Some(weighed));
            }
            known => {
                // What is known but not plain is looked at as well, and first.
                let guess = if known.is_some() { None } else { self.judge.guess(slot) };
                self.outdated.push(Outdated { name, index, position, guess });
            }
        }
    }

    /// Looks at what is out of date: all of it, or where that is too much for one call the most promising nodes, until the next
    /// would hardly be better than those known, and as many more as it takes to know enough that fit. What was left out stays in
    /// `outdated`.
    fn look(&mut self, reading: &Reading<'_>) {
        let mut outdated = std::mem::take(&mut self.outdated);
        let at_once = self.judge.looks();
        let repels = outdated.iter().any(|node| node.guess.is_some_and(|(_, repels)| repels));
        if let Some(most) = self.outcome.most.filter(|_| outdated.len() > at_once && !repels) {
            // The least promising first: they are taken from the end. Nodes that nobody has looked at come before all.
            let key = |node: &Outdated<'_>| node.guess.map_or(f64::INFINITY, |(score, _)| score);
            let unseen = outdated.iter().filter(|node| node.guess.is_none()).count();
            let kept = outdated.len() - unseen.max(at_once);
            let order = |a: &Outdated<'_>, b: &Outdated<'_>| key(a).total_cmp(&key(b)).then(b.index.cmp(&a.index));
            outdated.select_nth_unstable_by(kept, order);
            let mut promising = outdated.split_off(kept);
            loop {
                promising.sort_unstable_by(order);
                while let Some(node) = promising.pop_if(|node| !self.is_hopeless(node, most)) {
                    self.weigh(&node, reading);
                }
                outdated.append(&mut promising);
                if self.outcome.fits.len() >= most || outdated.is_empty() {
                    break;
                }
                let kept = outdated.len().saturating_sub(at_once);
                if kept > 0 {
                    outdated.select_nth_unstable_by(kept, order);
                }
                promising = outdated.split_off(kept);
            }
            self.outdated = outdated;
            return;
        }
        for node in &outdated {
            self.weigh(node, reading);
        }
    }

    /// Whether even a rise as great as those seen lately would not bring this node among the best.
    fn is_hopeless(&self, node: &Outdated<'_>, most: usize) -> bool {
        let enough = self.outcome.fits.len() >= most;
        enough && node.guess.is_some_and(|(score, _)| self.outcome.is_worse(score + self.judge.rise()))
    }

    fn weigh(&mut self, node: &Outdated<'a>, reading: &Reading<'_>) {
        let weighed = self.situation.weigh(&mut self.judge, reading.entry(node.position));
        if let (Some((guess, _)), Ok(score)) = (node.guess, weighed.verdict) {
            self.judge.rose(score - guess);
        }
        self.outcome.put(node.name, node.index, Some(weighed));
    }
}

impl<'a> Visit<'a> for Weighing<'a, '_> {
    #[inline(always)]
    fn known(&mut self, name: &'a [u8], position: usize, slot: usize, version: u64) {
        let index = self.outcome.next();
        match self.judge.fits(slot, version) {
            // Most nodes: known to fit, and not as well as one before.
            Some(score) if !self.situation.is_held(slot) => {
                self.outcome.tally.fit();
                if !self.outcome.is_worse(score) {
                    self.outcome.fit(Candidate { name, crowded: false, score, index });
                }
            }
            _ => self.later(name, index, position, slot, version),
        }
    }

    fn other(&mut self, name: &'a [u8], found: Found) {
        let index = self.outcome.next();
        let weighed = match found {
            Found::Fresh(entry) => Some(self.situation.weigh(&mut self.judge, &entry)),
            Found::Known { position, slot, version } => return self.later(name, index, position, slot, version),
            Found::Unknown => None,
        };
        self.outcome.put(name, index, weighed);
    }
}

/// A request's names: where they lie, or as a list.
#[derive(Debug, Clone, Copy)]
enum Names<'a> {
    Plain(&'a Split<'a>),
    Listed(&'a [Text<'a>]),
}

impl Extender {
    /// Answers one `/filter` call: JSON in, JSON out.
    ///
    /// # Errors
    /// What is not answered with 200; see [`Refusal`].
    pub fn filter(&self, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let start = Instant::now();
        self.ready_for(body)?;
        let answer = self.filter_plain(body).unwrap_or_else(|| self.filter_any(body));
        observe(&self.metrics.filter, start);
        self.shapes.tell_new();
        Ok(answer)
    }

    /// The quick way, for requests as kube-scheduler writes them; `None` for all others.
    fn filter_plain(&self, body: &[u8]) -> Option<Vec<u8>> {
        let split = Split::of(body)?;
        let args: Args<'_> = serde_json::from_slice(&split.head).ok()?;
        if args.nodes.is_some() || args.node_names.is_some() {
            return None;
        }
        let pod = args.pod.as_deref()?;
        let settings = self.settings.load();
        let query = Query::read(pod, &self.rules.load(), settings.policies(), &self.shapes).ok()??;
        let result = self.filter_names(&query, pod, Names::Plain(&split), &settings)?;
        Some(self.written(&result))
    }

    fn filter_any(&self, body: &[u8]) -> Vec<u8> {
        let args: Args<'_> = match serde_json::from_slice(body) {
            Ok(args) => args,
            Err(e) => return error(format!("the request is not an ExtenderArgs object: {e}")),
        };
        let Some(pod) = &args.pod else { return error("the request has no Pod".to_owned()) };
        let given = match given_nodes(args.nodes.as_ref(), &self.ledger) {
            Ok(given) => given,
            Err(e) => return error(e),
        };
        let names = args.node_names.as_deref().unwrap_or_default();
        let settings = self.settings.load();
        let query = match Query::read(pod, &self.rules.load(), settings.policies(), &self.shapes) {
            Ok(Some(query)) => query,
            Ok(None) => return json(&echo(given.as_deref(), names)),
            Err(e) => return error(format!("the pod's GPU request cannot be read: {e}")),
        };
        let result = match &given {
            Some(given) => Some(self.filter_given(&query, pod, given, &settings)),
            None => self.filter_names(&query, pod, Names::Listed(names), &settings),
        };
        self.written(&result.unwrap_or_default())
    }

    fn written(&self, result: &FilterResult<'_>) -> Vec<u8> {
        self.metrics.best.observe(result.node_names.len() as f64);
        json(result)
    }

    /// `None` only where plain names turn out not to be plain.
    fn filter_names<'a>(
        &self,
        query: &Query,
        pod: &PodView<'_>,
        names: Names<'a>,
        settings: &Settings,
    ) -> Option<FilterResult<'a>> {
        let now = (self.clock)();
        let situation = Situation::new(&self.ledger, &query.record, self.held_nodes(settings, now));
        let mut outcome = self.weigh_names(query, &situation, names, Self::most(query, settings))?;
        if outcome.repels && outcome.most.is_some() {
            // Found on the way: another's preference has to be weighed after all, so all are wanted.
            outcome = self.weigh_names(query, &situation, names, None)?;
        }
        self.records.put(Arc::clone(&query.record));
        outcome.tally.publish(&self.metrics);
        if let Some(booked) = &situation.booked
            && let Some(name) = names.find(booked)
        {
            // An earlier bind may still be carried out there, so no other node can take the pod now.
            return Some(FilterResult { node_names: vec![name], ..FilterResult::default() });
        }
        if outcome.fits.is_empty() {
            self.holds.remove(&query.record.uid);
            return Some(self.failures(&outcome, query, pod, settings));
        }
        let (best, kept) = outcome.choose();
        if settings.holds
            && !query.record.uid.is_empty()
            && let Some(entry) = best.and_then(|best| self.ledger.node(text(best.name)))
            && let Some(holdings) = situation.expect(&query.shape, &entry)
        {
            let lasts = settings.hold(query.waits_for_volume);
            // Holds that a call still reads are copied to be changed.
            drop(situation);
            self.holds.put(&query.record.uid, entry, holdings, now, lasts);
        }
        self.metrics.holds.set(self.holds.len() as i64);
        Some(FilterResult { node_names: kept.iter().map(|c| text(c.name)).collect(), ..FilterResult::default() })
    }

    fn weigh_names<'a>(
        &self,
        query: &Query,
        situation: &Situation<'_>,
        names: Names<'a>,
        most: Option<usize>,
    ) -> Option<Outcome<'a>> {
        let mut weighing =
            Weighing { situation, judge: query.shape.judge(), outcome: Outcome::new(most), outdated: Vec::new() };
        let mut reading = self.roster.read(&self.ledger);
        match names {
            Names::Plain(split) => {
                if !split.each(&mut reading, &mut weighing) {
                    return None;
                }
                weighing.look(&reading);
                weighing.outcome.order();
                reading.finish(|| split.again().map(text));
            }
            Names::Listed(list) => {
                for name in list {
                    weighing.found(name.as_bytes(), reading.find(name));
                }
                weighing.look(&reading);
                weighing.outcome.order();
                reading.finish(|| list.iter().map(|name| &**name));
            }
        }
        if !weighing.outdated.is_empty() {
            query.shape.fell_behind();
        }
        Some(weighing.outcome)
    }

    /// Full nodes: the inventory comes from the objects, usage from the ledger where it knows the node. Nothing is remembered:
    /// no hold, and bind looks the pod up.
    fn filter_given<'a>(
        &self,
        query: &Query,
        pod: &PodView<'_>,
        given: &'a [GivenNode<'a>],
        settings: &Settings,
    ) -> FilterResult<'a> {
        let holds = self.held_nodes(settings, (self.clock)());
        let situation = Situation::new(&self.ledger, &query.record, holds);
        // As long as it is held, all nodes are ranked for the same target.
        let _judge = query.shape.judge();
        let weigh = |most: Option<usize>| {
            let mut outcome = Outcome::new(most);
            for node in given {
                outcome.add(node.name.as_bytes(), Some(node.weigh(&situation, &query.shape)));
            }
            outcome
        };
        let mut outcome = weigh(Self::most(query, settings));
        if outcome.repels && outcome.most.is_some() {
            outcome = weigh(None);
        }
        outcome.tally.publish(&self.metrics);
        if outcome.fits.is_empty() {
            return FilterResult { nodes: Some(Vec::new()), ..self.failures(&outcome, query, pod, settings) };
        }
        let (_, kept) = outcome.choose();
        FilterResult {
            nodes: Some(kept.iter().map(|candidate| given[candidate.index].raw).collect()),
            node_names: kept.iter().map(|candidate| text(candidate.name)).collect(),
            ..FilterResult::default()
        }
    }

    /// How many nodes to return; `None` for all, where the pod states a preference.
    fn most(query: &Query, settings: &Settings) -> Option<usize> {
        (!query.prefers).then(|| settings.best_nodes.get())
    }

    fn failures<'a>(
        &self,
        outcome: &Outcome<'a>,
        query: &Query,
        pod: &PodView<'_>,
        settings: &Settings,
    ) -> FilterResult<'a> {
        let failures: Vec<_> = outcome.failures.iter().map(|f| (text(f.name), f.reason)).collect();
        if let Some(unfit) = &self.unfit
            && outcome.count > 0
        {
            unfit(&Unfit { record: &query.record, pod, asked: &failures });
        }
        // Before 1.38 kube-scheduler's dry run knows nothing of our verdict: it finds no victim, fails with a text that changes,
        // and requeues the pod for that.
        let version = settings.scheduler_version.or(self.api_version);
        let preemptible = version.is_some_and(|version| version >= Version::EMPTY_VICTIMS);
        let mut result = FilterResult::default();
        for (name, failure) in &failures {
            match failure {
                Some(reason) if preemptible && reason.is_shortage() => result.failed.push((name, reason.as_str())),
                Some(reason) => result.failed_and_unresolvable.push((name, reason.as_str())),
                None => result.failed_and_unresolvable.push((name, UNKNOWN_NODE)),
            }
        }
        result
    }
}

impl<'a> Names<'a> {
    fn find(self, wanted: &str) -> Option<&'a str> {
        match self {
            Self::Plain(split) => split.again().find(|name| *name == wanted.as_bytes()).map(text),
            Self::Listed(list) => list.iter().map(|name| &**name).find(|name| *name == wanted),
        }
    }
}

/// The answer about a pod that is none of our business.
fn echo<'a>(given: Option<&'a [GivenNode<'a>]>, names: &'a [Text<'a>]) -> FilterResult<'a> {
    match given {
        Some(given) => FilterResult {
            nodes: Some(given.iter().map(|node| node.raw).collect()),
            node_names: given.iter().map(|node| &*node.name).collect(),
            ..FilterResult::default()
        },
        None => FilterResult { node_names: names.iter().map(|name| &**name).collect(), ..FilterResult::default() },
    }
}

fn error(error: String) -> Vec<u8> {
    tracing::warn!(error, "filter call cannot be answered");
    json(&FilterResult { error, ..FilterResult::default() })
}
