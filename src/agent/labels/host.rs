//! What the host says of itself in `/sys`: what machine it is, and whether its cards drive displays.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::agent::backend::Card;

/// PCI class of a display controller that is VGA compatible, and of one that is not: <https://pcisig.com>, class codes 03.
const VGA: u32 = 0x03_00_00;
const THREE_D: u32 = 0x03_02_00;

/// Read when asked for; what was read once stays, for a lost card leaves `/sys`.
#[derive(Debug)]
pub struct Host {
    sys: PathBuf,
    machine: String,
    classes: Mutex<HashMap<Arc<str>, u32>>,
}

impl Host {
    /// `sys` is usually `/sys`. What cannot be read is `unknown`, as with GPU Feature Discovery.
    pub fn new(sys: &Path) -> Self {
        let machine = fs::read_to_string(sys.join("class/dmi/id/product_name")).unwrap_or_default();
        let machine = match machine.trim() {
            "" => "unknown".to_owned(),
            machine => machine.to_owned(),
        };
        Self { sys: sys.to_owned(), machine, classes: Mutex::default() }
    }

    /// The machine's product name.
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// `graphics` or `compute` where all cards are, else `unknown`.
    pub fn mode(&self, cards: &[Card]) -> &'static str {
        let all = |class| cards.iter().all(|card| self.class(&card.pci) == Some(class));
        if all(VGA) {
            "graphics"
        } else if all(THREE_D) {
            "compute"
        } else {
            "unknown"
        }
    }

    fn class(&self, pci: &Arc<str>) -> Option<u32> {
        let mut classes = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(class) = classes.get(pci) {
            return Some(*class);
        }
        let text = fs::read_to_string(self.sys.join("bus/pci/devices").join(&**pci).join("class")).ok()?;
        let class = u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()?;
        classes.insert(Arc::clone(pci), class);
        Some(class)
    }
}
