//! `/bind`: chooses the devices under the node's lock, books them, and makes one API call.
//!
//! The lock covers choosing only. The call carries the pod's UID, and the allocation as annotations, so that the first version of
//! the pod with a node carries it. A bind that was begun runs to its end even if kube-scheduler hangs up. Per UID one bind runs
//! at a time; a second one for the same node waits for the first and shares its result.
//!
//! | outcome of the call | booking |
//! |---|---|
//! | done | stands until the watch confirms it |
//! | refused, conflict, pod gone | a GET tells whether the pod is bound here by us after all; else taken back |
//! | unknown | stands until a GET or the watch tells |

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::metrics::observe;
use super::promise::Promises;
use super::query::Query;
use super::records::PodRecord;
use super::{Extender, Refusal, json};
use crate::gpu::allocation::Allocation;
use crate::gpu::fit::place;
use crate::gpu::reason::Reason;
use crate::kube_api::allocation::annotations;
use crate::kube_api::calls::{Binding, CallError};
use crate::kube_api::extender::{BindResult, BindingArgs};
use crate::kube_api::names::ALLOCATION;
use crate::kube_api::pod::PodView;
use crate::ledger::{BookError, BookingPod};

/// Why a pod was not bound.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum BindError {
    /// The request lacks something.
    #[error("{0} is missing in the bind request")]
    Missing(&'static str),
    /// The ledger does not know the node.
    #[error("node {0} is not known to Packhorse")]
    UnknownNode(String),
    /// The room was taken after the filter call.
    #[error("node {node} no longer has room for the pod: {}", .reason.as_str())]
    NoFit {
        /// The node.
        node: String,
        /// Why not.
        reason: Reason,
    },
    /// It is bound to another node, or may be.
    #[error("the pod is already bound to node {0}")]
    Elsewhere(String),
    /// An earlier bind may still be carried out.
    #[error("an earlier bind of the pod to node {0} may still be carried out")]
    Pending(String),
    /// The UID is not that of the pod of this name.
    #[error("the pod of that name is another one, with UID {0}")]
    OtherPod(String),
    /// There is no such pod.
    #[error("there is no such pod")]
    Gone,
    /// Its request cannot be read.
    #[error("the pod's GPU request cannot be read: {0}")]
    Request(String),
    /// The API server did not do it.
    #[error("the API server did not bind the pod: {0}")]
    Call(CallError),
    /// The bind did not run to its end.
    #[error("the bind was interrupted")]
    Interrupted,
}

impl BindError {
    fn result(&self) -> &'static str {
        match self {
            Self::Missing(_) | Self::Request(_) => "bad_request",
            Self::UnknownNode(_) => "unknown_node",
            Self::NoFit { .. } => "no_room",
            Self::Elsewhere(_) => "elsewhere",
            Self::Pending(_) | Self::Call(CallError::Unknown(_)) => "unknown",
            Self::OtherPod(_) | Self::Gone => "pod_gone",
            Self::Call(_) => "refused",
            Self::Interrupted => "interrupted",
        }
    }
}

type Outcome = Result<(), BindError>;

/// One bind.
#[derive(Debug, Clone)]
struct Job {
    uid: Arc<str>,
    namespace: Arc<str>,
    name: Arc<str>,
    node: Arc<str>,
}

#[derive(Debug)]
struct Running {
    node: Arc<str>,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// Binds in progress, by pod UID.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    by_uid: Mutex<HashMap<Arc<str>, Running>>,
}

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Running>> {
        // The map is whole after any panic: each change is one call.
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a bind's turn however it ends.
struct Turn {
    extender: Arc<Extender>,
    uid: Arc<str>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.extender.in_flight.lock().remove(&self.uid);
    }
}

/// Where the API server says the pod is.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// Bound here, by us or with nothing of ours to lose.
    Here {
        /// Whether it carries exactly the allocation that we booked.
        ours: bool,
    },
    Elsewhere(String),
    Unbound,
    Gone,
    OtherPod(String),
}

/// A bind's time in API calls, to tell our own part.
#[derive(Debug, Default)]
struct Calling(Duration);

