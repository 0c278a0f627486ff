//! How the cards of a node reach each other: NVLink connections by what is at their other end, and the path over PCIe. A card
//! or driver that does not tell has no links; that is not an error.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::{Card, CardLink};
use super::calls::{Device, Library};
use super::card::address;
use super::error::{CallError, code};
use crate::gpu::device::Pcie;

/// More than any card has; the card says where its own end.
const MOST_LINKS: u32 = 64;

/// NVML's `nvmlIntNvLinkDeviceType_t`.
const REMOTE_SWITCH: u32 = 2;

/// The active NVLink connections of one card.
#[derive(Debug, Default)]
struct Ports {
    /// To another card, by its PCI address.
    direct: BTreeMap<String, u8>,
    /// To switches, through which every card with such connections is reached.
    switched: u8,
}

/// Fills in the links between cards.
pub(super) fn fill(library: &Library, cards: &mut [(Card, Device)]) {
    let ports: Vec<Ports> = cards.iter().map(|(_, device)| ports(library, *device)).collect();
    let mut links = vec![Vec::new(); cards.len()];
    for one in 0..cards.len() {
        for other in one + 1..cards.len() {
            let pcie = library.common_ancestor(cards[one].1, cards[other].1).ok().and_then(pcie);
            let nvlink = connections(&ports[one], &cards[one].0.pci, &ports[other], &cards[other].0.pci);
            if nvlink > 0 || pcie.is_some() {
                links[one].push(CardLink { peer: Arc::clone(&cards[other].0.uuid), nvlink, pcie });
                links[other].push(CardLink { peer: Arc::clone(&cards[one].0.uuid), nvlink, pcie });
            }
        }
    }
    for ((card, _), links) in cards.iter_mut().zip(links) {
        card.links = links;
        card.links.sort_by(|a, b| a.peer.cmp(&b.peer));
    }
}

/// Between two cards. Through switches, the card with fewer connections limits; directly, either end may fail to tell.
fn connections(one: &Ports, one_pci: &str, other: &Ports, other_pci: &str) -> u8 {
    let count = |ports: &Ports, pci: &str| ports.direct.get(pci).copied().unwrap_or(0);
    count(one, other_pci).max(count(other, one_pci)).saturating_add(one.switched.min(other.switched))
}

fn ports(library: &Library, device: Device) -> Ports {
    let mut ports = Ports::default();
    for link in 0..MOST_LINKS {
        match library.link_is_active(device, link) {
            Ok(true) => match remote(library, device, link) {
                Ok(None) => ports.switched = ports.switched.saturating_add(1),
                Ok(Some(pci)) => {
                    let count = ports.direct.entry(pci).or_default();
                    *count = count.saturating_add(1);
                }
                Err(error) => tracing::debug!(link, %error, "an NVLink connection does not tell where it leads"),
            },
            Ok(false) => {}
            // Beyond the card's last link. One in the middle may be "not supported" where it is not connected.
            Err(error) if error.is(code::INVALID_ARGUMENT) || error.code.is_none() => break,
            Err(error) => {
                if !error.is_unsupported() {
                    tracing::debug!(link, %error, "the state of an NVLink connection is unknown");
                }
            }
        }
    }
    ports
}

/// The card at the other end, `None` for a switch. Drivers before 470 cannot tell the kind; then the address decides.
fn remote(library: &Library, device: Device, link: u32) -> Result<Option<String>, CallError> {
    match library.link_remote_type(device, link) {
        Ok(REMOTE_SWITCH) => return Ok(None),
        Err(error) if !error.is_unsupported() => return Err(error),
        Ok(_) | Err(_) => {}
    }
    library.link_remote_pci(device, link).map(|pci| Some(address(pci)))
}

/// NVML's `nvmlGpuTopologyLevel_t`.
fn pcie(level: u32) -> Option<Pcie> {
    match level {
        0 => Some(Pcie::SameBoard),
        10 => Some(Pcie::SingleSwitch),
        20 => Some(Pcie::MultiSwitch),
        30 => Some(Pcie::HostBridge),
        40 => Some(Pcie::SameCpu),
        50 => Some(Pcie::CrossCpu),
        _ => None,
    }
}
