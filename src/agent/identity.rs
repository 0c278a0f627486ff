//! From slots to pod and container, exactly. The kubelet says `PreStartContainer` with slots alone; its checkpoint names pod UID and
//! container, its `PodResources` service confirms namespace, name and container of those that are not ordinary init containers.
//!
//! Owns nothing: both are read anew for each start. What cannot be read, or where the two disagree, is an error: nothing here guesses,
//! by order, time or otherwise. Ordinary init containers and app containers of one pod may share slots; then each of them is a
//! claimant, told apart by the CDI device that `Allocate` named for it.

pub mod checkpoint;
pub mod pod_resources;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use checkpoint::{Checkpoint, CheckpointError};
use pod_resources::{ListedPod, PodResources, PodResourcesError};

use super::specification::DeviceName;
use crate::gpu::request::Phase;

/// A container that holds exactly the slots asked about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claimant {
    /// Its name in the pod.
    pub container: Arc<str>,
    /// What `Allocate` named for it, which is what the runtime will ask for; `None` where it named nothing.
    pub device: Option<DeviceName>,
}

/// A pod whose containers hold the slots, by the checkpoint. It may be dead: see [`Evidence`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The pod's UID.
    pub uid: Arc<str>,
    /// At least one, sorted.
    pub claimants: Vec<Claimant>,
}

/// What the kubelet says about some slots of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Evidence {
    /// By the checkpoint: who holds exactly these. More than one pod only while the kubelet has not yet forgotten a dead one.
    pub candidates: Vec<Candidate>,
    /// By the checkpoint: UIDs of pods that hold some of these slots beside others.
    pub overlapping: BTreeSet<Arc<str>>,
    /// By `PodResources`: who holds any of these slots: namespace, name, container, and whether exactly these.
    pub holders: Vec<Holder>,
    /// By `PodResources`: every live pod, namespace and name.
    pub live: BTreeSet<(String, String)>,
}

/// A container that holds some of the slots, by `PodResources`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Of the pod.
    pub namespace: String,
    /// Of the pod.
    pub name: String,
    /// Its name in the pod.
    pub container: String,
    /// Exactly these slots, no other.
    pub exactly: bool,
}

/// Why nobody could say whose slots these are.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The service.
    #[error(transparent)]
    PodResources(#[from] PodResourcesError),
}

/// The two do not agree, in words.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Disagreement(pub String);

/// Which pods the kubelet still knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// UIDs of the checkpoint; some may be dead.
    pub uids: BTreeSet<String>,
    /// Namespace and name of every live pod.
    pub live: BTreeSet<(String, String)>,
}

/// The kubelet's two records.
#[derive(Debug, Clone)]
pub struct Identity {
    checkpoint: Arc<Path>,
    pod_resources: PodResources,
}

impl Identity {
    /// Below the kubelet's directory, usually `/var/lib/kubelet`. `patience`: how long `PodResources` may take to answer.
    pub fn new(kubelet_dir: &Path, patience: Duration) -> Self {
        let checkpoint: PathBuf = kubelet_dir.join("device-plugins").join(checkpoint::FILE);
        Self {
            checkpoint: checkpoint.into(),
            pod_resources: PodResources::new(kubelet_dir.join(pod_resources::SOCKET), patience),
        }
    }

    /// What the kubelet says about `slots` of `resource`.
    ///
    /// # Errors
    /// One of the two cannot be read.
    pub async fn evidence(&self, resource: &str, slots: &BTreeSet<String>) -> Result<Evidence, IdentityError> {
        let (checkpoint, listed) = self.both().await?;
        Ok(Evidence::new(&checkpoint, &listed, resource, slots))
    }

    /// Which pods the kubelet still knows.
    ///
    /// # Errors
    /// One of the two cannot be read.
    pub async fn known(&self) -> Result<Known, IdentityError> {
        let (checkpoint, listed) = self.both().await?;
        Ok(Known {
            uids: checkpoint.entries.into_iter().map(|entry| entry.pod_uid).collect(),
            live: listed.into_iter().map(|pod| (pod.namespace, pod.name)).collect(),
        })
    }

    /// UIDs of the pods that the kubelet has given devices, by its checkpoint alone; some may be dead.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn admitted(&self) -> Result<BTreeSet<String>, IdentityError> {
        let checkpoint = self.checkpoint().await?;
        Ok(checkpoint.entries.into_iter().map(|entry| entry.pod_uid).collect())
    }

    async fn checkpoint(&self) -> Result<Checkpoint, IdentityError> {
        let path = Arc::clone(&self.checkpoint);
        let read = tokio::task::spawn_blocking(move || Checkpoint::read(&path)).await;
        Ok(read.map_err(|error| CheckpointError::Format {
            path: self.checkpoint.display().to_string(),
            problem: format!("reading it failed: {error}"),
        })??)
    }

    async fn both(&self) -> Result<(Checkpoint, Vec<ListedPod>), IdentityError> {
        let (checkpoint, listed) = tokio::join!(self.checkpoint(), self.pod_resources.list());
        Ok((checkpoint?, listed?))
    }
}

