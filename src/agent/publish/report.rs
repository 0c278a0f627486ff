//! Events about the node, for `kubectl describe node`. One try each: the log has them too.

use std::time::Duration;

use kube::Client;
use kube::api::PostParams;
use kube::core::Request;
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(10);
const COMPONENT: &str = "packhorse-agent";

/// Writes a warning about this node in the background.
pub(super) fn warn(client: &Client, node: &str, uid: &str, reason: &'static str, message: String) {
    let (client, node, uid) = (client.clone(), node.to_owned(), uid.to_owned());
    tokio::spawn(async move {
        match tokio::time::timeout(PATIENCE, write(&client, &node, &uid, reason, &message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(reason, %error, "an Event about the node could not be written"),
            Err(_) => tracing::warn!(reason, "an Event about the node took too long"),
        }
    });
}

async fn write(client: &Client, node: &str, uid: &str, reason: &str, message: &str) -> Result<(), kube::Error> {
    let now = format!("{:.0}", jiff::Timestamp::now());
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        // Events about nodes live in the namespace `default`, as the kubelet's do.
        "metadata": {"generateName": "packhorse-", "namespace": "default"},
        "involvedObject": {"kind": "Node", "apiVersion": "v1", "name": node, "uid": uid},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "source": {"component": COMPONENT, "host": node},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    });
    let body = serde_json::to_vec(&event).map_err(kube::Error::SerdeError)?;
    let request = Request::new("/api/v1/namespaces/default/events").create(&PostParams::default(), body);
    client.request_text(request.map_err(kube::Error::BuildRequest)?).await.map(drop)
}
