//! The rules, one line each.

use super::build::*;
use crate::gpu::device::{Enforcement, Health};
use crate::gpu::fit::{Policies, place};
use crate::gpu::node::Node;
use crate::gpu::reason::Reason::{self, *};
use crate::gpu::request::{Ask, GpuPolicy, PodRequest};

fn small(memory: u32) -> crate::gpu::device::Device {
    crate::gpu::device::Device { memory, ..card(0) }
}

#[test]
fn one_container_on_one_node() {
    let three = || cards(3);
    let unhealthy = |health| crate::gpu::device::Device { health, ..card(0) };
    type Expected = Result<Vec<usize>, Reason>;
    let table: Vec<(&str, Node, PodRequest, Expected)> = vec![
        // Memory.
        ("fits to the MiB", node(vec![card(0)]), app(1, share(81_920, 0)), Ok(vec![0])),
        ("one MiB too much, even empty", node(vec![card(0)]), app(1, share(81_921, 0)), Err(DeviceTooSmall)),
        ("small card", node(vec![small(128)]), app(1, share(512, 0)), Err(DeviceTooSmall)),
        ("memory gone", used(node(vec![card(0)]), &[(1, 81_000, 0)]), app(1, share(1_000, 0)), Err(MemoryExhausted)),
        ("memory left", used(node(vec![card(0)]), &[(1, 81_000, 0)]), app(1, share(920, 0)), Ok(vec![0])),
        ("percent rounds down", used(node(vec![small(1_280)]), &[(1, 1_152, 0)]), app(1, percent(10)), Ok(vec![0])),
        ("percent of 999 is 99", used(node(vec![small(999)]), &[(1, 900, 0)]), app(1, percent(10)), Ok(vec![0])),
        (
            "percent beyond what is left",
            used(node(vec![card(0)]), &[(1, 1, 0)]),
            app(1, percent(100)),
            Err(MemoryExhausted),
        ),
        ("cores alone take all memory", node(vec![card(0)]), app(1, all_memory(30)), Ok(vec![0])),
        (
            "cores alone beside a MiB",
            used(node(vec![card(0)]), &[(1, 1, 1)]),
            app(1, all_memory(30)),
            Err(MemoryExhausted),
        ),
        // Cores.
        ("cores to the percent", used(node(vec![card(0)]), &[(1, 1, 50)]), app(1, share(1, 50)), Ok(vec![0])),
        ("one percent too much", used(node(vec![card(0)]), &[(1, 1, 51)]), app(1, share(1, 50)), Err(CoresExhausted)),
        ("no core limit beside 99", used(node(vec![card(0)]), &[(1, 1, 99)]), app(1, share(1, 0)), Ok(vec![0])),
        (
            "no core limit beside 100",
            used(node(vec![card(0)]), &[(2, 2, 100)]),
            app(1, share(1, 0)),
            Err(CoresExhausted),
        ),
        // Slots.
        ("last slot", used(node(vec![card(0)]), &[(9, 9, 0)]), app(1, share(1, 0)), Ok(vec![0])),
        ("no slot", used(node(vec![card(0)]), &[(10, 10, 0)]), app(1, share(1, 0)), Err(SlotsExhausted)),
        // Exclusive.
        ("whole card", node(vec![card(0)]), app(1, Ask::Exclusive), Ok(vec![0])),
        (
            "whole card beside a share",
            used(node(vec![card(0)]), &[(1, 1, 0)]),
            app(1, Ask::Exclusive),
            Err(DeviceExclusive),
        ),
        ("share beside a whole card", taken(node(vec![card(0)]), &[0]), app(1, share(1, 0)), Err(DeviceExclusive)),
        ("whole card beside another", taken(node(cards(2)), &[0]), app(1, Ask::Exclusive), Ok(vec![1])),
        // Several.
        ("two different cards", node(cards(2)), app(2, share(1, 0)), Ok(vec![0, 1])),
        ("two of one card", node(cards(1)), app(2, share(1, 0)), Err(TooFewDevices)),
        ("three of two cards", node(cards(2)), app(3, Ask::Exclusive), Err(TooFewDevices)),
        ("two whole, one taken", taken(node(cards(2)), &[0]), app(2, Ask::Exclusive), Err(DeviceExclusive)),
        ("two, one too small", node(vec![small(100), card(1)]), app(2, share(200, 0)), Err(DeviceTooSmall)),
        ("more than any node has", node(cards(2)), app(u32::MAX, share(1, 0)), Err(TooFewDevices)),
        // Out of use.
        ("foreign", node(vec![foreign(card(0))]), app(1, share(1, 0)), Err(DeviceForeign)),
        ("suspect", node(vec![unhealthy(Health::Suspect)]), app(1, share(1, 0)), Err(DeviceUnhealthy)),
        ("unhealthy", node(vec![unhealthy(Health::Unhealthy)]), app(1, Ask::Exclusive), Err(DeviceUnhealthy)),
        ("recovering", node(vec![unhealthy(Health::Recovering)]), app(1, share(1, 0)), Err(DeviceUnhealthy)),
        (
            "too small beats unhealthy",
            node(vec![unhealthy(Health::Suspect)]),
            app(1, share(90_000, 0)),
            Err(DeviceTooSmall),
        ),
        // No device.
        ("no device at all", node(Vec::new()), app(1, share(1, 0)), Err(NoMatchingDevice)),
        ("no instance at all", node(cards(1)), app(1, mig("1g.10gb")), Err(NoMigProfile)),
        // Constraints.
        ("model", node(three()), with(app(1, share(1, 0)), |c| c.model = vec!["a100".into()]), Ok(vec![0])),
        (
            "part of a model's word",
            node(three()),
            with(app(1, share(1, 0)), |c| c.model = vec!["A10".into()]),
            Err(NoMatchingDevice),
        ),
        (
            "model refused",
            node(three()),
            with(app(1, share(1, 0)), |c| c.model_exclude = vec!["A100-SXM4".into()]),
            Err(NoMatchingDevice),
        ),
        ("uuid", node(three()), with(app(1, share(1, 0)), |c| c.uuid = vec!["GPU-02".into()]), Ok(vec![2])),
        (
            "uuid is exact",
            node(three()),
            with(app(1, share(1, 0)), |c| c.uuid = vec!["gpu-02".into()]),
            Err(NoMatchingDevice),
        ),
        (
            "uuid refused",
            node(three()),
            with(app(1, share(1, 0)), |c| c.uuid_exclude = vec!["GPU-00".into(), "GPU-02".into()]),
            Ok(vec![1]),
        ),
        (
            "two, one uuid",
            node(three()),
            with(app(2, share(1, 0)), |c| c.uuid = vec!["GPU-00".into()]),
            Err(TooFewDevices),
        ),
    ];
    for (case, node, request, expected) in table {
        assert_eq!(devices(&node, &request).map(|mut all| all.remove(0)), expected, "{case}");
    }
}

