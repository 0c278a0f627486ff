//! Whether a container runtime serves its socket: anybody there, which process, and whether it speaks Kubernetes' container runtime
//! interface. containerd keeps serving when its CRI plugin does not load, so an open socket alone says little.

use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

/// How long a runtime may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is behind a socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Somebody accepts connections.
    pub open: bool,
    /// Who, where it is visible from this PID namespace.
    pub pid: Option<i32>,
    /// The runtime's name and version, where it speaks CRI.
    pub cri: Option<String>,
}

/// CRI's `runtime.v1.VersionRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct VersionRequest {
    #[prost(string, tag = "1")]
    version: String,
}

/// CRI's `runtime.v1.VersionResponse`, as far as it is needed.
#[derive(Clone, PartialEq, prost::Message)]
struct VersionResponse {
    #[prost(string, tag = "2")]
    runtime_name: String,
    #[prost(string, tag = "3")]
    runtime_version: String,
}

/// Asks.
///
/// # Errors
/// Only where this process cannot wait for anything.
pub fn ask(socket: &Path) -> std::io::Result<Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, UnixStream::connect(socket)).await else {
            return Answer::default();
        };
        // Another PID namespace shows as 0.
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid > 0);
        drop(stream);
        let cri = tokio::time::timeout(PATIENCE, version(socket)).await.ok().flatten();
        Answer { open: true, pid, cri }
    }))
}

async fn version(socket: &Path) -> Option<String> {
    let channel = Endpoint::from_shared(format!("unix://{}", socket.display())).ok()?.connect().await.ok()?;
    let mut client = Grpc::new(channel);
    client.ready().await.ok()?;
    let codec: ProstCodec<VersionRequest, VersionResponse> = ProstCodec::default();
    let path = hyper::http::uri::PathAndQuery::from_static("/runtime.v1.RuntimeService/Version");
    let answer = client.unary(tonic::Request::new(VersionRequest::default()), path, codec).await.ok()?;
    let VersionResponse { runtime_name, runtime_version } = answer.into_inner();
    Some(format!("{runtime_name} {runtime_version}"))
}
