//! The pods that imaginary users offer: a mixed stream, entirely determined by the seed and the size of the fleet.
//!
//! Every kind comes once among the first pods, so that a short run shows them all; after that by weight.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::random::Random;

/// How long the pod runs once started, in seconds; read by the demo's kubelet. Absent: until somebody deletes it.
pub(super) const RUNS: &str = "demo.packhorse.dev/runs";
/// What happens then: `completes`, `fails` or `deleted`.
pub(super) const ENDS: &str = "demo.packhorse.dev/ends";
/// How long its user waits for it to be placed, in seconds.
pub(super) const PATIENCE: &str = "demo.packhorse.dev/patience";

/// The namespaces in use.
pub(super) const NAMESPACES: [&str; 3] = ["batch", "research", "serving"];

/// One pod, and when its user creates it.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// Since the start.
    pub at: Duration,
    /// Whether admission must refuse it.
    pub malformed: bool,
    /// The Pod object.
    pub pod: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Notebook,
    Infer,
    Embed,
    Train,
    Dist,
    Half,
    Slice,
    Pipeline,
    Pair,
    Picky,
    Nowhere,
    Web,
    Wrong,
}

/// By weight; shares before whole cards, as in published traces.
const KINDS: [(Kind, usize); 13] = [
    (Kind::Infer, 24),
    (Kind::Notebook, 18),
    (Kind::Embed, 14),
    (Kind::Train, 7),
    (Kind::Slice, 12),
    (Kind::Pipeline, 6),
    (Kind::Dist, 2),
    (Kind::Half, 3),
    (Kind::Pair, 4),
    (Kind::Picky, 4),
    (Kind::Web, 4),
    (Kind::Wrong, 3),
    (Kind::Nowhere, 1),
];

/// How long pods run on average, seconds.
const MEAN_RUN: f64 = 8.0;
/// GPUs that an average pod of the mix takes.
const MEAN_SHARE: f64 = 0.36;
/// The load, as a part of what the fleet can bear: so much that some pods have to wait, so little that most need not.
const LOAD: f64 = 1.0;
/// No more pods a second than this, however large the fleet.
const MAX_RATE: f64 = 250.0;
/// In the first seconds pods come faster, to fill the empty fleet.
const RUSH: (Duration, f64) = (Duration::from_secs(3), 2.0);

/// The endless stream of offers.
#[derive(Debug)]
pub struct Workload {
    random: Random,
    at: Duration,
    rate: f64,
    gpus_per_node: usize,
    has_mig: bool,
    first: Vec<Kind>,
    made: BTreeMap<&'static str, usize>,
}

impl Workload {
    /// The stream for a fleet of this size.
    pub fn new(seed: u64, nodes: usize, gpus_per_node: usize) -> Self {
        let mut random = Random::new(seed ^ 0x706f_6473);
        let mut first: Vec<Kind> = KINDS.iter().map(|(kind, _)| *kind).collect();
        for position in (1..first.len()).rev() {
            first.swap(position, random.below(position + 1));
        }
        let gpus = (nodes * gpus_per_node) as f64;
        Self {
            random,
            at: Duration::ZERO,
            rate: (gpus * LOAD / (MEAN_RUN * MEAN_SHARE)).clamp(0.5, MAX_RATE),
            gpus_per_node,
            has_mig: nodes >= 3,
            first,
            made: BTreeMap::new(),
        }
    }

    fn kind(&mut self) -> Kind {
        let kind = self.first.pop().unwrap_or_else(|| {
            let mut left = self.random.below(KINDS.iter().map(|(_, weight)| weight).sum());
            for (kind, weight) in KINDS {
                if left < weight {
                    return kind;
                }
                left -= weight;
            }
            Kind::Infer
        });
        match kind {
            Kind::Slice if !self.has_mig => Kind::Infer,
            Kind::Dist | Kind::Half if self.gpus_per_node < 2 => Kind::Train,
            kind => kind,
        }
    }

