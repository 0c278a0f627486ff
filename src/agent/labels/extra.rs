//! Labels that an administrator wants on every node of an agent, `--node-label KEY=VALUE`: for `nodeSelector`s that exist already,
//! such as `gpu=on`.

use std::collections::BTreeMap;
use std::str::FromStr;

/// Longest DNS subdomain, and longest name part of a key or value.
const LONGEST: (usize, usize) = (253, 63);
/// What the agent computes itself: a fixed value here would lie as soon as the devices change.
const COMPUTED: [&str; 5] =
    ["nvidia.com/gpu.", "nvidia.com/mig", "nvidia.com/cuda.", "nvidia.com/mps.", "packhorse.dev/"];

/// One label, valid by Kubernetes' rules
/// (<https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// `[prefix/]name`.
    pub key: String,
    /// May be empty.
    pub value: String,
}

/// Why a text is no label that can be written.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("node label {text:?}: {problem}")]
pub struct Invalid {
    text: String,
    problem: String,
}

impl FromStr for Label {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |problem: String| Invalid { text: text.to_owned(), problem };
        let Some((key, value)) = text.split_once('=') else {
            return Err(invalid("write KEY=VALUE, for example gpu=on".to_owned()));
        };
        let (prefix, name) = match key.rsplit_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, key),
        };
        if let Some(prefix) = prefix
            && !is_subdomain(prefix)
        {
            let (longest, _) = LONGEST;
            return Err(invalid(format!(
                "the key's prefix {prefix:?} must be a DNS name of at most {longest} characters: lower case letters, digits, \
                 dashes and dots, for example example.com"
            )));
        }
        let (_, longest) = LONGEST;
        let rule = format!(
            "at most {longest} letters, digits, dashes, underscores and dots, with a letter or digit at both ends"
        );
        if name.is_empty() || !is_word(name) {
            return Err(invalid(format!("the key's name {name:?} must be {rule}")));
        }
        if !is_word(value) {
            return Err(invalid(format!("the value {value:?} must be empty or {rule}")));
        }
        if let Some(computed) = COMPUTED.iter().find(|computed| key.starts_with(*computed)) {
            return Err(invalid(format!("labels {computed}* are the agent's own to write; choose another key")));
        }
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

/// All of them by key.
///
/// # Errors
/// A key that is given two values.
pub fn collect(labels: &[Label]) -> Result<BTreeMap<String, String>, Invalid> {
    let mut collected = BTreeMap::new();
    for Label { key, value } in labels {
        if let Some(other) = collected.insert(key.clone(), value.clone())
            && other != *value
        {
            let problem = format!("the key is given the value {other:?} too; give it once");
            return Err(Invalid { text: format!("{key}={value}"), problem });
        }
    }
    Ok(collected)
}

fn is_word(text: &str) -> bool {
    let (_, longest) = LONGEST;
    let ends = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= longest
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn is_subdomain(text: &str) -> bool {
    let (longest, _) = LONGEST;
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    text.len() <= longest && text.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_kubernetes_takes() {
        for (text, key, value) in [
            ("gpu=on", "gpu", "on"),
            ("gpu=", "gpu", ""),
            ("example.com/gpu.kind=A100_80.x", "example.com/gpu.kind", "A100_80.x"),
            ("nvidia.com/vgpu=1", "nvidia.com/vgpu", "1"),
        ] {
            let expected = Label { key: key.to_owned(), value: value.to_owned() };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn tells_what_is_wrong_with_the_rest() {
        let long = format!("{}=x", "k".repeat(64));
        let long_value = format!("k={}", "v".repeat(64));
        let long_prefix = format!("{}/k=v", "p".repeat(254));
        for (text, problem) in [
            ("gpu", "write KEY=VALUE"),
            ("=on", "the key's name \"\""),
            ("-gpu=on", "the key's name \"-gpu\""),
            ("gpu=-on", "the value \"-on\""),
            ("gpu=a b", "the value \"a b\""),
            ("a/b/c=d", "the key's prefix \"a/b\""),
            ("Example.com/gpu=on", "the key's prefix \"Example.com\""),
            ("/gpu=on", "the key's prefix \"\""),
            ("grün=on", "the key's name \"grün\""),
            (&long, "at most 63"),
            (&long_value, "at most 63"),
            (&long_prefix, "at most 253"),
            ("nvidia.com/gpu.product=A100", "the agent's own"),
            ("packhorse.dev/driver=host", "the agent's own"),
        ] {
            let error = text.parse::<Label>().expect_err(text).to_string();
            assert!(error.contains(problem) && error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_key_has_one_value() {
        let label = |text: &str| text.parse::<Label>().unwrap();
        assert_eq!(collect(&[label("a=1"), label("a=1"), label("b=2")]).unwrap().len(), 2);
        let error = collect(&[label("a=1"), label("a=2")]).unwrap_err().to_string();
        assert!(error.contains("a=2") && error.contains("\"1\""), "{error}");
    }
}
