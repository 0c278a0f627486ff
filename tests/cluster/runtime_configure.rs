//! `packhorse runtime configure` before the real containerd, 1.6 and 2.2: it reads what was written, and restarts with it. For k3s and
//! RKE2 the templates are rendered by Go's own text/template first.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use packhorse::runtime::check::Judge;
use packhorse::runtime::socket::{self, Answer};
use packhorse::runtime::{File, Registration};

use super::built::Module;
use super::case::{self, Case};
use super::kubelab::or_skip;
use super::node::Runtime;
use super::process::Component;

static RENDER: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    let module = Module {
        sources: "tests/lab/template",
        arguments: &["-ldflags", "-s -w", "."],
        static_binary: true,
        program: Some("template"),
        takes: "seconds",
    };
    module.find_or_build()
});

fn programs() -> Vec<(Runtime, PathBuf)> {
    let all = [Runtime::Containerd16, Runtime::Containerd22];
    all.into_iter().filter_map(|runtime| Some((runtime, or_skip("containerd", runtime.containerd())?))).collect()
}

/// Which of the two containerds a configuration is for.
fn fits(runtime: Runtime, release: Option<&str>, text: &str) -> bool {
    let version = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("version")?.trim().strip_prefix('=')?.trim().parse::<u32>().ok());
    let by_release = match release {
        Some(release) => release.starts_with("1.") == (runtime == Runtime::Containerd16),
        None => true,
    };
    let by_version = match version {
        None | Some(1) => runtime == Runtime::Containerd16,
        Some(2) => true,
        Some(3) => runtime == Runtime::Containerd22,
        Some(_) => false,
    };
    by_release && by_version
}

fn put(file: &File) {
    if let Some(text) = &file.text {
        fs::create_dir_all(file.path.parent().expect("a folder")).expect("a folder");
        fs::write(&file.path, text).expect("a file");
    }
}

#[test]
fn containerd_reads_every_result() {
    let programs = programs();
    let mut read = 0;
    for case in case::all("containerd") {
        let folder = tempfile::tempdir().expect("a folder");
        let case = case.moved("/etc/containerd", folder.path());
        let Ok(plan) = case.plan_containerd() else { continue };
        // An import that is missing keeps containerd from reading anything, before and after.
        if plan.notes.iter().any(|note| note.contains("does not exist")) {
            continue;
        }
        let after = case.after(&plan.edits);
        after.files.iter().for_each(put);
        let main = after.files[0].path.clone();
        let text = fs::read_to_string(&main).expect("the main file");
        for (runtime, program) in &programs {
            if !fits(*runtime, case.option("release"), &text) {
                continue;
            }
            let judge = Judge::Containerd { program: program.clone(), main: main.clone() };
            judge
                .confirm(&case.wanted(), &plan.program)
                .unwrap_or_else(|error| panic!("{}, {runtime:?}: {error}", case.name));
            let dump = judge.ask().expect("asked before");
            // What is disabled is not shown.
            let disabled = plan.notes.iter().any(|note| note.contains("disabled_plugins"));
            for name in others(&case).into_iter().filter(|_| !disabled) {
                assert!(dump.contains(&format!("runtimes.{name}]")), "{}, {runtime:?}: {name} is gone", case.name);
            }
            read += 1;
        }
    }
    assert!(programs.len() < 2 || read >= 25, "{read} results were read");
}

/// The runtimes that were there before; runc always is.
fn others(case: &Case) -> Vec<&'static str> {
    let text = case.files.iter().filter_map(|file| file.text.as_deref()).collect::<String>();
    let known = ["kata", "runsc", "crun", "nvidia-experimental"];
    known.into_iter().filter(|name| text.contains(&format!("runtimes.{name}]"))).chain(["runc"]).collect()
}

#[test]
fn containerd_reads_every_rendered_template() {
    let Some(render) = or_skip("template", RENDER.as_deref().map_err(String::as_str)) else { return };
    let programs = programs();
    let mut read = 0;
    for case in case::all("rancher") {
        let Ok(plan) = case.plan_rancher() else { continue };
        let wanted = case.wanted();
        for edit in plan.edits.iter().filter(|edit| edit.path.extension().is_some_and(|extension| extension == "tmpl"))
        {
            let version = if edit.path.display().to_string().contains("v3") { 3 } else { 2 };
            for found in [None, Some("/opt/found/nvidia-container-runtime")] {
                for (runtime, program) in &programs {
                    let attempt = |text: &str| {
                        let rendered = rendered(render, version, text, &wanted, found)?;
                        if !fits(*runtime, None, &rendered) {
                            return Ok(false);
                        }
                        judged(program, &rendered, &wanted).map(|()| true)
                    };
                    let name = &case.name;
                    match attempt(&edit.after) {
                        Ok(done) => read += usize::from(done),
                        // What did not work before need not work now: a runtime that is named twice.
                        Err(error) => {
                            let before = edit.before.as_deref().map(attempt);
                            assert!(matches!(before, Some(Err(_))), "{name}, {runtime:?}, found {found:?}: {error}");
                        }
                    }
                }
            }
        }
    }
    assert!(programs.len() < 2 || read >= 40, "{read} results were read");
}

