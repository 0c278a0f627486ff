//! The blocks of `docs/recipes.md`, applied as they stand; the test does what Kueue, `JobSet`, `KubeRay` and Cluster Autoscaler are documented
//! to do with them, since none of them runs here.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::{apps::v1::Deployment, batch::v1::Job};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::lab::{Lab, on_cluster};
use super::objects::{GpuNode, annotation, node_of, scheduler_of};
use super::{pods, wait};

const A100: &str = "NVIDIA A100-SXM4-80GB";
const INVENTORY: &str = "packhorse.dev/inventory";
const REQUEST: &str = "packhorse.dev/request";

/// The blocks below a headline of the page, by the word after the backticks.
fn blocks(section: &str, language: &str) -> Vec<String> {
    let page = include_str!("../../docs/recipes.md");
    let section = page.split(&format!("\n## {section}\n")).nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let fenced = section.split("\n```").skip(1).step_by(2);
    fenced.filter_map(|block| block.strip_prefix(&format!("{language}\n"))).map(str::to_owned).collect()
}

/// All objects below a headline, by kind.
fn objects(section: &str) -> BTreeMap<String, Value> {
    let documents = blocks(section, "yaml").join("\n---\n");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&documents).expect("YAML");
    objects.into_iter().map(|object| (object["kind"].as_str().expect("a kind").to_owned(), object)).collect()
}

fn typed<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).expect("the object")
}

async fn bound(lab: &Lab, namespace: &str, count: usize) -> Vec<Pod> {
    let bound = pods::all_bound(&lab.client, namespace, count, 30).await;
    assert!(bound.iter().all(|pod| annotation(pod, "packhorse.dev/allocation").is_some()), "{bound:?}");
    pods::checked(&lab.client).await;
    bound
}

fn owner(kind: &str, version: &str, name: &str) -> Value {
    json!([{"apiVersion": version, "kind": kind, "name": name, "uid": "6c1b3e0e-5f3c-4c7e-9b5e-0d4f6a7b8c9d", "controller": true,
        "blockOwnerDeletion": true}])
}

