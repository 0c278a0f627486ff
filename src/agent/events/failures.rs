//! Pods on a device that failed are told about it. Nothing else happens to them here: their containers keep running.

use std::sync::Arc;

use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{EventKind, Events};
use crate::agent::devices::HealthChange;
use crate::agent::pods::Pods;
use crate::gpu::device::Health;

/// Writes an Event about each pod whose allocation names a device that became unhealthy, until stopped.
pub async fn report_failures(
    mut changes: broadcast::Receiver<HealthChange>,
    pods: Arc<Pods>,
    events: Events,
    stop: CancellationToken,
) {
    loop {
        let change = match stop.run_until_cancelled(changes.recv()).await {
            Some(Ok(change)) => change,
            Some(Err(RecvError::Lagged(missed))) => {
                warn!("{missed} changes of devices' health came faster than pods could be told");
                continue;
            }
            Some(Err(RecvError::Closed)) | None => return,
        };
        if change.to == Health::Unhealthy {
            report(&change, &pods, &events);
        }
    }
}

fn report(change: &HealthChange, pods: &Pods, events: &Events) {
    let HealthChange { device, cause, .. } = change;
    let cause = cause.as_deref().unwrap_or("it is unhealthy");
    for pod in pods.list() {
        if pod.ended {
            continue;
        }
        let Some(Ok(allocation)) = &pod.allocation else { continue };
        let containers: Vec<&str> = allocation
            .containers
            .iter()
            .filter(|container| container.shares.iter().any(|share| share.device == *device))
            .map(|container| &*container.name)
            .collect();
        if !containers.is_empty() {
            let note = format!("{device}, allocated to {}, is unhealthy: {cause}", containers.join(", "));
            events.pod(&pod, EventKind::Warning, "GPUUnhealthy", &note);
        }
    }
}
