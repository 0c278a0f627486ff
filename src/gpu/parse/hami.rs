//! HAMi's vocabulary, one row per name that a pod, a container or a node may still carry, and what Packhorse does with it.
//!
//! The parser answers from this table, and `docs/migrate-from-hami.md` prints it: nothing of HAMi's is silently ignored. A name
//! under `hami.io/` without a row is answered with a warning.

/// Where a name stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A container's limits or requests; the name is written without its prefix.
    Resource,
    /// A pod's annotation.
    Annotation,
    /// A pod's label.
    Label,
    /// A field of the pod's specification.
    Field,
    /// A container's environment.
    Env,
    /// A container's resource or a pod's annotation about devices of other vendors, which HAMi shares as well.
    Vendor,
    /// A node's annotation; on a pod it is answered as written here too.
    NodeAnnotation,
}

impl Place {
    /// As the documentation names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resource => "resource",
            Self::Annotation => "annotation",
            Self::Label => "label",
            Self::Field => "field",
            Self::Env => "env",
            Self::Vendor => "resource, annotation",
            Self::NodeAnnotation => "node annotation",
        }
    }
}

/// What Packhorse does with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It means here what it means there, or nothing is needed for it.
    Honoured,
    /// The pod is admitted, with a warning.
    Warned,
    /// A GPU pod that carries it is denied.
    Refused,
}

impl Answer {
    /// As the documentation names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Honoured => "honoured",
            Self::Warned => "warned",
            Self::Refused => "refused",
        }
    }
}

/// One name of HAMi's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Where it stands.
    pub place: Place,
    /// Its name; one that ends in `*` stands for all that begin so.
    pub name: &'static str,
    /// What Packhorse does with it.
    pub answer: Answer,
    /// What that means, or what to use instead.
    pub note: &'static str,
}

const fn row(place: Place, name: &'static str, answer: Answer, note: &'static str) -> Row {
    Row { place, name, answer, note }
}

const RECORD: &str = "a record that HAMi keeps of its own decisions; the one of Packhorse is packhorse.dev/allocation";
const NODE_RECORD: &str = "not read; nodes publish packhorse.dev/inventory";
const VENDOR: &str = "Packhorse shares no devices of this vendor; a container gets what the vendor's own plugin advertises, in whole pieces";
const LIMIT_ENV: &str = "has no effect; limits come from the resources and a pod cannot change them by its environment";

