//! Whose slots these are: one live pod, by UID, or a fault. The kubelet's records say which pods it may be; where that leaves more than
//! one, or the watch does not know the pod, the API server is asked.

use std::sync::Arc;

use super::Start;
use super::fault::{Fault, Reason};
use crate::agent::identity::{Candidate, Claimant, Evidence};
use crate::agent::pins::Pin;
use crate::agent::pods::NodePod;
use crate::kube_api::calls::CallError;

/// The pod whose container is about to start.
#[derive(Debug)]
pub(super) struct Subject {
    /// The containers that hold exactly the slots.
    pub(super) claimants: Vec<Claimant>,
    pub(super) pod: Pod,
}

/// What is known of it.
#[derive(Debug)]
pub(super) enum Pod {
    /// It was verified before; nothing else matters.
    Pinned(Arc<Pin>),
    /// As the API server has told of it.
    Bound(Arc<NodePod>),
}

impl Subject {
    pub(super) fn uid(&self) -> &Arc<str> {
        match &self.pod {
            Pod::Pinned(pin) => &pin.uid,
            Pod::Bound(pod) => &pod.uid,
        }
    }

    pub(super) fn full_name(&self) -> String {
        match &self.pod {
            Pod::Pinned(pin) => pin.full_name(),
            Pod::Bound(pod) => pod.full_name(),
        }
    }
}

impl Start {
    /// The one pod that the evidence is about.
    pub(super) async fn whose(&self, evidence: &Evidence) -> Result<Subject, Fault> {
        let holder = evidence.holder().map_err(|problem| Fault::new(Reason::Disagreement, problem.0))?;
        let candidate = self.candidate(evidence, holder).await?;
        let pod = match self.known(&candidate.uid) {
            Some(pod) => pod,
            None => Pod::Bound(self.ask(&candidate.uid, holder).await?),
        };
        let (namespace, name, phases) = match &pod {
            Pod::Pinned(pin) => (&pin.namespace, &pin.name, &pin.phases),
            Pod::Bound(pod) => (&pod.namespace, &pod.name, &pod.containers),
        };
        evidence
            .confirm(candidate, (namespace, name), phases)
            .map_err(|problem| Fault::new(Reason::Disagreement, problem.0))?;
        for other in evidence.overlapping.iter().filter(|uid| **uid != candidate.uid) {
            let Some((other_namespace, other_name)) = self.name_of(other) else { continue };
            let listed = evidence.live.contains(&(other_namespace.to_string(), other_name.to_string()));
            // What the kubelet does not list is dead; a pod of our own name is our predecessor.
            if listed && (&other_namespace, &other_name) != (namespace, name) {
                return Err(Fault::new(
                    Reason::Disagreement,
                    format!(
                        "the kubelet's checkpoint gives some slots of pod {namespace}/{name} to pod {other_namespace}/{other_name} too"
                    ),
                ));
            }
        }
        Ok(Subject { claimants: candidate.claimants.clone(), pod })
    }

    /// The one candidate that can be alive.
    async fn candidate<'e>(
        &self,
        evidence: &'e Evidence,
        holder: Option<(&str, &str)>,
    ) -> Result<&'e Candidate, Fault> {
        let mut left: Vec<&Candidate> = evidence.candidates.iter().collect();
        if left.len() > 1
            && let Some((namespace, name)) = holder
        {
            // Whoever is known by another name than the kubelet's live holder is dead.
            left.retain(|c| self.name_of(&c.uid).is_none_or(|(ns, n)| (&*ns, &*n) == (namespace, name)));
        }
        if left.len() > 1 {
            let mut alive = Vec::new();
            for candidate in left {
                match self.ask(&candidate.uid, holder).await {
                    Ok(pod) if pod.ended => {}
                    Ok(_) => alive.push(candidate),
                    Err(fault) if fault.reason == Reason::Gone => {}
                    Err(fault) => return Err(fault),
                }
            }
            left = alive;
        }
        match left[..] {
            [one] => Ok(one),
            [] => Err(Fault::new(
                Reason::Unclaimed,
                "the kubelet's checkpoint names no live pod with a container that holds exactly these slots; the kubelet tries again",
            )),
            _ => Err(Fault::new(
                Reason::Disagreement,
                "the kubelet's checkpoint gives these slots to several live pods; the kubelet tries again",
            )),
        }
    }

    /// What is known without asking.
    fn known(&self, uid: &str) -> Option<Pod> {
        let pinned = self.parts.pins.get(uid).map(Pod::Pinned);
        pinned.or_else(|| self.parts.pods.get(uid).map(Pod::Bound))
    }

    /// Namespace and name, without asking.
    fn name_of(&self, uid: &str) -> Option<(Arc<str>, Arc<str>)> {
        Some(match self.known(uid)? {
            Pod::Pinned(pin) => (Arc::clone(&pin.namespace), Arc::clone(&pin.name)),
            Pod::Bound(pod) => (Arc::clone(&pod.namespace), Arc::clone(&pod.name)),
        })
    }

    /// The pod of that UID, as the API server has it now. Only one pod at a time has a name.
    async fn ask(&self, uid: &str, holder: Option<(&str, &str)>) -> Result<Arc<NodePod>, Fault> {
        let source = &self.parts.source;
        let answer = match holder {
            Some((namespace, name)) => source.pod(namespace, name).await,
            None => source.bound_pod(uid).await,
        };
        match answer {
            Ok(Some(pod)) if *pod.uid == *uid => Ok(Arc::new(pod)),
            Ok(_) => Err(Fault::new(
                Reason::Gone,
                format!(
                    "the pod of UID {uid}, whose slots these are, is gone from the API server (or is a static pod, which cannot have GPUs)"
                ),
            )),
            Err(error) => Err(unreachable(&format!("the pod of UID {uid}"), &error)),
        }
    }
}

/// The API server was needed and did not help.
pub(super) fn unreachable(what: &str, error: &CallError) -> Fault {
    Fault::new(
        Reason::ApiServer,
        format!("{what} had to be asked for and the API server did not answer ({error}); the kubelet tries again"),
    )
}
