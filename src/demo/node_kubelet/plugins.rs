//! Registered plugins and the calls to them, as pkg/kubelet/cm/devicemanager/plugin/v1beta1 has it up to Kubernetes 1.36.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::accounts::Question;
use super::{Inner, PRE_START};
use crate::kubelet_api::device_plugin as api;
use crate::kubelet_api::device_plugin::device_plugin_client::DevicePluginClient;
use crate::kubelet_api::device_plugin::registration_server::Registration;

/// How long the kubelet tries to connect to a plugin that registers.
const DIAL: Duration = Duration::from_secs(10);

/// One connection to a plugin.
#[derive(Debug)]
pub(super) struct Client {
    socket: PathBuf,
    /// Empty until the connection stands.
    rpc: OnceLock<DevicePluginClient<Channel>>,
    closed: CancellationToken,
}

impl Client {
    /// One that does not stand yet goes on.
    pub(super) fn close(&self) {
        if self.rpc.get().is_some() {
            self.closed.cancel();
        }
    }

    fn rpc(&self) -> Result<DevicePluginClient<Channel>, String> {
        self.rpc.get().cloned().ok_or_else(|| "the client is not connected".to_owned())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Closing the connection ends its calls, but for those whose answer has arrived.
    async fn call<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, String> {
        tokio::select! {
            biased;
            result = call => result.map(Response::into_inner).map_err(|status| rpc_error(&status)),
            () = self.closed.cancelled() => {
                Err("rpc error: code = Canceled desc = grpc: the client connection is closing".to_owned())
            }
        }
    }
}

/// As Go's gRPC prints a status.
fn rpc_error(status: &Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

/// The kubelet's registration service.
#[derive(Debug)]
pub(super) struct Registrar(pub(super) Arc<Inner>);

#[tonic::async_trait]
impl Registration for Registrar {
    async fn register(&self, request: Request<api::RegisterRequest>) -> Result<Response<api::Empty>, Status> {
        let request = request.into_inner();
        if request.version != "v1beta1" {
            let version = request.version;
            return Err(Status::unknown(format!(
                "requested API version {version:?} is not supported by kubelet. Supported version is [\"v1beta1\"]"
            )));
        }
        if !is_extended_resource(&request.resource_name) {
            return Err(Status::unknown(format!("the ResourceName {:?} is invalid", request.resource_name)));
        }
        let socket = self.0.directory.join("device-plugins").join(&request.endpoint);
        connect(&self.0, &request.resource_name, socket).await.map_err(Status::unknown)?;
        Ok(Response::new(api::Empty {}))
    }
}

/// `IsExtendedResourceName` of pkg/apis/core/v1/helper, without its check of every letter.
fn is_extended_resource(name: &str) -> bool {
    let domain = name.split_once('/').map_or("", |(domain, _)| domain);
    !domain.is_empty() && !domain.contains("kubernetes.io") && !name.starts_with("requests.")
}

async fn connect(kubelet: &Arc<Inner>, resource: &str, socket: PathBuf) -> Result<(), String> {
    let client = Arc::new(Client { socket, rpc: OnceLock::new(), closed: kubelet.stop.child_token() });
    kubelet.accounts().register_client(resource, &client);
    let options = async {
        let dialled = dial(&client.socket).await?;
        let rpc = client.rpc.get_or_init(|| dialled);
        let options = client.call(rpc.clone().get_device_plugin_options(api::Empty {})).await;
        options.map_err(|error| format!("failed to get device plugin options: {error}"))
    };
    match options.await {
        Ok(options) => kubelet.accounts().connected(resource, &client, options),
        Err(error) => {
            kubelet.accounts().take_client(resource);
            client.close();
            return Err(error);
        }
    }
    kubelet.changed();
    tokio::spawn(run(Arc::clone(kubelet), resource.to_owned(), client));
    Ok(())
}

/// Reads lists until the stream ends; then disconnects whoever is the newest client of the resource, be it this one or not.
async fn run(kubelet: Arc<Inner>, resource: String, client: Arc<Client>) {
    let error = read(&kubelet, &resource, &client).await;
    tracing::debug!(resource, socket = %client.socket.display(), error, "ListAndWatch ended unexpectedly for device plugin");
    if kubelet.stop.is_cancelled() {
        return;
    }
    let newest = kubelet.accounts().take_client(&resource);
    if let Some(newest) = newest {
        newest.close();
        kubelet.accounts().disconnected(&resource);
    }
    kubelet.changed();
}

async fn read(kubelet: &Arc<Inner>, resource: &str, client: &Client) -> String {
    let Ok(mut rpc) = client.rpc() else { return "the client is not connected".to_owned() };
    let mut lists = match client.call(rpc.list_and_watch(api::Empty {})).await {
        Ok(lists) => lists,
        Err(error) => return error,
    };
    loop {
        tokio::select! {
            list = lists.message() => match list {
                Ok(Some(list)) => kubelet.receive(resource, list.devices),
                Ok(None) => return "EOF".to_owned(),
                Err(status) => return rpc_error(&status),
            },
            () = client.closed.cancelled() => return "the client connection is closing".to_owned(),
        }
    }
}

/// As Go's client with `WithBlock`: a socket on which nobody listens yet is tried again.
async fn dial(socket: &std::path::Path) -> Result<DevicePluginClient<Channel>, String> {
    let until = Instant::now() + DIAL;
    loop {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        });
        match Endpoint::from_static("http://localhost").connect_with_connector(connector).await {
            Ok(channel) => return Ok(DevicePluginClient::new(channel)),
            Err(_) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(_) => return Err("failed to dial device plugin: context deadline exceeded".to_owned()),
        }
    }
}

