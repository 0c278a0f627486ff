//! What is rendered from the defaults, from each file of values, and for clusters of other versions.

use packhorse::cli::config::Config;
use packhorse::webhook::Settings;
use serde_json::{Value, json};

use super::{Rendered, VALUES_FILES, helm, job, render, yaml};

const SERVER: &str = "Deployment/packhorse-server";
const AGENT: &str = "DaemonSet/packhorse-agent";

/// The defaults, and each file of values.
fn all(helm: &std::path::Path) -> Vec<(&'static str, Rendered)> {
    let jobs: Vec<Value> = std::iter::once(json!({})).chain(VALUES_FILES.map(yaml)).map(job).collect();
    let names = std::iter::once("values.yaml").chain(VALUES_FILES);
    names.zip(render(helm, &jobs)).collect()
}

fn container<'all>(rendered: &'all Rendered, object: &str, name: &str) -> &'all Value {
    let containers = rendered.object(object)["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    containers.iter().find(|container| container["name"] == name).unwrap()
}

/// The whole seconds of `25s`, `1m`.
fn seconds(text: &str) -> u64 {
    text.parse::<jiff::SignedDuration>().unwrap().as_secs().try_into().unwrap()
}

#[test]
fn server_and_scheduler_share_a_pod_an_account_and_a_loopback() {
    let Some(helm) = helm::binary() else { return };
    for (file, rendered) in all(helm) {
        let pod = &rendered.object(SERVER)["spec"]["template"]["spec"];
        assert_eq!(pod["serviceAccountName"], "packhorse-server", "{file}");
        let names: Vec<&Value> = pod["containers"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
        assert_eq!(names, ["server", "kube-scheduler"], "{file}");

        let profile = rendered.object("ConfigMap/packhorse-kube-scheduler")["data"]["config.yaml"].as_str().unwrap();
        let profile: Value = serde_saphyr::from_str(profile).unwrap();
        let listen = rendered.arguments(SERVER, "server").into_iter().find(|it| it.starts_with("--extender-listen"));
        let listen = listen.unwrap().split_once('=').unwrap().1.to_owned();
        assert_eq!(profile["extenders"][0]["urlPrefix"], format!("http://{listen}"), "{file}");
        assert!(listen.starts_with("127.0.0.1:"), "{file}: whoever reaches the extender books GPUs");
        assert_eq!(profile["leaderElection"]["leaderElect"], true, "{file}");

        // The API server calls the Service, the Service the port of that name, where the server listens.
        let service = &rendered.object("Service/packhorse-server")["spec"];
        let labels = &rendered.object(SERVER)["spec"]["template"]["metadata"]["labels"];
        for (key, value) in service["selector"].as_object().unwrap() {
            assert_eq!(&labels[key], value, "{file}");
        }
        let called =
            &rendered.object("MutatingWebhookConfiguration/packhorse")["webhooks"][0]["clientConfig"]["service"];
        assert_eq!(service["ports"][0]["port"], called["port"], "{file}");
        let port = container(&rendered, SERVER, "server")["ports"][0].clone();
        assert_eq!(port["name"], service["ports"][0]["targetPort"], "{file}");
        assert!(
            rendered
                .arguments(SERVER, "server")
                .contains(&format!("--webhook-listen=0.0.0.0:{}", port["containerPort"]))
        );
    }
}

#[test]
fn servers_outlive_a_drain_and_finish_what_they_were_asked() {
    let Some(helm) = helm::binary() else { return };
    for (file, rendered) in all(helm) {
        let replicas = rendered.object(SERVER)["spec"]["replicas"].as_u64().unwrap();
        assert_eq!(replicas, if file == "values-k3s.yaml" { 1 } else { 2 }, "{file}");
        let pod = &rendered.object(SERVER)["spec"]["template"]["spec"];
        let spread = pod["topologySpreadConstraints"].as_array().unwrap();
        assert_eq!(spread[0]["topologyKey"], "kubernetes.io/hostname", "{file}");
        let budget = &rendered.object("PodDisruptionBudget/packhorse-server")["spec"];
        assert_eq!(budget["selector"], rendered.object(SERVER)["spec"]["selector"], "{file}");

        let config = rendered.object("ConfigMap/packhorse-server")["data"]["config.yaml"].as_str().unwrap();
        let config = Config::parse(config).unwrap_or_else(|error| panic!("{file}: {error:#}"));
        let needed = (config.server.shutdown_delay + config.server.drain).as_secs();
        assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > needed, "{file}: less than {needed} s");

        let agent = &rendered.object(AGENT)["spec"];
        let drain = rendered
            .arguments(AGENT, "agent")
            .into_iter()
            .find_map(|it| it.strip_prefix("--drain-timeout=").map(str::to_owned));
        let drain = seconds(&format!("{}s", drain.unwrap()));
        assert!(agent["template"]["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap() > drain, "{file}");
        assert_eq!(
            agent["updateStrategy"]["rollingUpdate"]["maxSurge"], 0,
            "{file}: a second agent would wait for the first"
        );
    }
}

#[test]
fn nobody_runs_as_root_but_the_agent() {
    let Some(helm) = helm::binary() else { return };
    for (file, rendered) in all(helm) {
        let pod = &rendered.object(SERVER)["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{file}");
        for name in ["server", "kube-scheduler"] {
            let rights = &container(&rendered, SERVER, name)["securityContext"];
            let wanted = json!({
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}
            });
            assert_eq!(rights, &wanted, "{file}: {name}");
        }
        let agent = &rendered.object(AGENT)["spec"]["template"]["spec"];
        assert_eq!(agent["containers"][0]["securityContext"]["privileged"], true, "{file}");
        assert!(agent["initContainers"].is_null(), "{file}: the host is changed unasked");
        assert_eq!(agent["hostPID"], true, "{file}: it would not know whose the processes on its GPUs are");
    }
}

#[test]
fn agents_see_what_they_are_told_to_use() {
    let Some(helm) = helm::binary() else { return };
    for (file, rendered) in all(helm) {
        let pod = &rendered.object(AGENT)["spec"]["template"]["spec"];
        let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
        let volumes = pod["volumes"].as_array().unwrap();
        assert_eq!(mounts.len(), volumes.len(), "{file}");
        let at = |path: &str| {
            let mount =
                mounts.iter().find(|mount| mount["mountPath"] == path).unwrap_or_else(|| panic!("{file}: no {path}"));
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
            (volume["hostPath"]["path"].as_str().unwrap().to_owned(), mount["readOnly"] == true)
        };
        let argument = |flag: &str| {
            let all = rendered.arguments(AGENT, "agent");
            let found = all.iter().find_map(|it| it.strip_prefix(&format!("{flag}=")));
            found.unwrap_or_else(|| panic!("{file}: no {flag}")).to_owned()
        };
        let kubelet = argument("--kubelet-dir");
        // Paths on the host and in the container are the same: the kubelet and the runtime are told of files by their paths.
        for (path, read_only) in [
            (format!("{kubelet}/device-plugins"), false),
            (format!("{kubelet}/pod-resources"), true),
            (argument("--cdi-dir"), false),
            ("/etc/cdi".to_owned(), true),
            (argument("--state-dir"), false),
        ] {
            assert_eq!(at(&path), (path.clone(), read_only), "{file}");
        }
        let config = argument("--containerd-config");
        let folder = config.rsplit_once('/').unwrap().0;
        assert_eq!(at(folder), (folder.to_owned(), true), "{file}");
        if file.starts_with("values-gpu-operator") {
            assert_eq!(pod["runtimeClassName"], "nvidia", "{file}: NVIDIA's runtime brings the library");
        } else {
            assert_eq!(at("/driver-root"), ("/".to_owned(), true), "{file}");
        }
    }
}

#[test]
fn every_flag_in_the_manifests_is_one_of_the_binary() {
    let Some(helm) = helm::binary() else { return };
    let known = |role: &[&str]| {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_packhorse")).args(role).arg("--help").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let check = |role: &[&str], arguments: &[String], file: &str| {
        let known = known(role);
        let (named, flags) = arguments.split_at(role.len());
        assert_eq!(named, role, "{file}");
        for argument in flags {
            let flag = argument.split('=').next().unwrap();
            let there = [" <", "[=", "\n"].iter().any(|end| known.contains(&format!("{flag}{end}")));
            assert!(there, "{file}: packhorse {} has no {flag}", role.join(" "));
        }
    };
    for (file, rendered) in all(helm) {
        check(&["server"], &rendered.arguments(SERVER, "server"), file);
        check(&["agent"], &rendered.arguments(AGENT, "agent"), file);
    }
    let configure = json!({"agent": {"runtimeConfigure": {"enabled": true, "setAsDefault": true}}});
    let rendered = render(helm, &[job(configure)]);
    let init = &rendered[0].object(AGENT)["spec"]["template"]["spec"]["initContainers"][0];
    let arguments: Vec<String> = serde_json::from_value(init["args"].clone()).unwrap();
    check(&["runtime", "configure"], &arguments, "agent.runtimeConfigure");
}

#[test]
fn kube_scheduler_is_of_the_clusters_version() {
    let Some(helm) = helm::binary() else { return };
    let cases = [
        ("v1.36.3", "v1.36.3"),
        ("v1.31.4+k3s1", "v1.31.4"),
        ("v1.32.1+rke2r1", "v1.32.1"),
        ("v1.30.6-eks-7f9249a", "v1.30.6"),
        ("v1.31.1-gke.1678000", "v1.31.1"),
        ("v1.33.2-aks", "v1.33.2"),
        ("v1.38.0-alpha.1", "v1.38.0-alpha.1"),
        ("v1.38.0-rc.0.12+0123456789abcd", "v1.38.0-rc.0"),
    ];
    let jobs: Vec<Value> = cases.iter().map(|(version, _)| json!({"values": {}, "kubeVersion": version})).collect();
    for ((version, tag), rendered) in cases.iter().zip(render(helm, &jobs)) {
        let image = &container(&rendered, SERVER, "kube-scheduler")["image"];
        assert_eq!(image, &json!(format!("registry.k8s.io/kube-scheduler:{tag}")), "{version}");
    }
}

#[test]
fn what_cannot_work_is_refused_in_words() {
    let Some(helm) = helm::binary() else { return };
    let monitors = json!({"metrics": {"services": {"enabled": false}, "serviceMonitor": {"enabled": true}}});
    let cases = [
        (json!({"values": {}, "namespace": "gpu"}), "--namespace packhorse-system"),
        (json!({"values": {}, "kubeVersion": "v1.29.9"}), "1.30"),
        (job(monitors), "metrics.services.enabled"),
    ];
    let jobs: Vec<Value> = cases.iter().map(|(job, _)| job.clone()).collect();
    for ((job, part), rendered) in cases.iter().zip(render(helm, &jobs)) {
        assert!(rendered.error.contains(part), "{job}: {:?} lacks {part:?}", rendered.error);
    }
}

#[test]
fn the_rights_to_keep_a_certificate_go_with_the_task() {
    let Some(helm) = helm::binary() else { return };
    let given = json!({"webhook": {"certificate": {"source": "secret", "secretName": "mine"}}});
    let manager = json!({"webhook": {"certificate": {"source": "cert-manager"}}});
    let renderings = render(helm, &[job(json!({})), job(given), job(manager)]);
    for (at, rendered) in renderings.iter().enumerate() {
        let own = at == 0;
        assert_eq!(rendered.find("Role/packhorse-server").is_some(), own);
        let rules = rendered.object("ClusterRole/packhorse-server")["rules"].to_string();
        assert_eq!(rules.contains("mutatingwebhookconfigurations"), own);
        let arguments = rendered.arguments(SERVER, "server").join(" ");
        assert_eq!(arguments.contains("--tls-cert=/etc/packhorse-tls/tls.crt"), !own, "{arguments}");
    }
    let registration = renderings[2].object("MutatingWebhookConfiguration/packhorse");
    assert_eq!(
        registration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"],
        "packhorse-system/packhorse-webhook"
    );
    // As webhook-certs/cert-manager.yaml has it, for those without the chart.
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/webhook-certs/cert-manager.yaml")).unwrap();
    for part in text.split("\n---\n") {
        let shipped: Value = serde_saphyr::from_str(part).unwrap();
        let name = format!("{}/{}", shipped["kind"].as_str().unwrap(), shipped["metadata"]["name"].as_str().unwrap());
        assert_eq!(renderings[2].object(&name)["spec"], shipped["spec"], "{name}");
    }
}

#[test]
fn runtime_classes_that_the_server_reacts_to_reach_the_webhook() {
    let Some(helm) = helm::binary() else { return };
    let given = json!({"config": {"webhook": {"nvidiaRuntimeClasses": ["gpu", "other"]}}});
    let renderings = render(helm, &[job(json!({})), job(given)]);
    let condition = |rendered: &Rendered| {
        let conditions = &rendered.object("MutatingWebhookConfiguration/packhorse")["webhooks"][0]["matchConditions"];
        conditions[0]["expression"].as_str().unwrap().to_owned()
    };
    let named = |names: &[String]| {
        let names: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
        format!("runtimeClassName.orValue('') in [{}]", names.join(", "))
    };
    let shipped: Vec<String> = Settings::default().nvidia_runtime_classes.into_iter().collect();
    for (rendered, names) in renderings.iter().zip([shipped, vec!["gpu".to_owned(), "other".to_owned()]]) {
        let condition = condition(rendered);
        assert!(condition.contains(&named(&names)), "{condition} lacks {}", named(&names));
    }
}

#[test]
fn the_notes_name_the_next_commands() {
    let Some(helm) = helm::binary() else { return };
    for (file, rendered) in all(helm) {
        assert!(rendered.notes.contains("rollout status daemonset/packhorse-agent"), "{file}: {}", rendered.notes);
        let label = rendered.notes.contains("kubectl label node");
        assert_eq!(label, file != "values-k3s.yaml", "{file}: {}", rendered.notes);
    }
    let cases = [
        (json!({"webhook": {"optIn": true}}), "packhorse.dev/admission=enabled"),
        (json!({"server": {"ports": {"metrics": 9999}}}), "port-forward deployment/packhorse-server 9999"),
        (json!({"agent": {"runtimeConfigure": {"enabled": true}}}), "and restarts it"),
        (json!({"webhook": {"certificate": {"source": "secret", "secretName": "s"}}}), "caBundle is empty"),
    ];
    let jobs: Vec<Value> = cases.iter().map(|(values, _)| job(values.clone())).collect();
    for ((values, part), rendered) in cases.iter().zip(render(helm, &jobs)) {
        assert!(rendered.notes.contains(part), "{values}: {:?}", rendered.notes);
    }
    let without = render(helm, &[job(json!({"config": {"server": {"dashboard": false}}}))]);
    assert!(!without[0].notes.contains("port-forward"), "{}", without[0].notes);
}
