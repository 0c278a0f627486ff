//! Nothing that NVIDIA's plugin knows is dropped: it is honoured or reported.

use packhorse::agent::options::schema::{Fate, KEYS, Key, Kind};

use super::given::{Given, yaml};

/// All flags, variables and keys of NVIDIA's plugin and of its file, beside `config-file` and those of health checks.
const NVIDIA: [&str; 3] = [
    "mig-strategy fail-on-init-error driver-root nvidia-driver-root dev-root nvidia-dev-root pass-device-specs \
     device-list-strategy device-id-strategy gdrcopy-enabled gds-enabled mofed-enabled cdi-annotation-prefix \
     nvidia-cdi-hook-path nvidia-ctk-path driver-root-ctr-path container-driver-root mps-root \
     shared-devices-allocation-policy device-discovery-strategy imex-channel-ids imex-required kubelet-socket \
     cdi-feature-flags cdi-disable-hooks restart-on-device-unhealthy",
    "MIG_STRATEGY FAIL_ON_INIT_ERROR NVIDIA_DRIVER_ROOT NVIDIA_DEV_ROOT PASS_DEVICE_SPECS DEVICE_LIST_STRATEGY \
     DEVICE_ID_STRATEGY GDRCOPY_ENABLED GDS_ENABLED MOFED_ENABLED CDI_ANNOTATION_PREFIX NVIDIA_CDI_HOOK_PATH \
     NVIDIA_CTK_PATH DRIVER_ROOT_CTR_PATH CONTAINER_DRIVER_ROOT MPS_ROOT SHARED_DEVICES_ALLOCATION_POLICY \
     DEVICE_DISCOVERY_STRATEGY IMEX_CHANNEL_IDS IMEX_REQUIRED KUBELET_SOCKET CDI_FEATURE_FLAGS CDI_DISABLE_HOOKS \
     RESTART_ON_DEVICE_UNHEALTHY",
    "flags.migStrategy flags.failOnInitError flags.nvidiaDriverRoot flags.nvidiaDevRoot flags.plugin.passDeviceSpecs \
     flags.plugin.deviceListStrategy flags.plugin.deviceIDStrategy flags.gdrcopyEnabled flags.gdsEnabled \
     flags.mofedEnabled flags.plugin.cdiAnnotationPrefix flags.plugin.nvidiaCTKPath flags.plugin.containerDriverRoot \
     flags.mpsRoot flags.plugin.sharedDevicesAllocationPolicy flags.deviceDiscoveryStrategy imex.channelIDs \
     imex.required flags.useNodeFeatureAPI flags.gfd.oneshot flags.gfd.noTimestamp flags.gfd.sleepInterval \
     flags.gfd.outputFile flags.gfd.machineTypeFile resources.gpus resources.mig sharing.timeSlicing.renameByDefault \
     sharing.timeSlicing.failRequestsGreaterThanOne sharing.mps.renameByDefault \
     sharing.mps.failRequestsGreaterThanOne sharing.mps.resources flags.restartOnDeviceUnhealthy",
];

/// A value that asks for something: in a flag or variable, and in the file.
fn demand(key: &Key) -> (&'static str, &'static str) {
    if key.kind == Kind::Bool {
        return ("true", "true");
    }
    match key.file.or(key.flags.first().copied()).unwrap() {
        "flags.plugin.sharedDevicesAllocationPolicy" => ("packed", "packed"),
        "flags.deviceDiscoveryStrategy" => ("tegra", "tegra"),
        "imex.channelIDs" => ("0", "[0]"),
        "flags.gfd.sleepInterval" => ("", "60s"),
        "resources.gpus" | "resources.mig" => ("", "[{pattern: '*', name: gpu}]"),
        "sharing.mps.resources" => ("", "[{name: nvidia.com/gpu, replicas: 4}]"),
        _ => ("/some/value", "/some/value"),
    }
}

#[test]
fn every_option_of_nvidias_is_in_the_schema() {
    let [flags, variables, file] = NVIDIA.map(|names| names.split_whitespace().collect::<Vec<_>>());
    for (known, names) in [
        (KEYS.iter().flat_map(|key| key.flags).copied().collect::<Vec<_>>(), flags),
        (KEYS.iter().flat_map(|key| key.environment).copied().collect(), variables),
        (KEYS.iter().filter_map(|key| key.file).collect(), file),
    ] {
        for name in &names {
            assert_eq!(known.iter().filter(|known| known == &name).count(), 1, "{name}");
        }
        assert_eq!(known.len(), names.len(), "more than NVIDIA's: {known:?}");
    }
}

#[test]
fn what_is_not_honoured_is_reported_wherever_it_stands() {
    let mut seen = 0;
    for key in KEYS {
        let Fate::Reported { reason, unless } = key.fate else { continue };
        let (text, in_file) = demand(key);
        let mut places = Vec::new();
        for flag in key.flags {
            let place = format!("--{}", key.flags[0]);
            places.push((Given::default().argument(&format!("--{flag}={text}")), place));
        }
        for name in key.environment {
            places.push((Given::default().variable(name, text), (*name).to_owned()));
        }
        if let Some(path) = key.file {
            places.push((Given::default().file(&yaml(path, in_file)), format!("{path} in FILE")));
            // NVIDIA's plugin reads keys whatever their case.
            let lower = Given::default().file(&yaml(&path.to_lowercase(), in_file));
            places.push((lower, format!("{path} in FILE")));
            for harmless in unless {
                assert_eq!(Given::default().file(&yaml(path, harmless)).reported(), [""; 0], "{path}: {harmless}");
            }
        }
        for (given, place) in places {
            let reported = given.options().unwrap().not_honoured;
            assert_eq!(reported.iter().map(|one| (&*one.key, &*one.reason)).collect::<Vec<_>>(), [(&*place, reason)]);
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen}");
}

#[test]
fn the_documentation_shows_every_option_and_what_becomes_of_it() {
    let documented = include_str!("../../docs/agent.md");
    for key in KEYS {
        for name in
            key.flags.iter().map(|flag| format!("--{flag}")).chain(key.environment.iter().map(|&name| name.to_owned()))
        {
            assert!(documented.contains(&format!("`{name}`")), "{name}");
        }
        let name = key.file.map_or_else(|| format!("--{}", key.flags[0]), str::to_owned);
        let fate = if key.fate == Fate::Honoured { "| honoured" } else { "| reported" };
        let line = documented.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{name}`")));
        assert!(line.is_some_and(|line| line.contains(fate)), "{name}: {line:?} lacks {fate:?}");
    }
}
