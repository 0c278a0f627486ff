//! NVIDIA's device plugin and Packhorse in one cluster while a node moves from one to the other and back: the commands of
//! `docs/gpu-operator.md` as they stand there, on real kubelets, with a kube-scheduler of the cluster's own beside Packhorse's. In the place
//! of NVIDIA's plugin stands a simple one, which comes and goes as the operator's `DaemonSet` does by the label of its node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use packhorse::kubelet_api::device_plugin::ContainerAllocateResponse;
use serde_json::{Value, json};

use super::agent::{Agent, cards, uuid};
use super::agent_containers::refusal;
use super::lab::{Lab, on_cluster_for};
use super::node::plugin::Plugin;
use super::node::{Node, Runtime, workload};
use super::process::Component;
use super::{manifests, pods, wait};

const LIMIT: std::time::Duration = std::time::Duration::from_secs(540);
const GPU: &str = "nvidia.com/gpu";
const PLUGIN_LABEL: &str = "nvidia.com/gpu.deploy.device-plugin";

/// The command of the page that begins like this, with the node's name in it.
fn documented(lab: &Lab, beginning: &str, node: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/gpu-operator.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let line = page.lines().map(str::trim).find(|line| line.starts_with(beginning));
    let line = line.unwrap_or_else(|| panic!("no {beginning:?} on the page"));
    let words: Vec<&str> = line.split_whitespace().map(|word| if word == "NODE" { node } else { word }).collect();
    lab.kubectl(&words[1..])
}

/// NVIDIA's plugin on a node, which hands out each card once by its name.
async fn nvidia(node: &Node, count: usize) -> Plugin {
    let names: Vec<String> = (0..count).map(|number| format!("NVIDIA-{}-{number}", node.name)).collect();
    let answer = |ids: &[String]| ContainerAllocateResponse {
        envs: [("NVIDIA_VISIBLE_DEVICES".to_owned(), ids.join(","))].into(),
        ..ContainerAllocateResponse::default()
    };
    Plugin::register(node, GPU, &names.iter().map(String::as_str).collect::<Vec<_>>(), Box::new(answer)).await
}

/// kube-scheduler as every cluster has it.
fn own_scheduler(lab: &Lab) -> Component {
    let kubeconfig = lab.kubeconfig.display();
    let address = lab.free_address();
    let arguments = [
        "kube-scheduler".to_owned(),
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--leader-elect=false".to_owned(),
        format!("--bind-address={}", address.ip()),
        format!("--secure-port={}", address.port()),
    ];
    Component::start("default-scheduler", &lab.directory, lab.kubelab, &arguments)
}

/// A Deployment of pods on any node; `prefers` one.
fn deployment(records: &Node, name: &str, replicas: u32, limits: &Value, prefers: &str) -> Deployment {
    let main = workload::container("main", &["sleep"], limits);
    let mut pod = serde_json::to_value(workload::pod(records, name, &[], &[main])).expect("JSON");
    let spec = pod["spec"].as_object_mut().expect("a spec");
    spec.remove("schedulerName");
    spec.remove("nodeSelector");
    spec.insert(
        "affinity".to_owned(),
        json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference":
            {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [prefers]}]}}]}}),
    );
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
        },
    }))
    .expect("a Deployment")
}

/// Running pods of an app with their nodes.
async fn running(lab: &Lab, namespace: &str, app: &str) -> Vec<(String, String)> {
    let all = pods::list(&lab.client, namespace).await;
    let live = all.iter().filter(|pod| {
        pod.metadata.deletion_timestamp.is_none()
            && pod.metadata.labels.as_ref().is_some_and(|labels| labels.get("app").is_some_and(|it| it == app))
            && pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
    });
    live.map(|pod| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        (pod.metadata.name.clone().unwrap_or_default(), node)
    })
    .collect()
}

/// Waits until an app has so many running pods, all on that node.
async fn settled(lab: &Lab, namespace: &str, app: &str, count: usize, node: &str) -> Vec<String> {
    wait::until(&format!("{count} pods of {app} on {node}"), 90, async || {
        let there = running(lab, namespace, app).await;
        let names = || there.iter().map(|(name, _)| name.clone()).collect();
        (there.len() == count && there.iter().all(|(_, on)| on == node)).then(names)
    })
    .await
}

/// Which card each running container sees, by pod; panics where NVIDIA's plugin and Packhorse, or one of them twice, gave out a card.
async fn served(lab: &Lab, nodes: &[&Node], namespaces: &[&str]) -> BTreeMap<String, String> {
    let mut live: BTreeMap<String, String> = BTreeMap::new();
    for namespace in namespaces {
        for pod in pods::list(&lab.client, namespace).await {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            if phase == Some("Running") {
                live.insert(
                    pod.metadata.uid.unwrap_or_default(),
                    format!("{namespace}/{}", pod.metadata.name.unwrap_or_default()),
                );
            }
        }
    }
    let mut seen = BTreeMap::new();
    for sight in nodes.iter().flat_map(|node| node.records()) {
        if let Some(pod) = live.get(sight.pod_uid()) {
            seen.insert(pod.clone(), sight.visible_devices().unwrap_or_default().to_owned());
        }
    }
    let mut whole = BTreeSet::new();
    for (pod, card) in &seen {
        assert!(!card.is_empty() && card != "void", "{pod} has no card: {seen:?}");
        if card.starts_with("NVIDIA-") {
            assert!(whole.insert(card.clone()), "{card} is handed out twice: {seen:?}");
        }
    }
    seen
}

