//! The devices of this node as everybody but their owner sees them: an immutable snapshot, replaced whole. Written by
//! `devices` alone, through a watch channel; read by the publisher, the labels, the plugins and the check at container start.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::backend::{Card, DriverPlace};
use crate::gpu::device::Device;

/// What `nvidia.com/gpu` and `nvidia.com/mig-*` mean on this node; NVIDIA's `--mig-strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MigStrategy {
    /// MIG instances are published and never handed out.
    #[default]
    None,
    /// `nvidia.com/gpu` means MIG instances, all of one profile; on a node without any card in MIG mode, cards.
    Single,
    /// `nvidia.com/mig-<profile>` beside `nvidia.com/gpu` for cards without MIG.
    Mixed,
}

impl MigStrategy {
    /// NVIDIA's name of it, also the value of the label `nvidia.com/mig.strategy`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Single => "single",
            Self::Mixed => "mixed",
        }
    }
}

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeView {
    /// The driver's version, empty where unknown.
    pub driver: String,
    /// Whose the driver is; `None` where that cannot be told.
    pub driver_place: Option<DriverPlace>,
    /// The newest CUDA the driver supports.
    pub cuda: Option<(u32, u32)>,
    /// As last discovered, sorted by pci, then uuid; a card that is lost stays.
    pub cards: Vec<Card>,
    /// What can be scheduled, sorted by pci, then uuid, with health and enforcement; `foreign` is never set here.
    pub devices: Vec<Device>,
    /// What the resource names mean.
    pub mig_strategy: MigStrategy,
    /// Why there are no devices, where that needs a person.
    pub trouble: Option<String>,
}

/// The name of the resource for whole cards, and for MIG instances under strategy `single`.
pub const GPU: &str = "nvidia.com/gpu";

impl NodeView {
    /// The device of that UUID.
    pub fn device(&self, uuid: &str) -> Option<&Device> {
        self.devices.iter().find(|device| &*device.uuid == uuid)
    }

    /// The card of that UUID, or the card of that MIG instance.
    pub fn card_of(&self, uuid: &str) -> Option<&Card> {
        self.cards.iter().find(|card| &*card.uuid == uuid || card.instances.iter().any(|i| &*i.uuid == uuid))
    }

    /// The extended resource by which the kubelet hands out slots of a device; `None` where the strategy hands it out by none.
    /// A `+` of a profile is a `.` in the resource's name, as in NVIDIA's plugin.
    pub fn resource_of(&self, device: &Device) -> Option<String> {
        match (&device.mig, self.mig_strategy) {
            // Under `single` a node without any card in MIG mode hands out its cards, as with NVIDIA's plugin; a node with some of
            // each publishes no devices at all.
            (None, _) | (Some(_), MigStrategy::Single) => Some(GPU.to_owned()),
            (Some(mig), MigStrategy::Mixed) => Some(format!("nvidia.com/mig-{}", mig.profile.0.replace('+', "."))),
            (Some(_), MigStrategy::None) => None,
        }
    }

    /// Every resource of this node with its devices, in the order of the view.
    pub fn resources(&self) -> BTreeMap<String, Vec<&Device>> {
        let mut resources: BTreeMap<String, Vec<&Device>> = BTreeMap::new();
        for device in &self.devices {
            if let Some(resource) = self.resource_of(device) {
                resources.entry(resource).or_default().push(device);
            }
        }
        resources
    }
}

/// Where the newest snapshot is read.
pub type ViewReceiver = tokio::sync::watch::Receiver<Arc<NodeView>>;