    fn pod(&mut self, kind: Kind) -> Value {
        let random = &mut self.random;
        let mut annotations = json!({});
        let mut extra = json!({});
        let (prefix, namespace, containers) = match kind {
            Kind::Notebook => {
                let memory = random.between(4, 20) * 500;
                ("notebook", "research", vec![gpu("main", &json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": memory}))])
            }
            Kind::Infer => {
                let limits = json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem-percentage": random.between(2, 6) * 5,
                    "nvidia.com/gpucores": random.between(2, 6) * 5});
                ("infer", "serving", vec![gpu("main", &limits)])
            }
            Kind::Embed => {
                let memory = format!("{}Gi", random.between(3, 12));
                (
                    "embed",
                    "serving",
                    vec![gpu("main", &json!({"nvidia.com/gpumem": memory, "nvidia.com/gpucores": 20}))],
                )
            }
            Kind::Train => ("train", "batch", vec![gpu("main", &json!({"nvidia.com/gpu": 1}))]),
            Kind::Dist => {
                annotations["packhorse.dev/gpu-policy"] = json!("topology");
                let count = if self.gpus_per_node >= 4 { *random.pick(&[2, 2, 2, 4]) } else { 2 };
                ("dist", "batch", vec![gpu("main", &json!({ "nvidia.com/gpu": count }))])
            }
            Kind::Half => {
                let limits =
                    json!({"nvidia.com/gpu": 2, "nvidia.com/gpumem-percentage": 50, "nvidia.com/gpucores": 50});
                ("half", "batch", vec![gpu("main", &limits)])
            }
            Kind::Slice => {
                let profile = random.pick(&["1g.10gb", "1g.10gb", "2g.20gb", "3g.40gb"]);
                ("slice", "research", vec![gpu("main", &json!({ format!("nvidia.com/mig-{profile}"): 1 }))])
            }
            Kind::Pipeline => {
                extra["initContainers"] =
                    json!([gpu("fetch", &json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": "2Gi"}))]);
                let limits = json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": "8Gi", "nvidia.com/gpucores": 30});
                ("pipeline", "batch", vec![gpu("main", &limits)])
            }
            Kind::Pair => {
                let limits =
                    json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem-percentage": 10, "nvidia.com/gpucores": 10});
                ("pair", "serving", vec![gpu("server", &limits), gpu("reranker", &limits)])
            }
            Kind::Picky => {
                let (key, value) = *random.pick(&[
                    ("packhorse.dev/gpu-model", "L4"),
                    ("packhorse.dev/gpu-model-exclude", "L4,V100"),
                    ("packhorse.dev/node-policy", "spread"),
                    ("nvidia.com/use-gputype", "A100"),
                ]);
                annotations[key] = json!(value);
                let memory = format!("{}Gi", random.between(2, 8));
                ("picky", "research", vec![gpu("main", &json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": memory}))])
            }
            Kind::Nowhere => {
                if random.chance(0.5) {
                    // A10 is not A100.
                    annotations["packhorse.dev/gpu-model"] = json!("A10");
                    ("a10", "research", vec![gpu("main", &json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": "8Gi"}))])
                } else {
                    (
                        "giant",
                        "research",
                        vec![gpu("main", &json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": "200Gi"}))],
                    )
                }
            }
            Kind::Web => ("web", "serving", vec![plain("main")]),
            Kind::Wrong => {
                let limits = match random.below(5) {
                    0 => json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": "4G"}),
                    1 => json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem-percentage": 120}),
                    2 => json!({"nvidia.com/gpu": 0, "nvidia.com/gpumem": 4000}),
                    3 => json!({"nvidia.com/gpu": "0.5"}),
                    _ => json!({"nvidia.com/gpu": 1, "nvidia.com/mig-1g.10gb": 1}),
                };
                ("wrong", "research", vec![gpu("main", &limits)])
            }
        };
        let runs = 2.0 + random.unit() * 2.0 * (MEAN_RUN - 2.0);
        let ends = match kind {
            Kind::Notebook | Kind::Embed | Kind::Web => "deleted",
            _ if random.chance(0.05) => "fails",
            _ => "completes",
        };
        annotations[RUNS] = json!(format!("{runs:.1}"));
        annotations[ENDS] = json!(ends);
        annotations[PATIENCE] = json!(format!("{}", random.between(20, 40)));
        let number = self.made.entry(prefix).or_default();
        *number += 1;
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("{prefix}-{number}"),
            "namespace": namespace, "labels": {"app": prefix}, "annotations": annotations}, "spec": extra});
        pod["spec"]["containers"] = json!(containers);
        pod["spec"]["restartPolicy"] = json!("Never");
        pod["spec"]["terminationGracePeriodSeconds"] = json!(1);
        pod
    }
}

fn plain(name: &str) -> Value {
    json!({"name": name, "image": "demo", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}})
}

fn gpu(name: &str, limits: &Value) -> Value {
    json!({"name": name, "image": "demo", "resources": {"limits": limits, "requests": {"cpu": "1", "memory": "2Gi"}}})
}

impl Iterator for Workload {
    type Item = Offer;

    fn next(&mut self) -> Option<Offer> {
        let rate = if self.at < RUSH.0 { self.rate * RUSH.1 } else { self.rate };
        self.at += self.random.gap(rate);
        let kind = self.kind();
        Some(Offer { at: self.at, malformed: kind == Kind::Wrong, pod: self.pod(kind) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_alone_decides_what_is_offered() {
        let offers = |seed| Workload::new(seed, 6, 4).take(200).collect::<Vec<_>>();
        assert_eq!(offers(7), offers(7));
        assert_ne!(offers(7), offers(8));
        assert!(offers(7).is_sorted_by_key(|offer| offer.at));
    }

    #[test]
    fn every_kind_comes_among_the_first() {
        let names: Vec<String> = Workload::new(1, 6, 4)
            .take(KINDS.len())
            .map(|offer| offer.pod["metadata"]["labels"]["app"].as_str().unwrap().to_owned())
            .collect();
        for kind in [
            "notebook", "infer", "embed", "train", "dist", "half", "slice", "pipeline", "pair", "picky", "web", "wrong",
        ] {
            assert!(names.iter().any(|name| name == kind), "{kind} in {names:?}");
        }
    }

    #[test]
    fn one_gpu_a_node_gets_no_pod_that_needs_two() {
        for offer in Workload::new(3, 2, 1).take(300) {
            let limits = &offer.pod["spec"]["containers"][0]["resources"]["limits"];
            assert!(offer.malformed || limits["nvidia.com/gpu"].as_i64().unwrap_or(1) <= 1, "{}", offer.pod);
            assert!(offer.malformed || !limits.to_string().contains("mig-"), "{}", offer.pod);
        }
    }
}
