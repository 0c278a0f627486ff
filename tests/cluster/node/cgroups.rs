//! The cgroups of a node's containers. The kernel keeps an empty cgroup until it is removed, also when everything else of a node
//! went with its namespaces; nodes of runs that were killed are swept by the next run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MOUNT: &str = "/sys/fs/cgroup";
const PARENT: &str = "packhorse-lab";

/// Removes a node's cgroups. Its processes have been killed, and may take a moment to end.
pub(super) fn remove(node: &str) {
    let started = Instant::now();
    for parent in parents() {
        let tree = parent.join(node);
        while let Err(error) = remove_tree(&tree) {
            if started.elapsed() > Duration::from_secs(10) {
                super::super::kubelab::say(&format!("cannot remove {}: {error}", tree.display()));
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The nodes that have cgroups, of whatever run.
pub(super) fn nodes() -> Vec<String> {
    let entries = parents().into_iter().filter_map(|parent| fs::read_dir(parent).ok()).flatten();
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    folders.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// With cgroup v2 one folder, with v1 one in each hierarchy.
fn parents() -> Vec<PathBuf> {
    let hierarchies = fs::read_dir(MOUNT).map(|entries| entries.flatten().map(|entry| entry.path()).collect());
    let mut all: Vec<PathBuf> = hierarchies.unwrap_or_default();
    all.push(PathBuf::from(MOUNT));
    all.into_iter().map(|hierarchy| hierarchy.join(PARENT)).filter(|parent| parent.is_dir()).collect()
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            remove_tree(&path)?;
        }
    }
    fs::remove_dir(folder)
}
