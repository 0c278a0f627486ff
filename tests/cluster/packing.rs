//! Where pods go when they may go anywhere, and what outranks that.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use super::lab::{Lab, on_cluster};
use super::objects::{self, GpuNode, node_of};
use super::{http, kubelab, pods, wait};

const CARD: &str = "NVIDIA A100-PCIE-40GB";

/// A tenth of a card's memory, cores and slots.
fn tenth() -> Value {
    json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 4096, "nvidia.com/gpucores": 10})
}

async fn nodes(lab: &Lab, count: usize, cards: usize) {
    let nodes: Vec<GpuNode> = (0..count).map(|n| GpuNode::new(&format!("node-{n:02}"), cards, CARD, 40960)).collect();
    pods::create_nodes(&lab.client, &nodes).await;
    lab.wait_for_ledger(count).await;
}

#[test]
fn twenty_small_pods_without_preferences_fill_the_fewest_nodes() {
    on_cluster(async |lab| {
        nodes(lab, 5, 1).await;
        let namespace = lab.namespace("packing", json!({})).await;
        let deployments: Api<Deployment> = Api::namespaced(lab.client.clone(), &namespace);
        let deployment = objects::deployment("small", 20, &objects::pod_spec(&tenth()));
        deployments.create(&PostParams::default(), &deployment).await.expect("a Deployment");
        let bound = pods::all_bound(&lab.client, &namespace, 20, 60).await;
        let used: BTreeSet<_> = bound.iter().map(node_of).collect();
        assert_eq!(used.len(), 2, "ten fit on a card: {used:?}");
        pods::checked(&lab.client).await;
    });
}

