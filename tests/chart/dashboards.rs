//! Alerts and dashboards ask only for what servers and agents expose.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use super::{CHART, built, helm, job, render, yaml};

/// What is added to the name of a metric where it is exposed.
const SUFFIXES: [&str; 7] = ["_total", "_bucket", "_sum", "_count", "_info", "_bytes", "_seconds"];

/// The names that the code registers, and all of its texts.
fn source() -> (BTreeSet<String>, String) {
    let (mut names, mut all) = (BTreeSet::new(), String::new());
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs")
                && path.file_name().is_some_and(|it| it != "tests.rs")
            {
                let text = std::fs::read_to_string(&path).unwrap();
                let shipped = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
                names.extend(metrics(&shipped));
                all.push_str(&shipped);
            }
        }
    }
    (names, all)
}

/// Words of a text that look like our metrics, or the process'.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("packhorse_") || word.starts_with("process_")).map(str::to_owned).collect()
}

/// Label and value of each `label="value"` and its kin, in an expression.
fn matchers(expression: &str) -> Vec<(String, String)> {
    let inside = expression.split('{').skip(1).filter_map(|part| part.split('}').next());
    inside
        .flat_map(|part| part.split(','))
        .map(|matcher| {
            let (label, value) = matcher.split_once('"').unwrap_or_else(|| panic!("{matcher} in {expression}"));
            (label.trim_matches(['=', '!', '~', ' ']).to_owned(), value.trim_end_matches('"').to_owned())
        })
        .collect()
}

/// Every expression, with where it is.
fn expressions() -> BTreeMap<String, String> {
    let mut all = panels();
    for (group, alerts) in yaml("alerts.yaml").as_object().unwrap() {
        for alert in alerts.as_array().unwrap() {
            let expression = alert["expr"].as_str().unwrap().to_owned();
            assert!(all.insert(format!("{group}: {}", alert["alert"]), expression).is_none(), "twice: {alert}");
        }
    }
    all
}

/// Those of dashboards: `file: "title" "letter"`.
fn panels() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(Path::new(CHART).join("dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let board: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        for panel in board["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let place = format!("{}: {} {}", path.file_stem().unwrap().display(), panel["title"], target["refId"]);
                all.insert(place, target["expr"].as_str().unwrap().to_owned());
            }
        }
    }
    all
}

/// Prometheus' own code, with what it makes of some input.
fn judge() -> Option<impl Fn(Value) -> (bool, String)> {
    let module = built::Module {
        sources: "tests/monitoring",
        arguments: &["-ldflags", "-s -w", "."],
        static_binary: false,
        program: Some("packhorse-monitoring"),
        takes: "about two minutes the first time",
    };
    let found = module.find_or_build();
    let program = built::or_skip("code of Prometheus", found.as_ref().map_err(String::as_str))?.clone();
    Some(move |input: Value| {
        let scratch = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(scratch.path(), input.to_string()).unwrap();
        let input = std::fs::File::open(scratch.path()).unwrap();
        let output = std::process::Command::new(&program).stdin(input).output().expect("packhorse-monitoring runs");
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    })
}

#[test]
fn every_expression_names_only_what_is_exposed() {
    let (registered, source) = source();
    assert!(registered.len() > 40, "{registered:?}");
    let all = expressions();
    assert!(all.len() > 40, "{} expressions", all.len());
    for (place, expression) in &all {
        let named = metrics(expression);
        assert!(!named.is_empty(), "{place}: {expression} names nothing of Packhorse");
        for name in named {
            let bare = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix));
            let known = registered.contains(&name) || bare.is_some_and(|bare| registered.contains(bare));
            assert!(known, "{place}: {name} is exposed by nobody");
            // Counters are exposed with this ending alone, and nothing else has it.
            let rate = ["rate(", "increase("].iter().any(|function| expression.contains(&format!("{function}{name}")));
            if rate {
                assert!(name.ends_with("_total") || name.ends_with("_bucket"), "{place}: {name} is no counter");
            }
        }
        for (label, value) in matchers(expression) {
            let ours = label != "namespace" && !value.contains(['.', '[', '$']) && value.parse::<u16>().is_err();
            // Labels are fields, or texts; values as well.
            let word = |text: &str| {
                source.split(|letter: char| !letter.is_alphanumeric() && letter != '_').any(|it| it == text)
            };
            assert!(!ours || (word(&label) && word(&value)), "{place}: {label}={value:?} is set by nobody");
        }
        let depth = expression.chars().fold(0_i32, |depth, letter| match letter {
            '(' | '{' | '[' => depth + 1,
            ')' | '}' | ']' => depth - 1,
            _ => depth,
        });
        assert_eq!(depth, 0, "{place}: {expression}");
    }
}

