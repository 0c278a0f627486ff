//! The simulated GPU nodes: the topology file that tells the agent of a node which cards it has, the host's CDI specification, and the
//! Node object as a kubelet registers it.

use std::time::Duration;

use serde_json::{Value, json};

/// A card as it is sold.
#[derive(Debug)]
struct Model {
    name: &'static str,
    /// MiB.
    memory: u32,
    /// CUDA compute capability.
    compute: &'static str,
    links: Links,
}

/// How the cards of one board are linked.
#[derive(Debug, Clone, Copy)]
enum Links {
    /// Every card to every other, by this many links.
    All(u8),
    /// Two pairs of four: double links within a pair, single ones to the counterpart in the other.
    Pairs,
    /// PCIe only.
    None,
}

static MODELS: [Model; 4] = [
    Model { name: "NVIDIA A100-SXM4-80GB", memory: 81920, compute: "8.0", links: Links::All(12) },
    Model { name: "NVIDIA L4", memory: 23034, compute: "8.9", links: Links::None },
    Model { name: "NVIDIA H100 80GB HBM3", memory: 81559, compute: "9.0", links: Links::All(18) },
    Model { name: "Tesla V100-SXM2-32GB", memory: 32768, compute: "7.0", links: Links::Pairs },
];

/// The instances that a card in MIG mode is cut into: profile, MiB, first memory slice, slices.
static INSTANCES: [(&str, u32, u8, u8); 4] =
    [("3g.40gb", 40192, 0, 4), ("2g.20gb", 19968, 4, 2), ("1g.10gb", 9728, 6, 1), ("1g.10gb", 9728, 7, 1)];

/// One simulated node.
#[derive(Debug, Clone)]
pub(super) struct SimNode {
    pub(super) name: String,
    number: usize,
    model: &'static Model,
    gpus: usize,
    mig: bool,
}

/// Something that happens to a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Incident {
    /// Since the agent's start.
    pub(super) after: Duration,
    pub(super) card: usize,
    pub(super) kind: IncidentKind,
}

/// What happens to a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IncidentKind {
    /// It falls off the bus: Xid 79.
    Fails,
    /// It was repaired.
    Recovers,
}

/// `nodes` nodes of `gpus` cards each. Models take turns; from three nodes on the last one is in MIG mode.
pub(super) fn fleet(nodes: usize, gpus: usize) -> Vec<SimNode> {
    (0..nodes)
        .map(|number| {
            let mig = nodes >= 3 && number + 1 == nodes;
            let model = if mig { &MODELS[0] } else { &MODELS[number % MODELS.len()] };
            SimNode { name: format!("node-{}", number + 1), number: number + 1, model, gpus, mig }
        })
        .collect()
}

impl SimNode {
    /// Whether its cards are cut into instances.
    pub(super) fn is_mig(&self) -> bool {
        self.mig
    }

    /// How many cards it has.
    pub(super) fn gpus(&self) -> usize {
        self.gpus
    }

    /// The UUID of a card.
    pub(super) fn uuid(&self, index: usize) -> String {
        format!("GPU-{:08x}-0000-0000-0000-{index:012x}", self.number)
    }

    /// Whether the node has what the driver's tools generate for runtimes without NVIDIA's own: every other one, so that both ways
    /// are seen. Instances are named to NVIDIA's runtime only.
    pub(super) fn has_host_specification(&self) -> bool {
        !self.mig && self.number % 2 == 1
    }

    /// The Node object as its kubelet registers it: no GPUs yet.
    pub(super) fn object(&self) -> Value {
        let amounts = json!({"cpu": (16 * self.gpus.max(1)).to_string(),
            "memory": format!("{}Gi", 128 * self.gpus.max(1)), "pods": "110"});
        json!({
            "metadata": {"name": self.name, "labels": {"kubernetes.io/hostname": self.name}},
            "status": {
                "capacity": amounts, "allocatable": amounts,
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
                "nodeInfo": {"containerRuntimeVersion": "containerd://2.2.1"},
            },
        })
    }

