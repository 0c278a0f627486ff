//! The examples in `deployments/examples`, applied as they are: each of their pods is admitted, placed and given its devices.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;

use super::lab::on_cluster;
use super::objects::{self, GpuNode, annotation};
use super::{pods, wait};

/// The namespace of the example whose counts mean quarters.
const QUARTERS: &str = "quarter-cards";

#[test]
fn every_example_is_admitted_and_placed() {
    on_cluster(async |lab| {
        GpuNode::new("cards", 4, "NVIDIA A100-SXM4-80GB", 81920).create(&lab.client).await;
        let mut sliced = GpuNode::new("sliced", 0, "", 0);
        sliced.devices = vec![objects::mig_instance("MIG-0", "GPU-sliced", "1g.10gb", 9728, 0)];
        sliced.create(&lab.client).await;
        let namespace = lab.namespace("examples", json!({})).await;
        let namespaces: Api<Namespace> = Api::all(lab.client.clone());
        let quarters = serde_json::from_value(json!({"metadata": {"name": QUARTERS}})).expect("a Namespace");
        namespaces.create(&PostParams::default(), &quarters).await.expect("a namespace is created");
        let accounts: Api<ServiceAccount> = Api::namespaced(lab.client.clone(), QUARTERS);
        wait::until("the default ServiceAccount", 20, async || accounts.get("default").await.ok()).await;

        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/deployments/examples");
        lab.kubectl(&["apply", "--validate=strict", "-f", &format!("{folder}/quota.yaml"), "-n", &namespace]);
        for entry in std::fs::read_dir(folder).expect("examples") {
            let path = entry.expect("a file").path();
            let path = path.to_str().expect("text");
            if path.ends_with("time-slices.yaml") {
                // Its label has to be known before its pod comes.
                lab.kubectl(&["label", "namespace", QUARTERS, "packhorse.dev/count-alone=share-25"]);
                lab.kubectl(&["apply", "--validate=strict", "-f", path]);
            } else {
                lab.kubectl(&["apply", "--validate=strict", "-n", &namespace, "-f", path]);
            }
        }

        // Three replicas, a Job, a notebook, an instance.
        let bound = pods::all_bound(&lab.client, &namespace, 6, 30).await;
        for pod in &bound {
            assert!(annotation(pod, "packhorse.dev/allocation").is_some(), "{pod:?}");
        }
        let slice = pods::bound(&lab.client, QUARTERS, "slice", 30).await;
        let allocation = annotation(&slice, "packhorse.dev/allocation").expect("an allocation");
        assert!(allocation.contains("20480"), "a quarter of 80 GiB: {allocation}");
        pods::checked(&lab.client).await;

        let used = lab.kubectl(&["get", "resourcequota", "gpus", "-n", &namespace, "-o", "jsonpath={.status.used}"]);
        assert!(used.contains(r#""requests.packhorse.dev/gpu-cores":"260""#), "3 x 20 % and two whole cards: {used}");
        namespaces.delete(QUARTERS, &DeleteParams::default()).await.expect("the namespace goes");
    });
}
