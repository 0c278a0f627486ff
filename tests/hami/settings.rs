//! HAMi's own settings, quotas and metrics: nothing of Packhorse's reads them, so each row of the page says what stands in its place,
//! and that has to exist; quotas are told of by `packhorse check`.

use std::path::Path;

use packhorse::check::{Level, quotas};
use serde_json::{Value, json};

/// All that HAMi's chart, flags, files and metrics know, by where it stands.
const NAMES: [(&str, &str); 9] = [
    ("namespace label", "hami.io/webhook"),
    ("node label", "gpu"),
    (
        "quota",
        "limits.nvidia.com/gpumem limits.nvidia.com/gpumem-percentage limits.nvidia.com/gpucores requests.nvidia.com/gpumem \
         requests.nvidia.com/gpucores requests.nvidia.com/gpu",
    ),
    (
        "scheduler flag",
        "--http_bind --cert_file --key_file --scheduler-name --node-scheduler-policy --gpu-scheduler-policy \
         --metrics-bind-address --node-label-selector --kube-qps --kube-burst --kube-timeout --profiling --node-lock-timeout \
         --node-lock-retry-timeout --force-overwrite-default-scheduler --leader-elect --legacy-metrics --device-config-file",
    ),
    (
        "chart value",
        "resourceName resourceMem resourceMemPercentage resourceCores resourcePriority schedulerName scheduler.overwriteEnv \
         scheduler.defaultSchedulerPolicy.nodeSchedulerPolicy scheduler.defaultSchedulerPolicy.gpuSchedulerPolicy \
         scheduler.kubeScheduler.image scheduler.kubeScheduler.enabled scheduler.replicas scheduler.podDisruptionBudget \
         scheduler.admissionWebhook.enabled scheduler.admissionWebhook.whitelistNamespaces \
         scheduler.admissionWebhook.namespaceSelector scheduler.admissionWebhook.objectSelector \
         scheduler.admissionWebhook.failurePolicy scheduler.certManager.enabled scheduler.patch.enabled scheduler.service.type \
         scheduler.networkPolicy.enabled devicePlugin.deviceSplitCount devicePlugin.deviceMemoryScaling \
         devicePlugin.deviceCoreScaling devicePlugin.enableNumaTopology devicePlugin.preConfiguredDeviceMemory \
         devicePlugin.nodeConfiguration devicePlugin.runtimeClassName devicePlugin.createRuntimeClass devicePlugin.migStrategy \
         devicePlugin.disablecorelimit devicePlugin.passDeviceSpecsEnabled devicePlugin.deviceListStrategy \
         devicePlugin.nvidiaDriverRoot devicePlugin.gdrcopyEnabled devicePlugin.gdsEnabled devicePlugin.mofedEnabled \
         devicePlugin.libPath devicePlugin.monitor devicePlugin.nvidiaNodeSelector devicePlugin.tolerations \
         devicePlugin.updateStrategy devices.nvidia.gpuCorePolicy devices.nvidia.libCudaLogLevel legacyMetrics \
         prometheus.enabled mockDevicePlugin.enabled",
    ),
    ("device config", "defaultMemory defaultCores defaultGPUNum memoryFactor migProfileAllowlist"),
    (
        "plugin flag",
        "--mig-strategy --device-split-count --device-memory-scaling --device-cores-scaling --disable-core-limit \
         --resource-name --device-list-strategy --pass-device-specs --nvidia-driver-root --gdrcopy-enabled --gds-enabled \
         --mofed-enabled --imex-channel-ids --device-id-strategy DP_DISABLE_HEALTHCHECKS",
    ),
    (
        "node config",
        "operatingmode devicememoryscaling devicecorescaling devicesplitcount preconfigureddevicememory enablenumatopology \
         libcudaloglevel migstrategy filterdevices enablegetpreferredallocation",
    ),
    (
        "metric",
        "hami_gpu_memory_limit_bytes hami_gpu_core_limit_ratio hami_gpu_memory_allocated_bytes hami_gpu_shared_count \
         hami_gpu_core_allocated_ratio hami_node_gpu_overview hami_node_gpu_memory_allocated_ratio \
         hami_node_gpu_mig_instance_info hami_resource_quota_used hami_resource_quota_limit hami_vgpu_memory_allocated_bytes \
         hami_vgpu_core_allocated_ratio hami_build_info hami_host_gpu_memory_used_bytes hami_host_gpu_utilization_ratio \
         hami_host_gpu_memory_controller_utilization_ratio hami_vgpu_memory_used_bytes hami_vgpu_memory_limit_bytes \
         hami_container_device_memory_bytes hami_container_device_utilization_ratio \
         hami_container_last_kernel_elapsed_seconds hami_mig_device_info hami_vgpu_memory_context_bytes \
         hami_vgpu_memory_module_bytes hami_vgpu_memory_buffer_bytes",
    ),
];

