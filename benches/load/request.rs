//! kube-scheduler's requests, made beforehand: of a `/filter` body only the pod changes from call to call, so only that is copied.

use std::fmt::Write as _;

use axum::body::Bytes;

use crate::cluster::{object, shape::shape};

/// Stands where a UID will be; as long as one.
const UID: &str = "@@@@@@@@-@@@@-@@@@-@@@@-@@@@@@@@@@@@";

/// The names of all nodes, as every call carries them.
#[derive(Debug, Clone)]
pub struct Names(pub Bytes);

impl Names {
    pub fn new(names: &[String]) -> Self {
        Self(Bytes::from(end(names)))
    }
}

/// The end of a body.
fn end<T: serde::Serialize>(names: &[T]) -> String {
    format!(r#","Nodes":null,"NodeNames":{}}}"#, serde_json::to_string(names).expect("names"))
}

/// The beginning of a body: the pod.
#[derive(Debug)]
pub struct Pod {
    text: String,
    places: Vec<usize>,
}

impl Pod {
    pub fn new(index: usize) -> Self {
        let text = format!(r#"{{"Pod":{}"#, object::pod(UID, shape(index), None));
        let places = text.match_indices(UID).map(|(at, _)| at).collect();
        Self { text, places }
    }

    /// The text for a pod of this UID.
    pub fn named(&mut self, uid: &str) -> &str {
        for at in &self.places {
            self.text.replace_range(*at..*at + UID.len(), uid);
        }
        &self.text
    }
}

/// The end of the body of `/prioritize`: the names that `/filter` answered.
pub fn end_of(names: &[&str]) -> Bytes {
    Bytes::from(end(names))
}

/// The head of a request over HTTP/1.1, as Go writes it.
pub fn head(text: &mut String, path: &str, length: usize) {
    text.clear();
    write!(
        text,
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {length}\r\n\
         Content-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n"
    )
    .expect("a String takes everything");
}
