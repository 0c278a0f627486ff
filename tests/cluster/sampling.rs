//! A cluster larger than kube-scheduler's sample.

use serde_json::json;

use super::lab::on_cluster;
use super::objects::{self, GpuNode, node_of};
use super::{kubelab, pods};

/// kube-scheduler stops at 420 fitting nodes of 1,000, and the one node that has an H100 looks to it like all others. Where its
/// turn begins changes from pod to pod, hence several pods, of which at least one must have needed the nomination.
#[test]
fn a_pod_that_fits_one_node_of_a_thousand_is_bound_within_two_seconds() {
    on_cluster(async |lab| {
        let mut nodes: Vec<GpuNode> =
            (0..999).map(|n| GpuNode::new(&format!("node-{n:03}"), 1, "NVIDIA A100-SXM4-40GB", 40960)).collect();
        nodes.push(GpuNode::new("rare", 1, "NVIDIA H100 NVL", 40960));
        pods::create_nodes(&lab.client, &nodes).await;
        lab.wait_for_ledger(1000).await;
        let namespace = lab.namespace("sampling", json!({})).await;
        let mut nominated = 0;
        for turn in 0..8 {
            let name = format!("picky-{turn}");
            let mut pod = objects::pod(&name, &json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 1024}));
            pod.metadata.annotations = Some([("packhorse.dev/gpu-model".to_owned(), "H100".to_owned())].into());
            let started = std::time::Instant::now();
            pods::create(&lab.client, &namespace, &pod).await;
            let bound = pods::bound(&lab.client, &namespace, &name, 20).await;
            let seconds = started.elapsed().as_secs_f64();
            assert_eq!(node_of(&bound), Some("rare"));
            let writes = lab.audit.writes(|write| write.by_packhorse() && write.name == name);
            let resources: Vec<&str> = writes.iter().map(|write| write.resource.as_str()).collect();
            kubelab::say(&format!("sampling: {name} bound after {seconds:.2} s, writes: {resources:?}"));
            match resources.as_slice() {
                ["pods/binding"] => {}
                ["pods/status", "pods/binding"] => nominated += 1,
                other => panic!("one write, or two with a nomination: {other:?}"),
            }
            assert!(seconds < 2.0, "{name} took {seconds:.2} s");
        }
        assert!(nominated > 0, "in eight turns the node was never outside the sample: this shows nothing");
    });
}
