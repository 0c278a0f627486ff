//! The pods of the test. Two of each shape are created at a time, of equal size, so that whoever takes one for the other is not
//! contradicted by a count.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSchedulingGate};
use serde_json::{Value, json};

use super::super::agent::uuid;
use super::super::node::{Node, workload};
use super::super::objects;

/// How a pod is made.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    init: Vec<Value>,
    containers: Vec<Value>,
    restart_policy: &'static str,
    /// Takes a card for itself.
    whole: bool,
}

/// Cards of the node, ten slots each. Four of them are given away whole.
pub(super) const CARDS: usize = 16;

/// A container of this name is waited for until it has been restarted so often.
pub(super) const CRASHES: (&str, i32) = ("crash", 2);

/// Holds a pod back until all others are there.
const GATE: &str = "test.example/together";

impl Shape {
    /// The pod of that name, which only this node can take. It is scheduled once its gate is removed.
    pub(super) fn pod(&self, node: &Node, name: &str) -> Pod {
        let mut pod = workload::pod(node, name, &self.init, &self.containers);
        // Else equal shares would lie on one card, where a swap of them could not be seen.
        let mut annotations = BTreeMap::from([("packhorse.dev/gpu-policy".to_owned(), "spread".to_owned())]);
        // And shares on all cards would leave none whole.
        let which = if self.whole { "packhorse.dev/gpu-uuid" } else { "packhorse.dev/gpu-uuid-exclude" };
        annotations.insert(which.to_owned(), (CARDS - 4..CARDS).map(uuid).collect::<Vec<_>>().join(","));
        pod.metadata.annotations = Some(annotations);
        let spec = pod.spec.as_mut().expect("a spec");
        spec.restart_policy = Some(self.restart_policy.to_owned());
        spec.scheduling_gates = Some(vec![PodSchedulingGate { name: GATE.to_owned() }]);
        pod
    }
}

/// Each kind once.
pub(super) fn all() -> Vec<Shape> {
    let app = |limits: &Value| workload::container("app", &["sleep"], limits);
    let init = |name: &str, limits: &Value| workload::container(name, &["exit", "0"], limits);
    let beside = |limits: &Value| workload::sidecar("beside", limits);
    let crash = |limits: &Value| workload::container(CRASHES.0, &["after", "150", "1"], limits);
    let (share, whole, none) = (share(1), json!({"nvidia.com/gpu": 1}), json!({}));
    let shape = |name: &'static str, init: Vec<Value>, containers: Vec<Value>| {
        let whole = name.starts_with("whole");
        Shape { name, init, containers, restart_policy: "Always", whole }
    };
    vec![
        shape("share", vec![], vec![app(&share)]),
        shape("share-again", vec![], vec![app(&share), workload::container("bare", &["sleep"], &none)]),
        shape("whole", vec![], vec![app(&whole)]),
        shape("two-cards", vec![], vec![app(&self::share(2))]),
        shape("two-init", vec![init("first", &share), init("second", &share)], vec![app(&share)]),
        shape("sidecar-after-init", vec![init("first", &share), beside(&share)], vec![app(&share)]),
        shape("sidecar-before-init", vec![beside(&share), init("first", &share)], vec![app(&self::share(2))]),
        shape("more-at-first", vec![init("first", &self::share(3))], vec![app(&share)]),
        shape("less-at-first", vec![init("first", &share)], vec![app(&self::share(2))]),
        shape("whole-at-first", vec![init("first", &whole)], vec![app(&whole)]),
        shape("crash", vec![], vec![crash(&share)]),
        shape("crash-beside", vec![init("first", &share), beside(&share)], vec![crash(&share), app(&share)]),
        Shape {
            restart_policy: "Never",
            ..shape("ends", vec![init("first", &share)], vec![workload::container("app", &["exit", "0"], &share)])
        },
    ]
}

/// A pod with one card for itself, without a gate.
pub(super) fn whole(node: &Node, name: &str) -> Pod {
    workload::pod(node, name, &[], &[workload::container("app", &["sleep"], &json!({"nvidia.com/gpu": 1}))])
}

/// Whether all that a pod is to do on its node has begun or ended; a pod that its kubelet has failed has nothing left to do.
pub(super) fn is_settled(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        return true;
    }
    let spec = pod.spec.as_ref().expect("a spec");
    let init = spec.init_containers.iter().flatten();
    let lasting = init.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let statuses = || status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    objects::node_of(pod).is_some()
        && lasting.chain(&spec.containers).all(|container| {
            statuses().find(|status| status.name == container.name).is_some_and(|status| {
                let runs = status.state.as_ref().is_some_and(|state| state.running.is_some());
                if container.name == CRASHES.0 { status.restart_count >= CRASHES.1 } else { runs }
            })
        })
}

fn share(cards: u32) -> Value {
    json!({"nvidia.com/gpu": cards, "nvidia.com/gpumem": 6000})
}
