//! The stand-in library of one test: a copy of its own, so that its state and its script are its own too.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use packhorse::agent::backend::nvml::{Nvml, Settings};
use packhorse::agent::backend::{Backend as _, Discovery, Event};
use tempfile::TempDir;

/// A node's driver. Dropped after the backend that uses it, it fails the test if the library was misused.
pub(crate) struct Fake {
    directory: TempDir,
    script: String,
}

/// One H100 as the driver tells of it; without what not every card has.
pub(crate) fn card(index: usize) -> String {
    let mut script = String::new();
    for (key, value) in [
        ("uuid", uuid(index)),
        ("name", "NVIDIA H100 80GB HBM3".to_owned()),
        ("memory", "85520809984".to_owned()),
        ("pci", format!("0:{:x}:0", 7 + index)),
        ("minor", index.to_string()),
        ("compute", "9.0".to_owned()),
        ("mig", "0".to_owned()),
        ("instances", "7".to_owned()),
        ("events", "0x10b".to_owned()),
        ("rows", "0 0".to_owned()),
    ] {
        writeln!(script, "set {index} {key} {value}").unwrap();
    }
    script
}

pub(crate) fn uuid(index: usize) -> String {
    format!("GPU-{index:08}-0000-0000-0000-000000000000")
}

impl Fake {
    /// A node with so many H100.
    pub(crate) fn with_cards(count: usize) -> Self {
        let cards: String = (0..count).map(card).collect();
        Self::new(&format!("driver 580.95.05\ncuda 13000\ncards {count}\n{cards}"))
    }

    pub(crate) fn new(script: &str) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut fake = Self { directory, script: String::new() };
        fake.install();
        fake.add(script);
        fake
    }

    /// Puts the library there, as the driver's installation does.
    pub(crate) fn install(&self) {
        // Another file in the place of the old one, which may be loaded.
        let new = self.library().with_extension("new");
        std::fs::write(&new, compiled()).unwrap();
        std::fs::rename(new, self.library()).unwrap();
    }

    /// Adds lines to the script; the first line about a thing counts.
    pub(crate) fn add(&mut self, lines: &str) {
        self.script.push_str(lines);
        self.script.push('\n');
        self.write();
    }

    /// Makes these lines count instead of what the script says so far.
    pub(crate) fn change(&mut self, lines: &str) {
        self.script.insert_str(0, &format!("{lines}\n"));
        self.write();
    }

    /// Takes a line out.
    pub(crate) fn remove(&mut self, line: &str) {
        let before = self.script.len();
        self.script = self.script.replacen(&format!("{line}\n"), "", 1);
        assert!(self.script.len() < before, "no such line: {line}");
        self.write();
    }

    /// An old driver: the dynamic linker does not find this function. Its name in the file is made another.
    pub(crate) fn without(self, function: &str) -> Self {
        let mut file = std::fs::read(self.library()).unwrap();
        let name = [b"\0", function.as_bytes(), b"\0"].concat();
        let places: Vec<usize> = (0..file.len() - name.len()).filter(|at| file[*at..].starts_with(&name)).collect();
        assert!(!places.is_empty(), "the library has no {function}");
        places.into_iter().for_each(|at| file[at + 1] = b'X');
        std::fs::write(self.library(), file).unwrap();
        self
    }

    pub(crate) fn library(&self) -> PathBuf {
        self.directory.path().join("libnvidia-ml.so.1")
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `/sys` and `/proc` are below the test's directory: empty unless the test fills them.
    pub(crate) fn settings(&self) -> Settings {
        let (sys, proc) = (self.directory().join("sys"), self.directory().join("proc"));
        Settings { library: Some(self.library()), driver_root: "/".into(), sys, proc, ..Settings::default() }
    }

    pub(crate) fn backend(&self) -> Nvml {
        Nvml::new(self.settings())
    }

    /// The library reads it at any moment, hence whole files.
    fn write(&self) {
        let file = self.directory().join("libnvidia-ml.so.1.script");
        let new = file.with_extension("new");
        std::fs::write(&new, &self.script).unwrap();
        std::fs::rename(new, file).unwrap();
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let complaints =
            std::fs::read_to_string(self.directory().join("libnvidia-ml.so.1.complaints")).unwrap_or_default();
        if !std::thread::panicking() {
            assert_eq!(complaints, "", "the library was misused");
        }
    }
}

/// What the backend finds, where it must find something.
pub(crate) fn discover(backend: &Nvml) -> Discovery {
    backend.discover().unwrap()
}

/// The next event, which must come in the two seconds that health has.
pub(crate) fn event(backend: &Nvml) -> Event {
    backend.next_event(Duration::from_secs(2)).unwrap().expect("an event within two seconds")
}

/// Compiled once by the compiler of this toolchain: a library of its own in the same package would need a workspace.
fn compiled() -> &'static [u8] {
    static LIBRARY: OnceLock<Vec<u8>> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let beside_cargo = std::env::var_os("CARGO").map(|cargo| Path::new(&cargo).with_file_name("rustc"));
        let rustc = std::env::var_os("RUSTC").map(PathBuf::from).or(beside_cargo.filter(|rustc| rustc.is_file()));
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let file = directory.path().join("libnvidia-ml.so.1");
        let output = Command::new(rustc.unwrap_or_else(|| "rustc".into()))
            .args([
                "--edition",
                "2024",
                "--crate-type",
                "cdylib",
                "--crate-name",
                "nvidia_ml",
                "-C",
                "strip=debuginfo",
                "-o",
            ])
            .arg(&file)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nvml/library.rs"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(file).unwrap()
    })
}
