//! What pods leave behind when they are gone: pins, specifications, marks of foreign use, refusals. A pod is gone when it has ended, or
//! when a complete watch does not know it and the kubelet does not either; where the kubelet cannot be asked, everything stays.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Start;
use crate::agent::pins::Pin;

/// Between two looks where nothing changes: an earlier look may have found the kubelet away.
const EVERY: Duration = Duration::from_secs(60);
/// Changes of pods come in bursts.
const GATHER: Duration = Duration::from_millis(500);

impl Start {
    /// Collects what is left over until stopped.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut changes = self.parts.pods.changes();
        let work = async {
            self.collect_specifications().await;
            loop {
                self.sweep().await;
                tokio::select! {
                    // The pods outlive this task, which holds them.
                    _ = changes.changed() => tokio::time::sleep(GATHER).await,
                    () = tokio::time::sleep(EVERY) => {}
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// One look at all pods.
    pub async fn sweep(&self) {
        let parts = &self.parts;
        if !parts.pods.is_complete() {
            return;
        }
        self.refusals.retain(|uid| parts.pods.get(uid).is_none_or(|pod| !pod.ended));
        let mut refused = self.refusals.list();
        refused.retain(|uid, _| parts.pods.get(uid).is_none());
        let damaged = parts.pins.damaged();
        let (ended, damaged): (Vec<_>, Vec<_>) = damaged
            .into_iter()
            .filter(|uid| parts.pods.get(uid).is_none_or(|pod| pod.ended))
            .partition(|uid| parts.pods.get(uid).is_some());
        self.forget_damaged(ended).await;
        let mut unknown = Vec::new();
        for pin in parts.pins.list() {
            match parts.pods.get(&pin.uid) {
                Some(pod) if pod.ended => self.forget(&pin).await,
                Some(_) => {}
                None => unknown.push(pin),
            }
        }
        if unknown.is_empty() && refused.is_empty() && damaged.is_empty() {
            return;
        }
        match parts.identity.known().await {
            Ok(known) => {
                for pin in unknown.iter().filter(|pin| !known.has(&pin.uid, &pin.namespace, &pin.name)) {
                    self.forget(pin).await;
                }
                // The watch may lag behind the kubelet: asked for by name, they were there.
                self.refusals.retain(|uid| {
                    let name = refused.get(uid).and_then(|name| name.split_once('/'));
                    name.is_none_or(|(namespace, name)| known.has(uid, namespace, name))
                });
                self.forget_damaged(damaged.into_iter().filter(|uid| !known.uids.contains(&**uid)).collect()).await;
            }
            Err(error) => {
                tracing::warn!(%error, "whether pods that are gone from the API server still run here is not known; they keep their devices")
            }
        }
    }

    /// Forgets a pod that is gone.
    pub(super) async fn forget(&self, pin: &Pin) {
        let parts = &self.parts;
        tracing::info!(pod = %pin.full_name(), uid = %pin.uid, "the pod is gone; its devices are free");
        parts.standing.send_if_modified(|standing| {
            let before = standing.foreign.len();
            standing.foreign.retain(|_, foreign| *foreign.uid != *pin.uid);
            before != standing.foreign.len()
        });
        let (pins, specifications, uid) =
            (Arc::clone(&parts.pins), Arc::clone(&parts.specifications), Arc::clone(&pin.uid));
        // The pin first: a start that writes a specification meanwhile looks for the pin afterwards.
        let work = move || {
            if let Err(error) = pins.remove(&uid) {
                tracing::error!(%uid, %error, "the pin of a pod that is gone could not be removed");
            }
            if let Err(error) = specifications.forget_pod(&uid) {
                tracing::error!(%uid, %error, "specifications of a pod that is gone could not be removed");
            }
        };
        if tokio::task::spawn_blocking(work).await.is_ok() {
            parts.metrics.collect();
        }
    }

    /// Forgets pods that are gone and whose pins were damaged.
    async fn forget_damaged(&self, uids: Vec<Arc<str>>) {
        if uids.is_empty() {
            return;
        }
        let pins = Arc::clone(&self.parts.pins);
        let work = move || {
            for uid in uids {
                if let Err(error) = pins.remove_damaged(&uid) {
                    tracing::error!(%uid, %error, "the damaged pin of a pod that is gone could not be removed");
                }
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(work).await {
            tracing::error!(%error, "damaged pins of pods that are gone could not be removed");
        }
    }

    /// Removes specifications without a pin: nothing was verified that would entitle their containers to a device.
    async fn collect_specifications(&self) {
        let (pins, specifications) = (Arc::clone(&self.parts.pins), Arc::clone(&self.parts.specifications));
        let work = move || {
            let found = match specifications.on_disk() {
                Ok(found) => found,
                Err(error) => {
                    tracing::error!(%error, "left-over specifications could not be looked for");
                    return;
                }
            };
            // A pin is there before its specification is.
            for left in found.iter().filter(|found| pins.get(&found.pod_uid).is_none()) {
                tracing::warn!(name = %left.name, uid = %left.pod_uid, container = %left.container, "removing a specification of a pod without a pin");
                if let Err(error) = specifications.remove(&left.name) {
                    tracing::error!(name = %left.name, %error, "a left-over specification could not be removed");
                }
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(work).await {
            tracing::error!(%error, "left-over specifications could not be looked for");
        }
    }
}