    /// The topology file of its agent (JSON, hence YAML), with everything that has happened so far.
    pub(super) fn topology(&self, incidents: &[Incident]) -> String {
        let devices: Vec<Value> = (0..self.gpus).map(|index| self.card(index)).collect();
        let mut links = Vec::new();
        for b in 0..self.gpus {
            links.extend((0..b).map(|a| self.link(a, b)));
        }
        let events: Vec<Value> = incidents
            .iter()
            .map(|incident| {
                let after = format!("{}ms", incident.after.as_millis());
                match incident.kind {
                    IncidentKind::Fails => json!({"after": after, "device": incident.card, "kind": "xid", "code": 79}),
                    IncidentKind::Recovers => json!({"after": after, "device": incident.card, "kind": "recovered"}),
                }
            })
            .collect();
        let file = json!({"v": 1, "driver": "580.95.05", "devices": devices, "links": links, "events": events});
        format!("{file:#}\n")
    }

    /// What `nvidia-ctk cdi generate` would have written.
    pub(super) fn host_specification(&self) -> String {
        let devices: Vec<Value> = (0..self.gpus)
            .map(|index| json!({"name": index.to_string(), "containerEdits": {"deviceNodes": [{"path": device_node(index)}]}}))
            .collect();
        let common = json!({"env": ["NVIDIA_VISIBLE_DEVICES=void"], "deviceNodes": [{"path": "/dev/nvidiactl"}]});
        let file =
            json!({"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": devices, "containerEdits": common});
        format!("{file:#}\n")
    }

    /// The card whose device node that is; `None` for nodes that all cards share.
    pub(super) fn card_of_node(&self, path: &str) -> Option<String> {
        (0..self.gpus).find(|index| device_node(*index) == path).map(|index| self.uuid(index))
    }

    fn numa(&self, index: usize) -> usize {
        index * 2 / self.gpus.max(1)
    }

    fn card(&self, index: usize) -> Value {
        let mut card = json!({"uuid": self.uuid(index), "model": self.model.name, "memory": self.model.memory,
            "pci": format!("0000:{:02x}:00.0", 7 + 3 * index), "numa": self.numa(index), "minor": index,
            "compute": self.model.compute});
        if self.mig {
            let instances = INSTANCES.iter().enumerate().map(|(position, (profile, memory, start, size))| {
                let uuid = format!("MIG-{:08x}-0000-0000-{index:04x}-{position:012x}", self.number);
                json!({"uuid": uuid, "profile": profile, "memory": memory, "start": start, "size": size})
            });
            card["mig"] = instances.collect();
        }
        card
    }

    fn link(&self, a: usize, b: usize) -> Value {
        let nvlink = match self.model.links {
            Links::All(links) => links,
            Links::Pairs if a / 4 != b / 4 => 0,
            Links::Pairs if a / 2 == b / 2 => 2,
            Links::Pairs if a % 2 == b % 2 => 1,
            Links::Pairs | Links::None => 0,
        };
        let pcie = match (self.numa(a) == self.numa(b), a / 2 == b / 2) {
            (true, true) => "single-switch",
            (true, false) => "host-bridge",
            (false, _) => "cross-cpu",
        };
        json!({"a": a, "b": b, "nvlink": nvlink, "pcie": pcie})
    }
}

/// The device node of a card.
fn device_node(index: usize) -> String {
    format!("/dev/nvidia{index}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::backend::Backend as _;
    use crate::agent::backend::fake::Fake;

    #[test]
    fn topologies_are_read_without_complaint() {
        let directory = tempfile::tempdir().unwrap();
        for node in fleet(6, 16) {
            let file = directory.path().join(&node.name);
            let fails = Incident { after: Duration::ZERO, card: 15, kind: IncidentKind::Fails };
            let recovers = Incident { after: Duration::from_millis(2500), card: 15, kind: IncidentKind::Recovers };
            std::fs::write(&file, node.topology(&[fails, recovers])).unwrap();
            let found = Fake::new(file).discover().unwrap();
            assert_eq!(found.cards.len(), 16);
            for (index, card) in found.cards.iter().enumerate() {
                assert_eq!((*card.uuid).to_owned(), node.uuid(index));
                assert_eq!(card.instances.len(), if node.is_mig() { 4 } else { 0 });
            }
        }
        assert!(fleet(3, 1)[2].is_mig() && !fleet(2, 1)[1].is_mig());
    }

    #[test]
    fn a_device_node_tells_its_card() {
        let node = &fleet(1, 12)[0];
        assert_eq!(node.card_of_node("/dev/nvidia11"), Some(node.uuid(11)));
        assert_eq!(node.card_of_node("/dev/nvidia12"), None);
        assert_eq!(node.card_of_node("/dev/nvidiactl"), None);
    }
}
