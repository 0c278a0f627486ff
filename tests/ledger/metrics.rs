//! What Prometheus is told.

use std::sync::Arc;

use arc_swap::ArcSwap;
use packhorse::ledger::{Ledger, Metrics, Settings};
use packhorse::metrics::exposition::Exposition;
use prometheus_client::registry::Registry;
use serde_json::json;

use super::build::*;

fn scrape(settings: Settings) -> String {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let ledger = Arc::new(Ledger::new(Arc::new(ArcSwap::from_pointee(settings)), metrics));
    ledger.register_totals(&mut registry);
    let mut damaged = node("damaged", &[3]);
    damaged["metadata"]["annotations"]["packhorse.dev/inventory"] = json!("{");
    let mut stopping = node("stopping", &[4]);
    let text = stopping["metadata"]["annotations"]["packhorse.dev/inventory"].as_str().unwrap();
    stopping["metadata"]["annotations"]["packhorse.dev/inventory"] =
        json!(text.replace("\"ready\":true", "\"ready\":false"));
    for node in [node("n", &[1, 2]), damaged, stopping, json!({"metadata": {"name": "plain"}})] {
        apply_node(&ledger, &node);
        apply_node(&ledger, &node);
    }
    apply_pod(&ledger, &bound("a", "n", &share(1)));
    apply_pod(&ledger, &bound("gone", "n", &share(1)));
    replace_pods(&ledger, &[bound("a", "n", &share(1))]);
    book(&ledger, "n", "b", 1).unwrap();
    let mut foreign = pending("c");
    foreign["spec"]["nodeName"] = json!("n");
    apply_pod(&ledger, &foreign);
    foreign["spec"]["nodeName"] = json!("plain");
    foreign["metadata"]["uid"] = json!("elsewhere");
    apply_pod(&ledger, &foreign);
    Exposition::new(registry).with(ledger.device_series()).pieces().unwrap().collect()
}

#[test]
fn totals_and_counts_are_published() {
    let text = scrape(Settings::default());
    for line in [
        r#"packhorse_ledger_nodes{state="usable"} 1"#,
        r#"packhorse_ledger_nodes{state="not_ready"} 1"#,
        r#"packhorse_ledger_nodes{state="no_inventory"} 1"#,
        r#"packhorse_ledger_nodes{state="damaged"} 1"#,
        r#"packhorse_ledger_pods{state="bound"} 2"#,
        r#"packhorse_ledger_pods{state="booked"} 1"#,
        r#"packhorse_ledger_pods{state="foreign"} 1"#,
        r#"packhorse_ledger_unconfirmed{kind="booked"} 1"#,
        r#"packhorse_ledger_unconfirmed{kind="vanished"} 1"#,
        r#"packhorse_ledger_device_memory_mebibytes{node="n",device="GPU-1"} 3000"#,
        r#"packhorse_ledger_device_cores_percent{node="n",device="GPU-1"} 30"#,
        r#"packhorse_ledger_device_slots{node="n",device="GPU-1"} 3"#,
        r#"packhorse_ledger_device_slots{node="n",device="GPU-2"} 0"#,
        r#"packhorse_ledger_damaged_objects_total{kind="Node",reason="UnreadableInventory"} 1"#,
        r#"packhorse_ledger_damaged_objects_total{kind="Pod",reason="ForeignPod"} 1"#,
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
    }
}

#[test]
fn device_series_can_be_left_out() {
    let text = scrape(Settings { device_metrics: false, ..Settings::default() });
    assert!(!text.contains("packhorse_ledger_device"), "{text}");
    assert!(text.contains("packhorse_ledger_nodes"));
}
