//! Who talks to the API server: the administrator of the lab by a static token, a kubelet by a client certificate, everybody else
//! as a `ServiceAccount` with a token from the `TokenRequest` API, as in a real cluster.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

/// The administrator: creates nodes and pods, plays the kubelets. Never Packhorse.
pub(crate) const ADMINISTRATOR: &str = "lab-administrator";
const ADMINISTRATOR_TOKEN: &str = "lab-administrator-token";

/// The files that kube-apiserver needs to know its users.
pub(crate) fn write_keys(directory: &Path) {
    let key = KeyPair::generate().expect("a P-256 key");
    let mut clients = CertificateParams::default();
    clients.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let clients_key = KeyPair::generate().expect("a P-256 key");
    write(&directory.join("client-ca.crt"), &clients.self_signed(&clients_key).expect("a certificate").pem());
    write(&directory.join("client-ca.key"), &clients_key.serialize_pem());
    write(&directory.join("service-account.key"), &key.serialize_pem());
    write(&directory.join("service-account.pub"), &key.public_key_pem());
    write(&directory.join("tokens.csv"), &format!("{ADMINISTRATOR_TOKEN},{ADMINISTRATOR},lab-0,\"system:masters\"\n"));
}

/// Writes the administrator's kubeconfig.
pub(crate) fn administrator(directory: &Path, server: &str) -> PathBuf {
    write_kubeconfig(directory, "administrator", server, ADMINISTRATOR_TOKEN)
}

/// A real token of a `ServiceAccount`. Bound to an object (a Pod, and so to its node) where one is given.
pub(crate) async fn token(client: &Client, namespace: &str, account: &str, bound_to: Option<Value>) -> String {
    let mut spec = json!({"audiences": [], "expirationSeconds": 36000});
    if let Some(object) = bound_to {
        spec["boundObjectRef"] = object;
    }
    let request: TokenRequest = serde_json::from_value(json!({"spec": spec, "metadata": {}})).expect("a TokenRequest");
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .unwrap_or_else(|error| panic!("no token for {namespace}/{account}: {error}"));
    answer.status.expect("the API server answers with a status").token
}

/// A kubeconfig file for a token.
pub(crate) fn write_kubeconfig(directory: &Path, user: &str, server: &str, token: &str) -> PathBuf {
    write_user(directory, user, server, &json!({"token": token}))
}

/// A kubeconfig file for a kubelet: `system:node:NODE` of the group `system:nodes`, whom the Node authorizer knows.
pub(crate) fn kubelet(directory: &Path, node: &str, server: &str) -> PathBuf {
    let read = |name: &str| fs::read_to_string(directory.join(name)).expect("the client CA's files");
    let ca_key = KeyPair::from_pem(&read("client-ca.key")).expect("the client CA's key");
    let ca = Issuer::from_ca_cert_pem(&read("client-ca.crt"), ca_key).expect("the client CA");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    let key = KeyPair::generate().expect("a P-256 key");
    let certificate = params.signed_by(&key, &ca).expect("a certificate").pem();
    let encode = |pem: String| base64::engine::general_purpose::STANDARD.encode(pem);
    let user = json!({
        "client-certificate-data": encode(certificate), "client-key-data": encode(key.serialize_pem()),
    });
    write_user(directory, &format!("kubelet-{node}"), server, &user)
}

fn write_user(directory: &Path, user: &str, server: &str, credentials: &Value) -> PathBuf {
    let path = directory.join(format!("{user}.kubeconfig"));
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {
            "server": server,
            // The API server made its certificate itself, when it started.
            "certificate-authority": directory.join("certificates/apiserver.crt"),
        }}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
        "current-context": "lab",
    });
    write(&path, &config.to_string());
    path
}

/// A client for a kubeconfig file.
pub(crate) async fn client(kubeconfig: &Path) -> Client {
    let read = Kubeconfig::read_from(kubeconfig).expect("a readable kubeconfig");
    let config =
        Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.expect("a usable kubeconfig");
    Client::try_from(config).expect("a client")
}

pub(crate) fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}
