use serde_json::Value;
use tokio::sync::watch;

use super::*;
use crate::agent::backend::Card;
use crate::agent::publish::deploy::OPERANDS;

const PLUGIN: &str = "nvidia.com/gpu.deploy.device-plugin";
const DISCOVERY: &str = "nvidia.com/gpu.deploy.gpu-feature-discovery";
const DRIVER: &str = "nvidia.com/gpu.deploy.driver";

fn view(place: Option<DriverPlace>) -> NodeView {
    let card = Card {
        uuid: "GPU-1".into(),
        index: 0,
        model: "Tesla T4".into(),
        memory: 15360,
        pci: "0000:01:00.0".into(),
        numa: None,
        minor: 0,
        compute: (7, 5),
        mig_capable: false,
        mig_mode: false,
        instances: Vec::new(),
        links: Vec::new(),
        clique: None,
    };
    NodeView { driver: "580.95.05".to_owned(), driver_place: place, cards: vec![card], ..NodeView::default() }
}

/// A node with these labels, of which server-side apply counts `ours` as the agent's.
fn node(labels: &[(&str, &str)], ours: &[&str]) -> OwnNode {
    OwnNode {
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        own_operator_labels: ours.iter().map(|key| (*key).to_owned()).collect(),
        ..OwnNode::default()
    }
}

/// The labels that are applied; `None`: nothing is written.
fn applied(labels: &str, view: NodeView, node: &OwnNode) -> Option<Value> {
    let (_sender, view) = watch::channel(Arc::new(view));
    let mut part = Operator::new("n".into(), labels.parse().unwrap(), view);
    match part.due(node)? {
        Write::Operator(patch) => Some(patch["metadata"]["labels"].clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_operators_own_true_is_replaced_and_anybodys_decision_is_not() {
    let all = "device-plugin,gpu-feature-discovery,driver";
    let host = || view(Some(DriverPlace::Host));
    for (there, expected) in [
        (&[][..], Some(json!({PLUGIN: "false", DISCOVERY: "false", DRIVER: "pre-installed"}))),
        (
            &[(PLUGIN, ""), (DISCOVERY, ""), (DRIVER, "")],
            Some(json!({PLUGIN: "false", DISCOVERY: "false", DRIVER: "pre-installed"})),
        ),
        (
            &[(PLUGIN, "true"), (DISCOVERY, "true"), (DRIVER, "true")],
            Some(json!({PLUGIN: "false", DISCOVERY: "false"})),
        ),
        // What the operator's manager of drivers writes for a while: it writes `true` again, and then it is ours.
        (&[(PLUGIN, "paused-for-driver-upgrade"), (DISCOVERY, "false"), (DRIVER, "false")], None),
    ] {
        assert_eq!(applied(all, host(), &node(there, &[])), expected, "{there:?}");
    }
    let ours = [(PLUGIN, "false"), (DRIVER, "pre-installed")];
    assert_eq!(applied("device-plugin,driver", host(), &node(&ours, &[PLUGIN, DRIVER])), None, "as it should be");
}

#[test]
fn what_is_not_wanted_any_more_is_given_back() {
    let ours = [(PLUGIN, "false"), (DISCOVERY, "false"), (DRIVER, "pre-installed")];
    let keys = [PLUGIN, DISCOVERY, DRIVER];
    let host = || view(Some(DriverPlace::Host));
    assert_eq!(applied("device-plugin", host(), &node(&ours, &keys)), Some(json!({PLUGIN: "false"})));
    assert_eq!(applied("none", host(), &node(&ours, &keys)), Some(json!({})));
    let nothing: Vec<_> = ours.into_iter().chain([(OPERANDS, "false")]).collect();
    assert_eq!(
        applied("device-plugin", host(), &node(&nothing, &keys)),
        Some(json!({})),
        "no operands, no word of ours"
    );
    let bare = NodeView { cards: Vec::new(), ..host() };
    assert_eq!(applied("device-plugin", bare.clone(), &node(&ours, &keys)), Some(json!({})), "a node without GPUs");
    assert_eq!(applied("device-plugin", bare, &node(&[], &[])), None);
    assert_eq!(applied("device-plugin", NodeView::default(), &node(&ours, &keys)), None, "not looked yet: it stands");
}

#[test]
fn a_driver_of_the_host_is_told_and_one_that_is_away_for_a_moment_stays_told() {
    let told = Some(json!({DRIVER: "pre-installed"}));
    assert_eq!(applied("driver", view(Some(DriverPlace::Host)), &node(&[], &[])), told);
    assert_eq!(applied("driver", view(Some(DriverPlace::Container)), &node(&[], &[])), None);
    assert_eq!(applied("driver", view(None), &node(&[], &[])), None);
    let ours = node(&[(DRIVER, "pre-installed")], &[DRIVER]);
    assert_eq!(applied("driver", view(None), &ours), None, "it stands");
    assert_eq!(
        applied("driver", view(Some(DriverPlace::Container)), &ours),
        Some(json!({})),
        "the operator's is there now"
    );
}

#[test]
fn labels_are_read_as_they_are_written() {
    for text in ["none", "device-plugin", "device-plugin,driver", "device-plugin,gpu-feature-discovery,driver"] {
        assert_eq!(text.parse::<OperatorLabels>().unwrap().to_string(), text);
    }
    assert_eq!(OperatorLabels::default().to_string(), "device-plugin,driver");
    for text in ["", "gfd", "device-plugin,", "none,driver"] {
        let error = text.parse::<OperatorLabels>().unwrap_err().to_string();
        assert!(error.contains("gpu-feature-discovery"), "{error}");
    }
}

#[test]
fn giving_back_is_due_until_it_has_arrived() {
    let (_sender, view) = watch::channel(Arc::new(view(Some(DriverPlace::Host))));
    let mut part = Operator::new("n".into(), "none".parse().unwrap(), view);
    let ours = node(&[(PLUGIN, "false")], &[PLUGIN]);
    assert!(part.due(&ours).is_some());
    assert!(part.due(&ours).is_some(), "after a pause it is asked for again");
    part.wrote();
    assert!(part.due(&ours).is_none(), "an API server that keeps no managed fields is not asked for ever");
    assert!(part.due(&node(&[], &[])).is_none());
}