#[test]
fn kueue_suspends_resumes_and_takes_gates_away() {
    on_cluster(async |lab| {
        let of = objects("Kueue");
        let labels = &of["ResourceFlavor"]["spec"]["nodeLabels"];
        let product = labels["nvidia.com/gpu.product"].as_str().expect("a product");
        GpuNode::new("other", 2, "Tesla T4", 15360).create(&lab.client).await;
        GpuNode::new("a100", 2, A100, 81920).label("nvidia.com/gpu.product", product).create(&lab.client).await;
        let namespace = lab.namespace("kueue", json!({})).await;
        let jobs: Api<Job> = Api::namespaced(lab.client.clone(), &namespace);
        jobs.create(&PostParams::default(), &typed(of["Job"].clone())).await.expect("the Job is created");
        wait::throughout("no pod of a suspended Job", 2, async || pods::list(&lab.client, &namespace).await.is_empty())
            .await;

        let patch = async |spec: Value| {
            let patch = Patch::Merge(json!({"spec": spec}));
            jobs.patch("queued", &PatchParams::default(), &patch).await.expect("the Job is changed");
        };
        patch(json!({"template": {"spec": {"nodeSelector": labels}}})).await;
        patch(json!({"suspend": false})).await;
        for pod in bound(lab, &namespace, 2).await {
            assert_eq!(node_of(&pod), Some("a100"));
        }
        patch(json!({"suspend": true})).await;
        let gone = async || {
            pods::list(&lab.client, &namespace).await.iter().all(|pod| pod.metadata.deletion_timestamp.is_some())
        };
        assert!(wait::becomes(20, gone).await, "a suspended Job's pods end");
        // There is no kubelet that would say that they have ended.
        let all = pods::api(&lab.client, &namespace);
        all.delete_collection(&DeleteParams::default().grace_period(0), &Default::default()).await.expect("deleted");
        wait::until("the devices to be free", 20, async || {
            (lab.metric("packhorse_ledger_device_memory_mebibytes", &[]).await == 0.0).then_some(())
        })
        .await;
        patch(json!({"suspend": false})).await;
        bound(lab, &namespace, 2).await;

        let gated: Pod = typed(of["Pod"].clone());
        let gated = pods::create(&lab.client, &namespace, &gated).await;
        assert_eq!(scheduler_of(&gated), "packhorse");
        assert!(annotation(&gated, REQUEST).is_some_and(|request| request.contains(r#""cores":50"#)));
        let booked = lab.metric("packhorse_ledger_device_cores_percent", &[]).await;
        let waits = async || {
            let pod = all.get("gated").await.expect("the pod");
            node_of(&pod).is_none() && lab.metric("packhorse_ledger_device_cores_percent", &[]).await == booked
        };
        wait::throughout("a gated pod waits and books nothing", 2, waits).await;
        let freed = json!({"spec": {"schedulingGates": null, "nodeSelector": labels}});
        all.patch("gated", &PatchParams::default(), &Patch::Merge(freed)).await.expect("the gate goes");
        bound(lab, &namespace, 3).await;
    });
}

#[test]
fn the_jobs_of_a_job_set_are_placed() {
    on_cluster(async |lab| {
        GpuNode::new("cards", 4, A100, 81920).create(&lab.client).await;
        let set = &objects("JobSet")["JobSet"];
        let name = set["metadata"]["name"].as_str().expect("a name");
        let namespace = lab.namespace("jobset", json!({})).await;
        let jobs: Api<Job> = Api::namespaced(lab.client.clone(), &namespace);
        let mut expected = 0;
        for replicated in set["spec"]["replicatedJobs"].as_array().expect("Jobs") {
            let group = replicated["name"].as_str().expect("a name");
            for index in 0..replicated["replicas"].as_u64().expect("a number") {
                let mut spec = replicated["template"]["spec"].clone();
                expected += spec["parallelism"].as_u64().expect("a number");
                let labels = json!({"jobset.sigs.k8s.io/jobset-name": name, "jobset.sigs.k8s.io/replicatedjob-name": group,
                    "jobset.sigs.k8s.io/job-index": index.to_string()});
                spec["template"]["metadata"] = json!({"labels": labels, "annotations": labels});
                spec["template"]["spec"]["subdomain"] = json!(name);
                let job = json!({"metadata": {"name": format!("{name}-{group}-{index}"), "labels": labels,
                    "ownerReferences": owner("JobSet", "jobset.x-k8s.io/v1alpha2", name)}, "spec": spec});
                jobs.create(&PostParams::default(), &typed(job)).await.expect("a Job is created");
            }
        }
        let bound = bound(lab, &namespace, usize::try_from(expected).expect("few")).await;
        // Whole cards: none is given twice.
        let devices: BTreeSet<&str> =
            bound.iter().filter_map(|pod| annotation(pod, "devices.packhorse.dev/worker")).collect();
        assert_eq!(devices.len(), bound.len());
    });
}

#[test]
fn heads_and_workers_of_a_ray_cluster_are_placed() {
    on_cluster(async |lab| {
        GpuNode::new("cards", 1, A100, 81920).create(&lab.client).await;
        let cluster = &objects("KubeRay")["RayCluster"];
        let namespace = lab.namespace("ray", json!({})).await;
        let pod = |kind: &str, group: &str, index: u64, template: &Value| -> Pod {
            let mut spec = template["spec"].clone();
            let image = spec["containers"][0]["image"].clone();
            if kind == "worker" {
                spec["initContainers"] = json!([{"name": "wait-gcs-ready", "image": image, "command": ["bash", "-c", "ray health-check"],
                    "env": [{"name": "RAY_ADDRESS", "value": "ray-head-svc:6379"}], "resources": {"limits": {"cpu": "200m"}}}]);
            }
            typed(json!({"metadata": {"name": format!("ray-{group}-{kind}-{index}"),
                "labels": {"ray.io/cluster": "ray", "ray.io/node-type": kind, "ray.io/group": group, "ray.io/is-ray-node": "yes"},
                "ownerReferences": owner("RayCluster", "ray.io/v1", "ray")}, "spec": spec}))
        };
        let spec = &cluster["spec"];
        let head =
            pods::create(&lab.client, &namespace, &pod("head", "headgroup", 0, &spec["headGroupSpec"]["template"]))
                .await;
        assert_eq!((scheduler_of(&head), annotation(&head, REQUEST)), ("default-scheduler", None));
        let mut workers = 0;
        for group in spec["workerGroupSpecs"].as_array().expect("groups") {
            for index in 0..group["replicas"].as_u64().expect("a number") {
                let name = group["groupName"].as_str().expect("a name");
                let worker =
                    pods::create(&lab.client, &namespace, &pod("worker", name, index, &group["template"])).await;
                // What Ray reads its number of GPUs from.
                let limits = worker.spec.expect("a spec").containers[0].resources.clone().and_then(|r| r.limits);
                assert_eq!(limits.expect("limits")["nvidia.com/gpu"].0, "1");
                workers += 1;
            }
        }
        // They share the card.
        bound(lab, &namespace, workers).await;
        assert!(workers > 1);
    });
}

#[test]
fn a_group_of_nodes_scales_up_from_zero() {
    on_cluster(async |lab| {
        let grown = GpuNode::new("grown", 4, "NVIDIA A100-SXM4-40GB", 40960).taint("nvidia.com/gpu", "NoSchedule");
        let mut node = grown.object();
        // The template has what the node will have.
        let tags = blocks("Cluster Autoscaler", "").join("\n");
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.clone()).expect("amounts");
        let mut seen = 0;
        for line in tags.lines() {
            let (tag, value) = line.rsplit_once(": ").expect("a tag");
            let value = value.trim_matches('"');
            if let Some(resource) = tag.split("/node-template/resources/").nth(1) {
                assert_eq!(allocatable[resource].0, value, "{resource}");
                seen += 1;
            } else {
                assert!(tag.ends_with("/node-template/taint/nvidia.com/gpu"), "{tag}");
                assert!(value.ends_with(":NoSchedule"), "{value}");
            }
        }
        assert_eq!(seen, 3);
        let namespace = lab.namespace("autoscaler", json!({})).await;
        let pod = super::objects::pod("first", &json!({"nvidia.com/gpu": 2, "nvidia.com/gpumem": "30Gi"}));
        pods::create(&lab.client, &namespace, &pod).await;
        // The node comes without its agent.
        let inventory = node.metadata.annotations.as_mut().and_then(|all| all.remove(INVENTORY)).expect("an inventory");
        let nodes: Api<Node> = Api::all(lab.client.clone());
        nodes.create(&PostParams::default(), &node).await.expect("the node is created");
        let pods = pods::api(&lab.client, &namespace);
        wait::until("the reason why it waits", 30, async || {
            let conditions = pods.get("first").await.ok()?.status?.conditions?;
            let said = conditions.into_iter().find(|condition| condition.type_ == "PodScheduled")?.message?;
            said.contains("no GPU inventory published").then_some(())
        })
        .await;
        let agent = Patch::Merge(json!({"metadata": {"annotations": {INVENTORY: inventory}}}));
        nodes.patch("grown", &PatchParams::default(), &agent).await.expect("the inventory is published");
        bound(lab, &namespace, 1).await;
    });
}

#[test]
fn four_time_slices_share_a_card_and_a_fifth_waits() {
    on_cluster(async |lab| {
        GpuNode::new("card", 1, A100, 81920).create(&lab.client).await;
        let of = objects("From time slices");
        let name = of["Namespace"]["metadata"]["name"].as_str().expect("a name");
        let namespaces: Api<Namespace> = Api::all(lab.client.clone());
        namespaces.create(&PostParams::default(), &typed(of["Namespace"].clone())).await.expect("the namespace");
        let deployments: Api<Deployment> = Api::namespaced(lab.client.clone(), name);
        // Its label has to be known before its pods come.
        let probe = super::objects::pod("probe", &json!({"nvidia.com/gpu": 1}));
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        wait::until("the namespace's label to count", 20, async || {
            let pod = pods::api(&lab.client, name).create(&dry, &probe).await.ok()?;
            annotation(&pod, REQUEST)?.contains(r#""memoryPercent":25"#).then_some(())
        })
        .await;
        deployments.create(&PostParams::default(), &typed(of["Deployment"].clone())).await.expect("the Deployment");
        for pod in bound(lab, name, 4).await {
            let allocation = annotation(&pod, "packhorse.dev/allocation").expect("an allocation");
            assert!(allocation.contains("20480"), "a quarter of 80 GiB: {allocation}");
        }
        let scale = Patch::Merge(json!({"spec": {"replicas": 5}}));
        deployments.patch("notebooks", &PatchParams::default(), &scale).await.expect("a fifth");
        wait::until("the fifth pod to wait", 30, async || {
            let pods = pods::list(&lab.client, name).await;
            let waiting = pods.iter().filter(|pod| node_of(pod).is_none()).find_map(|pod| {
                let conditions = pod.status.as_ref()?.conditions.as_ref()?;
                conditions.iter().find(|condition| condition.type_ == "PodScheduled")?.message.clone()
            })?;
            (pods.len() == 5 && waiting.contains("GPU memory exhausted")).then_some(())
        })
        .await;
        namespaces.delete(name, &DeleteParams::default()).await.expect("the namespace goes");
    });
}
