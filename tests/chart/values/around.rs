//! The values that are of no single part: the image, metrics, the network.

use serde_json::json;

use super::Case;
use super::Effect::{At, Gone, Holds, Made};
use super::case;

const SERVER: &str = "Deployment/packhorse-server";
const AGENT: &str = "DaemonSet/packhorse-agent";

pub(super) fn other() -> Vec<Case> {
    let image = "/spec/template/spec/containers/0/image";
    let configure = json!({"agent": {"runtimeConfigure": {"enabled": true}}});
    let argument = |path, value, text: &str| {
        let arguments = "/spec/template/spec/initContainers/0/args";
        case(path, value, Holds(AGENT, arguments, json!(text))).besides(configure.clone())
    };
    let monitor = "ServiceMonitor/packhorse-server";
    let monitors = json!({"metrics": {"serviceMonitor": {"enabled": true}}});
    let rule = "PrometheusRule/packhorse";
    let rules = json!({"metrics": {"prometheusRule": {"enabled": true}}});
    let board = "ConfigMap/packhorse-dashboard-cluster";
    let boards = json!({"metrics": {"dashboards": {"enabled": true}}});
    let class = json!({"runtimeClass": {"create": true}});
    let peer = json!([{"namespaceSelector": {"matchLabels": {"a": "b"}}}]);
    let label = || json!({"a": "b"});
    vec![
        case("image.repository", json!("mirror/packhorse"), At(AGENT, image, json!("mirror/packhorse:0.1.0"))),
        case("image.tag", json!("9.9.9"), At(SERVER, image, json!("packhorse/packhorse:9.9.9"))),
        case(
            "image.pullPolicy",
            json!("Never"),
            At(AGENT, "/spec/template/spec/containers/0/imagePullPolicy", json!("Never")),
        ),
        case(
            "image.pullSecrets",
            json!(["key"]),
            At(SERVER, "/spec/template/spec/imagePullSecrets", json!([{"name": "key"}])),
        ),
        case("commonLabels", label(), At("ClusterRole/packhorse-agent", "/metadata/labels/a", json!("b"))),
        case(
            "logFormat",
            json!("json"),
            Holds(AGENT, "/spec/template/spec/containers/0/args", json!("--log-format=json")),
        ),
        case("namespace.create", json!(true), Made("Namespace/packhorse-system")),
        case(
            "agent.runtimeConfigure.enabled",
            json!(true),
            At(AGENT, "/spec/template/spec/initContainers/0/name", json!("runtime-configure")),
        ),
        argument("agent.runtimeConfigure.runtime", json!("k3s"), "--runtime=k3s"),
        argument("agent.runtimeConfigure.restart", json!("none"), "--restart=none"),
        argument("agent.runtimeConfigure.setAsDefault", json!(true), "--set-as-default"),
        argument("agent.runtimeConfigure.extraArgs", json!(["--skip-check"]), "--skip-check"),
        case(
            "agent.runtimeConfigure.env",
            json!({"CONTAINERD_CONFIG": "/etc/c.toml"}),
            Holds(
                AGENT,
                "/spec/template/spec/initContainers/0/env",
                json!({"name": "CONTAINERD_CONFIG", "value": "/etc/c.toml"}),
            ),
        )
        .besides(configure.clone()),
        case("runtimeClass.create", json!(true), At("RuntimeClass/nvidia", "/handler", json!("nvidia"))),
        case("runtimeClass.name", json!("other"), Made("RuntimeClass/other")).besides(class.clone()),
        case("runtimeClass.handler", json!("other"), At("RuntimeClass/nvidia", "/handler", json!("other")))
            .besides(class),
        case(
            "metrics.dcgm",
            json!(true),
            Holds(AGENT, "/spec/template/spec/containers/0/args", json!("--metrics-dcgm")),
        ),
        case("metrics.services.enabled", json!(false), Gone("Service/packhorse-agent-metrics")),
        case(
            "metrics.services.annotations",
            label(),
            At("Service/packhorse-server-metrics", "/metadata/annotations/a", json!("b")),
        ),
        case("metrics.serviceMonitor.enabled", json!(true), Made(monitor)),
        case("metrics.serviceMonitor.interval", json!("5s"), At(monitor, "/spec/endpoints/0/interval", json!("5s")))
            .besides(monitors.clone()),
        case(
            "metrics.serviceMonitor.scrapeTimeout",
            json!("5s"),
            At(monitor, "/spec/endpoints/0/scrapeTimeout", json!("5s")),
        )
        .besides(monitors.clone()),
        case("metrics.serviceMonitor.labels", label(), At(monitor, "/metadata/labels/a", json!("b")))
            .besides(monitors.clone()),
        case(
            "metrics.serviceMonitor.metricRelabelings",
            json!([{"action": "labeldrop", "regex": "x"}]),
            At(monitor, "/spec/endpoints/0/metricRelabelings/0/action", json!("labeldrop")),
        )
        .besides(monitors),
        case("metrics.prometheusRule.enabled", json!(true), Made(rule)),
        case("metrics.prometheusRule.labels", label(), At(rule, "/metadata/labels/a", json!("b")))
            .besides(rules.clone()),
        case("metrics.prometheusRule.alertLabels", label(), At(rule, "/spec/groups/0/rules/0/labels/a", json!("b")))
            .besides(rules),
        case("metrics.dashboards.enabled", json!(true), Made(board)),
        case(
            "metrics.dashboards.namespace",
            json!("monitoring"),
            At(board, "/metadata/namespace", json!("monitoring")),
        )
        .besides(boards.clone()),
        case(
            "metrics.dashboards.labels.grafana_dashboard",
            json!("yes"),
            At(board, "/metadata/labels/grafana_dashboard", json!("yes")),
        )
        .besides(boards.clone()),
        case("metrics.dashboards.annotations", label(), At(board, "/metadata/annotations/a", json!("b")))
            .besides(boards),
        case("networkPolicy.enabled", json!(false), Gone("NetworkPolicy/packhorse-agent")),
        case(
            "networkPolicy.webhookFrom",
            peer.clone(),
            At("NetworkPolicy/packhorse-server", "/spec/ingress/0/from", peer.clone()),
        ),
        case(
            "networkPolicy.metricsFrom",
            peer.clone(),
            At("NetworkPolicy/packhorse-agent", "/spec/ingress/0/from", peer),
        ),
    ]
}
