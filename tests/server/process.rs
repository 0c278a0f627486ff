//! The real binary as a process of its own, on ports the kernel chooses.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// `packhorse` with arguments, in an environment that names no cluster.
pub(crate) fn packhorse(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_packhorse"));
    command.args(arguments).env_remove("KUBERNETES_SERVICE_HOST").env_remove("KUBECONFIG");
    command
}

/// A kubeconfig for an API server without authentication.
pub(crate) fn kubeconfig(directory: &Path, url: &str) -> String {
    let path = directory.join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: it\nclusters: [{{name: it, cluster: {{server: '{url}'}}}}]\n\
         contexts: [{{name: it, context: {{cluster: it, user: it}}}}]\nusers: [{{name: it, user: {{}}}}]\n"
    );
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A running `packhorse server`; killed when dropped.
pub(crate) struct Server {
    child: Child,
    /// JSON log lines so far.
    log: Arc<Mutex<Vec<Value>>>,
}

impl Server {
    /// Starts it on free ports with JSON logs.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let ports =
            ["--extender-listen", "127.0.0.1:0", "--webhook-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
        let all = [&["server", "--log-format", "json"][..], &ports, arguments].concat();
        let mut child = packhorse(&all).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (stderr, lines) = (child.stderr.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                lines.lock().unwrap().push(line);
            }
        });
        Self { child, log }
    }

    /// Waits for a log line.
    pub(crate) fn logged(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.log.lock().unwrap().iter().find(|line| wanted(line)) {
                return line.clone();
            }
            assert!(Instant::now() < deadline, "no log line of {what} in {:#?}", self.log.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where `webhook`, `extender` or `metrics` listens.
    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        let line = self.logged("a listener", |line| line["message"] == "listening" && line["name"] == name);
        line["address"].as_str().unwrap().parse().unwrap()
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "still running: {:#?}", self.log.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
