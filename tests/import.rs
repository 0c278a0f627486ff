//! `packhorse config import` as a user calls it: each `tests/import/NAME.yaml` with what it says, `NAME.out`, to the letter; and that
//! the chart, the server and the agent take what it writes. `PACKHORSE_EXPECT=1` writes the expectations anew, to be read by eye.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as the tests do")]

mod guide;
mod keys;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use packhorse::agent::options::{Flags, Options};
use packhorse::cli::config::Config;
use packhorse::import::Imported;
use serde_json::Value;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/import");

/// Names of all inputs.
fn cases() -> Vec<String> {
    let names = std::fs::read_dir(FOLDER).unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.strip_suffix(".yaml").map(str::to_owned)
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn input(case: &str) -> String {
    std::fs::read_to_string(Path::new(FOLDER).join(format!("{case}.yaml"))).unwrap()
}

/// What the first line says after `# arguments:`.
fn arguments(input: &str) -> Vec<String> {
    let line = input.lines().next().unwrap_or_default();
    line.strip_prefix("# arguments: ").unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// Standard output, standard error and the status of `packhorse config import` with these arguments.
fn import(arguments: &[&str], stdin: Stdio) -> (String, String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_packhorse"))
        .args(["config", "import"])
        .args(arguments)
        .current_dir(FOLDER)
        .stdin(stdin)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

fn import_case(case: &str) -> (String, String, i32) {
    let file = format!("{case}.yaml");
    let given = arguments(&input(case));
    let arguments: Vec<&str> = given.iter().map(String::as_str).chain([file.as_str()]).collect();
    import(&arguments, Stdio::null())
}

#[test]
fn every_configuration_becomes_what_is_written_beside_it() {
    let anew = std::env::var_os("PACKHORSE_EXPECT").is_some();
    let cases = cases();
    assert!(cases.len() > 50, "{cases:?}");
    let mut wrong = Vec::new();
    for case in &cases {
        let (stdout, stderr, status) = import_case(case);
        assert_eq!(import_case(case), (stdout.clone(), stderr.clone(), status), "{case}: the same every time");
        let said = format!("{stdout}--- standard error, status {status}\n{stderr}");
        let file = PathBuf::from(FOLDER).join(format!("{case}.out"));
        if anew {
            std::fs::write(&file, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        if said != expected {
            wrong.push(format!("{case} is\n{said}\nand should be\n{expected}"));
        }
        // A mistake is one line, and then nothing is written that somebody could apply.
        if status != 0 {
            assert!(stdout.is_empty(), "{case}: {stdout}");
            let errors = stderr.lines().filter(|line| !line.starts_with("warning: ")).count();
            assert_eq!(errors, 1, "{case}: {stderr}");
        }
        assert_eq!(case.starts_with("broken_"), status == 1 && !case.starts_with("strict") && !names_nothing(case));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Where the file is right and the command is not.
fn names_nothing(case: &str) -> bool {
    ["config_map_without_name", "config_map_without_that_name", "empty_config_map"].contains(&case)
}

/// Values of all inputs that can be imported.
fn imported() -> Vec<(String, Imported, Value)> {
    let mut all = Vec::new();
    for case in cases() {
        let text = input(&case);
        let given = arguments(&text);
        let name = given.iter().position(|one| one == "--name").map(|at| given[at + 1].as_str());
        let Ok(imported) = Imported::read(&text, name) else { continue };
        let values = serde_saphyr::from_str(&imported.to_yaml().unwrap()).unwrap();
        all.push((case, imported, values));
    }
    assert!(all.len() > 25, "{}", all.len());
    all
}

#[test]
fn the_chart_takes_the_values_and_the_agent_starts_by_them() {
    let Some(helm) = crate::chart::helm::binary() else { return };
    let all = imported();
    let jobs: Vec<Value> = all.iter().map(|(.., values)| crate::chart::job(values.clone())).collect();
    for ((case, imported, values), rendered) in all.iter().zip(crate::chart::render(helm, &jobs)) {
        // Server: what stands under `config` is a part of its file, which is strict.
        let server = rendered.object("ConfigMap/packhorse-server")["data"]["config.yaml"].as_str().unwrap();
        let count_alone = Config::parse(server).unwrap().webhook.count_alone.0.to_string();
        let expected = imported.values.config.webhook.count_alone.as_deref().unwrap_or("exclusive");
        assert_eq!(count_alone, expected, "{case}");
        // Agent: its environment and its file, in which nothing is left that it would not honour.
        let options = agent_options(&rendered);
        assert_eq!(options.not_honoured, [], "{case}");
        let agent = &imported.values.agent;
        assert_eq!(options.mig_strategy.as_str(), agent.mig_strategy.as_deref().unwrap_or("none"), "{case}");
        assert_eq!(options.fail_on_init_error, agent.fail_on_init_error.unwrap_or(true), "{case}");
        assert_eq!(options.driver_root, Path::new(agent.driver_root.as_deref().unwrap_or("/")), "{case}");
        assert_eq!(options.pass_device_specs, agent.pass_device_specs.unwrap_or(false), "{case}");
        let strategies: Vec<&str> = options.device_list_strategy.iter().map(|one| one.as_str()).collect();
        let given: Vec<&str> = agent.device_list_strategy.iter().map(String::as_str).collect();
        assert_eq!(strategies, if given.is_empty() { vec!["envvar"] } else { given }, "{case}");
        let slots = &values["agent"]["nvidiaConfig"]["sharing"]["timeSlicing"]["resources"];
        let cards = slots.as_array().into_iter().flatten().find(|entry| entry["name"] == "nvidia.com/gpu");
        let cards = cards.map(|entry| entry["replicas"].as_u64().unwrap());
        assert_eq!(options.slots.map(u64::from), cards, "{case}");
    }
}

/// What the rendered `DaemonSet` makes the agent read.
fn agent_options(rendered: &crate::chart::Rendered) -> Options {
    let agent = &rendered.object("DaemonSet/packhorse-agent")["spec"]["template"]["spec"]["containers"][0];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nvidia.yaml");
    let environment = |name: &str| {
        let variable = agent["env"].as_array().unwrap().iter().find(|variable| variable["name"] == name)?;
        let value = variable["value"].as_str()?;
        if name == "CONFIG_FILE" {
            let text = rendered.object("ConfigMap/packhorse-agent")["data"]["nvidia.yaml"].as_str().unwrap();
            std::fs::write(&file, text).unwrap();
            return Some(file.display().to_string());
        }
        Some(value.to_owned())
    };
    Options::resolve(&Flags::default(), &environment).unwrap()
}

#[test]
fn what_was_imported_imports_to_the_same() {
    let mut seen = 0;
    for (case, imported, values) in imported() {
        let Value::Object(again) = &values["agent"]["nvidiaConfig"] else { continue };
        seen += 1;
        let again = Imported::read(&serde_json::to_string(again).unwrap(), None).unwrap();
        assert_eq!(again.values.agent.nvidia_config, imported.values.agent.nvidia_config, "{case}");
        // Under strategy `single` too, which stands elsewhere.
        assert_eq!(again.values.config, imported.values.config, "{case}");
    }
    assert!(seen > 8, "{seen}");
}

#[test]
fn standard_input_does_as_well() {
    let file = || std::fs::File::open(Path::new(FOLDER).join("time_slices.yaml")).unwrap();
    let (stdout, _, status) = import(&["-"], file().into());
    assert_eq!((stdout, status), (import_case("time_slices").0, 0));
    let (_, stderr, status) = import(&["missing.yaml"], Stdio::null());
    assert_eq!(status, 1);
    assert!(stderr.starts_with("error: cannot read missing.yaml: "), "{stderr}");
}
