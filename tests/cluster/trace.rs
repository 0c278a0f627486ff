//! A thousand pods of a production trace onto fewer nodes than they need: whoever is bound is bound soundly, and whoever is not
//! could not have been.
//!
//! The trace (`tests/openb`) names models, not their memory. Assumed here, in MiB as NVML reports them: P100 16276, T4 15360,
//! V100M16 16384, V100M32 32768, A10 23028, and for the two models whose names the trace hides G2 24576, G3 40960.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::checker::{Ask, Books};
use super::lab::on_cluster;
use super::objects::{self, GpuNode, node_of};
use super::{kubelab, pods, wait};

/// Every eighth pod of the list, so that all of its mix takes part.
const POD_STEP: usize = 8;
const PODS: usize = 1000;
const NODE_STEP: usize = 12;

#[test]
fn a_thousand_pods_of_the_trace_are_bound_soundly_or_refused_for_a_true_reason() {
    on_cluster(async |lab| {
        let nodes = nodes();
        pods::create_nodes(&lab.client, &nodes).await;
        let namespace = lab.namespace("trace", json!({})).await;
        let wanted = trace_pods();
        assert_eq!(wanted.len(), PODS);
        let objects: Vec<Pod> = wanted.iter().map(|(pod, _)| pod.clone()).collect();
        pods::create_all(&lab.client, &namespace, &objects).await;

        let settled = settled(&lab.client, &namespace).await;
        let books = pods::checked(&lab.client).await;
        let asks: BTreeMap<&str, &Option<Ask>> =
            wanted.iter().map(|(pod, ask)| (pod.metadata.name.as_deref().unwrap_or_default(), ask)).collect();
        let (bound, pending): (Vec<Pod>, Vec<Pod>) = settled.into_iter().partition(|pod| node_of(pod).is_some());
        for pod in &pending {
            let name = pod.metadata.name.as_deref().expect("a name");
            assert_refused_truly(name, pod, asks[name].as_ref(), &books);
        }
        let cards: usize = books.nodes.values().map(|node| node.devices.len()).sum();
        let used: u64 =
            books.nodes.values().flat_map(|node| node.devices.values()).map(|device| device.used_cores).sum();
        kubelab::say(&format!(
            "trace: {} nodes, {cards} GPUs, {} pods bound ({} with a GPU), {} refused, {:.1} % of all GPU cores booked",
            nodes.len(),
            bound.len(),
            books.placed,
            pending.len(),
            used as f64 / cards as f64,
        ));
        assert!(!pending.is_empty(), "the pods ask for more than there is: somebody has to wait");
    });
}

/// Every pod has a node or a refusal, and nothing has changed for a while.
async fn settled(client: &kube::Client, namespace: &str) -> Vec<Pod> {
    let mut last = (usize::MAX, std::time::Instant::now());
    wait::until("the trace to settle", 240, async || {
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        let all = pods::list(client, namespace).await;
        let bound = all.iter().filter(|pod| node_of(pod).is_some()).count();
        if last.0 != bound {
            last = (bound, std::time::Instant::now());
        }
        let decided = all.iter().all(|pod| node_of(pod).is_some() || pods::refusal(pod).is_some());
        (decided && last.1.elapsed().as_secs() >= 12).then_some(all)
    })
    .await
}

/// No node has room for it, and each reason that kube-scheduler gives holds for some node.
fn assert_refused_truly(name: &str, pod: &Pod, ask: Option<&Ask>, books: &Books) {
    let message = pods::refusal(pod).expect("a pending pod of a settled trace was refused");
    if let Some(ask) = ask {
        let takers: Vec<&String> =
            books.nodes.iter().filter(|(_, node)| node.could_take(pod, ask)).map(|(name, _)| name).collect();
        assert!(takers.is_empty(), "{name} ({ask:?}) was refused ({message}), yet {takers:?} have room");
    } else {
        let takers: Vec<&String> =
            books.nodes.iter().filter(|(_, node)| node.lacking(pod).is_empty()).map(|(name, _)| name).collect();
        assert!(takers.is_empty(), "{name} was refused ({message}), yet {takers:?} have room");
    }
    for reason in reasons(&message) {
        let holds = books.nodes.values().any(|node| match (reason.strip_prefix("Insufficient "), ask) {
            (Some(resource), _) => node.lacking(pod).iter().any(|lacking| lacking == resource),
            (None, Some(ask)) => is_true_of(reason, node, ask),
            (None, None) => false,
        });
        assert!(holds, "{name} ({ask:?}): {reason:?} is true of no node; the message: {message}");
    }
}

