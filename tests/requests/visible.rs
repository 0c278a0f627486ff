//! `NVIDIA_VISIBLE_DEVICES`.

use super::*;

#[test]
fn visible_devices_pin_are_left_or_are_denied() {
    let pins = |parsed: &Parsed| {
        let container = parsed.request.containers.first()?;
        Some((container.count, container.ask.clone(), container.index.clone(), container.uuid.clone()))
    };
    let uuids = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect::<Vec<Arc<str>>>();
    for (resources, value, expected) in [
        (json!({}), "3", Some((1, Ask::Exclusive, vec![3], vec![]))),
        (json!({}), "0, 2", Some((2, Ask::Exclusive, vec![0, 2], vec![]))),
        (json!({}), "GPU-a,GPU-b", Some((2, Ask::Exclusive, vec![], uuids(&["GPU-a", "GPU-b"])))),
        (json!({}), "MIG-a", Some((1, Ask::Exclusive, vec![], uuids(&["MIG-a"])))),
        (json!({"gpu": "1", "gpumem": "100"}), "3", Some((1, mib(100, 0), vec![3], vec![]))),
        (json!({"gpumem": "100"}), "3", Some((1, mib(100, 0), vec![3], vec![]))),
        (json!({"gpu": "2"}), "GPU-a,MIG-b", Some((2, Ask::Exclusive, vec![], uuids(&["GPU-a", "MIG-b"])))),
        (json!({"mig-1g.10gb": "1"}), "MIG-b", Some((1, mig("1g.10gb"), vec![], uuids(&["MIG-b"])))),
        (json!({"mig-1g.10gb": "1"}), "2", Some((1, mig("1g.10gb"), vec![2], vec![]))),
        (json!({}), "none", None),
        (json!({}), "void", None),
        (json!({}), "", None),
        (json!({"gpu": "0"}), "none", None),
        (json!({"gpu": "1"}), "all", Some((1, Ask::Exclusive, vec![], vec![]))),
        (json!({"gpu": "1"}), "void", Some((1, Ask::Exclusive, vec![], vec![]))),
    ] {
        let pod = with_env(limits(&resources), &[("NVIDIA_VISIBLE_DEVICES", value)]);
        let parsed = read(&pod).unwrap_or_else(|denials| panic!("{resources} {value}: {}", denials[0]));
        assert_eq!(pins(&parsed), expected, "{resources} {value}");
        assert!(parsed.visible_all.is_empty() && parsed.visible_indirect.is_empty());
        assert_idempotent(&Rules::default(), &pod);
    }
    let many = (0..=1_024).map(|index| index.to_string()).collect::<Vec<_>>().join(",");
    for (resources, value, problem) in [
        (json!({}), "0,0", "\"0\" is named twice"),
        (json!({}), "GPU-a,GPU-a", "\"GPU-a\" is named twice"),
        (json!({}), "0,GPU-a", "mixed"),
        (json!({}), "0,", "\"\" is neither"),
        (json!({}), "0:1", "\"0:1\" is neither"),
        (json!({}), "-1", "\"-1\" is neither"),
        (json!({}), "+1", "\"+1\" is neither"),
        (json!({}), &many, "more devices than any node has"),
        (json!({}), "99999999999", "is neither"),
        (json!({}), "ALL", "\"ALL\" is neither"),
        (json!({}), "0,all", "\"all\" is neither"),
        (json!({}), "nvidia.com/gpu=0", "is neither"),
        (json!({}), "/var/run/nvidia-container-devices", "is neither"),
        (json!({"gpu": "2"}), "3", "names 1 devices, but the container asks for 2"),
        (json!({"gpumem": "100"}), "1,2", "names 2 devices, but the container asks for 1"),
        (json!({"mig-1g.10gb": "1"}), "GPU-a", "this is a whole GPU"),
    ] {
        let denials = denied(&with_env(limits(&resources), &[("NVIDIA_VISIBLE_DEVICES", value)]));
        let denial = &denials[0];
        assert_eq!(denial.container.as_deref(), Some("main"), "{value}");
        assert_eq!(denial.field, "NVIDIA_VISIBLE_DEVICES", "{value}");
        assert!(denial.problem.contains(problem), "{value}: {denial}");
    }
    let denials = denied(&with_env(limits(&json!({"gpu": "0"})), &[("NVIDIA_VISIBLE_DEVICES", "3")]));
    assert_eq!(denials[0].field, "nvidia.com/gpu");
    assert!(denials[0].problem.contains("names devices: 3"), "{}", denials[0]);
}

#[test]
fn visible_all_and_indirect_without_a_request_are_told_to_the_caller() {
    let parsed = read(&with_env(limits(&json!({})), &[("NVIDIA_VISIBLE_DEVICES", "all")])).unwrap();
    assert!(parsed.request.is_empty());
    assert_eq!(parsed.visible_all, [Arc::from("main")]);

    let indirect = |resources: &Value, from: Value| {
        let mut pod = limits(resources);
        pod["spec"]["containers"][0]["env"] = json!([{"name": "NVIDIA_VISIBLE_DEVICES", "valueFrom": from}]);
        pod
    };
    let config_map = json!({"configMapKeyRef": {"name": "c", "key": "k"}});
    let foreign = json!({"fieldRef": {"fieldPath": "metadata.annotations['devices.packhorse.dev/other']"}});
    for from in [&config_map, &foreign] {
        let parsed = read(&indirect(&json!({}), from.clone())).unwrap();
        assert_eq!(parsed.visible_indirect, [Arc::from("main")], "{from}");
        let denials = denied(&indirect(&json!({"gpu": "1"}), from.clone()));
        assert_eq!(denials[0].field, "NVIDIA_VISIBLE_DEVICES");
        assert!(denials[0].problem.contains("cannot be read at admission"), "{}", denials[0]);
    }
    let ours = json!({"fieldRef": {"fieldPath": devices_field_path("main")}});
    assert_eq!(read(&indirect(&json!({"gpu": "1"}), ours.clone())).unwrap().request.containers.len(), 1);
    assert_eq!(read(&indirect(&json!({}), ours)).unwrap(), Parsed::default());
}
