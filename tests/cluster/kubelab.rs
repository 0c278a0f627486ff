//! The binary with Kubernetes in it: built once from `tests/lab`, kept under `target/lab` by the hash of its sources.
//!
//! Where it cannot be built the cluster tests are skipped, each saying so on the terminal, past the capture of the test runner.
//! `PACKHORSE_REQUIRE_CLUSTER=1` makes that a failure. `PACKHORSE_KUBELAB=FILE` names a binary built elsewhere.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// The Kubernetes that `tests/lab/go.mod` names.
const VERSION: &str = "1.36.3";

static KUBELAB: LazyLock<Result<PathBuf, String>> = LazyLock::new(find_or_build);

/// The binary, or nothing after the reason has been told.
pub(crate) fn binary() -> Option<&'static Path> {
    match &*KUBELAB {
        Ok(path) => Some(path),
        Err(reason) => {
            let required = std::env::var_os("PACKHORSE_REQUIRE_CLUSTER").is_some_and(|value| value != "0");
            assert!(!required, "PACKHORSE_REQUIRE_CLUSTER is set, and this cannot run: {reason}");
            let test = std::thread::current().name().unwrap_or("test").to_owned();
            say(&format!("SKIPPED {test}: no real control plane was tested: {reason}"));
            None
        }
    }
}

fn find_or_build() -> Result<PathBuf, String> {
    if let Some(given) = std::env::var_os("PACKHORSE_KUBELAB") {
        return Ok(PathBuf::from(given));
    }
    if !cfg!(target_os = "linux") {
        return Err("the lab needs Linux".to_owned());
    }
    for tool in ["setpriv", "sh", "rm"] {
        if !answers(tool) {
            return Err(format!("`{tool}` is missing (on Debian: apt-get install util-linux)"));
        }
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab");
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap_or(Path::new("target")).join("lab");
    let kept = root.join(hash_of(&sources)?);
    let binary = kept.join("kubelab");
    fs::create_dir_all(&kept).map_err(|error| format!("cannot create {}: {error}", kept.display()))?;
    // Two test runs of one checkout build it once: the second waits here.
    let lock =
        fs::File::create(kept.join("lock")).map_err(|error| format!("cannot lock {}: {error}", kept.display()))?;
    lock.lock().map_err(|error| format!("cannot lock {}: {error}", kept.display()))?;
    if binary.exists() {
        return Ok(binary);
    }
    if !answers("go") {
        return Err("Go is missing (1.26 or newer, https://go.dev/dl); it builds Kubernetes from tests/lab".to_owned());
    }
    say(&format!("building {} from tests/lab: about ten minutes the first time", binary.display()));
    build(&sources, &kept.join("unfinished"))?;
    fs::rename(kept.join("unfinished"), &binary)
        .map_err(|error| format!("cannot keep {}: {error}", binary.display()))?;
    Ok(binary)
}

/// The versions are linked in: without them kubectl refuses the server's.
fn build(sources: &Path, to: &Path) -> Result<(), String> {
    let flags = format!(
        "-s -w -X k8s.io/component-base/version.gitVersion=v{VERSION} -X k8s.io/component-base/version.gitMajor=1 \
         -X k8s.io/component-base/version.gitMinor=36 -X k8s.io/client-go/pkg/version.gitVersion=v{VERSION}"
    );
    let output = Command::new("go")
        .current_dir(sources)
        .args(["build", "-buildvcs=false", "-ldflags", &flags, "-o"])
        .arg(to)
        .arg(".")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run go: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let tail: Vec<&str> = text.lines().rev().take(10).collect();
    Err(format!("`go build` in tests/lab failed: {}", tail.into_iter().rev().collect::<Vec<_>>().join("\n")))
}

fn hash_of(sources: &Path) -> Result<String, String> {
    let mut files: Vec<PathBuf> = fs::read_dir(sources)
        .map_err(|error| format!("cannot read {}: {error}", sources.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            path.extension().is_some_and(|extension| extension == "go" || extension == "mod" || extension == "sum")
        })
        .collect();
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.file_name().hash(&mut hasher);
        fs::read(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn answers(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}

/// Past the test runner, which shows the output of a passing test to nobody.
pub(crate) fn say(line: &str) {
    let mut stderr = std::io::stderr().lock();
    stderr.write_all(format!("{line}\n").as_bytes()).expect("stderr is writable");
}