#[test]
fn pins_of_one_container_hold() {
    let pinned = |index: Vec<u32>, uuid: Vec<&str>, count| {
        let mut request = app(count, share(1, 0));
        request.containers[0].index = index;
        request.containers[0].uuid = uuid.into_iter().map(Into::into).collect();
        request
    };
    let four = node(cards(4));
    for (case, request, expected) in [
        ("index", pinned(vec![3], vec![], 1), Ok(vec![3])),
        ("two indices", pinned(vec![3, 1], vec![], 2), Ok(vec![1, 3])),
        ("index not here", pinned(vec![7], vec![], 1), Err(NoMatchingDevice)),
        ("one of two not here", pinned(vec![1, 7], vec![], 2), Err(TooFewDevices)),
        ("uuid", pinned(vec![], vec!["GPU-02"], 1), Ok(vec![2])),
        ("both must hold", pinned(vec![1], vec!["GPU-02"], 1), Err(NoMatchingDevice)),
    ] {
        assert_eq!(devices(&four, &request).map(|mut all| all.remove(0)), expected, "{case}");
    }
}

#[test]
fn a_node_whose_agent_is_not_ready_takes_nobody() {
    let mut node = node(cards(1));
    node.ready = false;
    assert_eq!(try_place(&node, &app(1, share(1, 0))), Err(AgentNotReady));
    assert_eq!(try_place(&node, &app(2, share(1, 0))), Err(AgentNotReady));
}

