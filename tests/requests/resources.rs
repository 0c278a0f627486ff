//! Resources: amounts, their combinations, and who carries them.

use super::*;

#[test]
fn reads_resources_by_every_rule() {
    for (resources, expected) in [
        (json!({"gpu": "1"}), Some((1, Ask::Exclusive))),
        (json!({"gpu": 2}), Some((2, Ask::Exclusive))),
        (json!({"gpu": "1000m"}), Some((1, Ask::Exclusive))),
        (json!({"gpu": "2", "gpumem": "4096"}), Some((2, mib(4_096, 0)))),
        (json!({"gpumem": "1"}), Some((1, mib(1, 0)))),
        (json!({"gpumem-percentage": "1"}), Some((1, percent(1, 0)))),
        (json!({"gpucores": "1"}), Some((1, all(1)))),
        (json!({"gpucores": "99"}), Some((1, all(99)))),
        (json!({"gpu": "1", "gpumem": "4096", "gpucores": "30"}), Some((1, mib(4_096, 30)))),
        (json!({"gpu": "1", "gpumem": 4096, "gpucores": 30}), Some((1, mib(4_096, 30)))),
        (json!({"gpu": "1", "gpumem-percentage": "50"}), Some((1, percent(50, 0)))),
        (json!({"gpu": "1", "gpumem-percentage": "100"}), Some((1, percent(100, 0)))),
        (json!({"gpu": "1", "gpumem-percentage": "0"}), Some((1, Ask::Exclusive))),
        (json!({"gpu": "1", "gpumem": "2000", "gpumem-percentage": "0"}), Some((1, mib(2_000, 0)))),
        (json!({"gpu": "1", "gpumem": "2000", "gpumem-percentage": "50"}), Some((1, mib(2_000, 0)))),
        (json!({"gpu": "1", "gpucores": "100"}), Some((1, Ask::Exclusive))),
        (json!({"gpucores": "100"}), Some((1, Ask::Exclusive))),
        (json!({"gpu": "3", "gpumem": "100", "gpucores": "100"}), Some((3, Ask::Exclusive))),
        (json!({"gpu": "1", "gpucores": "0"}), Some((1, Ask::Exclusive))),
        (json!({"gpu": "1", "gpumem": "4000", "gpucores": "0"}), Some((1, mib(4_000, 0)))),
        (json!({"gpumem": "4k"}), Some((1, mib(4_000, 0)))),
        (json!({"gpumem": "4e3"}), Some((1, mib(4_000, 0)))),
        (json!({"gpumem": "16Gi"}), Some((1, mib(16_384, 0)))),
        (json!({"gpumem": "512Mi"}), Some((1, mib(512, 0)))),
        (json!({"gpumem": "1025Ki"}), Some((1, mib(2, 0)))),
        (json!({"gpumem": "999999"}), Some((1, mib(999_999, 0)))),
        (json!({"gpu": "0"}), None),
        (json!({"gpu": "0", "gpumem": "0", "gpucores": "0"}), None),
        (json!({"gpumem": "0"}), None),
        (json!({}), None),
        (json!({"mig-1g.10gb": "1"}), Some((1, mig("1g.10gb")))),
        (json!({"mig-1g.10gb": "3", "gpu": "0"}), Some((3, mig("1g.10gb")))),
        (json!({"mig-1g.10gb.me": "1"}), Some((1, mig("1g.10gb.me")))),
        (json!({"mig-1c.3g.20gb": "2"}), Some((2, mig("1c.3g.20gb")))),
        (json!({"mig-1g.10gb": "1", "mig-2g.20gb": "0"}), Some((1, mig("1g.10gb")))),
        (json!({"mig-1g.10gb": "0"}), None),
        (json!({"mig-1g.10gb": "0", "gpu": "1"}), Some((1, Ask::Exclusive))),
    ] {
        let pod = limits(&resources);
        assert_eq!(ask_of(&pod), expected, "{resources}");
        assert_idempotent(&Rules::default(), &pod);
    }
}