impl Calling {
    async fn time<T>(&mut self, call: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let answer = call.await;
        self.0 += start.elapsed();
        answer
    }
}

impl Extender {
    /// Answers one `/bind` call: JSON in, JSON out.
    ///
    /// # Errors
    /// What is not answered with 200; see [`Refusal`].
    pub async fn bind(self: &Arc<Self>, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        self.ready_for(body)?;
        let answer = |error: String| Ok(json(&BindResult { error }));
        let args: BindingArgs<'_> = match serde_json::from_slice(body) {
            Ok(args) => args,
            Err(e) => return answer(format!("the request is not an ExtenderBindingArgs object: {e}")),
        };
        let fields = [
            ("PodName", &args.pod_name),
            ("PodNamespace", &args.pod_namespace),
            ("PodUID", &args.pod_uid),
            ("Node", &args.node),
        ];
        if let Some((field, _)) = fields.into_iter().find(|(_, value)| value.is_empty()) {
            return answer(BindError::Missing(field).to_string());
        }
        let job = Job {
            uid: Arc::from(&*args.pod_uid),
            namespace: Arc::from(&*args.pod_namespace),
            name: Arc::from(&*args.pod_name),
            node: Arc::from(&*args.node),
        };
        answer(self.bind_once(job).await.err().map(|e| e.to_string()).unwrap_or_default())
    }

    /// Begins the bind, or waits for one of the same pod that is under way.
    async fn bind_once(self: &Arc<Self>, job: Job) -> Outcome {
        loop {
            let (same, mut outcome) = match self.in_flight.lock().entry(Arc::clone(&job.uid)) {
                Entry::Occupied(running) => {
                    let running = running.get();
                    (running.node == job.node, running.outcome.clone())
                }
                Entry::Vacant(vacant) => {
                    let (tell, outcome) = watch::channel(None);
                    vacant.insert(Running { node: Arc::clone(&job.node), outcome: outcome.clone() });
                    let turn = Turn { extender: Arc::clone(self), uid: Arc::clone(&job.uid) };
                    let job = job.clone();
                    // Detached: kube-scheduler may hang up, and a half-done bind would leave a booking that nobody settles.
                    tokio::spawn(async move {
                        let result = turn.extender.carry_out(&job).await;
                        drop(turn);
                        // Nobody waits any more where this fails.
                        tell.send(Some(result)).ok();
                    });
                    (true, outcome)
                }
            };
            let ended = outcome.wait_for(Option::is_some).await;
            let result = ended.map_or(Some(Err(BindError::Interrupted)), |outcome| outcome.clone());
            if same && let Some(result) = result {
                return result;
            }
        }
    }

    async fn carry_out(&self, job: &Job) -> Outcome {
        let start = Instant::now();
        let mut calling = Calling::default();
        let outcome = self.book_and_bind(job, &mut calling).await;
        self.holds.remove(&job.uid);
        observe(&self.metrics.bind, start);
        self.metrics.bind_own.observe(start.elapsed().saturating_sub(calling.0).as_secs_f64());
        self.metrics.bound(outcome.as_ref().err().map_or("bound", BindError::result));
        match &outcome {
            Ok(()) => {
                tracing::info!(namespace = %job.namespace, pod = %job.name, uid = %job.uid, node = %job.node, "bound");
            }
            Err(error) => tracing::warn!(
                namespace = %job.namespace, pod = %job.name, uid = %job.uid, node = %job.node, %error, "not bound"
            ),
        }
        outcome
    }

    async fn book_and_bind(&self, job: &Job, calling: &mut Calling) -> Outcome {
        if let Some(known) = self.ledger.pod(&job.uid) {
            if known.namespace != job.namespace || known.name != job.name {
                return Err(BindError::OtherPod(format!("{} is {}/{}", job.uid, known.namespace, known.name)));
            }
            match &known.node {
                Some(node) if known.confirmed && *node == job.node => return Ok(()),
                Some(node) if known.confirmed => return Err(BindError::Elsewhere(node.as_ref().to_owned())),
                _ => {}
            }
        }
        let record = match self.records.get(&job.uid) {
            Some(record) if record.namespace == job.namespace && record.name == job.name => Some(record),
            Some(record) => {
                return Err(BindError::OtherPod(format!("{} is {}/{}", job.uid, record.namespace, record.name)));
            }
            None => match self.look_up(job, calling).await? {
                LookedUp::Bound => return Ok(()),
                LookedUp::Asks(record) => Some(record),
                LookedUp::NoGpu => None,
            },
        };
        let Some(record) = record else { return self.bind_plain(job, calling).await };
        let (allocation, fresh) = match self.choose(job, &record) {
            Err(BookError::BookedElsewhere(node)) => return self.settle_elsewhere(job, node, calling).await,
            Err(BookError::UnknownNode(node)) => return Err(BindError::UnknownNode(node)),
            Err(BookError::NoFit(reason)) => {
                self.metrics.conflicts.inc();
                return Err(BindError::NoFit { node: job.node.as_ref().to_owned(), reason });
            }
            Ok(booked) => booked,
        };
        // From here on the ledger counts the pod; its hold as well would count it twice while the API call lasts.
        self.holds.remove(&job.uid);
        let annotations = annotations(&allocation);
        let Err(error) = calling.time(self.calls.bind(&job.binding(&annotations))).await else { return Ok(()) };
        if matches!(error, CallError::Unknown(_)) {
            self.ledger.mark_unknown(&job.uid);
        }
        let written = annotations.iter().find(|(key, _)| key == ALLOCATION).map(|(_, value)| value.as_str());
        match calling.time(self.seen(job, written)).await {
            Ok(Seen::Here { ours: true }) => Ok(()),
            Ok(Seen::Here { ours: false }) => {
                // Bound here by somebody else, with devices of their choice: the watch will count those.
                self.ledger.unbook(&job.uid);
                Ok(())
            }
            Ok(Seen::Elsewhere(node)) => {
                self.ledger.unbook(&job.uid);
                Err(BindError::Elsewhere(node))
            }
            Ok(Seen::Gone) => {
                self.ledger.unbook(&job.uid);
                Err(BindError::Gone)
            }
            Ok(Seen::OtherPod(uid)) => {
                self.ledger.unbook(&job.uid);
                Err(BindError::OtherPod(uid))
            }
            // A booking that an earlier bind left is the ledger's to settle: that bind may still be carried out.
            Ok(Seen::Unbound) if fresh && !matches!(error, CallError::Unknown(_)) => {
                self.ledger.unbook(&job.uid);
                Err(BindError::Call(error))
            }
            Ok(Seen::Unbound) => Err(BindError::Call(error)),
            Err(_) if fresh && !matches!(error, CallError::Unknown(_)) && !matches!(error, CallError::Conflict(_)) => {
                self.ledger.unbook(&job.uid);
                Err(BindError::Call(error))
            }
            Err(_) => {
                self.ledger.mark_unknown(&job.uid);
                Err(BindError::Call(error))
            }
        }
    }

    /// Books devices. With the allocation, whether the booking is new.
    fn choose(&self, job: &Job, record: &Arc<PodRecord>) -> Result<(Allocation, bool), BookError> {
        let policies = self.settings.load().policies();
        let promises = self.ledger.node(&job.node).and_then(|entry| Promises::on(&self.ledger, &entry));
        let pod = BookingPod {
            uid: Arc::clone(&record.uid),
            namespace: Arc::clone(&record.namespace),
            name: Arc::clone(&record.name),
            cpu: record.cpu,
            memory: record.memory,
        };
        let mut fresh = false;
        let allocation = self.ledger.book(&job.node, &pod, |node| {
            fresh = true;
            let placement = place(node, &record.request, policies)?;
            let beside = promises.as_ref().and_then(|promises| promises.applied(node, record, policies));
            let placement = match beside {
                Some(after) => place(&after, &record.request, policies).map_err(|_| Reason::RoomPromised)?,
                None => placement,
            };
            Ok((placement.allocation, placement.holdings))
        })?;
        Ok((allocation, fresh))
    }

    /// A pod that asks for no GPU is bound all the same: kube-scheduler has no other binder for it.
    async fn bind_plain(&self, job: &Job, calling: &mut Calling) -> Outcome {
        let Err(error) = calling.time(self.calls.bind(&job.binding(&[]))).await else { return Ok(()) };
        match calling.time(self.seen(job, None)).await {
            Ok(Seen::Here { .. }) => Ok(()),
            Ok(Seen::Elsewhere(node)) => Err(BindError::Elsewhere(node)),
            Ok(Seen::OtherPod(uid)) => Err(BindError::OtherPod(uid)),
            Ok(Seen::Gone) => Err(BindError::Gone),
            Ok(Seen::Unbound) | Err(_) => Err(BindError::Call(error)),
        }
    }

    /// The pod is booked on another node by an earlier bind.
    async fn settle_elsewhere(&self, job: &Job, booked: String, calling: &mut Calling) -> Outcome {
        match calling.time(self.seen(job, None)).await {
            Ok(Seen::Here { .. }) => {
                self.ledger.unbook(&job.uid);
                Ok(())
            }
            Ok(Seen::Elsewhere(node)) => Err(BindError::Elsewhere(node)),
            Ok(Seen::OtherPod(uid)) => {
                self.ledger.unbook(&job.uid);
                Err(BindError::OtherPod(uid))
            }
            Ok(Seen::Gone) => {
                self.ledger.unbook(&job.uid);
                Err(BindError::Gone)
            }
            Ok(Seen::Unbound) | Err(_) => Err(BindError::Pending(booked)),
        }
    }

    /// Asks the API server where the pod is. `written` is the allocation that we tried to write.
    async fn seen(&self, job: &Job, written: Option<&str>) -> Result<Seen, CallError> {
        let bytes = match self.calls.pod(&job.namespace, &job.name).await {
            Ok(bytes) => bytes,
            Err(CallError::NotFound(_)) => return Ok(Seen::Gone),
            Err(e) => return Err(e),
        };
        let pod = read(&bytes)?;
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if *uid != *job.uid {
            return Ok(Seen::OtherPod(uid.to_owned()));
        }
        Ok(match pod.spec.node_name.as_deref().filter(|node| !node.is_empty()) {
            None => Seen::Unbound,
            Some(node) if *node == *job.node => {
                let carries = pod.metadata.annotations.get(ALLOCATION).map(|text| &**text);
                Seen::Here { ours: carries == written }
            }
            Some(node) => Seen::Elsewhere(node.to_owned()),
        })
    }

    /// One GET for a pod that no filter call has shown to this process.
    async fn look_up(&self, job: &Job, calling: &mut Calling) -> Result<LookedUp, BindError> {
        self.metrics.lookups.inc();
        let bytes = match calling.time(self.calls.pod(&job.namespace, &job.name)).await {
            Ok(bytes) => bytes,
            Err(CallError::NotFound(_)) => return Err(BindError::Gone),
            Err(e) => return Err(BindError::Call(e)),
        };
        let pod = read(&bytes).map_err(BindError::Call)?;
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if *uid != *job.uid {
            return Err(BindError::OtherPod(uid.to_owned()));
        }
        match pod.spec.node_name.as_deref().filter(|node| !node.is_empty()) {
            Some(node) if *node == *job.node => return Ok(LookedUp::Bound),
            Some(node) => return Err(BindError::Elsewhere(node.to_owned())),
            None => {}
        }
        let policies = self.settings.load().policies();
        let query = Query::read(&pod, &self.rules.load(), policies, &self.shapes).map_err(BindError::Request)?;
        let Some(query) = query else { return Ok(LookedUp::NoGpu) };
        self.records.put(Arc::clone(&query.record));
        Ok(LookedUp::Asks(query.record))
    }
}

/// What a GET told about a pod to be bound.
enum LookedUp {
    Bound,
    NoGpu,
    Asks(Arc<PodRecord>),
}

impl Job {
    fn binding<'a>(&'a self, annotations: &'a [(String, String)]) -> Binding<'a> {
        Binding { namespace: &self.namespace, name: &self.name, uid: &self.uid, node: &self.node, annotations }
    }
}

fn read(bytes: &[u8]) -> Result<PodView<'_>, CallError> {
    serde_json::from_slice(bytes).map_err(|e| CallError::Unknown(format!("the answer is not a Pod: {e}")))
}