#[test]
fn a_cordoned_device_takes_nobody() {
    let mut node = node(cards(2));
    node.cordoned[0] = true;
    assert_eq!(devices(&node, &app(1, share(1, 0))), Ok(vec![vec![1]]));
    assert_eq!(devices(&node, &app(2, share(1, 0))), Err(DeviceCordoned));
}

#[test]
fn mig_profiles_go_to_instances_of_that_profile() {
    let mixed = || {
        vec![
            card(0),
            instance(1, 0, "1g.10gb", 9_728),
            instance(1, 1, "1g.10gb", 9_728),
            instance(1, 2, "2g.20gb", 19_968),
        ]
    };
    for (case, node, request, expected) in [
        ("profile", node(mixed()), app(1, mig("2g.20gb")), Ok(vec![3])),
        ("two of a profile may be on one card", node(mixed()), app(2, mig("1g.10gb")), Ok(vec![1, 2])),
        ("three of two", node(mixed()), app(3, mig("1g.10gb")), Err(TooFewDevices)),
        ("other profile", node(mixed()), app(1, mig("3g.40gb")), Err(NoMigProfile)),
        ("taken", taken(node(mixed()), &[3]), app(1, mig("2g.20gb")), Err(DeviceExclusive)),
        (
            "profile there, model refused",
            node(mixed()),
            with(app(1, mig("2g.20gb")), |c| c.model_exclude = vec!["A100".into()]),
            Err(NoMatchingDevice),
        ),
        (
            "a card's uuid names its instances",
            node(mixed()),
            with(app(1, mig("1g.10gb")), |c| c.uuid = vec!["GPU-01".into()]),
            Ok(vec![1]),
        ),
        ("a GPU is a whole card", node(mixed()), app(1, Ask::Exclusive), Ok(vec![0])),
        ("a share goes to a card", taken(node(mixed()), &[0]), app(1, share(1, 0)), Err(DeviceExclusive)),
        ("no card here", node(mixed().split_off(1)), app(1, share(1, 0)), Err(NoMatchingDevice)),
    ] {
        assert_eq!(devices(&node, &request).map(|mut all| all.remove(0)), expected, "{case}");
    }
}

#[test]
fn a_mig_instance_is_booked_whole() {
    let placement = try_place(&node(vec![instance(0, 0, "1g.10gb", 9_728)]), &app(1, mig("1g.10gb"))).expect("it fits");
    let share = &placement.allocation.containers[0].shares[0];
    assert_eq!((share.memory, share.cores, share.exclusive, share.enforcement), (9_728, 100, true, Enforcement::Mig));
}

#[test]
fn under_strategy_single_a_gpu_is_an_instance() {
    let single = |devices| {
        let mut node = node(devices);
        node.mig_single = true;
        node
    };
    let two = || vec![instance(0, 0, "3g.40gb", 40_192), instance(0, 1, "3g.40gb", 40_192)];
    for (case, node, request, expected) in [
        ("whole instance", single(two()), app(1, Ask::Exclusive), Ok(vec![0])),
        ("two instances", single(two()), app(2, Ask::Exclusive), Ok(vec![0, 1])),
        ("three of two", single(two()), app(3, Ask::Exclusive), Err(TooFewDevices)),
        ("share of an instance", single(two()), app(1, share(40_192, 0)), Ok(vec![0])),
        ("share larger than an instance", single(two()), app(1, share(40_193, 0)), Err(DeviceTooSmall)),
        ("cards not partitioned stay whole", single(cards(1)), app(1, Ask::Exclusive), Ok(vec![0])),
    ] {
        assert_eq!(devices(&node, &request).map(|mut all| all.remove(0)), expected, "{case}");
    }
}

