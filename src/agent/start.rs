//! The last check before a container starts. The kubelet asks with slots alone; here it is found out whose they are, whether that
//! pod's allocation is what it asked for and nobody else has, and then what the runtime reads next is written. Whatever is not certain is
//! refused: the container waits, the kubelet tries again.
//!
//! Called by the plugin. Writes pins, specifications and the list of refused and foreign pods; reads the view, the pods of the node, and
//! the kubelet's records. Once a pod is pinned, its containers start again without the API server.

mod fault;
mod give;
mod metrics;
mod refusals;
mod room;
mod sweep;
mod verify;
mod whose;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use fault::{Fault, Reason};
pub use metrics::Metrics;

use super::foreign::{Policy, Publication};
use super::identity::{Claimant, Identity};
use super::pins::Pins;
use super::pods::{Pods, Source};
use super::slots;
use super::specification::{Container, Specifications};
use super::standing::StandingSender;
use super::view::ViewReceiver;
use crate::gpu::allocation::Share;
use crate::gpu::device::ForeignPod;
use refusals::Refusals;
use whose::{Pod, Subject};

/// The kubelet gives up after 30 s (`KubeletPreStartContainerRPCTimeoutInSecs`); what it is told before that, people can read.
const DEADLINE: Duration = Duration::from_secs(25);

/// What `PreStartContainer` asks before it answers. The seam between the kubelet's interface and the check.
#[tonic::async_trait]
pub trait Starter: Send + Sync + std::fmt::Debug {
    /// Finds out whose `slots` of `resource` these are, verifies that pod's allocation, and writes what the runtime reads next.
    ///
    /// # Errors
    /// The container must not start; the kubelet shows the message in the pod's events and tries again.
    async fn prepare(&self, resource: &str, slots: &[String]) -> Result<(), Refusal>;
}

/// Why a container does not start, in words for the pod's author.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Refusal(pub String);

/// What the check reads and writes.
#[derive(Debug)]
pub struct Parts {
    /// This node's name.
    pub node: Arc<str>,
    /// Its devices.
    pub view: ViewReceiver,
    /// The pods bound to it.
    pub pods: Arc<Pods>,
    /// Where a pod is asked for that the watch does not know.
    pub source: Source,
    /// The kubelet's records.
    pub identity: Identity,
    /// What was verified before.
    pub pins: Arc<Pins>,
    /// What the runtime reads.
    pub specifications: Arc<Specifications>,
    /// Where refused and foreign pods are told of.
    pub standing: Arc<StandingSender>,
    /// What becomes of pods that came around Packhorse.
    pub foreign: Policy,
    /// Who tells the world of them.
    pub publication: Arc<dyn Publication>,
    /// Counts.
    pub metrics: Metrics,
}

/// The check.
#[derive(Debug)]
pub struct Start {
    parts: Parts,
    refusals: Refusals,
}

impl Start {
    /// Takes over the foreign pods that an earlier agent served.
    pub fn new(parts: Parts) -> Self {
        parts.metrics.damaged(parts.pins.damaged().len());
        let foreign: Vec<_> = parts.pins.list().into_iter().filter(|pin| pin.foreign.is_some()).collect();
        for pin in foreign {
            give::tell(&parts.standing, &pin);
        }
        let refusals = Refusals::new(Arc::clone(&parts.standing));
        Self { parts, refusals }
    }

    /// The check without its deadline and its bookkeeping.
    async fn check(&self, resource: &str, slots: &BTreeSet<String>) -> Result<(), Fault> {
        let told = if slots.is_empty() {
            Err(Fault::new(Reason::NoSlots, "the kubelet named no slots"))
        } else {
            let evidence = self.parts.identity.evidence(resource, slots).await;
            evidence.map_err(|error| Fault::new(Reason::Unreadable, format!("{error}; the kubelet tries again")))
        };
        let subject = self.whose(&told?).await?;
        let containers = || subject.claimants.iter().map(|claimant| Arc::clone(&claimant.container));
        match self.let_through(&subject, resource, slots).await {
            Ok(()) => {
                self.refusals.clear(subject.uid(), &subject.full_name(), containers());
                Ok(())
            }
            Err(fault) => {
                if fault.reason.lasts() {
                    self.refusals.add(subject.uid(), &subject.full_name(), containers(), &fault.message);
                }
                Err(fault)
            }
        }
    }

