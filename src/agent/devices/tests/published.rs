//! What is published of a node.

use super::*;
use crate::agent::backend::CardLink;
use crate::gpu::device::Enforcement;

fn view_of(cards: Vec<Card>, settings: &Settings) -> NodeView {
    let mut roster = Roster::new(settings.health, settings.checks.clone());
    let uuids: Vec<_> = cards.iter().map(|card| Arc::clone(&card.uuid)).collect();
    let now = Instant::now();
    roster.discovered(Discovery { cards, ..Discovery::default() }, now);
    for uuid in uuids {
        roster.probed(&uuid, &Probe::Well, now);
    }
    building::build(&roster, settings, None)
}

#[test]
fn devices_are_published_in_order_with_slots_links_and_enforcement() {
    let link = |peer: &str| CardLink { peer: peer.into(), nvlink: 4, pcie: None };
    let mut last = card(2);
    last.links = vec![link("GPU-0"), link("GPU-1")];
    let cards =
        vec![last, cut(1, vec![instance("MIG-b", "1g.10gb", 1, 1), instance("MIG-a", "2g.20gb", 2, 2)]), card(0)];
    let settings = Settings {
        slots: Slots { profiles: BTreeMap::from([("2g.20gb".to_owned(), 3)]), ..Slots::default() },
        ..Settings::default()
    };
    let view = view_of(cards, &settings);
    let rows: Vec<_> = view.devices.iter().map(|d| (&*d.uuid, d.index, d.slots, d.enforcement)).collect();
    let expected = [
        ("GPU-0", 0, 10, Enforcement::Advisory),
        // Several containers of one instance are kept apart by nobody.
        ("MIG-a", 1, 3, Enforcement::Advisory),
        ("MIG-b", 1, 1, Enforcement::Mig),
        ("GPU-2", 2, 10, Enforcement::Advisory),
    ];
    assert_eq!(rows, expected);
    let peers: Vec<_> = view.devices[3].links.iter().map(|link| &*link.peer).collect();
    assert_eq!(peers, ["GPU-0"], "a card in MIG mode is no device");
    assert_eq!(view.devices[2].parent.as_deref(), Some("GPU-1"));
}

#[test]
fn compute_instances_of_one_gpu_instance_have_their_memory_in_common() {
    let shared = vec![instance("MIG-a", "1c.3g.40gb", 0, 4), instance("MIG-b", "2c.3g.40gb", 0, 4)];
    let view = view_of(vec![cut(0, shared)], &Settings::default());
    assert!(view.devices.iter().all(|device| device.enforcement == Enforcement::Advisory));
}

#[test]
fn strategy_single_wants_every_card_cut_alike() {
    let settings = Settings { mig_strategy: MigStrategy::Single, ..Settings::default() };
    let small = |uuid| instance(uuid, "1g.10gb", 0, 1);
    let large = |uuid| instance(uuid, "2g.20gb", 2, 2);
    let cases = [
        (vec![card(0), cut(1, vec![small("MIG-a")])], "same migEnabled value"),
        (vec![cut(0, vec![small("MIG-a")]), cut(1, Vec::new())], "invalid MIG configuration"),
        (vec![cut(0, vec![small("MIG-a"), large("MIG-b")])], "more than one MIG device type present on node"),
    ];
    for (cards, words) in cases {
        let view = view_of(cards.clone(), &settings);
        assert!(view.trouble.as_ref().is_some_and(|trouble| trouble.contains(words)), "{view:?}");
        assert!(view.devices.is_empty() && view.resources().is_empty());
        let mixed = Settings { mig_strategy: MigStrategy::Mixed, ..Settings::default() };
        assert_eq!(view_of(cards, &mixed).trouble, None, "with strategy mixed it is fine");
    }
    let alike = view_of(vec![cut(0, vec![small("MIG-a")]), cut(1, vec![small("MIG-b")])], &settings);
    assert_eq!(alike.resources().keys().collect::<Vec<_>>(), ["nvidia.com/gpu"]);
    let plain = view_of(vec![card(0)], &settings);
    assert_eq!(
        plain.resources().keys().collect::<Vec<_>>(),
        ["nvidia.com/gpu"],
        "nothing is cut: cards are handed out"
    );
}