#[test]
fn denies_what_can_never_run_with_field_value_and_remedy() {
    for (resources, field, value, problem, remedy) in [
        (json!({"gpu": "-1"}), "gpu", "-1", "negative", "whole number of devices"),
        (json!({"gpu": "500m"}), "gpu", "500m", "not a whole number", "for example 1"),
        (json!({"gpu": "0.5"}), "gpu", "0.5", "not a whole number", "for example 1"),
        (json!({"gpu": "one"}), "gpu", "one", "not a quantity", "for example 1"),
        (json!({"gpu": "99E"}), "gpu", "99E", "too large", "for example 1"),
        (json!({"gpu": "1025"}), "gpu", "1025", "more devices than any node has", "for example 1"),
        (json!({"gpumem": "1M"}), "gpumem", "1M", "1000000 MiB or more fits no card", "`1Gi`"),
        (json!({"gpumem": "1G"}), "gpumem", "1G", "1000000 MiB or more fits no card", "`1Gi`"),
        (json!({"gpumem": "1000000"}), "gpumem", "1000000", "fits no card", "`1Gi`"),
        (json!({"gpumem": "1e6"}), "gpumem", "1e6", "fits no card", "`1Gi`"),
        (json!({"gpumem": "1Ti"}), "gpumem", "1Ti", "fits no card", "`1Gi`"),
        (json!({"gpumem": "99999999999999999999999"}), "gpumem", "9999", "fits no card", "`1Gi`"),
        (json!({"gpumem": "0.5"}), "gpumem", "0.5", "not a whole number", "16Gi"),
        (json!({"gpumem": "-4000"}), "gpumem", "-4000", "negative", "16Gi"),
        (json!({"gpumem": "16GB"}), "gpumem", "16GB", "not a quantity", "16Gi"),
        (json!({"gpu": "1", "gpumem-percentage": "101"}), "gpumem-percentage", "101", "more than 100", "1 to 100"),
        (json!({"gpu": "1", "gpumem-percentage": "150"}), "gpumem-percentage", "150", "more than 100", "1 to 100"),
        (json!({"gpu": "1", "gpumem-percentage": "-1"}), "gpumem-percentage", "-1", "negative", "1 to 100"),
        (json!({"gpu": "1", "gpucores": "101"}), "gpucores", "101", "more than 100", "0 to 100"),
        (json!({"gpu": "1", "gpucores": "1.5"}), "gpucores", "1.5", "not a whole number", "0 to 100"),
        (json!({"gpu": "0", "gpumem": "4000"}), "gpu", "0", "nvidia.com/gpumem is 4000", "count of 1 or more"),
        (json!({"gpu": "0", "gpumem-percentage": "5"}), "gpu", "0", "gpumem-percentage is 5", "count of 1 or more"),
        (json!({"gpu": "0", "gpucores": "30"}), "gpu", "0", "nvidia.com/gpucores is 30", "count of 1 or more"),
        (json!({"gpu": "1", "mig-1g.10gb": "1"}), "gpu", "1", "in one container", "two containers"),
        (
            json!({"mig-1g.10gb": "1", "mig-2g.20gb": "1"}),
            "mig-1g.10gb",
            "1",
            "two MIG profiles",
            "one profile per container",
        ),
        (json!({"mig-1g.10gb": "1", "gpumem": "4000"}), "gpumem", "4000", "fixes memory and cores", "remove it"),
        (json!({"mig-1g.10gb": "1", "gpumem-percentage": "5"}), "gpumem-percentage", "5", "fixes memory", "remove it"),
        (json!({"mig-1g.10gb": "1", "gpucores": "5"}), "gpucores", "5", "fixes memory", "remove it"),
        (json!({"mig-large": "1"}), "mig-large", "1", "not the name of a MIG profile", "mig-1g.10gb"),
        (json!({"mig-1g.10gb": "-1"}), "mig-1g.10gb", "-1", "negative", "whole number"),
        (json!({"mig-1g.10gb": "0.5"}), "mig-1g.10gb", "0.5", "not a whole number", "whole number"),
    ] {
        let denials = denied(&limits(&resources));
        assert_eq!(denials.len(), 1, "{resources}: {denials:?}");
        let denial = &denials[0];
        assert_eq!(denial.container.as_deref(), Some("main"), "{resources}");
        assert_eq!(denial.field, format!("nvidia.com/{field}"), "{resources}");
        assert!(denial.value.starts_with(value), "{resources}: {denial}");
        assert!(denial.problem.contains(problem), "{resources}: {denial}");
        assert!(denial.remedy.contains(remedy), "{resources}: {denial}");
        let text = denial.to_string();
        for part in ["\"main\"", field, value, problem, remedy] {
            assert!(text.contains(part), "{text} lacks {part}");
        }
    }
}

