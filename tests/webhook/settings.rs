//! The webhook's settings as an administrator writes them, and the metrics they can be judged by.

use std::sync::Arc;

use arc_swap::ArcSwap;
use packhorse::webhook::{Metrics, Settings, VisibleAction, Webhook};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::review::{answer, creation, pod, pod_with_env, visible};

#[test]
fn shipped_settings_are_valid_and_survive_a_round_trip() {
    let shipped = Settings::default();
    assert_eq!(shipped.validate(), Ok(()));
    let text = serde_json::to_string(&shipped).unwrap();
    assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), shipped);
    assert_eq!(serde_json::from_str::<Settings>("{}").unwrap(), shipped);
}

#[test]
fn the_documentation_shows_the_shipped_settings() {
    let text = include_str!("../../docs/admission.md");
    let yaml = text.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of YAML");
    let documented: Value = serde_saphyr::from_str(yaml).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&documented["webhook"]), keys(&serde_json::to_value(Settings::default()).unwrap()), "every key");
    assert_eq!(serde_json::from_value::<Settings>(documented["webhook"].clone()).unwrap(), Settings::default());
}

#[test]
fn a_file_changes_what_it_names() {
    let yaml = "\
resourcePrefix: example.com
tolerations: []
nodeSelector: {gpu: 'yes'}
runtimeClassName: nvidia
countAlone: share-50
visibleDevicesAll: {action: void, exemptNamespaces: [ops]}
privileged: warn
foreignScheduler: override
nodeName: warn
bodyLimit: 2000000
";
    let settings: Settings = serde_saphyr::from_str(yaml).unwrap();
    assert_eq!(settings.validate(), Ok(()));
    assert_eq!(settings.visible_devices_all.action, VisibleAction::Void);
    assert_eq!(settings.scheduler_name, "packhorse");
    assert_eq!(serde_json::to_value(&settings).unwrap()["countAlone"], "share-50");
}

#[test]
fn nonsense_is_an_error_that_names_its_key() {
    for (json, parts) in [
        (json!({"tolerationz": []}), ["tolerationz", "unknown field"]),
        (json!({"visibleDevicesAll": {"actions": "deny"}}), ["actions", "unknown field"]),
        (json!({"privileged": "maybe"}), ["maybe", "`deny`"]),
        (json!({"countAlone": "share-0"}), ["countAlone", "share-0"]),
        (json!({"countAlone": "half"}), ["countAlone", "half"]),
    ] {
        let error = serde_json::from_value::<Settings>(json).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} not in {error:?}");
        }
    }
    for (json, key) in [
        (json!({"resourcePrefix": "nvidia.com/"}), "resourcePrefix"),
        (json!({"resourcePrefix": "packhorse.dev"}), "resourcePrefix"),
        (json!({"schedulerName": ""}), "schedulerName"),
        (json!({"runtimeClassName": "No"}), "runtimeClassName"),
        (json!({"nvidiaRuntimeClasses": ["a", ""]}), "nvidiaRuntimeClasses"),
        (
            json!({"tolerations": [{"operator": "Exists"}, {"operator": "Exists", "value": "x"}]}),
            "tolerations[1].value",
        ),
        (json!({"tolerations": [{"value": "x"}]}), "tolerations[0].key"),
        (json!({"tolerations": [{"key": "x", "operator": "In"}]}), "tolerations[0].operator"),
        (json!({"tolerations": [{"key": "x", "effect": "Never"}]}), "tolerations[0].effect"),
        (
            json!({"tolerations": [{"key": "x", "effect": "NoSchedule", "tolerationSeconds": 5}]}),
            "tolerations[0].tolerationSeconds",
        ),
        (json!({"nodeSelector": {"": "x"}}), "nodeSelector"),
        (json!({"visibleDevicesAll": {"exemptNamespaces": ["a/b"]}}), "visibleDevicesAll.exemptNamespaces"),
        (
            json!({"visibleDevicesAll": {"exemptServiceAccounts": ["dcgm-exporter"]}}),
            "visibleDevicesAll.exemptServiceAccounts",
        ),
        (json!({"bodyLimit": 1000}), "bodyLimit"),
    ] {
        let settings: Settings = serde_json::from_value(json).expect(key);
        assert_eq!(settings.validate().unwrap_err().key, key);
    }
}

#[test]
fn changed_settings_count_from_the_next_review_on() {
    let settings = Arc::new(ArcSwap::from_pointee(Settings::default()));
    let metrics = Metrics::new(&mut Registry::default());
    let webhook = Webhook::new(Arc::clone(&settings), Box::new(|_| None), metrics);
    let review = creation(&pod_with_env(json!({}), visible("all")));
    assert!(answer(&webhook, &review).verdict.is_err());
    let mut changed = Settings::default();
    changed.visible_devices_all.action = VisibleAction::Warn;
    settings.store(Arc::new(changed));
    assert!(answer(&webhook, &review).verdict.is_ok());
}

#[test]
fn metrics_tell_outcomes_and_reasons() {
    let mut registry = Registry::default();
    let settings = Arc::new(ArcSwap::from_pointee(Settings::default()));
    let webhook = Webhook::new(settings, Box::new(|_| None), Metrics::new(&mut registry));
    let mut placed = pod(json!({"nvidia.com/gpu": "1"}));
    placed["spec"]["nodeName"] = json!("n");
    let pods: [Value; 5] = [
        pod(json!({"nvidia.com/gpu": "1"})),
        pod(json!({})),
        pod(json!({"nvidia.com/gpu": "-1"})),
        pod_with_env(json!({}), visible("all")),
        placed,
    ];
    for pod in &pods {
        webhook.answer(creation(pod).to_string().as_bytes());
    }
    webhook.answer(b"");
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    for line in [
        r#"packhorse_webhook_reviews_total{outcome="mutated",reason="none"} 1"#,
        r#"packhorse_webhook_reviews_total{outcome="unchanged",reason="none"} 1"#,
        r#"packhorse_webhook_reviews_total{outcome="malformed",reason="none"} 1"#,
        r#"packhorse_webhook_reviews_total{outcome="denied",reason="request"} 1"#,
        r#"packhorse_webhook_reviews_total{outcome="denied",reason="visible_devices"} 1"#,
        r#"packhorse_webhook_reviews_total{outcome="denied",reason="node_name"} 1"#,
    ] {
        assert!(text.contains(line), "{line} not in\n{text}");
    }
    assert!(text.contains("packhorse_webhook_request_seconds"), "{text}");
}
