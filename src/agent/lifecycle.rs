//! When the agent takes part: what has to be in place before the kubelet hears of it, and what has to be finished before it leaves.
//!
//! Start: totals on the Node, then plugins registered, then `ready:true`. A kubelet that restarts takes `ready` away until the plugins
//! are registered again: a pod bound in between would be failed by it. End: `ready:false` first, then the pods that are already
//! bound are waited for, and only then the sockets close, because a kubelet without plugin fails a pod that it admits.
//!
//! Nothing here waits for ever: an API server that is away must not keep containers of a node from starting again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::identity::Identity;
use super::plugin::Plugins;
use super::pods::{NodePod, Pods};
use super::publish::{Confirmed, Deploy};
use super::standing::StandingSender;

/// How long the totals may take before the plugins are registered without them.
const TOTALS_PATIENCE: Duration = Duration::from_secs(30);
/// How long `ready:false` may take to arrive.
const FAREWELL: Duration = Duration::from_secs(5);
/// From `ready:false` on the Node until no bind can be on its way that was decided before: a watch event and a bind, with room.
const LATE_BINDS: Duration = Duration::from_secs(1);
/// How often the kubelet is asked whether it has admitted the bound pods.
const LOOK: Duration = Duration::from_millis(200);

/// The order in which things start and end.
#[derive(Debug)]
pub struct Lifecycle {
    /// Where `ready` is said.
    pub standing: Arc<StandingSender>,
    /// What has arrived at the API server of it.
    pub confirmed: watch::Receiver<Option<Confirmed>>,
    /// Whether the Node has the totals.
    pub totals_written: watch::Receiver<bool>,
    /// Whether an administrator wants a device plugin on this node.
    pub deploy: watch::Receiver<Deploy>,
    /// Who is bound here.
    pub pods: Arc<Pods>,
    /// What the kubelet has admitted.
    pub identity: Identity,
    /// What is registered with the kubelet.
    pub plugins: Arc<Plugins>,
    /// How long bound pods are waited for at the end.
    pub drain_timeout: Duration,
}

impl Lifecycle {
    /// Serves until stopped; returns when everything is in order again.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let wanted = async {
                // An unreachable API server says neither yes nor no: what runs on the node must be able to start again.
                if !within(TOTALS_PATIENCE, &mut self.deploy, |deploy| *deploy != Deploy::Unknown).await {
                    tracing::warn!("the Node cannot be read: serving the kubelet without it");
                    return;
                }
                when(&mut self.deploy, |deploy| deploy.serves()).await;
            };
            if stop.run_until_cancelled(wanted).await.is_none() {
                return;
            }
            let totals = within(TOTALS_PATIENCE, &mut self.totals_written, |written| *written);
            match stop.run_until_cancelled(totals).await {
                None => return,
                Some(false) => tracing::warn!("the totals cannot be written: serving the kubelet without them"),
                Some(true) => {}
            }
            self.serve(&stop).await;
        }
    }

    /// Registered with the kubelet until stopped, or until the node is not ours to serve any more.
    async fn serve(&mut self, stop: &CancellationToken) {
        let leave = CancellationToken::new();
        // Sockets close even where this future is dropped.
        let _leave = leave.clone().drop_guard();
        let serving = tokio::spawn(Arc::clone(&self.plugins).run(leave.clone()));
        let mut registered = self.plugins.registered();
        loop {
            let ready = *registered.borrow_and_update() && self.deploy.borrow_and_update().takes_pods();
            if self.set_ready(ready) {
                tracing::info!(
                    ready,
                    "{}",
                    if ready {
                        "serving the kubelet"
                    } else {
                        "the node takes no new pods: not registered, or the driver is renewed"
                    }
                );
            }
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = registered.changed() => {}
                Ok(()) = self.deploy.changed() => {
                    if *self.deploy.borrow() == Deploy::Nothing {
                        break;
                    }
                }
            }
        }
        self.drain().await;
        leave.cancel();
        if let Err(error) = serving.await {
            tracing::error!(%error, "the device plugins ended by a defect");
        }
    }

    /// Whether that was news.
    fn set_ready(&self, ready: bool) -> bool {
        self.standing.send_if_modified(|standing| std::mem::replace(&mut standing.ready, ready) != ready)
    }

    /// No new pods, and those that are bound are admitted by the kubelet.
    async fn drain(&mut self) {
        let deadline = Instant::now() + self.drain_timeout;
        self.set_ready(false);
        let patience = FAREWELL.min(self.drain_timeout);
        if within(patience, &mut self.confirmed, |it| it.as_ref().is_some_and(|it| !it.standing.ready)).await {
            sleep(LATE_BINDS).await;
        } else {
            tracing::warn!("the Node still says ready: the API server does not answer");
        }
        loop {
            let waiting = match self.identity.admitted().await {
                Ok(admitted) => unadmitted(&self.pods.list(), |uid| admitted.contains(uid)),
                Err(error) => {
                    tracing::debug!(%error, "who has been admitted is not known");
                    unadmitted(&self.pods.list(), |_| false)
                }
            };
            if waiting.is_empty() {
                return;
            }
            if Instant::now() >= deadline {
                tracing::warn!(pods = %waiting.join(", "), "leaving before the kubelet has admitted these bound pods");
                return;
            }
            sleep(LOOK).await;
        }
    }
}

/// Whether it becomes so in time.
async fn within<T>(patience: Duration, value: &mut watch::Receiver<T>, holds: impl Fn(&T) -> bool) -> bool {
    timeout(patience, when(value, holds)).await.is_ok()
}

/// Returns when it is so; never, where its sender is gone: the process is ending then.
async fn when<T>(value: &mut watch::Receiver<T>, holds: impl Fn(&T) -> bool) {
    loop {
        if holds(&value.borrow_and_update()) {
            return;
        }
        if value.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Live pods bound here that wait for slots which the kubelet has not given them.
fn unadmitted(pods: &[Arc<NodePod>], admitted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut names: Vec<String> = pods
        .iter()
        .filter(|pod| !pod.ended && !pod.deleting && !pod.slots.is_empty() && !admitted(&pod.uid))
        .map(|pod| pod.full_name())
        .collect();
    names.sort();
    names
}
