//! Reviews that are not what they should be.

use packhorse::webhook::{Answer, Settings};
use serde_json::{Value, json};

use super::review::{answer, create, creation, extension, pod, visible, webhook};

#[test]
fn a_review_with_a_uid_is_denied_with_a_reason() {
    let webhook = webhook(Settings::default());
    let sound = creation(&pod(json!({"nvidia.com/gpu": "1"})));
    let change = |path: &str, value: Value| {
        let mut review = sound.clone();
        *review.pointer_mut(path).unwrap() = value;
        review
    };
    let mut ephemeral = extension(&json!({}), &pod(json!({})));
    ephemeral["request"]["oldObject"] = json!([]);
    for (review, parts) in [
        (change("/request/object", Value::Null), ["no object", "request.object"]),
        (change("/request/object", json!([1])), ["request.object", "not a Pod"]),
        (change("/request/object", json!("text")), ["request.object", "not a Pod"]),
        (change("/request/object/spec/containers", json!("none")), ["request.object", "not a Pod"]),
        (change("/apiVersion", json!("admission.k8s.io/v1beta1")), ["v1beta1", "admissionReviewVersions: [v1]"]),
        (change("/apiVersion", json!("admission.k8s.io/v2")), ["admission.k8s.io/v2", "admissionReviewVersions: [v1]"]),
        (change("/kind", json!("Pod")), ["\"Pod\"", "AdmissionReview"]),
        (
            change("/request/kind", json!({"group": "apps", "version": "v1", "kind": "Deployment"})),
            ["Deployment", "pods"],
        ),
        (change("/request/kind", json!(7)), ["AdmissionReview", "invalid type"]),
        (change("/request/operation", json!({})), ["AdmissionReview", "invalid type"]),
        (ephemeral, ["request.oldObject", "not a Pod"]),
    ] {
        let (code, message) = answer(&webhook, &review).verdict.expect_err(&review.to_string());
        assert_eq!(code, 400, "{message}");
        for part in parts {
            assert!(message.contains(part), "{part:?} not in {message:?}");
        }
    }
}

#[test]
fn a_body_without_a_uid_is_a_bad_request() {
    let webhook = webhook(Settings::default());
    let truncated = creation(&pod(json!({}))).to_string();
    for body in [
        "",
        "{}",
        "null",
        "[]",
        "not json",
        r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#,
        r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{}}"#,
        r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":""}}"#,
        &truncated[..truncated.len() / 2],
        &"[".repeat(100_000),
    ] {
        let Answer::BadRequest(text) = webhook.answer(body.as_bytes()) else { panic!("{body:.80}") };
        assert!(text.contains("AdmissionReview"), "{text}");
    }
    let Answer::BadRequest(_) = webhook.answer(b"{\"request\":{\"uid\":\"\xff\"}}") else { panic!("not UTF-8") };
}

#[test]
fn a_pod_that_is_not_utf_8_is_denied_wherever_that_stands() {
    let mut asked = pod(json!({"nvidia.com/gpu": "1"}));
    asked["spec"]["unknownToUs"] = json!("HERE");
    let mut body = creation(&asked).to_string().into_bytes();
    let webhook = webhook(Settings::default());
    let allowed = |body: &[u8]| {
        let Answer::Review(answer) = webhook.answer(body) else { panic!("no review") };
        serde_json::from_slice::<Value>(&answer).unwrap()["response"]["allowed"] == true
    };
    assert!(allowed(&body));
    let here = body.windows(4).position(|window| window == b"HERE").unwrap();
    body[here] = 0xff;
    assert!(!allowed(&body));
}

#[test]
fn a_review_without_a_kind_or_operation_is_taken_for_a_pod_s_creation() {
    let mut review = creation(&pod(json!({"nvidia.com/gpu": "1"})));
    let request = review["request"].as_object_mut().unwrap();
    request.remove("kind");
    request.remove("operation");
    assert!(!answer(&webhook(Settings::default()), &review).patch.is_empty());
}

#[test]
fn nulls_are_absent_fields() {
    let mut asked = pod(json!({"nvidia.com/gpu": "1"}));
    for field in [
        "initContainers",
        "ephemeralContainers",
        "tolerations",
        "nodeSelector",
        "runtimeClassName",
        "nodeName",
        "schedulerName",
    ] {
        asked["spec"][field] = Value::Null;
    }
    asked["metadata"]["annotations"] = Value::Null;
    asked["metadata"]["labels"] = Value::Null;
    asked["spec"]["containers"][0]["resources"]["requests"] = Value::Null;
    asked["spec"]["containers"][0]["env"] = Value::Null;
    assert_eq!(create(&asked).admitted()["spec"]["schedulerName"], "packhorse");
    asked["spec"]["containers"] = Value::Null;
    // No containers at all: for the API server to refuse.
    create(&asked).untouched();
}

#[test]
fn escaped_names_and_texts_are_read_and_patched() {
    let text = creation(&pod(json!({"nvidia.com/gpumem": "4096"})))
        .to_string()
        .replace("nvidia.com/gpumem", "nvidia\\u002ecom\\/gpumem")
        .replace("\"0f2c\"", "\"0f\\u0032c\"");
    let Answer::Review(body) = webhook(Settings::default()).answer(text.as_bytes()) else { panic!() };
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["response"]["uid"], "0f2c");
    assert_eq!(answer["response"]["allowed"], true);
    assert!(answer["response"]["patch"].is_string());
}

#[test]
fn a_pod_of_10_mb_is_mutated_and_keeps_every_byte_of_its_own() {
    let mut asked = pod(json!({"nvidia.com/gpumem": "4000"}));
    let large: Vec<Value> = (0..100_000).map(|i| json!({"name": format!("V{i}"), "value": "x".repeat(80)})).collect();
    asked["spec"]["containers"][0]["env"] = json!(large);
    assert!(asked.to_string().len() > 10_000_000);
    let after = create(&asked).admitted();
    let env = after["spec"]["containers"][0]["env"].as_array().unwrap();
    assert_eq!(env.len(), large.len() + 1);
    assert_eq!(env[..large.len()], large[..]);
}

#[test]
fn an_answer_stays_small_whatever_the_pod() {
    let mut asked = pod(json!({"nvidia.com/gpu": "1"}));
    let long = "x".repeat(10_000);
    let faults = (0..2_000).map(|i| {
        json!({"name": format!("c{i}"), "securityContext": {"privileged": true}, "env": [{"name": "CUDA_MPS_X", "value": long}]})
    });
    asked["spec"]["containers"].as_array_mut().unwrap().extend(faults);
    let message = create(&asked).denied();
    assert!(
        message.starts_with("4000 faults: (1) ") && message.len() < 50_000,
        "{} bytes: {message:.200}",
        message.len()
    );

    let voided = (0..2_000).map(|i| json!({"name": format!("c{i}"), "env": visible("all")}));
    asked["spec"]["initContainers"] = voided.collect();
    asked["spec"]["containers"].as_array_mut().unwrap().truncate(1);
    let answered = create(&asked);
    assert_eq!(answered.warnings.len(), 51);
    answered.admitted();
}
