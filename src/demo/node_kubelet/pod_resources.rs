//! PodResources `v1`: which container has which slots, for other programs on the node (pkg/kubelet/apis/podresources). Pods are named
//! without their UID, ordinary init containers are left out, and whoever asks too often is told so.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tonic::{Request, Response, Status};

use super::{Container, Inner, Pod};
use crate::gpu::request::Phase;
use crate::kubelet_api::pod_resources as api;
use crate::kubelet_api::pod_resources::pod_resources_lister_server::PodResourcesLister;

/// Calls a second, and how many may come at once: `DefaultQPS`, `DefaultBurstTokens`.
const RATE: f64 = 100.0;
const BURST: f64 = 10.0;

#[derive(Debug)]
pub(super) struct Lister {
    kubelet: Arc<Inner>,
    tokens: Mutex<(f64, Instant)>,
}

impl Lister {
    pub(super) fn new(kubelet: Arc<Inner>) -> Self {
        Self { kubelet, tokens: Mutex::new((BURST, Instant::now())) }
    }

    fn admit(&self) -> Result<(), Status> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let filled = (tokens.0 + now.duration_since(tokens.1).as_secs_f64() * RATE).min(BURST);
        let admitted = filled >= 1.0;
        *tokens = (if admitted { filled - 1.0 } else { filled }, now);
        if admitted { Ok(()) } else { Err(Status::resource_exhausted("rejected by rate limit")) }
    }

    fn resources(&self, pod: &Pod) -> api::PodResources {
        let visible = pod.containers.iter().filter(|container| container.phase != Phase::Init);
        api::PodResources {
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            containers: visible.map(|container| self.container(pod, container)).collect(),
        }
    }

    fn container(&self, pod: &Pod, container: &Container) -> api::ContainerResources {
        let accounts = self.kubelet.accounts();
        let mut devices = Vec::new();
        for (resource, entry) in accounts.entries_of(&pod.uid, &container.name) {
            for (node, slots) in &entry.slots {
                // One entry a slot; without a NUMA node no topology.
                devices.extend(slots.iter().map(|slot| api::ContainerDevices {
                    resource_name: resource.to_owned(),
                    device_ids: vec![slot.clone()],
                    topology: (*node >= 0).then(|| api::TopologyInfo { nodes: vec![api::NumaNode { id: *node }] }),
                }));
            }
        }
        api::ContainerResources { name: container.name.clone(), devices, ..Default::default() }
    }
}

#[tonic::async_trait]
impl PodResourcesLister for Lister {
    async fn list(
        &self,
        _: Request<api::ListPodResourcesRequest>,
    ) -> Result<Response<api::ListPodResourcesResponse>, Status> {
        self.admit()?;
        let pods = {
            let mut accounts = self.kubelet.accounts();
            accounts.free_ended();
            accounts.active().to_vec()
        };
        let pod_resources = pods.iter().map(|pod| self.resources(pod)).collect();
        Ok(Response::new(api::ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<api::AllocatableResourcesRequest>,
    ) -> Result<Response<api::AllocatableResourcesResponse>, Status> {
        self.admit()?;
        Err(Status::unimplemented("this stand-in does not list what is allocatable"))
    }

    async fn get(
        &self,
        request: Request<api::GetPodResourcesRequest>,
    ) -> Result<Response<api::GetPodResourcesResponse>, Status> {
        self.admit()?;
        let request = request.into_inner();
        let found = {
            let accounts = self.kubelet.accounts();
            let mut pods = accounts.active().iter();
            pods.find(|pod| pod.name == request.pod_name && pod.namespace == request.pod_namespace).cloned()
        };
        let pod = found.ok_or_else(|| {
            Status::unknown(format!("pod {} in namespace {} not found", request.pod_name, request.pod_namespace))
        })?;
        Ok(Response::new(api::GetPodResourcesResponse { pod_resources: Some(self.resources(&pod)) }))
    }
}
