//! The directory below which the demo's nodes keep their files. Its path is short, because the path of a Unix socket has at most 107
//! bytes; it goes with its owner.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// What a node's longest socket path needs below this directory: `500/k/device-plugins/packhorse-mig-1g.10gb-4194304-0123abcd.sock`.
const BELOW: usize = 66;
/// The kernel's limit of a socket's path (`sun_path` of unix(7)).
const MAX_PATH: usize = 107;

/// Removed with everything in it when dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new directory, for this user alone, in the one for temporary files, or in `/tmp` where that path is too long.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn new() -> io::Result<Self> {
        let name = format!("ph-{:08x}", RandomState::new().build_hasher().finish() as u32);
        let usual = std::env::temp_dir().join(&name);
        let fits = usual.as_os_str().len() + 1 + BELOW <= MAX_PATH;
        let path = if fits { usual } else { Path::new("/tmp").join(&name) };
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot make {}: {error}", path.display())))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What ends at the same moment may still remove a file of its own: then the directory is not empty, or gone already.
        for _ in 0..3 {
            match fs::remove_dir_all(&self.path) {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.path.exists() => return,
                Err(error) => {
                    tracing::debug!(path = %self.path.display(), %error, "the demo's directory is still in use")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_its_owner() {
        let scratch = Scratch::new().unwrap();
        let path = scratch.path().to_owned();
        fs::create_dir_all(path.join("1/k/device-plugins")).unwrap();
        drop(scratch);
        assert!(!path.exists());
    }
}
