//! The kubelet's two records: the checkpoint file and the `PodResources` service. They say what a test wants them to say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use packhorse::kubelet_api::device_plugin::{CdiDevice, ContainerAllocateResponse};
use packhorse::kubelet_api::pod_resources::pod_resources_lister_server::{
    PodResourcesLister, PodResourcesListerServer,
};
use packhorse::kubelet_api::pod_resources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ContainerDevices, ContainerResources,
    GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesRequest, ListPodResourcesResponse, PodResources,
};
use prost::Message as _;
use serde_json::json;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// What one container got of one resource.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) uid: String,
    pub(super) pod: String,
    pub(super) container: String,
    /// An ordinary init container: `PodResources` does not show it.
    pub(super) init: bool,
    pub(super) resource: String,
    pub(super) slots: BTreeSet<String>,
    pub(super) cdi: Option<String>,
}

#[derive(Debug, Default)]
struct Records {
    /// The checkpoint.
    recorded: Vec<Held>,
    /// `PodResources`.
    listed: Vec<Held>,
    /// Live pods without devices.
    live: BTreeSet<String>,
    /// So many calls are refused.
    exhausted: usize,
    /// Every call is refused.
    broken: bool,
    names: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Kubelet {
    directory: PathBuf,
    records: Arc<Mutex<Records>>,
}

impl Kubelet {
    /// Serves below `directory` for the rest of the test.
    pub(super) fn start(directory: &Path) -> Self {
        std::fs::create_dir_all(directory.join("device-plugins")).unwrap();
        std::fs::create_dir_all(directory.join("pod-resources")).unwrap();
        let kubelet = Self { directory: directory.to_owned(), records: Arc::default() };
        kubelet.write();
        let listener = UnixListener::bind(directory.join("pod-resources/kubelet.sock")).unwrap();
        let service = PodResourcesListerServer::new(kubelet.clone());
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(UnixListenerStream::new(listener)),
        );
        kubelet
    }

    /// Admits one container: both records know it, as after `Allocate`. Gives the CDI device that was named.
    pub(super) fn admit(&self, uid: &str, pod: &str, container: &str, init: bool, slots: &[&str]) -> String {
        let mut records = self.records.lock().unwrap();
        records.names += 1;
        let cdi = format!("{:032x}", records.names);
        let held = Held {
            uid: uid.to_owned(),
            pod: pod.to_owned(),
            container: container.to_owned(),
            init,
            resource: "nvidia.com/gpu".to_owned(),
            slots: slots.iter().map(|slot| (*slot).to_owned()).collect(),
            cdi: Some(cdi.clone()),
        };
        records.recorded.push(held.clone());
        records.listed.push(held);
        drop(records);
        self.write();
        cdi
    }

    /// Changes what the checkpoint says.
    pub(super) fn record(&self, change: impl FnOnce(&mut Vec<Held>)) {
        change(&mut self.records.lock().unwrap().recorded);
        self.write();
    }

    /// Changes what `PodResources` says.
    pub(super) fn list(&self, change: impl FnOnce(&mut Vec<Held>)) {
        change(&mut self.records.lock().unwrap().listed);
    }

    /// A pod that the kubelet lists without devices.
    pub(super) fn live(&self, pod: &str) {
        self.records.lock().unwrap().live.insert(pod.to_owned());
    }

    /// The pod is gone; the checkpoint still has it, as until the next allocation.
    pub(super) fn end(&self, uid: &str) {
        self.list(|listed| listed.retain(|held| held.uid != uid));
    }

    /// The next calls are refused for their number.
    pub(super) fn exhaust(&self, calls: usize) {
        self.records.lock().unwrap().exhausted = calls;
    }

    /// Whether every call fails.
    pub(super) fn set_broken(&self, broken: bool) {
        self.records.lock().unwrap().broken = broken;
    }

    pub(super) fn checkpoint(&self) -> PathBuf {
        self.directory.join("device-plugins/kubelet_internal_checkpoint")
    }

    fn write(&self) {
        let records = self.records.lock().unwrap();
        let entries = records.recorded.iter().map(|held| {
            let reply = ContainerAllocateResponse {
                envs: BTreeMap::from([("NVIDIA_VISIBLE_DEVICES".to_owned(), "void".to_owned())]),
                cdi_devices: held
                    .cdi
                    .iter()
                    .map(|cdi| CdiDevice { name: format!("packhorse.dev/gpu={cdi}") })
                    .collect(),
                ..Default::default()
            };
            json!({
                "PodUID": held.uid, "ContainerName": held.container, "ResourceName": held.resource,
                "DeviceIDs": {"-1": held.slots}, "AllocResp": STANDARD.encode(reply.encode_to_vec()),
            })
        });
        let entries: Vec<_> = entries.collect();
        let file = json!({"Data": {"PodDeviceEntries": entries, "RegisteredDevices": {}}, "Checksum": 1});
        drop(records);
        let temporary = self.directory.join("device-plugins/.new");
        std::fs::write(&temporary, file.to_string()).unwrap();
        std::fs::rename(temporary, self.checkpoint()).unwrap();
    }
}

#[tonic::async_trait]
impl PodResourcesLister for Kubelet {
    async fn list(&self, _: Request<ListPodResourcesRequest>) -> Result<Response<ListPodResourcesResponse>, Status> {
        let mut records = self.records.lock().unwrap();
        if records.broken {
            return Err(Status::internal("out of order"));
        }
        if records.exhausted > 0 {
            records.exhausted -= 1;
            return Err(Status::resource_exhausted("rejected by rate limit"));
        }
        let mut pods: BTreeMap<String, Vec<ContainerResources>> =
            records.live.iter().map(|pod| (pod.clone(), Vec::new())).collect();
        for held in &records.listed {
            let containers = pods.entry(held.pod.clone()).or_default();
            if held.init {
                continue;
            }
            // One entry a NUMA node, as the kubelet writes them.
            let devices = held.slots.iter().map(|slot| ContainerDevices {
                resource_name: held.resource.clone(),
                device_ids: vec![slot.clone()],
                ..Default::default()
            });
            let devices = devices.collect();
            containers.push(ContainerResources { name: held.container.clone(), devices, ..Default::default() });
        }
        let pods =
            pods.into_iter().map(|(name, containers)| PodResources { name, namespace: "ns".to_owned(), containers });
        Ok(Response::new(ListPodResourcesResponse { pod_resources: pods.collect() }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get(&self, _: Request<GetPodResourcesRequest>) -> Result<Response<GetPodResourcesResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}
