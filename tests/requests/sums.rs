//! What a pod adds up to for Kubernetes: totals, and requests of its host.

use super::*;

#[test]
fn totals_count_what_is_known_before_placement() {
    for (resources, expected) in [
        (json!({"gpu": "2", "gpumem": "4096", "gpucores": "30"}), (Some(8_192), 60)),
        (json!({"gpu": "2", "gpumem": "4096"}), (Some(8_192), 0)),
        (json!({"gpu": "2", "gpumem-percentage": "50", "gpucores": "10"}), (None, 20)),
        (json!({"gpu": "3", "gpucores": "10"}), (None, 30)),
        (json!({"gpu": "3"}), (None, 300)),
        (json!({"mig-1g.10gb": "2"}), (None, 0)),
        (json!({"gpu": "1024", "gpumem": "999999"}), (Some(1_023_998_976), 0)),
    ] {
        assert_eq!(totals(&read(&limits(&resources)).unwrap().request.containers[0]), expected, "{resources}");
    }
}

#[test]
fn host_requests_are_those_of_kubernetes() {
    let container =
        |cpu: &str, memory: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}});
    let sidecar = |cpu: &str, memory: &str| {
        let mut container = container(cpu, memory);
        container["restartPolicy"] = json!("Always");
        container
    };
    for (spec, expected, why) in [
        (json!({}), (0, 0), "an empty pod"),
        (json!({"containers": [container("250m", "1Ki"), container("1", "1k")]}), (1_250, 2_024), "apps add up"),
        (
            json!({"initContainers": [container("2", "1"), container("3", "1")], "containers": [container("1", "5")]}),
            (3_000, 5),
            "init containers count by their maximum",
        ),
        (
            json!({"initContainers": [container("3", "0"), sidecar("1", "0")], "containers": [container("1", "0")]}),
            (3_000, 0),
            "a sidecar does not run beside the init containers before it",
        ),
        (
            json!({"initContainers": [sidecar("1", "0"), container("3", "0")], "containers": [container("1", "0")]}),
            (4_000, 0),
            "it runs beside those after it",
        ),
        (
            json!({"initContainers": [sidecar("1", "0"), sidecar("2", "0")], "containers": [container("1", "0")]}),
            (4_000, 0),
            "sidecars run beside the apps",
        ),
        (
            json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "2", "memory": "7"}}}]}),
            (2_000, 7),
            "a limit is the default of a request",
        ),
        (
            json!({"containers": [container("1", "5")], "overhead": {"cpu": "100m", "memory": "3"}}),
            (1_100, 8),
            "overhead is added",
        ),
        (
            json!({"containers": [container("1", "5")], "resources": {"requests": {"cpu": "4"}}, "overhead": {"cpu": "1"}}),
            (5_000, 5),
            "the pod's own request replaces the sum",
        ),
        (
            json!({"containers": [{"name": "c"}], "resources": {"limits": {"cpu": "4"}}}),
            (4_000, 0),
            "the pod's limit counts where no container requests any",
        ),
        (
            json!({"containers": [container("1", "5")], "resources": {"limits": {"cpu": "4", "memory": "9"}}}),
            (1_000, 5),
            "and not where one does",
        ),
    ] {
        let bytes = serde_json::to_vec(&json!({"spec": spec})).unwrap();
        let view: PodView<'_> = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(host_requests(&view), expected, "{why}");
    }
}
