//! What an NVML call answers when it fails, and what that means for us. Made by [`super::calls`] alone.

use super::super::BackendError;

/// NVML's return codes that we tell apart (<https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceEnumvs.html>).
pub(super) mod code {
    pub(crate) const SUCCESS: u32 = 0;
    pub(crate) const UNINITIALIZED: u32 = 1;
    pub(crate) const INVALID_ARGUMENT: u32 = 2;
    pub(crate) const NOT_SUPPORTED: u32 = 3;
    pub(crate) const NO_PERMISSION: u32 = 4;
    pub(crate) const NOT_FOUND: u32 = 6;
    pub(crate) const INSUFFICIENT_SIZE: u32 = 7;
    pub(crate) const DRIVER_NOT_LOADED: u32 = 9;
    pub(crate) const TIMEOUT: u32 = 10;
    pub(crate) const LIBRARY_NOT_FOUND: u32 = 12;
    pub(crate) const FUNCTION_NOT_FOUND: u32 = 13;
    pub(crate) const GPU_IS_LOST: u32 = 15;
    pub(crate) const LIB_RM_VERSION_MISMATCH: u32 = 18;
    pub(crate) const GPU_NOT_FOUND: u32 = 28;
}

/// One failed call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {reason}")]
pub(super) struct CallError {
    /// The function's name.
    pub(super) call: &'static str,
    /// NVML's return code; `None`: the library does not have the function.
    pub(super) code: Option<u32>,
    /// NVML's words, or the dynamic linker's.
    pub(super) reason: String,
}

impl CallError {
    /// The card cannot be reached any more.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self.code, Some(code::GPU_IS_LOST | code::GPU_NOT_FOUND))
    }

    /// The card, or a driver of this age, has no such thing.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self.code, None | Some(code::NOT_SUPPORTED | code::FUNCTION_NOT_FOUND))
    }

    /// Exactly this return code.
    pub(super) fn is(&self, code: u32) -> bool {
        self.code == Some(code)
    }

    /// About one card, by UUID or index.
    pub(super) fn of(self, device: Option<String>) -> BackendError {
        BackendError::Failed { call: self.call.to_owned(), device, reason: self.reason }
    }

    /// About the node: what stands in the way as a whole is a state with a remedy, anything else is a failed call.
    pub(super) fn of_node(self) -> BackendError {
        let remedy = match self.code {
            Some(code::DRIVER_NOT_LOADED) => {
                "load NVIDIA's kernel module (`modprobe nvidia`) or install the driver; the agent looks again by itself"
            }
            Some(code::LIB_RM_VERSION_MISMATCH) => {
                "kernel module and libnvidia-ml are of different versions: reload the kernel module or reboot the node"
            }
            Some(code::NO_PERMISSION) => "run the agent as root and privileged, so that it may open /dev/nvidiactl",
            Some(code::LIBRARY_NOT_FOUND) => "a library of the driver is missing: install the driver again",
            Some(code::NOT_FOUND | code::GPU_NOT_FOUND) => NO_GPU_REMEDY,
            _ => return self.of(None),
        };
        BackendError::Absent { reason: self.to_string(), remedy: remedy.to_owned() }
    }
}

/// Where the driver runs and lists nothing.
pub(super) const NO_GPU_REMEDY: &str =
    "see whether `nvidia-smi -L` and `lspci -d 10de:` list a GPU; the agent looks again by itself";
