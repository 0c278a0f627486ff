//! What was verified at container start, on disk by pod UID: a container that starts again needs no API server, and whatever becomes of
//! its pod's annotations changes nothing. Pins are also what the next pod's devices are checked against.
//!
//! Written by the check at container start and by the collection of what is left over; one file a pod, whole or not at all. A damaged
//! file counts as absent: told, counted, set aside as `<uid>.damaged`; its pod is verified anew, and as long as it lives counts by its
//! annotation. What is in memory counts from the instant it is there, the disk follows before the container starts.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::gpu::allocation::{Allocation, ContainerAllocation, Holding, Share};
use crate::gpu::device::Enforcement;
use crate::gpu::request::Phase;

/// The directory's name below the agent's state directory.
const DIRECTORY: &str = "pods";
/// What the file of a damaged pin ends in.
const DAMAGED: &str = ".damaged";
const VERSION: u64 = 1;

/// One pod, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The pod's UID.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Every container with its phase, init containers first.
    pub phases: Vec<(Arc<str>, Phase)>,
    /// What its containers have.
    pub allocation: Allocation,
    /// `None`: the extender gave it. Else we did, and whether the inventory has told so.
    pub foreign: Option<Announced>,
}

/// Whether the world knows of a foreign pod's devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Announced {
    /// Not yet: its containers must not start.
    No,
    /// The inventory names it.
    Yes,
}

impl Pin {
    /// `namespace/name`, for people.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// What one container has, `None` where nothing.
    pub fn shares(&self, container: &str) -> Option<&[Share]> {
        let found = self.allocation.containers.iter().find(|found| *found.name == *container)?;
        Some(&found.shares)
    }

    /// What the pod holds on each device.
    pub fn holdings(&self) -> Vec<Holding> {
        self.allocation.holdings(&self.phases)
    }
}

/// A pin, and whether the disk has it.
#[derive(Debug, Clone)]
struct Held {
    pin: Arc<Pin>,
    stored: bool,
}

/// All pins of this node.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    pins: Mutex<HashMap<Arc<str>, Held>>,
    /// UIDs whose pin was damaged. Each has a file of its own, lest the next agent not know.
    damaged: Mutex<BTreeSet<Arc<str>>>,
}

