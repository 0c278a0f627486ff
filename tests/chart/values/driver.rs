//! The values of NVIDIA's driver container.

use serde_json::{Value, json};

use super::Case;
use super::Effect::{At, Holds, Made};
use super::case;

const DRIVER: &str = "DaemonSet/packhorse-driver";

pub(super) fn driver() -> Vec<Case> {
    let enabled = json!({"driver": {"enabled": true}});
    let at = |path, value: Value, pointer, expected: Value| {
        case(path, value, At(DRIVER, pointer, expected)).besides(enabled.clone())
    };
    let image = "/spec/template/spec/containers/0/image";
    let host = "/spec/template/spec/initContainers/0/image";
    let tolerations = json!([{"key": "gpu", "operator": "Exists"}]);
    vec![
        case("driver.enabled", json!(true), Made(DRIVER)),
        at("driver.image.repository", json!("mirror/driver"), image, json!("mirror/driver:580.95.05-ubuntu24.04")),
        at("driver.image.version", json!("590.1"), image, json!("nvcr.io/nvidia/driver:590.1-ubuntu24.04")),
        at("driver.image.os", json!("rhel9.6"), host, json!("nvcr.io/nvidia/driver:580.95.05-rhel9.6")),
        case(
            "driver.kernelModuleType",
            json!("open"),
            Holds(
                DRIVER,
                "/spec/template/spec/containers/0/env",
                json!({"name": "KERNEL_MODULE_TYPE", "value": "open"}),
            ),
        )
        .besides(enabled.clone()),
        at("driver.nodeSelector", json!({"os": "a"}), "/spec/template/spec/nodeSelector", json!({"os": "a"})),
        at("driver.tolerations", tolerations.clone(), "/spec/template/spec/tolerations", tolerations),
        at("driver.priorityClassName", json!("mine"), "/spec/template/spec/priorityClassName", json!("mine")),
        at(
            "driver.startupFailureThreshold",
            json!(9),
            "/spec/template/spec/containers/0/startupProbe/failureThreshold",
            json!(9),
        ),
        at(
            "driver.resources",
            json!({"requests": {"cpu": "1"}}),
            "/spec/template/spec/containers/0/resources",
            json!({"requests": {"cpu": "1"}}),
        ),
        case(
            "driver.extraEnv",
            json!([{"name": "A", "value": "b"}]),
            Holds(DRIVER, "/spec/template/spec/containers/0/env", json!({"name": "A", "value": "b"})),
        )
        .besides(enabled),
    ]
}
