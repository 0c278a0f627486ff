//! Every key of NVIDIA's format and what becomes of it: one row each. The notes of an import and the table of
//! `docs/migrate-from-nvidia.md` are made from these rows.

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stands in `agent.nvidiaConfig` as it stood.
    Same,
    /// It is a value of our chart under another name.
    Renamed,
    /// It is taken over, or not needed, but what comes of it is something else.
    Differs,
    /// It does nothing here.
    None,
}

impl Fate {
    /// As the documentation names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Renamed => "renamed",
            Self::Differs => "meaning differs",
            Self::None => "no counterpart",
        }
    }
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its path; `[]` stands for an entry of a list.
    pub key: &'static str,
    /// What becomes of it.
    pub fate: Fate,
    /// The value of our chart that it becomes, empty where there is none.
    pub becomes: &'static str,
    /// Why it has no counterpart or another meaning, and what to do instead. Empty where it is taken over as it is.
    pub note: &'static str,
    /// The values of which nothing is said, because they ask for what happens anyway.
    pub harmless: &'static [&'static str],
}

impl Row {
    /// The row of that key.
    pub fn find(key: &str) -> Option<&'static Self> {
        KEYS.iter().find(|row| row.key == key)
    }
}

const fn same(key: &'static str, becomes: &'static str) -> Row {
    Row { key, fate: Fate::Same, becomes, note: "", harmless: &[] }
}

const fn renamed(key: &'static str, becomes: &'static str) -> Row {
    Row { key, fate: Fate::Renamed, becomes, note: "", harmless: &[] }
}

const fn differs(
    key: &'static str,
    becomes: &'static str,
    harmless: &'static [&'static str],
    note: &'static str,
) -> Row {
    Row { key, fate: Fate::Differs, becomes, note, harmless }
}

