//! Reads a filter request whose `NodeNames` come last, as kube-scheduler writes it, without building a list of them.
//!
//! 5,000 names of 40 characters are 99 % of such a request. The part before them is ordinary JSON and parsed as such; the names are
//! compared where they lie, as bytes. Whatever looks unusual in any way (white space, an escape, fields after the names) is left to the
//! ordinary parser, so that this one can be simple: it accepts only what it reads exactly as the ordinary one would.

use super::roster::{Reading, Visit};

const KEY: &[u8] = b"\"NodeNames\":[";

/// A request in two parts.
#[derive(Debug)]
pub(super) struct Split<'a> {
    /// The request with `null` for the names.
    pub(super) head: Vec<u8>,
    /// The names, from the first quote on.
    names: &'a [u8],
}

impl<'a> Split<'a> {
    /// `None` where the request does not look like kube-scheduler's. Even then only parsing the head tells whether the names found
    /// are the right ones: a head that is no JSON object was cut in the wrong place.
    pub(super) fn of(body: &'a [u8]) -> Option<Self> {
        let start = find(body, KEY)? + KEY.len();
        let names = &body[start..];
        // The end must close the list and the object, with nothing after.
        names.trim_ascii_end().strip_suffix(b"]}")?;
        let mut head = Vec::with_capacity(start + 4);
        head.extend_from_slice(&body[..start - 1]);
        head.extend_from_slice(b"null}");
        Some(Self { head, names })
    }

    /// Whether these names are plainly written; tells `visit` of each of them with its node. Where it ends in `false`, what was
    /// visited counts for nothing.
    #[must_use]
    pub(super) fn each(&self, reading: &mut Reading<'_>, visit: &mut impl Visit<'a>) -> bool {
        let bytes = self.names;
        if bytes.trim_ascii_end() == b"]}" {
            return true;
        }
        let mut at = 0;
        loop {
            if bytes.get(at) != Some(&b'"') {
                return false;
            }
            let rest = &bytes[at + 1..];
            // Of expected names nothing needs to be looked at again: they are what the API server takes for names.
            let mut taken = reading.take_expected(rest, visit);
            if taken == 0 {
                let Some(length) = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)) else { return false };
                let name = &rest[..length];
                let Ok(text) = std::str::from_utf8(name) else { return false };
                if rest[length] != b'"' {
                    return false;
                }
                visit.found(name, reading.find(text));
                taken = length + 1;
            }
            at += 1 + taken;
            match bytes.get(at) {
                Some(b',') => at += 1,
                Some(b']') => return bytes[at..].trim_ascii_end() == b"]}",
                _ => return false,
            }
        }
    }

    /// The same names once more. Only after [`Split::each`] found them plainly written.
    pub(super) fn again(&self) -> impl Iterator<Item = &'a [u8]> {
        self.names.split(|b| *b == b'"').skip(1).step_by(2)
    }
}

/// Where `wanted`, which is not empty, is in `bytes` first.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::super::roster::{Found, Roster};
    use super::*;
    use crate::ledger::Ledger;

    #[derive(Default)]
    struct Seen(Vec<String>);

    impl<'a> Visit<'a> for Seen {
        fn known(&mut self, name: &'a [u8], _: usize, _: usize, _: u64) {
            self.0.push(String::from_utf8(name.to_vec()).unwrap());
        }

        fn other(&mut self, name: &'a [u8], _: Found) {
            self.known(name, 0, 0, 0);
        }
    }

    fn read(body: &str) -> Option<(String, Vec<String>)> {
        let split = Split::of(body.as_bytes())?;
        let mut seen = Seen::default();
        let ledger = Ledger::default();
        let roster = Roster::default();
        let mut reading = roster.read(&ledger);
        if !split.each(&mut reading, &mut seen) {
            return None;
        }
        assert!(split.again().eq(seen.0.iter().map(String::as_bytes)));
        Some((String::from_utf8(split.head).unwrap(), seen.0))
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
