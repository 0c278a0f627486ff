//! Reads a filter request whose `NodeNames` come last, as kube-scheduler writes it, without building a list of them.
//!
//! 5,000 names of 40 characters are 99 % of such a request. The part before them is ordinary JSON and parsed as such; the names are
//! compared where they lie. Whatever looks unusual in any way (white space, an escape, fields after the names) is left to the
//! ordinary parser, so that this one can be simple: it accepts only what it reads exactly as the ordinary one would.

use super::roster::{Found, Reading};

const KEY: &str = "\"NodeNames\":[";

/// A request in two parts.
#[derive(Debug)]
pub(super) struct Split<'a> {
    /// The request with `null` for the names.
    pub(super) head: Vec<u8>,
    /// The names, from the first quote on.
    names: &'a str,
}

impl<'a> Split<'a> {
    /// `None` where the request does not look like kube-scheduler's. Even then only parsing the head tells whether the names found
    /// are the right ones: a head that is no JSON object was cut in the wrong place.
    pub(super) fn of(body: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?;
        let start = text.find(KEY)? + KEY.len();
        let names = &text[start..];
        // The end must close the list and the object, with nothing after.
        names.trim_ascii_end().strip_suffix("]}")?;
        let mut head = Vec::with_capacity(start + 4);
        head.extend_from_slice(&body[..start - 1]);
        head.extend_from_slice(b"null}");
        Some(Self { head, names })
    }

    /// Whether these names are plainly written; tells `visit` each of them with its node. Where it ends in `false`, what was
    /// visited counts for nothing.
    #[must_use]
    pub(super) fn each(&self, reading: &mut Reading<'_>, mut visit: impl FnMut(&'a str, Found)) -> bool {
        let text = self.names;
        let bytes = text.as_bytes();
        if text.trim_ascii_end() == "]}" {
            return true;
        }
        let mut at = 0;
        loop {
            if bytes.get(at) != Some(&b'"') {
                return false;
            }
            let start = at + 1;
            let rest = &bytes[start..];
            if let Some((length, found)) = reading.take_expected(rest) {
                let Some(name) = text.get(start..start + length) else { return false };
                visit(name, found);
                at = start + length + 1;
            } else {
                let Some(length) = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)) else { return false };
                let Some(name) = text.get(start..start + length) else { return false };
                if rest[length] != b'"' {
                    return false;
                }
                visit(name, reading.find(name));
                at = start + length + 1;
            }
            match bytes.get(at) {
                Some(b',') => at += 1,
                Some(b']') => return text[at..].trim_ascii_end() == "]}",
                _ => return false,
            }
        }
    }

    /// The same names once more. Only after [`Split::each`] found them plainly written.
    pub(super) fn again(&self) -> impl Iterator<Item = &'a str> {
        self.names.split('"').skip(1).step_by(2)
    }
}

#[cfg(test)]
mod tests {
    use super::super::roster::Roster;
    use super::*;
    use crate::ledger::Ledger;

    fn read(body: &str) -> Option<(String, Vec<String>)> {
        let split = Split::of(body.as_bytes())?;
        let mut names = Vec::new();
        let ledger = Ledger::default();
        let roster = Roster::default();
        let mut reading = roster.read(&ledger);
        if !split.each(&mut reading, |name, _| names.push(name.to_owned())) {
            return None;
        }
        assert_eq!(split.again().collect::<Vec<_>>(), names);
        Some((String::from_utf8(split.head).unwrap(), names))
    }

    #[test]
    fn reads_what_kube_scheduler_writes() {
        for (body, names) in [
            (r#"{"Pod":{"a":1},"Nodes":null,"NodeNames":["n1","n2"]}"#, vec!["n1", "n2"]),
            ("{\"Pod\":{\"a\":1},\"Nodes\":null,\"NodeNames\":[\"n1\"]}\n", vec!["n1"]),
            (r#"{"Pod":{"a":1},"Nodes":null,"NodeNames":[]}"#, vec![]),
            (r#"{"Pod":{"a":1},"Nodes":null,"NodeNames":["ä"]}"#, vec!["ä"]),
        ] {
            let (head, read) = read(body).expect(body);
            assert_eq!(head, r#"{"Pod":{"a":1},"Nodes":null,"NodeNames":null}"#);
            assert_eq!(read, names);
        }
    }

    #[test]
    fn leaves_everything_unusual_to_the_ordinary_parser() {
        for body in [
            r#"{"NodeNames":["n1","n2"],"Pod":{}}"#,
            r#"{"NodeNames":["n1" ,"n2"]}"#,
            r#"{"NodeNames": ["n1"]}"#,
            r#"{"nodenames":["n1"]}"#,
            r#"{"NodeNames":["n1",]}"#,
            r#"{"NodeNames":["n1"]"#,
            r#"{"NodeNames":["n1"]}}"#,
            r#"{"NodeNames":["a\u0062"]}"#,
            "{\"NodeNames\":[\"a\nb\"]}",
            r#"{"NodeNames":["a]}"#,
            r#"{"NodeNames":[1]}"#,
            r#"{"NodeNames":[["n1"]]}"#,
            r#"{"NodeNames":null}"#,
        ] {
            assert_eq!(read(body), None, "{body}");
        }
        // Names within the pod: the head is then no JSON, which whoever parses it notices.
        let (head, _) = read(r#"{"Pod":{"x":{"NodeNames":["n1"]}"#).expect("looks usual");
        assert!(serde_json::from_str::<serde_json::Value>(&head).is_err());
        assert_eq!(read(r#"{"Pod":{"x":{"NodeNames":["n1"]}},"NodeNames":["n2"]}"#), None);
    }
}
