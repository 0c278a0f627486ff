//! A node with two cards and one in MIG mode, and its directories.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use packhorse::agent::backend::{Card, Instance};
use packhorse::agent::options::{DeviceIdStrategy, Strategy};
use packhorse::agent::specification::{Container, DeviceName, Form, Settings, Specifications};
use packhorse::gpu::device::{Device, Enforcement, Health, MigInstance};
use packhorse::gpu::request::MigProfile;
use serde_json::Value;
use tempfile::TempDir;

/// As `nvidia-ctk cdi generate` writes it, in short.
pub(super) const HOST: &str = include_str!("host.yaml");

const MIG_MINORS: &str =
    "config 1\nmonitor 2\ngpu2/gi1/access 30\ngpu2/gi1/ci0/access 31\ngpu2/gi7/access 66\ngpu2/gi7/ci0/access 67\n";

pub(super) struct Node {
    directory: TempDir,
    pub(super) settings: Settings,
}

impl Node {
    /// With the host's specification in `/etc/cdi`, if any.
    pub(super) fn new(form: Form, host: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("etc")).unwrap();
        fs::write(path("mig-minors"), MIG_MINORS).unwrap();
        let settings = Settings {
            cdi_dir: path("run"),
            host_dirs: vec![path("etc")],
            form,
            strategies: vec![Strategy::Envvar],
            device_ids: DeviceIdStrategy::Uuid,
            pass_device_specs: false,
            dev_root: PathBuf::from("/"),
            mig_minors: path("mig-minors"),
        };
        let node = Self { directory, settings };
        if let Some(host) = host {
            node.write_host("etc/nvidia.yaml", host);
        }
        node
    }

    pub(super) fn write_host(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn specifications(&self) -> Specifications {
        Specifications::new(self.settings.clone()).unwrap()
    }

    /// The names of the files in the directory that the runtime reads.
    pub(super) fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.settings.cdi_dir).into_iter().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub(super) fn file(&self, name: &DeviceName) -> PathBuf {
        self.settings.cdi_dir.join(format!("packhorse.dev-gpu_{name}.json"))
    }

    /// The specification of that name; what differs from test to test is replaced by `NAME`.
    pub(super) fn read(&self, name: &DeviceName) -> Value {
        let text = fs::read_to_string(self.file(name)).unwrap();
        serde_json::from_str(&text.replace(&name.to_string(), "NAME")).unwrap()
    }

    /// What one container gets by these settings.
    pub(super) fn written(&self, devices: &[(Device, Card)]) -> Result<Value, String> {
        let container = container("u1", "main", &["GPU-x::0"], devices);
        self.specifications().write(&container).map_err(|error| error.to_string())?;
        Ok(self.read(&container.name))
    }
}

pub(super) fn container(uid: &str, name: &str, slots: &[&str], devices: &[(Device, Card)]) -> Container {
    Container {
        name: DeviceName::fresh().unwrap(),
        pod_uid: Arc::from(uid),
        container: Arc::from(name),
        slots: slots.iter().map(|&slot| slot.to_owned()).collect(),
        devices: devices.to_vec(),
    }
}

/// A whole card; index and minor differ on purpose where asked.
pub(super) fn card(uuid: &str, index: u32, minor: u32) -> (Device, Card) {
    let card = Card {
        uuid: Arc::from(uuid),
        index,
        model: Arc::from("NVIDIA A100-SXM4-80GB"),
        memory: 81920,
        pci: Arc::from("0000:07:00.0"),
        numa: None,
        minor,
        compute: (8, 0),
        mig_capable: true,
        mig_mode: false,
        instances: Vec::new(),
        links: Vec::new(),
        clique: None,
    };
    (device(&card, uuid), card)
}

/// The MIG instance `MIG-7` of the card `GPU-c`, index and minor 2.
pub(super) fn instance() -> (Device, Card) {
    let (_, mut card) = card("GPU-c", 2, 2);
    card.mig_mode = true;
    card.instances = vec![Instance {
        uuid: Arc::from("MIG-7"),
        profile: MigProfile(Arc::from("1g.10gb")),
        memory: 9728,
        start: 0,
        size: 1,
        ids: Some((7, 0)),
        attributes: None,
    }];
    let mut device = device(&card, "MIG-7");
    device.mig = Some(MigInstance { profile: MigProfile(Arc::from("1g.10gb")), start: 0, size: 1 });
    device.parent = Some(Arc::from("GPU-c"));
    (device, card)
}

fn device(card: &Card, uuid: &str) -> Device {
    Device {
        uuid: Arc::from(uuid),
        index: card.index,
        model: Arc::clone(&card.model),
        memory: card.memory,
        cores: 100,
        slots: 10,
        numa: None,
        pci: Arc::clone(&card.pci),
        health: Health::Healthy,
        enforcement: Enforcement::Advisory,
        links: Vec::new(),
        mig: None,
        parent: None,
        foreign: None,
    }
}
