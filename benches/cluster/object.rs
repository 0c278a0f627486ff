//! The made-up cluster's objects, as the API server and kube-scheduler write them.

#![allow(missing_docs, dead_code, unreachable_pub, clippy::expect_used, reason = "each benchmark uses some of it")]

use serde_json::{Value, json};

use super::shape::{CARD, Shape};

/// Cards of each node.
pub const CARDS: usize = 8;

/// UUID of a card of the `node`th node.
fn uuid(node: usize, card: usize) -> String {
    format!("GPU-{node:08x}-5d1c-4e0b-9f3a-{card:012x}")
}

/// A Node with its inventory.
pub fn node(index: usize, name: &str) -> String {
    let devices: Vec<Value> = (0..CARDS)
        .map(|card| {
            let peers = (0..CARDS).filter(|peer| *peer != card);
            let links: serde_json::Map<String, Value> =
                peers.map(|peer| (uuid(index, peer), json!({"nvlink": 12, "pcie": "same-cpu"}))).collect();
            json!({
                "uuid": uuid(index, card), "index": card, "model": "NVIDIA A100-SXM4-80GB", "memory": CARD, "cores": 100,
                "slots": 10, "numa": card / 4, "pci": format!("0000:{card:02x}:00.0"), "health": "healthy",
                "enforcement": "advisory", "links": links,
            })
        })
        .collect();
    let inventory = json!({"v": 1, "ready": true, "driver": "580.95.05", "devices": devices});
    json!({
        "metadata": {"name": name, "annotations": {"packhorse.dev/inventory": inventory.to_string()}},
        "status": {"allocatable": {"cpu": "128", "memory": "1024Gi"}, "conditions": [{"type": "Ready", "status": "True"}]},
    })
    .to_string()
}

/// Where a pod is bound: the node, and the annotations of its Binding.
#[derive(Debug, Clone, Copy)]
pub struct Bound<'a> {
    pub node: &'a str,
    pub annotations: &'a [(String, String)],
}

/// A pod after admission, as kube-scheduler sends it and as the watch shows it: about 2 KB, the fields in the order in which Go
/// writes them. Bound, it runs.
pub fn pod(uid: &str, shape: &Shape, bound: Option<Bound<'_>>) -> String {
    let Shape { count, memory, cores, cpu, host } = *shape;
    let (ask, memory, cores) = match memory {
        None => (r#""exclusive":true"#.to_owned(), String::new(), 100 * count),
        Some(memory) => (
            if cores == 0 { format!(r#""memory":{memory}"#) } else { format!(r#""memory":{memory},"cores":{cores}"#) },
            format!(r#","packhorse.dev/gpu-memory":"{}""#, count * memory),
            count * cores,
        ),
    };
    let resources = format!(
        r#"{{"cpu":"{cpu}","memory":"{host}Gi","nvidia.com/gpu":"{count}","packhorse.dev/gpu-cores":"{cores}"{memory}}}"#
    );
    let request = format!(r#"{{"v":1,"containers":{{"main":{{"count":{count},{ask}}}}}}}"#);
    let mut annotations =
        format!(r#""kubernetes.io/config.seen":"2026-01-01T00:00:00Z","packhorse.dev/request":{}"#, text(&request));
    let (mut node, mut phase) = (String::new(), "Pending");
    if let Some(bound) = bound {
        for (key, value) in bound.annotations {
            annotations.push_str(&format!(",{}:{}", text(key), text(value)));
        }
        node = format!(r#""nodeName":"{}","#, bound.node);
        phase = "Running";
    }
    format!(
        concat!(
            r#"{{"metadata":{{"name":"{uid}","generateName":"worker-5d9f7b8c4-","namespace":"team-a","uid":"{uid}","#,
            r#""resourceVersion":"123456","creationTimestamp":"2026-01-01T00:00:00Z","#,
            r#""labels":{{"app":"worker","pod-template-hash":"5d9f7b8c4","team":"a"}},"annotations":{{{annotations}}},"#,
            r#""ownerReferences":[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"worker-5d9f7b8c4","#,
            r#""uid":"6c7b4a1e-0d3c-4a57-9f3d-0a52b3c1d2e4","controller":true,"blockOwnerDeletion":true}}]}},"#,
            r#""spec":{{"volumes":[{{"name":"kube-api-access","projected":{{"sources":[{{"serviceAccountToken":"#,
            r#"{{"expirationSeconds":3607,"path":"token"}}}},{{"configMap":{{"name":"kube-root-ca.crt","items":"#,
            r#"[{{"key":"ca.crt","path":"ca.crt"}}]}}}}],"defaultMode":420}}}}],"#,
            r#""containers":[{{"name":"main","image":"registry.example.com/team-a/worker:1.2.3","#,
            r#""command":["python","-m","worker"],"args":["--batch","32"],"env":[{{"name":"NVIDIA_VISIBLE_DEVICES","#,
            r#""valueFrom":{{"fieldRef":{{"apiVersion":"v1","#,
            r#""fieldPath":"metadata.annotations['devices.packhorse.dev/main']"}}}}}},"#,
            r#"{{"name":"MODE","value":"production"}}],"resources":{{"limits":{resources},"requests":{resources}}},"#,
            r#""volumeMounts":[{{"name":"kube-api-access","readOnly":true,"#,
            r#""mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}}],"#,
            r#""terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","#,
            r#""imagePullPolicy":"IfNotPresent"}}],"restartPolicy":"Always","terminationGracePeriodSeconds":30,"#,
            r#""dnsPolicy":"ClusterFirst","serviceAccountName":"default","serviceAccount":"default",{node}"#,
            r#""securityContext":{{}},"schedulerName":"packhorse","tolerations":["#,
            r#"{{"key":"nvidia.com/gpu","operator":"Exists"}},{{"key":"node.kubernetes.io/not-ready","#,
            r#""operator":"Exists","effect":"NoExecute","tolerationSeconds":300}},"#,
            r#"{{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","#,
            r#""tolerationSeconds":300}}],"priority":0,"enableServiceLinks":true,"#,
            r#""preemptionPolicy":"PreemptLowerPriority"}},"status":{{"phase":"{phase}","qosClass":"Guaranteed"}}}}"#,
        ),
        uid = uid,
        annotations = annotations,
        resources = resources,
        node = node,
        phase = phase,
    )
}

/// As a JSON string.
fn text(text: &str) -> String {
    serde_json::to_string(text).expect("a string")
}