/// Whether a reason of Packhorse holds for a node, by the checker's account.
fn is_true_of(reason: &str, node: &super::checker::NodeBooks, ask: &Ask) -> bool {
    let devices = || node.devices.values();
    match reason {
        "no GPU matches the pod's constraints" => devices().all(|device| !ask.accepts(&device.model)),
        "fewer GPUs than requested" => node.devices.len() < ask.count,
        "no GPU free for exclusive use" => {
            devices().any(|device| if ask.exclusive { !device.pods.is_empty() } else { !device.exclusive.is_empty() })
        }
        "GPU cores exhausted" => {
            devices().any(|device| device.exclusive.is_empty() && device.used_cores + ask.cores > device.cores)
        }
        "GPU memory exhausted" => devices().any(|device| {
            device.exclusive.is_empty() && device.used_memory + device.memory * ask.percent / 100 > device.memory
        }),
        "GPU slots exhausted" => devices().any(|device| device.used_slots >= device.slots),
        _ => false,
    }
}

/// `0/102 nodes are available: 40 Insufficient cpu, 62 GPU cores exhausted. no new claims …` gives the two reasons.
fn reasons(message: &str) -> Vec<&str> {
    let (_, list) = message.split_once("available: ").unwrap_or_default();
    let list = list.split(". ").next().unwrap_or_default();
    list.trim_end_matches('.')
        .split(", ")
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once(' ').map_or(part, |(_, reason)| reason))
        .collect()
}

fn memory_of(model: &str) -> u64 {
    match model {
        "P100" => 16276,
        "T4" => 15360,
        "V100M16" => 16384,
        "V100M32" => 32768,
        "A10" => 23028,
        "G2" => 24576,
        "G3" => 40960,
        other => panic!("the trace has a model {other:?} without a stated memory"),
    }
}

fn nodes() -> Vec<GpuNode> {
    let rows = rows("openb_node_list_gpu_node.csv");
    rows.iter()
        .step_by(NODE_STEP)
        .map(|row| {
            let count = row["gpu"].parse().expect("a count");
            let mut node = GpuNode::new(&row["sn"], count, &row["model"], memory_of(&row["model"]));
            node.cpu = row["cpu_milli"].parse().expect("millicores");
            node.memory = row["memory_mib"].parse().expect("MiB");
            node
        })
        .collect()
}

/// The pods, and for those with a GPU what they ask for.
fn trace_pods() -> Vec<(Pod, Option<Ask>)> {
    let rows = rows("openb_pod_list_default.csv");
    rows.iter().step_by(POD_STEP).take(PODS).map(trace_pod).collect()
}

fn trace_pod(row: &BTreeMap<String, String>) -> (Pod, Option<Ask>) {
    let number = |key: &str| row[key].parse::<u64>().unwrap_or_else(|error| panic!("{key} of {row:?}: {error}"));
    let mut limits = json!({"cpu": format!("{}m", row["cpu_milli"]), "memory": format!("{}Mi", row["memory_mib"])});
    let (count, milli) = (number("num_gpu"), number("gpu_milli"));
    let ask = (count > 0).then(|| {
        limits["nvidia.com/gpu"] = json!(count);
        let whole = milli == 1000;
        if !whole {
            limits["nvidia.com/gpumem-percentage"] = json!(milli / 10);
            limits["nvidia.com/gpucores"] = json!(milli / 10);
        }
        let count = usize::try_from(count).expect("a small count");
        let models = row["gpu_spec"].split('|').filter(|model| !model.is_empty()).map(str::to_owned).collect();
        Ask { count, percent: milli / 10, cores: milli / 10, exclusive: whole, models }
    });
    let mut pod = objects::pod(&row["name"], &limits);
    if !row["gpu_spec"].is_empty() {
        let models = row["gpu_spec"].replace('|', ",");
        pod.metadata.annotations = Some([("packhorse.dev/gpu-model".to_owned(), models)].into());
    }
    // A pod without a GPU is none of Packhorse's business; it takes part for the CPU and memory that it uses up.
    if ask.is_none() {
        pod.spec.as_mut().expect("a spec").scheduler_name = Some("packhorse".to_owned());
    }
    (pod, ask)
}

fn rows(file: &str) -> Vec<BTreeMap<String, String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openb").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().expect("a header").split(',').collect();
    lines
        .map(|line| {
            names.iter().zip(line.split(',')).map(|(name, value)| ((*name).to_owned(), value.to_owned())).collect()
        })
        .collect()
}