#[test]
fn limits_must_be_kept_as_required() {
    let level = |level| node(vec![crate::gpu::device::Device { enforcement: level, ..card(0) }]);
    let requiring = |level, ask| with(app(1, ask), |c| c.require_enforcement = Some(level));
    for (offered, _) in Enforcement::ALL {
        for (required, _) in Enforcement::ALL {
            let expected = if offered >= required { Ok(vec![vec![0]]) } else { Err(EnforcementTooWeak) };
            assert_eq!(
                devices(&level(offered), &requiring(required, share(1, 0))),
                expected,
                "{offered} for {required}"
            );
            assert_eq!(devices(&level(offered), &requiring(required, Ask::Exclusive)), Ok(vec![vec![0]]));
        }
    }
}

#[test]
fn devices_of_one_container_share_a_numa_node() {
    let on = |numas: &[Option<u16>]| {
        node(
            numas
                .iter()
                .zip(0..)
                .map(|(numa, index)| crate::gpu::device::Device { numa: *numa, ..card(index) })
                .collect(),
        )
    };
    let bound = |count| with(app(count, Ask::Exclusive), |c| c.numa_bind = true);
    let (zero, one) = (Some(0), Some(1));
    for (case, node, request, expected) in [
        ("two on the second", taken(on(&[zero, zero, one, one]), &[0]), bound(2), Ok(vec![2, 3])),
        ("split", on(&[zero, one]), bound(2), Err(NumaSplit)),
        ("one alone is never split", on(&[zero, one]), bound(1), Ok(vec![0])),
        ("more than a NUMA node has", on(&[zero, zero, one, one]), bound(3), Err(NumaSplit)),
        ("room if somebody went", taken(on(&[zero, zero, one]), &[0]), bound(2), Err(DeviceExclusive)),
        ("more than the node has", on(&[zero, zero, one]), bound(4), Err(TooFewDevices)),
        ("nobody knows", on(&[None, None]), bound(2), Ok(vec![0, 1])),
        ("some know", on(&[None, None, zero]), bound(2), Err(NumaSplit)),
    ] {
        assert_eq!(devices(&node, &request).map(|mut all| all.remove(0)), expected, "{case}");
    }
}

#[test]
fn a_device_is_told_by_its_first_fault_and_the_node_by_its_nearest_device() {
    let full_and_small = used(node(vec![card(0), small(100)]), &[(1, 81_920, 0)]);
    assert_eq!(devices(&full_and_small, &app(1, share(200, 0))), Err(MemoryExhausted));
    let cordoned_and_full = {
        let mut node = used(node(cards(1)), &[(1, 81_920, 0)]);
        node.cordoned[0] = true;
        node
    };
    assert_eq!(devices(&cordoned_and_full, &app(1, share(200, 0))), Err(DeviceCordoned));
}

#[test]
fn one_gpu_goes_where_the_policy_says() {
    // Fuller, emptier, free.
    let node = used(node(cards(3)), &[(1, 60_000, 40), (1, 20_000, 10)]);
    for (case, policy, request, expected) in [
        ("default packs tightest", None, app(1, share(1_000, 5)), 0),
        ("what does not fit there goes to the next", None, app(1, share(30_000, 5)), 1),
        ("a free card last", None, app(1, share(70_000, 5)), 2),
        ("binpack", Some(GpuPolicy::Binpack), app(1, share(1_000, 5)), 0),
        ("spread takes the emptiest", Some(GpuPolicy::Spread), app(1, share(1_000, 5)), 2),
    ] {
        let policies = Policies { gpu: policy, ..Policies::default() };
        let placement = place(&node, &request, policies).expect(case);
        assert_eq!(*placement.allocation.containers[0].shares[0].device, *node.devices[expected].uuid, "{case}");
        // A pod's own word beats the cluster's.
        let request = with(request, |c| c.gpu_policy = policy.or(Some(GpuPolicy::Binpack)));
        assert_eq!(
            place(&node, &request, Policies { gpu: Some(GpuPolicy::Topology), ..policies }),
            Ok(placement),
            "{case}"
        );
    }
}

