//! Constraints by annotation, in our words and in HAMi's.

use super::*;

#[test]
fn constraints_are_read_in_both_vocabularies() {
    let gpus = || limits(&json!({"gpu": "1"}));
    let none = Constraints::default;
    let list = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect::<Vec<String>>();
    for (ours, hami, value, expected) in [
        (
            "gpu-model",
            "nvidia.com/use-gputype",
            "A100, h100,",
            Constraints { model: list(&["A100", "h100"]), ..none() },
        ),
        (
            "gpu-model-exclude",
            "nvidia.com/nouse-gputype",
            "A10",
            Constraints { model_exclude: list(&["A10"]), ..none() },
        ),
        (
            "gpu-uuid",
            "nvidia.com/use-gpuuuid",
            "GPU-a,GPU-b",
            Constraints { uuid: list(&["GPU-a", "GPU-b"]), ..none() },
        ),
        (
            "gpu-uuid-exclude",
            "nvidia.com/nouse-gpuuuid",
            "GPU-a",
            Constraints { uuid_exclude: list(&["GPU-a"]), ..none() },
        ),
        (
            "node-policy",
            "hami.io/node-scheduler-policy",
            "spread",
            Constraints { node_policy: Some(NodePolicy::Spread), ..none() },
        ),
        (
            "node-policy",
            "hami.io/node-scheduler-policy",
            "binpack",
            Constraints { node_policy: Some(NodePolicy::Binpack), ..none() },
        ),
        (
            "gpu-policy",
            "hami.io/gpu-scheduler-policy",
            "spread",
            Constraints { gpu_policy: Some(GpuPolicy::Spread), ..none() },
        ),
        (
            "gpu-policy",
            "hami.io/gpu-scheduler-policy",
            "binpack",
            Constraints { gpu_policy: Some(GpuPolicy::Binpack), ..none() },
        ),
        ("numa-bind", "nvidia.com/numa-bind", "true", Constraints { numa_bind: true, ..none() }),
        ("numa-bind", "nvidia.com/numa-bind", " true\n", Constraints { numa_bind: true, ..none() }),
        ("numa-bind", "nvidia.com/numa-bind", "false", none()),
        (
            "require-enforcement",
            "nvidia.com/vgpu-mode",
            "mig",
            Constraints { require_enforcement: Some(Enforcement::Mig), ..none() },
        ),
        (
            "require-enforcement",
            "nvidia.com/vgpu-mode",
            "mps",
            Constraints { require_enforcement: Some(Enforcement::Mps), ..none() },
        ),
    ] {
        for key in [&format!("packhorse.dev/{ours}"), hami] {
            let pod = with_annotation(gpus(), key, value);
            let parsed = read(&pod).unwrap_or_else(|denials| panic!("{key} {value}: {}", denials[0]));
            assert_eq!(parsed.request.constraints, expected, "{key}: {value}");
            assert_eq!(parsed.warnings, [""; 0], "{key}: {value}");
            assert_idempotent(&Rules::default(), &pod);
        }
    }
    for (value, level) in [("cgroup", Enforcement::Cgroup), ("watched", Enforcement::Watched)] {
        let parsed = read(&with_annotation(gpus(), "packhorse.dev/require-enforcement", value)).unwrap();
        assert_eq!(parsed.request.constraints.require_enforcement, Some(level));
    }
    let topology = read(&with_annotation(gpus(), "packhorse.dev/gpu-policy", "topology")).unwrap();
    assert_eq!(topology.request.constraints.gpu_policy, Some(GpuPolicy::Topology));
}

#[test]
fn an_empty_list_accepts_every_gpu_and_is_told() {
    for key in ["packhorse.dev/gpu-model", "packhorse.dev/gpu-uuid-exclude", "nvidia.com/use-gpuuuid"] {
        for value in ["", " ", ","] {
            let pod = with_annotation(limits(&json!({"gpu": "1"})), key, value);
            let parsed = read(&pod).unwrap();
            assert_eq!(parsed.request.constraints, Constraints::default(), "{key}: {value}");
            assert_eq!(parsed.warnings.len(), 1, "{key}: {:?}", parsed.warnings);
            assert!(parsed.warnings[0].contains(&format!("annotation {key}: ")), "{:?}", parsed.warnings);
            assert!(parsed.warnings[0].contains("the list is empty"), "{:?}", parsed.warnings);
            assert_idempotent(&Rules::default(), &pod);
        }
    }
}

