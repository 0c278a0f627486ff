//! What the kernel tells beside NVML: a card's NUMA node, and which cards the driver has. A file that is not there means
//! "unknown", as in a container that hides it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

/// The two places, `/sys` and `/proc` but in tests.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) sys: PathBuf,
    pub(super) proc: PathBuf,
}

impl Host {
    /// The card's NUMA node; the kernel's -1 means none.
    pub(super) fn numa(&self, pci: &str) -> Option<u16> {
        let file = self.sys.join("bus/pci/devices").join(pci).join("numa_node");
        std::fs::read_to_string(file).ok()?.trim().parse().ok()
    }

    /// The PCI addresses that the driver holds now. NVML lists the cards of the moment it was initialised, so a change here is
    /// the sign to initialise it again.
    pub(super) fn driver_cards(&self) -> Option<BTreeSet<OsString>> {
        let entries = std::fs::read_dir(self.proc.join("driver/nvidia/gpus")).ok()?;
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_numa_node_where_there_is_one() {
        let root = tempfile::tempdir().unwrap();
        let host = Host { sys: root.path().to_owned(), proc: root.path().to_owned() };
        for (pci, content, expected) in
            [("0000:07:00.0", "1\n", Some(1)), ("0000:08:00.0", "-1\n", None), ("0000:09:00.0", "much\n", None)]
        {
            let device = root.path().join("bus/pci/devices").join(pci);
            std::fs::create_dir_all(&device).unwrap();
            std::fs::write(device.join("numa_node"), content).unwrap();
            assert_eq!(host.numa(pci), expected, "{content}");
        }
        assert_eq!(host.numa("0000:0a:00.0"), None);
    }
}
