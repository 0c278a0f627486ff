//! What kube-apiserver sends about a new GPU pod: the fields, in the order, and with the size of a pod of a deployment.

use axum::body::Bytes;
use serde_json::{Value, json};

/// So many different reviews are sent in turn.
pub const REVIEWS: usize = 300;

/// Bodies of reviews, each of another pod.
pub fn bodies() -> Vec<Bytes> {
    (0..REVIEWS).map(|n| Bytes::from(review(n))).collect()
}

fn review(n: usize) -> String {
    let uid = format!("705ab4f5-6393-4e8a-b7cc-{n:012x}");
    let pod = pod(n).to_string();
    format!(
        concat!(
            r#"{{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{{"uid":"{uid}","#,
            r#""kind":{{"group":"","version":"v1","kind":"Pod"}},"resource":{{"group":"","version":"v1","resource":"pods"}},"#,
            r#""requestKind":{{"group":"","version":"v1","kind":"Pod"}},"#,
            r#""requestResource":{{"group":"","version":"v1","resource":"pods"}},"#,
            r#""namespace":"team-a","operation":"CREATE","userInfo":{{"#,
            r#""username":"system:serviceaccount:kube-system:replicaset-controller","#,
            r#""uid":"0e6f7c1c-8f9b-4d1e-9e57-3a2f0a4e1b11","#,
            r#""groups":["system:serviceaccounts","system:serviceaccounts:kube-system","system:authenticated"]}},"#,
            r#""object":{pod},"oldObject":null,"dryRun":false,"#,
            r#""options":{{"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1"}}}}}}"#
        ),
        uid = uid,
        pod = pod,
    )
}

/// A pod as its author wrote it and the API server filled it in. Memory and cores vary, one in three asks for whole cards.
fn pod(n: usize) -> Value {
    let mut amounts = json!({"cpu": "4", "memory": "16Gi"});
    if n.is_multiple_of(3) {
        amounts["nvidia.com/gpu"] = json!((1 + n % 4).to_string());
    } else {
        amounts["nvidia.com/gpu"] = json!("1");
        amounts["nvidia.com/gpumem"] = json!((1024 * (1 + n % 30)).to_string());
        amounts["nvidia.com/gpucores"] = json!((10 * (1 + n % 5)).to_string());
    }
    let mount = json!({
        "name": "kube-api-access-x7k2p", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    });
    let worker = json!({
        "name": "worker", "image": "registry.example.com/team-a/worker:1.2.3",
        "command": ["python", "-m", "worker"], "args": ["--batch", "32", "--model", "/models/base"],
        "ports": [{"name": "metrics", "containerPort": 9090, "protocol": "TCP"}],
        "env": [
            {"name": "MODE", "value": "production"},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "worker", "key": "token"}}},
        ],
        "resources": {"limits": amounts, "requests": amounts},
        "volumeMounts": [{"name": "models", "mountPath": "/models"}, mount],
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": 9090, "scheme": "HTTP"},
            "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
        },
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "imagePullPolicy": "IfNotPresent",
    });
    let sidecar = json!({
        "name": "logs", "image": "registry.example.com/base/logs:4.5",
        "resources": {"limits": {"cpu": "200m", "memory": "128Mi"}, "requests": {"cpu": "50m", "memory": "64Mi"}},
        "volumeMounts": [mount],
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "imagePullPolicy": "IfNotPresent",
    });
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "generateName": "worker-5d9f7b8c4-", "namespace": "team-a", "creationTimestamp": null,
            "labels": {"app": "worker", "pod-template-hash": "5d9f7b8c4", "team": format!("team-{}", n % 20)},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9090"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "worker-5d9f7b8c4",
                "uid": "6c7b4a1e-0d3c-4a57-9f3d-0a52b3c1d2e4", "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "volumes": [
                {"name": "models", "persistentVolumeClaim": {"claimName": "models", "readOnly": true}},
                {"name": "kube-api-access-x7k2p", "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    {"downwardAPI": {"items": [
                        {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
                    ]}},
                ]}},
            ],
            "containers": [worker, sidecar],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default", "serviceAccount": "default", "securityContext": {},
            "schedulerName": "default-scheduler",
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            ],
            "priority": 0, "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority",
        },
        "status": {},
    })
}
