//! Certificates over real TLS: renewed, replaced and reloaded while callers call.
#![expect(clippy::unwrap_used, reason = "in a test's own tools a panic is the test's failure")]

pub(crate) mod api;
pub(crate) mod callers;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use packhorse::certs::authority::Authority;
use packhorse::certs::files::{Files, Pair};
use packhorse::certs::managed::Managed;
use packhorse::certs::serving::Serving;
use packhorse::certs::{Metrics, Settings};
use packhorse::serve;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::net::TcpListener;

use api::Cluster;

/// Lives so short that a test sees many of them.
fn settings() -> Settings {
    Settings {
        leaf_lifetime: Duration::from_secs(3),
        ca_lifetime: Duration::from_secs(3600),
        ca_renew_before: Duration::from_secs(60),
        settle: Duration::from_millis(600),
        poll_interval: Duration::from_millis(50),
        ..Settings::default()
    }
}

fn metrics() -> Metrics {
    Metrics::new(&mut Registry::default())
}

/// A server that answers 200, and a task that keeps its certificate.
async fn replica(api: &Cluster, settings: Settings) -> (SocketAddr, Arc<Serving>) {
    let serving = Arc::new(Serving::default());
    let managed =
        Managed::new(api.client(), Arc::new(ArcSwap::from_pointee(settings)), Arc::clone(&serving), metrics());
    tokio::spawn(managed.run());
    (listen(&serving).await, serving)
}

