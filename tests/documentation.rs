//! What the product says is explained in `docs/troubleshoot.md`: a user who meets a text of ours finds it there.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use packhorse::gpu::reason::Reason;

fn page() -> String {
    fs::read_to_string(root().join("docs/troubleshoot.md")).unwrap()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All sources of the product, without their tests.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                walk(&path, found);
            } else if name.ends_with(".rs") && name != "tests.rs" {
                let text = fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
                found.push((path.display().to_string(), text));
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join("src"), &mut found);
    found
}

/// The string literal at the beginning of `text`, as it will be shown.
fn literal(text: &str) -> Option<String> {
    let rest = text.trim_start().strip_prefix('"')?;
    let mut out = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return Some(out),
            '\\' => match chars.next()? {
                '\n' => {
                    let rest = chars.as_str().trim_start();
                    chars = rest.chars();
                }
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
}

/// What stands between the values of a format.
fn fixed_parts(format: &str) -> Vec<&str> {
    let parts = format.split(['{', '}']).step_by(2);
    parts
        .map(|part| part.trim_matches([' ', ':', ',', ';', '.', '(', ')', '"']))
        .filter(|part| part.len() > 3)
        .collect()
}

#[test]
fn every_reason_of_a_pending_pod_is_explained() {
    let page = page();
    for reason in Reason::ALL {
        assert!(page.contains(&format!("| `{}` | ", reason.as_str())), "{reason:?}");
    }
}

#[test]
fn every_refusal_of_a_start_is_explained() {
    let text = fs::read_to_string(root().join("src/agent/start/fault.rs")).unwrap();
    let names = text.split("fn as_str").nth(1).unwrap().split("fn lasts").next().unwrap();
    let labels: Vec<String> = names.split("=> ").skip(1).filter_map(literal).collect();
    assert!(labels.len() > 20, "{labels:?}");
    let page = page();
    for label in labels {
        assert!(page.contains(&format!("| `{label}` | ")), "{label}");
    }
}

#[test]
fn every_event_is_explained() {
    let mut reasons = BTreeSet::new();
    // The demo has events of Kubernetes.
    for (_, text) in sources().into_iter().filter(|(file, _)| !file.contains("/demo/")) {
        for call in [
            "events.node(",
            "events.pod(",
            "self.damaged(",
            "reports.tell(",
            "reports.is_new(",
            "reason: ",
            "let reason = ",
        ] {
            for rest in text.split(call).skip(1) {
                let rest = rest.split(';').next().unwrap_or_default();
                let words = rest.split('"').skip(1).step_by(2);
                reasons.extend(words.filter(|word| is_reason(word)).map(str::to_owned));
            }
        }
    }
    assert!(reasons.len() > 8 && reasons.contains("BoundButCannotStart"), "{reasons:?}");
    let page = page();
    for reason in reasons {
        assert!(page.contains(&format!("`{reason}`")), "{reason}");
    }
}

/// Events' reasons are written `LikeThis`.
fn is_reason(word: &str) -> bool {
    word.len() > 3
        && word.starts_with(|c: char| c.is_ascii_uppercase())
        && word.chars().all(|c| c.is_ascii_alphanumeric())
        && word.chars().any(|c| c.is_ascii_lowercase())
        && word.chars().filter(char::is_ascii_uppercase).count() > 1
}

#[test]
fn every_error_is_explained() {
    let page = page();
    let mut seen = 0;
    let mut missing = Vec::new();
    for (file, text) in sources() {
        for rest in text.split("#[error(").skip(1) {
            let Some(format) = literal(rest) else { continue };
            // What only passes another error on has no words of its own.
            let Some(words) = fixed_parts(&format).into_iter().max_by_key(|part| part.len()) else { continue };
            seen += 1;
            if !page.contains(words) {
                missing.push(format!("{file}: {format}"));
            }
        }
    }
    assert!(seen > 70, "{seen}");
    assert!(missing.is_empty(), "docs/troubleshoot.md does not tell of\n{}", missing.join("\n"));
}

/// Whether the product has a metric of that name.
pub(crate) fn registered(name: &str) -> bool {
    sources().iter().any(|(_, text)| text.contains(&format!("\"{name}\"")))
}

#[test]
fn every_metric_that_a_page_names_exists() {
    let registered: String = sources().into_iter().map(|(_, text)| text).collect();
    let mut seen = 0;
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let page = fs::read_to_string(&path).unwrap();
        for rest in page.split("packhorse_").skip(1) {
            let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            let name =
                ["_total", "_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
            // The names of CDI files begin alike.
            if name.is_empty() {
                continue;
            }
            seen += 1;
            assert!(registered.contains(&format!("\"packhorse_{name}\"")), "{}: packhorse_{name}", path.display());
        }
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn every_metric_is_on_its_page_and_the_page_names_no_other() {
    let mut exposed = BTreeSet::new();
    for (_, text) in sources() {
        for start in ["packhorse_", "DCGM_FI_DEV_"] {
            for rest in text.split(&format!("\"{start}")).skip(1) {
                let name = rest.split('"').next().unwrap_or_default();
                // What ends with an underscore is the beginning of names.
                let whole = !name.is_empty() && !name.ends_with('_');
                if whole && name.chars().all(|c| c.is_ascii_alphabetic() || c == '_') {
                    exposed.insert(format!("{start}{name}"));
                }
            }
        }
    }
    // Of the process: the client library appends the unit.
    let process = fs::read_to_string(root().join("src/metrics/process.rs")).unwrap();
    for rest in process.split("\"process_").skip(1) {
        exposed.insert(format!("process_{}", rest.split('"').next().unwrap_or_default()));
    }
    let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let named: BTreeSet<String> = rows.map(|(name, _)| name.to_owned()).collect();
    let named: BTreeSet<String> = named
        .into_iter()
        .map(|name| match name.strip_prefix("process_") {
            Some(own) => format!("process_{}", own.trim_end_matches("_seconds").trim_end_matches("_bytes")),
            None => name,
        })
        .collect();
    assert!(exposed.len() > 60, "{exposed:?}");
    assert_eq!(exposed, named);
}
