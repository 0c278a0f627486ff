//! What the container runtime reads next: one CDI specification per container that has GPUs, written when it is about to start
//! and its devices are known (<https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>).
//!
//! `Allocate` names a CDI device that does not exist yet, by a name that is never used twice; the check at container start writes
//! its content. So the runtime can never read what was written for another container: a name whose content is missing fails
//! the container's creation, which the kubelet repeats.

use std::fmt;

/// The name of one CDI device, for one container, for good: unique over all time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName(String);

/// `vendor/class` of our CDI devices.
pub const KIND: &str = "packhorse.dev/gpu";

/// What a specification holds, by what the node's runtime can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// Plain runc: device nodes, libraries and hooks from the host's generated specification; the NVIDIA runtime's variable is `void`.
    Full,
    /// NVIDIA's runtime: UUIDs in its variable.
    Env,
    /// A runtime without CDI: nothing is written; the pod's own variable names the device.
    None,
}

impl DeviceName {
    /// Reads `packhorse.dev/gpu=<name>`; `None` for a device of another kind.
    pub fn from_qualified(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once('=')?;
        (kind == KIND && !name.is_empty()).then(|| Self(name.to_owned()))
    }

    /// `packhorse.dev/gpu=<name>`, as the kubelet hands it to the runtime.
    pub fn qualified(&self) -> String {
        format!("{KIND}={}", self.0)
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
