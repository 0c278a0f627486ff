//! `/prioritize`: how good each of the nodes is for the pod, 0..=10.
//!
//! kube-scheduler chooses at random among equals and has eleven steps only, so exactly one node gets 10. In the ordinary case the
//! rest follow by rank; where the pod or a node states a preference, every other node gets 9: our opinion then decides only
//! between nodes that the preference leaves about equal.

use std::time::Instant;

use super::filter::{Candidate, better};
use super::metrics::observe;
use super::nodes::given_nodes;
use super::query::Query;
use super::roster::Found;
use super::situation::{Situation, Weighed};
use super::{Extender, Refusal, json};
use crate::kube_api::extender::{Args, HostPriority};

const BEST: i64 = 10;

impl Extender {
    /// Answers one `/prioritize` call: JSON in, JSON out.
    ///
    /// # Errors
    /// What is not answered with 200; see [`Refusal`]. The wire form has no place for an error text, and kube-scheduler goes on
    /// without us where there is no answer.
    pub fn prioritize(&self, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let start = Instant::now();
        self.ready_for(body)?;
        let args: Args<'_> = serde_json::from_slice(body)
            .map_err(|e| Refusal::Malformed(format!("the request is not an ExtenderArgs object: {e}")))?;
        let Some(pod) = &args.pod else { return Err(Refusal::Malformed("the request has no Pod".to_owned())) };
        let given = given_nodes(args.nodes.as_ref(), &self.ledger).map_err(Refusal::Malformed)?;
        let names: Vec<&str> = match &given {
            Some(given) => given.iter().map(|node| &*node.name).collect(),
            None => args.node_names.iter().flatten().map(|name| &**name).collect(),
        };
        let settings = self.settings.load();
        let query = Query::read(pod, &self.rules.load(), settings.policies(), &self.shapes)
            .map_err(|e| Refusal::Malformed(format!("the pod's GPU request cannot be read: {e}")))?;
        let Some(query) = query else {
            let equal: Vec<_> = names.iter().map(|host| HostPriority { host, score: 0 }).collect();
            return Ok(json(&equal));
        };
        let holds = self.held_nodes(&settings, (self.clock)());
        let situation = Situation::new(&self.ledger, &query.record, holds);
        let weighed: Vec<Option<Weighed>> = match &given {
            Some(given) => {
                // As long as it is held, all nodes are ranked for the same target.
                let _judge = query.shape.judge();
                given.iter().map(|node| Some(node.weigh(&situation, &query.shape))).collect()
            }
            None => {
                let mut judge = query.shape.judge();
                let mut reading = self.roster.read(&self.ledger);
                let mut weigh = |name: &&str| match reading.find(name) {
                    Found::Known { position, .. } => Some(situation.weigh(&mut judge, reading.entry(position))),
                    Found::Fresh(entry) => Some(situation.weigh(&mut judge, &entry)),
                    Found::Unknown => None,
                };
                names.iter().map(&mut weigh).collect()
            }
        };
        let repels = weighed.iter().flatten().any(|weighed| weighed.repels && weighed.verdict.is_ok());
        let scores = scores(&names, &weighed, situation.booked.as_deref(), query.prefers || repels);
        let answer: Vec<_> = names.iter().zip(scores).map(|(host, score)| HostPriority { host, score }).collect();
        let answer = json(&answer);
        observe(&self.metrics.prioritize, start);
        Ok(answer)
    }
}

/// One score for each of the nodes.
fn scores(names: &[&str], weighed: &[Option<Weighed>], booked: Option<&str>, preference: bool) -> Vec<i64> {
    let score_of = |index: usize| weighed[index].and_then(|weighed| weighed.verdict.ok());
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_unstable_by(|a, b| {
        let unfit = |index: usize| (booked != Some(names[index]), score_of(index).is_none());
        let candidate = |index: usize| Candidate {
            name: names[index].as_bytes(),
            crowded: weighed[index].is_some_and(|weighed| weighed.crowded),
            score: score_of(index).unwrap_or(f64::NEG_INFINITY),
            index,
        };
        unfit(*a).cmp(&unfit(*b)).then_with(|| better(&candidate(*a), &candidate(*b)))
    });
    let mut scores = vec![0; names.len()];
    let steps = i64::try_from(names.len().saturating_sub(2)).unwrap_or(i64::MAX).max(1);
    for (rank, index) in order.into_iter().enumerate() {
        let rank = i64::try_from(rank).unwrap_or(i64::MAX);
        scores[index] = match rank {
            0 => BEST,
            _ if preference => BEST - 1,
            _ if score_of(index).is_none() => 0,
            _ => BEST - 1 - (rank - 1).saturating_mul(BEST - 1) / steps,
        };
    }
    scores
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::reason::Reason;

    fn weighed(verdict: Result<f64, Reason>) -> Option<Weighed> {
        Some(Weighed { verdict, crowded: false, repels: false })
    }

    #[test]
    fn exactly_one_node_gets_ten() {
        let names = ["b", "a", "d", "c", "unknown"];
        let all = [weighed(Ok(1.0)), weighed(Ok(1.0)), weighed(Err(Reason::MemoryExhausted)), weighed(Ok(2.0)), None];
        let ordinary = scores(&names, &all, None, false);
        assert_eq!(ordinary[3], 10, "the best");
        assert!(ordinary[1] > ordinary[0], "equals by name");
        assert_eq!((ordinary[2], ordinary[4]), (0, 0));
        assert_eq!(scores(&names, &all, None, true), [9, 9, 9, 10, 9]);
        assert_eq!(scores(&names, &all, Some("b"), true), [10, 9, 9, 9, 9], "where it is booked already");
        assert_eq!(scores(&["x"], &[None], None, false), [10]);
        assert!(scores(&[], &[], None, false).is_empty());
    }

    #[test]
    fn ranks_spread_over_the_whole_scale() {
        let names: Vec<String> = (0..16).map(|i| format!("n{i:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let all: Vec<_> = (0..16).map(|i| weighed(Ok(-f64::from(i)))).collect();
        let scores = scores(&names, &all, None, false);
        assert_eq!((scores[0], scores[1], scores[15]), (10, 9, 0));
        assert!(scores.is_sorted_by(|a, b| a >= b));
    }
}
