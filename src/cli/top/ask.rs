//! Asks the agents for their metrics, through the API server's proxy to pods: so many at once, each within its time. What one does not
//! tell is said in words with the remedy, and the others go on; only a missing permission ends it, for it is the same with all.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use kube::client::Body;

use crate::cli::access::Reached;
use crate::top::agents::{Agent, Agents, LABELS, PORT};
use crate::top::usage::{self, NodeUsage};

/// So many agents are asked at the same time.
const AT_ONCE: usize = 32;
/// More than an agent with hundreds of containers writes.
const LONGEST: usize = 16 << 20;

/// Why an agent told nothing.
enum Fault {
    /// The API server does not allow it to us.
    Forbidden(String),
    /// In words, with the remedy.
    Silent(String),
}

/// What the agents of these nodes tell, or why one does not.
///
/// # Errors
/// No permission, naming it.
pub(super) async fn all(
    reached: &Reached,
    agents: &Agents,
    nodes: &[&str],
    namespace: &str,
    timeout: Duration,
) -> anyhow::Result<Vec<(String, Result<NodeUsage, String>)>> {
    let asked = futures::stream::iter(nodes.iter().copied()).map(|node| async move {
        let answer = match agents.by_node.get(node) {
            Some(agent) => one(reached, agent, timeout).await,
            None => Err(Fault::Silent(missing(agents, namespace))),
        };
        (node, answer)
    });
    let mut answers = Vec::new();
    let mut asked = asked.buffer_unordered(AT_ONCE);
    while let Some((node, answer)) = asked.next().await {
        let answer = match answer {
            Ok(usage) => Ok(usage),
            Err(Fault::Silent(why)) => Err(why),
            Err(Fault::Forbidden(message)) => bail!(
                "the API server does not let us ask the agents: {message}; allow get of pods/proxy in namespace {namespace}"
            ),
        };
        answers.push((node.to_owned(), answer));
    }
    Ok(answers)
}

fn missing(agents: &Agents, namespace: &str) -> String {
    let [name, component] = LABELS.map(|(key, value)| format!("{key}={value}"));
    let mut why = format!("no agent's pod ({name},{component}) runs there in namespace {namespace}: ");
    if agents.by_node.is_empty() && !agents.elsewhere.is_empty() {
        let elsewhere: Vec<&str> = agents.elsewhere.iter().map(String::as_str).collect();
        why += &format!("there are such in {}; give --system-namespace", elsewhere.join(", "));
    } else {
        why += "packhorse check";
    }
    why
}

async fn one(reached: &Reached, agent: &Agent, timeout: Duration) -> Result<NodeUsage, Fault> {
    let name = agent.full_name();
    let (namespace, pod) = (&agent.namespace, &agent.name);
    let Some(port) = agent.port else {
        return Err(Fault::Silent(format!("its agent's pod {name} has no container port named {PORT}: name it so")));
    };
    if agent.phase != "Running" {
        return Err(Fault::Silent(format!(
            "its agent's pod {name} is {}: kubectl -n {namespace} describe pod {pod}",
            agent.phase
        )));
    }
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/metrics");
    let text = match tokio::time::timeout(timeout, get(reached, &path)).await {
        Ok(answer) => answer,
        Err(_) => Err(Fault::Silent(format!("no answer within {} s; --timeout allows more", timeout.as_secs()))),
    };
    let reach = format!("is port {port} open from the API server to the pod? kubectl -n {namespace} logs {pod}");
    let text = text.map_err(|fault| match fault {
        Fault::Silent(why) => Fault::Silent(format!("its agent {name} does not answer: {why}; {reach}")),
        forbidden @ Fault::Forbidden(_) => forbidden,
    })?;
    let usage = usage::read(&agent.node, &text).map_err(|unusable| {
        Fault::Silent(format!("the answer of its agent {name} cannot be used: {unusable}; is it of another version?"))
    })?;
    if usage == NodeUsage::default() {
        return Err(Fault::Silent(format!(
            "its agent {name} tells of no use: it is of an earlier version, or has no devices; kubectl -n {namespace} logs {pod}"
        )));
    }
    Ok(usage)
}

async fn get(reached: &Reached, path: &str) -> Result<String, Fault> {
    let asked = async {
        let request = axum::http::Request::get(path).body(Body::empty()).context("the request cannot be made")?;
        let response = reached.once.send(request).await.map_err(anyhow::Error::new)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await.map_err(|error| {
            let long = error.downcast_ref::<LengthLimitError>().is_some();
            if long { anyhow::anyhow!("more than {} MiB", LONGEST >> 20) } else { anyhow::anyhow!("{error}") }
        })?;
        anyhow::Ok((status.as_u16(), body.to_bytes()))
    };
    let (status, body) = asked.await.map_err(|error| Fault::Silent(format!("{error:#}")))?;
    if status == 200 {
        return String::from_utf8(body.into()).map_err(|_| Fault::Silent("no text came".to_owned()));
    }
    // The API server's own refusals are Status objects; what the agent answers is passed on as it is.
    let message = serde_json::from_slice::<serde_json::Value>(&body).ok().filter(|body| body["kind"] == "Status");
    let message = message.and_then(|status| Some(status["message"].as_str()?.to_owned()));
    match (status, message) {
        (401 | 403, Some(message)) => Err(Fault::Forbidden(message)),
        (_, Some(message)) => Err(Fault::Silent(message)),
        (_, None) => Err(Fault::Silent(format!("HTTP status {status}"))),
    }
}
