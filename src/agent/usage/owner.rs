//! From a process to whom it belongs: `/proc/PID/cgroup` names pod and container by UID and id, the agent's own watch and pins name
//! them by name. Reads `/proc` at each question and keeps nothing.
//!
//! A process that has ended between the driver's word and ours is [`Owner::Vanished`], which is no failure. In that instant its number
//! could only have been given anew after all others of the machine, so reuse is not guarded against: it would misname one reading.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::cgroup::{Place, place};
use crate::agent::pins::Pins;
use crate::agent::pods::Pods;

/// Whose process it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// A container of a pod that was verified at its start.
    Container(ContainerName),
    /// Another pod, or one of ours in a container whose name nobody has told (yet).
    Pod,
    /// No pod.
    Host,
    /// It has ended.
    Vanished,
    /// It cannot be told.
    Unreadable(String),
}

/// A container, as people name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ContainerName {
    pub(super) namespace: Arc<str>,
    pub(super) pod: Arc<str>,
    pub(super) container: Arc<str>,
}

/// What is known of processes.
#[derive(Debug, Clone)]
pub(super) struct Owners {
    /// Usually `/proc`.
    pub(super) proc: PathBuf,
    pub(super) pods: Arc<Pods>,
    pub(super) pins: Arc<Pins>,
}

impl Owners {
    /// Whose process that is. Blocks.
    pub(super) fn of(&self, pid: u32) -> Owner {
        // Some drivers say 0 of what the caller may not see.
        if pid == 0 {
            return Owner::Vanished;
        }
        let path = self.proc.join(pid.to_string()).join("cgroup");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if has_ended(&error) => return Owner::Vanished,
            Err(error) => return Owner::Unreadable(format!("{}: {error}", path.display())),
        };
        match place(&String::from_utf8_lossy(&text)) {
            Place::Host => Owner::Host,
            Place::Pod { container: None, .. } => Owner::Pod,
            Place::Pod { uid, container: Some(id) } => self.name(&uid, &id).map_or(Owner::Pod, Owner::Container),
        }
    }

    fn name(&self, uid: &str, id: &str) -> Option<ContainerName> {
        let pin = self.pins.get(uid)?;
        let pod = self.pods.get(uid)?;
        let running = pod.running.iter().find(|running| *running.id == *id)?;
        Some(ContainerName {
            namespace: Arc::clone(&pin.namespace),
            pod: Arc::clone(&pin.name),
            container: Arc::clone(&running.name),
        })
    }

    /// Why processes of other pods cannot be seen from here; then a container that runs none may as well run some.
    ///
    /// The first process of a machine is in no pod. In a pod of its own the agent sees the first process of that.
    pub(super) fn blindness(&self) -> Option<String> {
        let first = std::fs::read(self.proc.join("1/cgroup")).unwrap_or_default();
        let in_a_pod = place(&String::from_utf8_lossy(&first)) != Place::Host;
        in_a_pod.then(|| "the agent's pod does not run with hostPID: true".to_owned())
    }
}

/// Reading a process that ends meanwhile fails with one or the other.
fn has_ended(error: &io::Error) -> bool {
    const ESRCH: i32 = 3;
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH)
}
