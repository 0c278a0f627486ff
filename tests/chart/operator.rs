//! The chart beside NVIDIA's GPU operator: on which nodes agent and driver container run, by the labels that the operator and the agents
//! write, and how the driver container shares the host.

use serde_json::{Value, json};

use super::{Rendered, helm, job, render, yaml};

const AGENT: &str = "DaemonSet/packhorse-agent";
const DRIVER: &str = "DaemonSet/packhorse-driver";

/// Whether node selector and required node affinity of a workload take a node with these labels, as kube-scheduler reads them.
fn takes(rendered: &Rendered, workload: &str, labels: &Value) -> bool {
    let pod = &rendered.object(workload)["spec"]["template"]["spec"];
    let selected =
        pod["nodeSelector"].as_object().is_none_or(|all| all.iter().all(|(key, value)| labels[key] == *value));
    let terms = pod.pointer("/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms");
    let holds = |expression: &Value| {
        let there = &labels[expression["key"].as_str().expect("a key")];
        let listed = || expression["values"].as_array().is_some_and(|values| values.contains(there));
        match expression["operator"].as_str().expect("an operator") {
            "In" => listed(),
            "NotIn" => !listed(),
            "Exists" => !there.is_null(),
            "DoesNotExist" => there.is_null(),
            other => panic!("{other}"),
        }
    };
    let fits = |term: &Value| term["matchExpressions"].as_array().expect("expressions").iter().all(holds);
    selected && terms.is_none_or(|terms| terms.as_array().expect("terms").iter().any(fits))
}

#[test]
fn agents_leave_a_node_whose_driver_is_renewed_and_stay_where_the_operator_is_older() {
    let Some(helm) = helm::binary() else { return };
    let files = ["values-gpu-operator.yaml", "values-gpu-operator-node-by-node.yaml"].map(yaml);
    let renderings = render(helm, &files.map(job));
    for (rendered, moved) in renderings.iter().zip([false, true]) {
        for (client, taken) in
            [(None, true), (Some("true"), true), (Some("false"), false), (Some("paused-for-driver-upgrade"), false)]
        {
            let mut labels = json!({"nvidia.com/gpu.present": "true"});
            if let Some(client) = client {
                labels["nvidia.com/gpu.deploy.client"] = json!(client);
            }
            assert_eq!(takes(rendered, AGENT, &labels), taken && !moved, "{labels}");
            labels["packhorse.dev/serve"] = json!("true");
            assert_eq!(takes(rendered, AGENT, &labels), taken, "{labels}");
        }
        for (state, taken) in [
            ("upgrade-required", true),
            ("wait-for-jobs-required", true),
            ("pod-restart-required", false),
            ("upgrade-done", true),
        ] {
            let labels = json!({"nvidia.com/gpu.present": "true", "packhorse.dev/serve": "true",
                "nvidia.com/gpu-driver-upgrade-state": state});
            assert_eq!(takes(rendered, AGENT, &labels), taken, "{state}");
        }
        assert!(!takes(rendered, AGENT, &json!({"kubernetes.io/os": "linux"})));
        let flags = rendered.arguments(AGENT, "agent");
        assert!(flags.contains(&"--operator-labels=device-plugin,gpu-feature-discovery".to_owned()), "{flags:?}");
    }
    // The server gives the toleration that the documented taint asks for, to Packhorse's own pods.
    let config = renderings[1].object("ConfigMap/packhorse-server")["data"]["config.yaml"].as_str().unwrap();
    let config = packhorse::cli::config::Config::parse(config).unwrap();
    let keys: Vec<&str> = config.webhook.tolerations.iter().map(|it| it.key.as_deref().unwrap_or_default()).collect();
    assert_eq!(keys, ["nvidia.com/gpu", "packhorse.dev/serve"]);
}