/// Every name, in the order of the documentation.
pub const TABLE: &[Row] = {
    use Answer::{Honoured, Refused, Warned};
    use Place::{Annotation, Env, Field, Label, NodeAnnotation, Resource, Vendor};
    &[
        row(Resource, "gpu", Honoured, "count of different GPUs"),
        row(Resource, "gpumem", Honoured, "memory per GPU; decimal is MiB, binary suffixes such as 16Gi work too"),
        row(Resource, "gpumem-percentage", Honoured, "memory per GPU as a share of the card; 0 means not asked"),
        row(Resource, "gpucores", Honoured, "compute per GPU in percent; above 100 is denied, not clamped"),
        row(
            Resource,
            "priority",
            Warned,
            "priorities between the tasks of one card do not exist; removed from the container",
        ),
        row(
            Annotation,
            "nvidia.com/use-gputype",
            Honoured,
            "as packhorse.dev/gpu-model; whole words, so A10 is not A100",
        ),
        row(Annotation, "nvidia.com/nouse-gputype", Honoured, "as packhorse.dev/gpu-model-exclude; whole words"),
        row(Annotation, "nvidia.com/use-gpuuuid", Honoured, "as packhorse.dev/gpu-uuid"),
        row(Annotation, "nvidia.com/nouse-gpuuuid", Honoured, "as packhorse.dev/gpu-uuid-exclude"),
        row(Annotation, "nvidia.com/numa-bind", Honoured, "as packhorse.dev/numa-bind"),
        row(
            Annotation,
            "nvidia.com/vgpu-mode",
            Honoured,
            "mig and mps as packhorse.dev/require-enforcement; hami-core is answered with a warning",
        ),
        row(Annotation, "hami.io/node-scheduler-policy", Honoured, "as packhorse.dev/node-policy"),
        row(
            Annotation,
            "hami.io/gpu-scheduler-policy",
            Honoured,
            "as packhorse.dev/gpu-policy; topology-aware and numa are topology; mutex and the tail of a chain are answered with a warning",
        ),
        row(
            Annotation,
            "hami.io/device-scoring-weights",
            Warned,
            "weights do not exist; choose an order with packhorse.dev/gpu-policy",
        ),
        row(
            Annotation,
            "hami.io/numa-alignment",
            Warned,
            "has no effect; for GPUs of one NUMA node set packhorse.dev/numa-bind",
        ),
        row(
            Label,
            "hami.io/webhook",
            Refused,
            "no GPU pod passes by the webhook; remove the label, or have the namespace excluded in Packhorse's configuration",
        ),
        row(Label, "scheduling.x-k8s.io/pod-group", Honoured, "nothing is needed: binding waits for no lock"),
        row(Label, "hami.io/vgpu-node", Warned, RECORD),
        row(
            Field,
            "schedulerName: hami-scheduler",
            Refused,
            "this scheduler books no GPUs here; remove it (foreignScheduler: override replaces it with a warning)",
        ),
        row(
            Field,
            "runtimeClassName",
            Honoured,
            "the pod's own stays; config.webhook.runtimeClassName is set where there is none",
        ),
        row(Field, "nodeName", Refused, "as in HAMi; write a nodeSelector on kubernetes.io/hostname"),
        row(Field, "securityContext.privileged", Refused, "as in HAMi; config.webhook.privileged can be warn or allow"),
        row(
            Env,
            "NVIDIA_VISIBLE_DEVICES",
            Honoured,
            "a list of indices or UUIDs is booked; in containers without GPUs it becomes void",
        ),
        row(
            Env,
            "CUDA_DISABLE_CONTROL",
            Warned,
            "has no effect; limits cannot be switched off from inside a pod, ask for whole GPUs instead",
        ),
        row(Env, "CUDA_TASK_PRIORITY", Warned, "has no effect; priorities between the tasks of one card do not exist"),
        row(Env, "GPU_CORE_UTILIZATION_POLICY", Warned, LIMIT_ENV),
        row(Env, "CUDA_DEVICE_MEMORY_LIMIT*", Warned, LIMIT_ENV),
        row(Env, "CUDA_DEVICE_SM_LIMIT*", Warned, LIMIT_ENV),
        row(Env, "CUDA_DEVICE_MEMORY_SHARED_CACHE", Warned, "has no effect; no library is put into containers"),
        row(Env, "CUDA_OVERSUBSCRIBE", Warned, "has no effect; GPU memory is never oversubscribed"),
        row(Env, "LIBCUDA_LOG_LEVEL", Warned, "has no effect; no library is put into containers"),
        row(Env, "ACTIVE_OOM_KILLER", Warned, "has no effect; no library is put into containers"),
        row(Annotation, "hami.io/vgpu-node", Warned, RECORD),
        row(Annotation, "hami.io/vgpu-time", Warned, RECORD),
        row(Annotation, "hami.io/bind-time", Warned, RECORD),
        row(Annotation, "hami.io/bind-phase", Warned, RECORD),
        row(Annotation, "hami.io/vgpu-devices-to-allocate", Warned, RECORD),
        row(Annotation, "hami.io/vgpu-devices-allocated", Warned, RECORD),
        row(Annotation, "hami.io/vgpu-mig-allocations", Warned, RECORD),
        row(NodeAnnotation, "hami.io/node-nvidia-register", Warned, NODE_RECORD),
        row(NodeAnnotation, "hami.io/node-nvidia-score", Warned, NODE_RECORD),
        row(NodeAnnotation, "hami.io/node-handshake", Warned, NODE_RECORD),
        row(NodeAnnotation, "hami.io/mutex.lock", Warned, "not read; Packhorse locks no nodes"),
        row(NodeAnnotation, "hami.io/device-cordon", Warned, "not read; use packhorse.dev/cordon on the node"),
        row(Vendor, "cambricon.com/*", Warned, VENDOR),
        row(Vendor, "hygon.com/*", Warned, VENDOR),
        row(Vendor, "metax-tech.com/*", Warned, VENDOR),
        row(Vendor, "enflame.com/*", Warned, VENDOR),
        row(Vendor, "kunlunxin.com/*", Warned, VENDOR),
        row(Vendor, "vastaitech.com/*", Warned, VENDOR),
        row(Vendor, "birentech.com/*", Warned, VENDOR),
        row(Vendor, "mthreads.com/*", Warned, VENDOR),
        row(Vendor, "huawei.com/*", Warned, VENDOR),
        row(Vendor, "iluvatar.ai/*", Warned, VENDOR),
        row(Vendor, "amd.com/*", Warned, VENDOR),
        row(Vendor, "aws.amazon.com/neuron*", Warned, VENDOR),
    ]
};

/// The row that answers `name` at `place`; on pods, rows of node annotations answer too.
pub fn find(place: Place, name: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| {
        let here = row.place == place || (place == Place::Annotation && row.place == Place::NodeAnnotation);
        here && match row.name.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => row.name == name,
        }
    })
}
