//! What is committed beside the chart is what the chart gives, and Helm finds no fault with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use super::{CHART, VALUES_FILES, call, helm};

const DEPLOYMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deployments");

/// All files below a folder, by their path in it.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap_or_else(|error| panic!("{}: {error}", next.display())) {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("below it").display().to_string();
                found.insert(name, std::fs::read_to_string(&path).expect("a text file"));
            }
        }
    }
    found
}

#[test]
fn committed_manifests_are_what_the_chart_renders() {
    let Some(helm) = helm::binary() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let copy = scratch.path().join("deployments");
    for (name, text) in files(Path::new(DEPLOYMENTS)) {
        let to = copy.join(name);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(to, text).unwrap();
    }
    let output = Command::new("sh").arg(copy.join("render.sh")).env("PACKHORSE_HELM", helm).output().expect("sh runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let (committed, fresh) = (files(Path::new(DEPLOYMENTS)), files(&copy));
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&committed), names(&fresh), "render.sh made another file");
    let rendered =
        committed.values().filter(|text| text.contains("# Rendered from deployments/helm/packhorse")).count();
    assert!(rendered >= 11, "{rendered} rendered files");
    for (name, text) in &fresh {
        // Its archive may be compressed otherwise by another version of Go; the next test looks into it.
        let same =
            |text: &str| text.lines().filter(|line| !line.contains("chartContent:")).collect::<Vec<_>>().join("\n");
        assert!(same(&committed[name]) == same(text), "deployments/{name} is old: run deployments/render.sh");
    }
}

#[test]
fn the_k3s_manifest_has_the_whole_chart_in_it() {
    let Some(helm) = helm::binary() else { return };
    let packed = call(helm, &["unpack", &format!("{DEPLOYMENTS}/k3s/packhorse.yaml")], None);
    let mut inside: BTreeMap<String, String> = serde_json::from_str(&packed).unwrap();
    let mut chart = files(Path::new(CHART));
    chart.remove(".helmignore");
    inside.remove(".helmignore");
    assert_eq!(inside.keys().collect::<Vec<_>>(), chart.keys().collect::<Vec<_>>());
    for (name, text) in &chart {
        assert!(inside[name] == *text, "{name} in deployments/k3s/packhorse.yaml is old: run deployments/render.sh");
    }

    let manifest: serde_json::Value =
        serde_saphyr::from_str(&std::fs::read_to_string(format!("{DEPLOYMENTS}/k3s/packhorse.yaml")).unwrap()).unwrap();
    assert_eq!(manifest["apiVersion"], "helm.cattle.io/v1");
    assert_eq!(manifest["spec"]["targetNamespace"], "packhorse-system");
    let values = manifest["spec"]["valuesContent"].as_str().unwrap();
    assert_eq!(values.trim_end(), chart["values-k3s.yaml"].trim_end());
}

#[test]
fn helm_finds_no_fault_with_the_chart() {
    let Some(helm) = helm::binary() else { return };
    call(helm, &["lint", CHART], None);
    for file in VALUES_FILES {
        call(helm, &["lint", CHART, "-f", &format!("{CHART}/{file}")], None);
    }
}

#[test]
fn versions_agree() {
    let chart = super::yaml("Chart.yaml");
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    let read = |file: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let own = concat!("packhorse/packhorse:", env!("CARGO_PKG_VERSION"));
    let manifest = read("deployments/static/packhorse.yaml");
    assert!(manifest.contains(&format!("image: {own}\n")) && read("deployments/Dockerfile").contains(own));
    assert!(read("deployments/kustomize/kustomization.yaml").contains(concat!(
        "newTag: ",
        env!("CARGO_PKG_VERSION"),
        "\n"
    )));
    // What the page replaces for another cluster has to be there, and to be what kustomize replaces.
    let page = read("docs/install.md");
    let replaced = page.split("sed \"s/").nth(1).and_then(|rest| rest.split('/').next()).expect("the command");
    assert!(manifest.contains(&format!("image: registry.k8s.io/{replaced}\n")), "{replaced}");
    let tag = replaced.split_once(':').unwrap().1;
    assert!(read("deployments/kustomize/kustomization.yaml").contains(&format!("newTag: {tag}\n")), "{tag}");
}
