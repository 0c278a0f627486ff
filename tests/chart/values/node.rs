//! The values of the agent.

use serde_json::{Value, json};

use super::Case;
use super::Effect::{At, Holds};
use super::case;

const AGENT: &str = "DaemonSet/packhorse-agent";

pub(super) fn agent() -> Vec<Case> {
    let at = |path, value: Value, pointer| case(path, value.clone(), At(AGENT, pointer, value));
    let argument =
        |path, value, text: &str| case(path, value, Holds(AGENT, "/spec/template/spec/containers/0/args", json!(text)));
    let variable = |path, value, name: &str, text: &str| {
        let variable = json!({"name": name, "value": text});
        case(path, value, Holds(AGENT, "/spec/template/spec/containers/0/env", variable))
    };
    let volume = |path, value, name: &str, directory: &str, kind: Option<&str>| {
        let mut source = json!({"path": directory});
        if let Some(kind) = kind {
            source["type"] = json!(kind);
        }
        case(path, value, Holds(AGENT, "/spec/template/spec/volumes", json!({"name": name, "hostPath": source})))
    };
    let create = Some("DirectoryOrCreate");
    let terms = "agent.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let term = json!([{"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}]);
    vec![
        at("agent.nodeSelector", json!({"gpu": "on"}), "/spec/template/spec/nodeSelector"),
        case(
            terms,
            term.clone(),
            At(
                AGENT,
                "/spec/template/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms",
                term,
            ),
        ),
        at("agent.tolerations", json!([{"key": "gpu", "operator": "Exists"}]), "/spec/template/spec/tolerations"),
        at("agent.priorityClassName", json!("mine"), "/spec/template/spec/priorityClassName"),
        at("agent.maxUnavailable", json!("10%"), "/spec/updateStrategy/rollingUpdate/maxUnavailable"),
        at("agent.resources.requests.cpu", json!("2"), "/spec/template/spec/containers/0/resources/requests/cpu"),
        at(
            "agent.resources.requests.memory",
            json!("1Gi"),
            "/spec/template/spec/containers/0/resources/requests/memory",
        ),
        at("agent.resources.limits.memory", json!("2Gi"), "/spec/template/spec/containers/0/resources/limits/memory"),
        variable("agent.driverRoot", json!("/run/nvidia/driver"), "NVIDIA_DRIVER_ROOT", "/run/nvidia/driver"),
        at("agent.runtimeClassName", json!("nvidia"), "/spec/template/spec/runtimeClassName"),
        volume("agent.kubeletDir", json!("/data/kubelet"), "device-plugins", "/data/kubelet/device-plugins", None),
        volume("agent.cdiDir", json!("/run/cdi"), "cdi", "/run/cdi", create),
        volume("agent.stateDir", json!("/data/packhorse"), "state", "/data/packhorse", create),
        volume("agent.containerdConfig", json!("/opt/containerd/c.toml"), "containerd", "/opt/containerd", create),
        argument("agent.specificationForm", json!("env"), "--specification-form=env"),
        argument("agent.slots", json!(4), "--slots=4"),
        argument("agent.foreignPods", json!("serve"), "--foreign-pods=serve"),
        argument("agent.nodeLabels", json!({"gpu": "on"}), "--node-label=gpu=on"),
        argument("agent.operatorLabels", json!([]), "--operator-labels=none"),
        variable("agent.migStrategy", json!("mixed"), "MIG_STRATEGY", "mixed"),
        variable("agent.deviceListStrategy", json!(["envvar", "cdi-cri"]), "DEVICE_LIST_STRATEGY", "envvar,cdi-cri"),
        variable("agent.deviceIDStrategy", json!("index"), "DEVICE_ID_STRATEGY", "index"),
        variable("agent.passDeviceSpecs", json!(true), "PASS_DEVICE_SPECS", "true"),
        variable("agent.failOnInitError", json!(false), "FAIL_ON_INIT_ERROR", "false"),
        case(
            "agent.nvidiaConfig",
            json!({"version": "v1"}),
            Holds("ConfigMap/packhorse-agent", "/data/nvidia.yaml", json!("version: v1")),
        ),
        argument(
            "agent.fakeTopology",
            json!({"v": 1, "devices": []}),
            "--gpu-backend=fake:/etc/packhorse/topology.yaml",
        ),
        case(
            "agent.drainTimeoutSeconds",
            json!(5),
            At(AGENT, "/spec/template/spec/terminationGracePeriodSeconds", json!(20)),
        ),
        argument("agent.listenAddress", json!("[::]"), "--metrics-listen=[::]:9482"),
        argument("agent.metricsPort", json!(9000), "--metrics-listen=0.0.0.0:9000"),
        case("agent.hostPID", json!(false), At(AGENT, "/spec/template/spec/hostPID", json!(false))),
        argument("agent.logLevel", json!("debug"), "--log-level=debug"),
        case("agent.podLabels", json!({"a": "b"}), At(AGENT, "/spec/template/metadata/labels/a", json!("b"))),
        case("agent.podAnnotations", json!({"a": "b"}), At(AGENT, "/spec/template/metadata/annotations/a", json!("b"))),
        argument("agent.extraArgs", json!(["--nvml-library=/x.so"]), "--nvml-library=/x.so"),
        variable("agent.extraEnv", json!([{"name": "A", "value": "b"}]), "A", "b"),
    ]
}
