use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::agent::backend::InstanceAttributes;
use crate::gpu::device::{Device, Enforcement, Health};
use crate::gpu::request::MigProfile;

const A100: &str = "NVIDIA A100-SXM4-80GB";

fn card(number: u32, model: &str, memory: u32, compute: (u32, u32)) -> Card {
    Card {
        uuid: format!("GPU-{number}").into(),
        index: number,
        model: model.into(),
        memory,
        pci: format!("0000:{number:02x}:00.0").into(),
        numa: None,
        minor: number,
        compute,
        mig_capable: compute == (8, 0),
        mig_mode: false,
        instances: Vec::new(),
        links: Vec::new(),
        clique: None,
    }
}

fn a100(number: u32) -> Card {
    card(number, A100, 81920, (8, 0))
}

fn cut_into(mut card: Card, profiles: &[(&str, u32)]) -> Card {
    card.mig_mode = true;
    card.instances = profiles
        .iter()
        .enumerate()
        .map(|(number, (profile, memory))| Instance {
            uuid: format!("MIG-{}-{number}", card.index).into(),
            profile: MigProfile(Arc::from(*profile)),
            memory: *memory,
            start: 0,
            size: 1,
            ids: None,
            attributes: Some(InstanceAttributes {
                multiprocessors: 14,
                gpu_slices: 1,
                compute_slices: 1,
                copy_engines: 1,
                ..InstanceAttributes::default()
            }),
        })
        .collect();
    card
}

/// Ten slots a card, one an instance.
fn view(cards: Vec<Card>, mig_strategy: MigStrategy) -> NodeView {
    let device = |uuid: &Arc<str>, slots| Device {
        uuid: Arc::clone(uuid),
        index: 0,
        model: A100.into(),
        memory: 1,
        cores: 100,
        slots,
        numa: None,
        pci: "0000:07:00.0".into(),
        health: Health::Healthy,
        enforcement: Enforcement::Advisory,
        links: Vec::new(),
        mig: None,
        parent: None,
        foreign: None,
    };
    let devices = cards
        .iter()
        .flat_map(|card| match card.mig_mode {
            true => card.instances.iter().map(|instance| device(&instance.uuid, 1)).collect(),
            false => vec![device(&card.uuid, 10)],
        })
        .collect();
    NodeView {
        driver: "580.95.05".to_owned(),
        cuda: Some((13, 0)),
        cards,
        devices,
        mig_strategy,
        ..NodeView::default()
    }
}

fn labels(view: &NodeView) -> Labels {
    of(view, &Host::new(Path::new("/nonexistent")))
}

fn expect(labels: &Labels, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(labels.get(&format!("nvidia.com/{key}")).map(String::as_str), Some(*value), "{key}");
    }
}

#[test]
fn a_node_of_one_model_is_described_as_gpu_feature_discovery_does() {
    let found = labels(&view(vec![a100(1), a100(2)], MigStrategy::None));
    let expected = [
        ("gpu.present", "true"),
        ("gpu.machine", "unknown"),
        ("gpu.mode", "unknown"),
        ("gpu.product", "NVIDIA-A100-SXM4-80GB"),
        ("gpu.count", "2"),
        ("gpu.replicas", "10"),
        ("gpu.sharing-strategy", "time-slicing"),
        ("gpu.memory", "81920"),
        ("gpu.family", "ampere"),
        ("gpu.compute.major", "8"),
        ("gpu.compute.minor", "0"),
        ("gpu.NVIDIA-A100-SXM4-80GB.count", "2"),
        ("mig.capable", "true"),
        ("mps.capable", "false"),
        ("cuda.driver-version.full", "580.95.05"),
        ("cuda.driver-version.major", "580"),
        ("cuda.driver-version.minor", "95"),
        ("cuda.driver-version.revision", "05"),
        ("cuda.driver.major", "580"),
        ("cuda.driver.minor", "95"),
        ("cuda.driver.rev", "05"),
        ("cuda.runtime-version.full", "13.0"),
        ("cuda.runtime-version.major", "13"),
        ("cuda.runtime-version.minor", "0"),
        ("cuda.runtime.major", "13"),
        ("cuda.runtime.minor", "0"),
    ];
    expect(&found, &expected);
    assert_eq!(found.len(), expected.len(), "{found:?}");
}

