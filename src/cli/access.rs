//! How commands for people reach a cluster: by the kubeconfig that kubectl would take, or from within a pod. Unlike the serving roles,
//! which must never meet another cluster by accident, they may take what lies in the home directory.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use kube::Config;
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::kube_api::watch::{Failure, pages};

/// Objects per page of a list.
const PAGE: u32 = 500;
/// A list that the API server cannot go on with begins anew, so often.
const TRIES: u32 = 3;
/// Somebody waits for the answer.
const CONNECT: Duration = Duration::from_secs(10);

/// Flags of every command that people run against a cluster.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Access {
    /// Kubeconfig file [default: KUBECONFIG, then ~/.kube/config; within a pod its own service account]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// A way to the API server.
#[derive(Clone)]
pub struct Reached {
    /// Makes the calls.
    pub client: kube::Client,
    /// Makes each call once: what cannot be reached now is told, not tried again.
    pub once: kube::Client,
    /// The context's namespace.
    pub namespace: String,
}

impl Access {
    /// Makes a client; does not connect.
    ///
    /// # Errors
    /// Names the file, the context, or says what to give.
    pub async fn connect(&self) -> anyhow::Result<Reached> {
        let mut config = self.config().await?;
        config.connect_timeout = Some(CONNECT);
        let namespace = config.default_namespace.clone();
        let make = |config| ClientBuilder::try_from(config).context("cannot make a client of the API server");
        let client = make(config.clone())?.build();
        config.default_retry = false;
        Ok(Reached { client, once: make(config)?.build(), namespace })
    }

    async fn config(&self) -> anyhow::Result<Config> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        if let Some(path) = &self.kubeconfig {
            let named = || format!("--kubeconfig {}", path.display());
            let kubeconfig = Kubeconfig::read_from(path).with_context(named)?;
            return Config::from_custom_kubeconfig(kubeconfig, &options).await.with_context(named);
        }
        if let Some(kubeconfig) = Kubeconfig::from_env().context("KUBECONFIG")? {
            return Config::from_custom_kubeconfig(kubeconfig, &options).await.context("KUBECONFIG");
        }
        let home = std::env::home_dir().map(|home| home.join(".kube/config"));
        if let Some(path) = home.filter(|path| path.is_file()) {
            let named = || path.display().to_string();
            let kubeconfig = Kubeconfig::read_from(&path).with_context(named)?;
            return Config::from_custom_kubeconfig(kubeconfig, &options).await.with_context(named);
        }
        if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
            bail!("no cluster is known: give --kubeconfig FILE, or set KUBECONFIG");
        }
        if self.context.is_some() {
            bail!("--context: within a pod there is no kubeconfig that could have contexts; give --kubeconfig FILE");
        }
        Config::incluster().context("cannot read the ServiceAccount of this pod")
    }
}

impl std::fmt::Debug for Reached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reached").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Reached {
    /// All objects at a path, as JSON.
    ///
    /// # Errors
    /// Says what could not be listed, and of what permission that is a matter.
    pub async fn list(&self, what: &str, path: &str) -> anyhow::Result<Vec<String>> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut objects = Vec::new();
            match pages(&self.client, path, PAGE, None, |object| objects.push(object.to_owned())).await {
                Ok(_) => return Ok(objects),
                Err(Failure::Gone) if tries < TRIES => {}
                Err(Failure::Call(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => {
                    bail!(
                        "the API server does not let us list {what}: {}; allow get and list of {what}",
                        status.message
                    )
                }
                Err(Failure::Call(kube::Error::Api(status))) => {
                    bail!("cannot list {what}: the API server answers {}: {}", status.code, status.message)
                }
                Err(error) => return Err(anyhow::Error::new(error).context(format!("cannot list {what}"))),
            }
        }
    }
}
