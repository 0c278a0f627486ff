use proptest::prelude::*;

use super::*;

const FULL: &str = r#"{"v":1,"containers":{
  "main":[{"device":"GPU-1","memory":4096,"cores":30,"enforcement":"advisory"}],
  "init":[{"device":"GPU-2","memory":81920,"cores":100,"exclusive":true,"enforcement":"cgroup"}]}}"#;

#[test]
fn reads_the_published_form() {
    let decoded = decode(FULL).unwrap();
    assert!(decoded.unknown.is_empty());
    let [init, main] = &decoded.value.containers[..] else { panic!("two containers") };
    assert_eq!((&*init.name, &*main.name), ("init", "main"));
    assert_eq!(
        main.shares,
        [Share {
            device: "GPU-1".into(),
            memory: 4096,
            cores: 30,
            exclusive: false,
            enforcement: Enforcement::Advisory
        }]
    );
    assert!(init.shares[0].exclusive);
}

#[test]
fn names_the_damaged_field() {
    for (from, to, field) in [
        (r#""v":1"#, r#""v":3"#, "v"),
        (r#""device":"GPU-1""#, r#""device":"""#, "containers.main[0].device"),
        (r#""memory":4096,"#, "", "containers.main[0].memory"),
        (r#""memory":4096"#, r#""memory":"4096""#, "containers.main[0].memory"),
        (r#""cores":30"#, r#""cores":101"#, "containers.main[0].cores"),
        (r#""exclusive":true"#, r#""exclusive":1"#, "containers.init[0].exclusive"),
        (r#""enforcement":"cgroup""#, r#""enforcement":"firm""#, "containers.init[0].enforcement"),
        (r#""main":[{"#, r#""main":[7,{"#, "containers.main[0]"),
        (
            r#"[{"device":"GPU-1","#,
            r#"[{"device":"GPU-1","memory":1,"cores":0,"enforcement":"mps"},{"device":"GPU-1","#,
            "containers.main[1].device",
        ),
    ] {
        assert!(FULL.contains(from));
        let error = decode(&FULL.replacen(from, to, 1)).expect_err(to);
        assert_eq!(error.field, field, "{error}");
    }
}

#[test]
fn writes_one_device_list_per_container() {
    let annotations = annotations(&decode(FULL).unwrap().value);
    assert_eq!(annotations[0].0, "packhorse.dev/allocation");
    assert_eq!(annotations[1], ("devices.packhorse.dev/init".to_owned(), "GPU-2".to_owned()));
    assert_eq!(annotations[2], ("devices.packhorse.dev/main".to_owned(), "GPU-1".to_owned()));
}

#[test]
fn finds_devices_in_damaged_text() {
    for (allocation, lists, expected) in [
        (Some(FULL), vec![], vec!["GPU-1", "GPU-2"]),
        (Some(&FULL[..60]), vec![("a", "GPU-2, GPU-1"), ("b", "")], vec!["GPU-1", "GPU-2"]),
        (Some("device=GPU-0a-1;MIG-GPU-9/1/0\\GPU-"), vec![], vec!["GPU-0a-1", "MIG-GPU-9/1/0"]),
        (None, vec![("a", "odd name")], vec!["odd name"]),
        (Some("nothing"), vec![], vec![]),
    ] {
        let found = salvage(allocation, &lists.into_iter().collect(), &[]);
        assert_eq!(found.devices.into_iter().collect::<Vec<_>>(), expected, "{allocation:?}");
    }
}

#[test]
fn knows_whether_every_device_was_found() {
    let asked = [("main".to_owned(), 1), ("init".to_owned(), 1)];
    let later = FULL.replacen("\"v\":1", "\"v\":2", 1);
    for (allocation, lists, complete) in [
        (&*later, vec![], true),
        (&FULL[..60], vec![], false),
        (&FULL[..60], vec![("main", "GPU-1")], false),
        (&FULL[..60], vec![("main", "GPU-1"), ("init", "GPU-2")], true),
        ("", vec![("main", "GPU-1"), ("init", "")], false),
        ("", vec![], false),
    ] {
        assert_eq!(salvage(Some(allocation), &lists.iter().copied().collect(), &asked).complete, complete, "{lists:?}");
    }
    assert!(salvage(Some(""), &BTreeMap::new(), &[]).complete, "a pod that asks for no GPU was given none");
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(containers in proptest::collection::btree_map(
        "[a-z0-9\"é-]{1,8}",
        proptest::collection::btree_map("[A-Z0-9-]{1,8}", (any::<u32>(), 0..=100_u16, any::<bool>(), 0..5_usize), 0..4),
        0..4,
    )) {
        let containers = containers.into_iter().map(|(name, shares)| ContainerAllocation {
            name: name.into(),
            shares: shares.into_iter().map(|(device, (memory, cores, exclusive, level))| Share {
                device: device.into(), memory, cores, exclusive, enforcement: Enforcement::ALL[level].0,
            }).collect(),
        }).collect();
        let allocation = Allocation { containers };
        prop_assert_eq!(decode(&encode(&allocation)).unwrap().value, allocation);
    }

    #[test]
    fn a_cut_allocation_still_names_the_whole_uuids_before_the_cut(cut in 0..FULL.len()) {
        let found = salvage(Some(&FULL[..cut]), &BTreeMap::new(), &[]).devices;
        prop_assert!(decode(&FULL[..cut]).is_err());
        prop_assert_eq!(found.contains("GPU-1"), FULL[..cut].contains("GPU-1"));
    }
}
