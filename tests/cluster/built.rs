//! What Go builds for the tests, from `tests/lab` and `tests/helm`: kept under `target/lab` by the hash of its sources, built where
//! missing.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsStr;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One folder with a Go module, and how to build it.
#[derive(Debug)]
pub(crate) struct Module<'module> {
    /// Below the top folder of the repository.
    pub(crate) sources: &'module str,
    /// Arguments of `go build`, without `-o`.
    pub(crate) arguments: &'module [&'module str],
    /// Where no cgo is wanted: the program has to run where there is no C library.
    pub(crate) static_binary: bool,
    /// One program, named like this; none: the folder of all programs of the module.
    pub(crate) program: Option<&'module str>,
    /// How long it takes.
    pub(crate) takes: &'module str,
}

impl Module<'_> {
    /// The program, or the folder of programs. Builds it where it is missing.
    pub(crate) fn find_or_build(&self) -> Result<PathBuf, String> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join(self.sources);
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap_or(Path::new("target")).join("lab");
        let kept = root.join(Self::hash(&sources)?);
        let result = kept.join(self.program.unwrap_or("bin"));
        fs::create_dir_all(&kept).map_err(|error| format!("cannot create {}: {error}", kept.display()))?;
        // Two test runs of one checkout build it once: the second waits here.
        let lock =
            fs::File::create(kept.join("lock")).map_err(|error| format!("cannot lock {}: {error}", kept.display()))?;
        lock.lock().map_err(|error| format!("cannot lock {}: {error}", kept.display()))?;
        if result.exists() {
            return Ok(result);
        }
        if !answers("go") {
            return Err(format!("Go is missing (1.26 or newer, https://go.dev/dl); it builds {}", self.sources));
        }
        say(&format!("building {} from {}: {}", result.display(), self.sources, self.takes));
        let unfinished = kept.join("unfinished");
        if self.program.is_none() {
            // Go takes an existing folder for one that shall hold all programs.
            fs::create_dir_all(&unfinished)
                .map_err(|error| format!("cannot create {}: {error}", unfinished.display()))?;
        }
        self.build(&sources, &unfinished)?;
        fs::rename(&unfinished, &result).map_err(|error| format!("cannot keep {}: {error}", result.display()))?;
        Ok(result)
    }

    fn build(&self, sources: &Path, to: &Path) -> Result<(), String> {
        let mut command = Command::new("go");
        command.current_dir(sources).args(["build", "-buildvcs=false", "-o"]).arg(to).args(self.arguments);
        if self.static_binary {
            command.env("CGO_ENABLED", "0");
        }
        let output = command.stdin(Stdio::null()).output().map_err(|error| format!("cannot run go: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = text.lines().rev().take(10).collect();
        let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
        Err(format!("`go build` in {} failed: {tail}", self.sources))
    }

    fn hash(sources: &Path) -> Result<String, String> {
        let mut files: Vec<PathBuf> = fs::read_dir(sources)
            .map_err(|error| format!("cannot read {}: {error}", sources.display()))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| {
                path.extension().and_then(OsStr::to_str).is_some_and(|it| ["go", "mod", "sum"].contains(&it))
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
}

/// Whether a program is in `PATH`.
pub(crate) fn answers(tool: &str) -> bool {
    folder_of(tool).is_some()
}

/// The folder of `PATH` in which a program is.
pub(crate) fn folder_of(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).find(|folder| folder.join(tool).is_file())
}

/// Past the test runner, which shows the output of a passing test to nobody.
pub(crate) fn say(line: &str) {
    let mut stderr = std::io::stderr().lock();
    stderr.write_all(format!("{line}\n").as_bytes()).expect("stderr is writable");
}

/// What was found; where it was not, the test is skipped and says why, or fails where it is required.
pub(crate) fn or_skip<T>(what: &str, found: Result<T, &str>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(reason) => {
            let required = std::env::var_os("PACKHORSE_REQUIRE_CLUSTER").is_some_and(|value| value != "0");
            assert!(!required, "PACKHORSE_REQUIRE_CLUSTER is set, and this cannot run: {reason}");
            let test = std::thread::current().name().unwrap_or("test").to_owned();
            say(&format!("SKIPPED {test}: no {what} was tested: {reason}"));
            None
        }
    }
}
