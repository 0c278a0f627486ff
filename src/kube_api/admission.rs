//! The wire types of admission: `AdmissionReview` of `admission.k8s.io/v1`, in and out.
//!
//! Read by the webhook alone. A review borrows from the request's bytes. Its objects are whatever the reader asks for: a view, read in
//! the same pass, or the text as it is, for a review whose object may be anything. Damaged input becomes a [`ReviewError`], which carries the request's uid
//! where it could be read: with it the answer is a proper denial, without it only HTTP 400 is left.

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::pod::Text;

/// The only version spoken.
pub const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// One question of the API server, about objects read as `O`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "O: Deserialize<'de>"))]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct Request<'a, O> {
    #[serde(borrow)]
    pub uid: Text<'a>,
    #[serde(borrow, default)]
    pub kind: Kind<'a>,
    #[serde(borrow, default)]
    pub sub_resource: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub namespace: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub operation: Text<'a>,
    #[serde(default = "Option::default")]
    pub object: Option<O>,
    #[serde(default = "Option::default")]
    pub old_object: Option<O>,
}

/// Group, version and kind of the object.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct Kind<'a> {
    #[serde(borrow)]
    pub group: Text<'a>,
    #[serde(borrow)]
    pub version: Text<'a>,
    #[serde(borrow)]
    pub kind: Text<'a>,
}

impl Kind<'_> {
    /// Whether the object is a Pod of the core group.
    pub fn is_pod(&self) -> bool {
        self.group.is_empty() && &*self.version == "v1" && &*self.kind == "Pod"
    }
}

/// Why a body is no review that can be answered on its merits.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// Not JSON of the right shape.
    #[error("the body is not an AdmissionReview: {problem}; send JSON of {API_VERSION}")]
    Damaged {
        /// The request's uid, where it could be read.
        uid: Option<String>,
        /// What the decoder said.
        problem: String,
    },
    /// Another version or kind.
    #[error(
        "apiVersion {api_version:?}, kind {kind:?}: only {KIND} of {API_VERSION} is understood; write admissionReviewVersions: [v1] in \
         the webhook configuration"
    )]
    Version {
        /// The request's uid, where it could be read.
        uid: Option<String>,
        /// As sent.
        api_version: String,
        /// As sent.
        kind: String,
    },
    /// A review without a request.
    #[error("the AdmissionReview has no request; send one with request.uid and request.object")]
    NoRequest,
}

impl ReviewError {
    /// The uid to answer with; `None` where none was sent.
    pub fn uid(&self) -> Option<&str> {
        match self {
            Self::Damaged { uid, .. } | Self::Version { uid, .. } => uid.as_deref(),
            Self::NoRequest => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "O: Deserialize<'de>"))]
struct Envelope<'a, O> {
    #[serde(borrow, default)]
    api_version: Text<'a>,
    #[serde(borrow, default)]
    kind: Text<'a>,
    #[serde(borrow, default = "Option::default")]
    request: Option<Request<'a, O>>,
}

/// What of a damaged review is still worth reading.
#[derive(Deserialize)]
struct Remains {
    #[serde(default)]
    request: Option<RemainsRequest>,
}

#[derive(Deserialize)]
struct RemainsRequest {
    #[serde(default)]
    uid: Option<String>,
}

/// Reads a review and leaves its objects as they are.
///
/// # Errors
/// Where the body is damaged, of another version, or carries no request with a uid.
pub fn read(body: &[u8]) -> Result<Request<'_, &RawValue>, ReviewError> {
    let envelope: Envelope<'_, &RawValue> = serde_json::from_slice(body).map_err(|error| ReviewError::Damaged {
        uid: serde_json::from_slice::<Remains>(body)
            .ok()
            .and_then(|remains| remains.request)
            .and_then(|request| request.uid)
            .filter(|uid| !uid.is_empty()),
        problem: error.to_string(),
    })?;
    checked(envelope)
}

/// Reads a review and its objects in one pass; `None` where [`read`] has to tell what is wrong, with the review or with an object.
pub fn read_with<'a, O: Deserialize<'a>>(body: &'a [u8]) -> Option<Request<'a, O>> {
    // Checked at once, for the decoder does not look at the text it skips.
    let body = std::str::from_utf8(body).ok()?;
    checked(serde_json::from_str::<Envelope<'a, O>>(body).ok()?).ok()
}

fn checked<O>(envelope: Envelope<'_, O>) -> Result<Request<'_, O>, ReviewError> {
    if &*envelope.api_version != API_VERSION || &*envelope.kind != KIND {
        return Err(ReviewError::Version {
            uid: envelope.request.map(|request| request.uid.to_string()).filter(|uid| !uid.is_empty()),
            api_version: envelope.api_version.to_string(),
            kind: envelope.kind.to_string(),
        });
    }
    let request = envelope.request.ok_or(ReviewError::NoRequest)?;
    if request.uid.is_empty() {
        return Err(ReviewError::Damaged { uid: None, problem: "request.uid is empty".to_owned() });
    }
    Ok(request)
}

/// One answer to the API server. Whatever it says, it travels with HTTP 200: anything else counts as a webhook that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The request's.
    pub uid: String,
    /// Yes or no.
    pub verdict: Verdict,
    /// Shown to the user by kubectl, whatever the verdict.
    pub warnings: Vec<String>,
}

/// Yes or no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Admitted, changed by a JSON Patch (the bytes of the operations) where there is one.
    Allowed {
        /// The serialised operations; `None`: the object stays as it is.
        patch: Option<Vec<u8>>,
    },
    /// Refused.
    Denied {
        /// The HTTP status that the user's own request gets.
        code: u16,
        /// What is wrong and what to write instead.
        message: String,
    },
}

#[derive(Serialize)]
struct StatusWire<'a> {
    status: &'static str,
    code: u16,
    message: &'a str,
}

