//! Annotations that cannot be read: a node is unusable, a pod holds all that it can be read to hold.

use packhorse::ledger::{Damage, NodeState};
use serde_json::json;

use super::build::*;

#[test]
fn a_node_with_a_damaged_inventory_is_unusable_until_it_is_repaired() {
    let ledger = ledger(&[node("n", &[1])]);
    apply_pod(&ledger, &bound("a", "n", &share(1)));
    for text in ["{", r#"{"v":2,"ready":true,"devices":[]}"#, ""] {
        let mut damaged = node("n", &[1]);
        damaged["metadata"]["annotations"]["packhorse.dev/inventory"] = json!(text);
        apply_node(&ledger, &damaged);
        assert!(matches!(ledger.node("n").unwrap().snapshot().state, NodeState::Damaged), "{text}");
        assert!(book(&ledger, "n", "b", 1).is_err());
    }
    apply_node(&ledger, &node("n", &[1]));
    assert_eq!(memory(&ledger, "n", 1), 1000);
}

#[test]
fn an_unknown_field_of_an_inventory_harms_nothing() {
    let mut later = node("n", &[1]);
    let text = later["metadata"]["annotations"]["packhorse.dev/inventory"].as_str().unwrap();
    let text = text.replacen('{', r#"{"color":"green","#, 1);
    later["metadata"]["annotations"]["packhorse.dev/inventory"] = json!(text);
    assert_eq!(usable(&ledger(&[later]), "n").devices.len(), 1);
}

#[test]
fn a_damaged_allocation_holds_what_it_can_be_read_to_hold() {
    let good = bound("a", "n", &share(1));
    let text = good["metadata"]["annotations"]["packhorse.dev/allocation"].as_str().unwrap().to_owned();
    let with = |allocation: Option<&str>, devices: Option<&str>| {
        let mut pod = good.clone();
        let annotations = pod["metadata"]["annotations"].as_object_mut().unwrap();
        annotations.clear();
        annotations.extend(allocation.map(|text| ("packhorse.dev/allocation".to_owned(), json!(text))));
        annotations.extend(devices.map(|text| ("devices.packhorse.dev/main".to_owned(), json!(text))));
        pod
    };
    let later = text.replace("\"v\":1", "\"v\":9");
    for (what, pod, held, damage) in [
        ("a later version", with(Some(&later), None), [true, false], Damage::Readable),
        ("no JSON, but a list", with(Some("{"), Some("GPU-1")), [true, false], Damage::Readable),
        ("a list alone", with(None, Some("GPU-2")), [false, true], Damage::Readable),
        ("a list that says more", with(Some(&text), Some("GPU-1,GPU-2")), [true, true], Damage::Readable),
        ("cut, one UUID left", with(Some("{\"GPU-1\":"), None), [true, true], Damage::Partly),
        ("nothing to be read", with(Some("?"), None), [true, true], Damage::Partly),
        ("empty", with(Some(""), Some("")), [true, true], Damage::Partly),
    ] {
        let ledger = ledger(&[node("n", &[1, 2])]);
        apply_pod(&ledger, &pod);
        let taken = [1, 2].map(|number| usage(&ledger, "n", number).slots > 0);
        assert_eq!(taken, held, "{what}");
        assert_eq!(ledger.pod("a").unwrap().damaged, Some(damage), "{what}");
        remove_pod(&ledger, &pod);
        assert_eq!([1, 2].map(|number| usage(&ledger, "n", number)), [<_>::default(); 2], "{what}: freed when gone");
    }
}

#[test]
fn damage_on_a_pod_that_asks_for_no_gpu_holds_only_what_it_names() {
    let ledger = ledger(&[node("n", &[1, 2])]);
    let mut pod = bound("a", "n", &share(1));
    pod["spec"]["containers"][0]["resources"] = json!({});
    pod["metadata"]["annotations"] = json!({"packhorse.dev/allocation": "GPU-2?"});
    apply_pod(&ledger, &pod);
    assert_eq!([1, 2].map(|number| usage(&ledger, "n", number).exclusive), [0, 1]);
}

#[test]
fn a_foreign_pod_is_known_and_holds_nothing() {
    let ledger = ledger(&[node("n", &[1])]);
    let mut pod = pending("a");
    pod["spec"]["nodeName"] = json!("n");
    apply_pod(&ledger, &pod);
    assert!(ledger.pod("a").unwrap().foreign);
    assert_eq!(usage(&ledger, "n", 1), <_>::default());
    assert_eq!(usable(&ledger, "n").cpu_left, Some(7000), "its host request counts like any pod's");
}
