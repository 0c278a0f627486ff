//! What is remembered changes nothing but the time it takes: an extender that has seen everything answers as one that has seen nothing.

use std::convert::Infallible;
use std::sync::{Arc, LazyLock};

use axum::body::Bytes;
use axum::http::{Request, Response};
use http_body_util::Full;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::learn::Gathered;
use super::super::{Extender, Metrics, Parts};
use super::{DEAR_LOOKS, LOOKS};
use crate::ledger::Ledger;

const GIB: u32 = 1024;

/// Never called here; it only wants to be made within a runtime.
static CLIENT: LazyLock<(tokio::runtime::Runtime, kube::Client)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let nobody = tower::service_fn(|_: Request<kube::client::Body>| {
        std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("{}"))))
    });
    let client = {
        let _inside = runtime.enter();
        kube::Client::new(nobody, "default")
    };
    (runtime, client)
});

fn extender(ledger: &Arc<Ledger>) -> Arc<Extender> {
    let parts = Parts::new(
        Arc::clone(ledger),
        CLIENT.1.clone(),
        Metrics::new(&mut prometheus_client::registry::Registry::default()),
    );
    // Holds are what an extender remembers of its own answers; this is about the cluster.
    let settings = crate::extender::Settings {
        holds: false,
        best_nodes: 16.try_into().unwrap(),
        ..crate::extender::Settings::default()
    };
    parts.settings.store(Arc::new(settings));
    Extender::new(parts)
}

fn name(node: usize) -> String {
    format!("node-{node:03}")
}

fn device(node: usize, card: usize) -> String {
    format!("GPU-{node}-{card}")
}

/// Node `node` in one of its forms.
fn node(node: usize, form: u8) -> Value {
    let cards = 1 + node % 4;
    let devices: Vec<Value> = (0..cards)
        .map(|card| {
            json!({
                "uuid": device(node, card), "index": card, "model": if node.is_multiple_of(3) { "A100" } else { "T4" },
                "memory": GIB * if node.is_multiple_of(2) { 80 } else { 40 }, "cores": 100, "slots": 4, "numa": 0,
                "pci": format!("0000:{card:02x}:00.0"), "health": "healthy", "enforcement": "advisory",
            })
        })
        .collect();
    let inventory = json!({"v": 1, "ready": form != 1, "driver": "580", "devices": devices}).to_string();
    let mut object = json!({
        "metadata": {"name": name(node), "annotations": {"packhorse.dev/inventory": inventory}},
        "status": {"allocatable": {"cpu": "64", "memory": "256Gi"}, "conditions": [{"type": "Ready", "status": "True"}]},
    });
    match form {
        2 => object["metadata"]["annotations"]["packhorse.dev/cordon"] = json!(device(node, 0)),
        3 => object["spec"]["taints"] = json!([{"key": "slow", "effect": "PreferNoSchedule"}]),
        4 => object["metadata"]["annotations"] = json!({}),
        5 => object["metadata"]["annotations"]["packhorse.dev/inventory"] = json!("{"),
        _ => {}
    }
    object
}

/// A pod that is on a card.
fn bound(uid: usize, at: usize, card: usize, gib: u32) -> Value {
    let allocation = json!({"v": 1, "containers": {"main": [
        {"device": device(at, card % (1 + at % 4)), "memory": GIB * gib, "cores": 0, "enforcement": "advisory"},
    ]}});
    json!({
        "metadata": {
            "uid": format!("bound-{uid}"), "name": format!("bound-{uid}"), "namespace": "d",
            "annotations": {"packhorse.dev/allocation": allocation.to_string()},
        },
        "spec": {"nodeName": name(at), "containers": [{"name": "main", "resources": {"requests": {
            "cpu": "2", "nvidia.com/gpu": "1", "nvidia.com/gpumem": format!("{gib}Gi"),
        }}}]},
        "status": {"phase": "Running"},
    })
}

/// Pods that ask for different things.
fn pending(kind: u8) -> Value {
    let limits = match kind {
        0 => json!({"nvidia.com/gpumem": "8Gi", "cpu": "1"}),
        1 => json!({"nvidia.com/gpumem": "30Gi", "cpu": "8"}),
        2 => json!({"nvidia.com/gpumem": "70Gi"}),
        3 => json!({"nvidia.com/gpu": "1", "cpu": "8"}),
        4 => json!({"nvidia.com/gpu": "3"}),
        _ => json!({"nvidia.com/gpumem-percentage": "50", "nvidia.com/gpucores": "30"}),
    };
    json!({
        "metadata": {"uid": format!("pending-{kind}"), "name": "p", "namespace": "d"},
        "spec": {"containers": [{"name": format!("c{kind}"), "resources": {"limits": limits}}]},
    })
}