    /// Pins the pod, unless it is, and writes the specifications of the claimants.
    async fn let_through(&self, subject: &Subject, resource: &str, slots: &BTreeSet<String>) -> Result<(), Fault> {
        let view = Arc::clone(&self.parts.view.borrow());
        let asked = (resource, slots.len());
        let name_of = |claimant: &Claimant| format!("container {} of pod {}", claimant.container, subject.full_name());
        let pin = match &subject.pod {
            Pod::Pinned(pin) => {
                for claimant in &subject.claimants {
                    verify::claim(&name_of(claimant), pin.shares(&claimant.container), asked, &view, false)?;
                }
                Arc::clone(pin)
            }
            Pod::Bound(pod) => {
                let pin = self.pin_for(pod, subject, &view)?;
                for claimant in &subject.claimants {
                    verify::claim(&name_of(claimant), pin.shares(&claimant.container), asked, &view, true)?;
                }
                self.take(pin, &view).await?
            }
        };
        self.store(&pin.uid).await?;
        if pin.foreign.is_some() {
            self.announce(&pin, subject).await?;
        }
        let mut specifications = Vec::new();
        for claimant in &subject.claimants {
            let shares = pin.shares(&claimant.container).unwrap_or_default();
            self.note_slots(slots, shares);
            let Some(name) = claimant.device.clone() else { continue };
            let mut devices = Vec::new();
            for share in shares {
                let (Some(device), Some(card)) = (view.device(&share.device), view.card_of(&share.device)) else {
                    // Verified above against the same snapshot; only its card can be missing.
                    let message = format!("the card of device {} is not known; the kubelet tries again", share.device);
                    return Err(Fault::new(Reason::NoDevices, message));
                };
                devices.push((device.clone(), card.clone()));
            }
            specifications.push(Container {
                name,
                pod_uid: Arc::clone(&pin.uid),
                container: Arc::clone(&claimant.container),
                slots: slots.iter().cloned().collect(),
                devices,
            });
        }
        let writer = Arc::clone(&self.parts.specifications);
        let work = move || specifications.iter().try_for_each(|specification| writer.write(specification));
        let written = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string());
        written.and_then(|written| written.map_err(|error| error.to_string())).map_err(|problem| {
            let message =
                format!("what the runtime reads for pod {} cannot be written: {problem}", subject.full_name());
            Fault::new(Reason::Specification, message)
        })?;
        if self.parts.pins.get(&pin.uid).is_some() {
            return Ok(());
        }
        // Forgotten while we wrote: its devices may be another's by now.
        let (writer, uid) = (Arc::clone(&self.parts.specifications), Arc::clone(&pin.uid));
        let removed = tokio::task::spawn_blocking(move || writer.forget_pod(&uid)).await;
        match removed.map_err(|error| error.to_string()) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(uid = %pin.uid, %error, "specifications of a pod that is gone could not be removed")
            }
            Err(error) => {
                tracing::error!(uid = %pin.uid, error, "specifications of a pod that is gone could not be removed")
            }
        }
        Err(forgotten(&pin.uid))
    }

    async fn store(&self, uid: &Arc<str>) -> Result<(), Fault> {
        let (pins, pod) = (Arc::clone(&self.parts.pins), Arc::clone(uid));
        let stored = tokio::task::spawn_blocking(move || pins.store(&pod)).await.map_err(|error| error.to_string());
        stored.and_then(|stored| stored.map_err(|error| error.to_string())).map_err(|problem| {
            if self.parts.pins.get(uid).is_none() {
                return forgotten(uid);
            }
            let message = format!(
                "what was verified for the pod of UID {uid} cannot be kept in the agent's state directory: {problem}"
            );
            Fault::new(Reason::State, message)
        })
    }

    /// Whether others who go by slots see the container on the devices that it really has.
    fn note_slots(&self, ids: &BTreeSet<String>, shares: &[Share]) {
        let by_slots: BTreeSet<&str> = ids.iter().filter_map(|id| slots::device(id)).collect();
        let given: BTreeSet<&str> = shares.iter().map(|share| &*share.device).collect();
        self.parts.metrics.slots(by_slots == given);
    }
}

/// The pod was found gone while its container was being let through.
fn forgotten(uid: &str) -> Fault {
    let message = format!("the pod of UID {uid} was found gone while its container started; the kubelet tries again");
    Fault::new(Reason::Gone, message)
}

#[tonic::async_trait]
impl Starter for Start {
    async fn prepare(&self, resource: &str, slots: &[String]) -> Result<(), Refusal> {
        let began = Instant::now();
        let slots: BTreeSet<String> = slots.iter().cloned().collect();
        let checked = tokio::time::timeout(DEADLINE, self.check(resource, &slots)).await;
        let checked = checked.unwrap_or_else(|_| {
            let message = format!("the check took longer than {DEADLINE:?}; the kubelet tries again");
            Err(Fault::new(Reason::Deadline, message))
        });
        match checked {
            Ok(()) => {
                self.parts.metrics.start(began.elapsed());
                Ok(())
            }
            Err(fault) => {
                self.parts.metrics.refuse(fault.reason, began.elapsed());
                tracing::warn!(
                    resource,
                    ?slots,
                    reason = fault.reason.as_str(),
                    fault.message,
                    "a container was refused"
                );
                Err(fault.into())
            }
        }
    }
}
