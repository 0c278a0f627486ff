//! NVLink and PCIe between cards.

use packhorse::agent::backend::Card;
use packhorse::gpu::device::Pcie;

use super::fake::{Fake, discover, uuid};

/// Connections and PCIe path from one card to another, by index.
fn link(cards: &[Card], from: usize, to: usize) -> Option<(u8, Option<Pcie>)> {
    let card = cards.iter().find(|card| *card.uuid == uuid(from)).unwrap();
    card.links.iter().find(|link| *link.peer == uuid(to)).map(|link| (link.nvlink, link.pcie))
}

#[test]
fn counts_connections_per_pair_of_cards() {
    let mut fake = Fake::with_cards(3);
    // Card 0 has two connections to card 1, one to card 2, one that is not connected, one to a card of nobody.
    fake.add("set 0 links 6\nset 0 link.0 0:8:0\nset 0 link.1 0:8:0\nset 0 link.3 0:9:0\nset 0 link.5 0:77:0");
    fake.add("set 1 links 6\nset 1 link.4 0:7:0\nset 1 link.5 0:7:0");
    let nvml = fake.backend();
    let cards = discover(&nvml).cards;
    for (from, to, expected) in [
        (0, 1, Some((2, None))),
        (1, 0, Some((2, None))),
        (0, 2, Some((1, None))),
        (2, 0, Some((1, None))),
        (1, 2, None),
    ] {
        assert_eq!(link(&cards, from, to), expected, "{from} to {to}");
    }
}

#[test]
fn cards_behind_switches_reach_each_other_by_all_their_connections() {
    let mut fake = Fake::with_cards(4);
    // Card 2 has lost a connection; card 3 has none.
    for (card, count) in [(0, 18), (1, 18), (2, 17)] {
        fake.add(&format!("set {card} links 18"));
        (0..count).for_each(|number| fake.add(&format!("set {card} link.{number} switch")));
    }
    let nvml = fake.backend();
    let cards = discover(&nvml).cards;
    for (from, to, expected) in
        [(0, 1, Some(18)), (1, 0, Some(18)), (0, 2, Some(17)), (2, 1, Some(17)), (0, 3, None), (3, 2, None)]
    {
        assert_eq!(link(&cards, from, to).map(|(nvlink, _)| nvlink), expected, "{from} to {to}");
    }
}

#[test]
fn an_old_driver_tells_cards_by_their_address() {
    let mut fake = Fake::with_cards(2).without("nvmlDeviceGetNvLinkRemoteDeviceType");
    fake.add("set 0 links 2\nset 0 link.0 0:8:0\nset 0 link.1 0:8:0");
    let nvml = fake.backend();
    assert_eq!(link(&discover(&nvml).cards, 0, 1), Some((2, None)));
}

#[test]
fn the_path_over_pcie_is_the_common_ancestors() {
    for (level, expected) in [
        (0, Some(Pcie::SameBoard)),
        (10, Some(Pcie::SingleSwitch)),
        (20, Some(Pcie::MultiSwitch)),
        (30, Some(Pcie::HostBridge)),
        (40, Some(Pcie::SameCpu)),
        (50, Some(Pcie::CrossCpu)),
        (60, None),
    ] {
        let mut fake = Fake::with_cards(2);
        fake.add(&format!("set 0 ancestor.1 {level}"));
        let nvml = fake.backend();
        let cards = discover(&nvml).cards;
        for (from, to) in [(0, 1), (1, 0)] {
            assert_eq!(link(&cards, from, to).and_then(|(_, pcie)| pcie), expected, "level {level}");
        }
    }
}
