//! The annotation `packhorse.dev/request`: written by users or by the webhook.

use super::*;

#[test]
fn a_given_entry_decides_and_must_agree() {
    for (resources, entry, expected) in [
        (json!({}), json!({"count": 1, "memory": 4096, "cores": 30}), Some((1, mib(4_096, 30)))),
        (json!({}), json!({"count": 2, "memoryPercent": 50}), Some((2, percent(50, 0)))),
        (json!({}), json!({"count": 1, "exclusive": true}), Some((1, Ask::Exclusive))),
        (json!({}), json!({"count": 1}), Some((1, Ask::Exclusive))),
        (json!({}), json!({"count": 1, "cores": 100, "memory": 7}), Some((1, Ask::Exclusive))),
        (json!({}), json!({"memory": 4096}), Some((1, mib(4_096, 0)))),
        (json!({}), json!({"count": 0}), None),
        (json!({}), json!({}), None),
        (json!({}), json!({"count": 3, "mig": "1g.10gb"}), Some((3, mig("1g.10gb")))),
        (json!({"mig-1g.10gb": "3"}), json!({"count": 3, "mig": "1g.10gb"}), Some((3, mig("1g.10gb")))),
        (json!({"mig-1g.10gb": "3"}), json!({"mig": "1g.10gb"}), Some((3, mig("1g.10gb")))),
        (json!({"gpu": "2"}), json!({"memory": 4096}), Some((2, mib(4_096, 0)))),
        (json!({"gpu": "2"}), json!({}), Some((2, Ask::Exclusive))),
        (json!({"gpu": "1", "gpumem": "4k"}), json!({"count": 1, "memory": 4000}), Some((1, mib(4_000, 0)))),
        (json!({"gpu": "1", "gpucores": "100"}), json!({"count": 1, "exclusive": true}), Some((1, Ask::Exclusive))),
    ] {
        let pod = with_request(limits(&resources), &json!({"main": entry}));
        assert_eq!(ask_of(&pod), expected, "{resources} {entry}");
        assert_idempotent(&Rules::default(), &pod);
    }
    let many: Vec<u32> = (0..=1_024).collect();
    for (resources, entry, field, problem) in [
        (json!({"gpu": "2"}), json!({"count": 1}), "nvidia.com/gpu", "says count 1"),
        (
            json!({"gpu": "1", "gpumem": "4000"}),
            json!({"count": 1, "memory": 4096}),
            "nvidia.com/gpumem",
            "memory 4096",
        ),
        (json!({"gpu": "1", "gpumem": "4000"}), json!({"count": 1}), "nvidia.com/gpumem", "no memory"),
        (
            json!({"gpumem-percentage": "5"}),
            json!({"memoryPercent": 6}),
            "nvidia.com/gpumem-percentage",
            "memoryPercent 6",
        ),
        (json!({"gpucores": "5"}), json!({"cores": 6}), "nvidia.com/gpucores", "cores 6"),
        (json!({"gpucores": "5"}), json!({"exclusive": true}), "nvidia.com/gpucores", "cores 100"),
        (json!({"gpu": "1"}), json!({"mig": "1g.10gb"}), "nvidia.com/gpu", "MIG profile 1g.10gb"),
        (json!({"mig-1g.10gb": "1"}), json!({"count": 1}), "nvidia.com/mig-1g.10gb", "no MIG profile"),
        (json!({"mig-1g.10gb": "1"}), json!({"mig": "2g.20gb"}), "nvidia.com/mig-1g.10gb", "profile 2g.20gb"),
        (json!({"mig-1g.10gb": "1"}), json!({"count": 2, "mig": "1g.10gb"}), "nvidia.com/mig-1g.10gb", "count 2"),
        (json!({}), json!({"count": -1}), "packhorse.dev/request field count", "negative"),
        (json!({}), json!({"count": 1025}), "packhorse.dev/request field count", "more than 1024"),
        (json!({}), json!({"memory": 1_000_000}), "packhorse.dev/request field memory", "fits no card"),
        (json!({}), json!({"memory": -1}), "packhorse.dev/request field memory", "negative"),
        (json!({}), json!({"memoryPercent": 101}), "packhorse.dev/request field memoryPercent", "more than 100"),
        (json!({}), json!({"cores": 101}), "packhorse.dev/request field cores", "more than 100"),
        (json!({}), json!({"mig": "huge"}), "packhorse.dev/request field mig", "MIG profile"),
        (json!({}), json!({"mig": "1g.10gb", "memory": 5}), "packhorse.dev/request field memory", "fixes memory"),
        (
            json!({}),
            json!({"mig": "1g.10gb", "exclusive": true}),
            "packhorse.dev/request field exclusive",
            "fixes memory",
        ),
        (
            json!({}),
            json!({"exclusive": true, "cores": 30}),
            "packhorse.dev/request field cores",
            "a part of the cores",
        ),
        (json!({}), json!({"count": 0, "memory": 5}), "packhorse.dev/request field count", "field memory is 5"),
        (json!({}), json!({"count": 0, "mig": "1g.10gb", "memory": 5}), "packhorse.dev/request field count", "is 5"),
        (json!({}), json!({"count": 1, "index": [1, 2]}), "packhorse.dev/request", "names 2 devices"),
        (json!({}), json!({"index": [1, 1]}), "packhorse.dev/request field index", "named twice"),
        (json!({}), json!({"uuid": ["GPU-a", "GPU-a"]}), "packhorse.dev/request field uuid", "named twice"),
        (json!({}), json!({"index": many}), "packhorse.dev/request field index", "more devices than any node has"),
        (json!({}), json!({"uuid": ["card"]}), "packhorse.dev/request field uuid", "not the UUID"),
        (json!({}), json!({"index": [1], "uuid": ["GPU-a"]}), "packhorse.dev/request field index", "mixed"),
    ] {
        let denials = denied(&with_request(limits(&resources), &json!({"main": entry})));
        let denial = &denials[0];
        assert_eq!(denial.container.as_deref(), Some("main"), "{resources} {entry}");
        assert_eq!(denial.field, field, "{resources} {entry}: {denial}");
        assert!(denial.problem.contains(problem), "{resources} {entry}: {denial}");
    }
}

