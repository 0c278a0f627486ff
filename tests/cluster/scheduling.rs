//! From admission to the node: pods, Deployments and Jobs, MIG instances, and what Kubernetes' own arithmetic makes of the totals.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::lab::{Lab, on_cluster};
use super::objects::{self, GpuNode, annotation, node_of};
use super::{pods, wait};

const A100: &str = "NVIDIA A100-SXM4-80GB";

fn share() -> Value {
    json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 4096, "nvidia.com/gpucores": 30})
}

#[test]
fn binds_a_pod_a_deployment_and_a_job_with_one_write_each() {
    on_cluster(async |lab| {
        GpuNode::new("one", 2, A100, 81920).create(&lab.client).await;
        GpuNode::new("two", 2, A100, 81920).create(&lab.client).await;
        let namespace = lab.namespace("kinds", json!({})).await;
        let versions = pods::Versions::watch(&lab.client, &namespace).await;

        let bare = pods::create(&lab.client, &namespace, &objects::pod("bare", &share())).await;
        assert_admitted(&bare);
        let deployments: Api<Deployment> = Api::namespaced(lab.client.clone(), &namespace);
        let deployment = objects::deployment("many", 3, &objects::pod_spec(&share()));
        deployments.create(&PostParams::default(), &deployment).await.expect("a Deployment");
        let jobs: Api<Job> = Api::namespaced(lab.client.clone(), &namespace);
        let job = job("batch", 2);
        jobs.create(&PostParams::default(), &job).await.expect("a Job");

        let bound = pods::all_bound(&lab.client, &namespace, 6, 30).await;
        pods::checked(&lab.client).await;
        for pod in &bound {
            let name = pod.metadata.name.as_deref().expect("a name");
            assert_admitted(pod);
            assert_first_bound_version_carries_its_allocation(&versions.of(name));
        }
        let writes = lab.audit.writes(|write| write.by_packhorse() && write.namespace == namespace);
        let mut written: Vec<&str> = writes.iter().map(|write| write.name.as_str()).collect();
        written.sort_unstable();
        let mut names: Vec<&str> = bound.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
        names.sort_unstable();
        assert_eq!(written, names, "exactly one write by Packhorse per pod: {writes:#?}");
        for write in &writes {
            assert_eq!((&*write.verb, &*write.resource, write.status), ("create", "pods/binding", 201), "{write:?}");
        }

        for pod in bound.iter().filter_map(|pod| pod.metadata.name.as_deref()).filter(|name| name.starts_with("batch-"))
        {
            pods::finish(&lab.client, &namespace, pod, "Succeeded").await;
        }
        wait::until("the Job to be complete", 30, async || jobs.get("batch").await.ok()?.status?.completion_time).await;
    });
}

/// What the webhook has to have made of a container that asks for a share.
fn assert_admitted(pod: &Pod) {
    assert_eq!(objects::scheduler_of(pod), "packhorse");
    let spec = serde_json::to_value(pod.spec.as_ref().expect("a spec")).expect("JSON");
    let limits = &spec["containers"][0]["resources"]["limits"];
    let expected = json!({"nvidia.com/gpu": "1", "packhorse.dev/gpu-memory": "4096", "packhorse.dev/gpu-cores": "30"});
    assert_eq!(limits, &expected, "per-GPU names are gone, totals are there");
    let env = &spec["containers"][0]["env"][0];
    assert_eq!(env["name"], "NVIDIA_VISIBLE_DEVICES");
    assert_eq!(env["valueFrom"]["fieldRef"]["fieldPath"], "metadata.annotations['devices.packhorse.dev/main']");
    let tolerated = spec["tolerations"].as_array().expect("tolerations");
    assert!(tolerated.iter().any(|toleration| toleration["key"] == "nvidia.com/gpu"), "{tolerated:?}");
    let request: Value =
        serde_json::from_str(annotation(pod, "packhorse.dev/request").expect("a request")).expect("JSON");
    assert_eq!(request, json!({"v": 1, "containers": {"main": {"count": 1, "memory": 4096, "cores": 30}}}));
}

/// The kubelet acts on the first version with its name in it.
fn assert_first_bound_version_carries_its_allocation(versions: &[Pod]) {
    let first = versions.iter().find(|pod| node_of(pod).is_some()).expect("a bound version was watched");
    let allocation = annotation(first, "packhorse.dev/allocation").expect("an allocation in the first bound version");
    let allocation: Value = serde_json::from_str(allocation).expect("JSON");
    let entry = &allocation["containers"]["main"][0];
    assert_eq!(allocation["v"], 1);
    assert_eq!((&entry["memory"], &entry["cores"]), (&json!(4096), &json!(30)), "{allocation}");
    let device = annotation(first, "devices.packhorse.dev/main").expect("its devices in the first bound version");
    assert_eq!(entry["device"], device);
    assert!(device.starts_with(&format!("GPU-{}-", node_of(first).expect("a node"))), "{device} is not of its node");
}

fn job(name: &str, completions: u32) -> Job {
    let mut spec = objects::pod_spec(&share());
    spec["restartPolicy"] = json!("Never");
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"completions": completions, "parallelism": completions, "template": {"spec": spec}},
    }))
    .expect("a Job")
}

