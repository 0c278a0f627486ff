//! Restarts, and what happens where the socket does not return.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::host::{DAEMON, Host, failed, succeeded};

/// A runtime's socket, which is there while no file `down` is.
struct Socket {
    ends: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Socket {
    fn serve(path: &Path, down: &Path) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let (path, down, end) = (path.to_owned(), down.to_owned(), Arc::clone(&ends));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut listener = None;
            while !end.load(Ordering::Relaxed) {
                if down.exists() {
                    listener = None;
                    let _ = fs::remove_file(&path);
                } else if listener.is_none() {
                    let new = UnixListener::bind(&path).unwrap();
                    new.set_nonblocking(true).unwrap();
                    listener = Some(new);
                }
                if let Some(listener) = &listener {
                    while listener.accept().is_ok() {}
                }
                let _ = ready.send(());
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        is_ready.recv().unwrap();
        Self { ends, thread: Some(thread) }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn restarts_by_command_and_says_so() {
    let host = Host::new();
    let file = host.write("etc/docker/daemon.json", DAEMON).display().to_string();
    let socket = host.path("docker.sock");
    let _server = Socket::serve(&socket, &host.path("down"));
    let command = format!("echo again >> {}", host.path("restarts").display());
    let socket = socket.display().to_string();
    let arguments =
        ["--runtime=docker", "--config", &file, "--skip-check", "--socket", &socket, "--restart-command", &command];
    let said = succeeded(&host.run(&arguments));
    assert!(said.ends_with(&format!("docker was restarted and answers on {socket}\n")), "{said}");
    assert_eq!(host.read("restarts"), "again\n");
    // Nothing to change, nothing to restart.
    succeeded(&host.run(&arguments));
    assert_eq!(host.read("restarts"), "again\n");
}

#[test]
fn takes_everything_back_where_the_socket_does_not_return() {
    let host = Host::new();
    let main = "version = 3\n# ours\n";
    let file = host.write("etc/containerd/config.toml", main).display().to_string();
    let drop_in = host.path("etc/containerd/conf.d/99-nvidia.toml").display().to_string();
    let socket = host.path("containerd.sock");
    let _server = Socket::serve(&socket, &host.path("down"));
    let (down, restarts, socket) = (
        host.path("down").display().to_string(),
        host.path("restarts").display().to_string(),
        socket.display().to_string(),
    );
    // A runtime that does not start with the change.
    let command = format!(
        "echo again >> {restarts}; if [ -e {drop_in} ]; then touch {down}; while [ -e {socket} ]; do sleep 0.01; done; \
         else rm -f {down}; fi"
    );
    let arguments = [
        "--runtime=containerd",
        "--config",
        &file,
        "--drop-in-config",
        &drop_in,
        "--skip-check",
        "--socket",
        &socket,
        "--restart-timeout=1",
        "--restart-command",
        &command,
    ];
    let said = failed(&host.run(&arguments));
    assert!(
        said.contains(&format!("containerd did not come back with the change: {socket} does not answer")),
        "{said}"
    );
    assert!(said.contains("all files are as they were; containerd runs again as before"), "{said}");
    assert_eq!(host.read("restarts"), "again\nagain\n");
    assert_eq!(host.read("etc/containerd/config.toml"), main);
    assert!(!Path::new(&drop_in).exists());
    assert_eq!(host.names("etc/containerd"), ["conf.d", "config.toml"]);
}

#[test]
fn a_restart_command_that_fails_is_told_and_taken_back() {
    let host = Host::new();
    let file = host.write("etc/docker/daemon.json", DAEMON).display().to_string();
    let socket = host.path("docker.sock");
    let _server = Socket::serve(&socket, &host.path("down"));
    let socket = socket.display().to_string();
    let said = failed(&host.run(&[
        "--runtime=docker",
        "--config",
        &file,
        "--skip-check",
        "--socket",
        &socket,
        "--restart-command",
        "echo unit is masked >&2; exit 3",
    ]));
    assert!(said.contains("exit status: 3: unit is masked"), "{said}");
    assert_eq!(host.read("etc/docker/daemon.json"), DAEMON);
}

#[test]
fn the_socket_of_the_variable_is_watched() {
    let host = Host::new();
    let file = host.write("etc/containerd/config.toml", "version = 3\n").display().to_string();
    let socket = host.path("k3s.sock");
    let _server = Socket::serve(&socket, &host.path("down"));
    let output = host
        .command()
        .args(["--skip-check", "--restart-command=true", "--nvidia-runtime-path"])
        .arg(host.path("usr/bin/nvidia-container-runtime"))
        .env("CONTAINERD_CONFIG", file)
        .env("CONTAINERD_SOCKET", &socket)
        .output()
        .unwrap();
    assert!(succeeded(&output).contains(&format!("answers on {}", socket.display())));
}