async fn listen(serving: &Arc<Serving>) -> SocketAddr {
    let certificate: Arc<dyn rustls::server::ResolvesServerCert> = Arc::clone(serving) as _;
    let tls = serve::tls::server_config(certificate, None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().route("/", axum::routing::get(async || "ok"));
    tokio::spawn(serve::run(listener, Some(tls), router, std::future::pending()));
    address
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "still not so after 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_leaf_certificates_are_renewed_and_the_ca_is_replaced() {
    let api = Cluster::new().await;
    // One looks rarely: it presents the old CA's leaf certificate while the other has moved on.
    let slow = Settings { poll_interval: Duration::from_millis(500), ..settings() };
    let replicas = [replica(&api, settings()).await, replica(&api, slow).await];
    eventually("both replicas have a certificate", || replicas.iter().all(|(_, serving)| serving.current().is_some()))
        .await;
    eventually("the bundle is published", || api.bundles().iter().all(|bundle| !bundle.is_empty())).await;
    let old = api.secret("ca.crt").unwrap();
    let ends = |index: usize| replicas[index].1.current().unwrap().not_after;
    let first = [ends(0), ends(1)];

    let addresses = replicas.each_ref().map(|(address, _)| *address);
    let (tally, callers) = callers::start(&api, &addresses, Duration::from_millis(200));
    eventually("each leaf certificate was renewed", || (0..2).all(|index| ends(index) > first[index])).await;

    api.ask_for_a_new_ca();
    eventually("both CAs are in every bundle", || {
        let new = api.secret("next.crt").unwrap_or_default();
        !new.is_empty() && api.bundles().iter().all(|bundle| bundle.contains(&*old) && bundle.contains(&*new))
    })
    .await;
    assert_eq!(api.secret("ca.crt").unwrap(), old, "the old CA signs until the bundle has spread");
    eventually("the old CA has left the bundle", || {
        let new = api.secret("ca.crt").unwrap();
        new != old && api.bundles().iter().all(|bundle| *bundle == new)
    })
    .await;
    let calls = tally.answered.load(Ordering::Relaxed);
    eventually("calls go on with the new CA alone", || tally.answered.load(Ordering::Relaxed) > calls + 50).await;

    tally.stop();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(*tally.failed.lock().unwrap(), Vec::<String>::new(), "of {calls} calls");
    assert_eq!(api.created(), 1, "the replicas share one CA");
}

#[tokio::test]
async fn a_ca_put_into_the_secret_by_hand_is_published_before_it_is_used() {
    let api = Cluster::new().await;
    let (address, serving) = replica(&api, settings()).await;
    eventually("a certificate", || serving.current().is_some()).await;
    eventually("a bundle", || !api.bundles()[0].is_empty()).await;

    let other = Authority::generate(SystemTime::now(), Duration::from_secs(3600)).unwrap();
    api.patch_secret(
        &json!({"data": {"ca.crt": api::encoded(&other.certificate), "ca.key": api::encoded(&other.key)}}),
    );
    eventually("the bundle is the new CA", || api.bundles().iter().all(|bundle| *bundle == other.certificate)).await;
    let config = callers::trusting(&other.certificate);
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = callers::connect(address, Arc::clone(&config)).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_certificate_is_renewed_while_the_api_server_is_away() {
    let api = Cluster::new().await;
    let (address, serving) = replica(&api, settings()).await;
    eventually("a bundle", || !api.bundles()[0].is_empty()).await;
    let first = serving.current().unwrap().not_after;
    api.fail(usize::MAX);
    eventually("renewed", || serving.current().unwrap().not_after > first).await;
    let mut sender = callers::connect(address, callers::trusting(&api.bundles()[0])).await.unwrap();
    callers::get(&mut sender, "/").await.unwrap();
}

#[tokio::test]
async fn begins_when_the_api_server_answers() {
    let api = Cluster::new().await;
    api.fail(4);
    let (_, serving) = replica(&api, settings()).await;
    assert!(!serving.is_usable(SystemTime::now()), "nothing to present yet");
    eventually("usable", || serving.is_usable(SystemTime::now())).await;
}

#[tokio::test]
async fn a_damaged_secret_changes_nothing() {
    let api = Cluster::new().await;
    let (_, serving) = replica(&api, settings()).await;
    eventually("a bundle", || !api.bundles()[0].is_empty()).await;
    let (bundle, first) = (api.bundles(), serving.current().unwrap().not_after);
    api.patch_secret(&json!({"data": {"ca.crt": api::encoded("nonsense")}}));
    eventually("renewed from the CA known last", || serving.current().unwrap().not_after > first).await;
    assert_eq!(api.bundles(), bundle);
    assert_eq!(api.secret("ca.crt").unwrap(), "nonsense", "what an administrator wrote is not overwritten");
}

/// A Secret volume: files are links into a directory that the link `..data` names.
fn mount(volume: &Path, version: &str, authority: &Authority) {
    let data = volume.join(version);
    std::fs::create_dir(&data).unwrap();
    let leaf = authority.issue(SystemTime::now(), &[callers::HOST.to_owned()], Duration::from_secs(3600)).unwrap();
    std::fs::write(data.join("tls.crt"), leaf.certificate).unwrap();
    std::fs::write(data.join("tls.key"), leaf.key).unwrap();
    let link = volume.join("..data_tmp");
    std::os::unix::fs::symlink(version, &link).unwrap();
    std::fs::rename(&link, volume.join("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        let path = volume.join(file);
        if !path.is_symlink() {
            std::os::unix::fs::symlink(Path::new("..data").join(file), path).unwrap();
        }
    }
}

fn authority() -> Authority {
    Authority::generate(SystemTime::now(), Duration::from_secs(36_000)).unwrap()
}

#[tokio::test]
async fn files_are_reloaded_when_a_volume_swaps_its_link() {
    let volume = tempfile::tempdir().unwrap();
    let (one, two) = (authority(), authority());
    mount(volume.path(), "..v1", &one);
    let pair = Pair { certificate: volume.path().join("tls.crt"), key: volume.path().join("tls.key") };
    let serving = Arc::new(Serving::default());
    let files = Files::load("webhook", pair, Arc::clone(&serving), metrics()).await.unwrap();
    tokio::spawn(files.follow(Duration::from_millis(20)));
    let address = listen(&serving).await;
    callers::connect(address, callers::trusting(&one.certificate)).await.unwrap();

    mount(volume.path(), "..v2", &two);
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = callers::connect(address, callers::trusting(&two.certificate)).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn damaged_files_keep_the_last_good_certificate_and_are_counted() {
    let volume = tempfile::tempdir().unwrap();
    let one = authority();
    mount(volume.path(), "..v1", &one);
    let pair = Pair { certificate: volume.path().join("tls.crt"), key: volume.path().join("tls.key") };
    let (serving, metrics) = (Arc::new(Serving::default()), metrics());
    let files = Files::load("webhook", pair, Arc::clone(&serving), metrics.clone()).await.unwrap();
    tokio::spawn(files.follow(Duration::from_millis(20)));
    let address = listen(&serving).await;

    let half_written = "-----BEGIN CERTIFICATE-----\nMIIB";
    let other_key = authority().key;
    for (file, content) in [("tls.crt", half_written), ("tls.key", &*other_key)] {
        let good = std::fs::read_to_string(volume.path().join(file)).unwrap();
        let errors = metrics.errors.get();
        std::fs::write(volume.path().join(file), content).unwrap();
        eventually("counted", || metrics.errors.get() == errors + 1).await;
        callers::connect(address, callers::trusting(&one.certificate)).await.unwrap();
        std::fs::write(volume.path().join(file), good).unwrap();
    }
}

#[tokio::test]
async fn files_that_cannot_be_served_at_the_start_are_named() {
    let volume = tempfile::tempdir().unwrap();
    let pair = Pair { certificate: volume.path().join("tls.crt"), key: volume.path().join("tls.key") };
    let error = Files::load("webhook", pair.clone(), Arc::default(), metrics()).await.unwrap_err().to_string();
    assert!(error.contains("tls.crt") && error.contains("No such file"), "{error}");
    mount(volume.path(), "..v1", &authority());
    std::fs::write(&pair.key, authority().key).unwrap();
    let error = Files::load("webhook", pair, Arc::default(), metrics()).await.unwrap_err().to_string();
    assert!(error.contains("tls.key") && error.contains("the key does not belong to the certificate"), "{error}");
}