#[test]
fn a_mig_instance_alone_goes_through_packhorse() {
    on_cluster(async |lab| {
        let mut node = GpuNode::new("sliced", 0, A100, 0);
        node.devices =
            (0..2).map(|n| objects::mig_instance(&format!("MIG-{n}"), "GPU-sliced", "1g.10gb", 9728, n)).collect();
        node.create(&lab.client).await;
        let namespace = lab.namespace("mig", json!({})).await;
        for name in ["first", "second", "third"] {
            pods::create(&lab.client, &namespace, &objects::pod(name, &json!({"nvidia.com/mig-1g.10gb": 1}))).await;
        }
        let bound = pods::all_bound(&lab.client, &namespace, 2, 30).await;
        let mut devices: Vec<_> = bound.iter().map(|pod| annotation(pod, "devices.packhorse.dev/main")).collect();
        devices.sort_unstable();
        assert_eq!(devices, [Some("MIG-0"), Some("MIG-1")]);
        pods::checked(&lab.client).await;
    });
}

#[test]
fn describe_node_shows_the_totals_in_use() {
    on_cluster(async |lab| {
        GpuNode::new("described", 2, A100, 81920).create(&lab.client).await;
        let namespace = lab.namespace("describe", json!({})).await;
        for name in ["a", "b"] {
            pods::create(&lab.client, &namespace, &objects::pod(name, &share())).await;
        }
        pods::all_bound(&lab.client, &namespace, 2, 30).await;
        let described = lab.kubectl(&["describe", "node", "described"]);
        let (_, in_use) = described.split_once("Allocated resources:").expect("a section on allocated resources");
        for (resource, amount) in [("packhorse.dev/gpu-memory", "8192"), ("packhorse.dev/gpu-cores", "60")] {
            let line = in_use.lines().find(|line| line.contains(resource)).expect("the total is listed");
            assert_eq!(line.split_whitespace().collect::<Vec<_>>(), [resource, amount, amount]);
        }
    });
}

#[test]
fn a_quota_on_gpu_memory_refuses_the_pod_that_exceeds_it() {
    on_cluster(async |lab| {
        GpuNode::new("roomy", 1, A100, 81920).create(&lab.client).await;
        let namespace = lab.namespace("quota", json!({})).await;
        let quotas: Api<ResourceQuota> = Api::namespaced(lab.client.clone(), &namespace);
        let quota =
            json!({"metadata": {"name": "gpu"}, "spec": {"hard": {"requests.packhorse.dev/gpu-memory": "8192"}}});
        let quota = serde_json::from_value(quota).expect("a ResourceQuota");
        quotas.create(&PostParams::default(), &quota).await.expect("a quota");
        wait::until("the quota to be counted", 30, async || quotas.get("gpu").await.ok()?.status?.used).await;
        for name in ["a", "b"] {
            pods::create(&lab.client, &namespace, &objects::pod(name, &share())).await;
        }
        let api = pods::api(&lab.client, &namespace);
        let third = api.create(&PostParams::default(), &objects::pod("c", &share())).await;
        let refusal = third.expect_err("the third pod exceeds the quota").to_string();
        assert!(
            refusal.contains("exceeded quota: gpu") && refusal.contains("requests.packhorse.dev/gpu-memory=4096"),
            "{refusal}"
        );
        pods::all_bound(&lab.client, &namespace, 2, 30).await;
    });
}

#[test]
fn a_higher_priority_pod_preempts_when_the_total_of_gpu_memory_is_short() {
    on_cluster(async |lab| {
        GpuNode::new("contested", 1, "NVIDIA T4", 16384).create(&lab.client).await;
        let namespace = lab.namespace("preemption", json!({})).await;
        priority_class(lab, "packhorse-test-high", 1000).await;
        let quarter = json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 4096, "nvidia.com/gpucores": 10});
        for name in ["low-1", "low-2", "low-3", "low-4"] {
            pods::create(&lab.client, &namespace, &objects::pod(name, &quarter)).await;
        }
        pods::all_bound(&lab.client, &namespace, 4, 30).await;
        let mut high = objects::pod("high", &json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 8192}));
        high.spec.as_mut().expect("a spec").priority_class_name = Some("packhorse-test-high".to_owned());
        pods::create(&lab.client, &namespace, &high).await;
        pods::bound(&lab.client, &namespace, "high", 30).await;
        let left = pods::list(&lab.client, &namespace).await;
        let version = lab.client.apiserver_version().await.expect("a version");
        // kube-scheduler 1.34 deletes victims one by one beside its queue, and tries again after the first deletion: it then finds too
        // little room and chooses another victim, without having asked us. So there nothing is said of how many are left.
        if !version.minor.starts_with("34") {
            assert_eq!(left.len(), 3, "two of the four make way, no more");
        }
        pods::checked(&lab.client).await;
    });
}

async fn priority_class(lab: &Lab, name: &str, value: i32) {
    let classes: Api<PriorityClass> = Api::all(lab.client.clone());
    let class = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
    });
    let params = PatchParams::apply("lab");
    classes.patch(name, &params, &Patch::Apply(&class)).await.expect("a PriorityClass");
}
