//! Socket files in the kubelet's directory of device plugins: ours, those that earlier processes of ours left behind, and the
//! kubelet's own, by whose replacement a restart of the kubelet is seen. Nothing here is remembered on disk.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::net::{UnixListener, UnixStream};

/// Every socket file of ours begins with it.
const PREFIX: &str = "packhorse-";
const SUFFIX: &str = ".sock";

/// The kernel's limit of a socket's path, without the final zero (`sun_path` of unix(7)).
const MAX_PATH: usize = 107;

/// A file younger than this may belong to a process that has not begun to listen.
const SETTLED: Duration = Duration::from_secs(5);

/// Which file it is, not what it is called: a file that was deleted and created again is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    /// Some file systems give a new file the inode of the one just deleted.
    changed: (i64, i64),
}

/// Our socket file; removed with this value, unless another file lies there by then.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// The socket that lies there now; `None` where there is none, or it cannot be seen.
pub(super) fn identity(path: &Path) -> Option<Identity> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    metadata.file_type().is_socket().then(|| Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

impl Socket {
    /// Listens on a new file in `directory`, by a name that no other process and no earlier socket of this one has.
    ///
    /// # Errors
    /// A missing or unwritable directory, or a path that is too long, in words that name it.
    pub(super) fn bind(directory: &Path, resource: &str) -> io::Result<(Self, UnixListener)> {
        let resource = resource.rsplit('/').next().unwrap_or(resource);
        let random = RandomState::new().build_hasher().finish() as u32;
        let path = directory.join(format!("{PREFIX}{resource}-{}-{random:08x}{SUFFIX}", std::process::id()));
        let failed = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!("cannot listen on the device-plugin socket {}: {error}", path.display()),
            )
        };
        let length = path.as_os_str().len();
        if length > MAX_PATH {
            let reason =
                format!("the path has {length} bytes, a socket's may have {MAX_PATH}; use a shorter --kubelet-dir");
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, reason)));
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        let metadata = std::fs::symlink_metadata(&path).map_err(failed)?;
        Ok((Self { path: path.clone(), device: metadata.dev(), inode: metadata.ino() }, listener))
    }

    /// The file's name, by which the kubelet is told of it.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether the file is still there: a kubelet that starts deletes every socket of the directory.
    pub(super) fn is_there(&self) -> bool {
        std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| metadata.dev() == self.device && metadata.ino() == self.inode)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.is_there()
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the device-plugin socket stays behind; the next start removes it");
        }
    }
}

/// Whether that is what a socket of ours is called.
pub(super) fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

/// Removes the sockets of ours on which nobody listens any more. Returns how many.
pub(super) async fn remove_left_over(directory: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| is_ours(name)) else {
            continue;
        };
        let path = entry.path();
        // It may be gone since the directory was read; then there is nothing to do.
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        let settled = metadata
            .modified()
            .is_ok_and(|modified| SystemTime::now().duration_since(modified).is_ok_and(|age| age >= SETTLED));
        if !metadata.file_type().is_socket() || !settled {
            continue;
        }
        let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        if UnixStream::connect(&path).await.is_err_and(refused) && std::fs::remove_file(&path).is_ok() {
            tracing::info!(socket = name, "removed the socket of an earlier process");
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(path: &Path) {
        let file = std::process::Command::new("touch").args(["-d", "1 minute ago"]).arg(path).status();
        assert!(file.expect("touch").success());
    }

    #[tokio::test]
    async fn two_sockets_of_one_resource_never_share_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let (one, _listens) = Socket::bind(directory.path(), "nvidia.com/gpu").unwrap();
        let (two, _listens_too) = Socket::bind(directory.path(), "nvidia.com/gpu").unwrap();
        assert_ne!(one.name(), two.name());
        assert!(one.name().starts_with("packhorse-gpu-"), "{}", one.name());
        assert!(one.is_there() && two.is_there());
    }

    #[tokio::test]
    async fn a_socket_goes_with_its_owner_but_not_the_file_of_another() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, listener) = Socket::bind(directory.path(), "nvidia.com/gpu").unwrap();
        let path = socket.path.clone();
        drop(socket);
        assert!(!path.exists());
        drop(listener);

        let (socket, _listener) = Socket::bind(directory.path(), "nvidia.com/gpu").unwrap();
        let path = socket.path.clone();
        std::fs::rename(&path, directory.path().join("kept")).unwrap();
        std::fs::write(&path, "another's").unwrap();
        assert!(!socket.is_there());
        drop(socket);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn only_old_sockets_of_ours_that_nobody_serves_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let _live = UnixListener::bind(at("packhorse-gpu-1-live.sock")).unwrap();
        for name in ["packhorse-gpu-1-dead.sock", "nvidia-gpu.sock"] {
            drop(UnixListener::bind(at(name)).unwrap());
        }
        std::fs::write(at("packhorse-gpu-1-file.sock"), "").unwrap();
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            age(&entry.unwrap().path());
        }
        drop(UnixListener::bind(at("packhorse-gpu-1-young.sock")).unwrap());

        assert_eq!(remove_left_over(directory.path()).await.unwrap(), 1);
        assert!(!at("packhorse-gpu-1-dead.sock").exists());
        for name in
            ["packhorse-gpu-1-live.sock", "nvidia-gpu.sock", "packhorse-gpu-1-file.sock", "packhorse-gpu-1-young.sock"]
        {
            assert!(at(name).exists(), "{name}");
        }
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let error = Socket::bind(&directory.path().join("x".repeat(80)), "nvidia.com/gpu").unwrap_err().to_string();
        assert!(error.contains("--kubelet-dir"), "{error}");
    }

    #[tokio::test]
    async fn a_socket_created_again_is_another_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kubelet.sock");
        assert_eq!(identity(&path), None);
        let first = UnixListener::bind(&path).unwrap();
        let was = identity(&path);
        assert!(was.is_some());
        std::fs::remove_file(&path).unwrap();
        let _second = UnixListener::bind(&path).unwrap();
        assert_ne!(identity(&path), was);
        drop(first);
    }
}
