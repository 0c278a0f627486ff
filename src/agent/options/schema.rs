//! Every option of NVIDIA's plugin: its names, what may stand there, and what becomes of it here. One table, from which the
//! command line, the reading of the file, the reports and the tests are made; `docs/agent.md` shows it.

pub use super::value::Kind;

/// One option.
#[derive(Debug)]
pub struct Key {
    /// On the command line, without dashes: the first counts in messages, the others are NVIDIA's other names for it.
    pub flags: &'static [&'static str],
    /// Environment variables, the strongest first.
    pub environment: &'static [&'static str],
    /// In the file.
    pub file: Option<&'static str>,
    /// What may stand there.
    pub kind: Kind,
    /// What becomes of it.
    pub fate: Fate,
    /// One line for `--help`.
    pub help: &'static str,
}

/// What becomes of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It does what it does in NVIDIA's plugin.
    Honoured,
    /// It does nothing, and is reported.
    Reported {
        /// Why, and what there is instead.
        reason: &'static str,
        /// Values that ask for nothing else than what happens: not reported.
        unless: &'static [&'static str],
    },
}

/// The configuration file's own option.
pub const CONFIG_FILE: Key = Key {
    flags: &["config-file"],
    environment: &["CONFIG_FILE"],
    file: None,
    kind: Kind::Text,
    fate: Fate::Honoured,
    help: "NVIDIA's configuration file (version: v1)",
};

const HONOURED: Fate = Fate::Honoured;

const fn reported(reason: &'static str, unless: &'static [&'static str]) -> Fate {
    Fate::Reported { reason, unless }
}

const fn key(
    flags: &'static [&'static str],
    environment: &'static [&'static str],
    file: &'static str,
    kind: Kind,
    fate: Fate,
    help: &'static str,
) -> Key {
    Key { flags, environment, file: Some(file), kind, fate, help }
}

/// An option that the file alone has.
const fn in_file(file: &'static str, kind: Kind, fate: Fate) -> Key {
    key(&[], &[], file, kind, fate, "")
}

/// An option that the file does not have.
const fn not_in_file(flags: &'static [&'static str], environment: &'static [&'static str], fate: Fate) -> Key {
    Key { flags, environment, file: None, kind: Kind::Text, fate, help: "" }
}

const NO_DRIVER_SPECIFICATION: &str =
    "the agent generates no CDI specification of the driver; it takes the host's, made by nvidia-ctk cdi generate";
const NO_EXTRA: &str =
    "the agent adds no such devices or libraries; name them in the host's CDI specification (nvidia-ctk cdi generate)";
const NO_IMEX: &str = "IMEX channels are not handed out";
const NO_MPS: &str = "sharing by MPS is not built; requests for memory and cores share a card without it";
const OWN_LABELS: &str = "GPU Feature Discovery is not run; the agent keeps its labels itself";
const NVIDIA_IGNORES: &str = "NVIDIA's plugin ignores it too: resources cannot be named otherwise";

/// The entries of the file's list `sharing.timeSlicing.resources`, which is read by hand: `name` and `replicas` are honoured.
pub const TIME_SLICING: &str = "sharing.timeSlicing.resources";
/// Keys of such an entry that are reported, with the value that is not.
pub const TIME_SLICING_REPORTED: [(&str, &str, &str); 2] = [
    ("rename", NVIDIA_IGNORES, ""),
    ("devices", "NVIDIA's plugin ignores it too: every device of the resource has the same number of slots", "all"),
];

