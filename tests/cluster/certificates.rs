//! The webhook's certificate under load: renewed, and its CA replaced, without one failed request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::lab::on_cluster;
use super::{kubelab, objects, pods, wait};

/// A leaf certificate of 12 s is renewed after 8.
const SHORT_LIVES: &str = "
certificates:
  leafLifetime: 12s
  pollInterval: 1s
  settle: 4s
  caRenewBefore: 1h
";

/// What the load has met.
#[derive(Debug, Default)]
struct Load {
    stop: AtomicBool,
    admitted: AtomicUsize,
    handshakes: AtomicUsize,
    failures: std::sync::Mutex<Vec<String>>,
}

impl Load {
    fn runs(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn failed(&self, problem: String) {
        self.failures.lock().expect("no load task panics").push(problem);
    }
}

#[test]
fn renewed_certificates_and_a_new_ca_fail_no_request() {
    on_cluster(async |lab| {
        lab.configure_server(Some(SHORT_LIVES)).await;
        let namespace = lab.namespace("certificates", json!({})).await;
        let secrets: Api<Secret> = Api::namespaced(lab.client.clone(), "packhorse-system");
        let authority =
            async || secrets.get("packhorse-webhook-ca").await.expect("the CA's Secret").data.expect("data");
        let before = authority().await;
        let load = Arc::new(Load::default());
        let mut tasks = Vec::new();
        for _ in 0..3 {
            tasks.push(tokio::spawn(admit(lab.client.clone(), namespace.clone(), Arc::clone(&load))));
        }
        tasks.push(tokio::spawn(connect(lab.client.clone(), lab.webhook_address(), Arc::clone(&load))));

        let renewals = lab.metric("packhorse_certs_renewals_total", &[]).await;
        wait::until("two renewals", 60, async || {
            (lab.metric("packhorse_certs_renewals_total", &[]).await >= renewals + 2.0).then_some(())
        })
        .await;
        let ask = json!({"metadata": {"annotations": {"packhorse.dev/replace-ca": "now"}}});
        let asked = secrets.patch("packhorse-webhook-ca", &PatchParams::default(), &Patch::Merge(&ask)).await;
        asked.expect("the Secret is annotated");
        wait::until("the new CA to sign and the old one to leave the bundle", 90, async || {
            let now = authority().await;
            let replaced = now["ca.crt"] != before["ca.crt"];
            (replaced && !now.contains_key("next.crt") && !now.contains_key("previous.crt")).then_some(())
        })
        .await;
        load.stop.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await.expect("no load task panics");
        }
        let (admitted, handshakes) = (load.admitted.load(Ordering::Relaxed), load.handshakes.load(Ordering::Relaxed));
        kubelab::say(&format!("certificates: {admitted} pods admitted, {handshakes} connections, none failed"));
        let failures = load.failures.lock().expect("no load task panics");
        assert!(failures.is_empty(), "{} failed: {failures:#?}", failures.len());
        assert!(admitted > 300 && handshakes > 300, "too little load to show anything: {admitted}, {handshakes}");
    });
}

/// GPU pods, admitted and not kept.
async fn admit(client: Client, namespace: String, load: Arc<Load>) {
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let pod = objects::pod("admitted", &json!({"nvidia.com/gpu": 1}));
    while load.runs() {
        match pods::api(&client, &namespace).create(&dry, &pod).await {
            Ok(pod) if objects::scheduler_of(&pod) == "packhorse" => {
                load.admitted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => load.failed("a pod was admitted without the webhook".to_owned()),
            Err(error) => load.failed(error.to_string()),
        }
    }
}

/// New connections, each with the trust that the webhook configuration holds at that moment: an API server keeps its own open.
async fn connect(client: Client, address: std::net::SocketAddr, load: Arc<Load>) {
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(client);
    while load.runs() {
        let configuration = configurations.get("packhorse").await.expect("the webhook configuration");
        let webhook = configuration.webhooks.and_then(|webhooks| webhooks.into_iter().next()).expect("a webhook");
        let bundle = webhook.client_config.ca_bundle.expect("a CA bundle").0;
        match handshake(&bundle, address).await {
            Ok(()) => {
                load.handshakes.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => load.failed(format!("handshake: {error}")),
        }
    }
}

async fn handshake(bundle: &[u8], address: std::net::SocketAddr) -> Result<(), Box<dyn std::error::Error>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("packhorse-server.packhorse-system.svc")?;
    TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await?;
    Ok(())
}