impl Inner {
    /// The plugin's preference; without one, none.
    pub(super) async fn prefer(&self, question: &Question) -> Result<Vec<String>, String> {
        let Some(client) = &question.client else { return Ok(Vec::new()) };
        let start = Instant::now();
        let request = api::PreferredAllocationRequest {
            container_requests: vec![api::ContainerPreferredAllocationRequest {
                available_device_i_ds: question.available.clone(),
                must_include_device_i_ds: question.must.clone(),
                allocation_size: i32::try_from(question.size).unwrap_or(i32::MAX),
            }],
        };
        let answer = client.call(client.rpc()?.get_preferred_allocation(request)).await;
        self.note("GetPreferredAllocation", &question.resource, &question.available, start);
        let answer =
            answer.map_err(|error| format!("device plugin GetPreferredAllocation rpc failed with err: {error}"))?;
        Ok(answer.container_responses.into_iter().next().map(|container| container.device_i_ds).unwrap_or_default())
    }

    /// One container in one call. The kubelet sets no deadline.
    pub(super) async fn call_allocate(
        &self,
        resource: &str,
        slots: &[String],
    ) -> Result<api::ContainerAllocateResponse, String> {
        let client = self.client(resource)?;
        let start = Instant::now();
        let request = api::AllocateRequest {
            container_requests: vec![api::ContainerAllocateRequest { devices_ids: slots.to_vec() }],
        };
        let answer = client.call(client.rpc()?.allocate(request)).await;
        self.note("Allocate", resource, slots, start);
        answer?
            .container_responses
            .into_iter()
            .next()
            .ok_or_else(|| "no containers return in allocation response".to_owned())
    }

    pub(super) async fn call_pre_start(&self, client: &Client, resource: &str, slots: &[String]) -> Result<(), String> {
        let start = Instant::now();
        let request = api::PreStartContainerRequest { devices_ids: slots.to_vec() };
        let mut rpc = client.rpc()?;
        let call = client.call(rpc.pre_start_container(request));
        let answer = tokio::time::timeout(PRE_START, call).await;
        self.note("PreStartContainer", resource, slots, start);
        let failed = |error: String| format!("device plugin PreStartContainer rpc failed with err: {error}");
        match answer {
            Ok(answer) => answer.map(drop).map_err(failed),
            Err(_) => Err(failed("rpc error: code = DeadlineExceeded desc = context deadline exceeded".to_owned())),
        }
    }
}
