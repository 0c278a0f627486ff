//! Reads one card. Whatever the inventory cannot do without fails the card, with the call that failed; what a card or an old
//! driver lacks leaves the field empty.

use std::sync::Arc;

use super::super::Card;
use super::calls::{Device, Fabric, Library, PciAddress};
use super::error::{CallError, code};
use super::host::Host;
use super::mig;

/// NVML's `NVML_GPU_FABRIC_STATE_COMPLETED`: the card has joined its fabric, or failed to.
const FABRIC_COMPLETED: u8 = 3;

/// Reads a card without its links. What cannot be read of its MIG instances goes to `unreadable`.
pub(super) fn read(
    library: &Library,
    host: &Host,
    device: Device,
    index: u32,
    uuid: &Arc<str>,
    unreadable: &mut Vec<String>,
) -> Result<Card, CallError> {
    let pci: Arc<str> = address(library.pci(device)?).into();
    let mode = mode(library, device)?;
    let instances = match mode {
        Some(true) => mig::instances(library, device, uuid, unreadable)?,
        Some(false) | None => Vec::new(),
    };
    let (major, minor) = library.compute(device)?;
    Ok(Card {
        uuid: Arc::clone(uuid),
        index,
        model: library.name(device)?.into(),
        memory: mebibytes(library.memory(device)?),
        numa: host.numa(&pci),
        pci,
        minor: library.minor(device)?,
        compute: (major.unsigned_abs(), minor.unsigned_abs()),
        mig_capable: mode.is_some(),
        mig_mode: mode == Some(true),
        instances,
        links: Vec::new(),
        clique: clique(library, device)?,
    })
}

/// `None`: the card cannot be cut. A card whose mode cannot be told is not published: as a whole it might be a lie.
fn mode(library: &Library, device: Device) -> Result<Option<bool>, CallError> {
    match library.mig_mode(device) {
        Ok(mode) => Ok(Some(mode)),
        Err(error) if error.is_unsupported() => Ok(None),
        Err(error) => Err(error),
    }
}

fn clique(library: &Library, device: Device) -> Result<Option<String>, CallError> {
    match library.fabric(device) {
        Ok(fabric) => Ok(clique_of(fabric)),
        // A card that answers everything else is not given up for its fabric.
        Err(error) if error.is_lost() => Err(error),
        Err(error) => {
            if !error.is_unsupported() {
                tracing::warn!(%error, "the fabric of a card is unknown");
            }
            Ok(None)
        }
    }
}

/// `<cluster uuid>.<clique id>`. A fabric that does not leave the node has a cluster of zeros and is none.
fn clique_of(fabric: Fabric) -> Option<String> {
    let joined = fabric.state == FABRIC_COMPLETED && fabric.status == code::SUCCESS && fabric.cluster != [0; 16];
    let hex = fabric.cluster.map(|byte| format!("{byte:02x}")).concat();
    joined.then(|| {
        let groups = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        format!("{}.{}", groups.join("-"), fabric.clique)
    })
}

/// Lower case, as the kernel writes it: a domain of at least four digits, where NVML writes eight; GPUs are function 0.
pub(super) fn address(pci: PciAddress) -> String {
    format!("{:04x}:{:02x}:{:02x}.0", pci.domain, pci.bus, pci.device)
}

fn mebibytes(bytes: u64) -> u32 {
    u32::try_from(bytes >> 20).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_the_kernels() {
        for (domain, bus, device, expected) in
            [(0, 0x07, 0, "0000:07:00.0"), (2, 0xc1, 0x1f, "0002:c1:1f.0"), (0x1_0000, 0xff, 0, "10000:ff:00.0")]
        {
            assert_eq!(address(PciAddress { domain, bus, device }), expected);
        }
    }

    #[test]
    fn only_a_card_that_joined_a_fabric_has_a_clique() {
        let mut cluster = [0; 16];
        cluster[0] = 0xab;
        cluster[15] = 1;
        let fabric = Fabric { cluster, clique: 7, status: 0, state: 3 };
        assert_eq!(clique_of(fabric).as_deref(), Some("ab000000-0000-0000-0000-000000000001.7"));
        for other in
            [Fabric { cluster: [0; 16], ..fabric }, Fabric { state: 2, ..fabric }, Fabric { status: 999, ..fabric }]
        {
            assert_eq!(clique_of(other), None, "{other:?}");
        }
    }
}