#[test]
fn a_node_without_cards_has_none() {
    assert!(labels(&NodeView { trouble: Some("no driver".to_owned()), ..NodeView::default() }).is_empty());
}

#[test]
fn one_slot_a_card_is_no_sharing() {
    let mut view = view(vec![a100(1)], MigStrategy::None);
    view.devices[0].slots = 1;
    expect(&labels(&view), &[("gpu.replicas", "1"), ("gpu.sharing-strategy", "none")]);
}

#[test]
fn on_a_mixed_node_the_first_model_is_described_and_each_is_counted() {
    let t4 = |number| card(number, "Tesla T4", 15360, (7, 5));
    let found = labels(&view(vec![t4(1), a100(2), a100(3)], MigStrategy::None));
    expect(
        &found,
        &[
            ("gpu.product", "Tesla-T4"),
            ("gpu.count", "1"),
            ("gpu.memory", "15360"),
            ("gpu.family", "turing"),
            ("gpu.Tesla-T4.count", "1"),
            ("gpu.NVIDIA-A100-SXM4-80GB.count", "2"),
        ],
    );
    // A card that fails, or is found again, changes nothing.
    let mut again = view(vec![t4(1), a100(2), a100(3)], MigStrategy::None);
    again.devices[0].health = Health::Unhealthy;
    assert_eq!(labels(&again), found);
}

#[test]
fn under_single_the_labels_of_a_gpu_describe_the_instances() {
    let sevenths = [("1g.10gb", 9728), ("1g.10gb", 9728)];
    let cards = vec![cut_into(a100(1), &sevenths), cut_into(a100(2), &sevenths)];
    let found = labels(&view(cards, MigStrategy::Single));
    expect(
        &found,
        &[
            ("mig.strategy", "single"),
            ("gpu.product", "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb"),
            ("gpu.count", "4"),
            ("gpu.replicas", "1"),
            ("gpu.sharing-strategy", "none"),
            ("gpu.memory", "9728"),
            ("gpu.multiprocessors", "14"),
            ("gpu.slices.gi", "1"),
            ("gpu.slices.ci", "1"),
            ("gpu.engines.copy", "1"),
            ("gpu.engines.decoder", "0"),
            ("gpu.engines.encoder", "0"),
            ("gpu.engines.jpeg", "0"),
            ("gpu.engines.ofa", "0"),
            ("gpu.family", "ampere"),
            ("gpu.NVIDIA-A100-SXM4-80GB.count", "2"),
        ],
    );
}

#[test]
fn single_with_anything_but_one_profile_everywhere_is_called_invalid() {
    let one = [("1g.10gb", 9728)];
    for cards in [
        vec![cut_into(a100(1), &one), a100(2)],
        vec![cut_into(a100(1), &one), cut_into(a100(2), &[])],
        vec![cut_into(a100(1), &[("1g.10gb", 9728), ("2g.20gb", 19968)])],
    ] {
        expect(
            &labels(&view(cards, MigStrategy::Single)),
            &[
                ("gpu.product", "NVIDIA-A100-SXM4-80GB-MIG-INVALID"),
                ("gpu.count", "0"),
                ("gpu.replicas", "0"),
                ("gpu.memory", "0"),
            ],
        );
    }
    let whole = labels(&view(vec![a100(1)], MigStrategy::Single));
    expect(&whole, &[("gpu.product", "NVIDIA-A100-SXM4-80GB"), ("gpu.count", "1"), ("mig.strategy", "single")]);
}

