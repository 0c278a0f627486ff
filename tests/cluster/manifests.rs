//! The files of `deployments/` as the lab applies them: unchanged, but for what only a machine without a cluster network needs.
//!
//! - The webhook's Service is of type `ExternalName` and names the lab's loopback address, which the API server then dials at the
//!   port that the webhook configuration names.
//! - kube-scheduler's configuration gets the two values that its pod would have by being a pod: the kubeconfig, and the lab's own
//!   loopback address for the extender. Everything else is read from the shipped `ConfigMap`.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use super::identity;

/// What the shipped configuration says; the lab replaces exactly this.
const SHIPPED_EXTENDER: &str = "http://127.0.0.1:9480";

/// The files of `deployments/webhook`, in order; without the Service, which the lab makes itself, and without the variant for
/// namespaces that opt in.
pub(crate) fn webhook_files() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deployments/webhook");
    let Ok(entries) = std::fs::read_dir(&folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    files.retain(|file| {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.ends_with(".yaml") && name != "service.yaml" && name != "opt-in.yaml"
    });
    files.sort();
    files.iter().map(|file| file.display().to_string()).collect()
}

/// Makes the webhook's Service lead to `ip`; the port at which the API server will call.
pub(crate) async fn route_webhook(client: &Client, ip: Ipv4Addr) -> u16 {
    let Some(service) = webhook_service() else { return 8443 };
    let namespace = service["namespace"].as_str().expect("the webhook configuration names a namespace");
    let object: Service = serde_json::from_value(json!({
        "metadata": {"name": service["name"]},
        "spec": {"type": "ExternalName", "externalName": ip.to_string()},
    }))
    .expect("a Service");
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    services.create(&PostParams::default(), &object).await.expect("the webhook's service is created");
    u16::try_from(service["port"].as_u64().unwrap_or(443)).expect("a port")
}

/// `clientConfig.service` of the shipped webhook configuration.
fn webhook_service() -> Option<Value> {
    webhook_files()
        .iter()
        .flat_map(|file| documents(&std::fs::read_to_string(file).expect("a readable manifest")))
        .find(|object| object["kind"] == "MutatingWebhookConfiguration")
        .map(|object| object["webhooks"][0]["clientConfig"]["service"].clone())
}

/// Writes kube-scheduler's configuration.
pub(crate) fn scheduler_config(directory: &Path, kubeconfig: &Path, extender: &str) -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("deployments/scheduler/kube-scheduler.yaml");
    let manifest = std::fs::read_to_string(&manifest).expect("the scheduler's manifest");
    let object = documents(&manifest).into_iter().find(|object| object["kind"] == "ConfigMap").expect("a ConfigMap");
    let mut config = yaml(object["data"]["config.yaml"].as_str().expect("config.yaml"));
    assert_eq!(config["extenders"][0]["urlPrefix"], SHIPPED_EXTENDER);
    config["extenders"][0]["urlPrefix"] = json!(extender);
    config["clientConnection"]["kubeconfig"] = json!(kubeconfig);
    let path = directory.join("kube-scheduler.json");
    identity::write(&path, &config.to_string());
    path
}

/// The objects of a manifest.
pub(crate) fn documents(manifest: &str) -> Vec<Value> {
    let parts = manifest
        .split("\n---\n")
        .filter(|part| part.lines().any(|line| !line.starts_with('#') && !line.trim().is_empty()));
    parts.map(yaml).collect()
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error} in:\n{text}"))
}
