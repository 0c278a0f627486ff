//! One agent at a time on a node, during a rolling update too: a lock on a file in the state directory, which the kernel
//! releases with the process however it ends. Whoever waits for it touches neither the Node nor the kubelet.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

/// How often a waiting agent looks.
const LOOK: Duration = Duration::from_millis(100);

/// Held as long as it lives.
#[derive(Debug)]
pub struct NodeLock {
    _file: File,
}

impl NodeLock {
    /// Waits until no other agent runs on this node.
    ///
    /// # Errors
    /// The directory cannot be written, or its file system knows no locks.
    pub async fn acquire(state_directory: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(state_directory)?;
        let file = File::create(state_directory.join("lock"))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
            if !told {
                tracing::info!("another agent serves this node: waiting for it to end");
                told = true;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Takes the lock of a node that nobody serves; `None` where an agent runs. Creates nothing.
    ///
    /// # Errors
    /// The file cannot be opened; that there is none means that nobody ever held it.
    pub fn try_acquire(state_directory: &Path) -> io::Result<Option<Self>> {
        let file = File::options().write(true).open(state_directory.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_agent_serves_when_the_first_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let first = NodeLock::acquire(directory.path()).await.unwrap();
        let second = NodeLock::acquire(directory.path());
        tokio::pin!(second);
        assert!(tokio::time::timeout(LOOK * 3, &mut second).await.is_err(), "two agents serve one node");
        drop(first);
        tokio::time::timeout(Duration::from_secs(10), second).await.expect("the lock is free").unwrap();
    }
}
