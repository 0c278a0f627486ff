//! The `caBundle` of a `MutatingWebhookConfiguration`: what it says, and the patch that corrects it.

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use serde_json::{Value, json};

/// Whether every webhook of the configuration trusts the CA `certificate` (PEM). A configuration without webhooks calls nobody,
/// hence trusts nobody.
pub fn trusts(configuration: &MutatingWebhookConfiguration, certificate: &str) -> bool {
    let webhooks = configuration.webhooks.as_deref().unwrap_or_default();
    !webhooks.is_empty()
        && webhooks.iter().all(|webhook| {
            let bundle = webhook.client_config.ca_bundle.as_ref();
            bundle.is_some_and(|ByteString(bundle)| String::from_utf8_lossy(bundle).contains(certificate.trim_end()))
        })
}

/// The JSON Patch that gives every webhook this bundle; `None` where all have it. It names the version read, so that the API
/// server refuses it with a conflict where the configuration has changed since: whoever read an older Secret must not take a
/// newer CA out of the bundle again.
pub fn patch(configuration: &MutatingWebhookConfiguration, bundle: &str) -> Option<Value> {
    let webhooks = configuration.webhooks.as_deref().unwrap_or_default();
    let wanted = ByteString(bundle.as_bytes().to_vec());
    let mut operations = Vec::new();
    for (index, webhook) in webhooks.iter().enumerate() {
        if webhook.client_config.ca_bundle.as_ref() == Some(&wanted) {
            continue;
        }
        let path = format!("/webhooks/{index}/clientConfig/caBundle");
        operations.push(json!({"op": "add", "path": path, "value": wanted}));
    }
    if operations.is_empty() {
        return None;
    }
    let version = configuration.metadata.resource_version.as_deref().unwrap_or_default();
    operations.insert(0, json!({"op": "add", "path": "/metadata/resourceVersion", "value": version}));
    Some(Value::Array(operations))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(bundles: &[Option<&str>]) -> MutatingWebhookConfiguration {
        let webhooks: Vec<_> = bundles
            .iter()
            .map(|bundle| {
                let bundle = bundle.map(|bundle| ByteString(bundle.as_bytes().to_vec()));
                json!({"name": "a.example", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                       "clientConfig": {"caBundle": bundle}})
            })
            .collect();
        serde_json::from_value(json!({"metadata": {"resourceVersion": "7"}, "webhooks": webhooks})).unwrap()
    }

    #[test]
    fn patches_only_what_differs_and_only_the_version_read() {
        assert_eq!(patch(&configuration(&[Some("new")]), "new"), None);
        assert_eq!(patch(&configuration(&[]), "new"), None);
        let patch = patch(&configuration(&[Some("new"), Some("old"), None]), "new").unwrap();
        assert_eq!(
            patch,
            json!([
                {"op": "add", "path": "/metadata/resourceVersion", "value": "7"},
                {"op": "add", "path": "/webhooks/1/clientConfig/caBundle", "value": "bmV3"},
                {"op": "add", "path": "/webhooks/2/clientConfig/caBundle", "value": "bmV3"},
            ])
        );
    }

    #[test]
    fn trusts_a_ca_only_when_all_webhooks_do() {
        for (bundles, trusted) in [
            (&[Some("one\ntwo\n"), Some("two\n")][..], true),
            (&[Some("one\ntwo\n"), None], false),
            (&[Some("one\n")], false),
            (&[], false),
        ] {
            assert_eq!(trusts(&configuration(bundles), "two\n"), trusted, "{bundles:?}");
        }
    }
}