#[test]
fn orders_of_hami_are_translated_and_what_is_lost_is_said() {
    for (value, expected, warning) in [
        ("topology-aware", GpuPolicy::Topology, None),
        ("numa", GpuPolicy::Topology, None),
        ("mutex", GpuPolicy::Spread, Some("mutex")),
        ("binpack,numa", GpuPolicy::Binpack, Some("first order")),
        ("numa, binpack", GpuPolicy::Topology, Some("first order")),
        ("mutex,binpack", GpuPolicy::Binpack, Some("mutex")),
        ("spread,topology-aware", GpuPolicy::Topology, Some("first order")),
    ] {
        let pod = with_annotation(limits(&json!({"gpu": "1"})), "hami.io/gpu-scheduler-policy", value);
        let parsed = read(&pod).unwrap();
        assert_eq!(parsed.request.constraints.gpu_policy, Some(expected), "{value}");
        match warning {
            None => assert_eq!(parsed.warnings, [""; 0], "{value}"),
            Some(text) => assert!(parsed.warnings[0].contains(text), "{value}: {:?}", parsed.warnings),
        }
    }
}

#[test]
fn bad_constraints_are_denied_with_the_key_and_the_choices() {
    for (key, value, remedy) in [
        ("packhorse.dev/gpu-model", "A100,*", "A100 or H100"),
        ("packhorse.dev/gpu-uuid", "3", "GPU-…"),
        ("nvidia.com/use-gpuuuid", "dev-0", "GPU-…"),
        ("packhorse.dev/gpu-uuid-exclude", "a b", "GPU-…"),
        ("packhorse.dev/node-policy", "topology", "binpack or spread"),
        ("hami.io/node-scheduler-policy", "best", "binpack or spread"),
        ("packhorse.dev/gpu-policy", "mutex", "binpack, spread or topology"),
        ("hami.io/gpu-scheduler-policy", "binpack,best", "binpack,numa"),
        ("hami.io/gpu-scheduler-policy", "", "binpack,numa"),
        ("packhorse.dev/numa-bind", "yes", "\"true\" or \"false\""),
        ("nvidia.com/numa-bind", "True", "\"true\" or \"false\""),
        ("packhorse.dev/require-enforcement", "advisory", "mig, cgroup, mps or watched"),
        ("packhorse.dev/require-enforcement", "hard", "mig, cgroup, mps or watched"),
        ("nvidia.com/vgpu-mode", "cgroup", "mig, mps or hami-core"),
    ] {
        let denials = denied(&with_annotation(limits(&json!({"gpu": "1"})), key, value));
        assert_eq!(denials.len(), 1, "{key}: {denials:?}");
        assert_eq!((denials[0].field.as_str(), denials[0].value.as_str()), (key, value));
        assert!(denials[0].remedy.contains(remedy), "{key}: {}", denials[0]);
        assert_eq!(denials[0].container, None);
    }
    for (key, item) in [("packhorse.dev/gpu-model", "A"), ("packhorse.dev/gpu-uuid", "GPU-")] {
        let list = |items: u32| (0..items).map(|i| format!("{item}{i}")).collect::<Vec<_>>().join(",");
        assert!(read(&with_annotation(limits(&json!({"gpu": "1"})), key, &list(256))).is_ok(), "{key}");
        let denials = denied(&with_annotation(limits(&json!({"gpu": "1"})), key, &list(257)));
        assert!(denials[0].problem.contains("more than 256 items"), "{}", denials[0]);
    }
    let few = with_annotation(limits(&json!({"gpu": "2"})), "packhorse.dev/gpu-uuid", "GPU-a,GPU-b");
    assert!(read(&few).is_ok());
    let denials = denied(&with_annotation(few, "packhorse.dev/gpu-uuid-exclude", "GPU-b"));
    assert!(denials[0].problem.contains("accepts 1 devices"), "{}", denials[0]);
}

#[test]
fn of_two_vocabularies_ours_wins_with_a_warning() {
    let pod = with_annotation(limits(&json!({"gpu": "1"})), "packhorse.dev/node-policy", "spread");
    let parsed = read(&with_annotation(pod.clone(), "hami.io/node-scheduler-policy", "binpack")).unwrap();
    assert_eq!(parsed.request.constraints.node_policy, Some(NodePolicy::Spread));
    assert!(parsed.warnings[0].contains("hami.io/node-scheduler-policy has no effect"), "{:?}", parsed.warnings);
    let parsed = read(&with_annotation(pod, "hami.io/node-scheduler-policy", "spread")).unwrap();
    assert_eq!(parsed.warnings, [""; 0]);
}
