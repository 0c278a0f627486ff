//! Asks a webhook as an API server does, and checks of every answer what must hold of all.

use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use packhorse::gpu::parse::{CountAlone, Rules};
use packhorse::gpu::request::PodRequest;
use packhorse::kube_api::pod::PodView;
use packhorse::kube_api::request::read_pod;
use packhorse::webhook::{Answer, Metrics, Settings, Webhook};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

/// The namespace whose label says `share-50`.
pub(crate) const TIME_SLICED: &str = "time-sliced";

/// A webhook with these settings.
pub(crate) fn webhook(settings: Settings) -> Webhook {
    settings.validate().expect("settings of a test");
    let count_alone = |namespace: &str| (namespace == TIME_SLICED).then_some(CountAlone::Share(50));
    Webhook::new(
        Arc::new(ArcSwap::from_pointee(settings)),
        Box::new(count_alone),
        Metrics::new(&mut Registry::default()),
    )
}

/// A pod with one container `main` that limits itself to `limits`; requests are as the API server fills them in.
pub(crate) fn pod(limits: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "team", "creationTimestamp": null},
        "spec": {
            "containers": [{"name": "main", "image": "cuda", "resources": {"limits": limits, "requests": limits}}],
            "schedulerName": "default-scheduler",
            "serviceAccountName": "default",
        },
        "status": {},
    })
}

/// The same with an environment for `main`.
pub(crate) fn pod_with_env(limits: Value, env: Value) -> Value {
    let mut pod = pod(limits);
    pod["spec"]["containers"][0]["env"] = env;
    pod
}

/// The same with annotations.
pub(crate) fn pod_with_annotations(limits: Value, annotations: Value) -> Value {
    let mut pod = pod(limits);
    pod["metadata"]["annotations"] = annotations;
    pod
}

/// `NVIDIA_VISIBLE_DEVICES` as a literal.
pub(crate) fn visible(value: &str) -> Value {
    json!([{"name": "NVIDIA_VISIBLE_DEVICES", "value": value}])
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    /// `Err`: the status code and message of a denial.
    pub(crate) verdict: Result<(), (u64, String)>,
    pub(crate) warnings: Vec<String>,
    /// The operations; empty where there was no patch.
    pub(crate) patch: Vec<Value>,
    /// The pod after the patch; the pod as sent where denied.
    pub(crate) pod: Value,
}

impl Answered {
    /// The pod, which must have been admitted.
    #[track_caller]
    pub(crate) fn admitted(self) -> Value {
        assert_eq!(self.verdict, Ok(()), "{:?}", self.warnings);
        self.pod
    }

    /// The pod must have been admitted as it was.
    #[track_caller]
    pub(crate) fn untouched(&self) {
        assert_eq!((&self.verdict, &self.patch), (&Ok(()), &vec![]), "{:?}", self.warnings);
    }

    /// The message, which must be a denial.
    #[track_caller]
    pub(crate) fn denied(self) -> String {
        self.verdict.expect_err("admitted").1
    }
}

/// The review that creates `pod`.
pub(crate) fn creation(pod: &Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "0f2c", "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "operation": "CREATE", "namespace": pod["metadata"]["namespace"], "userInfo": {"username": "tenant"},
        "object": pod, "oldObject": null, "dryRun": false, "options": {"kind": "CreateOptions"}}})
}

/// The review that adds the ephemeral containers of `pod` to `old`.
pub(crate) fn extension(old: &Value, pod: &Value) -> Value {
    let mut review = creation(pod);
    review["request"]["operation"] = json!("UPDATE");
    review["request"]["subResource"] = json!("ephemeralcontainers");
    review["request"]["oldObject"] = old.clone();
    review
}

/// The answer to one review.
pub(crate) fn answer(webhook: &Webhook, review: &Value) -> Answered {
    let Answer::Review(body) = webhook.answer(review.to_string().as_bytes()) else { panic!("no review for {review}") };
    read(&serde_json::from_slice(&body).expect("JSON"), review)
}

fn read(answer: &Value, review: &Value) -> Answered {
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    let response = &answer["response"];
    assert_eq!(response["uid"], review["request"]["uid"], "the uid is the request's");
    assert_eq!(response["patch"].is_null(), response["patchType"].is_null(), "a patch and its type come together");
    let warnings = serde_json::from_value(response["warnings"].clone()).unwrap_or_default();
    let mut pod = review["request"]["object"].clone();
    if response["allowed"] == json!(false) {
        assert!(response["patch"].is_null(), "a denial changes nothing");
        let status = &response["status"];
        let message = status["message"].as_str().expect("a denial says why").to_owned();
        return Answered {
            verdict: Err((status["code"].as_u64().unwrap_or(0), message)),
            warnings,
            patch: vec![],
            pod,
        };
    }
    assert_eq!(response["allowed"], json!(true));
    let mut patch = Vec::new();
    if let Some(text) = response["patch"].as_str() {
        assert_eq!(response["patchType"], "JSONPatch");
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
        patch = serde_json::from_slice(&bytes).expect("operations");
        assert!(!patch.is_empty(), "no empty patches");
        let operations: json_patch::Patch = serde_json::from_slice(&bytes).expect("a JSON Patch");
        json_patch::patch(&mut pod, &operations).unwrap_or_else(|error| panic!("{error}: {patch:?}"));
    }
    Answered { verdict: Ok(()), warnings, patch, pod }
}

/// Creates `pod` under `settings`; an admitted pod is given back as the API server would store it and must stay as it is.
#[track_caller]
pub(crate) fn create_with(settings: Settings, pod: &Value) -> Answered {
    let prefix = settings.resource_prefix.clone();
    let webhook = webhook(settings);
    let first = answer(&webhook, &creation(pod));
    if first.verdict.is_ok() {
        let stored = stored(&first.pod);
        let second = answer(&webhook, &creation(&stored));
        assert_eq!(second.verdict, Ok(()), "its own output is denied");
        assert_eq!(second.patch, Vec::<Value>::new(), "its own output is changed again");
        let rules = Rules { prefix, ..Rules::default() };
        assert_eq!(request(&rules, &first.pod), request(&rules, &stored), "the request reads differently once stored");
    }
    first
}

/// The same under the shipped settings.
#[track_caller]
pub(crate) fn create(pod: &Value) -> Answered {
    create_with(Settings::default(), pod)
}

/// What the shared parser reads.
pub(crate) fn request(rules: &Rules, pod: &Value) -> PodRequest {
    let text = pod.to_string();
    let view: PodView<'_> = serde_json::from_str(&text).expect("a pod");
    read_pod(rules, &view).unwrap_or_else(|denials| panic!("{denials:?}")).request
}

/// As the API server stores it: quantities in their shortest form, requests where only limits were given.
fn stored(pod: &Value) -> Value {
    let mut pod = pod.clone();
    for list in ["initContainers", "containers"] {
        let Some(containers) = pod["spec"][list].as_array_mut() else { continue };
        for container in containers {
            for kind in ["limits", "requests"] {
                let Some(amounts) = container["resources"][kind].as_object_mut() else { continue };
                for amount in amounts.values_mut() {
                    *amount = json!(shortest(amount.as_str().unwrap_or_default()));
                }
            }
        }
    }
    pod
}

fn shortest(text: &str) -> String {
    let Ok(mut number) = text.parse::<u64>() else { return text.to_owned() };
    let mut suffixes = ["", "k", "M", "G"].iter().peekable();
    while number > 0 && number.is_multiple_of(1000) && suffixes.len() > 1 {
        number /= 1000;
        suffixes.next();
    }
    format!("{number}{}", suffixes.peek().expect("never the last"))
}
