//! What the manifests say must fit what the code does; that they do it, only a real API server can show (`tests/cluster`).

use std::collections::BTreeSet;
use std::path::Path;

use packhorse::kube_api::names;
use packhorse::webhook::{CONFIGURATION, Settings};
use serde_json::{Value, json};

fn objects(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deployments/webhook").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.split("\n---\n").map(|part| serde_saphyr::from_str(part).expect(file)).collect()
}

fn find(objects: &[Value], kind: &str, name: &str) -> Value {
    let object = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    object.unwrap_or_else(|| panic!("no {kind} {name}")).clone()
}

fn registration(file: &str) -> Value {
    let configuration = find(&objects(file), "MutatingWebhookConfiguration", CONFIGURATION);
    assert_eq!(configuration["webhooks"].as_array().map(Vec::len), Some(1));
    configuration["webhooks"][0].clone()
}

#[test]
fn the_registration_is_what_design_demands() {
    for file in ["mutating-webhook.yaml", "opt-in.yaml"] {
        let webhook = registration(file);
        assert_eq!(webhook["failurePolicy"], "Fail");
        assert_eq!(webhook["sideEffects"], "None");
        assert_eq!(webhook["reinvocationPolicy"], "IfNeeded");
        assert_eq!(webhook["matchPolicy"], "Equivalent");
        assert_eq!(webhook["admissionReviewVersions"], json!(["v1"]));
        let service =
            json!({"name": "packhorse-server", "namespace": names::NAMESPACE, "path": "/mutate", "port": 8443});
        assert_eq!(webhook["clientConfig"]["service"], service);
    }
}

#[test]
fn match_conditions_name_everything_that_the_shipped_settings_react_to() {
    let settings = Settings::default();
    let expression =
        registration("mutating-webhook.yaml")["matchConditions"][0]["expression"].as_str().unwrap().to_owned();
    let prefix = &settings.resource_prefix;
    let mut wanted: Vec<String> = ["gpu", "gpumem", "gpumem-percentage", "gpucores", "mig-"]
        .iter()
        .map(|name| format!("'{prefix}/{name}'"))
        .collect();
    wanted.extend(settings.nvidia_runtime_classes.iter().map(|name| format!("'{name}'")));
    wanted.push(format!("schedulerName.orValue('') == '{}'", settings.scheduler_name));
    for name in [
        names::GPU_MEMORY,
        names::GPU_CORES,
        names::VISIBLE_DEVICES,
        names::REQUEST,
        names::ALLOCATION,
        names::DEVICES_PREFIX,
    ] {
        wanted.push(format!("'{name}'"));
    }
    wanted.extend(["'NVIDIA_GPU_MEMORY_'", "'CUDA_MPS_'", "'cdi.k8s.io/'"].map(str::to_owned));
    for name in wanted {
        assert!(expression.contains(&name), "{name} not in {expression}");
    }
}

#[test]
fn opting_in_differs_by_the_label_alone() {
    let (mut all, mut some) = (registration("mutating-webhook.yaml"), registration("opt-in.yaml"));
    let label = json!({"key": "packhorse.dev/admission", "operator": "In", "values": ["enabled"]});
    let expressions = |webhook: &mut Value| webhook["namespaceSelector"]["matchExpressions"].take();
    let (before, after) = (expressions(&mut all), expressions(&mut some));
    assert_eq!(all, some);
    assert_eq!(after, json!([label, before[0]]));

    let binding = |file: &str| find(&objects(file), "ValidatingAdmissionPolicyBinding", "packhorse-marked");
    let selector = |binding: &Value| binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"].clone();
    assert_eq!(selector(&binding("policies.yaml")), before, "the policy's scope is the webhook's");
    assert_eq!(selector(&binding("opt-in.yaml")), after);
}

#[test]
fn every_policy_is_bound_and_denies() {
    let mut objects_of_both = objects("policies.yaml");
    assert!(objects_of_both.iter().filter(|object| object["kind"] == "ValidatingAdmissionPolicy").count() >= 5);
    let replaced = |object: &Value| object["metadata"]["name"] == "packhorse-marked";
    objects_of_both.extend(objects("opt-in.yaml").into_iter().filter(|object| !replaced(object)));
    let named = |kind: &str| {
        let names = objects_of_both.iter().filter(|object| object["kind"] == kind);
        names.map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let policies = named("ValidatingAdmissionPolicy");
    assert_eq!(policies, named("ValidatingAdmissionPolicyBinding"));
    for name in policies {
        assert_eq!(find(&objects_of_both, "ValidatingAdmissionPolicy", &name)["spec"]["failurePolicy"], "Fail");
        let binding = find(&objects_of_both, "ValidatingAdmissionPolicyBinding", &name);
        assert_eq!(binding["spec"]["policyName"], json!(name));
        assert_eq!(binding["spec"]["validationActions"], json!(["Deny"]));
    }
}
