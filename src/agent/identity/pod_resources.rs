//! The kubelet's `PodResources` service, `pod-resources/kubelet.sock`: which container of which live pod holds which device IDs. It
//! knows names but no UIDs, and no ordinary init containers, hence it confirms and does not decide
//! (<https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/#monitoring-device-plugin-resources>).
//!
//! The kubelet answers 100 calls a second, 10 at once, and refuses the rest: such a call is repeated shortly after.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::Instant;
use tonic::transport::{Endpoint, Uri};
use tonic::{Code, Status};

use crate::kubelet_api::pod_resources::ListPodResourcesRequest;
use crate::kubelet_api::pod_resources::pod_resources_lister_client::PodResourcesListerClient;

/// The socket's place under the kubelet's directory.
pub const SOCKET: &str = "pod-resources/kubelet.sock";
/// The kubelet itself sends no more.
const LARGEST: usize = 16 << 20;
/// Before the first repetition; then twice as long each time.
const PAUSE: Duration = Duration::from_millis(20);

/// A pod that the kubelet counts as live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// App containers and sidecars that hold devices, by resource.
    pub containers: Vec<ListedContainer>,
}

/// What one container holds of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedContainer {
    /// Its name.
    pub name: String,
    /// The extended resource.
    pub resource: String,
    /// Device IDs.
    pub ids: BTreeSet<String>,
}

/// Why the kubelet did not answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the kubelet does not answer on {socket}: {problem}")]
pub struct PodResourcesError {
    socket: String,
    problem: String,
}

/// The service, asked anew each time: a kubelet that restarts leaves no stale connection behind.
#[derive(Debug, Clone)]
pub struct PodResources {
    socket: Arc<PathBuf>,
    patience: Duration,
}

impl PodResources {
    /// `patience`: how long an answer may take, repetitions included.
    pub fn new(socket: PathBuf, patience: Duration) -> Self {
        Self { socket: Arc::new(socket), patience }
    }

    /// All live pods.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn list(&self) -> Result<Vec<ListedPod>, PodResourcesError> {
        let deadline = Instant::now() + self.patience;
        let mut pause = PAUSE;
        loop {
            let problem = match tokio::time::timeout_at(deadline, self.ask()).await {
                Ok(Ok(pods)) => return Ok(pods),
                Ok(Err(status)) if matches!(status.code(), Code::ResourceExhausted | Code::Unavailable) => {
                    format!("{}: {}", status.code(), status.message())
                }
                Ok(Err(status)) => return Err(self.error(format!("{}: {}", status.code(), status.message()))),
                Err(_) => return Err(self.error(format!("nothing within {:?}", self.patience))),
            };
            if Instant::now() + pause >= deadline {
                return Err(self.error(problem));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    async fn ask(&self) -> Result<Vec<ListedPod>, Status> {
        let socket = Arc::clone(&self.socket);
        let connect = move |_: Uri| {
            let socket = Arc::clone(&socket);
            async move { UnixStream::connect(&*socket).await.map(TokioIo::new) }
        };
        // The address serves as authority only; the connection goes to the socket.
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector(tower::service_fn(connect)).await;
        let channel = channel.map_err(|error| Status::unavailable(innermost(&error)))?;
        let mut client = PodResourcesListerClient::new(channel).max_decoding_message_size(LARGEST);
        let answer = client.list(ListPodResourcesRequest {}).await?.into_inner();
        let pods = answer.pod_resources.into_iter().map(|pod| {
            let containers = pod.containers.into_iter().flat_map(|container| {
                let mut held: Vec<ListedContainer> = Vec::new();
                for devices in container.devices {
                    // One entry per NUMA node.
                    match held.iter_mut().find(|held| held.resource == devices.resource_name) {
                        Some(held) => held.ids.extend(devices.device_ids),
                        None => held.push(ListedContainer {
                            name: container.name.clone(),
                            resource: devices.resource_name,
                            ids: devices.device_ids.into_iter().collect(),
                        }),
                    }
                }
                held
            });
            ListedPod { containers: containers.collect(), namespace: pod.namespace, name: pod.name }
        });
        Ok(pods.collect())
    }

    fn error(&self, problem: String) -> PodResourcesError {
        PodResourcesError { socket: self.socket.display().to_string(), problem }
    }
}

/// The cause that says most.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
