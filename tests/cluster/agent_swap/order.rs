//! In which order the two pods of a pair were created, bound, and admitted by the kubelet: a test of swaps that only ever saw one order
//! would prove little.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::super::objects::node_of;

/// How often the pod that was created second was the first to be bound, and the first to be admitted; of how many pairs.
#[derive(Debug, Default)]
pub(super) struct Orders {
    pub(super) pairs: usize,
    pub(super) bound_second_first: usize,
    pub(super) admitted_second_first: usize,
    /// Bound in one order and admitted in the other.
    pub(super) crossed: usize,
}

/// Of pods `NAME-a` and `NAME-b`, the a being created first; `log`: the kubelet's, which was never restarted.
pub(super) fn orders(versions: &[Pod], namespace: &str, log: &str) -> Orders {
    // Each by name: the places in the order, one for each time that a pod of the name lived.
    let mut bound: BTreeMap<String, Vec<(String, usize)>> = BTreeMap::new();
    for (place, pod) in versions.iter().enumerate().filter(|(_, pod)| node_of(pod).is_some()) {
        let (name, uid) = (pod.metadata.name.clone().unwrap_or_default(), pod.metadata.uid.clone().unwrap_or_default());
        let lives = bound.entry(name).or_default();
        if lives.last().is_none_or(|(last, _)| *last != uid) {
            lives.push((uid, place));
        }
    }
    let mut admitted: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let added = log.lines().filter(|line| line.contains("\"SyncLoop ADD\" source=\"api\""));
    let names =
        added.flat_map(|line| line.split('"').filter_map(|part| part.strip_prefix(namespace)?.strip_prefix('/')));
    for (place, name) in names.enumerate() {
        admitted.entry(name.to_owned()).or_default().push(place);
    }
    let mut orders = Orders::default();
    for (first, lives) in &bound {
        let Some(second) = first.strip_suffix("-a").map(|pair| format!("{pair}-b")) else { continue };
        for (round, (_, first_bound)) in lives.iter().enumerate() {
            let second_bound = bound.get(&second).and_then(|lives| lives.get(round)).map(|(_, place)| place);
            let admitted = |name: &str| admitted.get(name).and_then(|places| places.get(round));
            let (Some(second_bound), Some(first_in), Some(second_in)) =
                (second_bound, admitted(first), admitted(&second))
            else {
                continue;
            };
            let (bound, admitted) = (second_bound < first_bound, second_in < first_in);
            orders.pairs += 1;
            orders.bound_second_first += usize::from(bound);
            orders.admitted_second_first += usize::from(admitted);
            orders.crossed += usize::from(bound != admitted);
        }
    }
    orders
}
