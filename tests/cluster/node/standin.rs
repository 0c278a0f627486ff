//! Device nodes and a host's CDI specification that stand in for a driver. The nodes have NVIDIA's numbers, for which no driver
//! answers: they cannot be opened, but a runtime makes them in a container, where the probe sees which they are.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::identity::write;

/// What the driver has besides the nodes of the cards.
const COMMON: [(&str, &str); 2] = [("nvidiactl", "195:255"), ("nvidia-uvm", "510:0")];

/// The stand-ins of one node.
#[derive(Debug)]
pub(crate) struct StandIns {
    folder: PathBuf,
    uuids: Vec<String>,
}

impl StandIns {
    /// Makes `nvidia0` and so on, one for each UUID, and the common nodes.
    pub(super) fn make(folder: PathBuf, uuids: &[&str]) -> Self {
        std::fs::create_dir_all(&folder).expect("a folder for device nodes");
        let made = Self { folder, uuids: uuids.iter().map(|&uuid| uuid.to_owned()).collect() };
        let cards = made.uuids.iter().map(|uuid| (made.name(uuid), made.number(uuid)));
        let common = COMMON.iter().map(|&(name, number)| (name.to_owned(), number.to_owned()));
        for (name, number) in cards.chain(common) {
            let (major, minor) = number.split_once(':').expect("major:minor");
            let path = made.folder.join(name);
            let status = Command::new("mknod").arg(&path).args(["c", major, minor]).status().expect("mknod runs");
            assert!(status.success(), "cannot make {}", path.display());
        }
        made
    }

    /// Of a card: `/dev/nvidia0` in containers.
    pub(crate) fn path(&self, uuid: &str) -> String {
        format!("/dev/{}", self.name(uuid))
    }

    /// Of a card's node: `major:minor`.
    pub(crate) fn number(&self, uuid: &str) -> String {
        format!("195:{}", self.index(uuid))
    }

    /// The node on the host.
    pub(crate) fn host_path(&self, uuid: &str) -> PathBuf {
        self.folder.join(self.name(uuid))
    }

    /// The nodes that every container with a card gets besides, path to `major:minor`.
    pub(crate) fn common() -> impl Iterator<Item = (String, String)> {
        COMMON.iter().map(|(name, number)| (format!("/dev/{name}"), (*number).to_owned()))
    }

    /// Writes `nvidia.yaml` as `nvidia-ctk cdi generate` does (kind `nvidia.com/gpu`; each card by index and by UUID, and `all`),
    /// without libraries and hooks, which are not here.
    pub(crate) fn write_specification(&self, folder: &Path) -> PathBuf {
        let all: Vec<&str> = self.uuids.iter().map(String::as_str).collect();
        let mut text = "---\ncdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n".to_owned();
        for (index, uuid) in all.iter().enumerate() {
            self.device(&mut text, &index.to_string(), &[uuid]);
            self.device(&mut text, uuid, &[uuid]);
        }
        self.device(&mut text, "all", &all);
        text.push_str("containerEdits:\n  env:\n  - NVIDIA_VISIBLE_DEVICES=void\n  deviceNodes:\n");
        for (name, _) in COMMON {
            self.device_node(&mut text, "  ", name);
        }
        let path = folder.join("nvidia.yaml");
        write(&path, &text);
        path
    }

    fn device(&self, text: &mut String, name: &str, uuids: &[&str]) {
        write!(text, "- name: \"{name}\"\n  containerEdits:\n    deviceNodes:\n").expect("a String takes all");
        for uuid in uuids {
            self.device_node(text, "    ", &self.name(uuid));
        }
    }

    fn device_node(&self, text: &mut String, indent: &str, name: &str) {
        let host = self.folder.join(name);
        writeln!(text, "{indent}- path: /dev/{name}\n{indent}  hostPath: {}", host.display())
            .expect("a String takes all");
    }

    fn name(&self, uuid: &str) -> String {
        format!("nvidia{}", self.index(uuid))
    }

    fn index(&self, uuid: &str) -> usize {
        self.uuids.iter().position(|it| it == uuid).unwrap_or_else(|| panic!("no stand-in has the UUID {uuid}"))
    }
}
