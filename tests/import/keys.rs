//! Every key of NVIDIA's format: what is said of it is what happens, in the program and on the page.

use packhorse::agent::options::schema::{Fate as Honoured, KEYS as OPTIONS};
use packhorse::import::Imported;
use packhorse::import::keys::{Fate, KEYS, Row};
use serde_json::{Value, json};

/// A value of the key that asks for something, and what stands in our values for it.
fn demand(key: &str) -> (Value, Value) {
    let slots = |name: &str| json!([{"name": name, "replicas": 5}]);
    let sharing = json!({"agent": {"nvidiaConfig": {"version": "v1", "sharing": {"timeSlicing": {"resources": slots("nvidia.com/gpu")}}}},
        "config": {"webhook": {"countAlone": "share-20"}}});
    match key {
        "version" => (json!("v1"), json!({})),
        "flags.migStrategy" => (json!("mixed"), json!({"agent": {"migStrategy": "mixed"}})),
        "flags.failOnInitError" => (json!(false), json!({"agent": {"failOnInitError": false}})),
        "flags.nvidiaDriverRoot" => (json!("/drv"), json!({"agent": {"driverRoot": "/drv"}})),
        "flags.nvidiaDevRoot" => (
            json!("/dev-root"),
            json!({"agent": {"nvidiaConfig": {"version": "v1", "flags": {"nvidiaDevRoot": "/dev-root"}}}}),
        ),
        "flags.plugin.passDeviceSpecs" => (json!(true), json!({"agent": {"passDeviceSpecs": true}})),
        "flags.plugin.deviceListStrategy" => (json!("cdi-cri"), json!({"agent": {"deviceListStrategy": ["cdi-cri"]}})),
        "flags.plugin.deviceIDStrategy" => (json!("index"), json!({"agent": {"deviceIDStrategy": "index"}})),
        "flags.plugin.cdiAnnotationPrefix" => (
            json!("a.b/"),
            json!({"agent": {"nvidiaConfig": {"version": "v1", "flags": {"plugin": {"cdiAnnotationPrefix": "a.b/"}}}}}),
        ),
        "flags.plugin.sharedDevicesAllocationPolicy" => (json!("distributed"), json!({})),
        "flags.deviceDiscoveryStrategy" => (json!("tegra"), json!({})),
        "flags.gfd.noTimestamp" => (json!(false), json!({})),
        "flags.gfd.sleepInterval" => (json!("60s"), json!({})),
        "resources.gpus" | "resources.mig" => (json!([{"pattern": "A*", "name": "a"}]), json!({})),
        "imex.channelIDs" => (json!([0]), json!({})),
        key if key.ends_with("[].name") => (json!("nvidia.com/gpu"), sharing),
        key if key.ends_with("[].replicas") => (json!(5), sharing),
        key if key.ends_with("[].rename") => (json!("x"), sharing),
        key if key.ends_with("[].devices") => (json!(2), sharing),
        key if key.ends_with("Root") || key.ends_with("Path") || key.ends_with("File") => (json!("/x"), json!({})),
        _ => (json!(true), json!({})),
    }
}

/// A configuration in which the key has that value, and nothing else is said but what an entry of a list needs.
fn configuration(key: &str, value: &Value) -> Value {
    if let Some((list, name)) = key.split_once("[].") {
        let mut entry = json!({"name": "nvidia.com/gpu", "replicas": 5});
        entry[name] = value.clone();
        return configuration(list, &json!([entry]));
    }
    let mut configuration = value.clone();
    for name in key.rsplit('.') {
        configuration = json!({name: configuration});
    }
    configuration
}

fn import(configuration: &Value) -> (Value, Vec<String>) {
    let imported = Imported::read(&configuration.to_string(), None).unwrap_or_else(|error| panic!("{error}"));
    let values = serde_saphyr::from_str(&imported.to_yaml().unwrap()).unwrap();
    (values, imported.notes.into_iter().map(|note| format!("{}: {}", note.key, note.text)).collect())
}

#[test]
fn every_key_becomes_what_its_row_says() {
    for row in KEYS {
        let (value, expected) = demand(row.key);
        let (values, notes) = import(&configuration(row.key, &value));
        assert_eq!(values, expected, "{}", row.key);
        let key = row.key.replace("[]", "[0]");
        // An entry has a note of its replicas whatever else it says.
        let about: Vec<&String> = notes.iter().filter(|note| note.starts_with(&format!("{key}: "))).collect();
        match row.fate {
            Fate::Same | Fate::Renamed => assert_eq!(about.len(), 0, "{notes:?}"),
            // What exactly replicas become depends on their number.
            Fate::Differs if key.ends_with("replicas") => assert!(about[0].contains("20 % of a card's memory")),
            Fate::Differs | Fate::None => assert_eq!(about, [&format!("{key}: {}", row.note)]),
        }
        let named = !row.becomes.is_empty();
        assert_eq!(named, values != json!({}) && !key.ends_with("rename") && !key.ends_with("devices"), "{key}");
        for path in row.becomes.split(", ").filter(|path| !path.is_empty()) {
            assert!(values.pointer(&format!("/{}", path.replace('.', "/"))).is_some(), "{key}: no {path} in {values}");
        }
        for harmless in row.harmless {
            let value = serde_json::from_str(harmless).unwrap_or_else(|_| json!(harmless));
            let (_, notes) = import(&configuration(row.key, &value));
            assert!(!notes.iter().any(|note| note.starts_with(&key)), "{key}: {harmless}: {notes:?}");
        }
    }
}

#[test]
fn a_note_says_what_to_do_instead() {
    for row in KEYS.iter().filter(|row| matches!(row.fate, Fate::None | Fate::Differs)) {
        assert!(row.note.contains("; ") || row.note.contains(": "), "{}: {}", row.key, row.note);
    }
}

#[test]
fn what_the_agent_knows_of_the_format_is_what_the_import_knows() {
    for option in OPTIONS.iter().filter(|option| option.file.is_some()) {
        let file = option.file.unwrap();
        if file == "sharing.mps.resources" {
            continue;
        }
        let row = Row::find(file).unwrap_or_else(|| panic!("{file}"));
        // The chart has no way to tell the agent where it sees the driver root: it mounts it itself.
        let honoured = option.fate == Honoured::Honoured && file != "flags.plugin.containerDriverRoot";
        assert_eq!(honoured, matches!(row.fate, Fate::Same | Fate::Renamed), "{file}");
    }
    for row in KEYS.iter().filter(|row| !row.key.contains("[]") && row.key != "version") {
        assert!(OPTIONS.iter().any(|option| option.file == Some(row.key)), "{}", row.key);
    }
}

#[test]
fn the_page_has_every_key_with_what_becomes_of_it() {
    let page = include_str!("../../docs/migrate-from-nvidia.md");

    let written: Vec<&str> =
        page.lines().filter(|line| KEYS.iter().any(|row| line.starts_with(&format!("| `{}` ", row.key)))).collect();
    let expected = KEYS.iter().map(|row| {
        let becomes =
            if row.becomes.is_empty() { String::new() } else { format!("`{}`", row.becomes.replace(", ", "`, `")) };
        format!("| `{}` | {} | {becomes} | {} |", row.key, row.fate.as_str(), row.note).replace("  ", " ")
    });
    for (written, expected) in written.iter().zip(expected) {
        assert_eq!(*written, expected);
    }
    assert_eq!(written.len(), KEYS.len());
}