/// Waits until kube-scheduler can see so many GPUs on a node.
async fn allocatable(lab: &Lab, node: &str, count: usize) {
    let nodes: Api<NodeObject> = Api::all(lab.client.clone());
    wait::until(&format!("{count} allocatable {GPU} on {node}"), 60, async || {
        let amounts = nodes.get(node).await.ok()?.status?.allocatable?;
        (amounts.get(GPU)?.0 == count.to_string()).then_some(())
    })
    .await;
}

async fn label(lab: &Lab, node: &str, labels: Value) {
    let nodes: Api<NodeObject> = Api::all(lab.client.clone());
    let patch = json!({"metadata": {"labels": labels}});
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(&patch)).await.expect("labelled");
}

async fn plugin_label(lab: &Lab, node: &str) -> Option<String> {
    let nodes: Api<NodeObject> = Api::all(lab.client.clone());
    nodes.get(node).await.expect("the node").metadata.labels.unwrap_or_default().remove(PLUGIN_LABEL)
}

/// The agent's flags as the values file for this case has them.
fn agent_flags() -> Vec<String> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("deployments/helm/packhorse");
    let text = std::fs::read_to_string(chart.join("values-gpu-operator-node-by-node.yaml")).expect("the values");
    let values: Value = manifests::documents(&text).remove(0);
    let labels: Vec<&str> =
        values["agent"]["operatorLabels"].as_array().expect("labels").iter().filter_map(Value::as_str).collect();
    vec![format!("--operator-labels={}", labels.join(","))]
}

