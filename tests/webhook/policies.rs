//! What a GPU pod may not bring along, and how far that is configurable.

use packhorse::webhook::{ForeignScheduler, NodeName, Privileged, Settings};
use serde_json::{Value, json};

use super::review::{create, create_with, pod, pod_with_annotations, pod_with_env};

fn gpu() -> Value {
    json!({"nvidia.com/gpu": "1"})
}

#[track_caller]
fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} not in {message:?}");
    }
}

#[test]
fn a_privileged_container_anywhere_in_a_gpu_pod() {
    for (list, name) in [("containers", "second"), ("initContainers", "init"), ("ephemeralContainers", "debug")] {
        let mut asked = pod(gpu());
        let privileged = json!({"name": name, "securityContext": {"privileged": true}});
        match asked["spec"][list].as_array_mut() {
            Some(containers) => containers.push(privileged),
            None => asked["spec"][list] = json!([privileged]),
        }
        says(&create(&asked).denied(), &[name, "securityContext.privileged", "true", "remove it"]);
        let warn = create_with(Settings { privileged: Privileged::Warn, ..Settings::default() }, &asked);
        assert_eq!(warn.warnings.len(), 1, "{:?}", warn.warnings);
        warn.admitted();
        let allow = create_with(Settings { privileged: Privileged::Allow, ..Settings::default() }, &asked);
        assert_eq!(allow.warnings.len(), 0, "{:?}", allow.warnings);
        allow.admitted();
    }
    let mut plain = pod(json!({}));
    plain["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    create(&plain).untouched();
}

#[test]
fn another_scheduler_is_denied_overridden_or_ignored() {
    let mut asked = pod(gpu());
    asked["spec"]["schedulerName"] = json!("volcano");
    says(&create(&asked).denied(), &["spec.schedulerName", "volcano", "packhorse"]);

    let settings = |foreign_scheduler| Settings { foreign_scheduler, ..Settings::default() };
    let answered = create_with(settings(ForeignScheduler::Override), &asked);
    says(&answered.warnings[0], &["volcano", "packhorse"]);
    assert_eq!(answered.admitted()["spec"]["schedulerName"], "packhorse");

    let answered = create_with(settings(ForeignScheduler::Ignore), &asked);
    says(&answered.warnings[0], &["volcano"]);
    answered.untouched();

    // Ignored is the request, not a way around it.
    let mut sneaky = pod_with_env(gpu(), super::review::visible("all"));
    sneaky["spec"]["schedulerName"] = json!("volcano");
    says(&create_with(settings(ForeignScheduler::Ignore), &sneaky).denied(), &["NVIDIA_VISIBLE_DEVICES"]);
    let mut pinned = pod_with_env(json!({}), super::review::visible("3"));
    pinned["spec"]["schedulerName"] = json!("volcano");
    says(&create_with(settings(ForeignScheduler::Ignore), &pinned).denied(), &["spec.schedulerName"]);

    for open in [json!("default-scheduler"), Value::Null, json!(""), json!("packhorse")] {
        let mut asked = pod(gpu());
        asked["spec"]["schedulerName"] = open;
        assert_eq!(create(&asked).admitted()["spec"]["schedulerName"], "packhorse");
    }
    let mut plain = pod(json!({}));
    plain["spec"]["schedulerName"] = json!("volcano");
    create(&plain).untouched();
}

#[test]
fn a_node_name_is_denied_or_warned_of() {
    let mut asked = pod(gpu());
    asked["spec"]["nodeName"] = json!("node-7");
    says(&create(&asked).denied(), &["spec.nodeName", "node-7", "kubernetes.io/hostname"]);
    let answered = create_with(Settings { node_name: NodeName::Warn, ..Settings::default() }, &asked);
    says(&answered.warnings[0], &["node-7"]);
    answered.admitted();
    let mut plain = pod(json!({}));
    plain["spec"]["nodeName"] = json!("node-7");
    create(&plain).untouched();
}

#[test]
fn variables_that_would_change_limits_are_denied_beside_a_gpu() {
    for name in ["NVIDIA_GPU_MEMORY_LIMIT", "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] {
        let env = json!([{"name": name, "value": "0=100G"}]);
        says(&create(&pod_with_env(gpu(), env.clone())).denied(), &["main", name, "0=100G", "gpumem"]);
        let mut beside = pod(gpu());
        beside["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "side", "env": env}));
        says(&create(&beside).denied(), &["side", name]);
        let plain = create(&pod_with_env(json!({}), env));
        plain.untouched();
        says(&plain.warnings[0], &["main", name]);
    }
    create(&pod_with_env(gpu(), json!([{"name": "CUDA_VISIBLE_DEVICES", "value": "0"}]))).admitted();
}

#[test]
fn cdi_annotations_that_give_gpus_are_denied() {
    for device in ["nvidia.com/gpu=all", "vendor.com/x=1, management.nvidia.com/gpu=0", "packhorse.dev/slot=GPU-1::0"] {
        for limits in [json!({}), gpu()] {
            let asked = pod_with_annotations(limits, json!({"cdi.k8s.io/mine": device}));
            says(&create(&asked).denied(), &["cdi.k8s.io/mine", device.split(", ").last().unwrap()]);
        }
    }
    let other = pod_with_annotations(json!({}), json!({"cdi.k8s.io/mine": "vendor.com/fpga=1,notnvidia.com/gpu=0"}));
    create(&other).untouched();
}

#[test]
fn totals_without_a_gpu_are_denied() {
    for total in ["packhorse.dev/gpu-memory", "packhorse.dev/gpu-cores"] {
        says(&create(&pod(json!({total: "100"}))).denied(), &["main", total, "100"]);
        let mut beside = pod(gpu());
        beside["spec"]["containers"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "side", "resources": {"requests": {total: "7"}}}));
        says(&create(&beside).denied(), &["side", total, "7"]);
    }
}

#[test]
fn several_faults_are_told_together() {
    let mut asked = pod(json!({"nvidia.com/gpu": "1.5"}));
    asked["spec"]["nodeName"] = json!("node-7");
    asked["spec"]["schedulerName"] = json!("volcano");
    let answered = create(&asked);
    assert_eq!(answered.verdict.as_ref().unwrap_err().0, 422);
    says(&answered.denied(), &["3 faults", "nvidia.com/gpu", "1.5", "node-7", "volcano"]);
}

#[test]
fn policy_is_forbidden_and_nonsense_is_invalid() {
    let mut asked = pod(gpu());
    asked["spec"]["nodeName"] = json!("n");
    assert_eq!(create(&asked).verdict.unwrap_err().0, 403);
    assert_eq!(create(&pod(json!({"nvidia.com/gpu": "-1"}))).verdict.unwrap_err().0, 422);
}