#[test]
fn the_driver_container_goes_where_no_host_has_a_driver_and_changes_only_by_hand() {
    let Some(helm) = helm::binary() else { return };
    let rendered = render(helm, &[job(yaml("values-driver-container.yaml")), job(json!({}))]);
    assert!(rendered[1].find(DRIVER).is_none(), "off by default");
    let rendered = &rendered[0];
    for (label, taken) in [
        (None, true),
        (Some(("nvidia.com/gpu.deploy.driver", "true")), true),
        (Some(("nvidia.com/gpu.deploy.driver", "pre-installed")), false),
        (Some(("nvidia.com/gpu.deploy.driver", "false")), false),
        (Some(("nvidia.com/gpu.deploy.operands", "false")), false),
    ] {
        for present in ["nvidia.com/gpu.present", "feature.node.kubernetes.io/pci-10de.present"] {
            let mut labels = json!({present: "true"});
            if let Some((key, value)) = label {
                labels[key] = json!(value);
            }
            assert_eq!(takes(rendered, DRIVER, &labels), taken, "{labels}");
        }
    }
    assert!(!takes(rendered, DRIVER, &json!({})), "a node without a GPU");

    let spec = &rendered.object(DRIVER)["spec"];
    assert_eq!(spec["updateStrategy"], json!({"type": "OnDelete"}));
    let pod = &spec["template"]["spec"];
    assert_eq!((&pod["hostPID"], &pod["automountServiceAccountToken"]), (&json!(true), &json!(false)));
    let container = &pod["containers"][0];
    assert_eq!(container["securityContext"]["privileged"], true);
    let mounts = container["volumeMounts"].as_array().unwrap();
    let mount = |path: &str| mounts.iter().find(|mount| mount["mountPath"] == path).unwrap_or_else(|| panic!("{path}"));
    assert_eq!(mount("/run/nvidia")["mountPropagation"], "Bidirectional");
    let bidirectional = mounts.iter().filter(|mount| mount["mountPropagation"] == "Bidirectional").count();
    assert_eq!(bidirectional, 1, "nothing else of the host's mounts is touched");
    let patience =
        |probe: &Value| probe["periodSeconds"].as_u64().unwrap() * probe["failureThreshold"].as_u64().unwrap();
    assert!(patience(&container["startupProbe"]) >= 1200, "modules may have to be compiled");
    assert!(container["livenessProbe"].is_null(), "a restart takes the driver from everybody");
    let volumes = pod["volumes"].as_array().unwrap();
    let named = |list: &[Value]| -> std::collections::BTreeSet<String> {
        list.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
    };
    let init = pod["initContainers"][0]["volumeMounts"].as_array().unwrap();
    assert_eq!(&named(mounts) | &named(init), named(volumes));
    assert_eq!((init[0]["mountPath"].as_str(), &init[0]["readOnly"]), (Some("/host"), &json!(true)));

    // The agent looks below the host's root, where the driver container's root is a mount that may come later.
    let agent = &rendered.object(AGENT)["spec"]["template"]["spec"]["containers"][0];
    let roots: Vec<&Value> =
        agent["volumeMounts"].as_array().unwrap().iter().filter(|it| it["mountPath"] == "/driver-root").collect();
    assert_eq!(roots[0]["mountPropagation"], "HostToContainer");
}

#[test]
fn a_host_with_a_driver_stops_the_driver_container_before_it_starts() {
    let Some(helm) = helm::binary() else { return };
    let rendered = render(helm, &[job(yaml("values-driver-container.yaml"))]).remove(0);
    let command = rendered.object(DRIVER)["spec"]["template"]["spec"]["initContainers"][0]["command"].clone();
    let command: Vec<String> = serde_json::from_value(command).unwrap();
    let host = tempfile::tempdir().unwrap();
    let run = || {
        let (log, root) = (host.path().join("log"), host.path().join("root"));
        let script = command[2]
            .replace("/host/", &format!("{}/", root.display()))
            .replace("/dev/termination-log", &log.display().to_string());
        let output = std::process::Command::new(&command[0]).args([&command[1], &script]).output().unwrap();
        (output.status.success(), std::fs::read_to_string(log).unwrap_or_default())
    };
    std::fs::create_dir_all(host.path().join("root/usr/lib64")).unwrap();
    assert_eq!(run(), (true, String::new()));
    std::fs::write(host.path().join("root/usr/lib64/libnvidia-ml.so.1"), "").unwrap();
    let (goes_on, told) = run();
    assert!(!goes_on && told.contains("/usr/lib64/libnvidia-ml.so.1; label the node"), "{told}");
}