impl Known {
    /// Whether the kubelet may still have containers of that pod. A recreated pod of the same name keeps its name alive, so the UID must
    /// be known as well; a dead pod's UID stays in the checkpoint, so the name must.
    pub fn has(&self, uid: &str, namespace: &str, name: &str) -> bool {
        self.uids.contains(uid) && self.live.contains(&(namespace.to_owned(), name.to_owned()))
    }
}

impl Evidence {
    /// Takes out of both records what concerns these slots.
    pub fn new(checkpoint: &Checkpoint, listed: &[ListedPod], resource: &str, slots: &BTreeSet<String>) -> Self {
        let mut evidence = Self::default();
        for entry in checkpoint.entries.iter().filter(|entry| entry.resource == resource) {
            if entry.ids != *slots {
                if !entry.ids.is_disjoint(slots) {
                    evidence.overlapping.insert(entry.pod_uid.as_str().into());
                }
                continue;
            }
            let claimant = Claimant { container: entry.container.as_str().into(), device: entry.device.clone() };
            match evidence.candidates.iter_mut().find(|candidate| *candidate.uid == *entry.pod_uid) {
                Some(candidate) => candidate.claimants.push(claimant),
                None => {
                    let uid = entry.pod_uid.as_str().into();
                    evidence.candidates.push(Candidate { uid, claimants: vec![claimant] });
                }
            }
        }
        for candidate in &mut evidence.candidates {
            candidate.claimants.sort();
        }
        for pod in listed {
            evidence.live.insert((pod.namespace.clone(), pod.name.clone()));
            for container in pod.containers.iter().filter(|container| container.resource == resource) {
                if !container.ids.is_disjoint(slots) {
                    evidence.holders.push(Holder {
                        namespace: pod.namespace.clone(),
                        name: pod.name.clone(),
                        container: container.name.clone(),
                        exactly: container.ids == *slots,
                    });
                }
            }
        }
        evidence
    }

    /// The one pod that `PodResources` names for these slots, namespace and name; `None` where it names none, as for ordinary init
    /// containers alone.
    ///
    /// # Errors
    /// It names several: the kubelet contradicts itself.
    pub fn holder(&self) -> Result<Option<(&str, &str)>, Disagreement> {
        let names: BTreeSet<_> = self.holders.iter().map(|h| (h.namespace.as_str(), h.name.as_str())).collect();
        let mut names = names.into_iter();
        match (names.next(), names.next()) {
            (Some((namespace, name)), Some((other_namespace, other))) => Err(Disagreement(format!(
                "the kubelet's PodResources names two pods for the same slots, {namespace}/{name} and {other_namespace}/{other}"
            ))),
            (first, _) => Ok(first),
        }
    }

    /// Whether both records agree that these slots are this pod's, container by container.
    ///
    /// # Errors
    /// Where they do not.
    pub fn confirm(
        &self,
        candidate: &Candidate,
        (namespace, name): (&str, &str),
        phases: &[(Arc<str>, Phase)],
    ) -> Result<(), Disagreement> {
        let pod = format!("{namespace}/{name}");
        if let Some((other_namespace, other)) = self.holder()?
            && (other_namespace, other) != (namespace, name)
        {
            return Err(Disagreement(format!(
                "the kubelet's checkpoint gives these slots to pod {pod}, its PodResources to {other_namespace}/{other}"
            )));
        }
        // It lists every live pod, with or without devices; what an init container holds, it does not name.
        if !self.live.contains(&(namespace.to_owned(), name.to_owned())) {
            return Err(Disagreement(format!(
                "the kubelet's checkpoint gives these slots to pod {pod}, which its PodResources does not list"
            )));
        }
        for Claimant { container, .. } in &candidate.claimants {
            let Some((_, phase)) = phases.iter().find(|(name, _)| name == container) else {
                return Err(Disagreement(format!(
                    "the kubelet's checkpoint gives these slots to container {container}, which pod {pod} does not have"
                )));
            };
            let named = self.holders.iter().any(|holder| holder.container == **container && holder.exactly);
            if !named && *phase != Phase::Init {
                return Err(Disagreement(format!(
                    "the kubelet's checkpoint gives these slots to container {container} of pod {pod}, its PodResources does not"
                )));
            }
        }
        let stranger = self.holders.iter().filter(|holder| holder.exactly);
        for Holder { container, .. } in stranger {
            if !candidate.claimants.iter().any(|claimant| *claimant.container == **container) {
                return Err(Disagreement(format!(
                    "the kubelet's PodResources gives these slots to container {container} of pod {pod}, its checkpoint does not"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
