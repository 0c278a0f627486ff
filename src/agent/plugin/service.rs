//! What one socket answers to the kubelet: the device-plugin service of one resource
//! (<https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/>).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::Stream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::Settings;
use super::allocate;
use super::metrics::{Call, Metrics};
use super::preferred::{self, Preference};
use crate::agent::pods::Pods;
use crate::agent::specification::DeviceName;
use crate::agent::start::Starter;
use crate::agent::view::ViewReceiver;
use crate::kubelet_api::device_plugin as api;
use crate::kubelet_api::device_plugin::device_plugin_server::DevicePlugin;

/// What the plugins of all resources share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) view: ViewReceiver,
    pub(super) pods: Arc<Pods>,
    pub(super) starter: Arc<dyn Starter>,
    pub(super) metrics: Metrics,
    /// One `Allocate` at a time, over all resources. Guards the device nodes that answers pass.
    pub(super) allocating: Mutex<Vec<api::DeviceSpec>>,
    pub(super) preference: Mutex<Preference>,
    /// When all lists were sent again without a change.
    pub(super) again: watch::Sender<Option<Instant>>,
}

/// Lists are not sent again sooner than this.
const AGAIN: Duration = Duration::from_secs(1);

impl Shared {
    /// Sends all lists again as they are. The kubelet then writes its checkpoint anew. It composes and writes that without one lock
    /// over both, so that an older state may have overwritten a newer one, and nothing else would put that right before the next
    /// pod (`writeCheckpoint` of the device manager).
    pub(super) fn send_lists_again(&self) {
        self.again.send_if_modified(|last| {
            let due = last.is_none_or(|last| last.elapsed() >= AGAIN);
            if due {
                *last = Some(Instant::now());
            }
            due
        });
    }
}

/// The newest list of slots of one resource.
pub(super) type List = watch::Receiver<Arc<Vec<api::Device>>>;

/// Who reads the list through one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Readers {
    /// Streams that are open now.
    pub(super) open: usize,
    /// Streams that have had their first list, ever.
    pub(super) served: u64,
}

/// One socket's share of a plugin.
#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) shared: Arc<Shared>,
    pub(super) resource: Arc<str>,
    pub(super) list: List,
    pub(super) readers: watch::Sender<Readers>,
    /// Calls that are being answered, `ListAndWatch` aside.
    pub(super) busy: watch::Sender<usize>,
    /// Ends the streams.
    pub(super) end: CancellationToken,
}

/// Counts itself out when it is dropped, however that comes about.
struct Counted<T: 'static>(watch::Sender<T>, fn(&mut T));

impl<T> Drop for Counted<T> {
    fn drop(&mut self) {
        self.0.send_modify(self.1);
    }
}

impl Service {
    fn busy(&self) -> Counted<usize> {
        self.busy.send_modify(|busy| *busy += 1);
        Counted(self.busy.clone(), |busy| *busy -= 1)
    }

    fn refuse(&self, call: &'static str, status: Status) -> Status {
        self.shared.metrics.refused.get_or_create(&Call { call }).inc();
        tracing::warn!(resource = &*self.resource, call, reason = status.message(), "the kubelet's call is refused");
        status
    }

    /// The list, whenever it changes, until the kubelet goes or the plugin ends.
    fn lists(&self) -> impl Stream<Item = Result<api::ListAndWatchResponse, Status>> + Send + use<> {
        struct Reading {
            list: List,
            last: Option<Arc<Vec<api::Device>>>,
            readers: watch::Sender<Readers>,
            end: CancellationToken,
            _open: Counted<Readers>,
            told: bool,
            again: watch::Receiver<Option<Instant>>,
        }
        self.readers.send_modify(|readers| readers.open += 1);
        let reading = Reading {
            list: self.list.clone(),
            last: None,
            readers: self.readers.clone(),
            end: self.end.clone(),
            _open: Counted(self.readers.clone(), |readers| readers.open -= 1),
            told: false,
            again: self.shared.again.subscribe(),
        };
        futures::stream::unfold(reading, |mut reading| async move {
            loop {
                // Asked for the second time: the first list is on its way.
                if reading.last.is_some() && !std::mem::replace(&mut reading.told, true) {
                    reading.readers.send_modify(|readers| readers.served += 1);
                }
                let newest = Arc::clone(&reading.list.borrow_and_update());
                if reading.last.as_ref() != Some(&newest) {
                    reading.last = Some(Arc::clone(&newest));
                    let devices = newest.as_ref().clone();
                    return Some((Ok(api::ListAndWatchResponse { devices }), reading));
                }
                tokio::select! {
                    () = reading.end.cancelled() => return None,
                    changed = reading.list.changed() => if changed.is_err() { return None },
                    Ok(()) = reading.again.changed() => reading.last = None,
                }
            }
        })
    }

    /// The devices in their order with their slots, for the preference.
    fn totals(&self) -> Vec<(Arc<str>, u16)> {
        let view = self.shared.view.borrow().clone();
        let devices = view.resources().remove(&*self.resource).unwrap_or_default();
        devices.iter().map(|device| (Arc::clone(&device.uuid), device.slots)).collect()
    }

