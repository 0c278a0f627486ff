//! `values.schema.json` refuses what the chart does not know.

use serde_json::{Value, json};

use super::{CHART, helm, job, render, yaml};

fn schema() -> Value {
    serde_json::from_str(&std::fs::read_to_string(format!("{CHART}/values.schema.json")).unwrap()).unwrap()
}

#[test]
fn values_that_are_unknown_or_of_another_type_are_refused_by_name() {
    let Some(helm) = helm::binary() else { return };
    let cases = [
        (json!({"replicas": 3}), "'replicas' not allowed"),
        (json!({"server": {"replica": 3}}), "'replica' not allowed"),
        (json!({"server": {"replicas": "3"}}), "/server/replicas"),
        (json!({"server": {"replicas": 0}}), "/server/replicas"),
        (json!({"server": {"ports": {"webhook": 70_000}}}), "/server/ports/webhook"),
        (json!({"image": {"pullPolicy": "Sometimes"}}), "/image/pullPolicy"),
        (json!({"agent": {"kubeletDir": "var/lib/kubelet"}}), "/agent/kubeletDir"),
        (json!({"agent": {"migStrategy": "all"}}), "/agent/migStrategy"),
        (json!({"agent": {"deviceListStrategy": ["cdi"]}}), "/agent/deviceListStrategy/0"),
        (json!({"agent": {"nodeLabels": {"gpu": true}}}), "/agent/nodeLabels/gpu"),
        (json!({"webhook": {"certificate": {"source": "secret"}}}), "/webhook/certificate"),
        (json!({"config": {"extender": {"bestNode": 1}}}), "'bestNode' not allowed"),
        (json!({"config": {"extender": {"bestNodes": 0}}}), "/config/extender/bestNodes"),
        (json!({"config": {"server": {"drain": 25}}}), "/config/server/drain"),
        (json!({"config": {"webhook": {"countAlone": "share-200"}}}), "/config/webhook/countAlone"),
        // Other objects of the chart have these names in them.
        (json!({"config": {"webhook": {"schedulerName": "other"}}}), "'schedulerName' not allowed"),
        (json!({"config": {"webhook": {"resourcePrefix": "example.com"}}}), "'resourcePrefix' not allowed"),
    ];
    let jobs: Vec<Value> = cases.iter().map(|(values, _)| job(values.clone())).collect();
    for ((values, part), rendered) in cases.iter().zip(render(helm, &jobs)) {
        assert!(rendered.error.contains(part), "{values}: {:?} lacks {part:?}", rendered.error);
    }
}

/// Paths of every object of the schema that lets more pass than it names.
fn open(schema: &Value, path: &str, found: &mut Vec<String>) {
    if let Some(properties) = schema["properties"].as_object() {
        if schema["additionalProperties"] != json!(false) {
            found.push(path.to_owned());
        }
        for (name, schema) in properties {
            open(schema, &format!("{path}.{name}"), found);
        }
    }
    if schema["items"].is_object() {
        open(&schema["items"], &format!("{path}[]"), found);
    }
}

#[test]
fn the_schema_lets_nothing_pass_that_it_does_not_name() {
    let mut found = Vec::new();
    open(&schema(), "", &mut found);
    assert_eq!(found, [""; 0]);
}

/// The paths that have a value in the first and no type in the second.
fn unnamed(values: &Value, schema: &Value, path: &str, missing: &mut Vec<String>) {
    let Some(values) = values.as_object() else { return };
    let Some(properties) = schema["properties"].as_object() else { return };
    for (name, value) in values {
        match properties.get(name) {
            Some(schema) => unnamed(value, schema, &format!("{path}.{name}"), missing),
            None => missing.push(format!("{path}.{name}")),
        }
    }
}

#[test]
fn every_setting_of_the_server_can_be_given_but_for_the_names_that_the_chart_relies_on() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/config.yaml")).unwrap();
    let settings: Value = serde_saphyr::from_str(&text).unwrap();
    let (mut missing, schema) = (Vec::new(), schema());
    unnamed(&settings, &schema["properties"]["config"], "", &mut missing);
    missing.sort();
    let fixed = [
        ".certificates.names",
        ".certificates.namespace",
        ".certificates.secret",
        ".certificates.webhookConfiguration",
        ".ledger.resourcePrefix",
        ".webhook.resourcePrefix",
        ".webhook.schedulerName",
    ];
    assert_eq!(missing, fixed);
    // And the other way round: nothing can be given that the server would refuse.
    let mut unknown = Vec::new();
    for (section, schema) in schema["properties"]["config"]["properties"].as_object().unwrap() {
        for name in schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name) {
            if settings[section].get(name).is_none() {
                unknown.push(format!("{section}.{name}"));
            }
        }
    }
    assert_eq!(unknown, [""; 0]);
}

#[test]
fn every_value_has_a_type_and_a_comment() {
    let mut missing = Vec::new();
    unnamed(&yaml("values.yaml"), &schema(), "", &mut missing);
    assert_eq!(missing, [""; 0]);

    // Kubernetes' own fields, and groups whose values are told of one by one, need no words.
    const PLAIN: [&str; 20] = [
        "repository",
        "enabled",
        "resources",
        "requests",
        "limits",
        "nodeSelector",
        "affinity",
        "tolerations",
        "priorityClassName",
        "podLabels",
        "podAnnotations",
        "labels",
        "name",
        "webhook",
        "metrics",
        "burst",
        "image",
        "certificate",
        "ports",
        "podDisruptionBudget",
    ];
    let text = std::fs::read_to_string(format!("{CHART}/values.yaml")).unwrap();
    let mut before = "";
    let mut bare = Vec::new();
    for line in text.lines() {
        let key = line.trim_start().split_once(':').map(|(key, _)| key).filter(|key| !key.starts_with(['#', '-']));
        // Deeper is what a value holds.
        if let Some(key) = key.filter(|_| !line.starts_with("      ")) {
            let group = line.ends_with(':') || line.ends_with("{}");
            if !before.trim_start().starts_with('#') && !PLAIN.contains(&key) && !group {
                bare.push(key);
            }
        }
        before = line;
    }
    assert_eq!(bare, [""; 0], "without a comment");
}