#[test]
fn damaged_request_annotations_are_denied_and_unknown_fields_warned_of() {
    for (text, problem) in [
        ("", "EOF"),
        ("{", "EOF"),
        ("[]", "an object with v and containers"),
        ("{}", "version (none)"),
        (r#"{"containers":{}}"#, "version (none)"),
        (r#"{"v":2,"containers":{}}"#, "version 2"),
        (r#"{"v":2,"containers":[]}"#, "version 2"),
        (r#"{"v":"1","containers":{}}"#, "version \"1\""),
        (r#"{"v":1,"containers":[]}"#, "containers by name"),
        (r#"{"v":1,"containers":{"main":{"count":"1"}}}"#, "expected i64"),
        (r#"{"v":1,"containers":{"main":{"memory":4096.5}}}"#, "expected i64"),
        (r#"{"v":1,"containers":{"main":{"memory":1e30}}}"#, "expected i64"),
        (r#"{"v":1,"containers":{"main":{"index":[-1]}}}"#, "expected u32"),
        (r#"{"v":1,"containers":{"main":{},"main":{"count":1}}}"#, "named twice"),
        (r#"{"v":1,"containers":{}} x"#, "trailing"),
    ] {
        let denials = denied(&with_annotation(limits(&json!({"gpu": "1"})), names::REQUEST, text));
        assert_eq!((denials.len(), denials[0].field.as_str()), (1, names::REQUEST), "{text}");
        assert_eq!(denials[0].value, text);
        assert!(denials[0].problem.contains(problem), "{text}: {}", denials[0]);
        assert!(denials[0].remedy.contains(r#"{"v":1"#), "{text}: {}", denials[0]);
    }
    let denials = denied(&with_request(limits(&json!({})), &json!({"mian": {"count": 1}})));
    assert_eq!((denials[0].field.as_str(), denials[0].value.as_str()), (names::REQUEST, "mian"));
    assert!(denials[0].problem.contains("no container of that name"), "{}", denials[0]);

    let text = r#"{"v":1,"later":{},"containers":{"main":{"count":1,"memory":5,"colour":"red"}}}"#;
    let parsed = read(&with_annotation(limits(&json!({})), names::REQUEST, text)).unwrap();
    assert_eq!(parsed.request.containers[0].ask, mib(5, 0));
    for field in ["later", "main.colour"] {
        assert!(
            parsed.warnings.iter().any(|w| w.contains(&format!("unknown field {field} "))),
            "{:?}",
            parsed.warnings
        );
    }
}

#[test]
fn encodes_the_example_of_the_wire_format() {
    let share = |memory, cores| Ask::Share { memory, cores };
    let container = |name: &str, count, ask, index: &[u32]| ContainerRequest {
        name: name.into(),
        phase: Phase::App,
        count,
        ask,
        index: index.to_vec(),
        uuid: vec![],
    };
    let request = PodRequest {
        containers: vec![
            container("main", 1, share(Memory::Mib(4_096), 30), &[]),
            container("half", 2, share(Memory::Percent(50), 0), &[]),
            container("whole", 1, Ask::Exclusive, &[]),
            container("slice", 1, mig("1g.10gb"), &[]),
            container("old", 1, Ask::Exclusive, &[3]),
        ],
        constraints: Constraints::default(),
    };
    let text = encode(&request);
    let expected = json!({"v": 1, "containers": {
        "main": {"count": 1, "memory": 4096, "cores": 30},
        "half": {"count": 2, "memoryPercent": 50},
        "whole": {"count": 1, "exclusive": true},
        "slice": {"count": 1, "mig": "1g.10gb"},
        "old": {"count": 1, "exclusive": true, "index": [3]}}});
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    let given = decode(&text).unwrap();
    assert_eq!(given.unknown, [""; 0]);
    assert_eq!(given.containers["half"].memory_percent, Some(50));
    assert_eq!(given.containers["old"].index, [3]);
}

#[test]
fn an_entry_and_the_environment_must_name_the_same_devices() {
    let pod = |entry: &Value, visible: &str| {
        with_request(with_env(limits(&json!({})), &[("NVIDIA_VISIBLE_DEVICES", visible)]), &json!({"main": entry}))
    };
    for entry in [json!({"index": [3, 4]}), json!({"count": 2}), json!({"count": 2, "exclusive": true})] {
        let request = read(&pod(&entry, "3,4")).unwrap().request;
        assert_eq!((request.containers[0].count, request.containers[0].index.as_slice()), (2, &[3, 4][..]), "{entry}");
        assert_idempotent(&Rules::default(), &pod(&entry, "3,4"));
    }
    let denials = denied(&pod(&json!({"index": [3, 5]}), "3,4"));
    assert_eq!((denials[0].field.as_str(), denials[0].value.as_str()), ("NVIDIA_VISIBLE_DEVICES", "3,4"));
    assert!(denials[0].problem.contains("packhorse.dev/request names 3,5"), "{}", denials[0]);
}

#[test]
fn all_memory_without_a_core_limit_does_not_become_a_count_alone() {
    // The parser makes no such request; written down it must not read as whole GPUs.
    let ask = all(0);
    let container =
        ContainerRequest { name: "main".into(), phase: Phase::App, count: 1, ask, index: vec![], uuid: vec![] };
    let request = PodRequest { containers: vec![container], constraints: Constraints::default() };
    assert_eq!(encode(&request), r#"{"v":1,"containers":{"main":{"count":1,"memoryPercent":100}}}"#);
}
