//! Where the driver's library is: a file the user names, the driver root, the root of a driver container, or the dynamic linker's own
//! search. Pure but for looking whether a file exists.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Settings;
use crate::agent::backend::DriverPlace;

/// The library's name, by which the dynamic linker knows it.
const SONAME: &str = "libnvidia-ml.so.1";

/// Where NVIDIA's driver container shows its root on the host.
const CONTAINER_ROOT: &str = "/run/nvidia/driver";

/// Where distributions put it below a root.
const DIRECTORIES: [&str; 9] = [
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "usr/lib/aarch64-linux-gnu/nvidia/current",
    "lib64",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib",
];

/// A library that may be the driver's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) file: OsString,
    /// Whose driver it is; `None` where the linker or the user chose the file.
    pub(super) place: Option<DriverPlace>,
}

/// What to hand to the dynamic linker, in order, until one works. A file that the user names is the only candidate. Where the root is
/// the host's, a driver container's comes after what the host itself has, as with the GPU operator's validator.
pub(super) fn candidates(settings: &Settings) -> Vec<Candidate> {
    if let Some(file) = &settings.library {
        return vec![Candidate { file: file.clone().into_os_string(), place: None }];
    }
    let Settings { driver_root: root, host_root, .. } = settings;
    let place = if host_root.starts_with(CONTAINER_ROOT) { DriverPlace::Container } else { DriverPlace::Host };
    let mut all = below(root, place);
    // The linker's search sees our own root: second to the root that the user named, first where they are the same.
    let at = if root == Path::new("/") { 0 } else { all.len() };
    all.insert(at, Candidate { file: SONAME.into(), place: None });
    if host_root == Path::new("/") {
        let at = if root == Path::new("/") { all.len() } else { at };
        let container: PathBuf = root.join(CONTAINER_ROOT.trim_start_matches('/'));
        all.splice(at..at, below(&container, DriverPlace::Container));
    }
    all
}

fn below(root: &Path, place: DriverPlace) -> Vec<Candidate> {
    let files = DIRECTORIES.iter().map(|directory| root.join(directory).join(SONAME)).filter(|file| file.is_file());
    files.map(|file| Candidate { file: file.into(), place: Some(place) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, directory: &str) -> OsString {
        let directory = root.join(directory);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(SONAME), "").unwrap();
        directory.join(SONAME).into_os_string()
    }

    fn found(settings: &Settings) -> Vec<(OsString, Option<DriverPlace>)> {
        candidates(settings).into_iter().map(|it| (it.file, it.place)).collect()
    }

    #[test]
    fn a_named_file_is_the_only_candidate() {
        let settings = Settings { library: Some(PathBuf::from("/opt/nvml.so")), ..Settings::default() };
        assert_eq!(found(&settings), [("/opt/nvml.so".into(), None)]);
    }

    #[test]
    fn the_hosts_driver_comes_before_a_containers_and_both_before_the_linkers_search() {
        let root = tempfile::tempdir().unwrap();
        let settings = Settings { driver_root: root.path().to_owned(), ..Settings::default() };
        let container = put(root.path(), "run/nvidia/driver/usr/lib/x86_64-linux-gnu");
        let linker = (OsString::from(SONAME), None);
        assert_eq!(found(&settings), [(container.clone(), Some(DriverPlace::Container)), linker.clone()]);
        let host = put(root.path(), "usr/lib64");
        let both = [(host, Some(DriverPlace::Host)), (container, Some(DriverPlace::Container)), linker];
        assert_eq!(found(&settings), both);
    }

    #[test]
    fn a_root_that_is_the_containers_holds_no_other() {
        let root = tempfile::tempdir().unwrap();
        let (driver_root, host_root) = (root.path().to_owned(), PathBuf::from(CONTAINER_ROOT));
        let settings = Settings { driver_root, host_root, ..Settings::default() };
        let file = put(root.path(), "usr/lib64");
        put(root.path(), "run/nvidia/driver/usr/lib64");
        assert_eq!(found(&settings), [(file, Some(DriverPlace::Container)), (SONAME.into(), None)]);
    }
}