impl Pins {
    /// Reads what an earlier agent left below the state directory. Blocks.
    ///
    /// # Errors
    /// The directory cannot be made or read; a single damaged file is no error.
    pub fn open(state_directory: &Path) -> io::Result<Self> {
        let directory = state_directory.join(DIRECTORY);
        fs::create_dir_all(&directory)?;
        let (mut pins, mut damaged) = (HashMap::new(), BTreeSet::new());
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some(uid) = name.strip_suffix(DAMAGED).filter(|uid| is_plain(uid)) {
                damaged.insert(uid.into());
                continue;
            }
            let Some(uid) = name.strip_suffix(".json").filter(|uid| is_plain(uid)) else {
                tracing::warn!(path = %path.display(), "removing what is no pin: an agent that died left it");
                remove_file(&path)?;
                continue;
            };
            match fs::read(&path).map_err(|error| error.to_string()).and_then(|text| read(uid, &text)) {
                Ok(pin) => {
                    pins.insert(Arc::clone(&pin.uid), Held { pin: Arc::new(pin), stored: true });
                }
                Err(problem) => {
                    tracing::error!(path = %path.display(), problem, "a damaged pin was set aside; its pod is verified anew when a container of it starts");
                    damaged.insert(uid.into());
                    fs::rename(&path, directory.join(format!("{uid}{DAMAGED}")))?;
                }
            }
        }
        Ok(Self { directory, pins: Mutex::new(pins), damaged: Mutex::new(damaged) })
    }

    /// The pods whose pins could not be read at a start, and which were not verified anew since. As long as they live they hold what they
    /// were once verified for, unknown to the pins.
    pub fn damaged(&self) -> BTreeSet<Arc<str>> {
        let mut damaged = self.lock_damaged().clone();
        let pins = self.lock();
        damaged.retain(|uid| !pins.contains_key(uid));
        damaged
    }

    /// Forgets that a pod's pin was damaged: it is gone, or has a pin again. Blocks.
    ///
    /// # Errors
    /// The file cannot be removed; it no longer counts all the same, and comes back at the next start at most.
    pub fn remove_damaged(&self, uid: &str) -> io::Result<()> {
        if !self.lock_damaged().remove(uid) {
            return Ok(());
        }
        remove_file(&self.directory.join(format!("{uid}{DAMAGED}")))
    }

    /// The pin of that pod.
    pub fn get(&self, uid: &str) -> Option<Arc<Pin>> {
        self.lock().get(uid).map(|held| Arc::clone(&held.pin))
    }

    /// All of them, in no order.
    pub fn list(&self) -> Vec<Arc<Pin>> {
        self.lock().values().map(|held| Arc::clone(&held.pin)).collect()
    }

    /// Checks a new pin against all others and takes it in, in one step: of two pods that want the same share, one is refused. A pin
    /// that is there already stays as it is.
    ///
    /// # Errors
    /// What `check` says; nothing is changed then.
    pub fn reserve<E>(&self, pin: Pin, check: impl FnOnce(&[Arc<Pin>]) -> Result<(), E>) -> Result<Arc<Pin>, E> {
        let mut pins = self.lock();
        if let Some(held) = pins.get(&pin.uid) {
            return Ok(Arc::clone(&held.pin));
        }
        let others: Vec<_> = pins.values().map(|held| Arc::clone(&held.pin)).collect();
        check(&others)?;
        let pin = Arc::new(pin);
        pins.insert(Arc::clone(&pin.uid), Held { pin: Arc::clone(&pin), stored: false });
        Ok(pin)
    }

    /// Notes that the inventory names a foreign pod. The disk does not know yet.
    pub fn announced(&self, uid: &str) {
        if let Some(held) = self.lock().get_mut(uid)
            && held.pin.foreign == Some(Announced::No)
        {
            let pin = Pin { foreign: Some(Announced::Yes), ..Pin::clone(&held.pin) };
            *held = Held { pin: Arc::new(pin), stored: false };
        }
    }

    /// Sees to it that the disk has the pin of that pod. Blocks.
    ///
    /// # Errors
    /// It cannot be written; the pin counts in memory all the same, and the next call tries again. Or there is no such pin (any more).
    pub fn store(&self, uid: &str) -> io::Result<()> {
        let forgotten = || io::Error::new(io::ErrorKind::NotFound, format!("the pod of UID {uid} is forgotten"));
        let Held { pin, stored } = self.lock().get(uid).cloned().ok_or_else(forgotten)?;
        if stored {
            return Ok(());
        }
        if !is_plain(uid) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{uid:?} is no UID")));
        }
        // Two starts of one pod may come here at once, with the same content.
        let temporary = self.directory.join(format!("{uid}.{:?}.new", std::thread::current().id()));
        let mut file = File::create(&temporary)?;
        file.write_all(write(&pin).as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, self.path(uid))?;
        File::open(&self.directory)?.sync_all()?;
        match self.lock().get_mut(uid) {
            Some(held) if Arc::ptr_eq(&held.pin, &pin) => held.stored = true,
            // Newer: whoever changed it stores it.
            Some(_) => {}
            None => {
                // Forgotten while we wrote.
                remove_file(&self.path(uid))?;
                return Err(forgotten());
            }
        }
        self.remove_damaged(uid)
    }

    /// Forgets a pod that is gone. Blocks.
    ///
    /// # Errors
    /// The file cannot be removed; the pin no longer counts all the same, and comes back at the next start at most.
    pub fn remove(&self, uid: &str) -> io::Result<()> {
        if self.lock().remove(uid).is_none() {
            return Ok(());
        }
        remove_file(&self.path(uid))
    }

    fn lock_damaged(&self) -> std::sync::MutexGuard<'_, BTreeSet<Arc<str>>> {
        // Every change is one call on the set.
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.directory.join(format!("{uid}.json"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Held>> {
        // Every change is one call on the map: it is whole even if its caller panicked.
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A UID becomes a part of a file's name. Kubernetes makes UUIDs, and hashes for static pods.
fn is_plain(uid: &str) -> bool {
    (1..=128).contains(&uid.len()) && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct WirePin {
    v: u64,
    uid: Arc<str>,
    namespace: Arc<str>,
    name: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    announced: Option<Announced>,
    /// Every container of the pod, init containers first.
    containers: Vec<WireContainer>,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct WireContainer {
    name: Arc<str>,
    phase: WirePhase,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    devices: Vec<WireShare>,
}

#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum WirePhase {
    Init,
    Sidecar,
    App,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct WireShare {
    device: Arc<str>,
    memory: u32,
    cores: u16,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    exclusive: bool,
    enforcement: String,
}

fn write(pin: &Pin) -> String {
    let containers = pin.phases.iter().map(|(name, phase)| WireContainer {
        name: Arc::clone(name),
        phase: match phase {
            Phase::Init => WirePhase::Init,
            Phase::Sidecar => WirePhase::Sidecar,
            Phase::App => WirePhase::App,
        },
        devices: pin.shares(name).unwrap_or_default().iter().map(wire_share).collect(),
    });
    let wire = WirePin {
        v: VERSION,
        uid: Arc::clone(&pin.uid),
        namespace: Arc::clone(&pin.namespace),
        name: Arc::clone(&pin.name),
        announced: pin.foreign,
        containers: containers.collect(),
    };
    // Strings, integers and lists of them: nothing in it can fail to serialise.
    serde_json::to_string(&wire).unwrap_or_default()
}

fn wire_share(share: &Share) -> WireShare {
    WireShare {
        device: Arc::clone(&share.device),
        memory: share.memory,
        cores: share.cores,
        exclusive: share.exclusive,
        enforcement: share.enforcement.as_str().to_owned(),
    }
}

fn read(uid: &str, text: &[u8]) -> Result<Pin, String> {
    let wire: WirePin = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if wire.v != VERSION {
        return Err(format!("v: version {} is not known", wire.v));
    }
    if *wire.uid != *uid {
        return Err(format!("uid: {} in the file of {uid}", wire.uid));
    }
    let (mut phases, mut containers) = (Vec::new(), Vec::new());
    for container in wire.containers {
        let phase = match container.phase {
            WirePhase::Init => Phase::Init,
            WirePhase::Sidecar => Phase::Sidecar,
            WirePhase::App => Phase::App,
        };
        phases.push((Arc::clone(&container.name), phase));
        let shares = container.devices.into_iter().map(read_share).collect::<Result<Vec<_>, _>>()?;
        if !shares.is_empty() {
            containers.push(ContainerAllocation { name: container.name, shares });
        }
    }
    let allocation = Allocation { containers };
    Ok(Pin { uid: wire.uid, namespace: wire.namespace, name: wire.name, phases, allocation, foreign: wire.announced })
}

fn read_share(wire: WireShare) -> Result<Share, String> {
    let WireShare { device, memory, cores, exclusive, enforcement } = wire;
    let enforcement: Enforcement =
        enforcement.parse().map_err(|()| format!("enforcement: {enforcement:?} is no level"))?;
    Ok(Share { device, memory, cores, exclusive, enforcement })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(uid: &str, device: &str) -> Pin {
        let share = Share {
            device: device.into(),
            memory: 4096,
            cores: 30,
            exclusive: device == "GPU-2",
            enforcement: Enforcement::Advisory,
        };
        let container = |name: &str| ContainerAllocation { name: name.into(), shares: vec![share.clone()] };
        Pin {
            uid: uid.into(),
            namespace: "ns".into(),
            name: uid.into(),
            phases: [("init", Phase::Init), ("side", Phase::Sidecar), ("main", Phase::App), ("idle", Phase::App)]
                .map(|(name, phase)| (name.into(), phase))
                .to_vec(),
            allocation: Allocation { containers: vec![container("init"), container("main")] },
            foreign: (device == "GPU-2").then_some(Announced::No),
        }
    }

    fn reserve(pins: &Pins, pin: Pin) -> Arc<Pin> {
        pins.reserve(pin, |_| Ok::<_, ()>(())).unwrap()
    }

    #[test]
    fn the_next_agent_finds_what_was_stored() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::open(directory.path()).unwrap();
        let (one, two) = (reserve(&pins, pin("u1", "GPU-1")), reserve(&pins, pin("u2", "GPU-2")));
        reserve(&pins, pin("u3", "GPU-3"));
        pins.store("u1").unwrap();
        pins.store("u2").unwrap();
        let next = Pins::open(directory.path()).unwrap();
        assert_eq!((next.get("u1"), next.get("u2"), next.get("u3")), (Some(one), Some(Arc::clone(&two)), None));
        assert_eq!(next.get("u2").unwrap().holdings(), two.holdings());
        next.announced("u2");
        next.store("u2").unwrap();
        next.remove("u1").unwrap();
        let last = Pins::open(directory.path()).unwrap();
        assert_eq!(
            last.list().iter().map(|pin| (&*pin.uid, pin.foreign)).collect::<Vec<_>>(),
            [("u2", Some(Announced::Yes))]
        );
    }

    #[test]
    fn a_pin_stays_as_it_was_first_taken() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::open(directory.path()).unwrap();
        let first = reserve(&pins, pin("u1", "GPU-1"));
        let again = pins.reserve(pin("u1", "GPU-9"), |_| Err("checked against others")).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(pins.reserve(pin("u2", "GPU-1"), |others| Err(others.len())), Err(1));
        assert_eq!(pins.get("u2"), None);
    }

    #[test]
    fn damaged_files_count_as_absent() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::open(directory.path()).unwrap();
        reserve(&pins, pin("good", "GPU-1"));
        pins.store("good").unwrap();
        let good = fs::read_to_string(directory.path().join("pods/good.json")).unwrap();
        let files = [
            ("cut", good[..good.len() / 2].to_owned()),
            ("empty", String::new()),
            ("newer", good.replace("\"v\":1", "\"v\":2").replace("good", "newer")),
            ("moved", good.clone()),
            ("level", good.replace("advisory", "absolute").replace("good", "level")),
        ];
        for (uid, text) in &files {
            fs::write(directory.path().join(format!("pods/{uid}.json")), text).unwrap();
        }
        fs::write(directory.path().join("pods/good.ThreadId(1).new"), "{").unwrap();
        let next = Pins::open(directory.path()).unwrap();
        assert_eq!((next.list().len(), next.damaged().len()), (1, files.len()));
        // The agent after the next still knows, until the pod is gone or verified anew.
        let last = Pins::open(directory.path()).unwrap();
        assert_eq!((last.list().len(), last.damaged()), (1, next.damaged()));
        last.remove_damaged("cut").unwrap();
        reserve(&last, pin("empty", "GPU-1"));
        last.store("empty").unwrap();
        let left: BTreeSet<_> = ["level", "moved", "newer"].map(Arc::from).into();
        assert_eq!((last.damaged(), Pins::open(directory.path()).unwrap().damaged()), (left.clone(), left));
        assert_eq!(fs::read_dir(directory.path().join("pods")).unwrap().count(), 2 + 3);
    }

    #[test]
    fn a_pin_that_is_forgotten_is_not_stored() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::open(directory.path()).unwrap();
        reserve(&pins, pin("u1", "GPU-1"));
        pins.store("u1").unwrap();
        pins.remove("u1").unwrap();
        assert!(pins.store("u1").is_err());
        assert_eq!(fs::read_dir(directory.path().join("pods")).unwrap().count(), 0);
    }

    #[test]
    fn a_uid_cannot_leave_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::open(directory.path()).unwrap();
        for uid in ["../x", "a/b", "", "."] {
            reserve(&pins, pin(uid, "GPU-1"));
            assert!(pins.store(uid).is_err(), "{uid}");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_is_written_at_the_next_try() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::open(directory.path()).unwrap();
        reserve(&pins, pin("u1", "GPU-1"));
        fs::remove_dir(directory.path().join("pods")).unwrap();
        assert!(pins.store("u1").is_err());
        assert!(pins.get("u1").is_some(), "it counts");
        fs::create_dir(directory.path().join("pods")).unwrap();
        pins.store("u1").unwrap();
        assert_eq!(Pins::open(directory.path()).unwrap().list().len(), 1);
    }
}
