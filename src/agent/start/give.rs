//! From a pod to its pin: what the extender gave it, or for a foreign pod what is free; and the place among the pods pinned before.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::fault::{Fault, Reason};
use super::room::{self, Full};
use super::whose::Subject;
use super::{ForeignPod, Policy, Start, verify};
use crate::agent::foreign;
use crate::agent::pins::{Announced, Pin};
use crate::agent::pods::{NodePod, Origin};
use crate::agent::specification::Form;
use crate::agent::standing::StandingSender;
use crate::agent::view::NodeView;
use crate::gpu::device::Device;

impl Start {
    /// What is to be pinned, not yet held against other pods.
    pub(super) fn pin_for(&self, pod: &NodePod, subject: &Subject, view: &NodeView) -> Result<Pin, Fault> {
        let served = pod.origin == Origin::Foreign && *pod.node == *self.parts.node && !pod.ended;
        let (allocation, foreign) = if served {
            (self.choose(pod, subject, view)?, Some(Announced::No))
        } else {
            (verify::allocation(pod, &self.parts.node, view)?, None)
        };
        Ok(Pin {
            uid: Arc::clone(&pod.uid),
            namespace: Arc::clone(&pod.namespace),
            name: Arc::clone(&pod.name),
            phases: pod.containers.clone(),
            allocation,
            foreign,
        })
    }

    /// Takes the pin in beside those of all other live pods. A pod that was deleted a moment ago does not stand in the way: whoever does is
    /// asked after first.
    pub(super) async fn take(&self, pin: Pin, view: &NodeView) -> Result<Arc<Pin>, Fault> {
        let name = pin.full_name();
        let mut alive: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut gone: BTreeSet<Arc<str>> = BTreeSet::new();
        let exclusive =
            pin.allocation.containers.iter().flat_map(|container| &container.shares).any(|share| share.exclusive);
        let unpinned = self.unpinned(&pin.uid, exclusive)?;
        loop {
            let Full { device, what, holders } = match self.parts.pins.reserve(pin.clone(), |pinned| {
                let known = |other: &Pin| other.uid == pin.uid || pinned.iter().any(|pin| pin.uid == other.uid);
                let others = pinned.iter().chain(unpinned.iter().filter(|other| !known(other)));
                let others: Vec<_> = others.filter(|other| !gone.contains(&other.uid)).cloned().collect();
                room::check(view, &pin, &others)
            }) {
                Ok(pin) => return Ok(pin),
                Err(full) => full,
            };
            if holders.is_empty() {
                let message = format!(
                    "the containers of pod {name} together are given more of device {device} than it has ({what}); delete the pod, so that it \
                     is created and scheduled again"
                );
                return Err(Fault::new(Reason::Amount, message));
            }
            let unsure: Vec<_> = holders.iter().filter(|holder| !alive.contains(&holder.uid)).collect();
            if unsure.is_empty() {
                let names: BTreeSet<String> = holders.iter().map(|holder| holder.full_name()).collect();
                let names = names.into_iter().collect::<Vec<_>>().join(", ");
                let message = format!(
                    "device {device} has no room for pod {name} ({what}): it is held by {names}; delete the pod, so that it is created and \
                     scheduled again"
                );
                return Err(Fault::new(Reason::Conflict, message));
            }
            for holder in unsure {
                if self.is_alive(holder).await? {
                    alive.insert(Arc::clone(&holder.uid));
                } else {
                    self.forget(holder).await;
                    gone.insert(Arc::clone(&holder.uid));
                }
            }
        }
    }

    /// Pods whose pins were damaged, as the API server knows them: they started before, and still hold what they were given. What a
    /// foreign one was given it does not know; then nobody else gets a device for himself.
    fn unpinned(&self, uid: &str, exclusive: bool) -> Result<Vec<Arc<Pin>>, Fault> {
        let damaged = self.parts.pins.damaged();
        if damaged.is_empty() {
            return Ok(Vec::new());
        }
        if !self.parts.pods.is_complete() {
            let message = "what pods with damaged pins hold is not known before the API server has told of them; the kubelet tries again";
            return Err(Fault::new(Reason::Unconfirmed, message));
        }
        let live: Vec<_> = damaged.iter().filter_map(|uid| self.parts.pods.get(uid)).filter(|pod| !pod.ended).collect();
        let unread =
            |pod: &&Arc<NodePod>| *pod.uid != *uid && !pod.slots.is_empty() && !matches!(pod.allocation, Some(Ok(_)));
        if exclusive && let Some(pod) = live.iter().find(unread) {
            let message = format!(
                "what was verified for pod {} was damaged on disk, and no annotation says which devices it holds: nobody gets a whole device                  before it is gone; delete it",
                pod.full_name()
            );
            return Err(Fault::new(Reason::Unconfirmed, message));
        }
        let pins = live.iter().filter_map(|pod| {
            let allocation = pod.allocation.as_ref()?.as_ref().ok()?.clone();
            Some(Arc::new(Pin {
                uid: Arc::clone(&pod.uid),
                namespace: Arc::clone(&pod.namespace),
                name: Arc::clone(&pod.name),
                phases: pod.containers.clone(),
                allocation,
                foreign: None,
            }))
        });
        Ok(pins.collect())
    }

