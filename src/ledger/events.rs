//! Writes the Events about damaged objects, a few a second at most.

use std::time::Duration;

use kube::Client;
use kube::api::PostParams;
use kube::core::Request;
use serde_json::json;

use super::Ledger;
use super::report::Report;
use crate::kube_api::names::SCHEDULER;

/// Between two Events: a cluster full of damage is not to become a flood of writes.
const PAUSE: Duration = Duration::from_millis(500);
/// An Event that takes longer is given up; the log has it.
const PATIENCE: Duration = Duration::from_secs(10);

impl Ledger {
    /// Writes what is reported until the future is dropped.
    pub(super) async fn write_events(&self, client: &Client) {
        let mut waiting = self.reports.waiting.lock().await;
        while let Some(report) = waiting.recv().await {
            if !self.settings().events {
                continue;
            }
            match tokio::time::timeout(PATIENCE, write(client, &report)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(kind = report.kind, name = report.name, %error, "an Event could not be written");
                }
                Err(_) => tracing::warn!(kind = report.kind, name = report.name, "an Event took too long"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn write(client: &Client, report: &Report) -> anyhow::Result<()> {
    // Events about nodes live in the namespace `default`, as the kubelet's do.
    let namespace = if report.namespace.is_empty() { "default" } else { &report.namespace };
    let now = jiff::Timestamp::now().round(jiff::Unit::Second)?.to_string();
    let mut involved = json!({"kind": report.kind, "apiVersion": "v1", "name": report.name, "uid": report.uid});
    if !report.namespace.is_empty() {
        involved["namespace"] = json!(report.namespace);
    }
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": "packhorse-", "namespace": namespace},
        "involvedObject": involved,
        "type": "Warning",
        "reason": report.reason,
        "message": report.message,
        "source": {"component": SCHEDULER},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    });
    let path = format!("/api/v1/namespaces/{namespace}/events");
    let request = Request::new(path).create(&PostParams::default(), serde_json::to_vec(&event)?)?;
    client.request_text(request).await?;
    Ok(())
}
