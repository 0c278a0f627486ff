//! The client of the API server: from a kubeconfig, or from what every pod is given. Making it does not connect.

use std::path::Path;

use anyhow::{Context, bail};
use kube::Config;
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::metrics::api_requests::ApiRequests;

/// A client whose every call is counted.
///
/// # Errors
/// Names the file, or says what to give outside of a cluster. There is no third way: a kubeconfig that merely lies in the home
/// directory may be another cluster's.
pub async fn connect(kubeconfig: Option<&Path>, calls: &ApiRequests) -> anyhow::Result<kube::Client> {
    let config = match kubeconfig {
        Some(path) => {
            let named = || format!("--kubeconfig {}", path.display());
            let kubeconfig = Kubeconfig::read_from(path).with_context(named)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.with_context(named)?
        }
        None if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() => {
            bail!("not in a cluster, so the API server is unknown; give --kubeconfig FILE")
        }
        None => Config::incluster().context("cannot read the ServiceAccount of this pod")?,
    };
    Ok(ClientBuilder::try_from(config).context("cannot make a client of the API server")?.with_layer(calls).build())
}
