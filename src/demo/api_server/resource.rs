//! Which kinds the API server serves, and how a path names one of them.

/// A kind with the path it is served under.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resource {
    /// API group, empty for the core group.
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) plural: &'static str,
    pub(super) singular: &'static str,
    pub(super) kind: &'static str,
    pub(super) namespaced: bool,
    /// Whether a PUT without `resourceVersion` is accepted, as the kind's own strategy says.
    pub(super) unconditional_update: bool,
    /// Whether `status` is a subresource, written only through it.
    pub(super) status: bool,
}

const fn core(plural: &'static str, singular: &'static str, kind: &'static str, namespaced: bool) -> Resource {
    Resource { group: "", version: "v1", plural, singular, kind, namespaced, unconditional_update: true, status: false }
}

/// Events are stored once and served by two groups; everything else has one home.
pub(super) static RESOURCES: [Resource; 11] = [
    Resource { status: true, ..core("pods", "pod", "Pod", true) },
    Resource { status: true, ..core("nodes", "node", "Node", false) },
    Resource { status: true, ..core("namespaces", "namespace", "Namespace", false) },
    core("secrets", "secret", "Secret", true),
    core("configmaps", "configmap", "ConfigMap", true),
    core("serviceaccounts", "serviceaccount", "ServiceAccount", true),
    Resource { status: true, ..core("services", "service", "Service", true) },
    core("events", "event", "Event", true),
    Resource { group: "events.k8s.io", ..core("events", "event", "Event", true) },
    Resource { group: "coordination.k8s.io", unconditional_update: false, ..core("leases", "lease", "Lease", true) },
    Resource {
        group: "admissionregistration.k8s.io",
        unconditional_update: false,
        ..core("mutatingwebhookconfigurations", "mutatingwebhookconfiguration", "MutatingWebhookConfiguration", false)
    },
];

impl Resource {
    /// The first kind of that plural name; used where a test or the demo names one.
    pub(super) fn by_plural(plural: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|resource| resource.plural == plural)
    }

    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pods`, or `leases.coordination.k8s.io`: how messages name the kind.
    pub(super) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// What a path means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) resource: &'static Resource,
    /// Empty where the kind has none, or where a collection spans all namespaces.
    pub(super) namespace: String,
    /// Empty for a collection.
    pub(super) name: String,
    /// Empty for the object itself.
    pub(super) subresource: String,
}

/// Reads a path below `/api` or `/apis`; `None` for anything not served.
pub(super) fn target(path: &str) -> Option<Target> {
    let mut segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version) = match segments.first().copied()? {
        "api" if segments.len() >= 3 => ("", segments[1]),
        "apis" if segments.len() >= 4 => (segments[1], segments[2]),
        _ => return None,
    };
    segments.drain(..if group.is_empty() { 2 } else { 3 });
    let find = |plural: &str| RESOURCES.iter().find(|r| r.group == group && r.version == version && r.plural == plural);
    let make = |resource: &'static Resource, namespace: &str, rest: &[&str]| {
        (rest.len() <= 2 && !rest.iter().any(|part| part.is_empty())).then(|| Target {
            resource,
            namespace: namespace.to_owned(),
            name: rest.first().copied().unwrap_or_default().to_owned(),
            subresource: rest.get(1).copied().unwrap_or_default().to_owned(),
        })
    };
    match segments.as_slice() {
        // A third segment below a namespace is a kind, unless it is a subresource of the namespace itself.
        ["namespaces", namespace, plural, rest @ ..] if !matches!(*plural, "status" | "finalize") => {
            let resource = find(plural).filter(|r| r.namespaced)?;
            make(resource, namespace, rest)
        }
        [plural] => make(find(plural)?, "", &[]),
        [plural, rest @ ..] => make(find(plural).filter(|r| !r.namespaced)?, "", rest),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_kinds_objects_and_subresources() {
        for (path, expected) in [
            ("/api/v1/pods", Some(("pods", "", "", ""))),
            ("/api/v1/namespaces/ml/pods", Some(("pods", "ml", "", ""))),
            ("/api/v1/namespaces/ml/pods/a/binding", Some(("pods", "ml", "a", "binding"))),
            ("/api/v1/namespaces/ml", Some(("namespaces", "", "ml", ""))),
            ("/api/v1/namespaces/ml/status", Some(("namespaces", "", "ml", "status"))),
            ("/api/v1/nodes/n1/status", Some(("nodes", "", "n1", "status"))),
            ("/apis/coordination.k8s.io/v1/namespaces/ml/leases/l", Some(("leases", "ml", "l", ""))),
            ("/api/v1/pods/a", None),
            ("/api/v1/namespaces/ml/nodes", None),
            ("/api/v1/gadgets", None),
            ("/apis/apps/v1/deployments", None),
            ("/api/v2/pods", None),
            ("/api", None),
        ] {
            let found = target(path);
            let seen = found
                .as_ref()
                .map(|t| (t.resource.plural, t.namespace.as_str(), t.name.as_str(), t.subresource.as_str()));
            assert_eq!(seen, expected, "{path}");
        }
    }
}