fn rendered(
    render: &Path,
    version: u8,
    text: &str,
    wanted: &Registration,
    found: Option<&str>,
) -> Result<String, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml.tmpl");
    fs::write(&file, text).expect("a file");
    let mut command = Command::new(render);
    command.arg("-version").arg(version.to_string());
    if let Some(found) = found {
        command.arg("-found").arg(format!("{}={found}", wanted.name));
    }
    if wanted.default {
        command.args(["-default", &wanted.name]);
    }
    let output = command.arg(&file).output().expect("the renderer starts");
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The runtime is there, whoever named it, and is the default where it was asked for.
fn judged(containerd: &Path, rendered: &str, wanted: &Registration) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("a folder");
    let main = folder.path().join("config.toml");
    fs::write(&main, rendered).expect("a file");
    let judge = Judge::Containerd { program: containerd.to_owned(), main };
    let dump = judge.ask()?;
    let mut lines = dump.lines().skip_while(|line| !line.contains(&format!("runtimes.{}.options]", wanted.name)));
    let program = lines.find_map(|line| line.trim().strip_prefix("BinaryName = "));
    let program = program.ok_or("the runtime is not there")?.trim_matches(['"', '\'']).to_owned();
    judge.confirm(wanted, &program)
}

/// containerd under a supervisor that starts it again.
struct Served {
    folder: tempfile::TempDir,
    _supervisor: Component,
}

const SERVED: &str = r#"version = 2
root = "ROOT/root"
state = "ROOT/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
imports = ["ROOT/conf.d/*.toml"]
[grpc]
  address = "ROOT/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
"#;

/// Starts `$1` again and again; its process is in `$3`. Under nohup SIGHUP would be ignored.
const SUPERVISOR: &str = r#"while :; do setpriv --pdeathsig KILL -- env --default-signal=HUP "$1" --config "$2" & echo $! >"$3"; wait $!; sleep 0.1; done"#;

impl Served {
    fn start(containerd: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("config.toml"), SERVED.replace("ROOT", &folder.path().display().to_string())).expect("a file");
        let fixed = ["-c", SUPERVISOR, "supervisor"].map(ToOwned::to_owned).into_iter();
        let given = [containerd.display().to_string(), path("config.toml"), path("pid")];
        let arguments: Vec<String> = fixed.chain(given).collect();
        let supervisor = Component::start("containerd", folder.path(), Path::new("/bin/sh"), &arguments);
        let served = Self { folder, _supervisor: supervisor };
        let begin = Instant::now();
        while served.ask().cri.is_none() {
            let log = || fs::read_to_string(served.path("containerd.log")).unwrap_or_default();
            assert!(begin.elapsed() < Duration::from_secs(60), "containerd does not serve: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        served
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ask(&self) -> Answer {
        socket::ask(&self.path("containerd.sock")).expect("asked")
    }

    /// Whether it succeeded, and what it said.
    fn configure(&self, containerd: &Path, arguments: &[&str]) -> (bool, String) {
        let folder = containerd.parent().expect("a folder").display();
        let output = Command::new(env!("CARGO_BIN_EXE_packhorse"))
            .args(["runtime", "configure", "--runtime=containerd", "--nvidia-runtime-path=/bin/true", "--config"])
            .arg(self.path("config.toml"))
            .args(arguments)
            .env("PATH", format!("{folder}:{}", std::env::var("PATH").unwrap_or_default()))
            .output()
            .expect("packhorse starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), said)
    }
}

/// The containerds that can serve here.
fn served() -> impl Iterator<Item = (Runtime, PathBuf)> {
    let here = [Runtime::Containerd16, Runtime::Containerd22].into_iter().filter(|runtime| runtime.is_here());
    here.filter_map(|runtime| Some((runtime, or_skip("containerd", runtime.containerd())?)))
}

#[test]
fn containerd_restarts_with_the_change_and_only_then() {
    for (runtime, containerd) in served() {
        let served = Served::start(&containerd);
        let before = served.ask();
        let arguments = ["--restart=signal", "--set-as-default"];
        let (done, said) = served.configure(&containerd, &arguments);
        assert!(done && said.contains("containerd accepts the change"), "{runtime:?}: {said}");
        assert!(said.contains("was restarted and answers on"), "{runtime:?}: {said}");
        let after = served.ask();
        assert!(after.cri.is_some() && after.pid != before.pid, "{runtime:?}: {before:?} {after:?}");
        let (_, said) = served.configure(&containerd, &arguments);
        assert!(said.contains("nothing to change"), "{runtime:?}: {said}");
        assert_eq!(served.ask().pid, after.pid, "{runtime:?}: no change, no restart");
    }
}

#[test]
fn an_open_socket_that_does_not_serve_kubernetes_is_not_enough() {
    for (runtime, containerd) in served() {
        let served = Served::start(&containerd);
        let before = fs::read_to_string(served.path("config.toml")).expect("the file");
        fs::create_dir_all(served.path("conf.d")).expect("a folder");
        let path = |name: &str| served.path(name).display().to_string();
        // Together with the change comes a default that does not exist: containerd runs with it, and its CRI plugin does not.
        fs::write(
            served.path("none"),
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = \"none\"\n",
        )
        .expect("a file");
        let command = format!(
            "if grep -q nvidia {config}; then cp {none} {broken}; else rm -f {broken}; fi; \
             old=$(cat {pid}); kill -TERM $old; while kill -0 $old 2>/dev/null; do sleep 0.05; done",
            config = path("config.toml"),
            none = path("none"),
            broken = path("conf.d/99.toml"),
            pid = path("pid"),
        );
        let (done, said) =
            served.configure(&containerd, &["--skip-check", "--restart-timeout=15", "--restart-command", &command]);
        assert!(
            !done && said.contains("does not serve Kubernetes' runtime interface as before"),
            "{runtime:?}: {said}"
        );
        assert!(said.contains("all files are as they were; containerd runs again as before"), "{runtime:?}: {said}");
        assert_eq!(fs::read_to_string(served.path("config.toml")).expect("the file"), before, "{runtime:?}");
        assert!(served.ask().cri.is_some(), "{runtime:?}");
    }
}
