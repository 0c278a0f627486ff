//! The simulated GPU nodes: what an agent would publish of them, and the Node objects around it.

use serde_json::{Value, json};

/// A card as it is sold.
#[derive(Debug)]
struct Model {
    name: &'static str,
    /// MiB.
    memory: u32,
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
    Model { name: "NVIDIA A100-SXM4-80GB", memory: 81920, links: Links::All(12) },
    Model { name: "NVIDIA L4", memory: 23034, links: Links::None },
    Model { name: "NVIDIA H100 80GB HBM3", memory: 81559, links: Links::All(18) },
    Model { name: "Tesla V100-SXM2-32GB", memory: 32768, links: Links::Pairs },
];

/// The instances that a card in MIG mode is cut into: profile, MiB, first memory slice, slices.
static INSTANCES: [(&str, u32, u8, u8); 4] =
    [("3g.40gb", 40192, 0, 4), ("2g.20gb", 19968, 4, 2), ("1g.10gb", 9728, 6, 1), ("1g.10gb", 9728, 7, 1)];

/// Containers that may share a card.
const SLOTS: u32 = 10;

/// One schedulable device of a simulated node.
#[derive(Debug, Clone)]
pub(super) struct SimDevice {
    pub(super) uuid: String,
    index: usize,
    memory: u32,
    numa: usize,
    pci: String,
    mig: Option<(&'static str, u8, u8, String)>,
    pub(super) health: &'static str,
}

/// One simulated node.
#[derive(Debug, Clone)]
pub(super) struct SimNode {
    pub(super) name: String,
    model: &'static Model,
    gpus: usize,
    pub(super) devices: Vec<SimDevice>,
}

/// `nodes` nodes of `gpus` cards each. Models take turns; from three nodes on the last one is in MIG mode.
pub(super) fn fleet(nodes: usize, gpus: usize) -> Vec<SimNode> {
    (0..nodes).map(|number| node(number, gpus, nodes >= 3 && number + 1 == nodes)).collect()
}

fn node(number: usize, gpus: usize, mig: bool) -> SimNode {
    let model = if mig { &MODELS[0] } else { &MODELS[number % MODELS.len()] };
    let mut devices = Vec::new();
    for index in 0..gpus {
        let uuid = format!("GPU-{:08x}-0000-0000-0000-{index:012x}", number + 1);
        let pci = format!("0000:{:02x}:00.0", 7 + 3 * index);
        let numa = index * 2 / gpus.max(1);
        if !mig {
            devices.push(SimDevice { uuid, index, memory: model.memory, numa, pci, mig: None, health: "healthy" });
            continue;
        }
        for (position, (profile, memory, start, size)) in INSTANCES.iter().enumerate() {
            devices.push(SimDevice {
                uuid: format!("MIG-{:08x}-0000-0000-{index:04x}-{position:012x}", number + 1),
                index,
                memory: *memory,
                numa,
                pci: pci.clone(),
                mig: Some((profile, *start, *size, uuid.clone())),
                health: "healthy",
            });
        }
    }
    SimNode { name: format!("node-{}", number + 1), model, gpus, devices }
}

impl SimNode {
    /// Whether its cards are cut into instances.
    pub(super) fn is_mig(&self) -> bool {
        self.devices.first().is_some_and(|device| device.mig.is_some())
    }

    /// The Node object as kubelet and agent would have it.
    pub(super) fn object(&self) -> Value {
        let cpu = 16 * self.gpus.max(1);
        let memory = 128 * self.gpus.max(1);
        let mut allocatable = json!({"cpu": cpu.to_string(), "memory": format!("{memory}Gi"), "pods": "110"});
        let cards = self.devices.iter().filter(|device| device.mig.is_none());
        let total: u32 = cards.clone().map(|device| device.memory).sum();
        if self.is_mig() {
            for device in &self.devices {
                let Some((profile, ..)) = &device.mig else { continue };
                let name = format!("nvidia.com/mig-{profile}");
                let count = allocatable[&name].as_str().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
                allocatable[&name] = json!((count + 1).to_string());
            }
        } else {
            allocatable["nvidia.com/gpu"] = json!((cards.count() as u32 * SLOTS).to_string());
        }
        allocatable["packhorse.dev/gpu-memory"] = json!(total.to_string());
        allocatable["packhorse.dev/gpu-cores"] = json!((if self.is_mig() { 0 } else { self.gpus * 100 }).to_string());
        json!({
            "metadata": {
                "name": self.name,
                "labels": {"kubernetes.io/hostname": self.name, "nvidia.com/gpu.product": self.model.name.replace(' ', "-")},
                "annotations": {"packhorse.dev/inventory": self.inventory()},
            },
            "status": {
                "capacity": allocatable, "allocatable": allocatable,
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            },
        })
    }

    /// The annotation an agent writes.
    pub(super) fn inventory(&self) -> String {
        let devices: Vec<Value> = self.devices.iter().map(|device| self.device(device)).collect();
        json!({"v": 1, "ready": true, "driver": "580.95.05", "devices": devices}).to_string()
    }

    fn device(&self, device: &SimDevice) -> Value {
        let mut entry = json!({"uuid": device.uuid, "index": device.index, "model": self.model.name, "memory": device.memory,
            "cores": 100, "slots": SLOTS, "numa": device.numa, "pci": device.pci, "health": device.health,
            "enforcement": "advisory"});
        match &device.mig {
            Some((profile, start, size, parent)) => {
                entry["parent"] = json!(parent);
                entry["mig"] = json!({"profile": profile, "start": start, "size": size});
                entry["slots"] = json!(1);
                entry["enforcement"] = json!("mig");
            }
            None => {
                for peer in self.devices.iter().filter(|peer| peer.index != device.index) {
                    entry["links"][&peer.uuid] = self.link(device, peer);
                }
            }
        }
        entry
    }

    fn link(&self, a: &SimDevice, b: &SimDevice) -> Value {
        let nvlink = match self.model.links {
            Links::All(links) => links,
            Links::Pairs if a.index / 4 != b.index / 4 => 0,
            Links::Pairs if a.index / 2 == b.index / 2 => 2,
            Links::Pairs if a.index % 2 == b.index % 2 => 1,
            Links::Pairs | Links::None => 0,
        };
        let pcie = match (a.numa == b.numa, a.index / 2 == b.index / 2) {
            (true, true) => "single-switch",
            (true, false) => "host-bridge",
            (false, _) => "cross-cpu",
        };
        if nvlink == 0 { json!({ "pcie": pcie }) } else { json!({"nvlink": nvlink, "pcie": pcie}) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inventories_are_read_without_complaint() {
        for node in fleet(6, 4) {
            let inventory: Value = serde_json::from_str(&node.inventory()).unwrap();
            let devices = inventory["devices"].as_array().unwrap();
            assert!(devices.is_sorted_by_key(|d| (d["pci"].as_str().unwrap(), d["uuid"].as_str().unwrap())));
            assert_eq!(devices.len(), if node.is_mig() { 16 } else { 4 });
        }
        assert!(fleet(3, 1)[2].is_mig() && !fleet(2, 1)[1].is_mig());
    }
}
