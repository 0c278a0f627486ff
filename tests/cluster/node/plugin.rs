//! The simplest device plugin, for tests of the rig itself and for comparison: each device ID is a card, and `Allocate` names it.

use futures::StreamExt as _;
use packhorse::kubelet_api::device_plugin::device_plugin_server::{DevicePlugin, DevicePluginServer};
use packhorse::kubelet_api::device_plugin::registration_client::RegistrationClient;
use packhorse::kubelet_api::device_plugin::{
    AllocateRequest, AllocateResponse, ContainerAllocateResponse, Device, DevicePluginOptions, Empty,
    ListAndWatchResponse, PreStartContainerRequest, PreStartContainerResponse, PreferredAllocationRequest,
    PreferredAllocationResponse, RegisterRequest,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::Node;

/// The reply to `Allocate` for one container.
type Answer = Box<dyn Fn(&[String]) -> ContainerAllocateResponse + Send + Sync>;

/// A plugin that is registered. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Plugin(tokio::task::JoinHandle<()>);

impl Plugin {
    /// Serves `devices` as `resource` and registers it. `answer` makes the reply to `Allocate` from the device IDs.
    pub(crate) async fn register(node: &Node, resource: &str, devices: &[&str], answer: Answer) -> Self {
        let folder = node.kubelet_dir.join("device-plugins");
        let socket = folder.join("simple.sock");
        let listener = UnixListener::bind(&socket).expect("a socket beside the kubelet's");
        let service = Simple { devices: devices.iter().map(|&device| device.to_owned()).collect(), answer };
        let server = tonic::transport::Server::builder().add_service(DevicePluginServer::new(service));
        let task = tokio::spawn(async move {
            server.serve_with_incoming(UnixListenerStream::new(listener)).await.expect("the plugin serves");
        });
        let kubelet = format!("unix://{}", folder.join("kubelet.sock").display());
        let mut kubelet = RegistrationClient::connect(kubelet).await.expect("the kubelet listens");
        let request = RegisterRequest {
            version: "v1beta1".to_owned(),
            endpoint: "simple.sock".to_owned(),
            resource_name: resource.to_owned(),
            options: None,
        };
        kubelet.register(request).await.expect("the kubelet accepts the plugin");
        Self(task)
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Simple {
    devices: Vec<String>,
    answer: Answer,
}

#[tonic::async_trait]
impl DevicePlugin for Simple {
    type ListAndWatchStream = futures::stream::BoxStream<'static, Result<ListAndWatchResponse, Status>>;

    async fn get_device_plugin_options(&self, _: Request<Empty>) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(DevicePluginOptions::default()))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let device = |id: &String| Device { id: id.clone(), health: "Healthy".to_owned(), topology: None };
        let all = ListAndWatchResponse { devices: self.devices.iter().map(device).collect() };
        // The kubelet takes the end of the stream for the end of the plugin.
        Ok(Response::new(futures::stream::iter([Ok(all)]).chain(futures::stream::pending()).boxed()))
    }

    async fn get_preferred_allocation(
        &self,
        _: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        Err(Status::unimplemented("not offered"))
    }

    async fn allocate(&self, request: Request<AllocateRequest>) -> Result<Response<AllocateResponse>, Status> {
        let containers = request.into_inner().container_requests;
        let responses = containers.iter().map(|container| (self.answer)(&container.devices_ids));
        let container_responses = responses.collect();
        Ok(Response::new(AllocateResponse { container_responses }))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}
