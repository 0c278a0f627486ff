//! What kube-scheduler does: for each pod a `/filter` call, then `/prioritize` for what it answered, then `/bind` to the best. Every
//! call is timed by itself.

use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::case::Case;
use crate::client::Client;
use crate::cluster;
use crate::process::{Order, Process};
use crate::request::{self, Names, Pod};

/// Durations of the calls of one kind.
#[derive(Debug, Default)]
pub struct Times {
    pub filter: Vec<Duration>,
    pub prioritize: Vec<Duration>,
    pub bind: Vec<Duration>,
    /// Of filter calls that found no node.
    pub unfit: Vec<Duration>,
}

impl Times {
    pub fn filters(&self) -> usize {
        self.filter.len() + self.unfit.len()
    }

    pub fn add(&mut self, other: Self) {
        self.filter.extend(other.filter);
        self.prioritize.extend(other.prioritize);
        self.bind.extend(other.bind);
        self.unfit.extend(other.unfit);
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Filtered<'a> {
    #[serde(borrow)]
    node_names: Vec<&'a str>,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Priority<'a> {
    host: &'a str,
    score: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answered {
    error: String,
}

/// One of kube-scheduler's connections.
pub struct Driver<'a> {
    case: &'a Case,
    client: Client,
    names: Names,
    pods: Vec<Pod>,
    /// Tells this driver's pods from those of others.
    part: usize,
    n: usize,
}

impl<'a> Driver<'a> {
    pub fn new(case: &'a Case, server: &Process, names: Names, part: usize) -> Self {
        Self { case, client: Client::new(case, server), names, pods: Vec::new(), part, n: 0 }
    }

    fn uid(&mut self, shape: usize) -> String {
        self.n += 1;
        cluster::uid(shape, self.part, self.n)
    }

    /// The calls for one pod.
    fn pod(&mut self, shape: usize, uid: &str, times: &mut Times) {
        while self.pods.len() <= shape {
            self.pods.push(Pod::new(self.pods.len()));
        }
        let begin = self.pods[shape].named(uid);
        let (took, answer) = self.client.post("/filter", begin, &self.names.0);
        let answer: Filtered<'_> = serde_json::from_slice(answer).expect("an ExtenderFilterResult");
        assert_eq!(answer.error, "");
        if answer.node_names.is_empty() {
            times.unfit.push(took);
            return;
        }
        times.filter.push(took);
        if !self.case.binds {
            return;
        }
        let end = request::end_of(&answer.node_names);
        let (took, answer) = self.client.post("/prioritize", begin, &end);
        times.prioritize.push(took);
        let answer: Vec<Priority<'_>> = serde_json::from_slice(answer).expect("a HostPriorityList");
        let best = answer.iter().max_by_key(|priority| priority.score).expect("a best one");
        let binding = cluster::binding(uid, best.host);
        let binding = std::str::from_utf8(&binding).expect("JSON");
        let (took, answer) = self.client.post("/bind", binding, &axum::body::Bytes::new());
        times.bind.push(took);
        let answer: Answered = serde_json::from_slice(answer).expect("an ExtenderBindingResult");
        // Another pod may have come between: kube-scheduler tries again.
        assert!(answer.error.is_empty() || answer.error.contains("no longer has room"), "{}", answer.error);
    }

    /// Each of these shapes once; kube-scheduler pauses between them.
    pub fn once(&mut self, shapes: std::ops::Range<usize>, pause: Duration) -> Times {
        let mut times = Times::default();
        for shape in shapes {
            let next = Instant::now() + pause;
            let uid = self.uid(shape);
            self.pod(shape, &uid, &mut times);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        times
    }

    /// Each of these shapes once, `lead` after the watch has shown its pod; one such pod every `pause`.
    pub fn announced(
        &mut self,
        shapes: std::ops::Range<usize>,
        server: &mut Process,
        pause: Duration,
        lead: Duration,
    ) -> Times {
        let mut times = Times::default();
        let mut coming = std::collections::VecDeque::new();
        let mut shapes = shapes.peekable();
        let mut next = Instant::now();
        loop {
            if next <= Instant::now()
                && let Some(shape) = shapes.next()
            {
                let uid = self.uid(shape);
                server.order(&Order::Announce(uid.clone()));
                coming.push_back((Instant::now() + lead, shape, uid));
                next += pause;
            }
            let Some((at, shape, uid)) = coming.pop_front_if(|(at, ..)| *at <= Instant::now()) else {
                let due = coming.front().map(|(at, ..)| *at);
                match due.into_iter().chain(shapes.peek().map(|_| next)).min() {
                    Some(then) => std::thread::sleep(then.saturating_duration_since(Instant::now())),
                    None => return times,
                }
                continue;
            };
            debug_assert!(at <= Instant::now());
            self.pod(shape, &uid, &mut times);
        }
    }

    /// The case's shapes in turn, until there are enough calls and they took long enough.
    pub fn steady(&mut self, calls: usize, least: Duration) -> Times {
        let mut times = Times::default();
        let start = Instant::now();
        let cycle = Duration::from_millis(self.case.cycle_ms);
        while times.filters() < calls || start.elapsed() < least {
            let next = Instant::now() + cycle;
            // Several connections ask about different shapes at a time.
            let shape = (self.n + 19 * self.part) % self.case.cluster.shapes;
            let uid = self.uid(shape);
            self.pod(shape, &uid, &mut times);
            if self.case.cycle_ms > 0 {
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        }
        times
    }
}
