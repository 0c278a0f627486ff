//! What holds for every pod: the webhook's output reads as its input, nothing panics, more is never less.

use super::*;

fn any_amount() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        3 => Just(None),
        4 => (0_u32..130).prop_map(|n| Some(n.to_string())),
        1 => (0_u32..5_000).prop_map(|n| Some(format!("{n}Mi"))),
        1 => (0_u32..20).prop_map(|n| Some(format!("{n}k"))),
        1 => "[-+0-9.eEikmMGT]{0,6}".prop_map(Some),
    ]
}

prop_compose! {
    fn any_container(name: &'static str)(
        limits in prop::collection::btree_map(
            prop::sample::select(vec!["gpu", "gpumem", "gpumem-percentage", "gpucores", "mig-1g.10gb", "priority", "gpux"]),
            any_amount().prop_filter_map("absent", |amount| amount),
            0..4,
        ),
        in_requests in any::<bool>(),
        always in any::<bool>(),
        env in prop_oneof![
            4 => Just(None),
            1 => prop::sample::select(vec!["all", "none", "", "void", "3", "0,1", "GPU-a", "MIG-a,MIG-b"])
                .prop_map(|value| Some(value.to_owned())),
            1 => ".{0,8}".prop_map(Some),
        ],
    ) -> Value {
        let limits = prefixed("nvidia.com", &json!(limits));
        let mut container = json!({"name": name, "resources": {(if in_requests { "requests" } else { "limits" }): limits}});
        if always {
            container["restartPolicy"] = json!("Always");
        }
        if let Some(value) = env {
            container["env"] = json!([{"name": "NVIDIA_VISIBLE_DEVICES", "value": value}]);
        }
        container
    }
}

fn any_entry() -> impl Strategy<Value = Value> {
    prop::collection::btree_map(
        prop::sample::select(vec![
            "count",
            "memory",
            "memoryPercent",
            "cores",
            "exclusive",
            "mig",
            "index",
            "uuid",
            "x",
        ]),
        0_i64..3,
        0..4,
    )
    .prop_map(|fields| {
        let value = |(name, n): (&str, i64)| match name {
            "exclusive" => (name.to_owned(), json!(n > 0)),
            "mig" => (name.to_owned(), json!("1g.10gb")),
            "index" => (name.to_owned(), json!([n])),
            "uuid" => (name.to_owned(), json!([format!("GPU-{n}")])),
            _ => (name.to_owned(), json!(n)),
        };
        Value::Object(fields.into_iter().map(value).collect())
    })
}

proptest! {
    #[test]
    fn the_output_of_the_webhook_reads_as_its_input(
        init in any_container("init"),
        main in any_container("main"),
        side in any_container("side"),
        entry in prop::option::of(any_entry()),
        share in prop::option::of(1_u8..=100),
        policy in prop::option::of(prop::sample::select(vec!["binpack", "spread", "topology", "x"])),
    ) {
        let rules = Rules { count_alone: share.map_or(CountAlone::Exclusive, CountAlone::Share), ..Rules::default() };
        let mut pod = json!({"spec": {"initContainers": [init], "containers": [main, side]}});
        if let Some(entry) = entry {
            pod = with_request(pod, &json!({"main": entry}));
        }
        if let Some(policy) = policy {
            pod = with_annotation(pod, "packhorse.dev/gpu-policy", policy);
        }
        assert_idempotent(&rules, &pod);
    }

    #[test]
    fn arbitrary_text_never_panics(
        key in "(packhorse.dev|nvidia.com|hami.io)/[a-z-]{0,24}",
        value in ".{0,40}",
        resource in "nvidia.com/(gpu|mig-)?[a-z0-9.-]{0,12}",
        amount in ".{0,12}",
        request in ".{0,60}",
    ) {
        let mut pod = json!({"spec": {"containers": [{"name": "main", "resources": {"limits": {resource: amount, "nvidia.com/gpu": "1"}}}]}});
        pod = with_annotation(pod, &key, &value);
        let messages = match read(&pod) {
            Ok(parsed) => parsed.warnings,
            Err(denials) => denials.iter().map(Denial::to_string).collect(),
        };
        prop_assert!(messages.iter().all(|message| message.len() < 2_000));
        let _ = decode(&request).is_ok();
        let _ = read(&with_annotation(pod, names::REQUEST, &request)).is_ok();
    }

    #[test]
    fn more_memory_is_never_read_as_less(a in 1_u32..900_000, b in 1_u32..900_000, suffix in "(Ki|Mi|m)?") {
        let memory = |n: u32| match read(&limits(&json!({"gpumem": format!("{n}{suffix}")}))) {
            Ok(parsed) => match parsed.request.containers.first().map(|container| container.ask.clone()) {
                Some(Ask::Share { memory: Memory::Mib(mib), .. }) => Some(mib),
                _ => None,
            },
            Err(_) => None,
        };
        if let (Some(low), Some(high)) = (memory(a.min(b)), memory(a.max(b))) {
            prop_assert!(low <= high);
        }
    }
}
