//! NVIDIA's device-plugin flags, environment variables and configuration file, by the same names.

use std::fmt;

/// How a container is told of its devices; NVIDIA's `--device-list-strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The runtime's variable.
    Envvar,
    /// Mounts that name devices.
    VolumeMounts,
    /// CDI names in annotations.
    CdiAnnotations,
    /// CDI names in the field that CRI has for them.
    CdiCri,
}

/// What NVIDIA's runtime is told devices by; NVIDIA's `--device-id-strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceIdStrategy {
    /// By UUID.
    #[default]
    Uuid,
    /// Cards by NVML's index.
    Index,
}

impl Strategy {
    /// Every one with NVIDIA's name of it.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Envvar, "envvar"),
        (Self::VolumeMounts, "volume-mounts"),
        (Self::CdiAnnotations, "cdi-annotations"),
        (Self::CdiCri, "cdi-cri"),
    ];

    /// NVIDIA's name of it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Envvar => "envvar",
            Self::VolumeMounts => "volume-mounts",
            Self::CdiAnnotations => "cdi-annotations",
            Self::CdiCri => "cdi-cri",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
