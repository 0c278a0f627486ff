//! One node of the fleet, run for real but for its hardware: Packhorse's agent over a topology file, a stand-in kubelet behind the same
//! sockets as the original, and a directory of CDI specifications that the runtime reads.
//!
//! Writes below its own directory, and the kubelet's part of the Node object's status. What happens to its cards is written into the
//! topology file, where the agent has to notice it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::task::JoinHandle;

use super::Error;
use super::api_server::Objects;
use super::fleet::{Incident, IncidentKind, SimNode};
use super::node_kubelet::{Call, NodeKubelet};
use crate::agent::backend::fake::Fake;
use crate::agent::devices;
use crate::agent::foreign::Policy;
use crate::agent::health;
use crate::agent::options::Options;
use crate::agent::publish::OperatorLabels;
use crate::agent::run::{Agent, Directories, ReplaceCheck, Running, Settings};
use crate::agent::view::MigStrategy;

/// Who the agents are in the API server's request log.
pub(super) const USER_AGENT: &str = "packhorse-agent";

/// A running node.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) sim: SimNode,
    pub(super) kubelet: Arc<NodeKubelet>,
    root: PathBuf,
    incidents: Mutex<Vec<Incident>>,
    began: Instant,
    times: Mutex<Times>,
    status: JoinHandle<()>,
}

/// How long the agent took to answer the kubelet.
#[derive(Debug, Clone, Default)]
pub(super) struct Times {
    pub(super) allocate: Vec<Duration>,
    pub(super) pre_start: Vec<Duration>,
}

impl Machine {
    /// Starts kubelet and agent below `root`, which must not exist. They find each other by themselves. The agent is its owner's to end.
    pub(super) async fn start(
        sim: SimNode,
        root: PathBuf,
        client: kube::Client,
        objects: Objects,
        replace_check: Option<ReplaceCheck>,
    ) -> Result<(Self, Running), Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Start(format!("{}: {error}", sim.name));
        prepare(&root, &sim).map_err(|error| failed(&error))?;
        let seed = root.as_os_str().len() as u64;
        let kubelet = Arc::new(NodeKubelet::start(&root.join("k"), seed).map_err(|error| failed(&error))?);
        let status = tokio::spawn(report(Arc::clone(&kubelet), objects, sim.name.clone()));
        let agent = Agent::new(client, sim.name.as_str().into(), &mut Registry::default());
        let began = Instant::now();
        let agent = agent.start(settings(&root, replace_check)).await.map_err(|error| failed(&error))?;
        let (incidents, times) = Default::default();
        Ok((Self { sim, kubelet, root, incidents, began, times, status }, agent))
    }

    /// Where its runtime reads CDI specifications.
    pub(super) fn cdi_dir(&self) -> PathBuf {
        self.root.join("cdi")
    }

    /// Something happens to a card now.
    pub(super) fn happen(&self, card: usize, kind: IncidentKind) -> io::Result<()> {
        let mut incidents = self.incidents.lock().unwrap_or_else(PoisonError::into_inner);
        incidents.push(Incident { after: self.began.elapsed(), card, kind });
        write_topology(&self.root, &self.sim, &incidents)
    }

    /// How long calls took so far.
    pub(super) fn times(&self) -> MutexGuard<'_, Times> {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        for Call { method, took, .. } in self.kubelet.take_calls() {
            match method {
                "Allocate" => times.allocate.push(took),
                "PreStartContainer" => times.pre_start.push(took),
                _ => {}
            }
        }
        times
    }

    /// Ends the kubelet at once.
    pub(super) async fn stop(self) {
        self.status.abort();
        // Ended by the line above, in either way.
        let _ = self.status.await;
        if let Some(kubelet) = Arc::into_inner(self.kubelet) {
            kubelet.stop().await;
        }
    }
}

fn prepare(root: &Path, sim: &SimNode) -> io::Result<()> {
    for directory in ["cdi", "host", "state"] {
        fs::create_dir_all(root.join(directory))?;
    }
    if sim.has_host_specification() {
        fs::write(root.join("host/nvidia.json"), sim.host_specification())?;
    }
    write_topology(root, sim, &[])
}

/// Whole or not at all: half of it would be an error for the agent.
fn write_topology(root: &Path, sim: &SimNode, incidents: &[Incident]) -> io::Result<()> {
    let new = root.join("topology.new");
    fs::write(&new, sim.topology(incidents))?;
    fs::rename(new, topology(root))
}

fn topology(root: &Path) -> PathBuf {
    root.join("topology.yaml")
}

fn settings(root: &Path, replace_check: Option<ReplaceCheck>) -> Settings {
    let options = Options { mig_strategy: MigStrategy::Mixed, ..Options::default() };
    Settings {
        backend: Arc::new(Fake::new(topology(root))),
        devices: devices::Settings {
            mig_strategy: options.mig_strategy,
            // A demo has no five minutes to wait until a card may be trusted again.
            health: health::Settings {
                quiet: Duration::from_millis(200),
                quiet_after_fatal: Duration::from_millis(200),
                observation: Duration::from_secs(1),
                ..health::Settings::default()
            },
            probe_watched_every: Duration::from_millis(250),
            ..devices::Settings::default()
        },
        directories: Directories {
            kubelet: root.join("k"),
            cdi: root.join("cdi"),
            host_cdi: vec![root.join("host")],
            state: root.join("state"),
            sys: root.join("sys"),
            proc: root.join("proc"),
        },
        options,
        form: None,
        containerd_config: root.join("containerd.toml"),
        foreign: Policy::Refuse,
        dcgm: false,
        labels: BTreeMap::new(),
        operator: OperatorLabels::default(),
        drain_timeout: Duration::ZERO,
        replace_check,
    }
}

/// Keeps capacity and allocatable of the Node as the kubelet counts them.
async fn report(kubelet: Arc<NodeKubelet>, objects: Objects, node: String) {
    let mut changes = kubelet.changes();
    loop {
        changes.mark_unchanged();
        let (mut capacity, mut allocatable) = (BTreeMap::new(), BTreeMap::new());
        for (resource, count) in kubelet.counts() {
            capacity.insert(resource.clone(), count.capacity.to_string());
            allocatable.insert(resource, count.allocatable.to_string());
        }
        let patch = json!({"status": {"capacity": capacity, "allocatable": allocatable}});
        if let Err(refusal) = objects.patch_status("nodes", "", &node, &patch) {
            tracing::debug!(%refusal, node, "the node is not there");
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
