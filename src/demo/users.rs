//! The imaginary users: create the offered pods through the API, over HTTP, and take a refusal as it comes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::http_client::{CallError, HttpClient};
use super::news::{News, Topic};
use super::workload::{Offer, Workload};

/// What became of the offers at admission.
#[derive(Debug, Clone, Default)]
pub(super) struct Offers {
    pub(super) offered: usize,
    pub(super) admitted: usize,
    /// How often, by the webhook's words.
    pub(super) refused: BTreeMap<String, usize>,
    /// Well-formed pods that were refused, and malformed ones that were not: neither may happen.
    pub(super) surprises: Vec<String>,
    /// Calls that failed for another reason.
    pub(super) failed: BTreeMap<String, usize>,
}

/// Runs until dropped.
pub(super) async fn run(
    workload: Workload,
    http: HttpClient,
    api_url: String,
    began: Instant,
    offers: Arc<Mutex<Offers>>,
    news: News,
) {
    let mut calls = tokio::task::JoinSet::new();
    for offer in workload {
        tokio::time::sleep_until((began + offer.at).into()).await;
        while calls.try_join_next().is_some() {}
        calls.spawn(create(offer, http.clone(), api_url.clone(), Arc::clone(&offers), news.clone()));
    }
}

async fn create(offer: Offer, http: HttpClient, api_url: String, offers: Arc<Mutex<Offers>>, news: News) {
    let metadata = &offer.pod["metadata"];
    let (namespace, name) =
        (metadata["namespace"].as_str().unwrap_or_default(), metadata["name"].as_str().unwrap_or_default());
    let result = http.post(&format!("{api_url}/api/v1/namespaces/{namespace}/pods"), &offer.pod).await;
    let mut offers = offers.lock().unwrap_or_else(PoisonError::into_inner);
    offers.offered += 1;
    match result {
        Ok(_) => {
            offers.admitted += 1;
            if offer.malformed {
                offers.surprises.push(format!("{namespace}/{name} was admitted: {}", offer.pod["spec"]));
            }
        }
        Err(CallError::Refused { message, .. }) if message.contains("denied the request") => {
            let words =
                message.split_once("denied the request: ").map_or(message.as_str(), |(_, words)| words).to_owned();
            news.tell(Topic::Refused, format!("{namespace}/{name}: {words}"));
            if !offer.malformed {
                offers.surprises.push(format!("{namespace}/{name} was refused: {words}"));
            }
            *offers.refused.entry(words).or_default() += 1;
        }
        Err(error) => *offers.failed.entry(error.to_string()).or_default() += 1,
    }
}
