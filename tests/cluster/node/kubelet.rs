//! The kubelet's configuration and flags.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::super::identity::write;

/// Writes the configuration; what needs no cgroup hierarchy of its own, no server and no network is off.
pub(super) fn configure(directory: &Path) -> PathBuf {
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "enableServer": false,
        "healthzPort": 0,
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": false,
        "failSwapOn": false,
        "makeIPTablesUtilChains": false,
        "resolvConf": "",
        "podLogsDir": directory.join("logs"),
        "volumePluginDir": directory.join("volume-plugins"),
        // A disk that is filling up has nothing to do with the tests.
        "evictionHard": {"memory.available": "50Mi"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "maxPods": 500,
        "eventRecordQPS": 0,
        "kubeAPIQPS": 500,
        "kubeAPIBurst": 1000,
        // By default 10 s: how long a change of devices takes to reach `status.allocatable`.
        "nodeStatusUpdateFrequency": "1s",
        // By default 10 s, doubling up to 5 min: tests would wait most of their time.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        "featureGates": {"KubeletCrashLoopBackOffMax": true},
    });
    let path = directory.join("kubelet.json");
    write(&path, &config.to_string());
    path
}

/// Arguments of the kubelet; later ones win.
pub(super) fn arguments(directory: &Path, name: &str, kubeconfig: &Path, more: &[&str]) -> Vec<String> {
    let mut arguments = vec![
        "kubelet".to_owned(),
        format!("--hostname-override={name}"),
        format!("--config={}", directory.join("kubelet.json").display()),
        format!("--kubeconfig={}", kubeconfig.display()),
        "--root-dir=/var/lib/kubelet".to_owned(),
        format!("--cert-dir={}", directory.join("kubelet-certificates").display()),
        // The logs of a container go with it; by default only the last dead one of a name is kept.
        "--maximum-dead-containers-per-container=50".to_owned(),
        "--v=2".to_owned(),
    ];
    arguments.extend(more.iter().map(|&argument| argument.to_owned()));
    arguments
}