    fn allocate_one(
        &self,
        ids: &[String],
        control_nodes: &[api::DeviceSpec],
    ) -> Result<api::ContainerAllocateResponse, Status> {
        allocate::check(&self.resource, ids).map_err(Status::invalid_argument)?;
        let specifications = &self.shared.settings.specifications;
        if let Err(error) = specifications.forget_slots(ids) {
            // No answer from now on names what is left: every name is used once.
            self.shared.metrics.left_behind.inc();
            tracing::warn!(resource = &*self.resource, slots = ?ids, %error, "old specifications of reused slots stay behind");
        }
        let name = DeviceName::fresh().map_err(|error| Status::internal(format!("packhorse: {error}")))?;
        tracing::info!(resource = &*self.resource, slots = ?ids, specification = %name, "slots are allocated");
        Ok(self.shared.settings.reply.reply(&name, specifications.form(), control_nodes))
    }
}

#[tonic::async_trait]
impl DevicePlugin for Service {
    type ListAndWatchStream = std::pin::Pin<Box<dyn Stream<Item = Result<api::ListAndWatchResponse, Status>> + Send>>;

    async fn get_device_plugin_options(
        &self,
        _: Request<api::Empty>,
    ) -> Result<Response<api::DevicePluginOptions>, Status> {
        Ok(Response::new(OPTIONS))
    }

    async fn list_and_watch(&self, _: Request<api::Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        tracing::debug!(resource = &*self.resource, "the kubelet reads the list of slots");
        Ok(Response::new(Box::pin(self.lists())))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<api::PreferredAllocationRequest>,
    ) -> Result<Response<api::PreferredAllocationResponse>, Status> {
        let start = Instant::now();
        let _busy = self.busy();
        let (pods, totals) = (self.shared.pods.list(), self.totals());
        let prefer = |request: &api::ContainerPreferredAllocationRequest| {
            let guessed = {
                let mut preference = self.shared.preference.lock().unwrap_or_else(PoisonError::into_inner);
                preference.guess(&self.resource, request, &pods)
            };
            let device_i_ds = preferred::choose(request, &guessed, &totals, self.shared.settings.spread);
            tracing::debug!(resource = &*self.resource, ?guessed, slots = ?device_i_ds, "slots are preferred");
            api::ContainerPreferredAllocationResponse { device_i_ds }
        };
        let container_responses = request.get_ref().container_requests.iter().map(prefer).collect();
        self.shared.metrics.preferred.observe(start.elapsed().as_secs_f64());
        Ok(Response::new(api::PreferredAllocationResponse { container_responses }))
    }

    /// The kubelet's main loop waits for the answer, for all pods of the node: nothing here waits for anything but the lock.
    async fn allocate(
        &self,
        request: Request<api::AllocateRequest>,
    ) -> Result<Response<api::AllocateResponse>, Status> {
        let start = Instant::now();
        let _busy = self.busy();
        let result = {
            let control_nodes = self.shared.allocating.lock().unwrap_or_else(PoisonError::into_inner);
            let requests = &request.get_ref().container_requests;
            requests.iter().map(|request| self.allocate_one(&request.devices_ids, &control_nodes)).collect()
        };
        self.shared.metrics.allocate.observe(start.elapsed().as_secs_f64());
        match result {
            Ok(container_responses) => Ok(Response::new(api::AllocateResponse { container_responses })),
            Err(status) => Err(self.refuse("Allocate", status)),
        }
    }

    /// The check runs to its end even if the kubelet hangs up meanwhile: half a specification is worse than one too many.
    async fn pre_start_container(
        &self,
        request: Request<api::PreStartContainerRequest>,
    ) -> Result<Response<api::PreStartContainerResponse>, Status> {
        let start = Instant::now();
        let _busy = self.busy();
        let (busy, slots) = (self.busy(), request.into_inner().devices_ids);
        let (starter, resource) = (Arc::clone(&self.shared.starter), Arc::clone(&self.resource));
        let limit = self.shared.settings.timing.pre_start;
        let check = tokio::spawn(async move {
            let _busy = busy;
            tokio::time::timeout(limit, starter.prepare(&resource, &slots)).await
        });
        let result = check.await;
        self.shared.metrics.pre_start.observe(start.elapsed().as_secs_f64());
        let status = match result {
            Ok(Ok(Ok(()))) => return Ok(Response::new(api::PreStartContainerResponse {})),
            Ok(Ok(Err(refusal))) => {
                self.shared.send_lists_again();
                Status::failed_precondition(refusal.to_string())
            }
            Ok(Err(_)) => Status::failed_precondition(format!(
                "packhorse: the container's devices could not be verified within {} s; the kubelet tries again",
                limit.as_secs()
            )),
            Err(error) => Status::internal(format!(
                "packhorse: the check at container start broke off ({error}), which is a defect of the agent; the kubelet tries again"
            )),
        };
        Err(self.refuse("PreStartContainer", status))
    }
}

/// How the kubelet is to treat us; it asks at every registration.
pub(super) const OPTIONS: api::DevicePluginOptions =
    api::DevicePluginOptions { pre_start_required: true, get_preferred_allocation_available: true };
