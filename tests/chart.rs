//! The Helm chart and what is rendered from it: what it makes of its values, and that what is committed beside it is up to date. That
//! an API server takes it, only a real one can show (`cluster/install.rs`).
//!
//! Rendered by Helm's own packages in a Go program; what happens where it cannot be built: `cluster/helm.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of tests fail as the tests do")]
#![allow(clippy::needless_pass_by_value, reason = "values read best where they are made")]

#[path = "cluster/built.rs"]
mod built;
#[path = "cluster/helm.rs"]
pub(crate) mod helm;

mod dashboards;
mod files;
mod operator;
mod rendering;
mod schema;
mod upgrade;
mod values;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::{Value, json};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deployments/helm/packhorse");
/// Beside the defaults.
const VALUES_FILES: [&str; 5] = [
    "values-k3s.yaml",
    "values-gpu-operator.yaml",
    "values-gpu-operator-node-by-node.yaml",
    "values-driver-installed.yaml",
    "values-driver-container.yaml",
];

/// What the chart makes of some values.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Rendered {
    /// Why nothing was rendered.
    error: String,
    /// Texts by the template's name below `templates/`.
    files: BTreeMap<String, String>,
    objects: Vec<Value>,
    notes: String,
}

impl Rendered {
    /// The object called `Kind/name`.
    fn find(&self, object: &str) -> Option<&Value> {
        let (kind, name) = object.split_once('/').expect("Kind/name");
        self.objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
    }

    /// The object, which has to be there.
    pub(crate) fn object(&self, object: &str) -> &Value {
        assert!(self.error.is_empty(), "{}", self.error);
        self.find(object).unwrap_or_else(|| panic!("no {object}"))
    }

    /// Arguments of a container of a workload.
    fn arguments(&self, object: &str, container: &str) -> Vec<String> {
        let containers = self.object(object)["spec"]["template"]["spec"]["containers"].as_array().expect("containers");
        let container = containers.iter().find(|it| it["name"] == container).expect("the container");
        let texts = container["args"].as_array().or(container["command"].as_array()).expect("arguments");
        texts.iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
    }
}

/// A rendering to be made.
pub(crate) fn job(values: Value) -> Value {
    json!({"values": values})
}

/// All of them, in one process.
pub(crate) fn render(helm: &Path, jobs: &[Value]) -> Vec<Rendered> {
    let output = call(helm, &["batch", CHART], Some(&json!(jobs).to_string()));
    let rendered: Vec<Rendered> = serde_json::from_str(&output).expect("results");
    assert_eq!(rendered.len(), jobs.len());
    rendered
}

/// Runs the program; what it wrote. Panics where it fails.
fn call(helm: &Path, arguments: &[&str], input: Option<&str>) -> String {
    let mut child = Command::new(helm)
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("packhorse-helm runs");
    if let Some(input) = input {
        // All of the input is read before anything is written.
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("the jobs are read");
    }
    let output = child.wait_with_output().expect("packhorse-helm ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    assert!(output.status.success(), "{arguments:?}: {}{}", text(output.stdout), text(output.stderr));
    text(output.stdout)
}

/// A YAML file of the chart.
fn yaml(file: &str) -> Value {
    let text = std::fs::read_to_string(Path::new(CHART).join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}
