//! `NVIDIA_VISIBLE_DEVICES`: the old way to pin a GPU, and the usual way past every scheduler.

use std::sync::Arc;

use super::resources::MOST_DEVICES;
use super::{Denial, Findings, RawContainer, Rules, VisibleDevices, shown};

/// The variable's name.
pub(super) const FIELD: &str = "NVIDIA_VISIBLE_DEVICES";

/// Devices a container names: indices or UUIDs, never both; no doubles.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Pins {
    pub(super) index: Vec<u32>,
    pub(super) uuid: Vec<Arc<str>>,
}

impl Pins {
    pub(super) fn len(&self) -> usize {
        self.index.len() + self.uuid.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What the variable says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Visible {
    /// Nothing, or what the webhook wrote.
    Unset,
    /// No device: `none`, `void`, empty.
    Nothing,
    /// `all`.
    All,
    /// Unreadable here.
    Indirect,
    /// These devices.
    Pinned(Pins),
}

/// Reads the variable of one container. `None` where it was denied.
pub(super) fn read(rules: &Rules, raw: &RawContainer<'_>, found: &mut Findings) -> Option<Visible> {
    let text = match raw.visible_devices {
        VisibleDevices::Absent | VisibleDevices::Ours => return Some(Visible::Unset),
        VisibleDevices::Indirect => return Some(Visible::Indirect),
        VisibleDevices::Value(text) => text,
    };
    match text.trim() {
        "" | "none" | "void" => return Some(Visible::Nothing),
        "all" => return Some(Visible::All),
        _ => {}
    }
    let mut pins = Pins::default();
    if text.split(',').nth(MOST_DEVICES as usize).is_some() {
        deny(rules, raw.name, text, "more devices than any node has".to_owned(), found);
        return None;
    }
    for item in text.split(',').map(str::trim) {
        let known = if is_uuid(item) {
            let double = pins.uuid.iter().any(|other| **other == *item);
            pins.uuid.push(item.into());
            !double
        } else if let Some(index) = index(item) {
            let double = pins.index.contains(&index);
            pins.index.push(index);
            !double
        } else {
            deny(
                rules,
                raw.name,
                text,
                format!("{:?} is neither an index nor the UUID of a GPU or MIG instance", shown(item)),
                found,
            );
            return None;
        };
        if !known {
            deny(rules, raw.name, text, format!("{:?} is named twice", shown(item)), found);
            return None;
        }
    }
    if !pins.index.is_empty() && !pins.uuid.is_empty() {
        deny(rules, raw.name, text, "indices and UUIDs are mixed".to_owned(), found);
        return None;
    }
    Some(Visible::Pinned(pins))
}

fn deny(rules: &Rules, container: &str, text: &str, problem: String, found: &mut Findings) {
    let count = rules.count_name();
    let remedy = format!("write indices such as 0,1 or UUIDs such as GPU-… or MIG-…, or remove it and ask by {count}");
    found.deny(Denial::new(Some(container), FIELD, text, problem, remedy));
}

fn index(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether `text` has the form of a device's UUID: what comes after the prefix is the driver's affair.
pub(in super::super) fn is_uuid(text: &str) -> bool {
    const LONGEST: usize = 64;
    text.strip_prefix("GPU-").or_else(|| text.strip_prefix("MIG-")).is_some_and(|rest| {
        (1..=LONGEST).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}
