//! Slots: the interchangeable IDs that a device plugin shows the kubelet, `<uuid>::<n>`. They carry no meaning for placement; that
//! they are the same after every restart of the agent is all that matters, hence no state.

/// Writes a slot's ID.
pub fn id(device: &str, number: u16) -> String {
    format!("{device}::{number}")
}

/// The device a slot belongs to, `None` where it is not one of our IDs.
pub fn device(slot: &str) -> Option<&str> {
    let (device, number) = slot.rsplit_once("::")?;
    (!device.is_empty() && number.parse::<u16>().is_ok()).then_some(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_names_its_device() {
        for (slot, expected) in [
            (id("GPU-1", 0), Some("GPU-1")),
            (id("MIG-GPU-1/1/0", 7), Some("MIG-GPU-1/1/0")),
            ("GPU-1".to_owned(), None),
            ("GPU-1::x".to_owned(), None),
            ("::1".to_owned(), None),
        ] {
            assert_eq!(device(&slot), expected, "{slot}");
        }
    }
}
