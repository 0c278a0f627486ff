//! From the bytes of a review to the bytes of its answer. Every body gets one: a review of a pod is decided on, one that cannot
//! be is denied with its uid, and what has no uid is answered in plain text.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::gpu::parse::Rules;
use crate::kube_api::admission::{self, Request, Response, Verdict};
use crate::kube_api::pod::PodView;

use super::decision::Decision;
use super::metrics::Outcome;
use super::settings::Settings;
use super::{Webhook, create, ephemeral};

/// What goes back over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// HTTP 200 and an `AdmissionReview`.
    Review(Vec<u8>),
    /// HTTP 400 and a text, where no uid could be read.
    BadRequest(String),
    /// HTTP 500 and a text: a fault of ours.
    Failure(String),
}

impl Webhook {
    /// Answers one review.
    pub fn answer(&self, body: &[u8]) -> Answer {
        // Nearly every review is of a pod that can be read. What cannot be is looked at again, for words about it.
        if let Some(request) = admission::read_with::<Pod<'_>>(body) {
            return self.decided(body, request);
        }
        match admission::read(body) {
            Ok(request) => self.decided(body, request),
            Err(error) => {
                tracing::warn!(uid = error.uid(), %error, "a review cannot be read");
                self.metrics.count(Outcome::Malformed);
                match error.uid() {
                    Some(uid) => denied(uid, 400, error.to_string()),
                    None => Answer::BadRequest(error.to_string()),
                }
            }
        }
    }

    fn decided<'a>(&self, body: &[u8], mut request: Request<'a, impl Object<'a>>) -> Answer {
        let settings = self.settings.load();
        match decide(&settings, |namespace| self.rules(&settings, namespace), body, &mut request) {
            Ok(Some(decision)) => self.conclude(&request, decision),
            Ok(None) => {
                self.metrics.count(Outcome::Unchanged);
                reviewed(&request.uid, Verdict::Allowed { patch: None }, vec![])
            }
            Err(problem) => {
                tracing::warn!(uid = %request.uid, problem, "a review's object cannot be read");
                self.metrics.count(Outcome::Malformed);
                denied(&request.uid, 400, problem)
            }
        }
    }

    fn conclude<O>(&self, request: &Request<'_, O>, decision: Decision) -> Answer {
        let namespace = request.namespace.as_deref().unwrap_or_default();
        let name = request.name.as_deref().unwrap_or_default();
        if let Some((reason, code, message)) = decision.refusal() {
            tracing::info!(namespace, name, code, message, "pod denied");
            self.metrics.count(Outcome::Denied(reason));
            return reviewed(&request.uid, Verdict::Denied { code, message }, decision.into_parts().1);
        }
        let (patch, warnings) = decision.into_parts();
        match patch.into_json() {
            Ok(patch) => {
                let mutated = patch.is_some();
                tracing::debug!(namespace, name, mutated, warnings = warnings.len(), "pod admitted");
                self.metrics.count(if mutated { Outcome::Mutated } else { Outcome::Unchanged });
                reviewed(&request.uid, Verdict::Allowed { patch }, warnings)
            }
            Err(error) => Answer::Failure(format!("the patch cannot be written: {error}")),
        }
    }

    fn rules(&self, settings: &Settings, namespace: &str) -> Rules {
        Rules {
            prefix: settings.resource_prefix.clone(),
            count_alone: (self.count_alone)(namespace).unwrap_or(settings.count_alone.0),
        }
    }
}

/// `Ok(None)` where the request is not one that we have a say in.
fn decide<'a>(
    settings: &Settings,
    rules: impl Fn(&str) -> Rules,
    body: &[u8],
    request: &mut Request<'a, impl Object<'a>>,
) -> Result<Option<Decision>, String> {
    if !request.kind.kind.is_empty() && !request.kind.is_pod() {
        let kind = &request.kind;
        return Err(format!(
            "the object is a {} of {:?} {}, not a Pod of v1; list only pods and pods/ephemeralcontainers in the webhook configuration",
            kind.kind, kind.group, kind.version
        ));
    }
    let extends = match (&*request.operation, request.sub_resource.as_deref().unwrap_or_default()) {
        ("CREATE" | "", "") => false,
        ("UPDATE", "ephemeralcontainers") => true,
        (operation, subresource) => {
            tracing::debug!(
                operation,
                subresource,
                "nothing to decide: the webhook configuration asks more than it has to"
            );
            return Ok(None);
        }
    };
    let object = request.object.take().ok_or("the request has no object; send the Pod as request.object")?;
    let pod = object.pod().map_err(|problem| format!("request.object is not a Pod: {problem}; send a Pod of v1"))?;
    let namespace = request.namespace.as_deref().or(pod.metadata.namespace.as_deref()).unwrap_or_default();
    let rules = rules(namespace);
    if extends {
        let old = request.old_object.take().map(Object::pod).transpose();
        let old = old.map_err(|problem| format!("request.oldObject is not a Pod: {problem}; send a Pod of v1"))?;
        return Ok(Some(ephemeral::decide(settings, &rules, namespace, &pod, old.as_ref())));
    }
    let decision = create::decide(settings, &rules, namespace, body, &pod);
    decision.map(Some).map_err(|problem| format!("request.object is not a Pod: {problem}; send a Pod of v1"))
}

/// What a review says about, which should be a pod.
trait Object<'a> {
    /// The pod, or what is wrong with it.
    fn pod(self) -> Result<PodView<'a>, String>;
}

impl<'a> Object<'a> for &'a RawValue {
    fn pod(self) -> Result<PodView<'a>, String> {
        // The decoder would take a list for an object with its members in order.
        if !self.get().starts_with('{') {
            return Err("not an object".to_owned());
        }
        serde_json::from_str(self.get()).map_err(|error| error.to_string())
    }
}

/// A pod that was read with its review.
struct Pod<'a>(PodView<'a>);

impl<'a> Object<'a> for Pod<'a> {
    fn pod(self) -> Result<PodView<'a>, String> {
        Ok(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pod<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PodVisitor;
        impl<'de> Visitor<'de> for PodVisitor {
            type Value = Pod<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            // The only form taken, as above.
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                PodView::deserialize(MapAccessDeserializer::new(map)).map(Pod)
            }
        }
        deserializer.deserialize_map(PodVisitor)
    }
}

fn denied(uid: &str, code: u16, message: String) -> Answer {
    reviewed(uid, Verdict::Denied { code, message }, vec![])
}

fn reviewed(uid: &str, verdict: Verdict, warnings: Vec<String>) -> Answer {
    match (Response { uid: uid.to_owned(), verdict, warnings }).to_json() {
        Ok(body) => Answer::Review(body),
        Err(error) => Answer::Failure(format!("the answer cannot be written: {error}")),
    }
}