fn request(pod: &Value, names: &[String]) -> Vec<u8> {
    // In kube-scheduler's field order: the quick way is meant.
    format!(r#"{{"Pod":{pod},"Nodes":null,"NodeNames":{}}}"#, json!(names)).into_bytes()
}

fn answer(extender: &Extender, body: &[u8]) -> Value {
    serde_json::from_slice(&extender.filter(body).unwrap()).unwrap()
}

fn apply_node(ledger: &Ledger, object: &Value) {
    ledger.apply_node(&serde_json::from_str(&object.to_string()).unwrap());
}

fn apply_pod(ledger: &Ledger, object: &Value) {
    ledger.apply_pod(&serde_json::from_str(&object.to_string()).unwrap());
}

fn remove_pod(ledger: &Ledger, object: &Value) {
    ledger.remove_pod(&serde_json::from_str(&object.to_string()).unwrap());
}

fn ledger(nodes: usize) -> Arc<Ledger> {
    let ledger = Arc::new(Ledger::default());
    ledger.replace_pods([]);
    ledger.replace_nodes([]);
    for at in 0..nodes {
        apply_node(&ledger, &node(at, 0));
    }
    ledger
}

#[derive(Debug, Clone)]
enum Step {
    Node { at: usize, form: u8 },
    Gone { at: usize },
    Come { uid: usize, at: usize, card: usize, gib: u32 },
    Go { uid: usize },
    Expect { kind: u8 },
    Aim,
    KeepUp,
    Ask { kind: u8, from: usize, step: usize, count: usize },
}

/// So few that every call looks at all of them.
const NODES: usize = DEAR_LOOKS - 2;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..NODES, 0_u8..6).prop_map(|(at, form)| Step::Node { at, form }),
        1 => (0..NODES).prop_map(|at| Step::Gone { at }),
        4 => (0_usize..60, 0..NODES, 0_usize..4, 1_u32..60).prop_map(|(uid, at, card, gib)| Step::Come { uid, at, card, gib }),
        2 => (0_usize..60).prop_map(|uid| Step::Go { uid }),
        1 => (0_u8..6).prop_map(|kind| Step::Expect { kind }),
        1 => Just(Step::Aim),
        1 => Just(Step::KeepUp),
        6 => (0_u8..6, 0..NODES, prop::sample::select(vec![1_usize, 1, 3, 7]), 1..NODES + 2)
            .prop_map(|(kind, from, step, count)| Step::Ask { kind, from, step, count }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_remembered_changes_no_answer(steps in prop::collection::vec(step(), 20..80)) {
        let ledger = ledger(NODES);
        let seasoned = extender(&ledger);
        for step in steps {
            match step {
                Step::Node { at, form } => apply_node(&ledger, &node(at, form)),
                Step::Gone { at } => ledger.remove_node(&name(at)),
                Step::Come { uid, at, card, gib } => {
                    // As the API server has it: a pod never moves.
                    if ledger.pod(&format!("bound-{uid}")).is_none() {
                        apply_pod(&ledger, &bound(uid, at, card, gib));
                    }
                }
                Step::Go { uid } => remove_pod(&ledger, &bound(uid, 0, 0, 1)),
                Step::Expect { kind } => apply_pod(&ledger, &pending(kind)),
                Step::Aim => seasoned.keep_up(&mut Gathered::default(), true, 0),
                Step::KeepUp => seasoned.keep_up(&mut Gathered::default(), false, 0),
                Step::Ask { kind, from, step, count } => {
                    // One node more than there are.
                    let names: Vec<String> = (0..count).map(|i| name((from + i * step) % (NODES + 1))).collect();
                    let body = request(&pending(kind), &names);
                    let (seasoned, fresh) = (&seasoned, extender(&ledger));
                    let expected = answer(&fresh, &body);
                    prop_assert_eq!(&answer(seasoned, &body), &expected);
                    prop_assert_eq!(&answer(seasoned, &body), &expected);
                    let scores = |extender: &Extender| -> Value {
                        serde_json::from_slice(&extender.prioritize(&body).unwrap()).unwrap()
                    };
                    prop_assert_eq!(scores(seasoned), scores(&fresh));
                }
            }
        }
    }
}

#[test]
fn a_call_with_too_much_to_look_at_tells_no_lie_and_the_next_one_knows_all() {
    let nodes = 4 * LOOKS;
    let ledger = ledger(nodes);
    let names: Vec<String> = (0..nodes).map(name).collect();
    // Every second node is too full for most pods.
    for at in (0..nodes).step_by(2) {
        for card in 0..1 + at % 4 {
            apply_pod(&ledger, &bound(10 * at + card, at, card, 60));
        }
    }
    let seasoned = extender(&ledger);
    for kind in [1, 0, 5] {
        let body = request(&pending(kind), &names);
        let expected = answer(&extender(&ledger), &body);
        let all_that_fit = names.iter().filter(|name| {
            let alone = answer(&extender(&ledger), &request(&pending(kind), &[(*name).clone()]));
            alone["NodeNames"] == json!([name])
        });
        let all_that_fit: Vec<&String> = all_that_fit.collect();
        let first = answer(&seasoned, &body);
        let named: Vec<&str> =
            first["NodeNames"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        assert_eq!(named.len(), 16, "{first}");
        assert!(named.iter().all(|name| all_that_fit.iter().any(|fits| *fits == name)), "{kind}: {named:?}");
        seasoned.keep_up(&mut Gathered::default(), false, ledger.version());
        assert_eq!(answer(&seasoned, &body), expected, "pods of kind {kind} once all is known");
    }
    // Where nothing fits, all nodes are looked at before that is said.
    let too_large = json!({
        "metadata": {"uid": "large", "name": "large", "namespace": "d"},
        "spec": {"containers": [{"name": "main", "resources": {"limits": {"nvidia.com/gpumem": "79Gi"}}}]},
    });
    let body = request(&too_large, &names);
    let said = answer(&seasoned, &body);
    assert_eq!(said, answer(&extender(&ledger), &body));
    assert_eq!(said["FailedAndUnresolvableNodes"].as_object().unwrap().len(), nodes);
}
