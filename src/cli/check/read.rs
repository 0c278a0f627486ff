//! What `packhorse check` reads. Nothing is written: the pod is a dry run, access reviews are questions.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use super::super::access::Reached;
use crate::check::permissions::{Answer, NEEDS, Need};
use crate::check::webhook::Trial;
use crate::kube_api::names::SCHEDULER;

/// `gitVersion` of the API server: the first call, whose failure is that of all.
pub(super) async fn version(reached: &Reached) -> anyhow::Result<String> {
    let info = reached.client.apiserver_version().await;
    Ok(info.map_err(|error| anyhow::Error::new(error).context("the API server does not answer"))?.git_version)
}

/// A list as JSON values.
pub(super) async fn objects(reached: &Reached, what: &str, path: &str) -> anyhow::Result<Vec<Value>> {
    let objects = reached.list(what, path).await?;
    Ok(objects.iter().map(|object| serde_json::from_str(object)).collect::<Result<_, _>>()?)
}

/// The answers to all of [`NEEDS`].
pub(super) async fn permissions(reached: &Reached, namespace: &str) -> Vec<(Need, Answer)> {
    let mut answers = Vec::new();
    for need in NEEDS {
        answers.push((need, ask(reached, namespace, &need).await));
    }
    answers
}

async fn ask(reached: &Reached, namespace: &str, need: &Need) -> Answer {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let attributes = ResourceAttributes {
        verb: text(need.verb),
        group: text(need.group),
        resource: text(need.resource),
        subresource: text(need.subresource),
        ..ResourceAttributes::default()
    };
    let params = PostParams::default();
    // Whoever may not ask learns nothing, which is told as such.
    let status = match need.account {
        None => {
            let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
            let review = SelfSubjectAccessReview { spec, ..Default::default() };
            Api::all(reached.client.clone()).create(&params, &review).await.ok()?.status?
        }
        Some(account) => {
            let spec = SubjectAccessReviewSpec {
                user: Some(format!("system:serviceaccount:{namespace}:{account}")),
                groups: Some(vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]),
                resource_attributes: Some(attributes),
                ..Default::default()
            };
            let review = SubjectAccessReview { spec, ..Default::default() };
            Api::all(reached.client.clone()).create(&params, &review).await.ok()?.status?
        }
    };
    Some(status.allowed)
}

/// The webhook's registration.
pub(super) async fn registration(reached: &Reached) -> anyhow::Result<Option<MutatingWebhookConfiguration>> {
    let registrations: Api<MutatingWebhookConfiguration> = Api::all(reached.client.clone());
    Ok(registrations.get_opt("packhorse").await?)
}

/// The CA of a self-managed certificate, PEM; none where the certificate comes from elsewhere.
pub(super) async fn authority(reached: &Reached, namespace: &str) -> anyhow::Result<Option<String>> {
    let secrets: Api<Secret> = Api::namespaced(reached.client.clone(), namespace);
    let secret = secrets.get_opt("packhorse-webhook-ca").await?;
    let data = secret.and_then(|secret| secret.data).unwrap_or_default();
    Ok(data.get("ca.crt").map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()))
}

/// kube-scheduler's configuration, from its `ConfigMap`.
pub(super) async fn profile(reached: &Reached, namespace: &str) -> anyhow::Result<Option<String>> {
    let maps: Api<ConfigMap> = Api::namespaced(reached.client.clone(), namespace);
    let map = maps.get_opt("packhorse-kube-scheduler").await?;
    Ok(map.and_then(|map| map.data).and_then(|mut data| data.remove("config.yaml")))
}

/// The lease by which kube-schedulers with our profile choose the active one.
pub(super) async fn lease(reached: &Reached, namespace: &str) -> anyhow::Result<Option<Lease>> {
    let leases: Api<Lease> = Api::namespaced(reached.client.clone(), namespace);
    Ok(leases.get_opt(SCHEDULER).await?)
}

/// Creates a GPU pod as a dry run.
pub(super) async fn trial(reached: &Reached, namespace: &str, prefix: &str) -> Trial {
    let pod = json!({
        "metadata": {"generateName": "packhorse-check-"},
        "spec": {
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "main",
                "image": "packhorse.dev/check",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "resources": {
                    "requests": {"cpu": "1m", "memory": "1Mi"},
                    "limits": {"cpu": "1m", "memory": "1Mi", (format!("{prefix}/gpu")): "1", (format!("{prefix}/gpumem")): "1"},
                },
            }],
        },
    });
    let pod: Pod = match serde_json::from_value(pod) {
        Ok(pod) => pod,
        Err(error) => return Trial::NotTried(error.to_string()),
    };
    let pods: Api<Pod> = Api::namespaced(reached.client.clone(), namespace);
    let params = PostParams { dry_run: true, ..PostParams::default() };
    match pods.create(&params, &pod).await {
        Ok(pod) => Trial::Admitted(pod.spec.and_then(|spec| spec.scheduler_name).unwrap_or_default()),
        Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains("cannot create resource") => {
            Trial::NotTried(status.message.clone())
        }
        Err(kube::Error::Api(status)) => Trial::Refused(status.message.clone()),
        Err(error) => Trial::NotTried(error.to_string()),
    }
}