#[test]
fn a_count_alone_means_what_the_rules_say() {
    let rules = Rules { count_alone: CountAlone::Share(25), ..Rules::default() };
    for (resources, expected) in [
        (json!({"gpu": "2"}), (2, percent(25, 0))),
        (json!({"gpu": "2", "gpucores": "0"}), (2, percent(25, 0))),
        (json!({"gpu": "2", "gpumem": "100"}), (2, mib(100, 0))),
        (json!({"gpu": "2", "gpucores": "10"}), (2, all(10))),
        (json!({"gpu": "2", "gpucores": "100"}), (2, Ask::Exclusive)),
    ] {
        let pod = limits(&resources);
        let request = read_by(&rules, &pod).unwrap().request;
        assert_eq!((request.containers[0].count, request.containers[0].ask.clone()), expected, "{resources}");
        assert_idempotent(&rules, &pod);
    }
    let rules_of_all = Rules { count_alone: CountAlone::Share(100), ..Rules::default() };
    let request = read_by(&rules_of_all, &limits(&json!({"gpu": "1"}))).unwrap().request;
    assert_eq!(request.containers[0].ask, percent(100, 0));
    let pinned = with_env(limits(&json!({})), &[("NVIDIA_VISIBLE_DEVICES", "3")]);
    assert_eq!(read_by(&rules, &pinned).unwrap().request.containers[0].ask, percent(25, 0));
    assert_idempotent(&rules, &pinned);
}

#[test]
fn requests_only_count_as_limits_and_a_contradiction_is_denied() {
    let both = |limits: Value, requests: Value| {
        json!({"spec": {"containers": [{"name": "main", "resources": {
            "limits": prefixed("nvidia.com", &limits), "requests": prefixed("nvidia.com", &requests)}}]}})
    };
    for (limits, requests, expected) in [
        (json!({}), json!({"gpu": "1"}), (1, Ask::Exclusive)),
        (json!({}), json!({"gpu": "1", "gpumem": "4k", "gpucores": "55"}), (1, mib(4_000, 55))),
        (json!({"gpu": "1"}), json!({"gpumem": "4k"}), (1, mib(4_000, 0))),
        (json!({"gpumem": "4000"}), json!({"gpumem": "4k"}), (1, mib(4_000, 0))),
        (json!({}), json!({"mig-1g.10gb": "1"}), (1, mig("1g.10gb"))),
    ] {
        let pod = both(limits, requests);
        assert_eq!(ask_of(&pod), Some(expected), "{pod}");
        assert_idempotent(&Rules::default(), &pod);
    }
    for (name, limit, request) in [
        ("gpu", "1", "2"),
        ("gpumem", "4000", "4Gi"),
        ("gpumem-percentage", "50", "40"),
        ("gpucores", "1", "0"),
        ("mig-1g.10gb", "1", "2"),
        ("gpu", "1", "x"),
    ] {
        let denials = denied(&both(json!({name: limit}), json!({name: request})));
        assert_eq!(denials[0].field, format!("nvidia.com/{name}"));
        assert_eq!(denials[0].value, request);
        assert!(denials[0].problem.contains(limit) && denials[0].problem.contains("differ"), "{}", denials[0]);
    }
}

#[test]
fn every_kind_of_container_is_read_in_the_order_of_the_pod() {
    let gpu = |name: &str, memory: &str| json!({"name": name, "resources": {"limits": {"nvidia.com/gpumem": memory}}});
    let mut sidecar = gpu("log", "200");
    sidecar["restartPolicy"] = json!("Always");
    let pod = json!({"spec": {
        "initContainers": [gpu("warm", "100"), sidecar, {"name": "copy"}],
        "containers": [gpu("main", "300"), {"name": "proxy"}],
        "ephemeralContainers": [{"name": "debug"}]}});
    let expected: Vec<ContainerRequest> =
        [("warm", Phase::Init, 100), ("log", Phase::Sidecar, 200), ("main", Phase::App, 300)]
            .into_iter()
            .map(|(name, phase, memory)| ContainerRequest {
                name: name.into(),
                phase,
                count: 1,
                ask: mib(memory, 0),
                index: vec![],
                uuid: vec![],
            })
            .collect();
    assert_eq!(read(&pod).unwrap().request.containers, expected);
    assert_idempotent(&Rules::default(), &pod);

    let bytes = serde_json::to_vec(&pod).unwrap();
    let view: PodView<'_> = serde_json::from_slice(&bytes).unwrap();
    let named: Vec<(String, Phase)> =
        phases(&view).into_iter().map(|(name, phase)| (name.to_string(), phase)).collect();
    let expected = [
        ("warm", Phase::Init),
        ("log", Phase::Sidecar),
        ("copy", Phase::Init),
        ("main", Phase::App),
        ("proxy", Phase::App),
    ];
    assert_eq!(named, expected.map(|(name, phase)| (name.to_owned(), phase)));
}

