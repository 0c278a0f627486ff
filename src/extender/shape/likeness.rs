//! Which pods are of one shape, and which shapes are like each other.

use std::sync::{Arc, LazyLock};

use super::Key;
use crate::gpu::request::{Ask, ContainerRequest, PodRequest};

/// What percentages of a card are measured with, MiB.
const CARD: u32 = 65_536;

/// What a pod that lacks the room of the other costs: where the larger one fits, the smaller one mostly does.
const LARGER: f64 = 1.0;

/// The names of the first containers.
static POSITIONS: LazyLock<Vec<Arc<str>>> = LazyLock::new(|| (0..16).map(|at| Arc::from(at.to_string())).collect());

/// The same with positions for the containers' names, which no verdict depends on.
pub(super) fn unnamed(request: &PodRequest) -> PodRequest {
    let container = |(at, container): (usize, &ContainerRequest)| ContainerRequest {
        name: POSITIONS.get(at).map_or_else(|| Arc::from(at.to_string()), Arc::clone),
        ..container.clone()
    };
    PodRequest {
        containers: request.containers.iter().enumerate().map(container).collect(),
        constraints: request.constraints.clone(),
    }
}

/// How unlike two shapes are; `None` where one says nothing about the other.
pub(super) fn distance(wanted: &Key, known: &Key) -> Option<f64> {
    let (ours, theirs) = (&wanted.request, &known.request);
    if ours.containers.len() != theirs.containers.len() || ours.constraints != theirs.constraints {
        return None;
    }
    let mut distance = unlike(wanted.cpu as f64, known.cpu as f64);
    for (a, b) in ours.containers.iter().zip(&theirs.containers) {
        if (a.count, a.phase, &a.index, &a.uuid) != (b.count, b.phase, &b.index, &b.uuid) {
            return None;
        }
        distance += match (&a.ask, &b.ask) {
            (Ask::Exclusive, Ask::Exclusive) => 0.0,
            (Ask::Mig(a), Ask::Mig(b)) if a == b => 0.0,
            (Ask::Share { memory: a, cores: a_cores }, Ask::Share { memory: b, cores: b_cores }) => {
                2.0 * unlike(a.of(CARD).into(), b.of(CARD).into()) + unlike((*a_cores).into(), (*b_cores).into())
            }
            _ => return None,
        };
    }
    Some(distance)
}

fn unlike(wanted: f64, known: f64) -> f64 {
    let ratio = ((known + 1.0) / (wanted + 1.0)).ln();
    if ratio < 0.0 { LARGER - ratio } else { ratio }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::request::{Memory, NodePolicy, Phase};

    fn key(count: u32, ask: Ask, cpu: i64) -> Key {
        let container = ContainerRequest {
            name: "main".into(),
            phase: Phase::App,
            count,
            ask,
            index: Vec::new(),
            uuid: Vec::new(),
        };
        let request = PodRequest { containers: vec![container], ..PodRequest::default() };
        Key { request: Arc::new(unnamed(&request)), cpu, memory: 0, policies: (NodePolicy::default(), None) }
    }

    #[test]
    fn the_next_larger_pod_is_the_most_alike() {
        let share = |mib: u32| key(1, Ask::Share { memory: Memory::Mib(mib), cores: 0 }, 4_000);
        let wanted = share(10_000);
        let far = distance(&wanted, &share(40_000)).unwrap();
        let near = distance(&wanted, &share(11_000)).unwrap();
        let smaller = distance(&wanted, &share(9_000)).unwrap();
        assert!(near < smaller && smaller < far, "{near} {smaller} {far}");
        assert_eq!(distance(&wanted, &share(10_000)), Some(0.0));
        for other in [key(2, Ask::Exclusive, 4_000), key(1, Ask::Exclusive, 4_000)] {
            assert_eq!(distance(&wanted, &other), None);
        }
    }

    #[test]
    fn containers_names_make_no_shape() {
        let request = |name: &str| PodRequest {
            containers: vec![ContainerRequest {
                name: name.into(),
                phase: Phase::App,
                count: 1,
                ask: Ask::Exclusive,
                index: Vec::new(),
                uuid: Vec::new(),
            }],
            ..PodRequest::default()
        };
        assert_eq!(unnamed(&request("a")), unnamed(&request("b")));
    }
}