const fn none(key: &'static str, harmless: &'static [&'static str], note: &'static str) -> Row {
    Row { key, fate: Fate::None, becomes: "", note, harmless }
}

const NO_EXTRA: &str = "the agent adds no such devices and libraries to containers; put them into the host's CDI specification of kind \
                        nvidia.com/gpu, from which containers get what they get";
const NO_IMEX: &str = "IMEX channels are not handed out; leave nodes whose pods need them to NVIDIA's plugin";
const NO_RENAME: &str = "resources keep their names: pods that ask for nvidia.com/gpu.shared have to ask for nvidia.com/gpu, which means \
                         what config.webhook.countAlone says";
const IGNORED_RENAME: &str = "NVIDIA's plugin ignores it too: resources keep their names";
const IGNORED_DEVICES: &str = "NVIDIA's plugin ignores it too: every device of a resource has the same number of slots; to keep sharers \
                               off a device, let pods ask for others with packhorse.dev/gpu-uuid-exclude";
const MANY: &str = "a request for n GPUs gets n different ones here, never n shares of one, so there is nothing to fail; forbid larger \
                    counts by a ResourceQuota on requests.nvidia.com/gpu, if you must";
const SLOTS: &str = "it limits how many containers may share a device; what a container gets of it is said by its own request, and for \
                     nvidia.com/gpu alone by config.webhook.countAlone";

/// All of them, in the order of the format.
pub const KEYS: &[Row] = &[
    same("version", ""),
    renamed("flags.migStrategy", "agent.migStrategy"),
    renamed("flags.failOnInitError", "agent.failOnInitError"),
    renamed("flags.nvidiaDriverRoot", "agent.driverRoot"),
    same("flags.nvidiaDevRoot", "agent.nvidiaConfig"),
    none("flags.gdrcopyEnabled", &["false"], NO_EXTRA),
    none("flags.gdsEnabled", &["false"], NO_EXTRA),
    none("flags.mofedEnabled", &["false"], NO_EXTRA),
    none("flags.mpsRoot", &[""], "no MPS daemon is run; shares of memory and cores need none, so nothing is to be set"),
    none(
        "flags.deviceDiscoveryStrategy",
        &["auto", "nvml"],
        "devices are found by NVML alone; leave nodes with Tegra to NVIDIA's plugin",
    ),
    none(
        "flags.restartOnDeviceUnhealthy",
        &["false"],
        "a device that fails is withdrawn and comes back by itself, without a restart; nothing is to be set",
    ),
    none(
        "flags.useNodeFeatureAPI",
        &["false"],
        "the agent writes the labels to the Node itself, and Node Feature Discovery is not needed for them; nothing is to be set",
    ),
    renamed("flags.plugin.passDeviceSpecs", "agent.passDeviceSpecs"),
    renamed("flags.plugin.deviceListStrategy", "agent.deviceListStrategy"),
    renamed("flags.plugin.deviceIDStrategy", "agent.deviceIDStrategy"),
    same("flags.plugin.cdiAnnotationPrefix", "agent.nvidiaConfig"),
    none(
        "flags.plugin.nvidiaCTKPath",
        &[],
        "hooks are those of the host's CDI specification, into which nvidia-ctk cdi generate writes their path; nothing is to be set",
    ),
    none(
        "flags.plugin.containerDriverRoot",
        &["/driver-root"],
        "the chart mounts agent.driverRoot at /driver-root; nothing is to be set",
    ),
    differs(
        "flags.plugin.sharedDevicesAllocationPolicy",
        "",
        &["packed"],
        "the scheduler chooses among all devices and packs unless told otherwise; for the emptiest device first set \
         packhorse.dev/gpu-policy: spread on pods, or config.extender.gpuPolicy: spread for all",
    ),
    none("flags.gfd.oneshot", &["false"], "the agent keeps the labels right as long as it runs; nothing is to be set"),
    none("flags.gfd.noTimestamp", &["true"], "nvidia.com/gfd.timestamp is never written; select by another label"),
    none("flags.gfd.sleepInterval", &[], "labels change when the devices do, by no timer; nothing is to be set"),
    none("flags.gfd.outputFile", &[], "labels are written to the Node itself and to no file; read them there"),
    none(
        "flags.gfd.machineTypeFile",
        &["/sys/class/dmi/id/product_name"],
        "nvidia.com/gpu.machine is read from /sys/class/dmi/id/product_name; give nodes a label of your own with agent.nodeLabels",
    ),
    none(
        "resources.gpus",
        &["[]"],
        "NVIDIA's plugin ignores it too: resources keep their names; to choose models set packhorse.dev/gpu-model on pods",
    ),
    none(
        "resources.mig",
        &["[]"],
        "NVIDIA's plugin ignores it too: resources keep their names; pods ask for nvidia.com/mig-<profile>",
    ),
    none("sharing.timeSlicing.renameByDefault", &["false"], NO_RENAME),
    differs("sharing.timeSlicing.failRequestsGreaterThanOne", "", &["false"], MANY),
    same("sharing.timeSlicing.resources[].name", "agent.nvidiaConfig"),
    none("sharing.timeSlicing.resources[].rename", &[""], IGNORED_RENAME),
    none("sharing.timeSlicing.resources[].devices", &["all"], IGNORED_DEVICES),
    differs("sharing.timeSlicing.resources[].replicas", "agent.nvidiaConfig, config.webhook.countAlone", &[], SLOTS),
    none("sharing.mps.renameByDefault", &["false"], NO_RENAME),
    differs("sharing.mps.failRequestsGreaterThanOne", "", &["false"], MANY),
    same("sharing.mps.resources[].name", "agent.nvidiaConfig"),
    none("sharing.mps.resources[].rename", &[""], IGNORED_RENAME),
    none("sharing.mps.resources[].devices", &["all"], IGNORED_DEVICES),
    differs("sharing.mps.resources[].replicas", "agent.nvidiaConfig, config.webhook.countAlone", &[], SLOTS),
    none("imex.channelIDs", &["[]"], NO_IMEX),
    none("imex.required", &["false"], NO_IMEX),
];
