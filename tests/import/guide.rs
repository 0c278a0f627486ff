//! The tables of `docs/migrate-from-nvidia.md`, row by row: what pods become, and what of NVIDIA's flags, variables and chart values
//! there is.

use std::collections::BTreeSet;

use packhorse::agent::options::schema::{CONFIG_FILE, Fate, KEYS};
use packhorse::webhook::Settings;
use serde_json::{Value, json};

use crate::hami::settings::{exists, quoted};
use crate::webhook::review::create_with;

/// Values of NVIDIA's chart; objects that are passed on whole by their own name.
const CHART: &str = "config.name config.map config.default config.fallbackStrategies compatWithCPUManager migStrategy failOnInitError \
    deviceListStrategy deviceIDStrategy nvidiaDriverRoot gdrcopyEnabled gdsEnabled mofedEnabled deviceDiscoveryStrategy nameOverride \
    fullnameOverride namespaceOverride selectorLabelsOverride componentSelectorLabels allowDefaultNamespace imagePullSecrets \
    image.repository image.pullPolicy image.tag updateStrategy podAnnotations podSecurityContext securityContext resources nodeSelector \
    affinity tolerations priorityClassName runtimeClassName devicePlugin.enabled devicePlugin.containers.main.env gfd.enabled \
    gfd.noTimestamp gfd.sleepInterval nfd mps.root mps.enableHostPID cdi.nvidiaHookPath cdi.featureFlags";

/// The rows of the table under a headline, by cells.
fn table(section: &str) -> Vec<Vec<String>> {
    let page = include_str!("../../docs/migrate-from-nvidia.md");
    let section = page.split(&format!("\n## {section}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    let lines = section.lines().filter(|line| line.starts_with('|')).skip(2);
    lines
        .map(|line| {
            let cells = line.trim_start_matches('|').trim_end_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

fn owned(text: &str) -> BTreeSet<String> {
    quoted(text).into_iter().map(str::to_owned).collect()
}

#[test]
fn pods_become_what_the_page_says() {
    let rows = table("What pods ask for");
    assert!(rows.len() >= 10, "{rows:?}");
    for row in rows {
        let [written, count_alone, becomes, _] = &row[..] else { panic!("{row:?}") };
        let (mut limits, mut env) = (json!({}), json!([]));
        for part in quoted(written)[0].split(", ") {
            match (part.split_once(": "), part.split_once('=')) {
                (Some((name, amount)), _) => limits[name] = json!(amount),
                (None, Some((name, value))) => env = json!([{"name": name, "value": value}]),
                (None, None) => panic!("{part}"),
            }
        }
        let pod = json!({"metadata": {"name": "p", "namespace": "team"}, "spec": {"containers": [{
            "name": "main", "env": env, "resources": {"limits": limits}}]}});
        let count_alone = quoted(count_alone)[0].to_owned().try_into().unwrap();
        let answered = create_with(Settings { count_alone, ..Settings::default() }, &pod);
        match becomes.as_str() {
            "denied" => assert!(answered.verdict.is_err(), "{written}"),
            "nothing" => answered.untouched(),
            becomes => {
                let admitted = answered.admitted();
                let request = admitted["metadata"]["annotations"]["packhorse.dev/request"].as_str().unwrap();
                let request: Value = serde_json::from_str(request).unwrap();
                let expected: Value = serde_json::from_str(quoted(becomes)[0]).unwrap();
                assert_eq!(request["containers"]["main"], expected, "{written}");
            }
        }
    }
}

#[test]
fn every_flag_variable_and_chart_value_of_nvidias_has_its_verdict() {
    let rows = table("Flags, variables and values of NVIDIA's chart");
    for key in KEYS.iter().chain([&CONFIG_FILE]).filter(|key| !key.flags.is_empty()) {
        let flags: BTreeSet<String> = key.flags.iter().map(|flag| format!("--{flag}")).collect();
        let row = rows.iter().find(|row| owned(&row[0]) == flags).unwrap_or_else(|| panic!("{flags:?} has no row"));
        let variables: BTreeSet<String> = key.environment.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(owned(&row[1]), variables, "{flags:?}");
        assert_eq!(row[3], if key.fate == Fate::Honoured { "honoured" } else { "none" }, "{flags:?}");
    }
    let written: Vec<String> = rows.iter().flat_map(|row| owned(&row[2])).collect();
    let chart: BTreeSet<String> = CHART.split_whitespace().map(str::to_owned).collect();
    assert_eq!(written.iter().cloned().collect::<BTreeSet<_>>(), chart);
    assert_eq!(written.len(), chart.len(), "one row each");
    for row in &rows {
        let [flags, _, _, verdict, here] = &row[..] else { panic!("{row:?}") };
        assert!(["honoured", "renamed", "none"].contains(&verdict.as_str()), "{row:?}");
        // Only a flag or a variable can be honoured by its own name.
        let by_name = !flags.is_empty();
        assert!(verdict == "none" || by_name == (verdict == "honoured"), "{row:?}");
        let ours: Vec<&str> = quoted(here).into_iter().filter(|name| !name.starts_with(['/', 'p'])).collect();
        assert!(verdict == "none" || !ours.is_empty(), "{row:?}");
        for name in ours {
            assert!(exists(name), "{row:?}: there is no {name}");
        }
    }
}