#[test]
fn prometheus_and_its_operator_understand_what_they_are_given() {
    let Some(helm) = helm::binary() else { return };
    let Some(judge) = judge() else { return };

    let values = json!({"metrics": {
        "serviceMonitor": {
            "enabled": true, "labels": {"a": "b"}, "metricRelabelings": [{"action": "labeldrop", "regex": "pod"}]
        },
        "prometheusRule": {"enabled": true, "alertLabels": {"a": "b"}},
    }});
    let mut objects = render(helm, &[job(values)]).remove(0).objects;
    objects.retain(|object| object["apiVersion"] == "monitoring.coreos.com/v1");
    assert_eq!(objects.len(), 3);
    let (well, faults) = judge(json!({"objects": objects, "expressions": expressions()}));
    assert!(well, "{faults}");

    // It would have said so.
    objects[0]["spec"]["endpoint"] = json!([]);
    let (well, faults) = judge(json!({"objects": objects, "expressions": {"wrong": "sum by (node (up)"}}));
    assert!(!well && faults.contains("endpoint") && faults.contains("wrong: "), "{faults}");
}

/// Panels that are empty while nothing is wrong, or while nobody does it.
const QUIET: [&str; 6] = [
    "cluster: \"Container starts\" \"B\"",
    "cluster: \"Nominations\" \"A\"",
    "cluster: \"Xid errors\" \"A\"",
    "node: \"Driver calls that failed\" \"A\"",
    "node: \"Readings that failed\" \"A\"",
    "node: \"Xid errors\" \"A\"",
];

/// What server and agent would tell then.
const TROUBLE: [&str; 2] = [
    "packhorse_extender_nominations_total{result=\"nominated\"} 1\n",
    "packhorse_agent_start_refusals_total{reason=\"no_slots\"} 1\n\
     packhorse_agent_xid_events_total{device=\"GPU-00000000-0000-0000-0000-000000000001\",xid=\"79\"} 1\n\
     packhorse_agent_backend_failures_total{reason=\"probe\"} 1\n\
     packhorse_agent_usage_failures_total{call=\"timeout\"} 1\n",
];

