//! The node agent: finds the devices of its node, publishes them, and sees to it that each container gets exactly the devices that
//! its pod was promised.
//!
//! | module | owns |
//! |---|---|
//! | [`backend`] | where devices come from: NVML, or a topology file |
//! | [`health`], [`devices`] | what state each device is in; the one writer of [`view::NodeView`] |
//! | [`events`] | what people read of it: Kubernetes Events about the node and its pods |
//! | [`pods`] | the pods of this node, by watch |
//! | [`standing`] | whether the agent is ready, whom it refused, who uses a device uninvited |
//! | [`publish`], [`labels`] | the Node object: inventory, totals, start-up taint, labels |
//! | [`plugin`], [`slots`] | the kubelet's device-plugin interface |
//! | [`identity`] | from slots to pod and container, exactly |
//! | [`start`], [`pins`], [`foreign`] | the last check before a container starts, and what it verified, on disk |
//! | [`specification`] | what the container runtime reads next: CDI files |
//! | [`usage`] | what devices and containers use, measured when `/metrics` is asked |
//! | [`run`], [`lifecycle`] | how the parts are wired, and in which order they start and end |
//! | [`lock`] | one agent at a time on a node |
//! | [`options`] | NVIDIA's flags, environment and configuration file |
//!
//! State flows one way: backend → devices → view → everybody else, as immutable snapshots. `Allocate` reads snapshots and never
//! waits for the network; `PreStartContainer` may, and refuses where it cannot be sure.

pub mod backend;
pub mod devices;
pub mod events;
pub mod foreign;
pub mod health;
pub mod identity;
pub mod labels;
pub mod lifecycle;
pub mod lock;
pub mod options;
pub mod pins;
pub mod plugin;
pub mod pods;
pub mod publish;
pub mod run;
pub mod slots;
pub mod specification;
pub mod standing;
pub mod start;
pub mod usage;
pub mod view;