#[test]
fn amounts_are_booked_as_asked() {
    for (case, memory, ask, expected) in [
        ("share", 81_920, share(4_096, 30), (4_096, 30, false)),
        ("no core limit", 81_920, share(4_096, 0), (4_096, 0, false)),
        ("percent rounds down", 999, percent(10), (99, 0, false)),
        ("a percent of almost nothing", 50, percent(1), (1, 0, false)),
        ("cores alone", 81_920, all_memory(30), (81_920, 30, false)),
        ("whole", 81_920, Ask::Exclusive, (81_920, 100, true)),
    ] {
        let placement = try_place(&node(vec![small(memory)]), &app(1, ask)).expect(case);
        let share = &placement.allocation.containers[0].shares[0];
        assert_eq!((share.memory, share.cores, share.exclusive), expected, "{case}");
        let holding = &placement.holdings[0];
        assert_eq!(
            (holding.memory, holding.cores, holding.exclusive, holding.slots),
            (expected.0, expected.1, expected.2, 1),
            "{case}"
        );
    }
}

/// The cases that users of other schedulers know, with the answers they should get.
#[test]
fn the_known_fit_cases_hold() {
    use crate::gpu::device::Device;
    let cards = |count: u32, memory| (0..count).map(|i| Device { memory, slots: 100, ..card(i) }).collect::<Vec<_>>();
    let named = |model: &str| node(vec![Device { model: model.into(), ..card(0) }]);
    let model = |name: &str| with(app(1, share(64, 0)), |c| c.model = vec![name.to_owned()]);
    let ill = Device { health: Health::Unhealthy, ..card(0) };
    for (case, node, request, expected) in [
        ("D1", node(cards(2, 128)), app(1, share(64, 50)), Ok(vec![0])),
        ("D2", node(cards(1, 128)), app(1, share(512, 0)), Err(DeviceTooSmall)),
        ("D3", used(node(cards(1, 1_024)), &[(1, 0, 100)]), app(1, share(512, 50)), Err(CoresExhausted)),
        ("D4", used(node(cards(1, 1_024)), &[(100, 0, 0)]), app(1, share(512, 50)), Err(SlotsExhausted)),
        ("D8", node(cards(1, 1_024)), app(2, share(512, 20)), Err(TooFewDevices)),
        ("D9", node(cards(2, 1_024)), app(3, Ask::Exclusive), Err(TooFewDevices)),
        (
            "D10",
            node(vec![card(1)]),
            with(app(2, Ask::Exclusive), |c| c.uuid = vec!["GPU-00".into()]),
            Err(NoMatchingDevice),
        ),
        (
            "D11",
            node(vec![card(0)]),
            with(app(2, Ask::Exclusive), |c| c.uuid_exclude = vec!["GPU-00".into()]),
            Err(NoMatchingDevice),
        ),
        ("D12", node(cards(1, 1_280)), app(1, percent(10)), Ok(vec![0])),
        ("D13", node(vec![ill]), app(1, share(1, 0)), Err(DeviceUnhealthy)),
        ("D14 same word", named("NVIDIA A100"), model("a100"), Ok(vec![0])),
        ("D14 part of a word", named("NVIDIA A100"), model("A10"), Err(NoMatchingDevice)),
        (
            "D14 refused",
            named("NVIDIA A100"),
            with(app(1, share(64, 0)), |c| c.model_exclude = vec!["A100".into()]),
            Err(NoMatchingDevice),
        ),
        (
            "D15",
            node(cards(1, 1_024)),
            with(app(1, share(64, 0)), |c| c.require_enforcement = Some(Enforcement::Mps)),
            Err(EnforcementTooWeak),
        ),
    ] {
        assert_eq!(devices(&node, &request).map(|mut all| all.remove(0)), expected, "{case}");
    }
}