/// Where, name, verdict and note of every row of the page's one table.
pub(super) fn page_rows() -> Vec<[String; 4]> {
    let page = include_str!("../../docs/migrate-from-hami.md");
    let cells = |line: &str| -> Option<[String; 4]> {
        let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
        let [place, name, answer, note] = <[&str; 4]>::try_from(cells).ok()?;
        let name = name.strip_prefix('`')?.strip_suffix('`')?;
        Some([place, name, answer, note].map(str::to_owned))
    };
    page.lines().filter_map(cells).collect()
}

fn root(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// What stands between backticks.
pub(crate) fn quoted(note: &str) -> Vec<&str> {
    note.split('`').skip(1).step_by(2).collect()
}

/// Whether Packhorse has what a note names.
pub(crate) fn exists(name: &str) -> bool {
    let values: Value = serde_saphyr::from_str(&root("deployments/helm/packhorse/values.yaml")).unwrap();
    let config: Value = serde_saphyr::from_str(&root("docs/config.yaml")).unwrap();
    let pointer = |path: &str| format!("/{}", path.replace('.', "/"));
    if name.starts_with("packhorse_") {
        return crate::documentation::registered(name);
    }
    if let Some(annotation) = name.strip_prefix("packhorse.dev/") {
        return root("docs/use.md").contains(&format!("`{annotation}`")) || root("docs/operate.md").contains(name);
    }
    if name.starts_with("nvidia.com/") {
        return root("docs/use.md").contains(&format!("**`{name}`**"));
    }
    if let Some(path) = name.strip_prefix("config.") {
        return config.pointer(&pointer(path)).is_some();
    }
    values.pointer(&pointer(name)).is_some()
}

#[test]
fn every_setting_and_metric_of_hami_has_a_row_and_what_stands_in_its_place_exists() {
    let rows = page_rows();
    for (place, names) in NAMES {
        for name in names.split_whitespace() {
            let row = rows.iter().find(|row| row[0] == place && row[1] == name);
            let [.., answer, note] = row.unwrap_or_else(|| panic!("{place} {name} has no row"));
            let ours = quoted(note);
            match answer.as_str() {
                "replaced" => {
                    assert!(!ours.is_empty(), "{place} {name}: by what?");
                    for ours in ours {
                        assert!(exists(ours), "{place} {name}: there is no {ours}");
                    }
                }
                "none" => assert!(ours.is_empty() && note.len() > 10, "{place} {name}: {note}"),
                "honoured" | "warned" if place == "quota" => quota(name, answer, note),
                _ => panic!("{place} {name}: {answer}"),
            }
        }
        let known: Vec<&str> = names.split_whitespace().collect();
        for row in rows.iter().filter(|row| row[0] == place) {
            assert!(known.contains(&row[1].as_str()), "{place} {} is nothing of HAMi's", row[1]);
        }
    }
}

#[test]
fn the_table_has_no_row_that_no_test_looks_at() {
    let pods = packhorse::gpu::parse::hami::TABLE.iter().map(|row| row.place.as_str());
    let places: Vec<&str> = pods.chain(NAMES.iter().map(|(place, _)| *place)).collect();
    for row in page_rows() {
        assert!(places.contains(&row[0].as_str()), "{row:?}");
    }
    assert!(page_rows().len() > 180, "{}", page_rows().len());
}

/// What `packhorse check` says of a quota on that name.
fn quota(name: &str, answer: &str, note: &str) {
    let quota = json!({"metadata": {"namespace": "team", "name": "gpus"}, "spec": {"hard": {name: "4000"}}});
    let found = &quotas::judge(&[quota], "nvidia.com")[0];
    assert_eq!(found.level, if answer == "honoured" { Level::Ok } else { Level::Wrong }, "{name}: {found:?}");
    if let Some(remedy) = &found.remedy {
        let instead = quoted(note)[0];
        assert!(found.found.contains(name) && remedy.contains(instead), "{name}: {remedy}");
    }
}