#[test]
fn under_mixed_each_profile_is_described_beside_the_cards() {
    let cut = cut_into(a100(2), &[("3g.40gb", 40192), ("1g.10gb+me", 9728), ("3g.40gb", 40192)]);
    let found = labels(&view(vec![a100(1), cut], MigStrategy::Mixed));
    expect(
        &found,
        &[
            ("mig.strategy", "mixed"),
            ("gpu.product", "NVIDIA-A100-SXM4-80GB"),
            ("gpu.count", "2"),
            ("gpu.replicas", "10"),
            ("mig-3g.40gb.product", "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb"),
            ("mig-3g.40gb.count", "2"),
            ("mig-3g.40gb.memory", "40192"),
            ("mig-3g.40gb.multiprocessors", "14"),
            ("mig-1g.10gb.me.count", "1"),
            ("mig-1g.10gb.me.product", "NVIDIA-A100-SXM4-80GB-MIG-1g.10gbme"),
            ("mig-1g.10gb.me.replicas", "1"),
        ],
    );
    let all_cut = labels(&view(vec![cut_into(a100(1), &[("7g.80gb", 80000)])], MigStrategy::Mixed));
    expect(&all_cut, &[("gpu.count", "1"), ("gpu.replicas", "0"), ("gpu.sharing-strategy", "none")]);
}

#[test]
fn the_fabric_is_named_where_all_cards_are_of_one() {
    let of = |cliques: [Option<&str>; 2]| {
        let cards =
            (1..).zip(cliques).map(|(number, clique)| Card { clique: clique.map(str::to_owned), ..a100(number) });
        labels(&view(cards.collect(), MigStrategy::None)).get("nvidia.com/gpu.clique").cloned()
    };
    assert_eq!(of([Some("a.1"), Some("a.1")]).as_deref(), Some("a.1"));
    assert_eq!(of([Some("a.1"), Some("a.2")]), None);
    assert_eq!(of([None, None]), None);
}

#[test]
fn names_from_hardware_become_valid_labels() {
    for (name, expected) in [
        ("NVIDIA H100 80GB HBM3", "NVIDIA-H100-80GB-HBM3"),
        ("GeForce  GTX(TM) 1080/Ti ", "GeForce-GTXTM-1080Ti"),
        ("-Grid_V100D-8Q.", "Grid_V100D-8Q"),
        ("\u{fc}\n", ""),
    ] {
        assert_eq!(value(name), expected, "{name:?}");
    }
    let long = format!("NVIDIA {}", "Very Long ".repeat(20));
    let found = labels(&view(vec![card(1, &long, 1, (9, 0))], MigStrategy::None));
    for (key, value) in found {
        let label = format!("{}={value}", key.replace("nvidia.com", "example.com"));
        label.parse::<extra::Label>().unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn the_host_tells_its_machine_and_the_kind_of_its_cards() {
    let sys = tempfile::tempdir().unwrap();
    let dmi = sys.path().join("class/dmi/id");
    fs::create_dir_all(&dmi).unwrap();
    fs::write(dmi.join("product_name"), "PowerEdge XE9680 (SKU=1)\n").unwrap();
    let class = |pci: &str, class: &str| {
        let folder = sys.path().join("bus/pci/devices").join(pci);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("class"), class).unwrap();
        folder
    };
    let first = class("0000:01:00.0", "0x030200\n");
    class("0000:02:00.0", "0x030200\n");
    let host = Host::new(sys.path());
    let cards = vec![a100(1), a100(2)];
    let found = of(&view(cards.clone(), MigStrategy::None), &host);
    expect(&found, &[("gpu.machine", "PowerEdge-XE9680-SKU1"), ("gpu.mode", "compute")]);
    // A card that fell off the bus is not in /sys any more.
    fs::remove_dir_all(first).unwrap();
    assert_eq!(host.mode(&cards), "compute");
    class("0000:03:00.0", "0x030000\n");
    assert_eq!(host.mode(&[a100(3)]), "graphics");
    assert_eq!(host.mode(&[a100(1), a100(3)]), "unknown");
}
