//! `packhorse server` as a process, and the listeners under it.
#![expect(clippy::unwrap_used, reason = "in a test's own tools a panic is the test's failure")]

mod http;
mod process;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use packhorse::certs::authority::{Authority, Leaf};
use packhorse::cli::config::Config;
use packhorse::demo::api_server::{ApiServer, Match, Settings};
use packhorse::serve::{self, Limits};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};

use process::{Server, kubeconfig, packhorse};

const NAME: &str = "packhorse-server.packhorse-system.svc";

/// Tries until it is so.
async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "still not so after 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn wrong_flags_end_with_2_and_failures_with_1_and_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.yaml");
    std::fs::write(&config, "logLevel: info\nwebhok: {}\n").unwrap();
    let config = config.to_str().unwrap();
    let cases: [(&[&str], i32, &[&str]); 9] = [
        (&[], 2, &["Usage"]),
        (&["server", "--no-such-flag"], 2, &["--no-such-flag"]),
        (&["server", "--tls-cert", "a"], 2, &["--tls-key"]),
        (&["server", "--webhook-listen", "nowhere"], 2, &["--webhook-listen", "nowhere"]),
        (&["server"], 1, &["error: ", "--kubeconfig"]),
        (&["server", "--kubeconfig", "/nonexistent"], 1, &["error: ", "--kubeconfig /nonexistent"]),
        (&["server", "--config", config], 1, &["error: ", config, "line 2", "`webhok`", "logLevel"]),
        (&["server", "--extender-listen", "0.0.0.0:0"], 1, &["error: ", "--extender-listen", "--extender-client-ca"]),
        (&["server", "--log-level", "loud=loud"], 1, &["error: ", "--log-level", "loud"]),
    ];
    for (arguments, status, parts) in cases {
        let output = packhorse(arguments).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
        for part in parts {
            assert!(text.contains(part), "{arguments:?}: {text:?} lacks {part:?}");
        }
        assert!(status == 2 || text.trim_end().lines().count() == 1, "{arguments:?}: {text}");
    }
    let help = packhorse(&["server", "--help"]).output().unwrap();
    assert_eq!(help.status.code(), Some(0));
}

