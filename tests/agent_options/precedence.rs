//! A flag beats a variable, a variable beats the file, the file beats the default.

use packhorse::agent::options::Options;
use packhorse::agent::options::schema::{Fate, KEYS};

use super::given::{Given, yaml};

/// What counts for a flag, written as NVIDIA's plugin would.
fn shown(options: &Options, flag: &str) -> String {
    match flag {
        "mig-strategy" => options.mig_strategy.as_str().to_owned(),
        "fail-on-init-error" => options.fail_on_init_error.to_string(),
        "nvidia-driver-root" => options.driver_root.display().to_string(),
        "driver-root-ctr-path" => {
            options.container_driver_root.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
        }
        "nvidia-dev-root" => options.dev_root.display().to_string(),
        "pass-device-specs" => options.pass_device_specs.to_string(),
        "device-list-strategy" => {
            options.device_list_strategy.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(",")
        }
        "device-id-strategy" => format!("{:?}", options.device_id_strategy).to_lowercase(),
        "cdi-annotation-prefix" => options.cdi_annotation_prefix.clone(),
        other => panic!("--{other} is honoured nowhere"),
    }
}

/// Flag, default, and what the file, the variable and the flag say, each unlike the one it beats.
const VALUES: [(&str, &str, [&str; 3]); 9] = [
    ("mig-strategy", "none", ["single", "mixed", "single"]),
    ("fail-on-init-error", "true", ["false", "true", "false"]),
    ("nvidia-driver-root", "/", ["/file", "/variable", "/flag"]),
    ("nvidia-dev-root", "/", ["/file", "/variable", "/flag"]),
    ("driver-root-ctr-path", "", ["/file", "/variable", "/flag"]),
    ("pass-device-specs", "false", ["true", "false", "true"]),
    ("device-list-strategy", "envvar", ["cdi-cri", "volume-mounts,cdi-annotations", "envvar,cdi-cri"]),
    ("device-id-strategy", "uuid", ["index", "uuid", "index"]),
    ("cdi-annotation-prefix", "cdi.k8s.io/", ["file/", "variable/", "flag/"]),
];

#[test]
fn the_stronger_place_counts_for_every_flag() {
    let honoured: Vec<_> = KEYS.iter().filter(|key| key.fate == Fate::Honoured).collect();
    assert_eq!(honoured.len(), VALUES.len());
    for key in honoured {
        let (_, default, [file, variable, flag]) = VALUES.iter().find(|(flag, ..)| *flag == key.flags[0]).unwrap();
        let counts = |given: &Given, expected: &str| {
            let options = given.options().unwrap();
            assert_eq!(shown(&options, key.flags[0]), expected, "{given:?}");
            assert_eq!(options.not_honoured, []);
        };
        counts(&Given::default(), default);
        let by_file = Given::default().file(&yaml(key.file.unwrap(), file));
        counts(&by_file, file);
        for name in key.environment {
            counts(&Given::default().variable(name, variable), variable);
            counts(&by_file.clone().variable(name, ""), file);
            let by_variable = by_file.clone().variable(name, variable);
            counts(&by_variable, variable);
            for name in key.flags {
                counts(&by_variable.clone().argument(&format!("--{name}={flag}")), flag);
            }
        }
        for name in key.flags {
            counts(&Given::default().argument(&format!("--{name}={flag}")), flag);
        }
    }
}

#[test]
fn the_file_is_named_by_a_flag_or_else_by_the_variable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("by-variable.yaml");
    std::fs::write(&path, "flags: {migStrategy: mixed}").unwrap();
    let by_variable = Given::default().variable("CONFIG_FILE", &path.to_string_lossy());
    assert_eq!(by_variable.options().unwrap().mig_strategy.as_str(), "mixed");
    let both = by_variable.file("flags: {migStrategy: single}");
    assert_eq!(both.options().unwrap().mig_strategy.as_str(), "single");
    let missing = Given::default().variable("CONFIG_FILE", "/nowhere/config.yaml").options().unwrap_err();
    assert!(missing.contains("/nowhere/config.yaml") && missing.contains("CONFIG_FILE"), "{missing}");
}

#[test]
fn the_device_nodes_are_looked_for_under_the_driver_root_unless_said() {
    let options = Given::default().variable("NVIDIA_DRIVER_ROOT", "/run/nvidia/driver").options().unwrap();
    assert_eq!(options.dev_root, options.driver_root);
}

#[test]
fn switches_are_read_as_go_reads_them() {
    for (text, expected) in [
        ("1", true),
        ("t", true),
        ("T", true),
        ("true", true),
        ("TRUE", true),
        ("True", true),
        ("0", false),
        ("f", false),
        ("F", false),
        ("false", false),
        ("FALSE", false),
        ("False", false),
    ] {
        let by_variable = Given::default().variable("PASS_DEVICE_SPECS", text);
        let by_flag = Given::default().argument(&format!("--pass-device-specs={text}"));
        for given in [by_variable, by_flag] {
            assert_eq!(given.options().unwrap().pass_device_specs, expected, "{given:?}");
        }
    }
    assert!(Given::default().argument("--pass-device-specs").options().unwrap().pass_device_specs);
    for text in ["yes", "tRUE", "on", "2", " true"] {
        let error = Given::default().variable("PASS_DEVICE_SPECS", text).options().unwrap_err();
        assert!(error.starts_with("PASS_DEVICE_SPECS: ") && error.contains("true or false"), "{error}");
    }
}

#[test]
fn lists_are_separated_by_commas_or_given_again() {
    let expected = "envvar,cdi-cri";
    for given in [
        Given::default().argument("--device-list-strategy=cdi-cri,envvar"),
        Given::default()
            .argument("--device-list-strategy")
            .argument("envvar")
            .argument("--device-list-strategy=cdi-cri"),
        Given::default().variable("DEVICE_LIST_STRATEGY", "envvar, cdi-cri,envvar"),
        Given::default().file("flags: {plugin: {deviceListStrategy: [envvar, cdi-cri]}}"),
        Given::default().file("flags: {plugin: {deviceListStrategy: 'envvar,cdi-cri'}}"),
    ] {
        assert_eq!(shown(&given.options().unwrap(), "device-list-strategy"), expected, "{given:?}");
    }
}

#[test]
fn a_wrong_value_is_an_error_even_where_it_is_overruled() {
    let given = Given::default().argument("--mig-strategy=mixed").variable("MIG_STRATEGY", "both");
    let error = given.options().unwrap_err();
    assert_eq!(error, "MIG_STRATEGY: \"both\" is not valid: must be one of none, single, mixed");
    for (argument, expected) in [
        ("--device-id-strategy=name", "one of uuid, index"),
        ("--device-list-strategy=envvar,cdi", "one or more of envvar, volume-mounts, cdi-annotations, cdi-cri"),
        ("--device-list-strategy=", "one or more of"),
        ("--nvidia-driver-root=run", "an absolute path"),
        ("--cdi-annotation-prefix=", "a text that is not empty"),
    ] {
        let error = Given::default().argument(argument).options().unwrap_err();
        let flag = argument.split('=').next().unwrap();
        assert!(error.starts_with(flag) && error.contains(expected), "{error}");
    }
}