/// All of them.
pub const KEYS: &[Key] = &[
    key(
        &["mig-strategy"],
        &["MIG_STRATEGY"],
        "flags.migStrategy",
        Kind::Choice(&["none", "single", "mixed"]),
        HONOURED,
        "What nvidia.com/gpu and nvidia.com/mig-* mean: none, single or mixed (none)",
    ),
    key(
        &["fail-on-init-error"],
        &["FAIL_ON_INIT_ERROR"],
        "flags.failOnInitError",
        Kind::Bool,
        HONOURED,
        "End where there is no driver, rather than wait for it (true)",
    ),
    key(
        &["nvidia-driver-root", "driver-root"],
        &["NVIDIA_DRIVER_ROOT"],
        "flags.nvidiaDriverRoot",
        Kind::Path,
        HONOURED,
        "Where the host's driver is installed (/)",
    ),
    key(
        &["nvidia-dev-root", "dev-root"],
        &["NVIDIA_DEV_ROOT"],
        "flags.nvidiaDevRoot",
        Kind::Path,
        HONOURED,
        "What holds the host's dev with the device nodes (the driver root)",
    ),
    key(
        &["pass-device-specs"],
        &["PASS_DEVICE_SPECS"],
        "flags.plugin.passDeviceSpecs",
        Kind::Bool,
        HONOURED,
        "Give containers the device nodes too (false)",
    ),
    key(
        &["device-list-strategy"],
        &["DEVICE_LIST_STRATEGY"],
        "flags.plugin.deviceListStrategy",
        Kind::Choices(&["envvar", "volume-mounts", "cdi-annotations", "cdi-cri"]),
        HONOURED,
        "How containers are told of their devices, a list of envvar, volume-mounts, cdi-annotations, cdi-cri (envvar)",
    ),
    key(
        &["device-id-strategy"],
        &["DEVICE_ID_STRATEGY"],
        "flags.plugin.deviceIDStrategy",
        Kind::Choice(&["uuid", "index"]),
        HONOURED,
        "By what NVIDIA's runtime is told of devices: uuid or index (uuid)",
    ),
    key(
        &["cdi-annotation-prefix"],
        &["CDI_ANNOTATION_PREFIX"],
        "flags.plugin.cdiAnnotationPrefix",
        Kind::Text,
        HONOURED,
        "Beginning of the annotation keys of cdi-annotations (cdi.k8s.io/)",
    ),
    key(
        &["nvidia-cdi-hook-path", "nvidia-ctk-path"],
        &["NVIDIA_CDI_HOOK_PATH", "NVIDIA_CTK_PATH"],
        "flags.plugin.nvidiaCTKPath",
        Kind::Text,
        reported(NO_DRIVER_SPECIFICATION, &[]),
        "",
    ),
    key(
        &["driver-root-ctr-path", "container-driver-root"],
        &["DRIVER_ROOT_CTR_PATH", "CONTAINER_DRIVER_ROOT"],
        "flags.plugin.containerDriverRoot",
        Kind::Text,
        HONOURED,
        "Where the agent itself sees the driver root (/driver-root where that exists, else the driver root)",
    ),
    key(
        &["gdrcopy-enabled"],
        &["GDRCOPY_ENABLED"],
        "flags.gdrcopyEnabled",
        Kind::Bool,
        reported(NO_EXTRA, &["false"]),
        "",
    ),
    key(&["gds-enabled"], &["GDS_ENABLED"], "flags.gdsEnabled", Kind::Bool, reported(NO_EXTRA, &["false"]), ""),
    key(&["mofed-enabled"], &["MOFED_ENABLED"], "flags.mofedEnabled", Kind::Bool, reported(NO_EXTRA, &["false"]), ""),
    key(&["mps-root"], &["MPS_ROOT"], "flags.mpsRoot", Kind::Text, reported(NO_MPS, &[]), ""),
    key(
        &["shared-devices-allocation-policy"],
        &["SHARED_DEVICES_ALLOCATION_POLICY"],
        "flags.plugin.sharedDevicesAllocationPolicy",
        Kind::Choice(&["distributed", "packed"]),
        reported("the scheduler's extender chooses devices, by the annotation packhorse.dev/gpu-policy", &[]),
        "",
    ),
    key(
        &["device-discovery-strategy"],
        &["DEVICE_DISCOVERY_STRATEGY"],
        "flags.deviceDiscoveryStrategy",
        Kind::Choice(&["auto", "nvml", "tegra"]),
        reported("devices are found by NVML alone", &["auto", "nvml"]),
        "",
    ),
    key(
        &["restart-on-device-unhealthy"],
        &["RESTART_ON_DEVICE_UNHEALTHY"],
        "flags.restartOnDeviceUnhealthy",
        Kind::Bool,
        reported("a device that fails is withdrawn and comes back by itself, without a restart", &["false"]),
        "",
    ),
    key(&["imex-channel-ids"], &["IMEX_CHANNEL_IDS"], "imex.channelIDs", Kind::Numbers, reported(NO_IMEX, &["[]"]), ""),
    key(&["imex-required"], &["IMEX_REQUIRED"], "imex.required", Kind::Bool, reported(NO_IMEX, &["false"]), ""),
    not_in_file(
        &["kubelet-socket"],
        &["KUBELET_SOCKET"],
        reported(
            "--kubelet-dir names the kubelet's directory, which holds device-plugins/kubelet.sock",
            &["/var/lib/kubelet/device-plugins/kubelet.sock"],
        ),
    ),
    not_in_file(&["cdi-feature-flags"], &["CDI_FEATURE_FLAGS"], reported(NO_DRIVER_SPECIFICATION, &[])),
    not_in_file(&["cdi-disable-hooks"], &["CDI_DISABLE_HOOKS"], reported(NO_DRIVER_SPECIFICATION, &[])),
    in_file("flags.useNodeFeatureAPI", Kind::Bool, reported("labels are written to the Node itself", &["false"])),
    in_file("flags.gfd.oneshot", Kind::Bool, reported(OWN_LABELS, &["false"])),
    in_file("flags.gfd.noTimestamp", Kind::Bool, reported(OWN_LABELS, &[])),
    in_file("flags.gfd.sleepInterval", Kind::Duration, reported(OWN_LABELS, &[])),
    in_file("flags.gfd.outputFile", Kind::Text, reported(OWN_LABELS, &[])),
    in_file("flags.gfd.machineTypeFile", Kind::Text, reported(OWN_LABELS, &[])),
    in_file("resources.gpus", Kind::Maps, reported(NVIDIA_IGNORES, &["[]"])),
    in_file("resources.mig", Kind::Maps, reported(NVIDIA_IGNORES, &["[]"])),
    in_file(
        "sharing.timeSlicing.renameByDefault",
        Kind::Bool,
        reported("the resource keeps its name: how a GPU is shared is said by each request", &["false"]),
    ),
    in_file(
        "sharing.timeSlicing.failRequestsGreaterThanOne",
        Kind::Bool,
        reported("a request for n GPUs gets n different ones, so there is nothing to fail", &["false"]),
    ),
    in_file("sharing.mps.renameByDefault", Kind::Bool, reported(NO_MPS, &["false"])),
    in_file("sharing.mps.failRequestsGreaterThanOne", Kind::Bool, reported(NO_MPS, &[])),
    in_file("sharing.mps.resources", Kind::Maps, reported(NO_MPS, &["[]"])),
];
