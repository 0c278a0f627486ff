//! Why a specification cannot be written. The words reach the pod's events, so each says what to do.

use std::io;
use std::path::{Path, PathBuf};

use super::host;

/// Why a specification could not be written, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum SpecificationError {
    /// The system gives no random bits: no name can be made.
    #[error("no random bits for the name of a CDI device: the system's random source failed")]
    Randomness,
    /// A file or directory of ours.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// In words.
        doing: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The host's specification does not have the device.
    #[error("the host's CDI specification{} has no device {device}{}; generate it again on the node: {}",
        path.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default(),
        detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default(), host::remedy(path.as_deref()))]
    NoSuchDevice {
        /// The UUID.
        device: String,
        /// The first file that was looked in.
        path: Option<PathBuf>,
        /// What else is known.
        detail: Option<String>,
    },
    /// The host's specification was generated when the cards had other numbers.
    #[error("{}: device {name:?} holds {node}, but {device} is /dev/nvidia{minor}: the file is out of date; generate it again on the node: {}",
        path.display(), host::remedy(Some(path)))]
    OutOfDate {
        /// The file.
        path: PathBuf,
        /// The CDI device's name.
        name: String,
        /// The node that is another card's.
        node: String,
        /// The UUID of what was looked for.
        device: String,
        /// The minor number of its card.
        minor: u32,
    },
    /// The driver does not list a MIG instance's capability.
    #[error("{}: no entry {entry:?}, which {device} needs: the MIG layout has changed meanwhile, or the driver is older than its instances", path.display())]
    NoCapability {
        /// The driver's list.
        path: PathBuf,
        /// The missing line's beginning.
        entry: String,
        /// The instance's UUID.
        device: String,
    },
}

/// An error of the file system, for `map_err`.
pub(super) fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpecificationError {
    let path = path.to_owned();
    move |source| SpecificationError::Io { doing, path, source }
}
