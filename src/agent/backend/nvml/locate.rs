//! Where the driver's library is: a file the user names, the driver root, or the dynamic linker's own search. Pure but for
//! looking whether a file exists.

use std::ffi::OsString;
use std::path::Path;

use super::Settings;

/// The library's name, by which the dynamic linker knows it.
const SONAME: &str = "libnvidia-ml.so.1";

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

/// What to hand to the dynamic linker, in order, until one loads. A file that the user names is the only candidate.
pub(super) fn candidates(settings: &Settings) -> Vec<OsString> {
    if let Some(file) = &settings.library {
        return vec![file.clone().into_os_string()];
    }
    let root = &settings.driver_root;
    let below = DIRECTORIES.iter().map(|directory| root.join(directory).join(SONAME)).filter(|file| file.is_file());
    let mut all: Vec<OsString> = below.map(Into::into).collect();
    // The linker's search sees our own root: second to the root that the user named, first where they are the same.
    let place = if root == Path::new("/") { 0 } else { all.len() };
    all.insert(place, SONAME.into());
    all
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_named_file_is_the_only_candidate() {
        let settings = Settings { library: Some(PathBuf::from("/opt/nvml.so")), ..Settings::default() };
        assert_eq!(candidates(&settings), ["/opt/nvml.so"]);
    }

    #[test]
    fn the_driver_root_comes_before_the_linkers_search() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("usr/lib64");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(SONAME), "").unwrap();
        let settings = Settings { driver_root: root.path().to_owned(), ..Settings::default() };
        assert_eq!(candidates(&settings), [directory.join(SONAME).into_os_string(), SONAME.into()]);
    }
}