impl Response {
    /// The review that carries this answer. Most of it is the patch, which is encoded where it belongs: a serializer would look at each
    /// of its bytes once more.
    ///
    /// # Errors
    /// None is known: strings and numbers always serialise. The caller answers HTTP 500 should one appear.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let patched = match &self.verdict {
            Verdict::Allowed { patch } => patch.as_ref().map_or(0, Vec::len),
            Verdict::Denied { message, .. } => message.len(),
        };
        let mut json = String::with_capacity(256 + patched * 3 / 2);
        json += r#"{"apiVersion":""#;
        json += API_VERSION;
        json += r#"","kind":""#;
        json += KIND;
        json += r#"","response":{"uid":"#;
        json += &serde_json::to_string(&self.uid)?;
        match &self.verdict {
            Verdict::Allowed { patch: None } => json += r#","allowed":true"#,
            Verdict::Allowed { patch: Some(patch) } => {
                json += r#","allowed":true,"patchType":"JSONPatch","patch":""#;
                base64::engine::general_purpose::STANDARD.encode_string(patch, &mut json);
                json.push('"');
            }
            Verdict::Denied { code, message } => {
                json += r#","allowed":false,"status":"#;
                json += &serde_json::to_string(&StatusWire { status: "Failure", code: *code, message })?;
            }
        }
        if !self.warnings.is_empty() {
            json += r#","warnings":"#;
            json += &serde_json::to_string(&self.warnings)?;
        }
        json += "}}";
        Ok(json.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_review_and_keeps_the_object_as_written() {
        let body = br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u1","kind":{"group":"","version":"v1",
            "kind":"Pod"},"operation":"CREATE","namespace":"a","object":{"new":[1, 2]},"oldObject":null,"somethingNew":1}}"#;
        let request = read(body).unwrap();
        assert_eq!(request.object.unwrap().get(), r#"{"new":[1, 2]}"#);
        assert!(request.old_object.is_none());
        assert!(request.kind.is_pod());
    }

    #[test]
    fn a_damaged_review_still_gives_its_uid() {
        for (body, uid) in [
            (
                r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u1","kind":7}}"#,
                Some("u1"),
            ),
            (
                r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"u1"}}"#,
                Some("u1"),
            ),
            (r#"{"request":{"uid":"u1"}}"#, Some("u1")),
            (r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#, None),
            (r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":""}}"#, None),
            (r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u1""#, None),
            ("", None),
            ("\u{7f}[]", None),
        ] {
            let error = read(body.as_bytes()).expect_err(body);
            assert_eq!(error.uid(), uid, "{body}: {error}");
        }
    }

    #[test]
    fn every_answer_is_the_review_that_the_api_server_reads() {
        let patch = br#"[{"op":"remove","path":"/a"}]"#;
        let warnings = vec!["say \"no\"\n".to_owned()];
        for (patch, warnings) in
            [(None, vec![]), (Some(patch), vec![]), (None, warnings.clone()), (Some(patch), warnings)]
        {
            let mut expected = serde_json::json!({"uid": "u\"1", "allowed": true});
            if let Some(patch) = patch {
                expected["patchType"] = "JSONPatch".into();
                expected["patch"] = base64::engine::general_purpose::STANDARD.encode(patch).into();
            }
            if !warnings.is_empty() {
                expected["warnings"] = warnings.clone().into();
            }
            let verdict = Verdict::Allowed { patch: patch.map(|patch| patch.to_vec()) };
            let json = Response { uid: "u\"1".to_owned(), verdict, warnings }.to_json().unwrap();
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(
                json,
                serde_json::json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": expected})
            );
        }
    }

    #[test]
    fn a_denial_carries_code_and_message_and_no_patch() {
        let response = Response {
            uid: "u1".to_owned(),
            verdict: Verdict::Denied { code: 422, message: "no".to_owned() },
            warnings: vec![],
        };
        let json: serde_json::Value = serde_json::from_slice(&response.to_json().unwrap()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response":
                {"uid": "u1", "allowed": false, "status": {"status": "Failure", "code": 422, "message": "no"}}})
        );
    }
}
