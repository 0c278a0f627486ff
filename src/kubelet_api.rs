//! The kubelet's gRPC interfaces on a node, generated from Kubernetes' own `.proto` files (`tests/protos`, with a test that
//! compares): types, clients and servers, no behaviour. The agent serves the first and reads the second; the demo's kubelet is
//! the other side of both.

/// `v1beta1`, device plugins: <https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/>.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::restriction,
    missing_docs,
    rustdoc::all,
    unreachable_pub,
    rust_2018_idioms,
    reason = "generated"
)]
#[rustfmt::skip]
pub mod device_plugin;

/// `v1`, which container has which device IDs.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::restriction,
    missing_docs,
    rustdoc::all,
    unreachable_pub,
    rust_2018_idioms,
    reason = "generated"
)]
#[rustfmt::skip]
pub mod pod_resources;