/// What the server and the agent of a cluster exposed, on whose node one pod used its share (`cluster/top.rs` writes it), with what
/// Prometheus adds to it by the chart's `ServiceMonitor`s.
fn scrapes(helm: &Path) -> Vec<Value> {
    let monitors = render(helm, &[job(json!({"metrics": {"serviceMonitor": {"enabled": true}}}))]).remove(0);
    ["server", "agent"]
        .map(|part| {
            let file = format!("{}/tests/chart/exposition/{part}.txt", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
            let endpoint = &monitors.object(&format!("ServiceMonitor/packhorse-{part}"))["spec"]["endpoints"][0];
            let mut labels = json!({"job": format!("packhorse-{part}"), "namespace": "packhorse-system",
                "pod": format!("packhorse-{part}-x"), "container": part, "instance": "10.0.0.1:9482"});
            for relabeling in endpoint["relabelings"].as_array().into_iter().flatten() {
                assert_eq!(relabeling["sourceLabels"], json!(["__meta_kubernetes_pod_node_name"]));
                labels[relabeling["targetLabel"].as_str().unwrap()] = json!("gpus");
            }
            json!({"text": text, "labels": labels, "honorLabels": endpoint["honorLabels"] == true})
        })
        .to_vec()
}

#[test]
fn every_panel_finds_something_in_what_is_exposed() {
    let Some(helm) = helm::binary() else { return };
    let Some(judge) = judge() else { return };
    let scrapes = scrapes(helm);
    let panels = panels();
    assert!(panels.len() > 70, "{}", panels.len());
    // With everything chosen, and with one of each.
    for chosen in [[".*", ".*", ".*"], ["gpus", "team", "train"]] {
        let filled = |expression: &str| {
            let names = ["$node", "$namespace", "$pod"];
            names.iter().zip(chosen).fold(expression.to_owned(), |text, (name, value)| text.replace(name, value))
        };
        let questions: BTreeMap<_, _> = panels.iter().map(|(place, text)| (place, filled(text))).collect();
        assert!(!json!(questions).to_string().contains("=~\\\"$"), "a variable is unknown: {questions:?}");
        let (_, faults) = judge(json!({"scrapes": scrapes, "questions": questions}));
        let found: BTreeSet<&str> =
            faults.lines().filter_map(|line| line.split_once(": finds nothing").map(|it| it.0)).collect();
        assert_eq!(faults.lines().count(), found.len(), "{faults}");
        assert_eq!(found, QUIET.into_iter().collect(), "these are empty, of those that may");
    }
    // And those, once there is trouble.
    let mut troubled = scrapes.clone();
    for (scrape, trouble) in troubled.iter_mut().zip(TROUBLE) {
        let text = scrape["text"].as_str().unwrap().replace("# EOF\n", &format!("{trouble}# EOF\n"));
        scrape["text"] = json!(text);
    }
    let questions: BTreeMap<_, _> = panels
        .iter()
        .filter(|(place, _)| QUIET.contains(&place.as_str()))
        .map(|(place, text)| (place, text.replace("$node", "gpus")))
        .collect();
    let (well, faults) = judge(json!({"scrapes": troubled, "questions": questions}));
    assert!(well && questions.len() == QUIET.len(), "{faults}");
    // The agent's own pod would stand where the user's should.
    let mut renamed = scrapes;
    renamed[1]["honorLabels"] = json!(false);
    let questions = json!({"pod": "packhorse_agent_container_processes{pod=\"train\"}"});
    let (well, faults) = judge(json!({"scrapes": renamed, "questions": questions}));
    assert!(!well && faults.contains("pod: finds nothing"), "{faults}");
}

#[test]
fn every_alert_says_what_is_wrong_and_what_to_do() {
    let Some(helm) = helm::binary() else { return };
    let rendered = render(helm, &[job(json!({"metrics": {"prometheusRule": {"enabled": true}}}))]);
    let groups = rendered[0].object("PrometheusRule/packhorse")["spec"]["groups"].as_array().unwrap();
    let mut names = BTreeSet::new();
    for rule in groups.iter().flat_map(|group| group["rules"].as_array().unwrap()) {
        let name = rule["alert"].as_str().unwrap();
        assert!(name.starts_with("Packhorse") && names.insert(name), "{name}");
        assert!(["critical", "warning", "info"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{name}");
        assert!(rule["for"].as_str().unwrap().ends_with(['m', 'h']), "{name}");
        for text in ["summary", "description"] {
            let text = rule["annotations"][text].as_str().unwrap();
            assert!(text.len() > 15 && !text.contains("<no value>"), "{name}: {text}");
        }
        assert!(rule["annotations"]["description"].as_str().unwrap().ends_with('.'), "{name}");
    }
    assert_eq!(names.len(), groups.iter().map(|group| group["rules"].as_array().unwrap().len()).sum::<usize>());
    let written: usize =
        yaml("alerts.yaml").as_object().unwrap().values().map(|group| group.as_array().unwrap().len()).sum();
    assert_eq!(names.len(), written);
}

#[test]
fn dashboards_reach_grafana_as_they_are() {
    let Some(helm) = helm::binary() else { return };
    let rendered = render(helm, &[job(json!({"metrics": {"dashboards": {"enabled": true}}}))]);
    for entry in std::fs::read_dir(Path::new(CHART).join("dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        let shipped: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let map = rendered[0].object(&format!("ConfigMap/packhorse-dashboard-{}", file.trim_end_matches(".json")));
        let arrived: Value = serde_json::from_str(map["data"][file].as_str().unwrap()).unwrap();
        assert_eq!(arrived, shipped, "{file}");
        let mut ids = BTreeSet::new();
        for panel in shipped["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{file}: two panels are {}", panel["id"]);
        }
    }
}
