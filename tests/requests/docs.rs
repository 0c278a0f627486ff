//! Every example of `docs/use.md` reads without a warning, as the JSON below it says; every one of `deployments/examples` without
//! a warning.

use super::*;

/// The fenced blocks of the page, by their language.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in page.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some((_, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block stays open");
    blocks
}

#[test]
fn every_example_of_the_documentation_reads_as_it_says() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/use.md")).unwrap();
    let blocks = blocks(&page);
    assert!(blocks.len() >= 30, "{} blocks", blocks.len());
    for pair in blocks.chunks(2) {
        let [(yaml, example), (json, expected)] = pair else { panic!("an example without its meaning: {pair:?}") };
        assert_eq!((yaml.as_str(), json.as_str()), ("yaml", "json"), "{example}");
        let written: Value = serde_saphyr::from_str(example).unwrap_or_else(|error| panic!("{error}:\n{example}"));
        let pod = if written.get("kind").is_some() {
            written
        } else {
            let mut container = written;
            container["name"] = json!("main");
            json!({"spec": {"containers": [container]}})
        };
        let parsed = read(&pod).unwrap_or_else(|denials| panic!("{}:\n{example}", denials[0]));
        assert_eq!(encode(&parsed.request), expected.trim_end(), "{example}");
        assert_eq!(parsed.warnings, [""; 0], "{example}");
        assert_idempotent(&Rules::default(), &pod);
    }
}

#[test]
fn every_annotation_of_the_documentation_has_an_example() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/use.md")).unwrap();
    let keys =
        ["gpu-model", "gpu-model-exclude", "gpu-uuid", "gpu-uuid-exclude", "node-policy", "gpu-policy", "numa-bind"];
    for key in keys.into_iter().chain(["require-enforcement", "request"]) {
        assert!(page.contains(&format!("    packhorse.dev/{key}: ")), "{key}");
    }
}

#[test]
fn every_example_to_start_from_reads_without_a_warning() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/deployments/examples");
    let mut pods = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for document in text.split("\n---\n") {
            let object: Value = serde_saphyr::from_str(document).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            let pod = match object["kind"].as_str() {
                Some("Pod") => object,
                Some("Deployment" | "Job") => object["spec"]["template"].clone(),
                _ => continue,
            };
            pods += 1;
            let parsed = read(&pod).unwrap_or_else(|denials| panic!("{path:?}: {}", denials[0]));
            assert!(!parsed.request.is_empty(), "{path:?}");
            assert_eq!(parsed.warnings, [""; 0], "{path:?}");
        }
    }
    assert!(pods >= 5, "{pods}");
}