#[test]
fn certificate_files_are_private_and_not_overwritten_unasked() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("new");
    let run = |more: &[&str]| {
        let output =
            packhorse(&[&["certs", "--out", out.to_str().unwrap(), "--days", "2"], more].concat()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(run(&["--name", "a.example", "--name", "127.0.0.1"]).0, Some(0));
    let mode = |file: &str| std::fs::metadata(out.join(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("tls.key"), mode("tls.crt"), mode("ca.crt")), (0o600, 0o644, 0o644));
    let first = std::fs::read(out.join("tls.crt")).unwrap();

    let (status, error) = run(&[]);
    assert_eq!(status, Some(1));
    assert!(error.contains("ca.crt exists") && error.contains("--force"), "{error}");
    assert_eq!(std::fs::read(out.join("tls.crt")).unwrap(), first);
    assert_eq!(run(&["--force"]).0, Some(0));
    assert_ne!(std::fs::read(out.join("tls.crt")).unwrap(), first);

    let (status, error) = run(&["--force", "--name", "naïve"]);
    assert!(status == Some(1) && error.contains("naïve"), "{error}");
}

#[test]
fn the_shipped_configuration_shows_every_key() {
    fn keys(value: &Value, prefix: &str) -> Vec<String> {
        let Some(map) = value.as_object().filter(|map| !map.is_empty()) else { return vec![prefix.to_owned()] };
        map.iter().flat_map(|(key, value)| keys(value, &format!("{prefix}.{key}"))).collect()
    }
    let text = include_str!("../docs/config.yaml");
    let shown: Value = serde_saphyr::from_str(text).unwrap();
    let known = serde_json::to_value(Config::default()).unwrap();
    assert_eq!(keys(&shown, ""), keys(&known, ""));
}

/// `tls.crt` and `tls.key` for [`NAME`], and the CA that signed them.
fn certificate_files(directory: &Path) -> (String, String, Authority) {
    let authority = Authority::generate(SystemTime::now(), Duration::from_secs(3600)).unwrap();
    let Leaf { certificate, key } = leaf(&authority);
    let (certificate_file, key_file) = (directory.join("tls.crt"), directory.join("tls.key"));
    std::fs::write(&certificate_file, certificate).unwrap();
    std::fs::write(&key_file, key).unwrap();
    (certificate_file.to_str().unwrap().to_owned(), key_file.to_str().unwrap().to_owned(), authority)
}

fn leaf(authority: &Authority) -> Leaf {
    authority.issue(SystemTime::now(), &[NAME.to_owned()], Duration::from_secs(3600)).unwrap()
}

/// The API server and a kubeconfig for it.
async fn cluster(directory: &Path) -> (ApiServer, String) {
    let api = ApiServer::start(Settings::default()).await.unwrap();
    api.objects().create("namespaces", json!({"metadata": {"name": "packhorse-system"}})).unwrap();
    let kubeconfig = kubeconfig(directory, &api.url());
    (api, kubeconfig)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_webhook_lives_without_an_api_server_and_the_extender_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key, authority) = certificate_files(directory.path());
    // Nobody listens there.
    let kubeconfig = kubeconfig(directory.path(), "http://127.0.0.1:1");
    let server = Server::start(&["--kubeconfig", &kubeconfig, "--tls-cert", &certificate, "--tls-key", &key]);
    let (webhook, metrics) = (server.address("webhook"), server.address("metrics"));
    assert_eq!(http::get(metrics, "/healthz").await, (200, "ok\n".to_owned()));
    let client = super::certs::callers::trusting(&authority.certificate);
    eventually("the webhook is ready", || async { http::get(metrics, "/readyz").await.0 == 200 }).await;
    let answer = http::ask_tls(webhook, NAME, client, "GET", "/readyz", "").await.unwrap();
    assert_eq!(answer.0, 200, "health is served on the webhook's listener too");
    let (status, missing) = http::get(metrics, "/readyz/extender").await;
    assert!(status == 503 && missing.contains("ledger"), "{status} {missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn self_managed_certificates_make_it_ready_and_sigterm_ends_it_with_0() {
    let directory = tempfile::tempdir().unwrap();
    let (api, kubeconfig) = cluster(directory.path()).await;
    let config = directory.path().join("config.yaml");
    std::fs::write(&config, "server: {shutdownDelay: 1s}\n").unwrap();
    // The ledger's first list is held up, so that the time before it is complete can be seen.
    api.faults().delay(Duration::from_secs(3), Match::of("list", "pods"));
    let mut server = Server::start(&["--kubeconfig", &kubeconfig, "--config", config.to_str().unwrap()]);
    let (extender, metrics) = (server.address("extender"), server.address("metrics"));
    eventually("the webhook is ready", || async { http::get(metrics, "/readyz").await.0 == 200 }).await;
    assert_eq!(http::get(extender, "/readyz/extender").await.0, 503);
    eventually("the extender is ready", || async { http::get(extender, "/readyz/extender").await.0 == 200 }).await;

    let (status, text) = http::get(metrics, "/metrics").await;
    assert_eq!(status, 200);
    for series in [
        "packhorse_build_info{",
        "process_resident_memory_bytes ",
        "packhorse_certs_not_after_seconds{kind=\"webhook\"} ",
        "packhorse_certs_not_after_seconds{kind=\"ca\"} ",
        "packhorse_api_requests_total{verb=\"create\",resource=\"secrets\",code=\"201\"} 1",
    ] {
        assert!(text.contains(series), "{series} in {text}");
    }

    let mut families: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    families.sort_unstable();
    assert!(families.windows(2).all(|pair| pair[0] != pair[1]), "a family twice is no valid exposition: {families:#?}");

    server.terminate();
    eventually("readiness is off while it still answers", || async {
        http::ask(metrics, "GET", "/readyz", "")
            .await
            .is_ok_and(|(status, why)| status == 503 && why.contains("stopping"))
    })
    .await;
    assert_eq!(server.ended().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespaces_label_decides_what_a_count_alone_means_there() {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key, authority) = certificate_files(directory.path());
    let (api, kubeconfig) = cluster(directory.path()).await;
    let label = |value: &str| json!({"metadata": {"name": "team", "labels": {"packhorse.dev/count-alone": value}}});
    api.objects().create("namespaces", label("share-50")).unwrap();
    let server = Server::start(&["--kubeconfig", &kubeconfig, "--tls-cert", &certificate, "--tls-key", &key]);
    let (webhook, metrics) = (server.address("webhook"), server.address("metrics"));
    eventually("ready", || async { http::get(metrics, "/readyz").await.0 == 200 }).await;

    let container = json!({"name": "main", "image": "i", "resources": {"limits": {"nvidia.com/gpu": "1"}}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "team"},
                     "spec": {"containers": [container]}});
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "team", "operation": "CREATE", "userInfo": {}, "object": pod}});
    let review = review.to_string();
    let request = || async {
        let client = super::certs::callers::trusting(&authority.certificate);
        let (status, answer) = http::ask_tls(webhook, NAME, client, "POST", "/mutate", &review).await.unwrap();
        assert_eq!(status, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let patch = super::certs::api::decoded(&answer["response"]["patch"]).unwrap_or_else(|| panic!("{answer}"));
        let patch: Value = serde_json::from_str(&patch).unwrap();
        patch.to_string()
    };
    let shared = request().await;
    assert!(shared.contains("memoryPercent") && !shared.contains("exclusive"), "{shared}");
    api.objects().patch("namespaces", "", "team", &label("exclusive")).unwrap();
    eventually("the changed label is in effect", || async { request().await.contains("exclusive") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_and_log_level_change_while_it_runs() {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key, _) = certificate_files(directory.path());
    let (_api, kubeconfig) = cluster(directory.path()).await;
    let config = directory.path().join("config.yaml");
    let write = |text: &str| std::fs::write(&config, format!("server: {{reloadInterval: 100ms}}\n{text}")).unwrap();
    write("logLevel: info\n");
    let flags = ["--kubeconfig", &kubeconfig, "--tls-cert", &certificate, "--tls-key", &key];
    let server = Server::start(&[&flags[..], &["--config", config.to_str().unwrap()]].concat());
    let metrics = server.address("metrics");
    let says =
        |part: &'static str| move |line: &Value| line["message"].as_str().is_some_and(|text| text.contains(part));

    write("logLevel: debug\ncertificates: {settle: 7s}\n");
    let line = server.logged("the change", says("configuration: changed"));
    assert_eq!(line["keys"], "certificates.settle, logLevel");

    std::fs::write(&config, "server: {reloadInterval: 200ms}\nlogLevel: debug\ncertificates: {settle: 7s}\n").unwrap();
    let line = server.logged("a key that waits for a restart", says("read at the start"));
    assert_eq!(line["keys"], "server.reloadInterval");

    write("logLevel: debug\nnonsense: 1\n");
    let line = server.logged("the damaged file", says("cannot be used"));
    assert!(line["problem"].as_str().unwrap().contains("line 3: unknown field `nonsense`"), "{line}");
    let (_, text) = http::get(metrics, "/metrics").await;
    for series in ["{outcome=\"applied\"} 1", "{outcome=\"damaged\"} 1"] {
        assert!(text.contains(&format!("packhorse_config_reloads_total{series}")), "{text}");
    }

    assert_eq!(http::ask(metrics, "PUT", "/log", "warn,packhorse=trace").await.unwrap().0, 200);
    let (status, error) = http::ask(metrics, "PUT", "/log", "loud=loud").await.unwrap();
    assert!(status == 400 && error.contains("error, warn, info"), "{status} {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_served_with_the_metrics_unless_switched_off_and_an_open_one_does_not_hold_up_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key, _) = certificate_files(directory.path());
    let (_api, kubeconfig) = cluster(directory.path()).await;
    let config = directory.path().join("config.yaml");
    for (dashboard, status) in [(true, 200), (false, 404)] {
        std::fs::write(&config, format!("server: {{dashboard: {dashboard}, shutdownDelay: 100ms}}\n")).unwrap();
        let flags = ["--kubeconfig", &kubeconfig, "--tls-cert", &certificate, "--tls-key", &key];
        let mut server = Server::start(&[&flags[..], &["--config", config.to_str().unwrap()]].concat());
        let metrics = server.address("metrics");
        for path in ["/", "/api/v1/cluster"] {
            assert_eq!(http::get(metrics, path).await.0, status, "{path} with dashboard: {dashboard}");
        }
        for name in ["webhook", "extender"] {
            assert_ne!(server.address(name), metrics);
        }
        assert_eq!(http::get(server.address("extender"), "/").await.0, 404, "only there");

        let mut open = TcpStream::connect(metrics).await.unwrap();
        open.write_all(b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut begin = [0; 12];
        open.read_exact(&mut begin).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&begin), format!("HTTP/1.1 {status}"));
        let began = Instant::now();
        server.terminate();
        assert_eq!(server.ended().code(), Some(0));
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "calls in flight may take 25 s, and this one never ends by itself"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_mutual_tls_the_extender_admits_only_known_clients() {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key, authority) = certificate_files(directory.path());
    let (_api, kubeconfig) = cluster(directory.path()).await;
    let client_ca = directory.path().join("ca.crt");
    std::fs::write(&client_ca, &authority.certificate).unwrap();
    let webhook = ["--kubeconfig", &kubeconfig, "--tls-cert", &certificate, "--tls-key", &key];
    let extender = ["--extender-tls-cert", &certificate, "--extender-tls-key", &key];
    let server =
        Server::start(&[&webhook[..], &extender, &["--extender-client-ca", client_ca.to_str().unwrap()]].concat());
    let address = server.address("extender");

    let ask = |config| http::ask_tls(address, NAME, config, "GET", "/healthz", "");
    assert_eq!(ask(client(&authority, Some(&authority))).await.unwrap().0, 200);
    let stranger = Authority::generate(SystemTime::now(), Duration::from_secs(3600)).unwrap();
    assert!(ask(client(&authority, None)).await.is_err(), "no certificate");
    assert!(ask(client(&authority, Some(&stranger))).await.is_err(), "a certificate of another CA");
    assert!(http::ask(address, "GET", "/healthz", "").await.is_err(), "no TLS");
}

/// A client that trusts `server`, with a certificate signed by `signer`.
fn client(server: &Authority, signer: Option<&Authority>) -> Arc<rustls::ClientConfig> {
    let Some(signer) = signer else { return super::certs::callers::trusting(&server.certificate) };
    let mut params = rcgen::CertificateParams::new(vec!["kube-scheduler".to_owned()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = rcgen::KeyPair::generate().unwrap();
    let signing_key = rcgen::KeyPair::from_pem(&signer.key).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&signer.certificate, signing_key).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    super::certs::callers::trusting_with(&server.certificate, certificate.der().clone(), key.serialize_der())
}

/// A listener whose `/slow` answers when told to; with `apart`, on a thread of its own.
async fn slow_server(
    limits: Limits,
    apart: bool,
) -> (SocketAddr, Arc<Notify>, Arc<Notify>, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (at_begin, at_end) = (Arc::clone(&begun), Arc::clone(&go_on));
    let slow = async move || {
        at_begin.notify_one();
        at_end.notified().await;
        "done"
    };
    let router = axum::Router::new().route("/slow", axum::routing::get(slow));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async { _ = stopped.await };
    let running = if apart {
        tokio::spawn(serve::run_apart("slow", listener, None, router, limits, shutdown).unwrap())
    } else {
        tokio::spawn(async move { serve::run_with(listener, None, router, &limits, shutdown).await })
    };
    (address, begun, go_on, stop, running)
}

#[tokio::test]
async fn a_call_in_flight_is_finished_before_the_listener_ends() {
    for apart in [false, true] {
        let (address, begun, go_on, stop, running) = slow_server(Limits::default(), apart).await;
        let call = tokio::spawn(http::ask(address, "GET", "/slow", ""));
        begun.notified().await;
        stop.send(()).unwrap();
        eventually("the listener is closed", || async { TcpStream::connect(address).await.is_err() }).await;
        assert!(!running.is_finished(), "it waits for the call");
        go_on.notify_one();
        assert_eq!(call.await.unwrap(), Ok((200, "done".to_owned())));
        running.await.unwrap();
    }
}

#[tokio::test]
async fn a_listener_on_a_thread_of_its_own_ends_with_whoever_waits_for_it() {
    let (address, _, go_on, _stop, running) = slow_server(Limits::default(), true).await;
    go_on.notify_one();
    assert_eq!(http::ask(address, "GET", "/slow", "").await, Ok((200, "done".to_owned())));
    running.abort();
    eventually("the listener is closed", || async { TcpStream::connect(address).await.is_err() }).await;
}

#[tokio::test]
async fn a_call_that_never_ends_does_not_keep_the_process() {
    let limits = Limits { drain: Duration::from_millis(200), ..Limits::default() };
    let (address, begun, _, stop, running) = slow_server(limits, false).await;
    let _call = tokio::spawn(http::ask(address, "GET", "/slow", ""));
    begun.notified().await;
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_peer_that_asks_nothing_is_sent_away_and_an_idle_one_is_kept() {
    let limits = Limits { first_request: Duration::from_millis(300), ..Limits::default() };
    let (address, _, go_on, _stop, _running) = slow_server(limits, false).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut idle = TcpStream::connect(address).await.unwrap();
    let request = b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n";
    for _ in 0..2 {
        idle.write_all(request).await.unwrap();
        go_on.notify_one();
        let mut answer = vec![0; 1024];
        let length = idle.read(&mut answer).await.unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"));
        let closed = tokio::time::timeout(Duration::from_secs(10), silent.read(&mut answer)).await.unwrap();
        assert_eq!(closed.unwrap_or(0), 0, "the silent peer was told nothing");
    }
}

#[tokio::test]
async fn connections_beyond_the_cap_wait_instead_of_failing() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let (address, begun, go_on, _stop, _running) = slow_server(limits, false).await;
    let first = tokio::spawn(http::ask(address, "GET", "/slow", ""));
    begun.notified().await;
    let second = tokio::spawn(http::ask(address, "GET", "/slow", ""));
    assert!(tokio::time::timeout(Duration::from_millis(300), begun.notified()).await.is_err(), "one at a time");
    go_on.notify_one();
    assert_eq!(first.await.unwrap().unwrap().0, 200);
    begun.notified().await;
    go_on.notify_one();
    assert_eq!(second.await.unwrap().unwrap().0, 200);
}
