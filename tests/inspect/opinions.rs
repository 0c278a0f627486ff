//! There is one opinion of whether a node's devices suffice: what is told here of a node is what the extender's filter says of it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use packhorse::extender::{Extender, Metrics, Parts, Settings};
use packhorse::inspect::why::{Why, answers};
use packhorse::inspect::{Builder, change};
use packhorse::kube_api::node::NodeView;
use packhorse::kube_api::pod::PodView;
use packhorse::ledger::Ledger;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::{allocation, device, node, share};

/// Numbers by seed.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A few nodes in every condition, pods on them and nominated to them, and one that waits.
fn cluster(random: &mut Random) -> (Vec<Value>, Vec<Value>) {
    let (mut nodes, mut pods) = (Vec::new(), Vec::new());
    for at in 0..4 {
        let name = format!("n{at}");
        let mut devices: Vec<Value> = (0..random.below(4) as usize)
            .map(|index| device(&format!("GPU-{at}-{index}"), index, 8_000 * (1 + random.below(3) as u32)))
            .collect();
        let uuids: Vec<String> = devices.iter().map(|one| one["uuid"].as_str().unwrap().to_owned()).collect();
        for one in &mut devices {
            if random.one_in(6) {
                one["health"] = "unhealthy".into();
            }
            if random.one_in(4) {
                one["model"] = "NVIDIA H100".into();
            }
        }
        let mut object = node(&name, &devices);
        let annotations = &mut object["metadata"]["annotations"];
        if random.one_in(8) {
            annotations["packhorse.dev/inventory"] = "{".into();
        }
        if let Some(uuid) = uuids.first().filter(|_| random.one_in(3)) {
            annotations["packhorse.dev/cordon"] = uuid.as_str().into();
        }
        for uuid in &uuids {
            for holder in 0..random.below(3) {
                let memory = 1_000 + random.below(8_000) as u32;
                let mut pod = share(&format!("h-{uuid}-{holder}"), memory);
                pod["metadata"]["annotations"]["packhorse.dev/allocation"] = allocation(uuid, memory).into();
                pod["spec"]["nodeName"] = name.as_str().into();
                pods.push(pod);
            }
        }
        if random.one_in(3) {
            let mut pod = share(&format!("nominated-{at}"), 1_000 + random.below(8_000) as u32);
            pod["spec"]["priority"] = json!(10);
            pod["status"] = json!({"nominatedNodeName": name});
            pods.push(pod);
        }
        nodes.push(object);
    }
    let mut waits = share("waits", 1_000 + random.below(20_000) as u32);
    if random.one_in(3) {
        let request = json!({"v": 1, "containers": {"main": {"count": 1 + random.below(3), "exclusive": true}}});
        waits["metadata"]["annotations"]["packhorse.dev/request"] = request.to_string().into();
        let count = &request["containers"]["main"]["count"];
        waits["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = count.to_string().into();
        waits["spec"]["containers"][0]["resources"]["requests"]["nvidia.com/gpu"] = count.to_string().into();
    }
    if random.one_in(4) {
        waits["metadata"]["annotations"]["packhorse.dev/gpu-model"] = "H100".into();
    }
    pods.push(waits);
    for pod in &mut pods {
        let name = pod["metadata"]["name"].clone();
        pod["metadata"]["uid"] = name;
    }
    (nodes, pods)
}

/// What the filter says of each node: nothing where the pod fits.
fn filtered(nodes: &[Value], pods: &[Value]) -> Vec<Option<String>> {
    let ledger = Arc::new(Ledger::default());
    let texts: Vec<String> = nodes.iter().map(Value::to_string).collect();
    let views: Vec<NodeView<'_>> = texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    ledger.replace_nodes(&views);
    let texts: Vec<String> = pods.iter().map(Value::to_string).collect();
    let views: Vec<PodView<'_>> = texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    ledger.replace_pods(&views);
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let client = kube::Client::try_from(config).unwrap();
    let mut parts = Parts::new(ledger, client, Metrics::new(&mut Registry::default()));
    parts.settings = Arc::new(ArcSwap::from_pointee(Settings { holds: false, ..Settings::default() }));
    let extender = Extender::new(parts);
    let waits = pods.last().unwrap();
    let one = |node: &Value| {
        let name = node["metadata"]["name"].as_str().unwrap();
        let asked = json!({"Pod": waits, "Nodes": null, "NodeNames": [name]}).to_string();
        let answer: Value = serde_json::from_slice(&extender.filter(asked.as_bytes()).unwrap()).unwrap();
        assert_eq!(answer["Error"].as_str().unwrap_or_default(), "", "{answer}");
        let maps = [&answer["FailedNodes"], &answer["FailedAndUnresolvableNodes"]];
        let reason = maps.iter().find_map(|map| map.get(name)).map(|reason| reason.as_str().unwrap().to_owned());
        assert_eq!(reason.is_none(), answer["NodeNames"] == json!([name]), "{answer}");
        reason
    };
    nodes.iter().map(one).collect()
}

#[tokio::test]
async fn the_verdict_on_every_node_is_the_extenders() {
    let (mut reasons, mut fits, mut helped) = (std::collections::BTreeSet::new(), 0, 0);
    for seed in 0..300 {
        let (nodes, pods) = cluster(&mut Random(seed));
        let expected = filtered(&nodes, &pods);
        let mut builder = Builder::new("nvidia.com");
        nodes.iter().for_each(|node| builder.node(&node.to_string()));
        pods.iter().for_each(|pod| builder.pod(&pod.to_string()));
        let cluster = builder.finish();
        let (pod, waiting) = cluster.waiting().find(|(pod, _)| &*pod.name == "waits").expect("it waits");
        let found = answers(&cluster, pod, waiting);
        for (node, expected) in nodes.iter().zip(&expected) {
            let answer = found.iter().find(|answer| answer.node == node["metadata"]["name"]).unwrap();
            let told = answer.whys.iter().find(|why| matches!(why, Why::Gpu(_))).map(ToString::to_string);
            assert_eq!(&told, expected, "seed {seed}, node {}", answer.node);
        }
        fits += expected.iter().filter(|reason| reason.is_none()).count();
        helped += usize::from(!change::smallest(&cluster, pod, waiting).is_empty());
        reasons.extend(expected.into_iter().flatten());
    }
    assert!(fits > 50 && reasons.len() >= 8 && helped > 20, "{fits} fits, {helped} helped, reasons {reasons:?}");
}
