//! What the agent leaves on its node's disk: CDI specifications, sockets in the kubelet's directory, verified allocations. Found by the
//! names that the agent gives them; nothing else in those directories is touched. Never while an agent runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::agent::lock::NodeLock;
use crate::agent::plugin::is_own_socket;
use crate::agent::specification::is_own_file;

/// Where to look.
#[derive(Debug, Clone)]
pub struct Directories {
    /// CDI specifications.
    pub cdi: PathBuf,
    /// The kubelet's, with `device-plugins`.
    pub kubelet: PathBuf,
    /// The agent's own.
    pub state: PathBuf,
}

/// Why nothing is removed.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Its files are in use.
    #[error("an agent runs on this machine (it holds {0}); stop it first")]
    AgentRuns(PathBuf),
    /// A directory or file could not be read or removed.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// `read`, `remove`, `lock`.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Everything of ours, sorted.
///
/// # Errors
/// A directory that cannot be read; one that does not exist has nothing.
pub fn find(directories: &Directories) -> Result<Vec<PathBuf>, FilesError> {
    let mut found = entries(&directories.cdi, is_own_file)?;
    let is_socket = |path: &Path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_own_socket);
    found.extend(entries(&directories.kubelet.join("device-plugins"), is_socket)?);
    found.extend(entries(&directories.state.join("pods"), |_| true)?);
    let lock = directories.state.join("lock");
    if lock.exists() {
        found.push(lock);
    }
    found.sort();
    Ok(found)
}

/// Removes what [`find`] found, and the directories of the state where they are then empty.
///
/// # Errors
/// [`FilesError::AgentRuns`]: nothing was removed. Else the first that could not be.
pub fn remove(directories: &Directories, found: &[PathBuf]) -> Result<(), FilesError> {
    let lock = directories.state.join("lock");
    let _held = match NodeLock::try_acquire(&directories.state) {
        Ok(Some(held)) => Some(held),
        Ok(None) => return Err(FilesError::AgentRuns(lock)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(FilesError::Io { doing: "lock", path: lock, source }),
    };
    for path in found {
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(FilesError::Io { doing: "remove", path: path.clone(), source });
            }
            _ => {}
        }
    }
    for directory in [directories.state.join("pods"), directories.state.clone()] {
        match fs::remove_dir(&directory) {
            // Somebody else keeps something there.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {}
            // A mount cannot be removed, and need not be.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            Err(source) => return Err(FilesError::Io { doing: "remove", path: directory, source }),
            Ok(()) => {}
        }
    }
    Ok(())
}

fn entries(directory: &Path, ours: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, FilesError> {
    let failed = |source| FilesError::Io { doing: "read", path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let paths: Result<Vec<PathBuf>, io::Error> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    Ok(paths.map_err(failed)?.into_iter().filter(|path| ours(path)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an agent leaves, beside what others have there.
    fn left() -> (tempfile::TempDir, Directories) {
        let root = tempfile::tempdir().unwrap();
        let directories = Directories {
            cdi: root.path().join("cdi"),
            kubelet: root.path().join("kubelet"),
            state: root.path().join("state"),
        };
        let plugins = directories.kubelet.join("device-plugins");
        for directory in [&directories.cdi, &plugins, &directories.state.join("pods")] {
            fs::create_dir_all(directory).unwrap();
        }
        for path in [
            directories.cdi.join("packhorse.dev-gpu_00ff.json"),
            directories.cdi.join(".packhorse.dev-gpu_00ff.0123.tmp"),
            directories.cdi.join("nvidia.yaml"),
            plugins.join("packhorse-gpu-1-0000.sock"),
            plugins.join("kubelet.sock"),
            plugins.join("kubelet_internal_checkpoint"),
            directories.state.join("pods/u.json"),
            directories.state.join("lock"),
        ] {
            fs::write(path, "").unwrap();
        }
        (root, directories)
    }

    #[test]
    fn what_the_agent_left_goes_and_what_others_have_stays() {
        let (root, directories) = left();
        let found = find(&directories).unwrap();
        assert_eq!(found.len(), 5, "{found:?}");
        remove(&directories, &found).unwrap();
        assert!(find(&directories).unwrap().is_empty());
        for kept in [
            "cdi/nvidia.yaml",
            "kubelet/device-plugins/kubelet.sock",
            "kubelet/device-plugins/kubelet_internal_checkpoint",
        ] {
            assert!(root.path().join(kept).exists(), "{kept}");
        }
        assert!(!directories.state.exists());
        remove(&directories, &found).expect("there is nothing left to do");
    }

    #[tokio::test]
    async fn nothing_is_removed_while_an_agent_runs() {
        let (_root, directories) = left();
        let found = find(&directories).unwrap();
        let _agent = NodeLock::acquire(&directories.state).await.unwrap();
        let refused = remove(&directories, &found).unwrap_err();
        assert!(matches!(refused, FilesError::AgentRuns(_)), "{refused}");
        assert_eq!(find(&directories).unwrap(), found);
    }
}
