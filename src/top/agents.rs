//! Which pods are the agents, and where they serve their metrics: by the labels and the port's name that the chart gives them, in the
//! namespace of Packhorse alone, so that nobody else's pod can speak for a node. Fed with pods as JSON, read by the command.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// The labels of the chart's `DaemonSet`.
pub const LABELS: [(&str, &str); 2] =
    [("app.kubernetes.io/name", "packhorse"), ("app.kubernetes.io/component", "agent")];
/// The name of the container port that serves `/metrics`.
pub const PORT: &str = "metrics";

/// An agent's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The node that it speaks for.
    pub node: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where it serves; `None` where no container port has the name.
    pub port: Option<u16>,
    /// `status.phase`.
    pub phase: String,
    ready: bool,
    terminating: bool,
}

/// All of them, by node.
#[derive(Debug, Default)]
pub struct Agents {
    /// The one to ask: of several on one node, the one that is ready and stays.
    pub by_node: BTreeMap<String, Agent>,
    /// Other namespaces that have pods with these labels.
    pub elsewhere: BTreeSet<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodPart {
    metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: String,
    labels: Option<BTreeMap<String, String>>,
    deletion_timestamp: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
    containers: Vec<Container>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    ports: Option<Vec<Port>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Port {
    name: Option<String>,
    container_port: u16,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: Option<String>,
    conditions: Option<Vec<Condition>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl Agent {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn rank(&self) -> (bool, bool, bool) {
        (!self.terminating, self.ready, self.phase == "Running")
    }
}

impl Agents {
    /// Looks at one pod. One that cannot be read is no agent; [`crate::inspect::Builder`] tells of it.
    pub fn pod(&mut self, object: &str, namespace: &str) {
        // Most pods are none: spares reading them.
        if !object.contains(LABELS[1].0) {
            return;
        }
        let Ok(PodPart { metadata, spec, status }) = serde_json::from_str(object) else { return };
        let labels = metadata.labels.unwrap_or_default();
        if !LABELS.iter().all(|(key, value)| labels.get(*key).is_some_and(|it| it == value)) {
            return;
        }
        if metadata.namespace != namespace {
            self.elsewhere.insert(metadata.namespace);
            return;
        }
        let Some(node) = spec.node_name.filter(|node| !node.is_empty()) else { return };
        let mut ports = spec.containers.into_iter().flat_map(|container| container.ports.unwrap_or_default());
        let port = ports.find(|port| port.name.as_deref() == Some(PORT));
        let mut conditions = status.conditions.unwrap_or_default().into_iter();
        let agent = Agent {
            node,
            namespace: metadata.namespace,
            name: metadata.name,
            port: port.map(|port| port.container_port),
            phase: status.phase.unwrap_or_else(|| "Pending".to_owned()),
            ready: conditions.any(|condition| condition.kind == "Ready" && condition.status == "True"),
            terminating: metadata.deletion_timestamp.is_some(),
        };
        let known = self.by_node.get(&agent.node);
        if known.is_none_or(|known| known.rank() < agent.rank()) {
            self.by_node.insert(agent.node.clone(), agent);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: &str, ready: &str) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "packhorse-system", "labels": {
                "app.kubernetes.io/name": "packhorse", "app.kubernetes.io/component": "agent"}},
            "spec": {"nodeName": node, "containers": [
                {"name": "sidecar"},
                {"name": "agent", "ports": [{"name": "other", "containerPort": 1}, {"name": "metrics", "containerPort": 9482}]}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    fn found(pods: &[Value]) -> Agents {
        let mut agents = Agents::default();
        pods.iter().for_each(|pod| agents.pod(&pod.to_string(), "packhorse-system"));
        agents
    }

    #[test]
    fn an_agent_is_known_by_its_labels_namespace_and_port() {
        let agents = found(&[pod("agent-x", "a", "True")]);
        let agent = &agents.by_node["a"];
        assert_eq!((agent.full_name().as_str(), agent.port), ("packhorse-system/agent-x", Some(9482)));

        let mut other = pod("x", "a", "True");
        other["metadata"]["labels"]["app.kubernetes.io/component"] = json!("server");
        let mut foreign = pod("x", "b", "True");
        foreign["metadata"]["namespace"] = json!("tenant");
        let mut unbound = pod("x", "c", "True");
        unbound["spec"]["nodeName"] = Value::Null;
        let agents = found(&[other, foreign, unbound, json!("app.kubernetes.io/component")]);
        assert!(agents.by_node.is_empty(), "{agents:?}");
        assert_eq!(agents.elsewhere.into_iter().collect::<Vec<_>>(), ["tenant"], "told, not believed");

        let mut portless = pod("x", "a", "True");
        portless["spec"]["containers"] = json!([{"name": "agent"}]);
        assert_eq!(found(&[portless]).by_node["a"].port, None);
    }

    #[test]
    fn of_two_on_one_node_the_one_that_serves_is_asked() {
        let mut leaving = pod("leaving", "a", "True");
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let mut ended = pod("ended", "a", "False");
        ended["status"]["phase"] = json!("Failed");
        for (worse, better) in [
            (leaving.clone(), pod("new", "a", "False")),
            (ended, pod("new", "a", "False")),
            (pod("old", "a", "False"), pod("new", "a", "True")),
        ] {
            for order in [[worse.clone(), better.clone()], [better, worse]] {
                assert_eq!(found(&order).by_node["a"].name, "new", "{order:?}");
            }
        }
    }
}
