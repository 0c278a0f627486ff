//! The API server's version, which stands in for kube-scheduler's where the configuration names none: one answer of the extender
//! depends on it. Asked again now and then, because a control plane is upgraded while we run.

use std::time::Duration;

use crate::cli::config::reload::Live;
use crate::extender::Version;

/// Between two questions.
const INTERVAL: Duration = Duration::from_secs(600);
/// Between two attempts where there was no answer.
const RETRY: Duration = Duration::from_secs(5);
/// An answer comes within this.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps `live` informed until the task is aborted.
pub async fn follow(client: kube::Client, live: Live) {
    let mut complained = false;
    loop {
        let pause = match ask(&client).await {
            Ok(version) => {
                tracing::debug!(version = String::from(version), "version of the API server");
                live.know_api_version(version);
                complained = false;
                INTERVAL
            }
            Err(problem) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(problem, "the API server does not tell its version, asking again");
                }
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn ask(client: &kube::Client) -> Result<Version, String> {
    match tokio::time::timeout(TIMEOUT, client.apiserver_version()).await {
        Ok(Ok(info)) => info.git_version.parse().map_err(|error| format!("{error}")),
        Ok(Err(error)) => Err(format!("{:#}", anyhow::Error::from(error))),
        Err(_) => Err("no answer".to_owned()),
    }
}
