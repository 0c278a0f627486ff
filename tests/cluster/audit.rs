//! What the API server's audit log says of who wrote what.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Packhorse's server, and the kube-scheduler beside it, which has the same `ServiceAccount` and another user agent.
pub(crate) const SERVER: &str = "system:serviceaccount:packhorse-system:packhorse-server";

/// All writes, by whom; without bodies.
pub(crate) fn policy() -> String {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "verbs": ["get", "list", "watch"]},
            {"level": "None", "resources": [{"group": "coordination.k8s.io"}]},
            {"level": "Metadata"},
        ],
    })
    .to_string()
}

/// One write.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) user: String,
    pub(crate) agent: String,
    pub(crate) verb: String,
    /// With the subresource: `pods/binding`.
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) status: u64,
}

impl Write {
    /// Whether `packhorse server` made it, not the scheduler that shares its account.
    pub(crate) fn by_packhorse(&self) -> bool {
        self.user == SERVER && !self.agent.starts_with("kube-scheduler")
    }
}

/// The log of one lab.
#[derive(Debug, Clone)]
pub(crate) struct Audit {
    pub(crate) path: PathBuf,
}

impl Audit {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { path: directory.join("audit.log") }
    }

    /// All writes so far that `wanted` keeps, in order of completion.
    pub(crate) fn writes(&self, wanted: impl Fn(&Write) -> bool) -> Vec<Write> {
        let log = fs::read_to_string(&self.path).unwrap_or_default();
        log.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|event| event["stage"] == "ResponseComplete")
            .map(|event| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let object = &event["objectRef"];
                let mut resource = text(&object["resource"]);
                if let Some(subresource) = object["subresource"].as_str() {
                    resource = format!("{resource}/{subresource}");
                }
                Write {
                    user: text(&event["user"]["username"]),
                    agent: text(&event["userAgent"]),
                    verb: text(&event["verb"]),
                    resource,
                    namespace: text(&object["namespace"]),
                    name: text(&object["name"]),
                    status: event["responseStatus"]["code"].as_u64().unwrap_or(0),
                }
            })
            .filter(|write| wanted(write))
            .collect()
    }
}
