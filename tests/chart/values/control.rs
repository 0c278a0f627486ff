//! The values of servers, kube-scheduler, webhook and policies.

use serde_json::{Value, json};

use super::Case;
use super::Effect::{At, Gone, Holds, Made};
use super::case;

const SERVER: &str = "Deployment/packhorse-server";
const PROFILE: &str = "ConfigMap/packhorse-kube-scheduler";
const REGISTRATION: &str = "MutatingWebhookConfiguration/packhorse";

pub(super) fn server() -> Vec<Case> {
    let at = |path, value: Value, pointer| case(path, value.clone(), At(SERVER, pointer, value));
    let argument = |path, value, text: &str| {
        case(path, value, Holds(SERVER, "/spec/template/spec/containers/0/args", json!(text)))
    };
    let taint = json!([{"key": "gpu", "operator": "Exists"}]);
    vec![
        at("server.replicas", json!(3), "/spec/replicas"),
        argument("server.listenAddress", json!("[::]"), "--webhook-listen=[::]:8443"),
        at("server.hostNetwork", json!(true), "/spec/template/spec/hostNetwork"),
        argument("server.ports.webhook", json!(10250), "--webhook-listen=0.0.0.0:10250"),
        argument("server.ports.metrics", json!(9000), "--metrics-listen=0.0.0.0:9000"),
        case("server.ports.extender", json!(9001), Holds(PROFILE, "/data/config.yaml", json!("http://127.0.0.1:9001"))),
        case(
            "server.ports.scheduler",
            json!(10259),
            Holds(SERVER, "/spec/template/spec/containers/1/command", json!("--secure-port=10259")),
        ),
        at("server.terminationGracePeriodSeconds", json!(60), "/spec/template/spec/terminationGracePeriodSeconds"),
        at("server.priorityClassName", json!("mine"), "/spec/template/spec/priorityClassName"),
        at("server.resources.requests.cpu", json!("2"), "/spec/template/spec/containers/0/resources/requests/cpu"),
        at(
            "server.resources.requests.memory",
            json!("1Gi"),
            "/spec/template/spec/containers/0/resources/requests/memory",
        ),
        at("server.resources.limits.memory", json!("2Gi"), "/spec/template/spec/containers/0/resources/limits/memory"),
        at("server.nodeSelector", json!({"a": "b"}), "/spec/template/spec/nodeSelector"),
        at("server.affinity", json!({"nodeAffinity": {}}), "/spec/template/spec/affinity"),
        at("server.tolerations", taint, "/spec/template/spec/tolerations"),
        case(
            "server.topologySpread",
            json!([{"topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 2}]),
            At(
                SERVER,
                "/spec/template/spec/topologySpreadConstraints",
                json!([{
                    "maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "packhorse", "app.kubernetes.io/component": "server"}},
                    "matchLabelKeys": ["pod-template-hash"],
                }]),
            ),
        ),
        case("server.podDisruptionBudget.enabled", json!(false), Gone("PodDisruptionBudget/packhorse-server")),
        case(
            "server.podDisruptionBudget.maxUnavailable",
            json!("50%"),
            At("PodDisruptionBudget/packhorse-server", "/spec/maxUnavailable", json!("50%")),
        ),
        case("server.podLabels", json!({"a": "b"}), At(SERVER, "/spec/template/metadata/labels/a", json!("b"))),
        case(
            "server.podAnnotations",
            json!({"a": "b"}),
            At(SERVER, "/spec/template/metadata/annotations/a", json!("b")),
        ),
        argument("server.extraArgs", json!(["--log-level=debug"]), "--log-level=debug"),
        at("server.extraEnv", json!([{"name": "A", "value": "b"}]), "/spec/template/spec/containers/0/env"),
        case(
            "config",
            json!({"extender": {"bestNodes": 16}}),
            Holds("ConfigMap/packhorse-server", "/data/config.yaml", json!("extender:\n  bestNodes: 16")),
        ),
    ]
}

pub(super) fn scheduler() -> Vec<Case> {
    let image = "/spec/template/spec/containers/1/image";
    let at = |path, value: Value, pointer| case(path, value.clone(), At(SERVER, pointer, value));
    let profile = |path, value, text: &str| case(path, value, Holds(PROFILE, "/data/config.yaml", json!(text)));
    vec![
        case(
            "scheduler.image.repository",
            json!("mirror/kube-scheduler"),
            At(SERVER, image, json!("mirror/kube-scheduler:v1.36.3")),
        ),
        case(
            "scheduler.image.tag",
            json!("v1.35.1"),
            At(SERVER, image, json!("registry.k8s.io/kube-scheduler:v1.35.1")),
        ),
        at("scheduler.resources.requests.cpu", json!("2"), "/spec/template/spec/containers/1/resources/requests/cpu"),
        at(
            "scheduler.resources.requests.memory",
            json!("1Gi"),
            "/spec/template/spec/containers/1/resources/requests/memory",
        ),
        at(
            "scheduler.resources.limits.memory",
            json!("4Gi"),
            "/spec/template/spec/containers/1/resources/limits/memory",
        ),
        profile("scheduler.qps", json!(500), "clientConnection:\n  qps: 500\n"),
        profile("scheduler.burst", json!(1000), "clientConnection:\n  burst: 1000\n"),
        profile("scheduler.percentageOfNodesToScore", json!(100), "\npercentageOfNodesToScore: 100\n"),
        case(
            "scheduler.extraArgs",
            json!(["--v=3"]),
            Holds(SERVER, "/spec/template/spec/containers/1/command", json!("--v=3")),
        ),
    ]
}

pub(super) fn admission() -> Vec<Case> {
    let scope = "/webhooks/0/namespaceSelector/matchExpressions";
    let certificate = json!({"webhook": {"certificate": {"source": "secret", "secretName": "given"}}});
    vec![
        case("webhook.optIn", json!(true), Made("ValidatingAdmissionPolicy/packhorse-opted-in")),
        case(
            "webhook.excludedNamespaces",
            json!(["legacy"]),
            Holds(
                REGISTRATION,
                scope,
                json!({"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["packhorse-system", "legacy"]}),
            ),
        ),
        case("webhook.timeoutSeconds", json!(5), At(REGISTRATION, "/webhooks/0/timeoutSeconds", json!(5))),
        case("webhook.certificate.source", json!("cert-manager"), Made("Certificate/packhorse-webhook")),
        case(
            "webhook.certificate.secretName",
            json!("mine"),
            Holds(SERVER, "/spec/template/spec/volumes", json!({"name": "tls", "secret": {"secretName": "mine"}})),
        )
        .besides(certificate.clone()),
        case(
            "webhook.certificate.caBundle",
            json!("QQ=="),
            At(REGISTRATION, "/webhooks/0/clientConfig/caBundle", json!("QQ==")),
        )
        .besides(certificate),
        case("admissionPolicies.enabled", json!(false), Gone("ValidatingAdmissionPolicy/packhorse-agent-own-node")),
        case("admissionPolicies.marked", json!(false), Gone("ValidatingAdmissionPolicyBinding/packhorse-marked")),
    ]
}
