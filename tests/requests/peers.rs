//! The cases that users of HAMi know, as far as the meaning of a request goes: what it asserts about its webhook (W) and its
//! parser (P), and what is asserted here instead where that is better.

use super::*;

#[test]
fn cases_of_hami_read_as_its_users_expect_or_better() {
    for (case, resources, expected) in [
        ("W1, P1: a count alone is a whole card", json!({"gpu": "1"}), Some((1, Ask::Exclusive))),
        ("W2a: cores alone ask for one GPU", json!({"gpucores": "1"}), Some((1, all(1)))),
        ("W2b: memory alone asks for one GPU", json!({"gpumem": "1"}), Some((1, mib(1, 0)))),
        ("W2c: a percentage alone asks for one GPU", json!({"gpumem-percentage": "1"}), Some((1, percent(1, 0)))),
        ("W3: no GPU resource, no request", json!({}), None),
        ("W7: percentage 0 is not asked", json!({"gpu": "1", "gpumem-percentage": "0"}), Some((1, Ask::Exclusive))),
        ("W7: percentage 100", json!({"gpu": "1", "gpumem-percentage": "100"}), Some((1, percent(100, 0)))),
        ("W8b: no cores are added to a share", json!({"gpu": "1", "gpumem": "8192"}), Some((1, mib(8_192, 0)))),
        ("W8b: nor to a percentage", json!({"gpu": "1", "gpumem-percentage": "50"}), Some((1, percent(50, 0)))),
        ("W8c: cores are kept", json!({"gpu": "1", "gpucores": "70"}), Some((1, all(70)))),
        ("W9: a priority changes nothing", json!({"gpu": "1", "priority": "5"}), Some((1, Ask::Exclusive))),
        ("P2", json!({"gpu": "2", "gpumem": "4096"}), Some((2, mib(4_096, 0)))),
        ("P3", json!({"gpu": "1", "gpumem-percentage": "50"}), Some((1, percent(50, 0)))),
        ("P6", json!({"gpu": "1", "gpumem": "2000", "gpumem-percentage": "0"}), Some((1, mib(2_000, 0)))),
        (
            "P9: memory 0 and percentage 0",
            json!({"gpu": "1", "gpumem": "0", "gpumem-percentage": "0"}),
            Some((1, Ask::Exclusive)),
        ),
        ("B1: 16Gi is 16 GiB, not an empty request", json!({"gpu": "1", "gpumem": "16Gi"}), Some((1, mib(16_384, 0)))),
    ] {
        let in_limits = limits(&resources);
        let mut in_requests = in_limits.clone();
        in_requests["spec"]["containers"][0]["resources"] = json!({"requests": prefixed("nvidia.com", &resources)});
        // W8d, P7: requests only read as limits do.
        for pod in [in_limits, in_requests] {
            assert_eq!(ask_of(&pod), expected, "{case}");
            assert_idempotent(&Rules::default(), &pod);
        }
    }
    for value in ["101", "150", "-1"] {
        let denials = denied(&limits(&json!({"gpu": "1", "gpumem-percentage": value})));
        assert_eq!((denials.len(), denials[0].value.as_str()), (1, value), "W7: {value} is denied, not clamped");
    }
}

#[test]
fn only_the_container_that_asks_gets_devices() {
    // D26: three containers, only the middle one asks.
    let mut pod = limits(&json!({"gpu": "1"}));
    pod["spec"]["containers"] = json!([{"name": "first"}, pod["spec"]["containers"][0], {"name": "last"}]);
    let request = read(&pod).unwrap().request;
    assert_eq!(request.containers.iter().map(|c| &*c.name).collect::<Vec<_>>(), ["main"]);
}
