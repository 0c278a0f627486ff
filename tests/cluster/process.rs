//! Processes that end with the test run, however that ends.
//!
//! Each component is started through `setpriv --pdeathsig KILL` by one thread that lives as long as the test process: the kernel
//! kills the component when that thread dies, also where the run was killed. A janitor waits for the run to end and removes
//! its directory.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, mpsc};

type Spawn = (Command, mpsc::SyncSender<io::Result<Child>>);

/// The parent of every component. A parent-death signal follows the thread that forked, and the runner's test threads come and go.
static KEEPER: LazyLock<Mutex<mpsc::Sender<Spawn>>> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::channel::<Spawn>();
    std::thread::spawn(move || {
        while let Ok((mut command, reply)) = receiver.recv() {
            // A caller that has gone needs no answer.
            let _ = reply.send(command.spawn());
        }
    });
    Mutex::new(sender)
});

/// The directory of this run's labs, removed by the janitor.
pub(crate) static RUN_DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("labs-{}", std::process::id()));
    fs::create_dir_all(&path).unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
    if std::env::var_os("PACKHORSE_KEEP_LAB").is_none() {
        start_janitor(&path);
    }
    path
});

/// Its standard input ends with the test process. The components, killed at that moment, may still be writing: it tries again.
fn start_janitor(directory: &Path) {
    let script = r#"trap "" INT TERM HUP; read -r _; n=0
        while [ -e "$1" ] && [ $n -lt 100 ]; do rm -rf "$1"; n=$((n+1)); sleep 0.1; done"#;
    let janitor = Command::new("sh")
        .args(["-c", script, "janitor"])
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("sh starts");
    // Its end of the pipe has to stay open until this process is gone.
    std::mem::forget(janitor);
}

/// One running component and its log.
#[derive(Debug)]
pub(crate) struct Component {
    name: String,
    log: PathBuf,
    child: Option<Child>,
}

impl Component {
    /// Starts `command`; its log is appended to `NAME.log` in `directory`.
    pub(crate) fn start(name: &str, directory: &Path, program: &Path, arguments: &[String]) -> Self {
        let log = directory.join(format!("{name}.log"));
        let mut component = Self { name: name.to_owned(), log, child: None };
        component.run(program, arguments);
        component
    }

    /// Starts it again after [`Component::kill`] or [`Component::stop`].
    pub(crate) fn run(&mut self, program: &Path, arguments: &[String]) {
        let out = File::options().create(true).append(true).open(&self.log).expect("log file opens");
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(out.try_clone().expect("log file is shared"))
            .stdout(out);
        let (reply, answer) = mpsc::sync_channel(1);
        KEEPER.lock().expect("keeper is alive").send((command, reply)).expect("keeper is alive");
        let child = answer.recv().expect("keeper answers");
        self.child = Some(child.unwrap_or_else(|error| panic!("cannot start {}: {error}", self.name)));
    }

    /// How it ended, where it has ended without being asked to.
    pub(crate) fn has_exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().expect("child is ours"))
    }

    /// Panics where it has ended.
    pub(crate) fn must_run(&mut self) {
        if let Some(status) = self.has_exited() {
            panic!("{} ended by itself: {status}", self.name);
        }
    }

    /// As a crash would end it.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            child.wait().expect("child is ours");
        }
    }

    /// As Kubernetes would end it: SIGTERM, then patience. Returns how it ended.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        let mut child = self.child.take().unwrap_or_else(|| panic!("{} does not run", self.name));
        let name = self.name.clone();
        super::wait::until(&format!("{name} to stop after SIGTERM"), 45, async || {
            child.try_wait().expect("child is ours")
        })
        .await
    }

    /// Whether it was started and not ended since.
    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Its process ID. Panics where it does not run.
    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).id()
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {}", self.id())]).status().expect("sh runs");
        assert!(sent.success(), "cannot send {signal} to {}", self.name);
    }

    /// Its resident memory now, MiB.
    pub(crate) fn resident_mib(&self) -> f64 {
        let child = self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name));
        // `setpriv` becomes the component, hence the same process.
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("the process is alive");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells its memory");
        line.trim().trim_end_matches("kB").trim().parse::<f64>().expect("a number of kB") / 1024.0
    }

    /// All it has logged.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of its log, for a failed test.
    pub(crate) fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        format!("--- the last lines of {} ---\n{}\n", self.name, all[all.len().saturating_sub(lines)..].join("\n"))
    }
}

impl Drop for Component {
    fn drop(&mut self) {
        if std::thread::panicking() {
            super::kubelab::say(&self.log_tail(25));
        }
        self.kill();
    }
}