    /// Sees to it that the world knows of a foreign pod's devices.
    pub(super) async fn announce(&self, pin: &Pin, subject: &Subject) -> Result<(), Fault> {
        if self.parts.pins.get(&pin.uid).is_some_and(|pin| pin.foreign == Some(Announced::Yes)) {
            return Ok(());
        }
        tell(&self.parts.standing, pin);
        let name = subject.full_name();
        if let Err(problem) = self.parts.publication.published().await {
            let message = format!(
                "pod {name} did not come through Packhorse; that it uses a device could not be published: {problem}; the kubelet tries again"
            );
            return Err(Fault::new(Reason::Publication, message));
        }
        if let Some(other) = self.booked(pin) {
            // Bound while we published: its devices are its own.
            self.forget(pin).await;
            let message = format!(
                "pod {name} did not come through Packhorse, and its device was given to {other} meanwhile; the kubelet tries again"
            );
            return Err(Fault::new(Reason::Publication, message));
        }
        self.parts.pins.announced(&pin.uid);
        self.store(&pin.uid).await
    }

    /// Whole free devices, if the policy is to serve.
    fn choose(
        &self,
        pod: &NodePod,
        subject: &Subject,
        view: &NodeView,
    ) -> Result<crate::gpu::allocation::Allocation, Fault> {
        let name = pod.full_name();
        if self.parts.foreign == Policy::Refuse {
            let message = format!(
                "pod {name} asks for GPUs and did not come through Packhorse: let the scheduler named packhorse place it (no spec.nodeName, \
                 no other spec.schedulerName) in a namespace that Packhorse's webhook serves"
            );
            return Err(Fault::new(Reason::Foreign, message));
        }
        let unnamed = subject.claimants.iter().any(|claimant| claimant.device.is_none());
        if unnamed || self.parts.specifications.form() == Form::None {
            let message = format!(
                "pod {name} did not come through Packhorse, and this node's container runtime, which has no CDI, cannot be told of its devices"
            );
            return Err(Fault::new(Reason::NoCdi, message));
        }
        let none = |why: &str| {
            let message =
                format!("pod {name} did not come through Packhorse, and there is no free device for it: {why}");
            Fault::new(Reason::NoFreeDevice, message)
        };
        if !self.parts.pods.is_complete() {
            return Err(Fault::new(
                Reason::ApiServer,
                format!(
                    "pod {name} did not come through Packhorse, and which devices are free is not known yet; the kubelet tries again"
                ),
            ));
        }
        let cordoned = self.parts.publication.cordoned();
        let Some(held) = self.held() else {
            return Err(none("another pod's allocation cannot be read"));
        };
        let free = |device: &Device| {
            let out = |uuid: &Arc<str>| cordoned.contains(uuid) || held.contains(uuid);
            !out(&device.uuid) && !device.parent.as_ref().is_some_and(|card| cordoned.contains(card))
        };
        foreign::choose(pod, view, free).map_err(|why| none(&why))
    }

    /// Every device that a live pod holds, started or not; `None` where that cannot be known.
    fn held(&self) -> Option<BTreeSet<Arc<str>>> {
        let mut held = BTreeSet::new();
        for pod in self.parts.pods.list().iter().filter(|pod| !pod.ended) {
            if let Some(allocation) = &pod.allocation {
                let allocation = allocation.as_ref().ok()?;
                held.extend(allocation.holdings(&pod.containers).into_iter().map(|holding| holding.device));
            }
        }
        for pin in self.parts.pins.list() {
            held.extend(pin.holdings().into_iter().map(|holding| holding.device));
        }
        Some(held)
    }

    /// A pod of the extender's that holds one of the devices.
    fn booked(&self, pin: &Pin) -> Option<String> {
        let devices: BTreeSet<_> = pin.holdings().into_iter().map(|holding| holding.device).collect();
        let pods = self.parts.pods.list();
        let other = pods.iter().filter(|pod| !pod.ended && pod.uid != pin.uid).find(|pod| {
            let given = pod.allocation.as_ref().and_then(|allocation| allocation.as_ref().ok());
            given.is_some_and(|given| given.holdings(&pod.containers).iter().any(|h| devices.contains(&h.device)))
        });
        other.map(|pod| pod.full_name())
    }

    /// Whether a pinned pod still lives: by the API server, or where that is away by the kubelet.
    async fn is_alive(&self, pin: &Pin) -> Result<bool, Fault> {
        if self.parts.pods.get(&pin.uid).is_some_and(|pod| pod.ended) {
            return Ok(false);
        }
        let error = match self.parts.source.pod(&pin.namespace, &pin.name).await {
            Ok(pod) => return Ok(pod.is_some_and(|pod| pod.uid == pin.uid && !pod.ended)),
            Err(error) => error,
        };
        match self.parts.identity.known().await {
            Ok(known) => Ok(known.has(&pin.uid, &pin.namespace, &pin.name)),
            Err(unknown) => {
                let name = pin.full_name();
                let message = format!(
                    "the device is held by pod {name}, and whether that is alive is not known ({error}; {unknown}); the kubelet tries again"
                );
                Err(Fault::new(Reason::Unconfirmed, message))
            }
        }
    }
}

/// Marks a foreign pod's devices, for the inventory.
pub(super) fn tell(standing: &StandingSender, pin: &Pin) {
    standing.send_if_modified(|standing| {
        let mut news = false;
        for holding in pin.holdings() {
            let foreign = ForeignPod { pod: pin.full_name(), uid: pin.uid.to_string() };
            news |= standing.foreign.insert(holding.device, foreign.clone()) != Some(foreign);
        }
        news
    });
}
