//! Every value of the chart changes something, and the thing that it says: `values.yaml` is walked leaf by leaf, and a leaf that the
//! table below does not have fails the test.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Rendered, helm, job, render, yaml};

const SERVER: &str = "Deployment/packhorse-server";
const AGENT: &str = "DaemonSet/packhorse-agent";
const PROFILE: &str = "ConfigMap/packhorse-kube-scheduler";
const REGISTRATION: &str = "MutatingWebhookConfiguration/packhorse";

/// What another value does.
enum Effect {
    /// The object has this there.
    At(&'static str, &'static str, Value),
    /// A list of the object has this element, or a text this part.
    Holds(&'static str, &'static str, Value),
    /// The object is there.
    Made(&'static str),
    /// The object is not there.
    Gone(&'static str),
}
use Effect::{At, Gone, Holds, Made};

/// One leaf: where it is, another value, what has to be set besides, and what comes of it.
struct Case {
    path: &'static str,
    value: Value,
    besides: Value,
    effect: Effect,
}

fn case(path: &'static str, value: Value, effect: Effect) -> Case {
    Case { path, value, besides: json!({}), effect }
}

impl Case {
    /// With other values set in both renderings.
    fn besides(self, besides: Value) -> Self {
        Self { besides, ..self }
    }
}

impl Effect {
    fn is_seen(&self, rendered: &Rendered) -> bool {
        match self {
            At(object, pointer, value) => {
                rendered.find(object).and_then(|object| object.pointer(pointer)) == Some(value)
            }
            Holds(object, pointer, value) => match rendered.find(object).and_then(|object| object.pointer(pointer)) {
                Some(Value::Array(list)) => list.contains(value),
                Some(Value::String(text)) => text.contains(value.as_str().expect("a part of a text")),
                _ => false,
            },
            Made(object) => rendered.find(object).is_some(),
            Gone(object) => rendered.find(object).is_none(),
        }
    }
}

fn server_cases() -> Vec<Case> {
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

fn scheduler_cases() -> Vec<Case> {
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

fn admission_cases() -> Vec<Case> {
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

fn agent_cases() -> Vec<Case> {
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
        argument("agent.logLevel", json!("debug"), "--log-level=debug"),
        case("agent.podLabels", json!({"a": "b"}), At(AGENT, "/spec/template/metadata/labels/a", json!("b"))),
        case("agent.podAnnotations", json!({"a": "b"}), At(AGENT, "/spec/template/metadata/annotations/a", json!("b"))),
        argument("agent.extraArgs", json!(["--nvml-library=/x.so"]), "--nvml-library=/x.so"),
        variable("agent.extraEnv", json!([{"name": "A", "value": "b"}]), "A", "b"),
    ]
}

fn other_cases() -> Vec<Case> {
    let image = "/spec/template/spec/containers/0/image";
    let configure = json!({"agent": {"runtimeConfigure": {"enabled": true}}});
    let arguments = "/spec/template/spec/initContainers/0/args";
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
        case("agent.runtimeConfigure.runtime", json!("k3s"), Holds(AGENT, arguments, json!("--runtime=k3s")))
            .besides(configure.clone()),
        case(
            "agent.runtimeConfigure.extraArgs",
            json!(["--set-as-default"]),
            Holds(AGENT, arguments, json!("--set-as-default")),
        )
        .besides(configure.clone()),
        case(
            "agent.runtimeConfigure.env",
            json!({"CONTAINERD_SET_AS_DEFAULT": "true"}),
            Holds(
                AGENT,
                "/spec/template/spec/initContainers/0/env",
                json!({"name": "CONTAINERD_SET_AS_DEFAULT", "value": "true"}),
            ),
        )
        .besides(configure),
        case("runtimeClass.create", json!(true), At("RuntimeClass/nvidia", "/handler", json!("nvidia"))),
        case("runtimeClass.name", json!("other"), Made("RuntimeClass/other")).besides(class.clone()),
        case("runtimeClass.handler", json!("other"), At("RuntimeClass/nvidia", "/handler", json!("other")))
            .besides(class),
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

/// The paths of all values that are no group of values. What is empty or a list is a value.
fn leaves(values: &Value, path: &str, found: &mut BTreeSet<String>) {
    match values.as_object().filter(|group| !group.is_empty()) {
        Some(group) => {
            for (name, value) in group {
                leaves(value, &format!("{path}{}{name}", if path.is_empty() { "" } else { "." }), found);
            }
        }
        None => {
            found.insert(path.to_owned());
        }
    }
}

/// `values` with `value` at `path`.
fn with(values: &Value, path: &str, value: &Value) -> Value {
    let mut all = values.clone();
    let mut place = &mut all;
    for name in path.split('.') {
        place = &mut place[name];
    }
    *place = value.clone();
    all
}

#[test]
fn every_value_of_the_chart_does_what_it_says() {
    let cases: BTreeMap<&str, Case> =
        [server_cases(), scheduler_cases(), admission_cases(), agent_cases(), other_cases()]
            .into_iter()
            .flatten()
            .map(|case| (case.path, case))
            .collect();
    let mut values = BTreeSet::new();
    leaves(&yaml("values.yaml"), "", &mut values);
    let told: BTreeSet<String> = cases.keys().map(|&path| path.to_owned()).collect();
    assert_eq!(values, told, "values.yaml and the table of this test differ");

    let Some(helm) = helm() else { return };
    let jobs: Vec<Value> = cases
        .values()
        .flat_map(|case| [job(case.besides.clone()), job(with(&case.besides, case.path, &case.value))])
        .collect();
    let renderings = render(helm, &jobs);
    let mut wrong = Vec::new();
    for (case, pair) in cases.values().zip(renderings.chunks(2)) {
        let [before, after] = pair else { unreachable!("two of each") };
        for rendered in pair {
            assert!(rendered.error.is_empty(), "{}: {}", case.path, rendered.error);
        }
        if before.objects == after.objects {
            wrong.push(format!("{} changes nothing", case.path));
        } else if case.effect.is_seen(before) {
            wrong.push(format!("{}: its effect is there without it", case.path));
        } else if !case.effect.is_seen(after) {
            wrong.push(format!("{}: {} has no effect where it should", case.path, case.value));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
