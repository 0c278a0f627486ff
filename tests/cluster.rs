//! Behaviour on a real control plane: etcd, kube-apiserver, kube-controller-manager and kube-scheduler as processes, one module
//! per subject; where a test asks for it, a real kubelet with a real containerd besides. What needs none is in `tests.rs`.
//!
//! [`lab::on_cluster`] gives a test the cluster. It needs Linux and Go; where they are missing each test says so and passes, unless
//! `PACKHORSE_REQUIRE_CLUSTER=1`.

#![expect(clippy::expect_used, reason = "the whole binary is a test; clippy sees that of functions with #[test] only")]

#[path = "cluster/address.rs"]
mod address;
#[path = "cluster/agent.rs"]
mod agent;
#[path = "cluster/audit.rs"]
mod audit;
#[path = "cluster/built.rs"]
mod built;
#[path = "cluster/checker.rs"]
mod checker;
#[path = "cluster/helm.rs"]
mod helm;
#[path = "cluster/http.rs"]
mod http;
#[path = "cluster/identity.rs"]
mod identity;
#[path = "cluster/kubelab.rs"]
mod kubelab;
#[path = "cluster/lab.rs"]
mod lab;
#[path = "cluster/manifests.rs"]
mod manifests;
#[path = "cluster/node.rs"]
mod node;
#[path = "cluster/objects.rs"]
mod objects;
#[path = "cluster/pods.rs"]
mod pods;
#[path = "cluster/process.rs"]
mod process;
#[path = "cluster/said.rs"]
mod said;
#[path = "cluster/wait.rs"]
mod wait;

#[path = "cluster/admission.rs"]
mod admission;
#[path = "cluster/agent_beside.rs"]
mod agent_beside;
#[path = "cluster/agent_containers.rs"]
mod agent_containers;
#[path = "cluster/agent_health.rs"]
mod agent_health;
#[path = "cluster/agent_lifecycle.rs"]
mod agent_lifecycle;
#[path = "cluster/agent_node.rs"]
mod agent_node;
#[path = "cluster/agent_refusals.rs"]
mod agent_refusals;
#[path = "cluster/agent_swap.rs"]
mod agent_swap;
#[path = "cluster/agent_usage.rs"]
mod agent_usage;
#[allow(dead_code, reason = "shared with the tests without a cluster; each of the two binaries uses a part")]
#[path = "runtime/case.rs"]
mod case;
#[path = "cluster/certificates.rs"]
mod certificates;
#[path = "cluster/conflicts.rs"]
mod conflicts;
#[path = "cluster/examples.rs"]
mod examples;
#[path = "cluster/generated.rs"]
mod generated;
#[path = "cluster/image.rs"]
mod image;
#[path = "cluster/inspect.rs"]
mod inspect;
#[path = "cluster/install.rs"]
mod install;
#[path = "cluster/mirrored.rs"]
mod mirrored;
#[path = "cluster/node_works.rs"]
mod node_works;
#[path = "cluster/packing.rs"]
mod packing;
#[path = "cluster/recipes.rs"]
mod recipes;
#[path = "cluster/restarts.rs"]
mod restarts;
#[path = "cluster/retry.rs"]
mod retry;
#[path = "cluster/runtime_configure.rs"]
mod runtime_configure;
#[path = "cluster/sampling.rs"]
mod sampling;
#[path = "cluster/scheduling.rs"]
mod scheduling;
#[path = "cluster/top.rs"]
mod top;
#[path = "cluster/trace.rs"]
mod trace;