#[test]
fn another_prefix_reads_its_own_names_only() {
    let rules = Rules { prefix: "gpu.example.com".to_owned(), ..Rules::default() };
    let pod = |prefix: &str| {
        let limits = prefixed(prefix, &json!({"gpu": "1", "gpumem": "4k"}));
        json!({"spec": {"containers": [{"name": "main", "resources": {"limits": limits}}]}})
    };
    assert_eq!(read_by(&rules, &pod("gpu.example.com")).unwrap().request.containers[0].ask, mib(4_000, 0));
    assert_idempotent(&rules, &pod("gpu.example.com"));
    for other in ["nvidia.com", "gpu.example.comx", "x.gpu.example.com"] {
        assert!(read_by(&rules, &pod(other)).unwrap().request.is_empty(), "{other}");
    }
    assert!(rules.is_removed("gpu.example.com/gpumem") && !rules.is_removed("nvidia.com/gpumem"));
}

#[test]
fn a_pod_without_gpus_is_not_held_to_gpu_rules() {
    let plain = limits(&json!({}));
    assert_eq!(read(&plain).unwrap(), Parsed::default());
    let parsed = read(&with_annotation(plain, "packhorse.dev/gpu-policy", "nonsense")).unwrap();
    assert!(parsed.request.is_empty() && parsed.request.constraints == Constraints::default());
    assert!(parsed.warnings[0].contains("packhorse.dev/gpu-policy has no effect"), "{:?}", parsed.warnings);
}

#[test]
fn totals_without_a_gpu_are_denied() {
    for name in [names::GPU_MEMORY, names::GPU_CORES] {
        let pod = json!({"spec": {"containers": [{"name": "main", "resources": {"limits": {name: "0"}}}]}});
        let denials = denied(&pod);
        assert_eq!((denials[0].field.as_str(), denials[0].container.as_deref()), (name, Some("main")));
        assert!(denials[0].remedy.contains("nvidia.com/gpumem"), "{}", denials[0]);
    }
}

#[test]
fn names_that_look_like_ours_are_warned_of() {
    let parsed = read(&limits(&json!({"gpu": "1", "gpumemory": "5"}))).unwrap();
    assert!(parsed.warnings[0].contains("nvidia.com/gpumemory is not a resource"), "{:?}", parsed.warnings);
    let parsed = read(&with_annotation(limits(&json!({"gpu": "1"})), "packhorse.dev/gpu-models", "A100")).unwrap();
    assert!(parsed.warnings[0].contains("packhorse.dev/gpu-models"), "{:?}", parsed.warnings);
    assert_eq!(read(&limits(&json!({"hostdev": "1"}))).unwrap(), Parsed::default());
}

#[test]
fn what_has_no_effect_is_said() {
    let env = |name: &str| with_env(limits(&json!({"gpu": "1"})), &[(name, "1")]);
    for (pod, warning) in [
        (
            limits(&json!({"gpumem": "4000", "gpumem-percentage": "50"})),
            "nvidia.com/gpumem-percentage has no effect beside nvidia.com/gpumem",
        ),
        (
            with_request(limits(&json!({})), &json!({"main": {"memory": 4000, "memoryPercent": 50}})),
            "field memoryPercent has no effect beside packhorse.dev/request field memory",
        ),
        (limits(&json!({"gpumem": "4000", "gpucores": "100"})), "the amount of memory has no effect"),
        (
            with_request(limits(&json!({})), &json!({"main": {"exclusive": true, "memory": 4000}})),
            "the amount of memory has no effect",
        ),
        (limits(&json!({"gpumem": "0"})), "amounts of 0 ask for no GPU; write nvidia.com/gpu"),
        (
            with_env(limits(&json!({"gpu": "1"})), &[("NVIDIA_VISIBLE_DEVICES", "none")]),
            "NVIDIA_VISIBLE_DEVICES is overwritten",
        ),
        (env("NVIDIA_GPU_MEMORY_LIMIT"), "NVIDIA_GPU_MEMORY_LIMIT changes no limit"),
        (env("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"), "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE changes no limit"),
    ] {
        let warnings = read(&pod).unwrap_or_else(|denials| panic!("{}", denials[0])).warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with("container \"main\": ") && warnings[0].contains(warning), "{warnings:?}");
    }
    for quiet in [json!({"gpu": "0", "gpumem": "0"}), json!({"gpu": "1", "gpucores": "100"}), json!({"hostdev": "1"})] {
        assert_eq!(read(&limits(&quiet)).unwrap().warnings, [""; 0], "{quiet}");
    }
}