#[test]
fn a_node_moves_to_packhorse_and_back_while_nvidias_plugin_serves_another() {
    on_cluster_for(LIMIT, async |shared| {
        if !Runtime::Containerd22.is_here() {
            return;
        }
        let mut lab = Lab::start(shared.kubelab).await;
        let tolerations = "webhook:\n  tolerations:\n  - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}\n  \
                           - {key: packhorse.dev/serve, operator: Exists, effect: NoSchedule}\n";
        lab.configure_server(Some(tolerations)).await;
        lab.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "deployments/webhook/opt-in.yaml"]);
        let _scheduler = own_scheduler(&lab);
        let ours = lab.namespace("ours", json!({"packhorse.dev/admission": "enabled"})).await;
        let theirs = lab.namespace("theirs", json!({})).await;

        // Two nodes of NVIDIA's operator.
        let stays = Node::start(&lab, "stays", Runtime::Containerd22, &[]).await;
        let moves = Node::start(&lab, "moves", Runtime::Containerd22, &[]).await;
        let both = [&stays, &moves];
        for node in ["stays", "moves"] {
            label(&lab, node, json!({PLUGIN_LABEL: "true", "nvidia.com/gpu.present": "true"})).await;
        }
        let _kept = nvidia(&stays, 3).await;
        let old = nvidia(&moves, 1).await;
        allocatable(&lab, "stays", 3).await;
        allocatable(&lab, "moves", 1).await;
        let apps: Api<Deployment> = Api::namespaced(lab.client.clone(), &theirs);
        let one = json!({GPU: 1});
        for (name, prefers) in [("first", "moves"), ("second", "stays")] {
            let app = deployment(&stays, name, 1, &one, prefers);
            apps.create(&PostParams::default(), &app).await.expect("a Deployment");
            settled(&lab, &theirs, name, 1, prefers).await;
        }
        let before = served(&lab, &both, &[&theirs]).await;
        assert_eq!(before.len(), 2, "{before:?}");
        let second = running(&lab, &theirs, "second").await;

        // The node is emptied and handed over. What ran there runs on the other one; nothing of Packhorse's is there before.
        documented(&lab, "kubectl cordon NODE", "moves");
        documented(&lab, "kubectl drain NODE", "moves");
        settled(&lab, &theirs, "first", 1, "stays").await;
        documented(&lab, "kubectl label node NODE packhorse.dev/serve=true", "moves");
        documented(&lab, "kubectl taint node NODE packhorse.dev/serve=true:NoSchedule", "moves");
        let flags = agent_flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut agent = Agent::launch(&lab, &moves, "agent", &cards(1), &flags).await;
        wait::until("the operator to be told", 30, async || {
            (plugin_label(&lab, "moves").await.as_deref() == Some("false")).then_some(())
        })
        .await;
        assert_eq!(plugin_label(&lab, "stays").await.as_deref(), Some("true"), "the other node is none of ours");
        // Its DaemonSet takes the plugin away, while ours is registered already or is about to be.
        drop(old);
        agent.wait_until_ready().await;
        lab.wait_for_ledger(1).await;
        wait::until("the slots of the agent, and no others", 60, async || {
            let slots = moves.healthy_slots(GPU).await;
            (slots.len() == 10 && slots.iter().all(|slot| slot.starts_with(&uuid(0)))).then_some(())
        })
        .await;
        allocatable(&lab, "moves", 10).await;
        documented(&lab, "kubectl uncordon NODE", "moves");

        // Pods of namespaces that opted in go to it, and share its card.
        let ours_apps: Api<Deployment> = Api::namespaced(lab.client.clone(), &ours);
        let share = json!({GPU: 1, "nvidia.com/gpumem": "4Gi"});
        let app = deployment(&stays, "shares", 2, &share, "stays");
        ours_apps.create(&PostParams::default(), &app).await.expect("a Deployment");
        settled(&lab, &ours, "shares", 2, "moves").await;
        // The others stay away from it, even where they would rather be there and it has slots left.
        let first = running(&lab, &theirs, "first").await.remove(0).0;
        pods::api(&lab.client, &theirs).delete(&first, &DeleteParams::default()).await.expect("deleted");
        wait::until("another pod of first", 60, async || {
            let now = running(&lab, &theirs, "first").await;
            (now.len() == 1 && now[0].0 != first).then_some(())
        })
        .await;
        settled(&lab, &theirs, "first", 1, "stays").await;
        // One that tolerates everything gets nothing there: its container does not start.
        let main = workload::container("main", &["sleep"], &one);
        let mut intruder = serde_json::to_value(workload::pod(&moves, "intruder", &[], &[main])).expect("JSON");
        intruder["spec"]["schedulerName"] = json!("default-scheduler");
        intruder["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
        let intruder: Pod = serde_json::from_value(intruder).expect("a Pod");
        pods::create(&lab.client, &theirs, &intruder).await;
        let told = refusal(&lab.client, &theirs, "intruder").await;
        assert!(told.contains("Packhorse") || told.contains("packhorse"), "{told}");
        let strangers = pods::api(&lab.client, &theirs);
        strangers.delete("intruder", &DeleteParams::default()).await.expect("deleted");
        wait::until("the intruder to be gone", 60, async || {
            strangers.get_opt("intruder").await.ok()?.is_none().then_some(())
        })
        .await;

        let during = served(&lab, &both, &[&theirs, &ours]).await;
        let of = |namespace: &str| -> Vec<&String> {
            during.iter().filter(|(pod, _)| pod.starts_with(&format!("{namespace}/"))).map(|(_, card)| card).collect()
        };
        assert_eq!(of(&ours), [&uuid(0), &uuid(0)], "{during:?}");
        assert!(
            of(&theirs).len() == 2 && of(&theirs).iter().all(|card| card.starts_with("NVIDIA-stays-")),
            "{during:?}"
        );
        assert_eq!(running(&lab, &theirs, "second").await, second, "what runs elsewhere does not notice");

        // And back.
        documented(&lab, "kubectl cordon NODE", "moves");
        documented(&lab, "kubectl drain NODE", "moves");
        documented(&lab, "kubectl label node NODE packhorse.dev/serve-", "moves");
        documented(&lab, "kubectl taint node NODE packhorse.dev/serve-", "moves");
        assert!(agent.stop().await.success());
        let cleaned = Command::new(Path::new(env!("CARGO_BIN_EXE_packhorse")))
            .args(["cleanup", "--yes", "--node", "moves", "--kubeconfig"])
            .arg(&lab.kubeconfig)
            .output()
            .expect("it runs");
        assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
        assert_eq!(plugin_label(&lab, "moves").await, None, "empty for the operator, which writes true again");
        label(&lab, "moves", json!({PLUGIN_LABEL: "true"})).await;
        // The simple plugin's socket of before is in the way of a new one.
        std::fs::remove_file(moves.kubelet_dir.join("device-plugins/simple.sock")).expect("the old socket");
        let _again = nvidia(&moves, 1).await;
        wait::until("NVIDIA's card and no slot of ours", 60, async || {
            (moves.healthy_slots(GPU).await == ["NVIDIA-moves-0"]).then_some(())
        })
        .await;
        allocatable(&lab, "moves", 1).await;
        documented(&lab, "kubectl uncordon NODE", "moves");
        let first = running(&lab, &theirs, "first").await.remove(0).0;
        pods::api(&lab.client, &theirs).delete(&first, &DeleteParams::default()).await.expect("deleted");
        settled(&lab, &theirs, "first", 1, "moves").await;
        // Packhorse's pods are not lost: they wait, and say for what.
        let waiting = pods::api(&lab.client, &ours).list(&ListParams::default()).await.expect("pods").items;
        let waiting: Vec<&Pod> = waiting.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
        assert_eq!(waiting.len(), 2);
        assert!(waiting.iter().all(|pod| pods::refusal(pod).is_some()), "{waiting:#?}");
        let after = served(&lab, &both, &[&theirs]).await;
        assert!(after.values().any(|card| card == "NVIDIA-moves-0"), "{after:?}");
    });
}
