//! The binary as an image: the layout that `deployments/Dockerfile` makes, packed as a docker-archive, and the pods of the chart run
//! from it by a real kubelet. What is missing in the lab is put in by hand: the cluster's network (pods use the host's), the address of
//! the API server and its CA, the paths of the node that stands in for a machine, and kube-scheduler's image.

use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::agent::{cards, uuid};
use super::agent_containers::first_start;
use super::lab::{Lab, on_cluster};
use super::node::{Node, Runtime, workload};
use super::{helm, identity, objects, pods, wait};

const NAMESPACE: &str = "packhorse-system";
const IMAGE: &str = "registry.example/packhorse:1";

/// The root of the image: the binary, the loader and the C library, and nothing else.
fn root_of_image(lab: &Lab) -> PathBuf {
    let root = lab.directory.join("root-of-image");
    let binary = Path::new(env!("CARGO_BIN_EXE_packhorse"));
    let output = Command::new("ldd").arg(binary).output().expect("ldd runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`.
    let libraries = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    for file in libraries {
        copy(Path::new(file), &root.join(file.trim_start_matches('/')));
    }
    copy(binary, &root.join("usr/bin/packhorse"));
    root
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().expect("a folder")).expect("a folder of the image");
    std::fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}

/// Installs the settings of both workloads, and gives their objects.
fn install(lab: &Lab, node: &Node, helm: &Path) -> (Value, Value) {
    let url = lab.url();
    let (address, port) = url.trim_start_matches("https://").split_once(':').expect("an address");
    // What every pod of a cluster with a network is told.
    let api_server = json!([
        {"name": "KUBERNETES_SERVICE_HOST", "value": address}, {"name": "KUBERNETES_SERVICE_PORT", "value": port},
    ]);
    let topology: Value = serde_saphyr::from_str(&cards(2)).expect("a topology");
    let free = || lab.free_address().port();
    let values = json!({
        "image": {"repository": "registry.example/packhorse", "tag": "1", "pullPolicy": "Never"},
        "server": {
            "extraEnv": api_server,
            "ports": {"webhook": free(), "metrics": free(), "extender": free(), "scheduler": free()},
        },
        "agent": {
            "fakeTopology": topology,
            "cdiDir": node.cdi_dir,
            "stateDir": node.state_dir,
            "containerdConfig": node.directory.join("containerd.toml"),
            "metricsPort": free(),
            "extraEnv": api_server,
        },
    });
    let file = lab.directory.join("values.json");
    identity::write(&file, &values.to_string());
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("deployments/helm/packhorse");
    let render = |template: &str| {
        let output = Command::new(helm)
            .args([Path::new("template"), &chart, Path::new("-f"), &file])
            .args(["--show-only", template])
            .output()
            .expect("packhorse-helm runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    for settings in ["agent/config.yaml", "server/config.yaml"] {
        let file = lab.directory.join(settings.replace('/', "-"));
        identity::write(&file, &render(settings));
        lab.kubectl(&["apply", "--server-side", "-f", &file.display().to_string()]);
    }
    let object = |template: &str| serde_saphyr::from_str(&render(template)).expect("an object");
    (object("server/deployment.yaml"), object("agent/daemonset.yaml"))
}

/// The pod that the workload's controller would make, on this node; of its containers the one.
fn pod_of(workload: &Value, node: &Node, container: &str) -> Pod {
    let mut spec = workload["spec"]["template"]["spec"].clone();
    spec["nodeName"] = json!(node.name);
    spec["hostNetwork"] = json!(true);
    spec["containers"].as_array_mut().expect("containers").retain(|it| it["name"] == container);
    serde_json::from_value(json!({"metadata": {"name": container}, "spec": spec})).expect("a Pod")
}

/// Creates the pod and waits until its container runs and says that it is ready.
async fn run(lab: &Lab, pod: &Pod) {
    let created = pods::create(&lab.client, NAMESPACE, pod).await;
    let name = created.metadata.name.expect("a name");
    let own = pods::api(&lab.client, NAMESPACE);
    wait::until(&format!("{name} to be ready"), 90, async || {
        let statuses = own.get(&name).await.ok()?.status?.container_statuses?;
        statuses.first()?.ready.then_some(())
    })
    .await;
}

#[test]
fn the_image_runs_the_pods_of_the_chart() {
    on_cluster(async |lab| {
        let (Some(helm), true) = (helm::binary(), Runtime::Containerd22.is_here()) else { return };
        let node = Node::start(lab, "gpu-1", Runtime::Containerd22, &[]).await;
        node.make_image(IMAGE, "/usr/bin/packhorse", &root_of_image(lab));
        // A controller that the lab does without makes it in every namespace.
        let authority = lab.directory.join("certificates/apiserver.crt").display().to_string();
        let authority = format!("--from-file=ca.crt={authority}");
        lab.kubectl(&["-n", NAMESPACE, "create", "configmap", "kube-root-ca.crt", &authority]);
        lab.kubectl(&["label", "node", "gpu-1", "nvidia.com/gpu.present=true"]);
        let (server, agent) = install(lab, &node, helm);

        // As a user without rights, on a root that cannot be written.
        run(lab, &pod_of(&server, &node, "server")).await;
        // As root, with the node's folders.
        run(lab, &pod_of(&agent, &node, "agent")).await;
        lab.wait_for_ledger(1).await;

        let namespace = lab.namespace("user", json!({})).await;
        let limits = json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": "4Gi"});
        let pod = workload::pod(&node, "share", &[], &[workload::container("main", &["sleep"], &limits)]);
        let pod = pods::create(&lab.client, &namespace, &pod).await;
        let seen = first_start(&node, &pod, "main").await;
        let seen = seen.visible_devices().expect("the variable is set").to_owned();
        assert!([uuid(0), uuid(1)].contains(&seen), "{seen}");
        let bound = pods::bound(&lab.client, &namespace, "share", 10).await;
        assert_eq!(objects::annotation(&bound, "devices.packhorse.dev/main"), Some(&*seen));

        pods::api(&lab.client, &namespace).delete("share", &DeleteParams::default()).await.expect("the pod goes");
        let own = pods::api(&lab.client, NAMESPACE);
        for name in ["agent", "server"] {
            own.delete(name, &DeleteParams::default()).await.expect("it goes");
            wait::until(&format!("{name} to end in order"), 60, async || {
                own.get_opt(name).await.ok()?.is_none().then_some(())
            })
            .await;
        }
        lab.kubectl(&[
            "-n",
            NAMESPACE,
            "delete",
            "configmap",
            "kube-root-ca.crt",
            "packhorse-agent",
            "packhorse-server",
        ]);
    });
}
