//! Names that users, other programs and earlier versions rely on. Nothing here may change without a new wire version.

/// The scheduler that runs with our profile.
pub const SCHEDULER: &str = "packhorse";
/// Where Packhorse itself runs.
pub const NAMESPACE: &str = "packhorse-system";
/// The server's `ServiceAccount`.
pub const SERVER_ACCOUNT: &str = "packhorse-server";
/// The agent's `ServiceAccount`.
pub const AGENT_ACCOUNT: &str = "packhorse-agent";
/// Every key of ours begins so.
pub const PREFIX: &str = "packhorse.dev/";

/// Extended resource: MiB of GPU memory, a total over a container's GPUs.
pub const GPU_MEMORY: &str = "packhorse.dev/gpu-memory";
/// Extended resource: percent of compute, a total over a container's GPUs; present on every GPU container.
pub const GPU_CORES: &str = "packhorse.dev/gpu-cores";

/// Pod annotation: the normalised request.
pub const REQUEST: &str = "packhorse.dev/request";
/// Pod annotation: which devices each container got; written only in the Binding.
pub const ALLOCATION: &str = "packhorse.dev/allocation";
/// Prefix of the pod annotations that hold one container's UUIDs; written only in the Binding.
pub const DEVICES_PREFIX: &str = "devices.packhorse.dev/";
/// Node annotation: the devices of the node; written by its agent.
pub const INVENTORY: &str = "packhorse.dev/inventory";
/// Node annotation: devices that take no new pods; written by an administrator.
pub const CORDON: &str = "packhorse.dev/cordon";
/// Start-up taint, `NoSchedule`, removed by the agent.
pub const NOT_READY_TAINT: &str = "packhorse.dev/not-ready";
/// Namespace label: what a count alone means there, `exclusive` or `share-<percent>`.
pub const COUNT_ALONE: &str = "packhorse.dev/count-alone";
/// GPU Feature Discovery's node label; `single` makes `nvidia.com/gpu` mean MIG instances.
pub const MIG_STRATEGY_LABEL: &str = "nvidia.com/mig.strategy";

/// Node label: whose the driver is, `host` or `container`; written by the node's agent.
pub const DRIVER_LABEL: &str = "packhorse.dev/driver";

/// The variable by which NVIDIA's runtime learns a container's devices.
pub const VISIBLE_DEVICES: &str = "NVIDIA_VISIBLE_DEVICES";