/// `packed` has a pod already, so packing alone would choose it. Each preference speaks for `other`.
#[test]
fn a_stated_preference_outranks_packing() {
    on_cluster(async |lab| {
        GpuNode::new("packed", 1, CARD, 40960).label("zone", "a").create(&lab.client).await;
        GpuNode::new("other", 1, CARD, 40960).label("zone", "b").create(&lab.client).await;
        let namespace = lab.namespace("preference", json!({})).await;
        let mut first = objects::pod("first", &tenth());
        objects::pin(&mut first, "packed");
        pods::create(&lab.client, &namespace, &first).await;
        // Something on the other node to be near to, without a GPU.
        let mut neighbour = objects::pod("neighbour", &json!({"cpu": "1"}));
        neighbour.metadata.labels = Some([("app".to_owned(), "cache".to_owned())].into());
        neighbour.spec.as_mut().expect("a spec").scheduler_name = Some("packhorse".to_owned());
        objects::pin(&mut neighbour, "other");
        pods::create(&lab.client, &namespace, &neighbour).await;
        pods::all_bound(&lab.client, &namespace, 2, 30).await;

        let in_zone_b = json!([{"weight": 50, "preference": {
            "matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}}]);
        let near_cache = json!([{"weight": 50, "podAffinityTerm": {
            "labelSelector": {"matchLabels": {"app": "cache"}}, "topologyKey": "kubernetes.io/hostname"}}]);
        let cases = [
            ("control", json!({}), "packed"),
            (
                "node-affinity",
                json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": in_zone_b}}}),
                "other",
            ),
            (
                "pod-affinity",
                json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": near_cache}}}),
                "other",
            ),
        ];
        for (name, preference, expected) in cases {
            // In turn, and away again: each meets the same cluster.
            let node = place(lab, &namespace, name, &preference).await;
            assert_eq!(node, expected, "{name}");
        }
    });
}

#[test]
fn a_soft_topology_spread_outranks_packing() {
    on_cluster(async |lab| {
        nodes(lab, 4, 1).await;
        let namespace = lab.namespace("spread", json!({})).await;
        let mut spec = objects::pod_spec(&tenth());
        spec["topologySpreadConstraints"] = json!([{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app": "wide"}},
        }]);
        let deployments: Api<Deployment> = Api::namespaced(lab.client.clone(), &namespace);
        let deployment = objects::deployment("wide", 8, &spec);
        deployments.create(&PostParams::default(), &deployment).await.expect("a Deployment");
        let bound = pods::all_bound(&lab.client, &namespace, 8, 60).await;
        let mut per_node: BTreeMap<_, usize> = BTreeMap::new();
        for pod in &bound {
            *per_node.entry(node_of(pod)).or_default() += 1;
        }
        assert_eq!(per_node.values().copied().collect::<Vec<_>>(), [2, 2, 2, 2], "{per_node:?}");
    });
}

#[test]
fn a_prefer_no_schedule_taint_outranks_packing() {
    on_cluster(async |lab| {
        GpuNode::new("tainted", 1, CARD, 40960).taint("maintenance", "PreferNoSchedule").create(&lab.client).await;
        GpuNode::new("clean", 1, CARD, 40960).create(&lab.client).await;
        let namespace = lab.namespace("taint", json!({})).await;
        let mut first = objects::pod("first", &tenth());
        objects::pin(&mut first, "tainted");
        pods::create(&lab.client, &namespace, &first).await;
        pods::bound(&lab.client, &namespace, "first", 30).await;
        assert_eq!(place(lab, &namespace, "second", &json!({})).await, "clean");
        let tolerant = json!({"tolerations": [{"key": "maintenance", "operator": "Exists"}]});
        assert_eq!(
            place(lab, &namespace, "tolerant", &tolerant).await,
            "tainted",
            "control: packing itself prefers it"
        );
    });
}

/// Filter calls come while the bind of an earlier pod is still on its way: holds steer them apart, and what collides all the
/// same is put right by kube-scheduler's next attempt. Only shares that no total tells can collide: others kube-scheduler
/// counts itself.
#[test]
fn a_burst_that_fills_few_nodes_leaves_no_conflict_behind() {
    on_cluster(async |lab| {
        nodes(lab, 64, 1).await;
        let mut told = Vec::new();
        let fifth = json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem-percentage": 20});
        for holds in [true, false] {
            lab.configure_server((!holds).then_some("extender:\n  holds: false\n")).await;
            lab.wait_for_ledger(64).await;
            let before = lab.bind_conflicts().await;
            let namespace = lab.namespace("burst", json!({})).await;
            let burst: Vec<Pod> = (0..300).map(|n| objects::pod(&format!("burst-{n:03}"), &fifth)).collect();
            // All of them wait when it begins: at the rate of their creation they would hardly meet.
            lab.pause_scheduler();
            pods::create_all(&lab.client, &namespace, &burst).await;
            let started = std::time::Instant::now();
            lab.resume_scheduler();
            pods::all_bound(&lab.client, &namespace, 300, 90).await;
            let seconds = started.elapsed().as_secs_f64();
            let books = pods::checked(&lab.client).await;
            let conflicts = lab.bind_conflicts().await - before;
            told.push(format!(
                "holds {}: {conflicts} bind conflicts, {} pods in {seconds:.1} s",
                if holds { "on" } else { "off" },
                books.placed
            ));
            empty(lab, &namespace).await;
        }
        kubelab::say(&format!("burst of 300 onto room for 320: {}", told.join("; ")));
    });
}

#[test]
fn two_hundred_repeats_on_equal_nodes_give_identical_answers() {
    on_cluster(async |lab| {
        nodes(lab, 30, 2).await;
        let namespace = lab.namespace("repeat", json!({})).await;
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let admitted = pods::api(&lab.client, &namespace).create(&dry, &objects::pod("same", &tenth())).await;
        let mut pod = serde_json::to_value(admitted.expect("the pod is admitted")).expect("JSON");
        pod["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000001");
        let names: Vec<String> = (0..30).map(|n| format!("node-{n:02}")).collect();
        let mut answers = BTreeSet::new();
        for _ in 0..200 {
            let body = json!({"Pod": pod, "Nodes": null, "NodeNames": names}).to_string();
            let (status, filtered) = http::post(lab.extender_address(), "/filter", &body).await.expect("an answer");
            assert_eq!(status, 200, "{filtered}");
            let kept: Value = serde_json::from_str(&filtered).expect("JSON");
            let body = json!({"Pod": pod, "Nodes": null, "NodeNames": kept["NodeNames"]}).to_string();
            let (status, scores) = http::post(lab.extender_address(), "/prioritize", &body).await.expect("an answer");
            assert_eq!(status, 200, "{scores}");
            let best = serde_json::from_str::<Vec<Value>>(&scores).expect("a list");
            assert_eq!(best.iter().filter(|score| score["Score"] == 10).count(), 1, "one best: {scores}");
            answers.insert((filtered, scores));
        }
        assert_eq!(answers.len(), 1, "{answers:#?}");
    });
}

/// Creates a pod with these additions to its specification, and removes it again; where it was bound.
async fn place(lab: &Lab, namespace: &str, name: &str, addition: &Value) -> String {
    let mut spec = objects::pod_spec(&tenth());
    for (key, value) in addition.as_object().expect("an object") {
        spec[key] = value.clone();
    }
    let pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("a Pod");
    pods::create(&lab.client, namespace, &pod).await;
    let bound = pods::bound(&lab.client, namespace, name, 30).await;
    let node = node_of(&bound).expect("a node").to_owned();
    let api = pods::api(&lab.client, namespace);
    api.delete(name, &Default::default()).await.expect("the pod is deleted");
    wait::until(&format!("{name} to be gone"), 20, async || api.get(name).await.is_err().then_some(())).await;
    node
}

async fn empty(lab: &Lab, namespace: &str) {
    let api = pods::api(&lab.client, namespace);
    api.delete_collection(&Default::default(), &Default::default()).await.expect("pods are deleted");
    wait::until("the pods to be gone", 60, async || pods::list(&lab.client, namespace).await.is_empty().then_some(()))
        .await;
}
