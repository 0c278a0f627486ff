//! Pods that end, vanish, terminate, and binds of unknown outcome.

use std::sync::Arc;

use arc_swap::ArcSwap;
use packhorse::ledger::{Ledger, Metrics, Question, Settings};
use serde_json::{Value, json};

use super::build::*;

/// Answers the one open question with this object.
fn answer(ledger: &Ledger, found: Option<&Value>) {
    let question = Question { uid: "a".into(), namespace: "ns".into(), name: "pod-a".into() };
    let text = found.map(Value::to_string);
    ledger.answer(&question, text.as_deref().map(|text| serde_json::from_str(text).unwrap()).as_ref());
}

#[test]
fn a_pod_holds_its_devices_until_it_has_ended_or_is_gone() {
    for phase in ["Succeeded", "Failed"] {
        let ledger = ledger(&[node("n", &[1])]);
        let mut pod = bound("a", "n", &share(1));
        pod["status"]["phase"] = json!("Running");
        apply_pod(&ledger, &pod);
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        apply_pod(&ledger, &pod);
        assert_eq!(memory(&ledger, "n", 1), 1000, "terminating");
        assert!(ledger.pod("a").unwrap().terminating);
        pod["status"]["phase"] = json!(phase);
        apply_pod(&ledger, &pod);
        assert_eq!(memory(&ledger, "n", 1), 0, "{phase}");
        assert!(ledger.pod("a").is_none());
    }
    // Also where this process has never seen it otherwise.
    let ledger = ledger(&[node("n", &[1])]);
    let mut pod = bound("a", "n", &share(1));
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    replace_pods(&ledger, std::slice::from_ref(&pod));
    assert_eq!(memory(&ledger, "n", 1), 1000);
    remove_pod(&ledger, &pod);
    assert_eq!(memory(&ledger, "n", 1), 0);
}

#[test]
fn a_vanished_pod_is_freed_only_when_a_get_has_confirmed_it() {
    let mut other = pending("a");
    other["metadata"]["uid"] = json!("another");
    let mut ended = bound("a", "n", &share(1));
    ended["status"]["phase"] = json!("Failed");
    for (what, found, left) in [
        ("gone", None, 0),
        ("another pod of that name", Some(other), 0),
        ("ended", Some(ended), 0),
        ("still there", Some(bound("a", "n", &share(1))), 1000),
    ] {
        let ledger = ledger(&[node("n", &[1])]);
        apply_pod(&ledger, &bound("a", "n", &share(1)));
        replace_pods(&ledger, &[]);
        assert_eq!(memory(&ledger, "n", 1), 1000, "{what}: kept until confirmed");
        let questions = ledger.questions();
        assert_eq!(questions.iter().map(|q| &*q.name).collect::<Vec<_>>(), ["pod-a"], "{what}");
        answer(&ledger, found.as_ref());
        assert_eq!(memory(&ledger, "n", 1), left, "{what}");
    }
}

#[test]
fn a_pod_listed_again_is_no_longer_in_doubt() {
    let ledger = ledger(&[node("n", &[1])]);
    apply_pod(&ledger, &bound("a", "n", &share(1)));
    replace_pods(&ledger, &[]);
    replace_pods(&ledger, &[bound("a", "n", &share(1))]);
    assert!(ledger.questions().is_empty());
    // An answer that comes too late changes nothing.
    answer(&ledger, None);
    assert_eq!(memory(&ledger, "n", 1), 1000);
}

#[test]
fn an_answer_that_the_watch_has_overtaken_brings_no_pod_back() {
    let ended = || {
        let mut pod = bound("a", "n", &share(1));
        pod["status"]["phase"] = json!("Succeeded");
        pod
    };
    let mut nominated = pending("a");
    nominated["status"]["nominatedNodeName"] = json!("n");
    for (what, end, late) in [
        ("deleted", None, bound("a", "n", &share(1))),
        ("ended", Some(ended()), bound("a", "n", &share(1))),
        ("deleted before it was bound", None, nominated),
    ] {
        let ledger = ledger(&[node("n", &[1])]);
        book(&ledger, "n", "a", 1).unwrap();
        ledger.mark_unknown("a");
        assert_eq!(ledger.questions().len(), 1, "{what}: a GET is on its way");
        match end {
            None => remove_pod(&ledger, &bound("a", "n", &share(1))),
            Some(end) => apply_pod(&ledger, &end),
        }
        answer(&ledger, Some(&late));
        assert_eq!(memory(&ledger, "n", 1), 0, "{what}");
        assert!(ledger.pod("a").is_none(), "{what}");
    }
}

#[test]
fn a_booking_missing_from_a_list_is_kept() {
    let ledger = ledger(&[node("n", &[1])]);
    book(&ledger, "n", "a", 1).unwrap();
    replace_pods(&ledger, &[]);
    answer(&ledger, Some(&pending("a")));
    assert_eq!((memory(&ledger, "n", 1), ledger.unconfirmed()), (1000, 1));
    apply_pod(&ledger, &bound("a", "n", &share(1)));
    assert_eq!((memory(&ledger, "n", 1), ledger.unconfirmed()), (1000, 0));
}

#[test]
fn a_recreated_pod_of_the_same_name_is_another_pod() {
    let ledger = ledger(&[node("n", &[1])]);
    let old = bound("old", "n", &share(1));
    apply_pod(&ledger, &old);
    let mut new = bound("new", "n", &share(1));
    new["metadata"]["name"] = old["metadata"]["name"].clone();
    apply_pod(&ledger, &new);
    assert_eq!(memory(&ledger, "n", 1), 2000);
    remove_pod(&ledger, &old);
    assert_eq!(memory(&ledger, "n", 1), 1000);
    assert!(ledger.pod("new").is_some());
}

#[test]
fn a_bind_of_unknown_outcome_keeps_its_booking_until_the_api_server_tells() {
    let patient = Settings { unknown_bind_seconds: 3600, ..Settings::default() };
    let done = Settings { unknown_bind_seconds: 0, ..Settings::default() };
    for (what, settings, found, left) in [
        ("unbound, may still come", &patient, Some(pending("a")), 1000),
        ("unbound for long", &done, Some(pending("a")), 0),
        ("gone", &patient, None, 0),
        ("bound", &patient, Some(bound("a", "n", &share(1))), 1000),
        ("bound elsewhere", &patient, Some(bound("a", "elsewhere", &share(2))), 0),
    ] {
        let ledger = Ledger::new(Arc::new(ArcSwap::from_pointee(settings.clone())), Metrics::default());
        apply_node(&ledger, &node("n", &[1]));
        book(&ledger, "n", "a", 1).unwrap();
        assert!(ledger.questions().is_empty(), "{what}: nobody asks while the bind is on its way");
        ledger.mark_unknown("a");
        assert!(ledger.pod("a").unwrap().unknown);
        assert_eq!(ledger.questions().len(), 1, "{what}");
        answer(&ledger, found.as_ref());
        assert_eq!(memory(&ledger, "n", 1), left, "{what}");
    }
}
